/**
 * Manifests of quotas: the named resources of a deployment by environment, each with its limit, its enforcement and the name of
 * its unit, declared in one file.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Limit } from "effect-budget"
 * import { QuotaManifest } from "effect-budget/quota"
 *
 * const text = `
 * environments:
 *   production:
 *     api-tokens:
 *       limit: { type: rate, value: 100000, period: minute, max: 200000 }
 *       enforcement: throttle
 *       unit: token
 *     workers:
 *       limit: { type: concurrency, value: 8 }
 * `
 * const program = Effect.gen(function* () {
 *   const manifest = yield* QuotaManifest.parse(text)
 *   const resources = yield* QuotaManifest.environment(manifest, "production")
 *   return Object.values(resources).map(({ limit, units }) => `${Limit.format(limit)}, in ${units}`)
 * })
 * const [tokens, workers] = await Effect.runPromise(program)
 * console.log(tokens) // rate of 100000 per 1m (burst 200000), in tokens
 * console.log(workers) // concurrency of 8, in units
 * ```
 *
 * | field of a resource | meaning | default |
 * |---|---|---|
 * | `limit` | the limit, see below | |
 * | `enforcement` | `reject`, `throttle` or `terminate` | `reject` |
 * | `unit`, `units` | the name of the unit, singular and plural | `unit`, the `unit` with an s |
 *
 * | `type` of a limit | is | other fields |
 * |---|---|---|
 * | `rate` | `Limit.rate` | `value` per `period`; `max` is the burst (default `value`, and never less); `refill`: `continuous` (default) or `interval` |
 * | `capacity` | `Limit.capacity` | `value` |
 * | `concurrency` | `Limit.concurrency` | `value` |
 * | `window` | `Limit.window` | `value` for each `period` |
 * | `unlimited` | `Limit.unlimited` | |
 *
 * A `value` is a whole number from 1 to 2^53 - 1. A resource that is not declared cannot be used. A `period` is `second`,
 * `minute`, `hour`, `day`, or a duration such as `"30 seconds"`; also `month` and `year`, which are 30 and 365 days whatever the
 * calendar says. Case matters in names and fields, but not in words such as `Rate`, `Minute` or `Reject`. A field that is not in
 * the tables is an error.
 *
 * The `resourceDefaults` of a Golem application manifest can be read without changes: the same resources under another key, with
 * `enforcementAction` for `enforcement`. The rest of such a file is ignored.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Stream from "effect/Stream"
import { inSlices, parseLarge } from "../internal/quota/large.ts"
import { type Manifest, read, reading, type Resources, write } from "../internal/quota/manifest.ts"
import { contents, type Content } from "../internal/quota/watch.ts"
import type * as Yaml from "../internal/quota/yaml.ts"
import * as Limit from "../Limit.ts"

export type { Resource, Resources } from "../internal/quota/manifest.ts"

/** Resources by environment. */
export interface QuotaManifest extends Manifest {}

const Decoded: Schema.Codec<QuotaManifest> = Schema.Struct({
  environments: Schema.Record(
    Schema.String,
    Schema.Record(
      Schema.String,
      Schema.Struct({
        limit: Schema.toType(Limit.Limit),
        enforcement: Schema.Literals(["reject", "throttle", "terminate"]),
        unit: Schema.String,
        units: Schema.String
      })
    )
  )
})

// `Schema.Json` would do, but `Config` has to see the shape of its input
const Data: Schema.Codec<Schema.Json> = Schema.suspend(() =>
  Schema.Union([
    Schema.String,
    Schema.Number,
    Schema.Boolean,
    Schema.Null,
    Schema.Array(Data),
    Schema.Record(Schema.String, Data)
  ])
)

/**
 * The codec between a manifest as people write it and a manifest that a `Quota` can use. It reports all problems at once, each
 * with its path. It works in a `Config` and over the wire; for a text or a file there are `parse` and `load`.
 *
 * ```ts
 * import { Config, ConfigProvider, Effect } from "effect"
 * import { Limit } from "effect-budget"
 * import { QuotaManifest } from "effect-budget/quota"
 *
 * const provider = ConfigProvider.fromUnknown({
 *   quotas: { environments: { production: { workers: { limit: { type: "concurrency", value: 8 } } } } }
 * })
 * const manifest = Effect.runSync(Config.schema(QuotaManifest.QuotaManifest, "quotas").parse(provider))
 * console.log(Limit.format(manifest.environments["production"]!["workers"]!.limit)) // concurrency of 8
 * ```
 */
export const QuotaManifest: Schema.Codec<QuotaManifest, Schema.JsonObject> = Schema.Record(Schema.String, Data)
  .check(Schema.makeFilter((data) => read(data).problems.map(({ message, path }) => ({ path, issue: message }))))
  .pipe(
    Schema.decodeTo(Decoded, SchemaTransformation.transform({ decode: (data) => read(data).manifest, encode: write }))
  )

/**
 * All problems of a manifest. `path` is the place of a problem: `environments`, the environment, the resource, then the field.
 * `line` is set only when the text is not YAML or JSON. The message has one line for each of the first 1,000 problems.
 */
export class ManifestError extends Schema.TaggedError<ManifestError>("effect-budget/ManifestError")("ManifestError", {
  file: Schema.optionalKey(Schema.String),
  problems: Schema.Array(
    Schema.Struct({
      path: Schema.Array(Schema.String),
      line: Schema.optionalKey(Schema.Int),
      message: Schema.String
    })
  )
}) {
  override get message(): string {
    const lines = this.problems.slice(0, SHOWN).map(({ line, message, path }) => {
      const where = [this.file, line === undefined ? undefined : `line ${line}`, path.map(segment).join(".")]
      return [...where.filter((part) => part !== undefined && part !== ""), message].join(": ")
    })
    const more = this.problems.length - lines.length
    return (more === 0 ? lines : [...lines, `and ${more} more`]).join("\n")
  }
}

