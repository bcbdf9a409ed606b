import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import {
  Config,
  ConfigProvider,
  Duration,
  Effect,
  Equal,
  Fiber,
  FileSystem,
  Latch,
  Option,
  PlatformError,
  Queue,
  Result,
  Schema,
  type Scope,
  Stream
} from "effect"
import { TestClock } from "effect/testing"
import { Limit } from "../src/index.ts"
import { QuotaManifest } from "../src/quota/index.ts"
import * as yaml from "../src/internal/quota/yaml.ts"
import { forSeeds, make, type Random } from "./utils/random.ts"

type Manifest = QuotaManifest.QuotaManifest

// The parser is loaded with the first text.
await Effect.runPromise(QuotaManifest.parse("environments: {}"))

const parsed = (text: string): Manifest => Effect.runSync(QuotaManifest.parse(text))

/** The lines that the error says, of a file `quotas.yaml`. */
const problems = (text: string): ReadonlyArray<string> =>
  Effect.runSync(Effect.flip(QuotaManifest.parse(text, { file: "quotas.yaml" }))).message.split("\n")

const equal = (actual: unknown, expected: unknown) =>
  assert.isTrue(Equal.equals(actual, expected), JSON.stringify({ actual, expected }))

/** The limit of a resource whose `limit` is written like this. */
const limitOf = (written: string): Limit.Limit | undefined =>
  parsed(`environments: { e: { r: { limit: ${written} } } }`).environments["e"]?.["r"]?.limit

const decode = Schema.decodeUnknownSync(QuotaManifest.QuotaManifest)
const encode = Schema.encodeSync(QuotaManifest.QuotaManifest)

const MAX = Number.MAX_SAFE_INTEGER
const STILL_OPEN = "a quote, bracket or brace is still open after this line, close it or indent the next line further"
const PERIODS = 'second, minute, hour, day, month, year or a duration above 0 such as "30 seconds"'

describe("a manifest", () => {
  const production = {
    "api-tokens": {
      limit: Limit.rate({ amount: 100_000, per: "1 minute", burst: 200_000 }),
      enforcement: "throttle",
      unit: "token",
      units: "tokens"
    },
    workers: { limit: Limit.concurrency(8), enforcement: "reject", unit: "unit", units: "units" }
  }

  it("is read from YAML", () => {
    const text = `
# what we may use
environments:
  production:
    api-tokens:
      limit: { type: rate, value: 100000, period: minute, max: 200000, refill: continuous }
      enforcement: throttle
      unit: token
    workers: { limit: { type: concurrency, value: 8 } }
  test: {}
`
    equal(parsed(text), { environments: { production, test: {} } })
  })

  it("is read from JSON", () => {
    const text = JSON.stringify(
      encode(parsed(`environments: { p: { r: { limit: { type: unlimited } } } }`)),
      null,
      "\t"
    )
    equal(parsed(text), {
      environments: { p: { r: { limit: Limit.unlimited, enforcement: "reject", unit: "unit", units: "units" } } }
    })
  })

  it("is read in Golem's spelling, and what else a Golem application says is left alone", () => {
    const text = `
manifestVersion: 1.5.0
app: my-app
environments:
  local: { server: local, componentPresets: debug }
components: { "my:component": { templates: ts } }
resourceDefaults:
  production:
    api-tokens:
      limit:
        type: Rate
        value: 100000
        period: minute
        max: 200000
      enforcementAction: throttle
      unit: token
      units: tokens
    workers:
      limit: { type: Concurrency, value: 8 }
      enforcementAction: Reject
`
    equal(parsed(text), { environments: { production } })
  })

  it("may use what YAML has for repetition", () => {
    const text = `
environments:
  test: &shared
    workers: &workers { limit: { type: concurrency, value: 8 } }
  production:
    <<: *shared
    more-workers: { <<: *workers, enforcement: throttle }
`
    assert.deepStrictEqual(Object.keys(parsed(text).environments["production"] ?? {}), ["workers", "more-workers"])
  })

  it("may use any name that is not empty", () => {
    const names = ["__proto__", "constructor", "a.b", "llm/tokens", "two words", "1"]
    const text = JSON.stringify({
      environments: Object.fromEntries([
        ["__proto__", Object.fromEntries(names.map((name) => [name, { limit: { type: "unlimited" } }]))]
      ])
    })
    const manifest = parsed(text)
    assert.deepStrictEqual(Object.keys(manifest.environments), ["__proto__"])
    const resources = Effect.runSync(QuotaManifest.environment(manifest, "__proto__"))
    assert.sameMembers(Object.keys(resources), names)
    equal(decode(encode(manifest)), manifest)
  })

  const limits: ReadonlyArray<readonly [written: string, limit: Limit.Limit]> = [
    ["{ type: capacity, value: 5 }", Limit.capacity(5)],
    ["{ type: Capacity, value: 1e3 }", Limit.capacity(1000)],
    [`{ type: CONCURRENCY, value: ${MAX} }`, Limit.concurrency(MAX)],
    ['{ type: capacity, value: "12" }', Limit.capacity(12)],
    ["{ type: unlimited }", Limit.unlimited],
    ["{ type: rate, value: 3, period: second }", Limit.rate({ amount: 3, per: "1 second" })],
    ["{ type: rate, value: 3, period: Hour, max: 3 }", Limit.rate({ amount: 3, per: "1 hour" })],
    ["{ type: rate, value: 3, period: day, max: 4 }", Limit.rate({ amount: 3, per: "1 day", burst: 4 })],
    ["{ type: rate, value: 3, period: month }", Limit.rate({ amount: 3, per: "30 days" })],
    ["{ type: rate, value: 3, period: Year }", Limit.rate({ amount: 3, per: "365 days" })],
    ["{ type: rate, value: 3, period: 30 seconds }", Limit.rate({ amount: 3, per: "30 seconds" })],
    ["{ type: rate, value: 3, period: 1.5 Millis }", Limit.rate({ amount: 3, per: "1500 micros" })],
    [
      "{ type: rate, value: 3, period: minute, refill: interval }",
      Limit.rate({ amount: 3, per: "1 minute", refill: "interval" })
    ],
    [
      "{ type: rate, value: 3, period: minute, refill: Continuous }",
      Limit.rate({ amount: 3, per: "1 minute", refill: "continuous" })
    ],
    ["{ type: window, value: 3, period: 2 hours }", Limit.window({ amount: 3, every: "2 hours" })]
  ]
  for (const [written, limit] of limits) {
    it(`declares ${Limit.format(limit)} by ${written}`, () => equal(limitOf(written), limit))
  }
})

