import { calcPrice } from "@pydantic/genai-prices"
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import * as fs from "node:fs"
import { Pricing, TokenUsage } from "../../src/ai/index.ts"
import { Usd } from "../../src/index.ts"
import { forSeedsEffect, make as makeRandom, type Random } from "../utils/random.ts"

const MAX = Number.MAX_SAFE_INTEGER

const usage = (parts: Partial<TokenUsage.TokenUsage>): TokenUsage.TokenUsage => ({ ...TokenUsage.zero, ...parts })

const cost = (
  parts: Partial<TokenUsage.TokenUsage>,
  provider: string | undefined,
  model: string,
  options?: Pricing.CostOptions
) => Effect.flatMap(Pricing.Pricing, (pricing) => pricing.cost(usage(parts), { provider, model }, options))

const unknown = (missing: Pricing.UnknownPrice["missing"], model: string, provider?: string) =>
  new Pricing.UnknownPrice({ model, missing, ...(provider !== undefined && { provider }) })

// Dollars for a million tokens are thousands of nano-dollars for a token: 1.25 is 1,250 each.
const table: ReadonlyArray<
  readonly [
    provider: string,
    model: string,
    parts: Partial<TokenUsage.TokenUsage>,
    nanos: number,
    options?: Pricing.CostOptions
  ]
> = [
  // 1.25 input, 0.125 cached, 10 output, reasoning as output:
  // 1,234 x 1,250 + 5,000 x 125 + 321 x 10,000 + 700 x 10,000
  // = 1,542,500 + 625,000 + 3,210,000 + 7,000,000
  ["openai", "gpt-5", { input: 1_234, cacheRead: 5_000, output: 321, reasoning: 700 }, 12_377_500],
  // 1 input, 0.10 cached, 1.25 written, 5 output:
  // 1,001 x 1,000 + 20,000 x 100 + 3,333 x 1,250 + 250 x 5,000
  // = 1,001,000 + 2,000,000 + 4,166,250 + 1,250,000
  ["anthropic", "claude-haiku-4-5", { input: 1_001, cacheRead: 20_000, cacheWrite: 3_333, output: 250 }, 8_417_250],
  // the same, the writes for an hour at 2: 1,001,000 + 2,000,000 + 3,333 x 2,000 + 1,250,000
  [
    "anthropic",
    "claude-haiku-4-5",
    { input: 1_001, cacheRead: 20_000, cacheWrite: 3_333, output: 250 },
    10_917_000,
    { cacheWriteTtl: "1h" }
  ],
  // without a price of its own, five minutes cost what a write costs
  ["anthropic", "claude-haiku-4-5", { cacheWrite: 3_333 }, 4_166_250, { cacheWriteTtl: "5m" }],
  // 0.30 input, 0.03 cached, 2.50 output:
  // 777 x 300 + 12,345 x 30 + 99 x 2,500 + 1,501 x 2,500 = 233,100 + 370,350 + 247,500 + 3,752,500
  ["google", "gemini-2.5-flash", { input: 777, cacheRead: 12_345, output: 99, reasoning: 1_501 }, 4_603_450],
  // 0.30 input, 0.075 cached, 0.50 output: 10 x 300 + 13 x 75 + 7 x 500 + 901 x 500 = 3,000 + 975 + 3,500 + 450,500
  ["x-ai", "grok-3-mini", { input: 10, cacheRead: 13, output: 7, reasoning: 901 }, 457_975],
  // 2 input, 8 output, 3 reasoning: 100 x 2,000 + 50 x 8,000 + 10,000 x 3,000 = 200,000 + 400,000 + 30,000,000
  ["perplexity", "sonar-deep-research", { input: 100, output: 50, reasoning: 10_000 }, 30_600_000],
  // 3 input, 15 output, 14 for a thousand requests: 1,000 x 3,000 + 100 x 15,000 + 14,000,000
  ["perplexity", "sonar-pro", { input: 1_000, output: 100 }, 18_500_000],
  // no price for writes at OpenAI: they are input. 8 x 1,250
  ["openai", "gpt-5", { cacheWrite: 8 }, 10_000],
  ["openai", "gpt-5", {}, 0],
  // up to 200,000 tokens of input: 3 input, 0.30 cached, 3.75 written, 15 output
  // 50,000 x 3,000 + 100,000 x 300 + 50,000 x 3,750 + 1,000 x 15,000 = 150M + 30M + 187.5M + 15M
  [
    "anthropic",
    "claude-sonnet-4-5",
    { input: 50_000, cacheRead: 100_000, cacheWrite: 50_000, output: 900, reasoning: 100 },
    382_500_000
  ],
  // one token more, and all of it costs 6, 0.60, 7.50 and 22.50
  // 50,001 x 6,000 + 100,000 x 600 + 50,000 x 7,500 + 1,000 x 22,500 = 300,006,000 + 60M + 375M + 22.5M
  [
    "anthropic",
    "claude-sonnet-4-5",
    { input: 50_001, cacheRead: 100_000, cacheWrite: 50_000, output: 900, reasoning: 100 },
    757_506_000
  ],
  // and 12 for the writes of an hour: 300,006,000 + 60M + 600M + 22.5M
  [
    "anthropic",
    "claude-sonnet-4-5",
    { input: 50_001, cacheRead: 100_000, cacheWrite: 50_000, output: 900, reasoning: 100 },
    982_506_000,
    { cacheWriteTtl: "1h" }
  ],
  // output is long, input is not: 10 x 3,000 + 300,000 x 15,000
  ["anthropic", "claude-sonnet-4-5", { input: 10, output: 300_000 }, 4_500_030_000],
  // from 272,000 tokens on: 271,999 x 2,500 + 10 x 15,000, then 272,000 x 5,000 + 10 x 22,500
  ["openai", "gpt-5.4", { input: 271_999, output: 10 }, 680_147_500],
  ["openai", "gpt-5.4", { input: 272_000, output: 10 }, 1_360_225_000]
]

