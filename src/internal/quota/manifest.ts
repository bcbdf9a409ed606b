/**
 * The format of a manifest: its fields, both spellings, and all problems that they can have.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { Enforcement } from "../../BudgetStore.ts"
import * as Limit from "../../Limit.ts"
import { isAmount } from "../amount.ts"
import { put } from "./pieces.ts"

/** One named resource. */
export interface Resource {
  readonly limit: Limit.Limit
  readonly enforcement: Enforcement
  /** The name of one unit, such as `token`. */
  readonly unit: string
  /** The name of several units, such as `tokens`. */
  readonly units: string
}

/** Resources by name. */
export interface Resources {
  readonly [resource: string]: Resource
}

/** Resources by environment. */
export interface Manifest {
  readonly environments: { readonly [environment: string]: Resources }
}

export interface Problem {
  readonly path: ReadonlyArray<string>
  readonly message: string
}

type Path = ReadonlyArray<string>

interface Mapping {
  readonly [key: string]: unknown
}

const units = { second: 1_000, minute: 60_000, hour: 3_600_000, day: 86_400_000 } as const

/** The names of a `period`. A month and a year are fixed durations here, as in Golem. */
const periods = new Map<string, Duration.Duration>([
  ...Object.entries(units).map(([name, millis]) => [name, Duration.millis(millis)] as const),
  ["month", Duration.days(30)],
  ["year", Duration.days(365)]
])

const fieldsOf = {
  rate: ["type", "value", "period", "max", "refill"],
  capacity: ["type", "value"],
  concurrency: ["type", "value"],
  window: ["type", "value", "period"],
  unlimited: ["type"]
} as const

type LimitType = keyof typeof fieldsOf

const limitTypes = [
  "rate",
  "capacity",
  "concurrency",
  "window",
  "unlimited"
] as const satisfies ReadonlyArray<LimitType>
const enforcements = ["reject", "throttle", "terminate"] as const satisfies ReadonlyArray<Enforcement>
const refills = ["continuous", "interval"] as const

const isMapping = (value: unknown): value is Mapping =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const own = (self: Mapping, key: string): unknown => (Object.hasOwn(self, key) ? self[key] : undefined)

const listed = (names: ReadonlyArray<string>): string =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} or ${names[names.length - 1]}`

/** Describes a wrong value in a few words, whatever its size. */
const found = (value: unknown): string => {
  if (value === null) return "nothing"
  if (Array.isArray(value)) return "a list"
  if (typeof value === "object") return "a mapping"
  if (typeof value !== "string") return String(value)
  return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}...` : value)
}

const must = (expected: string, value: unknown): string =>
  value === undefined ? `is missing, it must be ${expected}` : `must be ${expected}, not ${found(value)}`

/** Environment variables have no numbers, so a whole number may also be written as text. */
const toAmount = (value: unknown): number | undefined => {
  const n = typeof value === "string" && /^[0-9]+$/.test(value) ? Number(value) : value
  return typeof n === "number" && isAmount(n) ? n : undefined
}

const toText = (value: unknown): string | undefined =>
  typeof value === "string" && value.trim() !== "" ? value : undefined

const toName =
  <const Names extends ReadonlyArray<string>>(names: Names) =>
  (value: unknown): Names[number] | undefined =>
    typeof value === "string" ? names.find((name) => name === value.toLowerCase()) : undefined

const durationOf = Schema.decodeUnknownOption(Schema.DurationFromString)

const toPeriod = (value: unknown): Duration.Duration | undefined => {
  if (typeof value !== "string") return undefined
  const word = value.toLowerCase()
  const period = periods.get(word) ?? Option.getOrUndefined(durationOf(word))
  return period !== undefined && Duration.isFinite(period) && Duration.isPositive(period) ? period : undefined
}

export interface Read {
  /** If there are problems, only the parts without problems. */
  readonly manifest: Manifest
  readonly problems: ReadonlyArray<Problem>
}

/** Reads a manifest in either spelling. */
export const read = (input: unknown): Read => {
  const steps = reading(input)
  let step = steps.next()
  while (step.done !== true) step = steps.next()
  return step.value
}