describe("a bad manifest", () => {
  const amount = (least: number) => `must be a whole number from ${least} to ${MAX}`
  const limits: ReadonlyArray<readonly [written: string, field: string, message: string]> = [
    [
      "{ type: bucket, value: 1 }",
      "limit.type",
      `must be rate, capacity, concurrency, window or unlimited, not "bucket"`
    ],
    ["{ value: 1 }", "limit.type", "is missing, it must be rate, capacity, concurrency, window or unlimited"],
    ["{ type: 7 }", "limit.type", "must be rate, capacity, concurrency, window or unlimited, not 7"],
    ["[]", "limit", "must be a mapping with a type, not a list"],
    ["rate", "limit", `must be a mapping with a type, not "rate"`],
    ["{ type: rate, period: day }", "limit.value", `is missing, it ${amount(1)}`],
    ["{ type: rate, value: 0, period: day }", "limit.value", `${amount(1)}, not 0`],
    ["{ type: capacity, value: 0 }", "limit.value", `${amount(1)}, not 0`],
    ["{ type: concurrency, value: -1 }", "limit.value", `${amount(1)}, not -1`],
    ["{ type: capacity, value: 1.5 }", "limit.value", `${amount(1)}, not 1.5`],
    ["{ type: capacity, value: .nan }", "limit.value", `${amount(1)}, not NaN`],
    ["{ type: capacity, value: .inf }", "limit.value", `${amount(1)}, not Infinity`],
    ["{ type: capacity, value: 9007199254740992 }", "limit.value", `${amount(1)}, not 9007199254740992`],
    ['{ type: capacity, value: "9007199254740992" }', "limit.value", `${amount(1)}, not "9007199254740992"`],
    ["{ type: capacity, value: 100k }", "limit.value", `${amount(1)}, not "100k"`],
    ["{ type: capacity, value: { n: 1 } }", "limit.value", `${amount(1)}, not a mapping`],
    ["{ type: capacity, value: }", "limit.value", `${amount(1)}, not nothing`],
    ["{ type: rate, value: 10, period: day, max: 9 }", "limit.max", `${amount(10)}, not 9`],
    ["{ type: rate, value: 10, period: day, max: .5 }", "limit.max", `${amount(10)}, not 0.5`],
    ["{ type: rate, value: 10 }", "limit.period", `is missing, it must be ${PERIODS}`],
    ["{ type: rate, value: 10, period: fortnight }", "limit.period", `must be ${PERIODS}, not "fortnight"`],
    ["{ type: rate, value: 10, period: 60 }", "limit.period", `must be ${PERIODS}, not 60`],
    ["{ type: rate, value: 10, period: 0 seconds }", "limit.period", `must be ${PERIODS}, not "0 seconds"`],
    ["{ type: rate, value: 10, period: -1 days }", "limit.period", `must be ${PERIODS}, not "-1 days"`],
    ["{ type: rate, value: 10, period: Infinity }", "limit.period", `must be ${PERIODS}, not "Infinity"`],
    [
      "{ type: rate, value: 10, period: day, refill: all }",
      "limit.refill",
      `must be continuous or interval, not "all"`
    ],
    [
      "{ type: rate, value: 10, period: day, burst: 20 }",
      "limit.burst",
      "unknown field, known are type, value, period, max, refill"
    ],
    ["{ type: capacity, value: 10, period: day }", "limit.period", "unknown field, known are type, value"],
    ["{ type: unlimited, value: 10 }", "limit.value", "unknown field, known are type"],
    // what only the limit itself can say
    [
      `{ type: rate, value: ${MAX}, period: 1 nano }`,
      "limit",
      `the rate of ${MAX} per 1ns cannot be counted exactly in whole milliseconds`
    ],
    [
      "{ type: window, value: 1, period: 1.5 millis }",
      "limit",
      'the "every" of a window must be a whole number of milliseconds, at least 1, not 1ms 500000ns'
    ]
  ]
  for (const [written, field, message] of limits) {
    it(`says ${field} ${message} of ${written}`, () => {
      assert.deepStrictEqual(problems(`environments: { e: { r: { limit: ${written} } } }`), [
        `quotas.yaml: environments.e.r.${field}: ${message}`
      ])
    })
  }

  const ok = "limit: { type: unlimited }"
  const others: ReadonlyArray<readonly [text: string, said: string]> = [
    ["", "must be a mapping with environments, not nothing"],
    ["- a", "must be a mapping with environments, not a list"],
    ["{}", "environments: is missing, it must be a mapping of environments"],
    ["enviroments: {}\nenvironments: {}", "enviroments: unknown field, known are environments"],
    ["environments:", "environments: must be a mapping of environments, not nothing"],
    ["environments: { e: }", "environments.e: must be a mapping of resources, not nothing"],
    ["environments: { e: [] }", "environments.e: must be a mapping of resources, not a list"],
    ["environments: { e: { r: 1 } }", "environments.e.r: must be a mapping with a limit, not 1"],
    ["environments: { e: { r: {} } }", "environments.e.r.limit: is missing, it must be a mapping with a type"],
    ['environments: { "": {} }', 'environments."": the name must not be empty'],
    [`environments: { e: { " ": { ${ok} } } }`, 'environments.e." ": the name must not be empty'],
    [`environments: { e: { "a.b": { ${ok}, unit: "" } } }`, `environments.e."a.b".unit: must be a word, not ""`],
    [`environments: { e: { r: { ${ok}, units: 3 } } }`, "environments.e.r.units: must be a word, not 3"],
    [
      `environments: { e: { r: { ${ok}, enforcement: block } } }`,
      `environments.e.r.enforcement: must be reject, throttle or terminate, not "block"`
    ],
    [
      `environments: { e: { r: { ${ok}, enforcment: throttle } } }`,
      "environments.e.r.enforcment: unknown field, known are limit, enforcement, enforcementAction, unit, units"
    ],
    [
      `resourceDefaults: { e: { r: { ${ok}, enforcementAction: ${"x".repeat(50)} } } }`,
      `resourceDefaults.e.r.enforcementAction: must be reject, throttle or terminate, not "${"x".repeat(40)}..."`
    ],
    [
      `environments: { e: { r: { ${ok}, enforcement: reject, enforcementAction: reject } } }`,
      "environments.e.r.enforcementAction: says the same as enforcement, keep one of the two"
    ],
    [
      `environments: { e: { r: { ${ok} } } }\nresourceDefaults: { e: { r: { ${ok} } } }`,
      "environments: says the same as resourceDefaults, keep one of the two"
    ]
  ]
  for (const [text, said] of others) {
    it(`says ${said}`, () => assert.deepStrictEqual(problems(text), [`quotas.yaml: ${said}`]))
  }

  it("says all of it at once", () => {
    const text = `
environments:
  production:
    api-tokens:
      limit: { type: rate, value: 0, period: fortnight, burst: 2 }
      enforcement: block
    files: { limit: { type: capacity } }
  test:
    workers: { limit: { type: threads, value: 8 }, units: }
`
    assert.deepStrictEqual(problems(text), [
      "quotas.yaml: environments.production.api-tokens.limit.burst: unknown field, known are type, value, period, max, refill",
      `quotas.yaml: environments.production.api-tokens.limit.value: ${amount(1)}, not 0`,
      `quotas.yaml: environments.production.api-tokens.limit.period: must be ${PERIODS}, not "fortnight"`,
      'quotas.yaml: environments.production.api-tokens.enforcement: must be reject, throttle or terminate, not "block"',
      `quotas.yaml: environments.production.files.limit.value: is missing, it ${amount(1)}`,
      'quotas.yaml: environments.test.workers.limit.type: must be rate, capacity, concurrency, window or unlimited, not "threads"',
      "quotas.yaml: environments.test.workers.units: must be a word, not nothing"
    ])
  })

  it("has problems with their paths, also over the wire", () => {
    const error = Effect.runSync(Effect.flip(QuotaManifest.parse("environments: { a: { b: {} } }")))
    assert.deepStrictEqual(error.problems, [
      { path: ["environments", "a", "b", "limit"], message: "is missing, it must be a mapping with a type" }
    ])
    assert.isUndefined(error.file)
    const Wire = Schema.fromJsonString(Schema.toCodecJson(QuotaManifest.ManifestError))
    const received = Schema.decodeSync(Wire)(Schema.encodeSync(Wire)(error))
    assert.instanceOf(received, QuotaManifest.ManifestError)
    assert.strictEqual(received.message, "environments.a.b.limit: is missing, it must be a mapping with a type")
  })

  const r = `{ ${ok} }`
  const texts: ReadonlyArray<readonly [what: string, text: string, said: string]> = [
    [
      "an environment that is there twice",
      `environments:\n  a: {}\n  b: {}\n  a: {}`,
      'line 4: the key "a" is there twice'
    ],
    [
      "a resource that is there twice",
      `environments:\n  e:\n    r: ${r}\n    r:\n      ${ok}\n`,
      'line 4: the key "r" is there twice'
    ],
    [
      "a field that is there twice",
      `environments:\n  e:\n    r: { ${ok}, ${ok} }`,
      'line 3: the key "limit" is there twice'
    ],
    [
      "a resource that is there twice in JSON",
      `{\n\t"environments": {\n\t\t"e": {\n\t\t\t"r": {"limit": {"type": "unlimited"}},\n\t\t\t"s": 1,\n\t\t\t"r": {\n\t\t\t\t"limit": 1\n\t\t\t}\n\t\t}\n\t}\n}`,
      'line 6: the key "r" is there twice'
    ],
    [
      "JSON that is there twice in one line",
      `{"environments":{},"environments":{}}`,
      'line 1: the key "environments" is there twice'
    ],
    ["a brace that is not closed", "environments:\n  e: { r: { limit: 1 }\n  f: {}\n", `line 2: ${STILL_OPEN}`],
    [
      "JSON without a colon",
      `{\n  "environments": {\n    "e" {}\n  }\n}`,
      "line 3: expected ',' or ':' or the closing bracket or brace"
    ],
    ["a tab", "environments:\n\te: {}", "line 2: tabs cannot be used for indentation, use spaces"],
    ["a quote that is not closed", 'environments:\n  e: "x\n', `line 2: ${STILL_OPEN}`],
    ["an alias of nothing", "a: 1\nb: *c\nd: 1", "line 2: unknown alias *c, nothing above is marked &c"],
    [
      "a quote that is not closed before other keys",
      'environments:\n  e: "x\n\n  f: {}\ng: {}\n',
      `line 2: ${STILL_OPEN}`
    ],
    [
      "a key in quotes that is there twice",
      `environments:\n  "a\\tb: c": {}\n  'a\tb: c': {}`,
      'line 3: the key "a\\tb: c" is there twice'
    ],
    [
      "a text that needs quotes",
      "environments:\n  e:\n    unit: a: b",
      'line 3: bad indentation, or a text with ": " in it that needs quotes'
    ],
    ["a key without a colon", "environments:\n  a: {}\n  b\n", "line 3: expected ':' after the key"],
    ["a tag of nothing", "environments: {}\na: !b c", "line 2: unknown scalar tag !<!b>"],
    ["a merge of nothing", "a:\n  <<: 1", "line 2: << must be given a mapping or a list of them"],
    ["text after the end of JSON", "{}\n}", "line 2: expected the end of the text, check the indentation"],
    [
      "a document after one that ended",
      "# first\n--- # still\na: |\n  ---\n...\n---\nb: 1",
      "line 5: a second document starts here, a manifest has only one"
    ],
    [
      "two documents",
      "environments: {}\n---\nenvironments: {}",
      "line 2: a second document starts here, a manifest has only one"
    ]
  ]
  for (const [what, text, said] of texts) {
    it(`says the line of ${what}`, () => {
      assert.deepStrictEqual(problems(text), [`quotas.yaml: ${said}`])
      assert.deepStrictEqual(problems(text.replaceAll("\n", "\r\n")), [`quotas.yaml: ${said}`])
    })
  }
})

