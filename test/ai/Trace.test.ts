import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { type Call, type Outcome, parse, policies, replay, type Settings } from "../../bench/trace/replay.ts"
import * as Random from "../utils/random.ts"

const settings: Settings = {
  tokensPerMinute: 60_000,
  burst: 12_000,
  enforcement: "reject",
  timeout: "20 seconds",
  maxOutputTokens: 2_048,
  bytesPerToken: 4,
  latency: { start: 500, perInput: 0.1, perOutput: 25 }
}

/** Bursts of calls with short answers, and now and then a long one; more of them than the budget gives. */
const traceOf = (seed: number): ReadonlyArray<Call> => {
  const random = Random.make(seed)
  let at = 0
  return Array.from({ length: 400 }, () => {
    at += random.chance(0.05) ? random.int(5_000, 15_000) : random.int(0, 400)
    return {
      at,
      input: random.int(50, 1_500),
      output: random.chance(0.04) ? random.int(200, 2_000) : random.int(5, 60)
    }
  })
}

const replayAll = (calls: ReadonlyArray<Call>, settings: Settings) =>
  Effect.gen(function* () {
    const outcomes: Array<Outcome> = []
    for (const policy of policies(settings)) outcomes.push(yield* replay(calls, policy, settings))
    const [recorded, worstCase, tokenizer, learned] = outcomes
    return { recorded: recorded!, worstCase: worstCase!, tokenizer: tokenizer!, learned: learned!, all: outcomes }
  })

describe("Trace", () => {
  for (const enforcement of ["reject", "throttle"] as const) {
    it.effect(`${enforcement}: no policy overshoots more than its bound, and those that hold enough not at all`, () =>
      Random.forSeedsEffect(3, (seed) =>
        Effect.gen(function* () {
          const calls = traceOf(seed)
          const { all, tokenizer, worstCase } = yield* replayAll(calls, { ...settings, enforcement })
          for (const outcome of all) {
            assert.strictEqual(outcome.admitted + outcome.denied, calls.length, outcome.policy)
            assert.isAtMost(outcome.overshoot, outcome.overshootBound, outcome.policy)
            assert.isAtMost(outcome.waitMillis.p99, enforcement === "reject" ? 0 : 20_000, outcome.policy)
          }
          assert.deepStrictEqual([worstCase.overshoot, tokenizer.overshoot], [0, 0])
          assert.deepStrictEqual([worstCase.overshootBound, tokenizer.overshootBound], [0, 0])
        })
      )
    )

    // Which one is ahead depends on the traffic, so these are the same three traces in every run.
    for (const seed of [1, 2, 3]) {
      it.effect(`${enforcement}: holds that are closer admit more, without holds it overshoots, trace ${seed}`, () =>
        Effect.gen(function* () {
          const outcomes = yield* replayAll(traceOf(seed), { ...settings, enforcement })
          const { all, learned, recorded, tokenizer, worstCase } = outcomes
          for (const outcome of all) assert.isAbove(outcome.denied, 0, `${outcome.policy}: the budget is scarce`)
          assert.isAbove(learned.utilisation, worstCase.utilisation)
          assert.isAbove(learned.utilisation, tokenizer.utilisation)
          assert.isAbove(learned.admitted, worstCase.admitted)
          assert.isAbove(recorded.overshoot, settings.burst / 2)
          assert.isAbove(recorded.overshoot, 3 * learned.overshoot)
        })
      )
    }
  }

  it.effect("the same trace gives the same figures", () =>
    Effect.gen(function* () {
      const calls = traceOf(1).slice(0, 100)
      assert.deepStrictEqual((yield* replayAll(calls, settings)).all, (yield* replayAll(calls, settings)).all)
    })
  )

  it.effect("three calls at once and one a minute later, by hand", () =>
    Effect.gen(function* () {
      const calls = [1, 2, 3].map((): Call => ({ at: 0, input: 400, output: 600 }))
      const { all } = yield* replayAll([...calls, { at: 60_000, input: 0, output: 0 }], {
        ...settings,
        burst: 2_900,
        tokensPerMinute: 100,
        maxOutputTokens: 1_000
      })
      const figures = all.map(({ admitted, denied, overshoot, utilisation }) => [
        admitted,
        denied,
        overshoot,
        Math.round(utilisation * 3_000)
      ])
      assert.deepStrictEqual(figures, [
        // 3,000 of 2,900, and the 74 that come until the last call do not pay the debt.
        [3, 1, 100, 3_000],
        // 400 x 4 + 1,000 = 2,600 of 2,900: one, and the last.
        [2, 2, 0, 1_000],
        // 1,400 of 2,900: two, and the last.
        [3, 1, 0, 2_000],
        [3, 1, 0, 2_000]
      ])
    })
  )

  it("parses a trace, in the order of time", () => {
    const csv =
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:04.0319600,3180,8\r\n2023-11-16 18:17:03.9799600,4808,10\r\n"
    assert.deepStrictEqual(parse(csv), [
      { at: 0, input: 4_808, output: 10 },
      { at: 52, input: 3_180, output: 8 }
    ])
    for (const wrong of ["TIMESTAMP\n", "TIMESTAMP\n2023-11-16 18:17:04,x,1\n", "TIMESTAMP\nyesterday,1,1\n"]) {
      assert.throws(() => parse(wrong), RangeError)
    }
  })
})
