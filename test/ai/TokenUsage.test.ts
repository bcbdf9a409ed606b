import { assert, describe, it } from "@effect/vitest"
import * as Option from "effect/Option"
import * as Response from "effect/ai/Response"
import { TokenUsage } from "../../src/ai/index.ts"
import { forSeeds, make as makeRandom, type Random } from "../utils/random.ts"

const MAX = Number.MAX_SAFE_INTEGER

const usage = (parts: Partial<TokenUsage.TokenUsage>): TokenUsage.TokenUsage => ({ ...TokenUsage.zero, ...parts })

describe("TokenUsage.fromReported", () => {
  const table: ReadonlyArray<
    readonly [name: string, reported: TokenUsage.Reported, expected: Partial<TokenUsage.TokenUsage>]
  > = [
    ["totals alone", { inputTokens: { total: 10 }, outputTokens: { total: 3 } }, { input: 10, output: 3 }],
    ["zero is known", { inputTokens: { total: 0 }, outputTokens: { total: 0 } }, {}],
    ["no total of either", { inputTokens: { uncached: 10 }, outputTokens: { text: 3 } }, { input: 10, output: 3 }],
    [
      "parts beside a rest, without a total",
      { inputTokens: { uncached: 10, cacheRead: 4, cacheWrite: 2 }, outputTokens: { text: 3, reasoning: 5 } },
      { input: 10, cacheRead: 4, cacheWrite: 2, output: 3, reasoning: 5 }
    ],
    [
      "OpenAI: cached inside input, reasoning inside output",
      { inputTokens: { total: 1_000, cacheRead: 800 }, outputTokens: { total: 500, reasoning: 300 } },
      { input: 200, cacheRead: 800, output: 200, reasoning: 300 }
    ],
    [
      "OpenAI, with the rest worked out by the client",
      {
        inputTokens: { total: 1_000, uncached: 200, cacheRead: 800 },
        outputTokens: { total: 500, text: 200, reasoning: 300 }
      },
      { input: 200, cacheRead: 800, output: 200, reasoning: 300 }
    ],
    [
      "OpenAI, all input cached",
      { inputTokens: { total: 800, cacheRead: 800 }, outputTokens: { total: 1 } },
      { cacheRead: 800, output: 1 }
    ],
    [
      "Anthropic: input_tokens as the uncached part",
      { inputTokens: { uncached: 20, cacheRead: 1_000, cacheWrite: 300 }, outputTokens: { total: 50 } },
      { input: 20, cacheRead: 1_000, cacheWrite: 300, output: 50 }
    ],
    [
      "Anthropic, added up by the client",
      { inputTokens: { uncached: 20, total: 1_320, cacheRead: 1_000, cacheWrite: 300 }, outputTokens: { total: 50 } },
      { input: 20, cacheRead: 1_000, cacheWrite: 300, output: 50 }
    ],
    [
      "Anthropic: input_tokens as a total that is below its parts",
      { inputTokens: { total: 20, cacheRead: 1_000, cacheWrite: 300 }, outputTokens: { total: 50 } },
      { input: 20, cacheRead: 1_000, cacheWrite: 300, output: 50 }
    ],
    [
      "Anthropic: input_tokens as both",
      { inputTokens: { uncached: 2_000, total: 2_000, cacheRead: 1_000 }, outputTokens: { total: 50 } },
      { input: 2_000, cacheRead: 1_000, output: 50 }
    ],
    [
      "Gemini: thoughts outside the candidates, which are the text",
      { inputTokens: { total: 100, cacheRead: 40 }, outputTokens: { total: 100, text: 100, reasoning: 50 } },
      { input: 60, cacheRead: 40, output: 100, reasoning: 50 }
    ],
    [
      "Gemini, added up by the client",
      { inputTokens: { total: 100 }, outputTokens: { total: 150, text: 100, reasoning: 50 } },
      { input: 100, output: 100, reasoning: 50 }
    ],
    [
      "xAI: more reasoning than the total of the output",
      { inputTokens: { total: 32 }, outputTokens: { total: 9, reasoning: 291 } },
      { input: 32, output: 9, reasoning: 291 }
    ],
    [
      "xAI, where the client took the reasoning off: a negative text is not believed",
      { inputTokens: { total: 32 }, outputTokens: { total: 9, text: -282, reasoning: 291 } },
      { input: 32, output: 9, reasoning: 291 }
    ],
    [
      "a total above the classes: the difference went somewhere",
      {
        inputTokens: { total: 100, uncached: 10, cacheRead: 20 },
        outputTokens: { total: 100, text: 10, reasoning: 20 }
      },
      { input: 80, cacheRead: 20, output: 80, reasoning: 20 }
    ],
    [
      "classes above the total",
      { inputTokens: { total: 50, uncached: 40, cacheRead: 30 }, outputTokens: { total: 50, text: 40, reasoning: 30 } },
      { input: 40, cacheRead: 30, output: 40, reasoning: 30 }
    ],
    [
      "fractions count up, too large counts as the greatest",
      { inputTokens: { total: 10.2, cacheRead: 3.5 }, outputTokens: { total: 1e300 } },
      { input: 7, cacheRead: 4, output: MAX }
    ],
    [
      "parts that are not numbers are not there",
      {
        inputTokens: { total: 10, cacheRead: NaN, cacheWrite: -1 },
        outputTokens: { total: 5, reasoning: -Infinity }
      },
      { input: 10, output: 5 }
    ],
    [
      "a total that is not a number leaves the rest",
      { inputTokens: { total: -1, uncached: 10 }, outputTokens: { total: NaN, text: 5, reasoning: 2 } },
      { input: 10, output: 5, reasoning: 2 }
    ]
  ]
  for (const [name, reported, expected] of table) {
    it(name, () => {
      assert.deepStrictEqual(TokenUsage.fromReported(reported), Option.some(usage(expected)))
      assert.deepStrictEqual(TokenUsage.atLeast(reported), usage(expected))
    })
  }

  const unknown: ReadonlyArray<
    readonly [name: string, reported: TokenUsage.Reported | undefined, atLeast: Partial<TokenUsage.TokenUsage>]
  > = [
    ["nothing", undefined, {}],
    ["nothing in it", {}, {}],
    ["empty sides", { inputTokens: {}, outputTokens: {} }, {}],
    ["no output", { inputTokens: { total: 10 }, outputTokens: {} }, { input: 10 }],
    ["no input", { inputTokens: {}, outputTokens: { total: 10 } }, { output: 10 }],
    ["a negative total", { inputTokens: { total: 10 }, outputTokens: { total: -1 } }, { input: 10 }],
    ["NaN", { inputTokens: { total: NaN }, outputTokens: { total: 10 } }, { output: 10 }],
    ["cached input alone", { inputTokens: { cacheRead: 9 }, outputTokens: { total: 1 } }, { cacheRead: 9, output: 1 }],
    ["reasoning alone", { inputTokens: { total: 1 }, outputTokens: { reasoning: 9 } }, { input: 1, reasoning: 9 }]
  ]
  for (const [name, reported, atLeast] of unknown) {
    it(`unknown: ${name}`, () => {
      assert.deepStrictEqual(TokenUsage.fromReported(reported), Option.none())
      assert.deepStrictEqual(TokenUsage.atLeast(reported), usage(atLeast))
    })
  }

  it("takes what effect/ai reports", () => {
    const finish = new Response.Usage({
      inputTokens: { uncached: undefined, total: 1_000, cacheRead: 800, cacheWrite: undefined },
      outputTokens: { total: 500, text: undefined, reasoning: 300 }
    })
    assert.deepStrictEqual(
      TokenUsage.fromReported(finish),
      Option.some(usage({ input: 200, cacheRead: 800, output: 200, reasoning: 300 }))
    )
    const silent = new Response.Usage({ inputTokens: {}, outputTokens: {} })
    assert.deepStrictEqual(TokenUsage.fromReported(silent), Option.none())
  })

  it("a convention says what the numbers cannot", () => {
    const reported = {
      inputTokens: { total: 1_000, cacheRead: 800 },
      outputTokens: { total: 500, reasoning: 300 }
    }
    assert.deepStrictEqual(
      TokenUsage.fromReported(reported, { reasoning: "outside" }),
      Option.some(usage({ input: 200, cacheRead: 800, output: 500, reasoning: 300 }))
    )
    assert.deepStrictEqual(
      TokenUsage.fromReported(reported, { cache: "outside" }),
      Option.some(usage({ input: 1_000, cacheRead: 800, output: 200, reasoning: 300 }))
    )
    assert.deepStrictEqual(
      TokenUsage.fromReported(reported, { cache: "inside", reasoning: "inside" }),
      Option.some(usage({ input: 200, cacheRead: 800, output: 200, reasoning: 300 }))
    )
  })

  it("is at least any total and any class, and at most their sum", () => {
    const maybe = (random: Random): number | undefined =>
      random.chance(0.25)
        ? undefined
        : random.pick([0, random.int(0, 10), random.int(0, 100_000), random.int(0, MAX), -1, NaN, Infinity, 1.5])
    const known = (n: number | undefined): number => (n === undefined || !(n >= 0) ? 0 : Math.min(Math.ceil(n), MAX))
    forSeeds(2_000, (seed) => {
      const random = makeRandom(seed)
      const i = { total: maybe(random), uncached: maybe(random), cacheRead: maybe(random), cacheWrite: maybe(random) }
      const o = { total: maybe(random), text: maybe(random), reasoning: maybe(random) }
      const decoded = TokenUsage.atLeast({ inputTokens: i, outputTokens: o })
      for (const count of Object.values(decoded)) assert.isTrue(Number.isSafeInteger(count) && count >= 0)
      const input = TokenUsage.totalInput(decoded)
      const output = TokenUsage.totalOutput(decoded)
      assert.strictEqual(decoded.cacheRead, known(i.cacheRead))
      assert.strictEqual(decoded.cacheWrite, known(i.cacheWrite))
      assert.strictEqual(decoded.reasoning, known(o.reasoning))
      assert.isAtLeast(decoded.input, known(i.uncached))
      assert.isAtLeast(decoded.output, known(o.text))
      assert.isAtLeast(input, known(i.total))
      assert.isAtLeast(output, known(o.total))
      assert.isAtMost(input, known(i.total) + known(i.uncached) + known(i.cacheRead) + known(i.cacheWrite))
      assert.isAtMost(output, known(o.total) + known(o.text) + known(o.reasoning))
      const whole = TokenUsage.fromReported({ inputTokens: i, outputTokens: o })
      if (Option.isSome(whole)) assert.deepStrictEqual(whole.value, decoded)
    })
  })
})