describe("YAML", () => {
  it("has JSON as a part of it", () => {
    const pieces = [
      "",
      "a",
      "b c",
      "x: y",
      "# no",
      "a #b",
      "'",
      '"',
      "\\",
      "\n",
      "\t",
      "é",
      "😀",
      "null",
      "1",
      "---",
      "..."
    ]
    const marks = [
      "- a",
      "[",
      "{",
      "}",
      ",",
      "&a",
      "*a",
      "<<",
      "!t",
      "|",
      ">",
      "%",
      "@",
      " a ",
      "~",
      "0x1",
      "__proto__",
      "?"
    ]
    const text = (random: Random) => random.pick([...pieces, ...marks]) + random.pick(["", "", ...pieces])
    const value = (random: Random, depth: number): Schema.Json => {
      switch (random.int(0, depth === 0 ? 4 : 6)) {
        case 0:
          return random.pick([null, true, false])
        case 1:
          return random.pick([0, -1, 1.5, 1e21, 1e-7, -2.5e-10, MAX])
        case 5:
          return Array.from({ length: random.int(0, 3) }, () => value(random, depth - 1))
        case 6:
          return Object.fromEntries(
            Array.from({ length: random.int(0, 3) }, () => [text(random), value(random, depth - 1)])
          )
        default:
          return text(random)
      }
    }
    forSeeds(1000, (seed) => {
      const json = value(make(seed), 4)
      for (const indent of [undefined, 2, "\t"]) {
        const written = JSON.stringify(json, null, indent)
        const read = yaml.parse(written)
        assert.strictEqual(JSON.stringify("value" in read && read.value, null, indent), written)
      }
    })
  })
})

