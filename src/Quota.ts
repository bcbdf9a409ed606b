/**
 * Named resources, declared in a manifest, that are used by tokens: see `QuotaManifest` for what is declared, `QuotaToken` for
 * what a token can do and how those who wait share a resource.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Limit, Quota, type QuotaManifest } from "effect-budget"
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
import { FailedReservation, UnknownResource } from "./BudgetError.ts"
import { BudgetStore, type Enforcement, type LedgerSnapshot } from "./BudgetStore.ts"
import { definitionOf } from "./internal/definition.ts"
import { type AnyFiber, notify } from "./internal/memory/account.ts"
import { Share } from "./internal/quota/share.ts"
import { checkExpectedUse, issue, type Named } from "./internal/quota/token.ts"
import { type Source, told } from "./internal/told.ts"
import * as QuotaManifest from "./QuotaManifest.ts"
import type { QuotaToken } from "./QuotaToken.ts"

/** A resource at one moment, in its own unit: `available + held + spent = granted`. */
export interface QuotaUsage extends Omit<LedgerSnapshot, "epoch"> {
  readonly enforcement: Enforcement
  readonly unit: string
  readonly units: string
  /** How many wait. */
  readonly waiters: number
  /** How many tokens there are. */
  readonly tokens: number
}

/** Resources by name. */
export interface QuotaUsages {
  readonly [resource: string]: QuotaUsage
}

/** Which environment of a manifest is in force; needed when it has several. */
export interface QuotaOptions {
  readonly environment?: string | undefined
}

interface Service {
  /**
   * A token for the current scope. `expectedUse` is the weight of its share: how much it is expected to use, in the unit of the
   * resource, from 0 to 9,007,199,254,740. Fails with `UnknownResource` when no resource of that name is defined.
   */
  readonly acquire: (
    resource: string,
    options: { readonly expectedUse: number }
  ) => Effect.Effect<QuotaToken, FailedReservation, Scope.Scope>
  /**
   * Defines a resource, or changes one that is defined, as `update` does. One that was removed before comes back with what was
   * used of it, and its tokens can be used again. Dies with a `RangeError` when the limit cannot be used or the name is empty.
   */
  readonly define: (name: string, resource: QuotaManifest.Resource) => Effect.Effect<void>
  /**
   * Changes a resource for all its tokens. What is spent and held is kept. Who waits is admitted if there is room now; else a
   * resource that rejects from now on fails the wait, and one that terminates ends it with a defect.
   */
  readonly update: (name: string, resource: QuotaManifest.Resource) => Effect.Effect<void, UnknownResource>
  /**
   * Who waits for the resource, and who asks for it later, fails with `UnknownResource`. Open reservations are settled as usual.
   */
  readonly remove: (name: string) => Effect.Effect<void, UnknownResource>
  /** All resources, at the same moment. */
  readonly usage: Effect.Effect<QuotaUsages>
  /** The usage now and after every change; changes that come together are told once. Time alone does not tell. */
  readonly usageChanges: Stream.Stream<QuotaUsages>
}

interface Resource extends Named {
  definition: QuotaManifest.Resource
  removed: boolean
}

const make = (resources: QuotaManifest.Resources): Effect.Effect<Service, never, BudgetStore | Scope.Scope> =>
  Effect.gen(function* () {
    const store = yield* BudgetStore
    const scope = yield* Scope.Scope
    const { quotas } = store
    if (quotas === undefined) return yield* Effect.die(new Error("Named quotas need books in this process"))
    const all = new Map<string, Resource>()
    /** Counts the definitions and the tokens, which are no part of the books. */
    const source = { changes: 0, listeners: new Set<() => void>() } satisfies Source
    const changed = (fiber: AnyFiber): void => notify(fiber, source)

    const defined = (): ReadonlyArray<Resource> => [...all.values()].filter(({ removed }) => !removed)
    const existing = <A>(
      name: string,
      use: (resource: Resource, fiber: AnyFiber) => A
    ): Effect.Effect<A, UnknownResource> =>
      Effect.withFiber((fiber) => {
        const resource = all.get(name)
        return resource?.removed === false
          ? Effect.succeed(use(resource, fiber))
          : Effect.fail(new UnknownResource({ resource: name }))
      })

    const change = (resource: Resource, definition: QuotaManifest.Resource, fiber: AnyFiber): void => {
      quotas.define(fiber, resource.account, definition.limit, definition.enforcement)
      resource.definition = definition
      resource.removed = false
      changed(fiber)
    }

    const define: Service["define"] = (name, definition) =>
      Effect.suspend(() => {
        if (name === "") throw new RangeError("A resource must have a name")
        const { enforcement, limit } = definition
        return store.open({ ...definitionOf(name, [limit], { enforcement }), quota: true })
      }).pipe(
        Scope.provide(scope),
        Effect.flatMap((account) =>
          Effect.withFiberSucceed((fiber) => {
            // It may have been defined before, or just now.
            const resource = all.get(name)
            if (resource !== undefined) return change(resource, definition, fiber)
            all.set(name, { name, store, account, tokens: 0, changed, definition, removed: false })
            changed(fiber)
          })
        )
      )

    const usage: Service["usage"] = Effect.suspend(() => {
      const resources = defined()
      return Effect.map(store.read(resources.map(({ account }) => account)), (snapshots) =>
        Object.fromEntries(
          snapshots.map(({ ledgers: [{ epoch: _, ...ledger }], waiters }, i): [string, QuotaUsage] => {
            const { definition, name, tokens } = resources[i]!
            const { enforcement, unit, units } = definition
            return [name, { ...ledger, enforcement, unit, units, waiters, tokens }]
          })
        )
      )
    })

    yield* Effect.forEach(Object.entries(resources), ([name, resource]) => define(name, resource), { discard: true })
    return {
      acquire: (name, { expectedUse }) =>
        Effect.suspend(() => {
          checkExpectedUse(name, expectedUse)
          return existing(name, (resource) => resource)
        }).pipe(
          Effect.mapError((reason) => new FailedReservation({ budget: name, requested: expectedUse, reason })),
          Effect.flatMap((resource) => issue(resource, (now) => [new Share(expectedUse, now), undefined]))
        ),
      define,
      update: (name, definition) => existing(name, (resource, fiber) => change(resource, definition, fiber)),
      remove: (name) =>
        existing(name, (resource, fiber) => {
          quotas.close(fiber, resource.account)
          resource.removed = true
          changed(fiber)
        }),
      usage,
      usageChanges: Stream.changes(
        told(
          () => [source, ...Array.from(all.values(), ({ account }) => quotas.source(account))],
          () => usage
        )
      )
    }
  })

/** The named resources of a program. Their books are kept in this process. */
export class Quota extends Context.Service<Quota, Service>()("effect-budget/Quota") {
  /** The resources of a manifest. Fails when it has not the environment that is asked for, or several and none is asked for. */
  static readonly layer = (
    manifest: QuotaManifest.QuotaManifest,
    options?: QuotaOptions
  ): Layer.Layer<Quota, QuotaManifest.ManifestError> =>
    layerOf(Effect.flatMap(QuotaManifest.environment(manifest, options?.environment), make))

  /**
   * The resources of a manifest in a file. With `watch`, a change of the file is applied while the program runs, as by `define`
   * and `remove`; what is used is kept. A file that cannot be used is logged as a warning and changes nothing.
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
  Layer.provide(Layer.effect(Quota, quota), BudgetStore.layerMemory)