/** The number of problems that a message shows. */
const SHOWN = 1_000

/** Quotes a name that could be misread in a path. */
const segment = (name: string): string => (/^[^\s".:]+$/.test(name) ? name : JSON.stringify(name))

const failure = (file: string | undefined, problems: ManifestError["problems"]): ManifestError =>
  // The constructor would check every problem, which takes 200 ms for 100,000 of them.
  Object.assign(new ManifestError({ ...(file === undefined ? undefined : { file }), problems: [] }), { problems })

/**
 * Reads a manifest from a YAML or JSON text. `file` is the file name in errors. A text that is not YAML, or has a key twice, has
 * one problem, with its line: such a text has no single meaning that could be checked further.
 *
 * Needs the optional peer dependency `js-yaml`; without it, the error says so. A text of more than 1,000,000 UTF-16 units is
 * parsed in a worker thread where there are threads, and validated in short slices, so `Effect.runSync` cannot run it.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { QuotaManifest } from "effect-budget/quota"
 *
 * const text = `
 * environments:
 *   production:
 *     api-tokens:
 *       limit: { type: rate, value: 100 }
 *       enforcement: block
 * `
 * const error = await Effect.runPromise(Effect.flip(QuotaManifest.parse(text, { file: "quotas.yaml" })))
 * console.log(error.problems.length) // 2
 * console.log(error.problems[1]?.path.join(" ")) // environments production api-tokens enforcement
 * console.log(error.problems[1]?.message) // must be reject, throttle or terminate, not "block"
 * ```
 */
export const parse = (
  text: string,
  options?: { readonly file?: string | undefined }
): Effect.Effect<QuotaManifest, ManifestError> =>
  Effect.gen(function* () {
    const { parse } = yield* Effect.mapError(yaml, (message) => failure(options?.file, [{ path: [], message }]))
    const parsed = text.length > LARGE ? yield* parseLarge(text, parse) : parse(text)
    if ("problem" in parsed) return yield* failure(options?.file, [{ path: [], ...parsed.problem }])
    const { keysOf, value } = parsed
    const { manifest, problems } = keysOf === undefined ? read(value) : yield* inSlices(() => reading(value, keysOf))
    return problems.length === 0 ? manifest : yield* failure(options?.file, problems)
  })

/** Texts of more UTF-16 units are parsed without blocking the event loop. */
const LARGE = 1_000_000

let loaded: typeof Yaml | undefined

/** The parser, an optional peer that is loaded when a text is read first. */
const yaml: Effect.Effect<typeof Yaml, string> = Effect.suspend(() =>
  loaded === undefined
    ? Effect.tryPromise({
        try: async () => (loaded = await import("../internal/quota/yaml.ts")),
        catch: (cause) => `install js-yaml 5 to read manifests (npm install js-yaml@5): ${cause}`
      })
    : Effect.succeed(loaded)
)

const decode = (path: string, content: Content): Effect.Effect<QuotaManifest, ManifestError> =>
  Result.isSuccess(content)
    ? parse(content.success, { file: path })
    : Effect.fail(failure(path, [{ path: [], message: `cannot be read: ${content.failure.message}` }]))

/** Reads a manifest from a YAML or JSON file. A file that cannot be read is a `ManifestError` too. */
export const load = (path: string): Effect.Effect<QuotaManifest, ManifestError, FileSystem.FileSystem> =>
  FileSystem.FileSystem.use((fs) => Effect.result(fs.readFileString(path))).pipe(
    Effect.flatMap((content) => decode(path, content))
  )

/**
 * Emits the manifest in a file now and after every change of its content, or the error while the file is broken or missing. The
 * stream goes on after an error and never ends. It follows a file that is written in place, replaced by a rename, or reached
 * through a symbolic link that is swapped, as Kubernetes does with config maps. A change is seen after about 100 ms, or 5 seconds
 * where the file system does not report it. Changes that are faster than their consumer are seen as one. Replace the file by a
 * rename if it must never be seen incomplete: a file that stays half written for 50 ms is read as it is.
 */
export const watch = (
  path: string
): Stream.Stream<Result.Result<QuotaManifest, ManifestError>, never, FileSystem.FileSystem> =>
  Stream.mapEffect(contents(path), (content) => Effect.result(decode(path, content)))

/**
 * The resources of the environment of this name, or of the only environment if there is no name. Fails when there is no such
 * environment, or when there is no name and not exactly one environment. The error lists the environments.
 */
export const environment = (
  manifest: QuotaManifest,
  name: string | undefined,
  options?: { readonly file?: string | undefined }
): Effect.Effect<Resources, ManifestError> =>
  Effect.suspend(() => {
    const all = Object.entries(manifest.environments)
    const candidates = name === undefined ? all : all.filter(([declared]) => declared === name)
    const [found] = candidates
    if (found !== undefined && candidates.length === 1) return Effect.succeed(found[1])
    const there =
      all.length === 0 ? "none is declared" : `there are ${all.map(([name]) => JSON.stringify(name)).join(", ")}`
    const problem = name === undefined ? "say which environment" : `no environment ${JSON.stringify(name)}`
    return Effect.fail(failure(options?.file, [{ path: ["environments"], message: `${problem}, ${there}` }]))
  })
