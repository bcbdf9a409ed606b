/**
 * Named resources that are declared in a manifest and used through tokens. `QuotaManifest` describes the manifest, `QuotaToken`
 * the operations of a token and how waiters share a resource.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Limit } from "effect-budget"
 * import { Quota, type QuotaManifest } from "effect-budget/quota"
 *
 * const manifest: QuotaManifest.QuotaManifest = {
 *   environments: {
 *     local: {
 *       requests: { limit: Limit.concurrency(2), enforcement: "throttle", unit: "request", units: "requests" }
 *     }
 *   }
 * }
 *
 * const program = Effect.gen(function* () {
 *   const quota = yield* Quota
 *   const token = yield* quota.acquire("requests", { expectedUse: 10 })
 *   yield* token.reserve(1)
 *   const { available, tokens, units } = (yield* quota.usage)["requests"]!
 *   return `${tokens} token, ${available} ${units}`
 * })
 *
 * const layer = Quota.layer(manifest)
 * console.log(await Effect.runPromise(Effect.scoped(Effect.provide(program, layer)))) // 1 token, 1 requests
 * ```
 */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { FailedReservation, UnknownResource } from "../BudgetError.ts"
import {
  type AnyFiber,
  BudgetStore,
  type Enforcement,
  type LedgerSnapshot,
  type Queued,
  type Snapshot
} from "../BudgetStore.ts"
import { definitionOf } from "../internal/admission/definition.ts"
import { FairQueue } from "../internal/quota/fairQueue.ts"
import { Share } from "../internal/quota/share.ts"
import { checkExpectedUse, issue, type Named } from "../internal/quota/token.ts"
import { type ChangeSource, changed, changesOf } from "../internal/runtime/changeSource.ts"
import { flush } from "../internal/runtime/wakeUps.ts"
import * as MemoryBudgetStore from "../MemoryBudgetStore.ts"
import * as QuotaManifest from "./QuotaManifest.ts"
import type { QuotaToken } from "./QuotaToken.ts"

/** A resource at one moment, in its own unit: `available + held + spent = granted`. */
export interface QuotaUsage extends Omit<LedgerSnapshot, "epoch"> {
  readonly enforcement: Enforcement
  readonly unit: string
  readonly units: string
  /** The number of waiters. */
  readonly waiters: number
  /** The number of tokens. */
  readonly tokens: number
}

/** Resources by name. */
export interface QuotaUsages {
  readonly [resource: string]: QuotaUsage
}

/** The environment of a manifest to use; needed when the manifest has several. */
export interface QuotaOptions {
  readonly environment?: string | undefined
}

interface Service {
  /**
   * Makes a token for the current scope. `expectedUse` is the weight of its share: the amount that it is expected to use, in the
   * unit of the resource, from 0 to 9,007,199,254,740. Fails with `UnknownResource` when no resource of that name is defined.
   */
  readonly acquire: (
    resource: string,
    options: { readonly expectedUse: number }
  ) => Effect.Effect<QuotaToken, FailedReservation, Scope.Scope>
  /**
   * Defines a resource, or changes a defined one as `update` does. A resource that was removed comes back with its books, and its
   * tokens can be used again. Dies with a `RangeError` when the limit cannot be used or the name is empty.
   */
  readonly define: (name: string, resource: QuotaManifest.Resource) => Effect.Effect<void>
  /**
   * Changes a resource for all its tokens, as `setLimit` of a budget does by default: holds and debt stay. Waiters are admitted
   * if there is room now. Otherwise a resource that now rejects fails the wait, and one that terminates ends it with a defect.
   */
  readonly update: (name: string, resource: QuotaManifest.Resource) => Effect.Effect<void, UnknownResource>
  /**
   * Removes a resource. Waits for it and later requests fail with `UnknownResource`. Open reservations are settled as usual, and
   * the books are kept for a later `define`.
   */
  readonly remove: (name: string) => Effect.Effect<void, UnknownResource>
  /** The usage of all resources, at the same moment. */
  readonly usage: Effect.Effect<QuotaUsages>
  /**
   * The usage now and after every change; changes that come together are emitted once. The passage of time alone emits nothing.
   */
  readonly usageChanges: Stream.Stream<QuotaUsages>
}

