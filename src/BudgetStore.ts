/**
 * The seam between the faces (`Budget`, `BudgetGuard`, `TokenBudget`, `BudgetPool`, `Policy`) and whoever keeps the books.
 * Programs use the faces; this module is for those who choose or write a store.
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { BudgetExceeded, FailedReservation } from "./BudgetError.ts"
import { type LeaseOptions, leasedStore } from "./internal/leased/store.ts"
import { memory } from "./internal/memory/store.ts"
import type { Share } from "./internal/quota/share.ts"
import type { Source } from "./internal/told.ts"
import type { Limit } from "./Limit.ts"

export type { LeaseOptions } from "./internal/leased/store.ts"

/** What happens when the limits say no: fail at once, wait for one's turn, or end the fiber with a defect. */
export type Enforcement = "reject" | "throttle" | "terminate"

/**
 * Whose turn it is among those who wait: strictly the first (`fifo`), or the first that fits (`firstFit`). First fit looks at
 * the first 64 waiters, and passes nobody more than 64 times.
 */
export type Order = "fifo" | "firstFit"

/** What a store needs to know of a budget. */
export interface Definition {
  readonly name: string
  readonly limits: ReadonlyArray<Limit>
  readonly enforcement: Enforcement
  readonly order: Order
  /** How many may wait; one more fails with `QueueFull`. Default: no bound. */
  readonly maxQueued: number | undefined
  /** How long a wait may take; longer fails with `TimedOut`. Default: no bound. */
  readonly timeout: Duration.Duration | undefined
  /** A named quota: its waiters go by fair shares, and what it rejects fails with `Rejected`, unless it can never fit. */
  readonly quota?: boolean | undefined
}

/** The books of one budget, as kept by a store. */
export interface Account {
  readonly name: string
}

/** What one reservation asks: an amount of each account, all or nothing. */
export interface Request {
  readonly accounts: ReadonlyArray<Account>
  readonly amounts: ReadonlyArray<number>
  /** Takes more than `amounts`, up to this, as far as it fits at that moment. */
  readonly upTo?: ReadonlyArray<number> | undefined
  /** Higher goes first among those who wait. Default 0. */
  readonly priority?: number | undefined
  /** Overrides the accounts' own. */
  readonly timeout?: Duration.Duration | undefined
  /** Adds to this open hold instead of making a new one. */
  readonly into?: Hold | undefined
  /**
   * With `into`: an extension, by somebody who keeps the hold while it waits. Others may be waiting for just that hold, so it
   * goes before them; and what cannot fit beside the hold can never fit.
   */
  readonly extends?: boolean | undefined
  /** Whose credit pays for it, in a named quota. Only for a request of one account. */
  readonly share?: Share | undefined
  /** For a new hold in a store where holds expire: what is charged then. Default: as the store says. */
  readonly onExpiry?: "progress" | "hold" | undefined
}

/** Amounts set aside. */
export interface Hold {
  /** What of each account, in the order of the request, extensions included. */
  readonly held: ReadonlyArray<number>
  /** How it ended; `undefined` while it is open. */
  readonly outcome: Outcome | undefined
  /** Set when a store where holds expire has ended it without its owner. It can still be settled, late. */
  readonly expired?: true | undefined
}

/** Why a hold ended: the caller said so, its scope ended, or nobody renewed it in a store where holds expire. */
export type Cause = "committed" | "released" | "succeeded" | "failed" | "interrupted" | "expired"

/** How a hold ended: what was charged of each account, in the order of the request. */
export interface Outcome {
  readonly cause: Cause
  readonly charges: ReadonlyArray<number>
  /** The budgets that this settlement left in debt. */
  readonly overran: ReadonlyArray<string>
  /** Set when it came after the hold had expired: what was spent is charged all the same, once. */
  readonly late?: true
}

/** A change of a budget while the program runs. */
export type Adjustment =
  | { readonly _tag: "TopUp"; readonly amount: number }
  | { readonly _tag: "Refill" }
  | { readonly _tag: "Reset" }
  | { readonly _tag: "SetLimit"; readonly limits: ReadonlyArray<Limit> }

/** The books of one limit at one moment, in the budget's own unit: `available + held + spent = granted`. */
export interface LedgerSnapshot {
  readonly limit: Limit
  readonly granted: number
  readonly available: number
  readonly held: number
  readonly spent: number
  readonly epoch: number
}

/** A budget at one moment. */
export interface Snapshot {
  readonly budget: string
  /** One for each limit, in the order of the declaration. */
  readonly ledgers: readonly [LedgerSnapshot, ...Array<LedgerSnapshot>]
  /** What could be reserved now: the least that any limit has available. Negative while there is debt. */
  readonly available: number
  /** How many wait. */
  readonly waiters: number
  /** Since the budget was made, over all epochs: how reservations ended, and what they gave back. */
  readonly settled: Readonly<Record<Cause, { readonly count: number; readonly refunded: number }>>
  /** All that was ever charged, over all epochs. */
  readonly charged: number
  /** The sum of what was charged above what was held. */
  readonly overage: number
}