const duration = (random: Random): Duration.Duration =>
  random.pick([
    Duration.days(random.int(1, 400)),
    Duration.hours(random.int(1, 50)),
    Duration.minutes(random.int(1, 100)),
    Duration.seconds(random.int(1, 100)),
    Duration.millis(random.int(1, 1e12)),
    Duration.nanos(BigInt(random.int(1, 1e15)))
  ])

const limit = (random: Random): Limit.Limit => {
  const amount = random.chance(0.1) ? random.int(1, MAX) : random.int(1, 1_000_000)
  const every = Duration.millis(Math.ceil(Duration.toMillis(duration(random))))
  const rate = Limit.rate({
    amount,
    per: duration(random),
    burst: random.int(amount, MAX),
    refill: random.pick(["continuous", "interval"])
  })
  return random.pick([
    ...(Limit.problem(rate) === undefined ? [rate] : []),
    Limit.capacity(amount),
    Limit.concurrency(amount),
    Limit.window({ amount, every }),
    Limit.unlimited
  ])
}

const some = <A>(random: Random, make: () => A): { readonly [name: string]: A } =>
  Object.fromEntries(
    Array.from({ length: random.int(0, 4) }, () => [
      random.pick(["a", "b", "api-tokens", "a.b", "true", "007", "ü"]) + random.int(0, 99),
      make()
    ])
  )