describe("TokenUsage sums", () => {
  const some = usage({ input: 1, cacheRead: 20, cacheWrite: 300, output: 4_000, reasoning: 50_000 })

  it("totals by side and in all", () => {
    assert.strictEqual(TokenUsage.totalInput(some), 321)
    assert.strictEqual(TokenUsage.totalOutput(some), 54_000)
    assert.strictEqual(TokenUsage.total(some), 54_321)
    assert.strictEqual(TokenUsage.total(TokenUsage.zero), 0)
  })

  it("adds class by class", () => {
    assert.deepStrictEqual(
      TokenUsage.plus(some, some),
      usage({ input: 2, cacheRead: 40, cacheWrite: 600, output: 8_000, reasoning: 100_000 })
    )
    assert.deepStrictEqual(TokenUsage.plus(some, TokenUsage.zero), some)
  })

  it("stops at the greatest amount", () => {
    const full = usage({ input: MAX, cacheRead: MAX, cacheWrite: MAX, output: MAX, reasoning: MAX })
    assert.deepStrictEqual(TokenUsage.plus(full, full), full)
    assert.strictEqual(TokenUsage.totalInput(full), MAX)
    assert.strictEqual(TokenUsage.totalOutput(full), MAX)
    assert.strictEqual(TokenUsage.total(full), MAX)
  })
})
