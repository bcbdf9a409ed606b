/**
 * Capabilities for named resources. Whoever has a token may use its resource, and its waiters are served by the share of the
 * token. Only `Quota.acquire` and `split` make tokens; a copy of a token is not a token.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Limit } from "effect-budget"
 * import { Quota, QuotaToken } from "effect-budget/quota"
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
import type { BudgetExceeded, FailedReservation } from "../BudgetError.ts"
import type * as Reservation from "../Reservation.ts"

declare const Brand: unique symbol

/** Options of a reservation. There is no `priority`: the shares of the tokens order the waiters. */
export interface Options extends Omit<Reservation.Options, "priority"> {}

/**
 * The right to use a named resource.
 *
 * It ends with its scope, with the token from which it was split, or when it is merged into another. After that, every operation
 * dies with an error that says so, as do the waits with this token. Its open reservations are settled as usual.
 *
 * Waiters are served by credit. A token starts with no credit and earns a tenth of its expected use per millisecond, up to a
 * hundred times its expected use. Grants are subtracted, and refunds are added again. The highest credit relative to the amount
 * is served first, and equal credits in order of arrival; if the first waiter does not fit yet, nobody passes it. Credits only
 * order the waiters: a token whose requests never wait may go far below zero. An extension of an open reservation goes before all
 * waiters.
 *
 * Overtaking is bounded, whatever the credits are (except by extensions):
 *
 * - Among the waiters of one token, nobody is passed more than 64 times by later ones.
 * - Among `n` tokens with waiters, each is served after at most `65 * (n - 1)` grants to the others.
 * - Within these bounds, a token whose grants relative to its expected use are ahead of another token with waiters, by more than
 *   8 of that token's requests, lets the token that is furthest behind go first. So tokens that keep waiting share the resource
 *   in proportion to their expected uses.
 *
 * The cost of choosing the next waiter grows with the number of tokens that have waiters, not with the number of waiters.
 */
export interface QuotaToken {
  readonly [Brand]: typeof Brand
  /** The name of the resource. */
  readonly resource: string
  /** The amount that it is expected to use, in the unit of the resource: the weight of its share. */
  readonly expectedUse: Effect.Effect<number>
  /**
   * Reserves for the current scope. A denied request fails with `FailedReservation`: `Rejected`, with the estimated wait if time
   * alone can help; `TimedOut`, if the resource throttles; `UnknownResource`, if it was removed. An amount that can never fit
   * fails with `BudgetExceeded`, also if the resource throttles. A resource that terminates ends the fiber with a
   * `BudgetExceeded` as the defect instead. A wrong amount dies with a `RangeError`.
   */
  readonly reserve: (
    amount: number,
    options?: Options
  ) => Effect.Effect<Reservation.Reservation<number>, BudgetExceeded | FailedReservation, Scope.Scope>
  /** Reserves, runs `use`, and settles by its exit, or by the used amount if it returns `QuotaToken.used(amount, value)`. */
  readonly withReservation: <B, E, R>(
    amount: number,
    use: (reservation: Reservation.Reservation<number>) => Effect.Effect<B, E, R>,
    options?: Options
  ) => Effect.Effect<Value<B>, E | BudgetExceeded | FailedReservation, R>
  /**
   * Splits off a token with a part of the expected use, from 0 to all of it, and the same part of the credit (rounded towards
   * zero, in tenths of a unit). It is closed with the current scope or with this token, whichever ends first; then its expected
   * use and its credit come back. Dies with a `RangeError` if this token does not have that much expected use.
   */
  readonly split: (expectedUse: number) => Effect.Effect<QuotaToken, never, Scope.Scope>
  /**
   * Takes over the expected use and the credit of another token of the same resource, up to the maximum of each. The other token
   * ends, and so do the tokens split from it. Dies with an error, and changes nothing, if the argument is not such a token.
   */
  readonly merge: (other: QuotaToken) => Effect.Effect<void>
}

/** A value, and the amount that was used to make it. */
export class Used<out A> {
  readonly "~effect-budget/Used" = "~effect-budget/Used"
  readonly used: number
  readonly value: A

  constructor(used: number, value: A) {
    this.used = used
    this.value = value
  }
}

/** The value that `withReservation` returns. */
export type Value<B> = B extends Used<infer A> ? A : B

/** Returned by the effect that `withReservation` runs: its value, and the amount that was really used. */
export const used = <A>(used: number, value: A): Used<A> => new Used(used, value)