describe("Pricing.layer", () => {
  for (const [provider, model, parts, nanos, options] of table) {
    it.effect(`${provider} ${model} ${JSON.stringify({ ...parts, ...options })} costs ${nanos} nano-dollars`, () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* cost(parts, provider, model, options), nanos)
      }).pipe(Effect.provide(Pricing.layer))
    )
  }

  it.effect("finds a model by its name alone, and dated names of it", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* cost({ input: 1 }, undefined, "gpt-5"), 1_250)
      assert.strictEqual(yield* cost({ input: 1 }, "openai", "gpt-5-2025-08-07"), 1_250)
      assert.strictEqual(yield* cost({ input: 1 }, undefined, "claude-haiku-4-5-20251001"), 1_000)
    }).pipe(Effect.provide(Pricing.layer))
  )

  it.effect("prices by the hour go by the clock", () =>
    Effect.gen(function* () {
      // at 00:00 UTC 0.135 input, 0.035 cached, 0.55 output: 1,000 x 135 + 1,000 x 35 + 1,000 x 550
      const parts = { input: 1_000, cacheRead: 1_000, output: 1_000 }
      assert.strictEqual(yield* cost(parts, "deepseek", "deepseek-chat"), 720_000)
      // from 00:30 on 0.27, 0.07 and 1.10
      yield* TestClock.adjust("30 minutes")
      assert.strictEqual(yield* cost(parts, "deepseek", "deepseek-chat"), 1_440_000)
      // from 16:30 on the first again
      yield* TestClock.adjust("16 hours")
      assert.strictEqual(yield* cost(parts, "deepseek", "deepseek-chat"), 720_000)
    }).pipe(Effect.provide(Pricing.layer))
  )

  it.effect("prices by the date go by the clock", () =>
    Effect.gen(function* () {
      // 10 input, 40 output, and 2 and 8 from 10 June 2025 on
      yield* TestClock.setTime(Date.UTC(2025, 5, 10) - 1)
      assert.strictEqual(yield* cost({ input: 1, output: 1 }, "openai", "o3"), 50_000)
      yield* TestClock.setTime(Date.UTC(2025, 5, 10))
      assert.strictEqual(yield* cost({ input: 1, output: 1 }, "openai", "o3"), 10_000)
    }).pipe(Effect.provide(Pricing.layer))
  )

  it.effect("an unknown price refuses", () =>
    Effect.gen(function* () {
      const refused = (...args: Parameters<typeof cost>) => Effect.flip(cost(...args))
      assert.deepStrictEqual(yield* refused({ input: 1 }, "openai", "gpt-99"), unknown("model", "gpt-99", "openai"))
      assert.deepStrictEqual(yield* refused({ input: 1 }, undefined, "my-model"), unknown("model", "my-model"))
      assert.deepStrictEqual(yield* refused({ input: 1 }, "nobody", "gpt-5"), unknown("model", "gpt-5", "nobody"))
      assert.deepStrictEqual(yield* refused({}, "openai", "gpt-99"), unknown("model", "gpt-99", "openai"))
      // listed without any price
      assert.deepStrictEqual(yield* refused({ input: 1 }, "google", "gemma-3"), unknown("input", "gemma-3", "google"))
      assert.deepStrictEqual(
        yield* refused({ cacheWrite: 1 }, "google", "gemma-3", { cacheWriteTtl: "1h" }),
        unknown("cacheWrite", "gemma-3", "google")
      )
      // listed with a price for input only
      const embedding = "text-embedding-3-small"
      assert.strictEqual(yield* cost({ input: 100 }, "openai", embedding), 2_000)
      assert.deepStrictEqual(
        yield* refused({ input: 100, reasoning: 1 }, "openai", embedding),
        unknown("reasoning", embedding, "openai")
      )
    }).pipe(Effect.provide(Pricing.layer))
  )

  it.effect("the error says what is missing, and travels", () =>
    Effect.sync(() => {
      assert.strictEqual(unknown("model", "m", "p").message, `No price is known for the model "m" of "p"`)
      assert.strictEqual(unknown("output", "m").message, `The model "m" has no known price for output`)
      const error = unknown("output", "m", "p")
      const wire = Schema.encodeUnknownSync(Pricing.UnknownPrice)(error)
      assert.deepStrictEqual(Schema.decodeUnknownSync(Pricing.UnknownPrice)(JSON.parse(JSON.stringify(wire))), error)
    })
  )

  it.effect("agrees with the package's own sums, but for what floats lose", () =>
    forSeedsEffect(300, (seed) =>
      Effect.gen(function* () {
        const random = makeRandom(seed)
        const [provider, model] = random.pick([
          ["openai", "gpt-4o"],
          ["openai", "gpt-5.4"],
          ["anthropic", "claude-sonnet-4-5"],
          ["anthropic", "claude-opus-4-5"],
          ["google", "gemini-2.5-pro"],
          ["x-ai", "grok-4-0709"],
          ["deepseek", "deepseek-chat"],
          ["perplexity", "sonar-pro"],
          ["perplexity", "sonar-deep-research"],
          ["mistral", "mistral-large-latest"],
          ["groq", "llama-3.3-70b-versatile"],
          ["openrouter", "google/gemini-2.5-flash-lite"]
        ] as const)
        const parts = usage({
          input: random.int(0, 200_000),
          cacheRead: random.int(0, 200_000),
          cacheWrite: random.int(0, 1_000),
          output: random.int(0, 50_000),
          reasoning: random.int(0, 50_000)
        })
        const hour = random.chance(0.5)
        const theirs = calcPrice(
          {
            input_tokens: TokenUsage.totalInput(parts),
            cache_read_tokens: parts.cacheRead,
            cache_write_tokens: parts.cacheWrite,
            cache_write_1h_tokens: hour ? parts.cacheWrite : 0,
            output_tokens: TokenUsage.totalOutput(parts),
            output_reasoning_tokens: parts.reasoning
          },
          model,
          { providerId: provider, timestamp: new Date(0) }
        )
        const ours = yield* cost(parts, provider, model, hour ? { cacheWriteTtl: "1h" } : undefined)
        assert.isNotNull(theirs)
        assert.closeTo(ours, theirs!.total_price * 1e9, 1 + theirs!.total_price * 1e-3)
      })
    ).pipe(Effect.provide(Pricing.layer))
  )
})