/** Makes an effect as interruptible as the caller was. */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** Operations that take one synchronous step. The fiber is the one that runs it, for its clock and its scheduler. */
export interface Direct {
  /**
   * `denied` when the limits say no, `undecided` when somebody waits or a transaction is under way: `hold` says why or waits,
   * `tryHold` decides. The amounts are the hold's from now on.
   */
  readonly hold: (
    fiber: Fiber.Fiber<unknown, unknown>,
    accounts: ReadonlyArray<Account>,
    amounts: ReadonlyArray<number>,
    into: Hold | undefined,
    share?: Share | undefined
  ) => Hold | "denied" | "undecided"
  readonly reduce?: (fiber: Fiber.Fiber<unknown, unknown>, hold: Hold, amounts: ReadonlyArray<number>) => void
  /** `undecided` when it takes more than that: `settle` does it then. */
  readonly settle: (
    fiber: Fiber.Fiber<unknown, unknown>,
    hold: Hold,
    cause: Cause,
    charges: ReadonlyArray<number> | undefined
  ) => Outcome | "undecided"
}

/** What named quotas ask of a store, each in one synchronous step that also serves or ends those who wait. */
export interface Quotas {
  /** Sets the limit and the enforcement, and opens what was closed. */
  readonly define: (
    fiber: Fiber.Fiber<unknown, unknown>,
    account: Account,
    limit: Limit,
    enforcement: Enforcement
  ) => void
  /** All that is asked of it from now on fails with `UnknownResource`, but what it has is kept. */
  readonly close: (fiber: Fiber.Fiber<unknown, unknown>, account: Account) => void
  /** Ends the waits of a share with this defect, and hands what it has to the heir. */
  readonly withdraw: (
    fiber: Fiber.Fiber<unknown, unknown>,
    account: Account,
    share: Share,
    heir: Share | undefined,
    defect: unknown
  ) => void
  /** Tells of every change of the books or of the queue. */
  readonly source: (account: Account) => Source
}

/**
 * Keeps the books of many budgets. Every operation is one atomic step over all the accounts it names.
 *
 * `hold`, `tryHold` and `holdWith` are run in an uninterruptible region, whose caller installs the finalizer in the same
 * region; only waiting happens under `restore`. Settling never fails, and settling again answers the first outcome.
 */
export class BudgetStore extends Context.Service<
  BudgetStore,
  {
    readonly open: (definition: Definition) => Effect.Effect<Account, never, Scope.Scope>
    readonly hold: (request: Request, restore: Restore) => Effect.Effect<Hold, BudgetExceeded | FailedReservation>
    /** Never waits: `undefined` is the soft no. */
    readonly tryHold: (request: Request) => Effect.Effect<Hold | undefined>
    /** Holds and runs `alongside` in one transaction: both or neither. Absent from a store whose books no `TxRef` can join. */
    readonly holdWith?: <A, E, R>(
      request: Request,
      alongside: Effect.Effect<A, E, R>,
      restore: Restore
    ) => Effect.Effect<
      readonly [hold: Hold, value: A],
      E | BudgetExceeded | FailedReservation,
      Exclude<R, Effect.Transaction>
    >
    /** Charges at once what was not held before, whoever waits, or nothing of it when it does not fit. */
    readonly charge: (request: Request) => Effect.Effect<void, BudgetExceeded>
    /** Gives part of an open hold back and keeps the rest. */
    readonly reduce: (hold: Hold, amounts: ReadonlyArray<number>) => Effect.Effect<void>
    /** What is known to be spent so far, for a store that must know in case this process does not come back. */
    readonly report?: (hold: Hold, progress: ReadonlyArray<number>) => void
    /** Ends a hold. Without `charges`, all of it is charged. */
    readonly settle: (hold: Hold, cause: Cause, charges: ReadonlyArray<number> | undefined) => Effect.Effect<Outcome>
    readonly adjust: (
      changes: ReadonlyArray<readonly [account: Account, adjustment: Adjustment]>
    ) => Effect.Effect<void>
    /** All of them at the same moment. Inside a transaction, the books are read through its journal. */
    readonly read: (accounts: ReadonlyArray<Account>) => Effect.Effect<ReadonlyArray<Snapshot>>
    /** The snapshot now, and after every change of the books or of the queue; changes that come together are told once. */
    readonly changes: (account: Account) => Stream.Stream<Snapshot>
    /** How long a hold stays when its process is gone, in milliseconds, in a store where it can be. */
    readonly expiresAfter?: number | undefined
    /** The same without the detour of an effect, for a store that can answer at once. */
    readonly direct?: Direct | undefined
    /** Absent from a store that keeps no named quotas. */
    readonly quotas?: Quotas | undefined
  }
>()("effect-budget/BudgetStore") {
  /** Books in this process, in `TxRef`s. What `layer` of every face uses. */
  static readonly layerMemory: Layer.Layer<BudgetStore> = Layer.sync(BudgetStore, () => memory)

  /**
   * Leases in front of the `BudgetStore` of the context, one that many processes share: this process takes a share of each budget
   * in bulk, sized by what it needed lately, and spends from it at memory speed. Every `renewEvery` it reports what was spent, and
   * gives back what it does not need; at the end of its scope, all of the rest. The shares are holds in the store below, so their
   * sum never passes the limit.
   *
   * - What a process that is killed had of its shares counts as spent (a capacity), refills (a rate) or comes back (slots) when it
   *   expires: no more than it needed for one renewal.
   * - Another process can be denied while a share has something left: for as long as a renewal.
   * - A limit that another process lowers or resets reaches the shares of this one at their next renewal.
   * - Slots beside another limit are not leased, nor is a budget with a window, which belongs to the clock of the store: they are
   *   asked for each time. So is what `reserveUpTo` and `record` ask.
   * - `settled` of a snapshot counts what was settled in the store below, which are shares.
   */
  static readonly layerLeased = (options: LeaseOptions = {}): Layer.Layer<BudgetStore, never, BudgetStore> =>
    Layer.effect(
      BudgetStore,
      Effect.flatMap(BudgetStore, (store) => leasedStore(store, options))
    )
}
