import { type Provider, updatePrices } from "@pydantic/genai-prices"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { Pricing, TokenUsage } from "../../src/ai/index.ts"

/** Replaces the data of the package, for this file alone: each test file has a package of its own. */
const replace = (...prices: ReadonlyArray<Provider["models"][number]["prices"]>) =>
  Effect.sync(() => {
    const models = prices.map((prices, i) => ({ id: `m${i}`, match: { equals: `m${i}` }, prices }))
    const provider: Provider = {
      id: "p",
      name: "P",
      api_pattern: "https://p",
      models,
      model_match: { starts_with: "m" }
    }
    updatePrices(({ setProviderData }) => setProviderData([provider]))
  })

const costOf = (model: string, provider?: string) =>
  Effect.flatMap(Pricing.Pricing, ({ cost }) =>
    cost({ ...TokenUsage.zero, input: 1_000 }, { model, ...(provider === undefined ? {} : { provider }) })
  )

describe("the prices of the package, asked again", () => {
  it.effect("are those of its latest data", () =>
    Effect.gen(function* () {
      const before = yield* costOf("gpt-4o")
      assert.strictEqual(yield* costOf("gpt-4o"), before)
      yield* replace({ input_mtok: 1 })
      assert.strictEqual((yield* Effect.flip(costOf("gpt-4o"))).missing, "model")
      assert.deepStrictEqual([yield* costOf("m0"), yield* costOf("m0", "p")], [1_000_000, 1_000_000])
      yield* replace({ input_mtok: 2 }, { input_mtok: 3 })
      assert.deepStrictEqual([yield* costOf("m0"), yield* costOf("m0", "p")], [2_000_000, 2_000_000])
      assert.strictEqual(yield* costOf("m1"), 3_000_000)
      yield* replace({})
      assert.strictEqual((yield* Effect.flip(costOf("m0"))).missing, "input")
    }).pipe(Effect.provide(Pricing.layer))
  )

  it.effect("are those of the moment, where they go by date or hour", () =>
    Effect.gen(function* () {
      yield* replace(
        [
          { prices: { input_mtok: 1 } },
          { constraint: { type: "start_date", start_date: "1970-01-02" }, prices: { input_mtok: 2 } }
        ],
        [
          { prices: { input_mtok: 3 } },
          {
            constraint: { type: "time_of_date", start_time: "16:00:00Z", end_time: "17:00:00Z" },
            prices: { input_mtok: 4 }
          }
        ]
      )
      const both = Effect.all([costOf("m0"), costOf("m0"), costOf("m1"), costOf("m1")])
      assert.deepStrictEqual(yield* both, [1_000_000, 1_000_000, 3_000_000, 3_000_000])
      yield* TestClock.adjust("16 hours")
      assert.deepStrictEqual(yield* both, [1_000_000, 1_000_000, 4_000_000, 4_000_000])
      yield* TestClock.adjust("8 hours")
      assert.deepStrictEqual(yield* both, [2_000_000, 2_000_000, 3_000_000, 3_000_000])
      yield* TestClock.setTime(0)
      assert.deepStrictEqual(yield* both, [1_000_000, 1_000_000, 3_000_000, 3_000_000])
    }).pipe(Effect.provide(Pricing.layer))
  )
})
