/**
 * The handle on amounts that are set aside for work in flight.
 *
 * One rule for a scope that ends with the hold unsettled: **success charges the hold; failure or interruption charges the
 * progress so far and refunds the rest.**
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { BudgetExceeded, FailedReservation } from "./BudgetError.ts"
import type { Cause } from "./BudgetStore.ts"
import type { Layout, Reservable as Internal, TypeId } from "./internal/reservable.ts"

/**
 * The handle on a hold. `A` is what the budget counts in: a number for one budget, a record for a policy.
 *
 * Every reservation is settled exactly once. Settling again changes nothing and answers the first settlement.
 */
export interface Reservation<A> {
  /** What is set aside, extensions included. */
  readonly amount: A
  /**
   * Charges `actual`, whatever the progress, and gives the rest back. More than what was held is charged in full and carried as
   * debt.
   */
  readonly commit: (actual: A) => Effect.Effect<Settlement<A>>
  /** Gives all of it back, whatever the progress. */
  readonly release: Effect.Effect<Settlement<A>>
  /**
   * Says how much is known to be spent so far, in all (not since the last time). It is what a failure or an interruption
   * charges. It never goes down. For work that is paid for even if it is cut short, say `progress` before it starts.
   */
  readonly progress: (spent: A) => Effect.Effect<void>
  /**
   * Sets more aside, or fails (or waits) as a new reservation would; this one goes on as it is when the answer is no. Use it
   * instead of a second reservation of the same budget, for which a fiber could wait for itself: an extension goes before
   * those who hold nothing. Two reservations that both wait to be extended can wait for each other: give a `timeout`.
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
  /** What was charged above what was held. */
  readonly overage: A
  /** The names of the budgets that this settlement left in debt. */
  readonly overran: ReadonlyArray<string>
  /** Set when the hold had expired before (see the stores): what was spent is charged all the same, once. */
  readonly late?: true
}

/** How to ask for a reservation. */
export interface Options {
  /** Among those who wait, higher goes first. Any finite number, but few different ones (each is a queue); default 0. */
  readonly priority?: number | undefined
  /** How long the wait may take, instead of the budget's own `timeout`. */
  readonly timeout?: Duration.Input | undefined
  /**
   * What the success of the scope does with a reservation that was not settled: `charge` the hold (default), so that a
   * forgotten `commit` does not make a budget free, or `release` it, but for the progress.
   */
  readonly onSuccess?: "charge" | "release" | undefined
}

/** How to ask for a reservation together with a transaction. */
export interface TxOptions<B> extends Options {
  /** Run when the scope ends in failure or interruption, with what the transaction answered: put the job back. */
  readonly undo?: ((value: B) => Effect.Effect<unknown>) | undefined
}

/**
 * What can be reserved: one budget, a pool, a policy. Everything here takes the amounts of all its budgets in one step, or
 * none.
 *
 * Errors of all of them: `BudgetExceeded` when the limits say no, `FailedReservation` when the wait timed out or the queue was
 * full. A wrong amount dies with a `RangeError` that names the budget and the value.
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
   * Reserves what fits: at least `least` (else it fails or waits, as `reserve` does), and beyond that as much of `wanted` as there
   * is at that moment, budget by budget. `amount` of the reservation says what it got.
   */
  readonly reserveUpTo: (
    least: A,
    wanted: A,
    options?: Options
  ) => Effect.Effect<Reservation<A>, BudgetExceeded | FailedReservation, Scope.Scope>
  /** Reserves, runs `use`, and settles by how it ended. */
  readonly withReservation: <B, E, R>(
    amount: A,
    use: (reservation: Reservation<A>) => Effect.Effect<B, E, R>,
    options?: Options
  ) => Effect.Effect<B, E | BudgetExceeded | FailedReservation, R>
  /**
   * Runs `alongside`, a transaction over your own `TxRef`s, and takes the hold in one `Effect.tx`: both or neither. It waits
   * while `alongside` calls `Effect.txRetry`, holding nothing, and for its turn if the budget throttles. `alongside` may run
   * several times, so it does nothing but transactional steps.
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

/** The amounts that a budget, a pool or a policy is asked for. */
export type Amount<S> = S extends Reservable<infer A> ? A : never

/** Anything that can be reserved, whatever it counts in. */
export interface AnyReservable {
  readonly [TypeId]: Layout
}
