/**
 * The seam between the faces (`Budget`, `BudgetGuard`, `TokenBudget`, `BudgetPool`, `Policy`) and the stores that keep the books:
 * types and a service key. Programs use the faces; this module is for choosing or writing a store.
 *
 * `MemoryBudgetStore` keeps the books in this process; `effect-budget/redis` and `effect-budget/sql` keep books that several
 * processes share.
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { BudgetExceeded, FailedReservation, FailedReservationReason } from "./BudgetError.ts"
import type { SetLimitStrategy } from "./Ledger.ts"
import type { Limit } from "./Limit.ts"

/** What happens when the limits deny a request: it fails at once, waits its turn, or ends the fiber with a defect. */
export type Enforcement = "reject" | "throttle" | "terminate"

/**
 * The order of the waiters: strictly the first (`fifo`), or the first that fits (`firstFit`). First fit looks at the first 64
 * waiters. It passes only a request that does not fit, and none more than 64 times.
 */
export type Order = "fifo" | "firstFit"

/**
 * Pays for the requests that carry it, and orders them among others by its own rule: a token of a named quota. The queue of its
 * budget comes from the `discipline` of the definition.
 */
export interface Payer {
  /** Throws when it has ended and can pay for nothing more. */
  readonly assertOpen: () => void
  /** Pays for a grant, at a time in milliseconds. */
  readonly debit: (amount: number, now: number) => void
  /** Takes back the part of a grant that was not charged at settlement. Below zero for an overage. */
  readonly giveBack: (amount: number, now: number) => void
  /** Replaces the error of a denial. Absent: the `BudgetExceeded` itself. */
  readonly errorOf?: ((exceeded: BudgetExceeded, neverFits: boolean) => BudgetExceeded | FailedReservation) | undefined
}

/** A request that waits, as its queue sees it. */
export interface Queued {
  /** Higher is served first. `Infinity` is an extension, which goes before requests that hold nothing. */
  readonly priority: number
  /** The order of arrival. */
  readonly ticket: number
  /** The amount that it wants from its first account. */
  readonly amount: number
  readonly payer: Payer | undefined
  /** How often a later request has passed it. */
  overtaken: number
  /** The ticket of the request that passed it last, which may do so in several queues at once. */
  passedBy: number
}

/** The place of a waiter in a queue. */
export interface Place<out W> {
  readonly waiter: W
}

/** The queue of one budget. It knows the order and not the books. */
export interface Queue<W extends Queued = Queued> extends Iterable<W> {
  readonly size: number
  /** Whether only the first waiter is ever served. */
  readonly strict: boolean
  /** The first in order, whether or not it fits. */
  readonly first: Place<W> | undefined
  /** A waiter that comes back keeps its ticket, and with it its place. */
  add(waiter: W): Place<W>
  /** Expects a place that is in this queue. */
  remove(place: Place<W>): void
  /**
   * The next candidate to be served. The first call is without `previous`; if a candidate does not fit, the next call passes it
   * as `previous`, with the number of candidates `seen` so far. Returns `undefined` when the order looks no further.
   */
  candidate(previous: Place<W> | undefined, seen: number, now: number): Place<W> | undefined
  /** Counts the waiters that this one passes. Called before it leaves with a grant. */
  serve(place: Place<W>): void
}

/** Makes the queue of a budget whose order is neither `fifo` nor `firstFit`. */
export type Discipline = <W extends Queued>() => Queue<W>

/** The declaration of a budget, as a store needs it. */
export interface Definition {
  readonly name: string
  readonly limits: ReadonlyArray<Limit>
  readonly enforcement: Enforcement
  readonly order: Order
  /** The greatest number of waiters; one more fails with `QueueFull`. `undefined`: no bound. */
  readonly maxQueued: number | undefined
  /** The longest wait; a longer one fails with `TimedOut`. `undefined`: no bound. */
  readonly timeout: Duration.Duration | undefined
  /** Makes the queue, instead of one by `order`. */
  readonly discipline?: Discipline | undefined
}

/** The books of one budget, as kept by a store. */
export interface Account {
  readonly name: string
  /** The same object for all accounts of one budget. */
  readonly books: object
}