describe("Pricing sums", () => {
  it.effect("a million additions do not drift", () =>
    Effect.gen(function* () {
      const calls = table.filter(([, , , , options]) => options === undefined).slice(0, 5)
      const costs = yield* Effect.forEach(calls, ([provider, model, parts]) => cost(parts, provider, model))
      // 12,377,500 + 8,417,250 + 4,603,450 + 457,975 + 30,600,000 = 56,456,175, and 200,000 times that
      const sum = Usd.sum(Array.from({ length: 1_000_000 }, (_, i) => costs[i % 5]!))
      assert.strictEqual(sum, 11_291_235_000_000)
      assert.strictEqual(Usd.format(sum), "$11291.235")
      // what floats make of the same calls
      let float = 0
      for (let i = 0; i < 1_000_000; i++) float += costs[i % 5]! / 1e9
      assert.notStrictEqual(float, 11_291.235)
    }).pipe(Effect.provide(Pricing.layer))
  )

  it.effect("a million usages added up cost what a million calls cost", () =>
    Effect.gen(function* () {
      const call = usage({ input: 3, cacheRead: 5, output: 2, reasoning: 1 })
      let sum = TokenUsage.zero
      for (let i = 0; i < 1_000_000; i++) sum = TokenUsage.plus(sum, call)
      // 3 x 1,250 + 5 x 125 + 3 x 10,000 = 34,375
      assert.strictEqual(yield* cost(call, "openai", "gpt-5"), 34_375)
      assert.strictEqual(yield* cost(sum, "openai", "gpt-5"), 34_375_000_000)
    }).pipe(Effect.provide(Pricing.layer))
  )

  it.effect("rounds up once, not class by class", () =>
    Effect.gen(function* () {
      // half a nano-dollar each
      assert.strictEqual(yield* cost({ input: 1 }, undefined, "tiny"), 1)
      assert.strictEqual(yield* cost({ input: 1, output: 1 }, undefined, "tiny"), 1)
      assert.strictEqual(yield* cost({ input: 1, cacheRead: 1, output: 1 }, undefined, "tiny"), 2)
      assert.strictEqual(yield* cost({}, undefined, "tiny"), 0)
    }).pipe(Effect.provide(Pricing.layerTable({ tiny: { input: "0.0005", output: 0.0005 } })))
  )

  const rate = (random: Random): string => `${random.int(0, 50)}.${`${random.int(0, 999_999_999)}`.padStart(9, "0")}`
  const anyPrice = (random: Random): Pricing.ModelPrice => ({
    input: rate(random),
    output: rate(random),
    ...(random.chance(0.7) && { cacheRead: rate(random) }),
    ...(random.chance(0.7) && { cacheWrite: rate(random) }),
    ...(random.chance(0.7) && { reasoning: rate(random) })
  })
  const anyUsage = (random: Random): TokenUsage.TokenUsage => {
    const count = () => random.int(0, random.pick([0, 1, 10, 1_000, 1_000_000]))
    return { input: count(), cacheRead: count(), cacheWrite: count(), output: count(), reasoning: count() }
  }

  it.effect("more tokens never cost less, and a sum costs the sum within a nano-dollar", () =>
    forSeedsEffect(300, (seed) => {
      const random = makeRandom(seed)
      return Effect.gen(function* () {
        const a = anyUsage(random)
        const b = anyUsage(random)
        const costA = yield* cost(a, undefined, "m")
        const costB = yield* cost(b, undefined, "m")
        const both = yield* cost(TokenUsage.plus(a, b), undefined, "m")
        assert.isAtMost(both, costA + costB)
        assert.isAtLeast(both, costA + costB - 1)
        for (const name of ["input", "cacheRead", "cacheWrite", "output", "reasoning"] as const) {
          const more = yield* cost({ ...a, [name]: a[name] + random.int(1, 1_000) }, undefined, "m")
          assert.isAtLeast(more, costA, name)
        }
      }).pipe(Effect.provide(Pricing.layerTable({ m: anyPrice(random) })))
    })
  )

  it.effect("tiers that rise keep the cost from falling as the input grows", () =>
    Effect.gen(function* () {
      let last = 0
      for (let input = 0; input <= 40; input++) {
        const now = yield* cost({ input, output: 5 }, undefined, "m")
        assert.isAtLeast(now, last)
        last = now
      }
      // 10 x 1,000 + 5 x 1,000; 11 x 2,000 + 5 x 1,000; 21 x 3,000 + 5 x 1,000: the tiers need not be in order
      assert.strictEqual(yield* cost({ input: 4, cacheRead: 6, output: 5 }, undefined, "m"), 15_000)
      assert.strictEqual(yield* cost({ input: 4, cacheRead: 7, output: 5 }, undefined, "m"), 27_000)
      assert.strictEqual(yield* cost({ input: 21, output: 5 }, undefined, "m"), 68_000)
    }).pipe(
      Effect.provide(
        Pricing.layerTable({
          m: {
            input: {
              base: 1,
              tiers: [
                { start: 20, price: 3 },
                { start: 10, price: "2" }
              ]
            },
            output: 1
          }
        })
      )
    )
  )

  it.effect("what is finer than a nano-dollar for a million is rounded up, and zeros are not fine", () =>
    Effect.gen(function* () {
      // 0.083333334 and 0.1 for a million
      assert.strictEqual(yield* cost({ input: 1_000_000 }, undefined, "m"), 83_333_334)
      assert.strictEqual(yield* cost({ output: 1_000_000 }, undefined, "m"), 100_000_000)
    }).pipe(Effect.provide(Pricing.layerTable({ m: { input: 0.08333333333333334, output: "0.1000000000000" } })))
  )

  it.effect("no usage is too large to be charged", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* cost({ output: MAX }, "openai", "gpt-5"), MAX)
      assert.strictEqual(
        yield* cost({ input: MAX, cacheRead: MAX, cacheWrite: MAX, output: MAX, reasoning: MAX }, "openai", "gpt-5.4"),
        MAX
      )
    }).pipe(Effect.provide(Pricing.layer))
  )

  for (const bad of [-1, 0.5, NaN, Infinity, MAX + 1]) {
    it.effect(`a class of ${bad} tokens is a defect`, () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(cost({ cacheRead: bad }, "openai", "gpt-5"))
        assert.isTrue(Exit.isFailure(exit))
        assert.match(
          String(Exit.isFailure(exit) && Cause.squash(exit.cause)),
          /RangeError: Pricing: cacheRead must be a whole number/
        )
      }).pipe(Effect.provide(Pricing.layer))
    )
  }
})

