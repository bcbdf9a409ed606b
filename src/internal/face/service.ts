/** The class factory of the faces that keep books of their own. */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { BudgetStore } from "../../BudgetStore.ts"
import * as MemoryBudgetStore from "../../MemoryBudgetStore.ts"

/** A service class with layers for its face: `class Rows extends Budget.Service<Rows>()("app/Rows") {}`. */
export interface FaceClass<
  in out Self,
  in out Id extends string,
  in out Face,
  in out Options
> extends Context.ServiceClass<Self, Id, Face> {
  /**
   * Books in this process, in a private store. To share one budget between a program and a policy, use the same layer value for
   * both, for example with `Layer.provideMerge`. A limit that cannot be used dies with a `RangeError`.
   */
  readonly layer: (options: Options) => Layer.Layer<Self>
  /**
   * The same as `layer`, with options that are read from configuration when the layer is built. Fails with a `ConfigError` when
   * an option is missing or malformed; a limit that cannot be used dies with a `RangeError`.
   */
  readonly layerConfig: (options: Config.Wrap<Options>) => Layer.Layer<Self, Config.ConfigError>
  /**
   * Books in the `BudgetStore` of the context, which keeps them when the layer is released. Budgets of one name in one store are
   * one budget.
   */
  readonly layerStore: (options: Options) => Layer.Layer<Self, never, BudgetStore>
}

export const face = <Self, const Id extends string, Face, Options extends { readonly name?: string | undefined }>(
  id: Id,
  make: (options: Options & { readonly name: string }) => Effect.Effect<Face, never, BudgetStore | Scope.Scope>
): FaceClass<Self, Id, Face, Options> => {
  const Key = Context.Service<Self, Face>()(id)
  const layerStore = (options: Options) => Layer.effect(Key, make({ ...options, name: options.name ?? id }))
  // Without `fresh`, all budgets of a program would be in one store, since layers are built once.
  const layer = (options: Options) => Layer.provide(layerStore(options), Layer.fresh(MemoryBudgetStore.layer))
  return Object.assign(Key, {
    layer,
    layerConfig: (options: Config.Wrap<Options>) =>
      Layer.unwrap(Effect.map(Config.unwrap(options), (options) => layer(options))),
    layerStore
  })
}