/** The options of a request. */
export interface RequestOptions {
  /** Takes more than the amounts if it fits, up to the wanted ones. */
  readonly upTo?: UpTo | undefined
  /** Waiters with a higher priority are served first. Default 0. */
  readonly priority?: number | undefined
  /** The longest wait, instead of the shortest of the accounts. */
  readonly timeout?: Duration.Duration | undefined
  /** Adds to this open hold instead of making a new one. */
  readonly into?: Hold | undefined
  /**
   * With `into`: an extension, whose owner keeps the hold while it waits. Others may be waiting for exactly that hold, so the
   * extension goes before them, and an amount that cannot fit in addition to the hold can never fit.
   */
  readonly extends?: boolean | undefined
  readonly payer?: Payer | undefined
  /** `false`: denied instead of waiting. */
  readonly wait?: false | undefined
  /** What the expiry of a new hold charges, in a store where holds expire. Default: the setting of the store. */
  readonly onExpiry?: "progress" | "hold" | undefined
  /** `false` for a hold that stands for many uses, such as the pair of a guard: no tally counts it. */
  readonly counted?: false | undefined
}

/** A request for one reservation: an amount from each account, granted together or not at all. */
export interface Request extends RequestOptions {
  readonly accounts: ReadonlyArray<Account>
  readonly amounts: ReadonlyArray<number>
}

/** How much more than the least amounts of a request is wanted. */
export interface UpTo {
  readonly wanted: ReadonlyArray<number>
  /** How long the head of the queue waits for all it wants. Default: the time that the limit needs to earn it. */
  readonly patience?: Duration.Duration | undefined
  /** Makes amounts between the two consistent with each other, each rounded down. */
  readonly normalize: (amounts: Array<number>) => Array<number>
}

/** Amounts set aside. */
export interface Hold {
  readonly _tag: "Hold"
  /** The amount from each account, in the order of the request, extensions included. */
  readonly held: ReadonlyArray<number>
  /** How it ended; `undefined` while it is open. */
  readonly outcome: Outcome | undefined
  /** Set when a store where holds expire has ended it without its owner. It can still be settled, late. */
  readonly expired?: true | undefined
}

/** A denied request. The error is built only for a caller that wants it. */
export interface Denial {
  readonly _tag: "Denial"
  readonly refuse: () => Effect.Effect<never, BudgetExceeded | FailedReservation>
}

/**
 * A request that waits for its answer. The caller runs `wait` and then owns the grant. An interruption can come together with a
 * grant: after it, the caller owns the hold in `granted`.
 */
export interface Pending<out A = Hold, out E = never, out R = never> {
  readonly _tag: "Pending"
  readonly wait: Effect.Effect<A | Denial, E, R>
  /** The grant, as soon as there is one. */
  readonly granted: A | undefined
  /** Leaves the queue. Does not undo a grant, and does nothing once `wait` has ended. */
  readonly abandon: () => void
}

/** The answer to a request: granted now, denied, or pending. */
export type Answer = Hold | Denial | Pending

export type AnyFiber = Fiber.Fiber<unknown, unknown>

/** Why a hold ended: its owner settled it, its scope ended, or nobody renewed it in a store where holds expire. */
export type Cause = "committed" | "released" | "succeeded" | "failed" | "interrupted" | "expired"

/** How a hold ended: its cause, and the charge to each account in the order of the request. */
export interface Outcome {
  readonly cause: Cause
  readonly charges: ReadonlyArray<number>
  /** The budgets that this settlement left in debt. */
  readonly overran: ReadonlyArray<string>
  /** Set when the settlement came after the hold had expired: real spending is charged all the same, once. */
  readonly late?: true
}

/** A change of a budget while the program runs. */
export type Adjustment =
  | { readonly _tag: "TopUp"; readonly amount: number }
  | { readonly _tag: "Refill" }
  | { readonly _tag: "Reset" }
  | {
      readonly _tag: "SetLimit"
      readonly limits: ReadonlyArray<Limit>
      readonly strategy?: SetLimitStrategy | undefined
      /** The new enforcement, for a budget whose declaration changes. */
      readonly enforcement?: Enforcement | undefined
    }
  /** Makes later requests and waits fail for this reason. The books are kept. `SetLimit` opens the budget again. */
  | { readonly _tag: "Close"; readonly reason: FailedReservationReason }
  /** Ends the waits of a payer with a defect. */
  | { readonly _tag: "Withdraw"; readonly payer: Payer; readonly defect: unknown }