describe("no token is counted twice", () => {
  // gpt-5: 200 x 1,250 + 800 x 125 + 500 x 10,000 = 250,000 + 100,000 + 5,000,000
  // the other ways: 1,000 x 1,250 + 800 x 125 + ... or 500 + 300 of output
  const cases: ReadonlyArray<
    readonly [name: string, provider: string, model: string, reported: TokenUsage.Reported, nanos: number]
  > = [
    [
      "OpenAI: cached inside input, reasoning inside output",
      "openai",
      "gpt-5",
      { inputTokens: { total: 1_000, cacheRead: 800 }, outputTokens: { total: 500, reasoning: 300 } },
      5_350_000
    ],
    // 20 x 1,000 + 1,000 x 100 + 300 x 1,250 + 50 x 5,000 = 20,000 + 100,000 + 375,000 + 250,000
    [
      "Anthropic: input excludes the cache",
      "anthropic",
      "claude-haiku-4-5",
      { inputTokens: { uncached: 20, cacheRead: 1_000, cacheWrite: 300 }, outputTokens: { total: 50 } },
      745_000
    ],
    [
      "Anthropic, added up",
      "anthropic",
      "claude-haiku-4-5",
      {
        inputTokens: { uncached: 20, total: 1_320, cacheRead: 1_000, cacheWrite: 300 },
        outputTokens: { total: 50 }
      },
      745_000
    ],
    // 60 x 300 + 40 x 30 + 150 x 2,500 = 18,000 + 1,200 + 375,000
    [
      "Gemini: reasoning outside output",
      "google",
      "gemini-2.5-flash",
      { inputTokens: { total: 100, cacheRead: 40 }, outputTokens: { total: 100, text: 100, reasoning: 50 } },
      394_200
    ],
    // 32 x 300 + 300 x 500 = 9,600 + 150,000
    [
      "xAI: reasoning outside output",
      "x-ai",
      "grok-3-mini",
      { inputTokens: { total: 32 }, outputTokens: { total: 9, reasoning: 291 } },
      159_600
    ]
  ]
  for (const [name, provider, model, reported, nanos] of cases) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const decoded = Option.getOrThrow(TokenUsage.fromReported(reported))
        assert.strictEqual(yield* cost(decoded, provider, model), nanos)
      }).pipe(Effect.provide(Pricing.layer))
    )
  }
})

