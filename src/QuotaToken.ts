/**
 * A capability: who has a token of a named resource may use it, and who waits is served by the token's share. Only
 * `Quota.acquire` and `split` make tokens; a copy of one is not a token.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Limit, Quota, QuotaToken } from "effect-budget"
 *
 * const pages = { limit: Limit.capacity(100), enforcement: "reject", unit: "page", units: "pages" } as const
 *
 * const program = Effect.gen(function* () {
 *   const quota = yield* Quota
 *   const token = yield* quota.acquire("pages", { expectedUse: 50 })
 *   const read = yield* token.withReservation(20, () => Effect.succeed(QuotaToken.used(12, "twelve pages")))
 *   return [read, (yield* quota.usage)["pages"]?.available]
 * })
 *
 * const layer = Quota.layer({ environments: { local: { pages } } })
 * console.log(await Effect.runPromise(Effect.scoped(Effect.provide(program, layer)))) // [ 'twelve pages', 88 ]
 * ```
 */
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { BudgetExceeded, FailedReservation } from "./BudgetError.ts"
import type * as Reservation from "./Reservation.ts"

declare const Brand: unique symbol

/** How to ask for a reservation. Whose turn it is among those who wait is for the shares to say. */
export interface Options extends Omit<Reservation.Options, "priority"> {}

/**
 * The right to use a named resource.
 *
 * It ends with its scope, with the token it was split from, or when it is merged into another: from then on every operation dies
 * with an error that says so, as do those who wait with it. Its open reservations are settled as usual.
 *
 * Who waits is served by credit: a token earns a tenth of its expected use per millisecond, up to a hundred times it, starting
 * with none. What is granted is taken off, and what a settlement gives back comes back. The highest credit for the amount goes
 * first, ties by who came first, and nobody passes who is first but does not fit yet. Credits only order those who wait: who
 * does not have to wait may go far below zero. An extension of an open reservation goes before all of them.
 *
 * Overtaking is bounded, whatever the credits are, and extensions apart:
 *
 * - Of the waiters of one token, nobody is passed more than 64 times by those who came later.
 * - Among `n` tokens that wait, each is served at the latest after `65 * (n - 1)` grants to the others.
 * - Where that leaves a choice, a token that was granted more for its expected use than others that wait, by more than 8 of their
 *   requests, lets the furthest behind of them go before it. So tokens that keep waiting share what there is as their expected
 *   uses are to each other.
 *
 * To choose who is next costs as much as there are tokens that wait, however many wait with each.
 */
export interface QuotaToken {
  readonly [Brand]: typeof Brand
  /** The name of the resource. */
  readonly resource: string
  /** How much it is expected to use, in the unit of the resource: the weight of its share. */
  readonly expectedUse: Effect.Effect<number>
  /**
   * Reserves for the current scope. What is too much now fails with `FailedReservation`: `Rejected`, with the time after which it
   * fits if time alone can help; `TimedOut`, of a resource that throttles; `UnknownResource`, of one that was removed. What can
   * never fit fails with `BudgetExceeded`, also if the resource throttles. A resource that terminates ends the fiber with a
   * `BudgetExceeded` as the defect instead. A wrong amount dies with a `RangeError`.
   */
  readonly reserve: (
    amount: number,
    options?: Options
  ) => Effect.Effect<Reservation.Reservation<number>, BudgetExceeded | FailedReservation, Scope.Scope>
  /** Reserves, runs `use`, and settles by how it ended, or by what it used if it answers `QuotaToken.used(amount, value)`. */
  readonly withReservation: <B, E, R>(
    amount: number,
    use: (reservation: Reservation.Reservation<number>) => Effect.Effect<B, E, R>,
    options?: Options
  ) => Effect.Effect<Value<B>, E | BudgetExceeded | FailedReservation, R>
  /**
   * A token for a part of what is expected, from 0 to all of it, with the same part of the credit (rounded towards zero, in tenths
   * of a unit). It is closed with the current scope or with this token, whichever is first; then what it has of both comes back.
   * More than this token has dies with a `RangeError`.
   */
  readonly split: (expectedUse: number) => Effect.Effect<QuotaToken, never, Scope.Scope>
  /**
   * Takes over what is expected and the credit of another token of the same resource, up to the most that the sum can have. The
   * other is no more, nor are those split from it. Anything else than such a token dies with an error, and changes nothing.
   */
  readonly merge: (other: QuotaToken) => Effect.Effect<void>
}

/** What was used, and the value that it was used for. */
export class Used<out A> {
  readonly "~effect-budget/Used" = "~effect-budget/Used"
  readonly used: number
  readonly value: A

  constructor(used: number, value: A) {
    this.used = used
    this.value = value
  }
}

/** What `withReservation` answers. */
export type Value<B> = B extends Used<infer A> ? A : B

/** Says, as the answer of what `withReservation` runs, how much was really used. */
export const used = <A>(used: number, value: A): Used<A> => new Used(used, value)
