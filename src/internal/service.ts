/** The class factory of the faces that keep books of their own. */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { BudgetStore } from "../BudgetStore.ts"

/** A service class with layers for its face: `class Rows extends Budget.Service<Rows>()("app/Rows") {}`. */
export interface FaceClass<
  in out Self,
  in out Id extends string,
  in out Face,
  in out Options
> extends Context.ServiceClass<Self, Id, Face> {
  /**
   * Books in this process. Every call opens books of its own: to share one budget between a program and a policy, build the
   * layer once and pass it on with `Layer.provideMerge`. A limit that cannot be used dies with a `RangeError`.
   */
  readonly layer: (options: Options) => Layer.Layer<Self>
  /**
   * Books in this process, by options that are read from configuration when the layer is built. What is missing or malformed
   * is a `ConfigError`; a limit that cannot be used dies with a `RangeError`, as in `layer`.
   */
  readonly layerConfig: (options: Config.Wrap<Options>) => Layer.Layer<Self, Config.ConfigError>
  /** Books in the `BudgetStore` of the context. */
  readonly layerStore: (options: Options) => Layer.Layer<Self, never, BudgetStore>
}

export const face = <Self, const Id extends string, Face, Options extends { readonly name?: string | undefined }>(
  id: Id,
  make: (options: Options & { readonly name: string }) => Effect.Effect<Face, never, BudgetStore | Scope.Scope>
): FaceClass<Self, Id, Face, Options> => {
  const Key = Context.Service<Self, Face>()(id)
  const layerStore = (options: Options) => Layer.effect(Key, make({ ...options, name: options.name ?? id }))
  const layer = (options: Options) => Layer.provide(layerStore(options), BudgetStore.layerMemory)
  return Object.assign(Key, {
    layer,
    layerConfig: (options: Config.Wrap<Options>) =>
      Layer.unwrap(Effect.map(Config.unwrap(options), (options) => layer(options))),
    layerStore
  })
}
