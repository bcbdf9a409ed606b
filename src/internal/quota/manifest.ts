/**
 * How a manifest is written: its fields, both spellings, and everything that can be wrong with them.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { Enforcement } from "../../BudgetStore.ts"
import * as Limit from "../../Limit.ts"
import type { QuotaManifest, Resource, Resources } from "../../QuotaManifest.ts"
import { isAmount } from "../amount.ts"

export interface Problem {
  readonly path: ReadonlyArray<string>
  readonly message: string
}

type Path = ReadonlyArray<string>

interface Mapping {
  readonly [key: string]: unknown
}

const units = { second: 1_000, minute: 60_000, hour: 3_600_000, day: 86_400_000 } as const

/** What a `period` can be called; a month and a year are fixed durations here, as in Golem. */
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

/** What was found, in a few words whatever its size. */
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

/** Reads a manifest in either spelling. With problems, the manifest holds only what has none. */
export const read = (
  input: unknown
): { readonly manifest: QuotaManifest; readonly problems: ReadonlyArray<Problem> } => {
  const problems: Array<Problem> = []
  const report = (path: Path, message: string) => {
    problems.push({ path, message })
  }

  /** A field, or `undefined` and a problem; a field that may be absent has a value to take its place. */
  const field = <A>(
    self: Mapping,
    path: Path,
    expected: string,
    decode: (value: unknown) => A | undefined,
    absent?: A
  ): A | undefined => {
    const value = own(self, path[path.length - 1] ?? "")
    if (value === undefined && absent !== undefined) return absent
    const decoded = value === undefined ? undefined : decode(value)
    if (decoded === undefined) report(path, must(expected, value))
    return decoded
  }

  const noOtherFields = (self: Mapping, path: Path, fields: ReadonlyArray<string>) => {
    for (const key of Object.keys(self)) {
      if (!fields.includes(key)) report([...path, key], `unknown field, known are ${fields.join(", ")}`)
    }
  }

  /** All the entries of a mapping whose keys are names. */
  const entries = <A>(
    value: unknown,
    path: Path,
    what: string,
    decode: (value: unknown, path: Path) => A | undefined
  ): { readonly [name: string]: A } => {
    if (!isMapping(value)) {
      report(path, must(what, value))
      return {}
    }
    const decoded: Array<readonly [string, A]> = []
    for (const [name, entry] of Object.entries(value)) {
      if (name.trim() === "") report([...path, name], "the name must not be empty")
      const a = decode(entry, [...path, name])
      if (a !== undefined) decoded.push([name, a])
    }
    return Object.fromEntries(decoded)
  }

  const limit = (self: Mapping, path: Path): Limit.Limit | undefined => {
    const type = field(self, [...path, "type"], listed(limitTypes), toName(limitTypes))
    if (type === undefined) return undefined
    noOtherFields(self, path, fieldsOf[type])
    if (type === "unlimited") return Limit.unlimited
    // 0 is refused for every type: a resource of which nothing may be used is one that is not declared
    const amount = (key: string, least: number, absent?: number) =>
      field(
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
      self,
      [...path, "period"],
      `${listed([...periods.keys(), 'a duration above 0 such as "30 seconds"'])}`,
      toPeriod
    )
    if (type === "window") {
      return value === undefined || period === undefined ? undefined : Limit.window({ amount: value, every: period })
    }
    // the value is the least a burst can be; where it is wrong itself, only what is wrong with any burst is said
    const burst = amount("max", value ?? 1, value ?? 1)
    const refill = field(self, [...path, "refill"], listed(refills), toName(refills), "continuous")
    if (value === undefined || period === undefined || burst === undefined || refill === undefined) return undefined
    return Limit.rate({ amount: value, per: period, burst, refill })
  }

  const resource = (value: unknown, path: Path): Resource | undefined => {
    if (!isMapping(value)) {
      report(path, must("a mapping with a limit", value))
      return undefined
    }
    noOtherFields(value, path, ["limit", "enforcement", "enforcementAction", "unit", "units"])
    const declared = field(value, [...path, "limit"], "a mapping with a type", (value) =>
      isMapping(value) ? value : undefined
    )
    const decoded = declared === undefined ? undefined : limit(declared, [...path, "limit"])
    const problem = decoded === undefined ? undefined : Limit.problem(decoded)
    if (problem !== undefined) report([...path, "limit"], problem)
    const action = Object.hasOwn(value, "enforcementAction") ? "enforcementAction" : "enforcement"
    if (action === "enforcementAction" && Object.hasOwn(value, "enforcement")) {
      report([...path, action], "says the same as enforcement, keep one of the two")
    }
    const enforcement = field(value, [...path, action], listed(enforcements), toName(enforcements), "reject")
    const unit = field(value, [...path, "unit"], "a word", toText, "unit")
    const units = field(value, [...path, "units"], "a word", toText, `${unit ?? "unit"}s`)
    return decoded === undefined || enforcement === undefined || unit === undefined || units === undefined
      ? undefined
      : { limit: decoded, enforcement, unit, units }
  }

  const environments = (value: unknown, path: Path): QuotaManifest["environments"] =>
    entries(value, path, "a mapping of environments", (value, path): Resources =>
      entries(value, path, "a mapping of resources", resource)
    )

  if (!isMapping(input)) {
    report([], must("a mapping with environments", input))
    return { manifest: { environments: {} }, problems }
  }
  if (!Object.hasOwn(input, "resourceDefaults")) {
    noOtherFields(input, [], ["environments"])
    return { manifest: { environments: environments(own(input, "environments"), ["environments"]) }, problems }
  }
  // The manifest of a Golem application: what else it says, in environments of its own too, is not about quotas.
  if (declaresResources(own(input, "environments"))) {
    report(["environments"], "says the same as resourceDefaults, keep one of the two")
  }
  return { manifest: { environments: environments(input["resourceDefaults"], ["resourceDefaults"]) }, problems }
}

const declaresResources = (environments: unknown): boolean =>
  isMapping(environments) &&
  Object.values(environments).some(
    (resources) =>
      isMapping(resources) &&
      Object.values(resources).some((resource) => isMapping(resource) && Object.hasOwn(resource, "limit"))
  )

/** Writes a manifest in the first spelling, with nothing left to defaults except a burst equal to the value. */
export const write = (manifest: QuotaManifest): Schema.JsonObject => ({
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