describe("Pricing tables", () => {
  const price: Pricing.ModelPrice = {
    input: 1,
    cacheRead: "0.1",
    cacheWrite: "1.25",
    cacheWrite5m: "1.5",
    cacheWrite1h: 2,
    output: 4,
    reasoning: 8,
    requestsPerThousand: "0.5"
  }
  const whole = usage({ input: 1, cacheRead: 1, cacheWrite: 1, output: 1, reasoning: 1 })

  it.effect("every class has its price, and a request has its fee", () =>
    Effect.gen(function* () {
      // 500,000 for the request + 1,000 + 100 + 1,250 + 4,000 + 8,000
      assert.strictEqual(yield* cost(whole, undefined, "mine"), 514_350)
      assert.strictEqual(yield* cost(whole, undefined, "mine", { cacheWriteTtl: "5m" }), 514_600)
      assert.strictEqual(yield* cost(whole, undefined, "mine", { cacheWriteTtl: "1h" }), 515_100)
      assert.strictEqual(yield* cost({}, "any", "mine"), 500_000)
      // a class without a price: input for the caches, output for the reasoning. 3 x 1,000 + 2 x 2,000
      assert.strictEqual(yield* cost(whole, undefined, "plain", { cacheWriteTtl: "1h" }), 7_000)
    }).pipe(Effect.provide(Pricing.layerTable({ mine: price, plain: { input: 1, output: 2 } })))
  )

  it.effect("a model that is not in it is refused, and no name is special", () =>
    Effect.gen(function* () {
      for (const model of ["gpt-5", "MINE", "constructor", "__proto__", "toString", ""]) {
        const error = yield* Effect.flip(cost(whole, undefined, model))
        assert.deepStrictEqual(error, unknown("model", model))
      }
    }).pipe(Effect.provide(Pricing.layerTable({ mine: price })))
  )

  it.effect("a name with its provider goes before the name alone", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* cost({ input: 1 }, "here", "m"), 2_000)
      assert.strictEqual(yield* cost({ input: 1 }, "there", "m"), 1_000)
      assert.strictEqual(yield* cost({ input: 1 }, undefined, "m"), 1_000)
    }).pipe(Effect.provide(Pricing.layerTable({ m: { input: 1, output: 1 }, "here:m": { input: 2, output: 2 } })))
  )

  it.effect("a fallback prices what is not in it", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* cost({ input: 1, output: 1 }, "any", "other"), 40_000)
      assert.strictEqual(yield* cost({ input: 1, output: 1 }, "any", "mine"), 3_000)
    }).pipe(
      Effect.provide(Pricing.layerTable({ mine: { input: 1, output: 2 } }, { fallback: { input: 10, output: 30 } }))
    )
  )

  it.effect("a table and a fallback around the package's prices", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* cost({ input: 1 }, "openai", "gpt-5"), 1_000)
      assert.strictEqual(yield* cost({ input: 1 }, "openai", "gpt-5-mini"), 250)
      assert.strictEqual(yield* cost({ input: 1 }, "openai", "gpt-99"), 10_000)
      // known to the package, but not what its tokens cost: the fallback prices the whole call
      assert.strictEqual(yield* cost({ input: 1, output: 1 }, "google", "gemma-3"), 40_000)
    }).pipe(
      Effect.provide(
        Pricing.layerWith({ table: { "gpt-5": { input: 1, output: 1 } }, fallback: { input: 10, output: 30 } })
      )
    )
  )

  it.effect("a batch call is refused without a discount, also with a fallback", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(cost({ input: 1 }, "openai", "gpt-5", { batch: true }))
      assert.deepStrictEqual(error, unknown("batchDiscount", "gpt-5", "openai"))
      assert.strictEqual(yield* cost({ input: 1 }, "openai", "gpt-5", { batch: false }), 1_250)
    }).pipe(Effect.provide(Pricing.layerWith({ fallback: { input: 10, output: 30 } })))
  )

  it.effect("a batch discount is taken off the sum", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* cost({ input: 10 }, "openai", "gpt-5", { batch: true }), 6_250)
      assert.strictEqual(yield* cost({ input: 10 }, "openai", "gpt-5"), 12_500)
      // 125 each, half of it 62.5, rounded up
      assert.strictEqual(yield* cost({ cacheRead: 1 }, "openai", "gpt-5", { batch: true }), 63)
    }).pipe(Effect.provide(Pricing.layerWith({ batchDiscount: "0.5" })))
  )

  const refused: ReadonlyArray<readonly [name: string, layer: Layer.Layer<Pricing.Pricing>, message: RegExp]> = [
    ["a negative price", Pricing.layerTable({ m: { input: -1, output: 1 } }), /Usd: -1 is not a decimal/],
    ["a price of NaN", Pricing.layerTable({ m: { input: 1, output: NaN } }), /Usd: NaN is not a decimal/],
    [
      "a fractional tier",
      Pricing.layerTable({ m: { input: { base: 1, tiers: [{ start: 0.5, price: 1 }] }, output: 1 } }),
      /a tier from 0\.5 tokens/
    ],
    ["a bad fallback", Pricing.layerTable({}, { fallback: { input: "x", output: 1 } }), /Usd: x is not a decimal/],
    ["a discount of 50", Pricing.layerWith({ batchDiscount: 50 }), /a batch discount of 50 is not a part from 0 to 1/],
    ["a negative discount", Pricing.layerWith({ batchDiscount: -0.5 }), /Usd: -0\.5 is not a decimal/]
  ]
  for (const [name, layer, message] of refused) {
    it.effect(`${name} dies when the layer is built`, () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(Effect.provide(cost({ input: 1 }, undefined, "m"), layer))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        assert.match(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), message)
      })
    )
  }

  it.effect("anyone's prices can take its place", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* cost(whole, undefined, "m"), 7)
    }).pipe(
      Effect.provide(Layer.succeed(Pricing.Pricing, Pricing.Pricing.of({ cost: () => Effect.succeed(Usd.nanos(7)) })))
    )
  )
})

describe("the package", () => {
  it("is loaded by Pricing alone, and by it only when its prices are asked for", () => {
    const root = new URL("../../src/", import.meta.url)
    const files = fs.readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))
    const imports = files.flatMap((name) =>
      fs
        .readFileSync(new URL(name, root), "utf8")
        .split("\n")
        .filter((line) => line.includes(`"@pydantic/genai-prices"`))
        .map((line) => `${name}: ${line.trim()}`)
    )
    assert.deepStrictEqual(imports, [
      `ai/Pricing.ts: import type * as Package from "@pydantic/genai-prices"`,
      `ai/Pricing.ts: Effect.promise(() => import("@pydantic/genai-prices")),`
    ])
  })
})