const anyManifest = (random: Random, units: ReadonlyArray<string>): Manifest => ({
  environments: some(random, () =>
    some(random, () => ({
      limit: limit(random),
      enforcement: random.pick(["reject", "throttle", "terminate"]),
      unit: random.pick(units),
      units: random.pick(["tokens", "units"])
    }))
  )
})

describe("the schema of a manifest", () => {
  it("reads back what it wrote, also as JSON, as text and through a Config", () => {
    const Json = Schema.fromJsonString(Schema.toCodecJson(QuotaManifest.QuotaManifest))
    const config = Config.schema(QuotaManifest.QuotaManifest, "quotas")
    let resources = 0
    forSeeds(300, (seed) => {
      const manifest = anyManifest(make(seed), ["token", "null", "1", "row: #"])
      resources += Object.values(manifest.environments).flatMap((environment) => Object.keys(environment)).length
      const written = encode(manifest)
      equal(decode(written), manifest)
      equal(Schema.decodeSync(Json)(Schema.encodeSync(Json)(manifest)), manifest)
      equal(parsed(JSON.stringify(written)), manifest)
      // a Config reads a text like "1" as a number, and has no empty mappings
      const plain = anyManifest(make(seed), ["token"])
      const environments = Object.values(plain.environments)
      if (environments.length === 0 || environments.some((environment) => Object.keys(environment).length === 0)) return
      equal(Effect.runSync(config.parse(ConfigProvider.fromUnknown({ quotas: encode(plain) }))), plain)
    })
    assert.isAbove(resources, 300)
  })

  it("writes what people would", () => {
    const manifest = parsed(`resourceDefaults: { e: { r: { limit: { type: Rate, value: 5, period: 60 seconds } } } }`)
    assert.deepStrictEqual(encode(manifest), {
      environments: {
        e: {
          r: {
            limit: { type: "rate", value: 5, period: "minute", max: 5, refill: "continuous" },
            enforcement: "reject",
            unit: "unit",
            units: "units"
          }
        }
      }
    })
  })

  const rejected = (input: unknown): string =>
    Effect.runSync(Effect.flip(Schema.decodeUnknownEffect(QuotaManifest.QuotaManifest)(input))).message

  it("says all problems at once", () => {
    assert.strictEqual(
      rejected({ environments: { e: { r: { limit: { type: "rate", value: 0, period: "day" }, unitz: "x" } } } }),
      [
        'unknown field, known are limit, enforcement, enforcementAction, unit, units\n  at ["environments"]["e"]["r"]["unitz"]',
        `must be a whole number from 1 to ${MAX}, not 0\n  at ["environments"]["e"]["r"]["limit"]["value"]`
      ].join("\n")
    )
  })

  it("sees a misspelt field in a Config too", () => {
    const env = { q_environments_e_r_limit_type: "capacity", q_environments_e_r_limit_valu: "1" }
    const provider = ConfigProvider.fromEnv({ env }).pipe(ConfigProvider.nested("q"))
    const error = Effect.runSync(Effect.flip(Config.schema(QuotaManifest.QuotaManifest).parse(provider)))
    assert.include(error.message, "unknown field, known are type, value")
    assert.include(error.message, "is missing, it must be a whole number")
  })

  it("does not write what it would not read", () => {
    const bad: Manifest = {
      environments: { e: { r: { limit: Limit.capacity(0), enforcement: "reject", unit: "unit", units: "units" } } }
    }
    const error = Effect.runSync(Effect.flip(Schema.encodeEffect(QuotaManifest.QuotaManifest)(bad)))
    assert.include(error.message, `must be a whole number from 1 to ${MAX}, not 0`)
  })
})

