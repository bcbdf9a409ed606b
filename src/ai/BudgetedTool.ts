/**
 * Tools under budget: a cost for each call of a tool, held while its handler runs, charged when it succeeds, and refunded when
 * it fails or is interrupted.
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Tool, Toolkit } from "effect/ai"
 * import { BudgetError, Limit, RowGuard } from "effect-budget"
 * import { BudgetedTool } from "effect-budget/ai"
 *
 * const Search = Tool.make("Search", {
 *   parameters: Schema.Struct({ query: Schema.String }),
 *   success: Schema.String,
 *   failure: Schema.Union([BudgetError.BudgetExceeded, BudgetError.FailedReservation])
 * })
 * const tools = Toolkit.make(Search)
 * const handlers = tools.toLayer(
 *   Effect.gen(function* () {
 *     const searches = yield* RowGuard
 *     return { Search: BudgetedTool.costing(searches, 1, ({ query }: { readonly query: string }) => Effect.succeed(`found ${query}`)) }
 *   })
 * )
 * const layer = RowGuard.layer({ limit: Limit.capacity(100) })
 * console.log(typeof handlers, typeof layer) // object object
 * ```
 */
import type * as Effect from "effect/Effect"
import type { BudgetExceeded, FailedReservation } from "../BudgetError.ts"
import type * as Reservation from "../Reservation.ts"

/**
 * A handler that reserves `cost` (an amount, or one that depends on the parameters) for each call. The budget's errors are
 * `Schema` errors, so they can be part of the tool's `failure`.
 */
export const costing =
  <Cost, Args extends ReadonlyArray<unknown>, A, E, R>(
    budget: Reservation.Reservable<Cost>,
    cost: Cost | ((...args: Args) => Cost),
    handler: (...args: Args) => Effect.Effect<A, E, R>
  ): ((...args: Args) => Effect.Effect<A, E | BudgetExceeded | FailedReservation, R>) =>
  (...args) =>
    budget.withReservation(isFunction(cost) ? cost(...args) : cost, () => handler(...args))

const isFunction = <Cost, Args extends ReadonlyArray<unknown>>(
  cost: Cost | ((...args: Args) => Cost)
): cost is (...args: Args) => Cost => typeof cost === "function"