/** Lists the keys of a mapping. */
export type KeysOf = (mapping: object) => ReadonlyArray<string>

/** Something that can be interrupted after each resource and each unknown field, so that a large manifest blocks nobody. */
type Steps<A> = Generator<undefined, A, undefined>

/** The same as `read`, step by step. */
export function* reading(input: unknown, keysOf: KeysOf = Object.keys): Steps<Read> {
  const problems: Array<Problem> = []
  const context: Context = {
    keysOf,
    report: (path, message) => {
      problems.push({ path, message })
    }
  }
  const environments = (value: unknown, path: Path): Steps<Manifest["environments"]> =>
    entries(context, value, path, "a mapping of environments", (value, path): Steps<Resources> =>
      entries(context, value, path, "a mapping of resources", (value, path) => resource(context, value, path))
    )

  if (!isMapping(input)) {
    context.report([], must("a mapping with environments", input))
    return { manifest: { environments: {} }, problems }
  }
  if (!Object.hasOwn(input, "resourceDefaults")) {
    yield* noOtherFields(context, input, [], ["environments"])
    return { manifest: { environments: yield* environments(own(input, "environments"), ["environments"]) }, problems }
  }
  // The manifest of a Golem application. Its other fields, which can also have environments, are not about quotas.
  if (declaresResources(own(input, "environments"), keysOf)) {
    context.report(["environments"], "says the same as resourceDefaults, keep one of the two")
  }
  return {
    manifest: { environments: yield* environments(input["resourceDefaults"], ["resourceDefaults"]) },
    problems
  }
}

interface Context {
  readonly keysOf: KeysOf
  readonly report: (path: Path, message: string) => void
}

/** Decodes a field. Returns `undefined` and reports a problem if it is wrong; an optional field has the default `absent`. */
const field = <A>(
  context: Context,
  self: Mapping,
  path: Path,
  expected: string,
  decode: (value: unknown) => A | undefined,
  absent?: A
): A | undefined => {
  const value = own(self, path[path.length - 1] ?? "")
  if (value === undefined && absent !== undefined) return absent
  const decoded = value === undefined ? undefined : decode(value)
  if (decoded === undefined) context.report(path, must(expected, value))
  return decoded
}

function* noOtherFields(context: Context, self: Mapping, path: Path, fields: ReadonlyArray<string>): Steps<void> {
  for (const key of context.keysOf(self)) {
    if (fields.includes(key)) continue
    context.report([...path, key], `unknown field, known are ${fields.join(", ")}`)
    yield
  }
}

/** Decodes all entries of a mapping whose keys are names. */
function* entries<A>(
  context: Context,
  value: unknown,
  path: Path,
  what: string,
  decode: (value: unknown, path: Path) => Steps<A | undefined>
): Steps<{ readonly [name: string]: A }> {
  const decoded: { readonly [name: string]: A } = {}
  if (!isMapping(value)) {
    context.report(path, must(what, value))
    return decoded
  }
  for (const name of context.keysOf(value)) {
    if (name.trim() === "") context.report([...path, name], "the name must not be empty")
    const a = yield* decode(value[name], [...path, name])
    if (a !== undefined) put(decoded, name, a)
    yield
  }
  return decoded
}

function* limit(context: Context, self: Mapping, path: Path): Steps<Limit.Limit | undefined> {
  const type = field(context, self, [...path, "type"], listed(limitTypes), toName(limitTypes))
  if (type === undefined) return undefined
  yield* noOtherFields(context, self, path, fieldsOf[type])
  if (type === "unlimited") return Limit.unlimited
  // 0 is refused for every type: a resource that must not be used is not declared at all.
  const amount = (key: string, least: number, absent?: number) =>
    field(
      context,
      self,
      [...path, key],
      `a whole number from ${least} to ${Number.MAX_SAFE_INTEGER}`,
      (value) => {
        const n = toAmount(value)
        return n !== undefined && n >= least ? n : undefined
      },
      absent
    )
  const value = amount("value", 1)
  if (type === "capacity" || type === "concurrency") return value === undefined ? undefined : Limit[type](value)
  const period = field(
    context,
    self,
    [...path, "period"],
    `${listed([...periods.keys(), 'a duration above 0 such as "30 seconds"'])}`,
    toPeriod
  )
  if (type === "window") {
    return value === undefined || period === undefined ? undefined : Limit.window({ amount: value, every: period })
  }
  // A burst is at least the value. If the value is wrong, only problems that every burst would have are reported.
  const burst = amount("max", value ?? 1, value ?? 1)
  const refill = field(context, self, [...path, "refill"], listed(refills), toName(refills), "continuous")
  if (value === undefined || period === undefined || burst === undefined || refill === undefined) return undefined
  return Limit.rate({ amount: value, per: period, burst, refill })
}