describe("an environment", () => {
  const r: QuotaManifest.Resource = { limit: Limit.unlimited, enforcement: "reject", unit: "unit", units: "units" }
  const two: Manifest = { environments: { production: { r }, test: {} } }
  const one: Manifest = { environments: { production: { r } } }
  const said = (manifest: Manifest, name: string | undefined, file?: string) =>
    Effect.runSync(Effect.flip(QuotaManifest.environment(manifest, name, { file }))).message

  it("is had by its name", () => {
    assert.deepStrictEqual(Effect.runSync(QuotaManifest.environment(two, "test")), {})
    assert.deepStrictEqual(Effect.runSync(QuotaManifest.environment(two, "production")), { r })
  })

  it("is the only one, without a name", () => {
    assert.deepStrictEqual(Effect.runSync(QuotaManifest.environment(one, undefined)), { r })
  })

  it("that does not exist is an error that lists those that do", () => {
    assert.strictEqual(
      said(two, "staging", "quotas.yaml"),
      'quotas.yaml: environments: no environment "staging", there are "production", "test"'
    )
    assert.strictEqual(said(one, "toString"), 'environments: no environment "toString", there are "production"')
    assert.strictEqual(said(two, undefined), 'environments: say which environment, there are "production", "test"')
    assert.strictEqual(said({ environments: {} }, undefined), "environments: say which environment, none is declared")
  })
})

/** A manifest that is known by the name of its only environment. */
const named = (name: string) => `environments: { ${name}: { workers: { limit: { type: concurrency, value: 8 } } } }\n`

const said = (result: Result.Result<Manifest, QuotaManifest.ManifestError>): string =>
  Result.match(result, {
    onSuccess: (manifest) => Object.keys(manifest.environments).join(),
    onFailure: (error) => error.message
  })

describe("a file", () => {
  it.effect("is loaded; one that is broken or not there is an error that names it", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* fs.makeTempDirectoryScoped()
      const path = `${directory}/quotas.yaml`
      const missing = yield* Effect.flip(QuotaManifest.load(path))
      assert.strictEqual(missing.file, path)
      assert.match(missing.message, /quotas\.yaml: cannot be read: NotFound: .*quotas\.yaml/)
      yield* fs.writeFileString(path, named("a"))
      assert.deepStrictEqual(Object.keys((yield* QuotaManifest.load(path)).environments), ["a"])
      yield* fs.writeFileString(path, "environments: 1")
      const broken = yield* Effect.flip(QuotaManifest.load(path))
      assert.strictEqual(broken.message, `${path}: environments: must be a mapping of environments, not 1`)
      const isDirectory = yield* Effect.flip(QuotaManifest.load(directory))
      assert.include(isDirectory.message, `${directory}: cannot be read: `)
    }).pipe(Effect.provide(NodeServices.layer))
  )
})

