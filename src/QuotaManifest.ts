/**
 * What a deployment may use, declared in one file: named resources by environment, each with its limit, what happens when the
 * answer is no, and the name of its unit.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Limit, QuotaManifest } from "effect-budget"
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
 * | field of a resource | says | default |
 * |---|---|---|
 * | `limit` | what the resource allows, below | |
 * | `enforcement` | `reject`, `throttle` or `terminate` | `reject` |
 * | `unit`, `units` | what is counted, one and many | `unit`, the `unit` with an s |
 *
 * | `type` of a limit | is | other fields |
 * |---|---|---|
 * | `rate` | `Limit.rate` | `value` per `period`; `max` is the burst (default `value`, and never less); `refill`: `continuous` (default) or `interval` |
 * | `capacity` | `Limit.capacity` | `value` |
 * | `concurrency` | `Limit.concurrency` | `value` |
 * | `window` | `Limit.window` | `value` for each `period` |
 * | `unlimited` | `Limit.unlimited` | |
 *
 * A `value` is a whole number from 1 to 2^53 - 1; of what is not declared, nothing can be used. A `period` is `second`, `minute`, `hour`, `day`, or a duration such as
 * `"30 seconds"`; also `month` and `year`, which are 30 and 365 days whatever the calendar says. Case matters in names and
 * fields, and not in the words `Rate`, `Minute` or `Reject`. A field that is not in the tables is an error.
 *
 * The `resourceDefaults` of a Golem application manifest can be read as they are: the same resources under another key, with
 * `enforcementAction` for `enforcement`. What else such a file says is left alone.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Stream from "effect/Stream"
import type { Enforcement } from "./BudgetStore.ts"
import { read, write } from "./internal/quota/manifest.ts"
import { contents, type Content } from "./internal/quota/watch.ts"
import type * as Yaml from "./internal/quota/yaml.ts"
import * as Limit from "./Limit.ts"

/** One named resource. */
export interface Resource {
  readonly limit: Limit.Limit
  readonly enforcement: Enforcement
  /** One of what is counted, such as `token`. */
  readonly unit: string
  /** Many of them, such as `tokens`. */
  readonly units: string
}

/** Resources by name. */
export interface Resources {
  readonly [resource: string]: Resource
}

/** Resources by environment. */
export interface QuotaManifest {
  readonly environments: { readonly [environment: string]: Resources }
}

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

// `Schema.Json` would do, but `Config` has to see the shape of what it reads
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
 * A manifest as people write it, to and from a manifest that a `Quota` can use. Everything that is wrong is said at once, each
 * with its path. Works in a `Config` and over the wire; for a text or a file there are `parse` and `load`.
 *
 * ```ts
 * import { Config, ConfigProvider, Effect } from "effect"
 * import { Limit, QuotaManifest } from "effect-budget"
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
 * What is wrong with a manifest, all of it: `path` says where (`environments`, the environment, the resource, then the field),
 * `line` only where the text is no YAML or JSON. The message has one line for each problem.
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
    return this.problems
      .map(({ line, message, path }) => {
        const where = [this.file, line === undefined ? undefined : `line ${line}`, path.map(segment).join(".")]
        return [...where.filter((part) => part !== undefined && part !== ""), message].join(": ")
      })
      .join("\n")
  }
}

/** Names that would be read as something else are quoted. */
const segment = (name: string): string => (/^[^\s".:]+$/.test(name) ? name : JSON.stringify(name))

const failure = (file: string | undefined, problems: ManifestError["problems"]): ManifestError =>
  new ManifestError({ ...(file === undefined ? undefined : { file }), problems })

/**
 * Reads a manifest from a YAML or JSON text; `file` is the name that errors give. A text that is not YAML, or says the same key
 * twice, has one problem, with its line: it has no one meaning that could be looked at further.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { QuotaManifest } from "effect-budget"
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
  Effect.flatMap(yaml, (yaml) => {
    const parsed = yaml.parse(text)
    if (Result.isFailure(parsed)) return Effect.fail(failure(options?.file, [{ path: [], ...parsed.failure }]))
    const { manifest, problems } = read(parsed.success)
    return problems.length === 0 ? Effect.succeed(manifest) : Effect.fail(failure(options?.file, problems))
  })

let loaded: typeof Yaml | undefined

/** Loaded when a text is read: it rests on a part of `effect` that may still change, which most programs have no use for. */
const yaml: Effect.Effect<typeof Yaml> = Effect.suspend(() =>
  loaded === undefined
    ? Effect.promise(async () => (loaded = await import("./internal/quota/yaml.ts")))
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
 * What the file says now, and again whenever it says something else: the manifest, or the error when it is broken or gone; the
 * stream goes on after that, and never ends. It follows a file that is written in place, replaced by a rename, or reached through
 * a symbolic link that is swapped, as Kubernetes does with config maps. A change is seen after about 100 ms, or 5 seconds where
 * the file system does not tell of it; what changes faster than it is consumed is seen as one change. To be seen whole for sure,
 * replace the file by a rename: one that is written in place, and rests for 50 ms half-written, is seen broken in between.
 */
export const watch = (
  path: string
): Stream.Stream<Result.Result<QuotaManifest, ManifestError>, never, FileSystem.FileSystem> =>
  Stream.mapEffect(contents(path), (content) => Effect.result(decode(path, content)))

/**
 * The resources of one environment, by its name; without a name, those of the only one there is. Fails when there is no such
 * environment, or no only one, and lists those that there are.
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