function* resource(context: Context, value: unknown, path: Path): Steps<Resource | undefined> {
  if (!isMapping(value)) {
    context.report(path, must("a mapping with a limit", value))
    return undefined
  }
  yield* noOtherFields(context, value, path, ["limit", "enforcement", "enforcementAction", "unit", "units"])
  const declared = field(context, value, [...path, "limit"], "a mapping with a type", (value) =>
    isMapping(value) ? value : undefined
  )
  const decoded = declared === undefined ? undefined : yield* limit(context, declared, [...path, "limit"])
  const problem = decoded === undefined ? undefined : Limit.problem(decoded)
  if (problem !== undefined) context.report([...path, "limit"], problem)
  const action = Object.hasOwn(value, "enforcementAction") ? "enforcementAction" : "enforcement"
  if (action === "enforcementAction" && Object.hasOwn(value, "enforcement")) {
    context.report([...path, action], "says the same as enforcement, keep one of the two")
  }
  const enforcement = field(context, value, [...path, action], listed(enforcements), toName(enforcements), "reject")
  const unit = field(context, value, [...path, "unit"], "a word", toText, "unit")
  const units = field(context, value, [...path, "units"], "a word", toText, `${unit ?? "unit"}s`)
  return decoded === undefined || enforcement === undefined || unit === undefined || units === undefined
    ? undefined
    : { limit: decoded, enforcement, unit, units }
}

const declaresResources = (environments: unknown, keysOf: KeysOf): boolean =>
  someEntry(environments, keysOf, (resources) =>
    someEntry(resources, keysOf, (resource) => isMapping(resource) && Object.hasOwn(resource, "limit"))
  )

const someEntry = (self: unknown, keysOf: KeysOf, holds: (value: unknown) => boolean): boolean =>
  isMapping(self) && keysOf(self).some((key) => holds(self[key]))

/** Writes a manifest in the first spelling, with nothing left to defaults except a burst equal to the value. */
export const write = (manifest: Manifest): Schema.JsonObject => ({
  environments: mapValues(manifest.environments, (resources) =>
    mapValues(resources, ({ enforcement, limit, unit, units }) => ({
      limit: writeLimit(limit),
      enforcement,
      unit,
      units
    }))
  )
})

const mapValues = <A, B>(self: { readonly [name: string]: A }, f: (a: A) => B): { readonly [name: string]: B } =>
  Object.fromEntries(Object.entries(self).map(([name, a]) => [name, f(a)]))

const writeLimit = (limit: Limit.Limit): Schema.JsonObject => {
  switch (limit._tag) {
    case "Rate":
      return {
        type: "rate",
        value: limit.amount,
        period: writePeriod(limit.per),
        max: limit.burst,
        refill: limit.refill ?? "continuous"
      }
    case "Window":
      return { type: "window", value: limit.amount, period: writePeriod(limit.every) }
    case "Capacity":
      return { type: "capacity", value: limit.amount }
    case "Concurrency":
      return { type: "concurrency", value: limit.amount }
    case "Unlimited":
      return { type: "unlimited" }
  }
}

const writePeriod = (period: Duration.Duration): string => {
  if (!Duration.isFinite(period)) return String(period)
  const nanos = Duration.toNanosUnsafe(period)
  for (const [name, millis] of Object.entries(units).reverse()) {
    const unit = BigInt(millis) * 1_000_000n
    if (nanos % unit === 0n) return nanos === unit ? name : `${nanos / unit} ${name}s`
  }
  return String(period)
}
