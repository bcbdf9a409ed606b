/**
 * Reads manifests of quotas. The reader is loaded when it is first used. Everything else about quotas is in
 * `effect-budget/quota`.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { QuotaManifest } from "effect-budget"
 *
 * const program = Effect.gen(function* () {
 *   const { environments } = yield* QuotaManifest.parse(`
 *     environments:
 *       production:
 *         workers: { limit: { type: concurrency, value: 8 } }
 *   `)
 *   return environments["production"]!["workers"]!.enforcement
 * })
 * console.log(await Effect.runPromise(program)) // reject
 * ```
 */
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import type * as QuotaManifest from "../../quota/QuotaManifest.ts"

export type { ManifestError, Resource, Resources } from "../../quota/QuotaManifest.ts"

let loaded: typeof QuotaManifest | undefined

const reader: Effect.Effect<typeof QuotaManifest> = Effect.suspend(() =>
  loaded === undefined
    ? Effect.promise(async () => (loaded = await import("../../quota/QuotaManifest.ts")))
    : Effect.succeed(loaded)
)

/** Reads a manifest from a YAML or JSON text: `QuotaManifest.parse` of `effect-budget/quota`. */
export const parse = (
  text: string,
  options?: { readonly file?: string | undefined }
): Effect.Effect<QuotaManifest.QuotaManifest, QuotaManifest.ManifestError> =>
  Effect.flatMap(reader, ({ parse }) => parse(text, options))

/** Reads a manifest from a YAML or JSON file: `QuotaManifest.load` of `effect-budget/quota`. */
export const load = (
  path: string
): Effect.Effect<QuotaManifest.QuotaManifest, QuotaManifest.ManifestError, FileSystem.FileSystem> =>
  Effect.flatMap(reader, ({ load }) => load(path))