interface Resource extends Named {
  definition: QuotaManifest.Resource
  removed: boolean
}

const make = (resources: QuotaManifest.Resources): Effect.Effect<Service, never, BudgetStore | Scope.Scope> =>
  Effect.gen(function* () {
    const quota = new Resources(yield* BudgetStore, yield* Scope.Scope)
    yield* Effect.forEach(Object.entries(resources), ([name, resource]) => quota.define(name, resource), {
      discard: true
    })
    return quota
  })

class Resources implements Service {
  private readonly store: BudgetStore["Service"]
  private readonly scope: Scope.Scope
  private readonly all = new Map<string, Resource>()
  /** Counts the changes of definitions and of the number of tokens, which are not part of the books. */
  private readonly source: ChangeSource = { changes: 0, listeners: undefined }

  constructor(store: BudgetStore["Service"], scope: Scope.Scope) {
    this.store = store
    this.scope = scope
  }

  private readonly changed = (fiber: AnyFiber): void => {
    changed(this.source)
    flush(fiber)
  }

  private existing<A>(
    name: string,
    use: (resource: Resource, fiber: AnyFiber) => Effect.Effect<A>
  ): Effect.Effect<A, UnknownResource> {
    return Effect.withFiber((fiber) => {
      const resource = this.all.get(name)
      return resource?.removed === false ? use(resource, fiber) : Effect.fail(new UnknownResource({ resource: name }))
    })
  }

  private change(resource: Resource, definition: QuotaManifest.Resource, fiber: AnyFiber): Effect.Effect<void> {
    const { enforcement, limit } = definition
    return this.store.adjust([[resource.account, { _tag: "SetLimit", limits: [limit], enforcement }]]).pipe(
      Effect.map(() => {
        resource.definition = definition
        resource.removed = false
        this.changed(fiber)
      }),
      Effect.uninterruptible
    )
  }

  get acquire(): Service["acquire"] {
    return (name, { expectedUse }) =>
      Effect.suspend(() => {
        checkExpectedUse(name, expectedUse)
        return this.existing(name, Effect.succeed)
      }).pipe(
        Effect.mapError((reason) => new FailedReservation({ budget: name, requested: expectedUse, reason })),
        Effect.flatMap((resource) => issue(resource, (now) => [new Share(expectedUse, now), undefined]))
      )
  }

  get define(): Service["define"] {
    return (name, definition) =>
      Effect.suspend(() => {
        if (name === "") throw new RangeError("A resource must have a name")
        const known = this.all.get(name)
        if (known !== undefined) return Effect.withFiber((fiber) => this.change(known, definition, fiber))
        const { enforcement, limit } = definition
        const queues: Named["queues"] = new Set()
        const discipline = <W extends Queued>() => {
          const queue = new FairQueue<W>()
          queues.add(queue)
          return queue
        }
        return this.store.open({ ...definitionOf(name, [limit], { enforcement }), discipline }).pipe(
          Scope.provide(this.scope),
          Effect.flatMap((account) =>
            Effect.withFiber((fiber) => {
              // Another fiber may have defined it meanwhile.
              const resource = this.all.get(name)
              if (resource !== undefined) return this.change(resource, definition, fiber)
              const { changed, store } = this
              this.all.set(name, { name, store, account, queues, tokens: 0, changed, definition, removed: false })
              this.changed(fiber)
              return Effect.void
            })
          )
        )
      })
  }

  get update(): Service["update"] {
    return (name, definition) => this.existing(name, (resource, fiber) => this.change(resource, definition, fiber))
  }

  get remove(): Service["remove"] {
    return (name) =>
      this.existing(name, (resource, fiber) => {
        const reason = new UnknownResource({ resource: name })
        return this.store.adjust([[resource.account, { _tag: "Close", reason }]]).pipe(
          Effect.map(() => {
            resource.removed = true
            this.changed(fiber)
          }),
          Effect.uninterruptible
        )
      })
  }

  private defined(): ReadonlyArray<Resource> {
    return [...this.all.values()].filter(({ removed }) => !removed)
  }

  get usage(): Service["usage"] {
    return Effect.suspend(() => {
      const resources = this.defined()
      return Effect.map(this.store.read(resources.map(({ account }) => account)), (snapshots) =>
        usagesOf(resources, snapshots)
      )
    })
  }