describe("a file that is watched", () => {
  /**
   * What a watch of the path says, one after the other. `armed` waits until the file system watches for the next change, so that
   * it is the file system that has to tell of it.
   */
  const follow = Effect.fnUntraced(function* (path: string, directories: number) {
    const fs = yield* FileSystem.FileSystem
    const armed = yield* Latch.make()
    let watchers = 0
    const watch: FileSystem.FileSystem["watch"] = (directory, options) =>
      fs.watch(directory, {
        ...options,
        onReady: () => {
          options?.onReady?.()
          if (++watchers >= directories) armed.openUnsafe()
        }
      })
    const results = yield* Queue.unbounded<Result.Result<Manifest, QuotaManifest.ManifestError>>()
    yield* QuotaManifest.watch(path).pipe(
      Stream.runForEach((result) =>
        Effect.suspend(() => {
          watchers = 0
          armed.closeUnsafe()
          return Queue.offer(results, result)
        })
      ),
      Effect.provideService(FileSystem.FileSystem, FileSystem.FileSystem.of({ ...fs, watch })),
      Effect.forkScoped
    )
    const next = Effect.map(Queue.take(results), said)
    // a file that is written in place can be seen half-written on a busy machine
    const until = (expected: string): Effect.Effect<string> =>
      Effect.flatMap(next, (result) => (result === expected ? Effect.succeed(result) : until(expected)))
    return { next, until, armed: armed.await }
  })

  // A change that the file system did not tell of would take the 5 seconds of the next look, more than these tests have.
  const onDisk = (
    name: string,
    body: (
      fs: FileSystem.FileSystem,
      directory: string
    ) => Effect.Effect<void, PlatformError.PlatformError, Scope.Scope | FileSystem.FileSystem>
  ) =>
    it.live(
      name,
      () =>
        Effect.gen(function* () {
          const fs = yield* FileSystem.FileSystem
          const directory = yield* fs.realPath(yield* fs.makeTempDirectoryScoped())
          yield* body(fs, directory)
        }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
      4_500
    )

  onDisk("is followed when it is written in place, broken, repaired, removed and made again", (fs, directory) =>
    Effect.gen(function* () {
      const path = `${directory}/quotas.yaml`
      yield* fs.writeFileString(path, named("a"))
      const { armed, next, until } = yield* follow(path, 1)
      assert.strictEqual(yield* next, "a")
      yield* armed
      yield* fs.writeFileString(path, named("b"))
      yield* until("b")
      yield* armed
      yield* fs.writeFileString(path, "environments: {")
      yield* until(`${path}: line 1: ${STILL_OPEN}`)
      yield* armed
      yield* fs.writeFileString(path, named("c"))
      yield* until("c")
      yield* armed
      yield* fs.remove(path)
      assert.include(yield* next, `${path}: cannot be read: NotFound`)
      yield* armed
      yield* fs.writeFileString(path, named("d"))
      yield* until("d")
    })
  )

  onDisk("is followed when another file is renamed over it", (fs, directory) =>
    Effect.gen(function* () {
      const path = `${directory}/quotas.yaml`
      yield* fs.writeFileString(path, named("a0"))
      const { armed, next } = yield* follow(path, 1)
      assert.strictEqual(yield* next, "a0")
      for (const name of ["a1", "a2", "a3"]) {
        yield* armed
        yield* fs.writeFileString(`${path}.tmp`, named(name))
        yield* fs.rename(`${path}.tmp`, path)
        assert.strictEqual(yield* next, name)
      }
    })
  )

  onDisk("is followed through the links of a Kubernetes config map", (fs, directory) =>
    Effect.gen(function* () {
      const path = `${directory}/quotas.yaml`
      const write = Effect.fnUntraced(function* (name: string) {
        yield* fs.makeDirectory(`${directory}/..${name}`)
        yield* fs.writeFileString(`${directory}/..${name}/quotas.yaml`, named(name))
        yield* fs.symlink(`..${name}`, `${directory}/..data_tmp`)
        yield* fs.rename(`${directory}/..data_tmp`, `${directory}/..data`)
      })
      yield* write("v1")
      yield* fs.symlink("..data/quotas.yaml", path)
      const { armed, next } = yield* follow(path, 2)
      assert.strictEqual(yield* next, "v1")
      for (const [before, name] of [
        ["v1", "v2"],
        ["v2", "v3"]
      ] as const) {
        yield* armed
        yield* write(name)
        yield* fs.remove(`${directory}/..${before}`, { recursive: true })
        assert.strictEqual(yield* next, name)
      }
    })
  )

  onDisk("is followed where a link leads, in another directory", (fs, directory) =>
    Effect.gen(function* () {
      yield* fs.makeDirectory(`${directory}/real`)
      yield* fs.makeDirectory(`${directory}/app`)
      yield* fs.writeFileString(`${directory}/real/q.yaml`, named("a"))
      yield* fs.symlink("../real/q.yaml", `${directory}/app/quotas.yaml`)
      const { armed, next, until } = yield* follow(`${directory}/app/quotas.yaml`, 2)
      assert.strictEqual(yield* next, "a")
      yield* armed
      yield* fs.writeFileString(`${directory}/real/q.yaml`, named("b"))
      yield* until("b")
    })
  )

  onDisk("may be missing at first", (fs, directory) =>
    Effect.gen(function* () {
      const path = `${directory}/quotas.yaml`
      const { armed, next, until } = yield* follow(path, 1)
      assert.include(yield* next, `${path}: cannot be read: NotFound`)
      yield* armed
      yield* fs.writeFileString(path, named("a"))
      yield* until("a")
    })
  )

  /** A file system of one file, whose events are told by hand, under the test clock. */
  const fake = (watch?: FileSystem.FileSystem["watch"]) =>
    Effect.gen(function* () {
      const events = yield* Queue.unbounded<FileSystem.WatchEvent>()
      const reads = yield* Queue.unbounded<void>()
      const file = { text: named("a"), reads: 0 }
      const fs = FileSystem.makeNoop({
        readFileString: () =>
          Effect.sync(() => {
            file.reads++
            Queue.offerUnsafe(reads, undefined)
            return file.text
          }),
        realPath: (path) => Effect.succeed(path),
        watch:
          watch ??
          ((_, options) =>
            Stream.unwrap(
              Effect.sync(() => {
                options?.onReady?.()
                return Stream.fromQueue(events)
              })
            ))
      })
      const results: Array<string> = []
      yield* QuotaManifest.watch("quotas.yaml").pipe(
        Stream.runForEach((result) => Effect.sync(() => results.push(said(result)))),
        Effect.provideService(FileSystem.FileSystem, fs),
        Effect.forkScoped({ startImmediately: true })
      )
      // the second time it is read, to wait for the next change
      yield* Queue.takeN(reads, 2)
      return {
        file,
        results,
        tell: Effect.asVoid(Queue.offer(events, { _tag: "Update", path: "quotas.yaml" }))
      }
    })

  it.effect("is not taken for whole while it is being written", () =>
    Effect.gen(function* () {
      const { file, results, tell } = yield* fake()
      assert.deepStrictEqual(results, ["a"])
      file.text = ""
      yield* tell
      yield* TestClock.adjust("60 millis")
      file.text = named("b").slice(0, 20)
      yield* TestClock.adjust("50 millis")
      file.text = named("b")
      yield* TestClock.adjust("50 millis")
      assert.deepStrictEqual(results, ["a"])
      yield* TestClock.adjust("50 millis")
      assert.deepStrictEqual(results, ["a", "b"])
    })
  )

  it.effect("says nothing when its content is the same", () =>
    Effect.gen(function* () {
      const { file, results, tell } = yield* fake()
      for (let i = 0; i < 100; i++) {
        yield* tell
        yield* TestClock.adjust("1 millis")
      }
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(results, ["a"])
      // the events of a busy directory are taken together
      assert.isAtMost(file.reads, 14)
      file.text = named("b")
      yield* TestClock.adjust("10 seconds")
      file.text = named("a")
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(results, ["a", "b", "a"])
    })
  )

  const mute: ReadonlyArray<readonly [what: string, watch: FileSystem.FileSystem["watch"]]> = [
    ["fails", () => Stream.fail(PlatformError.systemError({ _tag: "Unknown", module: "FileSystem", method: "watch" }))],
    ["dies", () => Stream.die(new Error("no watchers left"))],
    ["ends", () => Stream.empty]
  ]
  for (const [what, watch] of mute) {
    it.effect(`is looked at every 5 seconds where watching ${what}`, () =>
      Effect.gen(function* () {
        const { file, results } = yield* fake(watch)
        assert.deepStrictEqual(results, ["a"])
        file.text = named("b")
        yield* TestClock.adjust("4 seconds")
        assert.deepStrictEqual(results, ["a"])
        yield* TestClock.adjust("1200 millis")
        assert.deepStrictEqual(results, ["a", "b"])
      })
    )
  }

  it.effect("is let go when the stream ends", () =>
    Effect.gen(function* () {
      let open = 0
      const both = yield* Latch.make()
      const watch: FileSystem.FileSystem["watch"] = (_, options) =>
        Stream.unwrap(
          Effect.map(
            Effect.acquireRelease(
              Effect.suspend(() => (++open === 2 ? both.open : Effect.void)),
              () => Effect.sync(() => open--)
            ),
            () => {
              options?.onReady?.()
              return Stream.never
            }
          )
        )
      const fs = FileSystem.makeNoop({
        readFileString: () => Effect.succeed(named("a")),
        realPath: (path) => Effect.succeed(`/real/${path}`),
        watch
      })
      const first = QuotaManifest.watch("quotas.yaml").pipe(
        Stream.runHead,
        Effect.provideService(FileSystem.FileSystem, fs)
      )
      assert.strictEqual(Option.match(yield* first, { onNone: () => "nothing", onSome: said }), "a")
      assert.strictEqual(open, 0)
      yield* both.close
      const fiber = yield* QuotaManifest.watch("quotas.yaml").pipe(
        Stream.runDrain,
        Effect.provideService(FileSystem.FileSystem, fs),
        Effect.forkChild({ startImmediately: true })
      )
      yield* both.await
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(open, 0)
    })
  )
})
