/**
 * The module `BudgetStore` of the root entry: the seam, with the layers that programs find under its name.
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { BudgetStore, Limit, MemoryBudgetStore, RowGuard } from "effect-budget"
 *
 * const program = RowGuard.use((rows) => Effect.andThen(rows.tryReserve(30), rows.available))
 * const layer = RowGuard.layerStore({ limit: Limit.capacity(100) }).pipe(
 *   Layer.provide(BudgetStore.BudgetStore.layerLeased()),
 *   // A store that several processes share takes this place.
 *   Layer.provide(MemoryBudgetStore.layer)
 * )
 * console.log(await Effect.runPromise(Effect.provide(program, layer))) // 70
 * ```
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Seam from "../../BudgetStore.ts"
import * as MemoryBudgetStore from "../../MemoryBudgetStore.ts"
import type { LeaseOptions } from "../leased/store.ts"

export * from "../../BudgetStore.ts"
export type { LeaseOptions } from "../leased/store.ts"

/** The service key of a store, with the layers that have no module of their own. */
export class BudgetStore extends Seam.BudgetStore {
  /** The same as `MemoryBudgetStore.layer`. */
  static readonly layerMemory: Layer.Layer<Seam.BudgetStore> = MemoryBudgetStore.layer

  /**
   * Leases in front of the `BudgetStore` of the context, a store that several processes share. This process takes a share of each
   * budget in bulk, sized by its recent use, and spends from it at memory speed. Every `renewEvery`, it reports its spending and
   * gives back the amount that it does not need; at the end of its scope, it gives back the rest. The shares are holds in the
   * store below, so their sum never exceeds the limit. The code of leases is loaded when the layer is built.
   *
   * - The shares of a process that is killed count as spent (a capacity), refill (a rate) or come back (slots) when they expire:
   *   no more than it needed for one renewal.
   * - Another process can be denied while a share has something left, for as long as a renewal.
   * - When another process lowers or resets a limit, the shares of this process follow at their next renewal.
   * - Slots combined with another limit are not leased, and neither is a budget with a window, which belongs to the clock of the
   *   store: they are requested from the store below each time. So are the amounts of `reserveUpTo`, `record` and `charge`.
   * - `settled` of a snapshot counts the settlements of the store below, which are shares.
   */
  static readonly layerLeased = (options: LeaseOptions = {}): Layer.Layer<Seam.BudgetStore, never, Seam.BudgetStore> =>
    Layer.effect(
      Seam.BudgetStore,
      Effect.flatMap(Seam.BudgetStore, (store) =>
        Effect.flatMap(
          Effect.promise(() => import("../leased/store.ts")),
          ({ leasedStore }) => leasedStore(store, options)
        )
      )
    )
}