  get usageChanges(): Service["usageChanges"] {
    // A definition changes the set of resources; each store stream emits the changes of their books.
    const definitions = changesOf(
      [this.source],
      Effect.sync(() => this.defined())
    )
    return Stream.changes(
      Stream.switchMap(definitions, (resources) =>
        resources.length === 0
          ? Stream.succeed(usagesOf([], []))
          : Stream.map(this.store.changes(resources.map(({ account }) => account)), (snapshots) =>
              usagesOf(resources, snapshots)
            )
      )
    )
  }
}

const usagesOf = (resources: ReadonlyArray<Resource>, snapshots: ReadonlyArray<Snapshot>): QuotaUsages =>
  Object.fromEntries(
    resources.map(({ definition, name, tokens }, i): [string, QuotaUsage] => {
      const { ledgers, waiters } = snapshots[i]!
      const { epoch: _, ...ledger } = ledgers[0]
      const { enforcement, unit, units } = definition
      return [name, { ...ledger, enforcement, unit, units, waiters, tokens }]
    })
  )

/** The named resources of a program. Their books are kept in this process. */
export class Quota extends Context.Service<Quota, Service>()("effect-budget/Quota") {
  /**
   * The resources of a manifest, with books of their own in this process. Fails when the manifest does not have the requested
   * environment, or has several and none is requested.
   */
  static readonly layer = (
    manifest: QuotaManifest.QuotaManifest,
    options?: QuotaOptions
  ): Layer.Layer<Quota, QuotaManifest.ManifestError> =>
    layerOf(Effect.flatMap(QuotaManifest.environment(manifest, options?.environment), make))

  /**
   * The resources of a manifest in a YAML or JSON file. With `watch`, a change of the file is applied while the program runs, as
   * by `define` and `remove`; used amounts are kept. A file that cannot be used is logged as a warning and changes nothing.
   */
  static readonly layerFile = (
    path: string,
    options?: QuotaOptions & { readonly watch?: boolean | undefined }
  ): Layer.Layer<Quota, QuotaManifest.ManifestError, FileSystem.FileSystem> => {
    const inForce = (manifest: QuotaManifest.QuotaManifest) =>
      QuotaManifest.environment(manifest, options?.environment, { file: path })
    return layerOf(
      Effect.gen(function* () {
        let before = yield* Effect.flatMap(QuotaManifest.load(path), inForce)
        const quota = yield* make(before)
        if (options?.watch !== true) return quota
        const apply = (next: QuotaManifest.Resources) =>
          Effect.gen(function* () {
            for (const name of Object.keys(before)) {
              // The program may have removed it already.
              if (!Object.hasOwn(next, name)) yield* Effect.ignore(quota.remove(name))
            }
            for (const [name, resource] of Object.entries(next)) {
              if (!Object.hasOwn(before, name) || !Equal.equals(before[name], resource)) {
                yield* quota.define(name, resource)
              }
            }
            before = next
          })
        yield* QuotaManifest.watch(path).pipe(
          Stream.runForEach((content) =>
            Effect.fromResult(content).pipe(
              Effect.flatMap(inForce),
              Effect.flatMap(apply),
              Effect.catch((error) => Effect.logWarning(`The quotas stay as they are: ${error.message}`))
            )
          ),
          Effect.forkScoped
        )
        return quota
      })
    )
  }

  /** The resources of a manifest that is read from configuration when the layer is built. */
  static readonly layerConfig = (
    options: Config.Wrap<{ readonly manifest: QuotaManifest.QuotaManifest } & QuotaOptions>
  ): Layer.Layer<Quota, Config.ConfigError | QuotaManifest.ManifestError> =>
    Layer.unwrap(
      Effect.map(Config.unwrap(options), ({ environment, manifest }) => Quota.layer(manifest, { environment }))
    )
}

const layerOf = <E, R>(
  quota: Effect.Effect<Service, E, R | BudgetStore | Scope.Scope>
): Layer.Layer<Quota, E, Exclude<Exclude<R, Scope.Scope>, BudgetStore>> =>
  Layer.provide(Layer.effect(Quota, quota), Layer.fresh(MemoryBudgetStore.layer))
