import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { BudgetStore, Limit, TokenBudget, TokenGuard } from "../src/index.ts"

const open = (limit: Limit.Limit) =>
  Effect.provide(TokenBudget.make({ name: "tokens", limit }), BudgetStore.BudgetStore.layerMemory)

const MAX = Number.MAX_SAFE_INTEGER

describe("TokenBudget", () => {
  describe("recordUsage", () => {
    it.effect("less than the estimate: the rest comes back", () =>
      Effect.gen(function* () {
        const tokens = yield* open(Limit.capacity(10_000))
        const reservation = yield* tokens.reserve(4_000)
        const settlement = yield* tokens.recordUsage(reservation, { prompt: 900, completion: 350 })
        assert.deepStrictEqual(settlement, {
          cause: "committed",
          held: 4_000,
          charged: 1_250,
          refunded: 2_750,
          overage: 0,
          overran: []
        })
        assert.strictEqual(yield* tokens.available, 8_750)
        assert.strictEqual(yield* tokens.tokensConsumed, 1_250)
      })
    )

    it.effect("more than the estimate: charged in full, and carried as debt where it does not fit", () =>
      Effect.gen(function* () {
        const tokens = yield* open(Limit.capacity(5_000))
        const fits = yield* tokens.reserve(1_000)
        const first = yield* tokens.recordUsage(fits, { prompt: 1_000, completion: 500 })
        assert.deepStrictEqual([first.charged, first.overage, first.overran], [1_500, 500, []])
        const overruns = yield* tokens.reserve(3_000)
        const second = yield* tokens.recordUsage(overruns, { prompt: 4_000, completion: 0 })
        assert.deepStrictEqual([second.charged, second.overage, second.overran], [4_000, 1_000, ["tokens"]])
        assert.strictEqual(yield* tokens.available, -500)
        assert.strictEqual(yield* tokens.tokensConsumed, 5_500)
      })
    )

    const cases: ReadonlyArray<
      readonly [what: string, prompt: number | undefined, completion: number | undefined, charged: number]
    > = [
      ["exactly the hold", 60, 40, 100],
      ["a known usage of nothing", 0, 0, 0],
      ["no prompt: at least the hold", undefined, 30, 100],
      ["no completion: at least the hold", 30, undefined, 100],
      ["nothing at all: the hold", undefined, undefined, 100],
      ["a part that alone is above the hold", 130, undefined, 130],
      ["NaN is unknown", NaN, 30, 100],
      ["NaN twice", NaN, NaN, 100],
      ["fractions count up, each", 10.2, 10.2, 22],
      ["negative is unknown", -1, 30, 100],
      ["negative is unknown, also beside more than the hold", -1, 130, 130],
      ["negative infinity is unknown", -Infinity, 30, 100],
      ["infinity counts as the greatest amount", Infinity, 5, MAX],
      ["a sum beyond the greatest amount is the greatest", MAX, MAX, MAX],
      ["infinity with the other part missing", undefined, Infinity, MAX]
    ]
    for (const [what, prompt, completion, charged] of cases) {
      it.effect(`${what}: (${prompt}, ${completion}) of a hold of 100 charges ${charged}`, () =>
        Effect.gen(function* () {
          const tokens = yield* open(Limit.capacity(1_000))
          const reservation = yield* tokens.reserve(100)
          const settlement = yield* tokens.recordUsage(reservation, { prompt, completion })
          assert.strictEqual(settlement.charged, charged)
          assert.strictEqual(yield* tokens.tokensConsumed, charged)
          const { available, granted, held, spent } = (yield* tokens.snapshot).ledgers[0]
          assert.deepStrictEqual({ held, spent }, { held: 0, spent: charged })
          assert.strictEqual(available + held + spent, granted)
        })
      )
    }

    it.effect("what is unknown counts the extensions too", () =>
      Effect.gen(function* () {
        const tokens = yield* open(Limit.capacity(1_000))
        const reservation = yield* tokens.reserve(100)
        yield* reservation.extend(50)
        const settlement = yield* tokens.recordUsage(reservation, { prompt: 20, completion: undefined })
        assert.strictEqual(settlement.charged, 150)
      })
    )

    it.effect("twice, or after a commit, answers the first settlement", () =>
      Effect.gen(function* () {
        const tokens = yield* open(Limit.capacity(1_000))
        const reservation = yield* tokens.reserve(100)
        const first = yield* tokens.recordUsage(reservation, { prompt: 20, completion: 20 })
        assert.deepStrictEqual(yield* tokens.recordUsage(reservation, { prompt: 90, completion: 90 }), first)
        assert.strictEqual(yield* tokens.tokensConsumed, 40)
      })
    )

    it.effect("reads the hold when it is run, not when it is made", () =>
      Effect.gen(function* () {
        const tokens = yield* open(Limit.capacity(1_000))
        const reservation = yield* tokens.reserve(100)
        const record = tokens.recordUsage(reservation, { prompt: undefined, completion: undefined })
        yield* reservation.extend(50)
        assert.strictEqual((yield* record).charged, 150)
      })
    )
  })

  it.effect("tokensConsumed counts all that was ever charged, however it was settled, and not what is held", () =>
    Effect.gen(function* () {
      const tokens = yield* open(Limit.capacity(1_000))
      yield* tokens.withReservation(100, () => Effect.void)
      yield* tokens.withReservation(100, (reservation) => reservation.commit(10))
      yield* Effect.exit(
        tokens.withReservation(100, (reservation) => Effect.andThen(reservation.progress(5), Effect.fail("no")))
      )
      yield* tokens.reserve(300)
      assert.strictEqual(yield* tokens.tokensConsumed, 115)
      yield* tokens.reset
      assert.strictEqual(yield* tokens.tokensConsumed, 115)
    })
  )

  it.effect("TokenGuard is a token budget that can be used as it is", () =>
    Effect.gen(function* () {
      const tokens = yield* TokenGuard
      assert.strictEqual(tokens.name, "effect-budget/TokenGuard")
      yield* tokens.withReservation(4_000, (reservation) =>
        tokens.recordUsage(reservation, { prompt: 900, completion: 350 })
      )
      assert.strictEqual(yield* tokens.tokensConsumed, 1_250)
      assert.strictEqual(yield* tokens.available, 2_000_000 - 1_250)
    }).pipe(Effect.provide(TokenGuard.layer({ limit: Limit.rate({ amount: 2_000_000, per: "1 minute" }) })))
  )
})
