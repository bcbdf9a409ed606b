/**
 * The handle on amounts that are held for work in flight.
 *
 * One rule applies when a scope ends with the hold unsettled: **success charges the hold; failure or interruption charges the
 * progress so far and refunds the rest.**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Budget, Limit } from "effect-budget"
 *
 * class Pages extends Budget.Service<Pages>()("app/Pages") {}
 *
 * const program = Effect.gen(function* () {
 *   const pages = yield* Pages
 *   yield* pages.withReservation(10, (reservation) => reservation.commit(4))
 *   const lost = pages.withReservation(10, ({ progress }) => Effect.andThen(progress(3), Effect.fail("lost")))
 *   yield* Effect.ignore(lost)
 *   return yield* pages.available
 * })
 *
 * console.log(await Effect.runPromise(Effect.provide(program, Pages.layer({ limit: Limit.capacity(100) })))) // 93
 * ```
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { BudgetExceeded, FailedReservation } from "./BudgetError.ts"
import type { Cause } from "./BudgetStore.ts"
import type { Layout, Reservable as Internal, TypeId } from "./internal/face/layout.ts"

/**
 * The handle on a hold. `A` is the type of amounts: a number for one budget, a record for a policy.
 *
 * Every reservation is settled exactly once. Settling again changes nothing and returns the first settlement.
 */
export interface Reservation<A> {
  /** The held amount, extensions included. */
  readonly amount: A
  /**
   * Charges `actual`, whatever the progress, and gives the rest back. An amount above the hold is charged in full; what the
   * limits cannot pay is carried as debt.
   */
  readonly commit: (actual: A) => Effect.Effect<Settlement<A>>
  /** Gives the whole hold back, whatever the progress. */
  readonly release: Effect.Effect<Settlement<A>>
  /**
   * Reports how much is known to be spent so far, in total (not since the last report). A failure or an interruption charges this
   * amount. It never goes down. For work that is billed even if it is cut short, call `progress` before it starts.
   */
  readonly progress: (spent: A) => Effect.Effect<void>
  /**
   * Holds more, or fails (or waits) as a new reservation would; when it is denied, this reservation goes on unchanged. Use it
   * instead of a second reservation of the same budget, with which a fiber could wait for itself: extensions go before requests
   * that hold nothing, and among themselves in order. Two reservations that both wait to be extended can wait for each other:
   * give a `timeout`.
   */
  readonly extend: (more: A) => Effect.Effect<void, BudgetExceeded | FailedReservation>
}

/** How a reservation ended. `charged + refunded = held + overage`, member by member. */
export interface Settlement<A> {
  /** `committed` or `released` by the caller, or by the end of its scope: `succeeded`, `failed`, `interrupted`. */
  readonly cause: Cause
  readonly held: A
  readonly charged: A
  readonly refunded: A
  /** The part of the charge above the hold. */
  readonly overage: A
  /** The names of the budgets that this settlement left in debt. */
  readonly overran: ReadonlyArray<string>
  /** Set when the hold had expired before (see the stores): the spent amount is charged all the same, once. */
  readonly late?: true
}

/** Options of a reservation. */
export interface Options {
  /**
   * Waiters with a higher priority are served first. Any finite number; use few distinct values: each has its own queue. Default
   * 0.
   */
  readonly priority?: number | undefined
  /**
   * The longest wait, instead of the budget's own `timeout`. A wait that neither refunds nor time can end within it fails at
   * once, with `TimedOut`.
   */
  readonly timeout?: Duration.Input | undefined
  /**
   * What the success of the scope does with an unsettled reservation: `charge` the hold (default), so that a forgotten `commit`
   * does not make a budget free, or charge only the progress and `release` the rest.
   */
  readonly onSuccess?: "charge" | "release" | undefined
}

/** Options of `reserveUpTo`. */
export interface UpToOptions extends Options {
  /**
   * Under `throttle`, how long the head of the queue waits for all it wants before it takes what fits. It waits only if time
   * alone brings all of it that soon, and within the timeout. Default: the time that the limit needs to earn the wanted amount.
   */
  readonly patience?: Duration.Input | undefined
}

/** Options of `reserveTx`. */
export interface TxOptions<B> extends Options {
  /** Runs when the scope ends in failure or interruption, with the value of the transaction: to put a job back, for example. */
  readonly undo?: ((value: B) => Effect.Effect<unknown>) | undefined
}

/**
 * One budget, a pool or a policy. Every operation here takes the amounts of all its budgets in one step, or none of them.
 *
 * All operations fail with `BudgetExceeded` when the limits deny the request, and with `FailedReservation` when the wait timed
 * out or the queue was full. A wrong amount dies with a `RangeError` that names the budget and the value.
 */
export interface Reservable<in out A> {
  readonly [TypeId]: Internal<A>
  /**
   * Reserves for the current scope. A wait in an uninterruptible region (the acquire of an `acquireRelease`, say) cannot be
   * interrupted: give it a `timeout`. The finalizer stays in the scope until its end: in a loop, use `withReservation`.
   */
  readonly reserve: (
    amount: A,
    options?: Options
  ) => Effect.Effect<Reservation<A>, BudgetExceeded | FailedReservation, Scope.Scope>
  /**
   * Reserves as much of `wanted` as fits, and at least `least`; if that does not fit, it fails or waits like `reserve`. The
   * `amount` of the reservation is one consistent amount: the same part of the way from `least` to `wanted` for all budgets,
   * rounded down.
   *
   * Under `throttle`, the request stands in the queue for all it wants, as far as that can ever fit. The head of the queue waits
   * for all of it as long as `patience` allows, and then takes what fits.
   */
  readonly reserveUpTo: (
    least: A,
    wanted: A,
    options?: UpToOptions
  ) => Effect.Effect<Reservation<A>, BudgetExceeded | FailedReservation, Scope.Scope>
  /** Reserves, runs `use`, and settles by the exit of `use`. */
  readonly withReservation: <B, E, R>(
    amount: A,
    use: (reservation: Reservation<A>) => Effect.Effect<B, E, R>,
    options?: Options
  ) => Effect.Effect<B, E | BudgetExceeded | FailedReservation, R>
  /**
   * Runs `alongside`, a transaction over your own `TxRef`s, and takes the hold in one `Effect.tx`: both or neither. It waits
   * while `alongside` calls `Effect.txRetry`, holding nothing, and for its turn if the budget throttles. `alongside` may run
   * several times, so it must have only transactional steps.
   */
  readonly reserveTx: <B, E, R>(
    amount: A,
    alongside: Effect.Effect<B, E, R>,
    options?: TxOptions<B>
  ) => Effect.Effect<
    { readonly reservation: Reservation<A>; readonly value: B },
    E | BudgetExceeded | FailedReservation,
    Exclude<R, Effect.Transaction> | Scope.Scope
  >
}

/** A `Reservable` that can also be reserved without waiting. */
export interface TryReservable<in out A> extends Reservable<A> {
  /** Reserves for the current scope if that can be done now. Never waits. Returns `None` when the request is denied. */
  readonly tryReserve: (
    amount: A,
    options?: Options
  ) => Effect.Effect<Option.Option<Reservation<A>>, never, Scope.Scope>
}

/** The type of the amounts of a budget, a pool or a policy. */
export type Amount<S> = S extends Reservable<infer A> ? A : never

/** Anything that can be reserved, whatever the type of its amounts. */
export interface AnyReservable {
  readonly [TypeId]: Layout
}
