/**
 * Budgets whose books are in Redis, shared by all processes that use it. The programs stay the same, with `layerStore` in place of
 * `layer`:
 *
 * ```ts
 * import { NodeRedis } from "@effect/platform-node"
 * import { Limit, RowGuard } from "effect-budget"
 * import { RedisBudgetStore } from "effect-budget/redis"
 * import { Layer } from "effect"
 *
 * const Rows = RowGuard.layerStore({ limit: Limit.capacity(100) }).pipe(
 *   Layer.provide(RedisBudgetStore.layer({ group: "crawler" })),
 *   Layer.provide(NodeRedis.layer({ url: "redis://localhost:6379" }))
 * )
 * console.log(Layer.isLayer(Rows)) // true
 * ```
 *
 * Each step is one round trip of a script, at the server's clock; steps that a process asks for while others are under way go
 * together. All keys of a group begin with `{group}:`, so they are in one slot of a cluster: budgets that are reserved together are
 * in one group, others can have groups of their own. It is tested with Redis 7.
 *
 * What Redis loses, the books lose: with `appendfsync everysec`, a server that dies forgets up to a second of settlements, and a
 * replica that takes over what had not reached it. A server must not evict these keys (`maxmemory-policy noeviction`).
 */
import type * as Redis from "effect/persistence/Redis"
import { type StoreLayer, storeLayer } from "../internal/shared/layer.ts"
import { keepOutcomesOf, type SharedOptions } from "../internal/shared/options.ts"
import { make } from "../internal/shared/redis/books.ts"

export interface Options extends SharedOptions {
  /** Budgets are shared by those who name the same group in the same Redis. Default `default`. */
  readonly group?: string | undefined
}

/** Keeps the books in the Redis that is provided: `NodeRedis.layer` of `@effect/platform-node`, or any other. */
export const layer: StoreLayer<Options, never, Redis.Redis> = storeLayer((options) =>
  make({ group: options.group ?? "default", keepOutcomes: keepOutcomesOf(options) })
)
