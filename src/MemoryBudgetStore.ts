/**
 * The store that keeps books in this process. Two budgets of one name in one store are one budget, and the store keeps their
 * books when their layers are released. Opening a budget again with other limits changes its limits, as `setLimit` does.
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { Budget, Limit, MemoryBudgetStore } from "effect-budget"
 *
 * class Import extends Budget.Service<Import>()("app/Import") {}
 * class Export extends Budget.Service<Export>()("app/Export") {}
 *
 * const program = Effect.gen(function*() {
 *   yield* (yield* Import).withReservation(6, () => Effect.void)
 *   return yield* (yield* Export).available
 * })
 *
 * const rows = { name: "rows", limit: Limit.capacity(10) }
 * const layer = Layer.mergeAll(Import.layerStore(rows), Export.layerStore(rows)).pipe(
 *   Layer.provide(MemoryBudgetStore.layer)
 * )
 * console.log(await Effect.runPromise(Effect.provide(program, layer))) // 4
 * ```
 */
import * as Layer from "effect/Layer"
import { BudgetStore } from "./BudgetStore.ts"
import { makeMemoryStore } from "./internal/memory/store.ts"

/** A new store each time it is built. The `layer` of a face has a private one. */
export const layer: Layer.Layer<BudgetStore> = Layer.sync(BudgetStore, makeMemoryStore)