/** The books of one limit at one moment, in the budget's own unit: `available + held + spent = granted`. */
export interface LedgerSnapshot {
  readonly limit: Limit
  readonly granted: number
  readonly available: number
  readonly held: number
  readonly spent: number
  readonly epoch: number
}

/** A budget at one moment: a frozen value that shares nothing with the books. */
export interface Snapshot {
  readonly budget: string
  /** One for each limit, in the order of the declaration. */
  readonly ledgers: readonly [LedgerSnapshot, ...Array<LedgerSnapshot>]
  /** The most that could be reserved now: the least that any limit has available. Negative while there is debt. */
  readonly available: number
  /** The number of waiters. */
  readonly waiters: number
  /** The number of reservations by how they ended, and the sum they gave back, since the budget was made, over all epochs. */
  readonly settled: Readonly<Record<Cause, { readonly count: number; readonly refunded: number }>>
  /** The sum of all charges, over all epochs. */
  readonly charged: number
  /** The sum of the charges above the holds, over all epochs. */
  readonly overage: number
}

/**
 * Keeps the books of many budgets. Every operation is one atomic step over all the accounts that it names.
 *
 * The operations that take a fiber run in one synchronous step of that fiber, inside `Effect.withFiber`. A caller of `hold` or
 * `holdWith` first puts a finalizer on its stack that settles the hold or abandons the wait, so that nothing can come between the
 * step and its owner. Settling never fails, and settling again returns the first outcome.
 */
export class BudgetStore extends Context.Service<
  BudgetStore,
  {
    /** Stores of one group can serve one request together. */
    readonly group: object
    /** Opens the budget of this name. In one store, that is the same budget each time. */
    readonly open: (definition: Definition) => Effect.Effect<Account, never, Scope.Scope>
    /** Asks for a hold. The array of amounts belongs to the hold afterwards. */
    readonly hold: (
      fiber: AnyFiber,
      accounts: ReadonlyArray<Account>,
      amounts: Array<number>,
      options?: RequestOptions
    ) => Answer
    /** Takes a hold and runs `alongside` in one transaction: both or neither. Dies in a store whose books are not in `TxRef`s. */
    readonly holdWith: <A, E, R>(
      fiber: AnyFiber,
      request: Request,
      alongside: Effect.Effect<A, E, R>
    ) => Pending<readonly [hold: Hold, value: A], E, Exclude<R, Effect.Transaction>>
    /** Charges amounts that were not held, or nothing of them when they do not fit. Does not wait for others in the queue. */
    readonly record: (
      accounts: ReadonlyArray<Account>,
      amounts: ReadonlyArray<number>
    ) => Effect.Effect<Outcome, BudgetExceeded>
    /** Charges amounts that were not held, in any case, and leaves debt where they do not fit. */
    readonly charge: (accounts: ReadonlyArray<Account>, amounts: ReadonlyArray<number>) => Effect.Effect<Outcome>
    /** Gives back a part of an open hold and keeps the rest. `undefined`: it is done. */
    readonly reduce: (fiber: AnyFiber, hold: Hold, amounts: ReadonlyArray<number>) => Effect.Effect<void> | undefined
    /** Reports the amounts that are known to be spent so far, which a store charges if this process does not come back. */
    readonly report: (hold: Hold, progress: ReadonlyArray<number>) => void
    /** Ends a hold, now or by an effect. Without `charges`, the whole hold is charged. */
    readonly settle: (
      fiber: AnyFiber,
      hold: Hold,
      cause: Cause,
      charges: ReadonlyArray<number> | undefined
    ) => Outcome | Effect.Effect<Outcome>
    readonly adjust: (
      changes: ReadonlyArray<readonly [account: Account, adjustment: Adjustment]>
    ) => Effect.Effect<void>
    /** The snapshots of the accounts at the same moment. Inside a transaction, the books are read through its journal. */
    readonly read: (accounts: ReadonlyArray<Account>) => Effect.Effect<ReadonlyArray<Snapshot>>
    /** The snapshots now, and after every change of the books or of the queue; changes that come together are emitted once. */
    readonly changes: (accounts: ReadonlyArray<Account>) => Stream.Stream<ReadonlyArray<Snapshot>>
    /** How long a hold outlives its process, in milliseconds. Absent in a store of one process. */
    readonly expiresAfter?: number | undefined
  }
>()("effect-budget/BudgetStore") {}
