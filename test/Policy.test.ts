import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { Budget, BudgetPool, Limit, Policy, RowGuard, TokenGuard, Usd } from "../src/index.ts"
import { defectOf, exceededBy } from "./utils/exits.ts"

class Dollars extends Budget.Service<Dollars>()("test/Dollars") {}
class Agents extends BudgetPool.Service<Agents>()("test/Agents") {}

class Import extends Policy.Service<Import>()("test/Import", {
  rows: RowGuard,
  tokens: TokenGuard,
  dollars: Dollars
}) {}

interface Limits {
  readonly rows?: Limit.Limit | ReadonlyArray<Limit.Limit>
  readonly tokens?: Limit.Limit | ReadonlyArray<Limit.Limit>
  readonly dollars?: Limit.Limit | ReadonlyArray<Limit.Limit>
}

const members = (limits: Limits) =>
  Layer.mergeAll(
    RowGuard.layer({ name: "rows", limit: limits.rows ?? Limit.capacity(100) }),
    TokenGuard.layer({ name: "tokens", limit: limits.tokens ?? Limit.capacity(1_000) }),
    Dollars.layer({ name: "dollars", limit: limits.dollars ?? Limit.capacity(10_000) })
  )

const layer = (limits: Limits) => Layer.provideMerge(Import.layer, members(limits))

/** Available, held and spent of every member. That the books add up is asserted on the way. */
const books = Effect.gen(function* () {
  const snapshot = yield* (yield* Import).snapshot
  const of = (member: keyof typeof snapshot) => {
    for (const { available, granted, held, spent } of snapshot[member][0].ledgers) {
      assert.strictEqual(available + held + spent, granted)
    }
    const { available, held, spent } = snapshot[member][0].ledgers[0]
    return [available, held, spent]
  }
  return { rows: of("rows"), tokens: of("tokens"), dollars: of("dollars") }
})

describe("Policy", () => {
  describe("one step", () => {
    it.effect("holds all members together, and settles them together", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        yield* policy.withReservation({ rows: 1, tokens: 500, dollars: 20 }, (reservation) =>
          Effect.gen(function* () {
            assert.deepStrictEqual(reservation.amount, { rows: 1, tokens: 500, dollars: 20 })
            assert.deepStrictEqual(yield* books, {
              rows: [99, 1, 0],
              tokens: [500, 500, 0],
              dollars: [9_980, 20, 0]
            })
          })
        )
        assert.deepStrictEqual(yield* books, { rows: [99, 0, 1], tokens: [500, 0, 500], dollars: [9_980, 0, 20] })
      }).pipe(Effect.provide(layer({})))
    )

    for (const last of ["rows", "tokens", "dollars"] as const) {
      it.effect(`nothing is taken when only ${last} denies, by any construct`, () =>
        Effect.gen(function* () {
          const policy = yield* Import
          const amounts = { rows: 2, tokens: 2, dollars: 2, [last]: 20_000 }
          const before = yield* policy.snapshot
          for (const attempt of [
            Effect.scoped(policy.reserve(amounts)),
            policy.withReservation(amounts, () => Effect.void)
          ]) {
            const error = exceededBy(yield* Effect.exit(attempt))
            assert.strictEqual(error.budget, last)
            assert.strictEqual(error.requested, 20_000)
          }
          assert.isTrue(Option.isNone(yield* policy.tryReserve(amounts)))
          assert.deepStrictEqual(yield* policy.snapshot, before)
        }).pipe(Effect.provide(layer({})))
      )
    }

    it.effect("nobody observes it half-done", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        const observed = yield* Effect.forEach([RowGuard, TokenGuard] as const, (member) =>
          Effect.gen(function* () {
            const { changes } = yield* member
            return yield* Effect.forkChild(
              changes.pipe(
                Stream.mapEffect(() => policy.snapshot),
                Stream.take(4),
                Stream.map(({ rows, tokens }) => [rows[0].ledgers[0].held, tokens[0].ledgers[0].held]),
                Stream.runCollect
              )
            )
          })
        )
        for (let i = 0; i < 20; i++) {
          yield* policy.withReservation({ rows: 3, tokens: 30, dollars: 0 }, () => Effect.yieldNow)
          yield* Effect.yieldNow
        }
        for (const fiber of observed) {
          for (const [rows, tokens] of yield* Fiber.join(fiber)) assert.strictEqual(tokens, rows! * 10)
        }
      }).pipe(Effect.provide(layer({})))
    )
  })

  describe("settling", () => {
    it.effect("each member by its own actual", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        const reservation = yield* policy.reserve({ rows: 1, tokens: 500, dollars: 20 })
        assert.deepStrictEqual(yield* reservation.commit({ rows: 1, tokens: 420, dollars: 35 }), {
          cause: "committed",
          held: { rows: 1, tokens: 500, dollars: 20 },
          charged: { rows: 1, tokens: 420, dollars: 35 },
          refunded: { rows: 0, tokens: 80, dollars: 0 },
          overage: { rows: 0, tokens: 0, dollars: 15 },
          overran: []
        })
        assert.deepStrictEqual(yield* books, { rows: [99, 0, 1], tokens: [580, 0, 420], dollars: [9_965, 0, 35] })
      }).pipe(Effect.provide(layer({})))
    )

    it.effect("names every budget it left in debt", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        const reservation = yield* policy.reserve({ rows: 1, tokens: 500, dollars: 20 })
        const settlement = yield* reservation.commit({ rows: 101, tokens: 600, dollars: 20_000 })
        assert.deepStrictEqual(settlement.overran, ["rows", "dollars"])
        assert.deepStrictEqual(yield* reservation.release, settlement)
      }).pipe(Effect.provide(layer({})))
    )

    it.effect("failure and interruption charge the progress of each", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        for (const end of [Effect.fail("no"), Effect.interrupt, Effect.die("boom")]) {
          yield* Effect.exit(
            policy.withReservation({ rows: 1, tokens: 100, dollars: 10 }, (reservation) =>
              Effect.andThen(reservation.progress({ rows: 0, tokens: 30, dollars: 12 }), end)
            )
          )
        }
        assert.deepStrictEqual(yield* books, { rows: [100, 0, 0], tokens: [910, 0, 90], dollars: [9_964, 0, 36] })
      }).pipe(Effect.provide(layer({})))
    )

    it.effect("a bad actual of one dies with its name, and settles none before the scope ends", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        yield* Effect.scoped(
          Effect.gen(function* () {
            const reservation = yield* policy.reserve({ rows: 1, tokens: 500, dollars: 20 })
            const defect = defectOf(yield* Effect.exit(reservation.commit({ rows: 1, tokens: -1, dollars: 20 })))
            assert.include(defect.message, `Budget "tokens"`)
            assert.include(defect.message, "-1")
            assert.deepStrictEqual((yield* books).rows, [99, 1, 0])
          })
        )
        assert.deepStrictEqual(yield* books, { rows: [99, 0, 1], tokens: [500, 0, 500], dollars: [9_980, 0, 20] })
      }).pipe(Effect.provide(layer({})))
    )
  })

  describe("extend", () => {
    it.effect("asks all members in one step", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        const reservation = yield* policy.reserve({ rows: 1, tokens: 500, dollars: 20 })
        const refused = yield* Effect.exit(reservation.extend({ rows: 1, tokens: 501, dollars: 1 }))
        assert.strictEqual(exceededBy(refused).budget, "tokens")
        assert.deepStrictEqual(reservation.amount, { rows: 1, tokens: 500, dollars: 20 })
        yield* reservation.extend({ rows: 0, tokens: 500, dollars: 0 })
        assert.deepStrictEqual(reservation.amount, { rows: 1, tokens: 1_000, dollars: 20 })
        assert.deepStrictEqual(yield* books, { rows: [99, 1, 0], tokens: [0, 1_000, 0], dollars: [9_980, 20, 0] })
      }).pipe(Effect.provide(layer({})))
    )

    it.effect("each member keeps its own windows apart", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        const reservation = yield* policy.reserve({ rows: 10, tokens: 100, dollars: 20 })
        yield* TestClock.adjust("1 minute")
        yield* reservation.extend({ rows: 5, tokens: 50, dollars: 0 })
        yield* reservation.commit({ rows: 12, tokens: 120, dollars: 1 })
        // Of the 120 tokens, 100 belong to the window that is over; rows and dollars have none.
        assert.deepStrictEqual(yield* books, { rows: [88, 0, 12], tokens: [980, 0, 20], dollars: [9_999, 0, 1] })
      }).pipe(Effect.provide(layer({ tokens: Limit.window({ amount: 1_000, every: "1 minute" }) })))
    )
  })

  describe("denials", () => {
    it.effect("the first member that denies is named, and retryAfter is when all of them admit", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        yield* policy.withReservation({ rows: 10, tokens: 1_000, dollars: 10 }, () => Effect.void)
        const ask = Effect.exit(Effect.scoped(policy.reserve({ rows: 4, tokens: 10, dollars: 1 })))
        const error = exceededBy(yield* ask)
        assert.strictEqual(error.budget, "rows")
        assert.deepStrictEqual(error.retryAfter, Duration.seconds(60))
        yield* TestClock.adjust("59999 millis")
        const later = exceededBy(yield* ask)
        assert.strictEqual(later.budget, "tokens")
        assert.deepStrictEqual(later.retryAfter, Duration.millis(1))
        yield* TestClock.adjust("1 millis")
        assert.isTrue(Exit.isSuccess(yield* ask))
      }).pipe(
        Effect.provide(
          layer({
            rows: Limit.rate({ amount: 10, per: "10 seconds" }),
            tokens: Limit.window({ amount: 1_000, every: "1 minute" })
          })
        )
      )
    )

    it.effect("no retryAfter when time helps only some of the members that deny", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        yield* policy.withReservation({ rows: 10, tokens: 0, dollars: 10_000 }, () => Effect.void)
        const both = exceededBy(yield* Effect.exit(policy.reserve({ rows: 4, tokens: 0, dollars: 1 })))
        assert.strictEqual(both.budget, "rows")
        assert.isUndefined(both.retryAfter)
        const one = exceededBy(yield* Effect.exit(policy.reserve({ rows: 4, tokens: 0, dollars: 0 })))
        assert.deepStrictEqual(one.retryAfter, Duration.seconds(4))
      }).pipe(Effect.provide(layer({ rows: Limit.rate({ amount: 10, per: "10 seconds" }) })))
    )

    it.effect("an amount of 0 asks nothing of a member, also one in debt", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        yield* (yield* TokenGuard).withReservation(1, (reservation) => reservation.commit(5_000))
        yield* policy.withReservation({ rows: 1, tokens: 0, dollars: 0 }, () => Effect.void)
        assert.strictEqual(
          exceededBy(yield* Effect.exit(policy.reserve({ rows: 1, tokens: 1, dollars: 0 }))).budget,
          "tokens"
        )
        assert.deepStrictEqual(yield* books, {
          rows: [99, 0, 1],
          tokens: [-4_000, 0, 5_000],
          dollars: [10_000, 0, 0]
        })
      }).pipe(Effect.provide(layer({})))
    )

    it.effect("an amount of 0 for a member can still be charged", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        yield* policy.withReservation({ rows: 1, tokens: 0, dollars: 0 }, (reservation) =>
          reservation.commit({ rows: 0, tokens: 7, dollars: 3 })
        )
        assert.deepStrictEqual(yield* books, { rows: [100, 0, 0], tokens: [993, 0, 7], dollars: [9_997, 0, 3] })
      }).pipe(Effect.provide(layer({})))
    )

    it.effect("a bad amount of a member dies with its name, and takes nothing", () =>
      Effect.gen(function* () {
        const policy = yield* Import
        for (const bad of [-1, 1.5, NaN, 2 ** 53]) {
          const defect = defectOf(yield* Effect.exit(policy.reserve({ rows: 1, tokens: 1, dollars: bad })))
          assert.instanceOf(defect, RangeError)
          assert.include(defect.message, `Budget "dollars"`)
          assert.include(defect.message, String(bad))
        }
        assert.deepStrictEqual(yield* books, { rows: [100, 0, 0], tokens: [1_000, 0, 0], dollars: [10_000, 0, 0] })
      }).pipe(Effect.provide(layer({})))
    )
  })

  it.effect("concurrency and rate together: slots come back, the rate stays spent", () =>
    Effect.gen(function* () {
      const policy = yield* Import
      const use = policy.withReservation({ rows: 1, tokens: 300, dollars: 0 }, (reservation) =>
        reservation.commit({ rows: 1, tokens: 200, dollars: 0 })
      )
      yield* use
      yield* use
      assert.deepStrictEqual(yield* books, { rows: [2, 0, 0], tokens: [600, 0, 400], dollars: [10_000, 0, 0] })
      const amounts = { rows: 1, tokens: 300, dollars: 0 }
      yield* policy.reserve(amounts)
      yield* policy.reserve(amounts)
      const bySlots = exceededBy(yield* Effect.exit(policy.reserve({ ...amounts, tokens: 0 })))
      assert.strictEqual(bySlots.budget, "rows")
      assert.isUndefined(bySlots.retryAfter)
      yield* TestClock.adjust("6 seconds")
      assert.deepStrictEqual((yield* books).tokens, [100, 600, 400])
    }).pipe(
      Effect.provide(layer({ rows: Limit.concurrency(2), tokens: Limit.rate({ amount: 1_000, per: "1 minute" }) }))
    )
  )

  describe("members of every face", () => {
    class Nested extends Policy.Service<Nested>()("test/Nested", { import: Import, agents: Agents }) {}
    const nested = Layer.provideMerge(
      Nested.layer,
      Layer.mergeAll(layer({}), Agents.layer({ name: "agents", caps: { total: 500, cost: Usd.dollars(1) } }))
    )
    const amounts = {
      import: { rows: 1, tokens: 100, dollars: 10 },
      agents: { input: 60, output: 40, cost: Usd.dollars("0.10") }
    }

    it.effect("a policy and a pool are reserved in one step and settled by their own records", () =>
      Effect.gen(function* () {
        const policy = yield* Nested
        const actual = {
          import: { rows: 1, tokens: 80, dollars: 11 },
          agents: { input: 60, output: 20, cost: Usd.dollars("0.08") }
        }
        yield* policy.withReservation(amounts, (reservation) =>
          Effect.gen(function* () {
            assert.deepStrictEqual(reservation.amount, amounts)
            assert.deepStrictEqual(yield* books, {
              rows: [99, 1, 0],
              tokens: [900, 100, 0],
              dollars: [9_990, 10, 0]
            })
            assert.strictEqual((yield* (yield* Agents).snapshot).total.available, 400)
            const settlement = yield* reservation.commit(actual)
            assert.deepStrictEqual(settlement.charged, actual)
            assert.deepStrictEqual(settlement.refunded, {
              import: { rows: 0, tokens: 20, dollars: 0 },
              agents: { input: 0, output: 20, cost: Usd.dollars("0.02") }
            })
            assert.deepStrictEqual(settlement.overage.import, { rows: 0, tokens: 0, dollars: 1 })
          })
        )
        assert.deepStrictEqual(yield* books, { rows: [99, 0, 1], tokens: [920, 0, 80], dollars: [9_989, 0, 11] })
        assert.deepStrictEqual(yield* (yield* Agents).totals, { ...actual.agents, total: 80, calls: 1 })
      }).pipe(Effect.provide(nested))
    )

    it.effect("a cap of the pool that denies takes nothing of the nested policy", () =>
      Effect.gen(function* () {
        const policy = yield* Nested
        const before = yield* policy.snapshot
        const error = exceededBy(
          yield* Effect.exit(policy.reserve({ ...amounts, agents: { ...amounts.agents, output: 441 } }))
        )
        assert.strictEqual(error.budget, "agents/total")
        assert.deepStrictEqual(yield* policy.snapshot, before)
      }).pipe(Effect.provide(nested))
    )

    it.effect("its snapshot has the budgets of each member", () =>
      Effect.gen(function* () {
        const snapshot = yield* (yield* Nested).snapshot
        assert.deepStrictEqual(
          snapshot.import.map(({ budget }) => budget),
          ["rows", "tokens", "dollars"]
        )
        assert.deepStrictEqual(
          snapshot.agents.map(({ budget }) => budget),
          ["agents/input", "agents/output", "agents/total", "agents/cost", "agents/calls"]
        )
      }).pipe(Effect.provide(nested))
    )

    it.effect("the same budget by two ways is refused", () =>
      Effect.gen(function* () {
        const defect = defectOf(yield* Effect.exit(Policy.make("twice", { import: Import, rows: RowGuard })))
        assert.strictEqual(defect.message, `Policy "twice" has the budget "rows" twice`)
      }).pipe(Effect.provide(layer({})))
    )

    it.effect("no members at all is refused", () =>
      Effect.gen(function* () {
        const defect = defectOf(yield* Effect.exit(Policy.make("empty", {})))
        assert.include(defect.message, `Policy "empty" has no members`)
      })
    )
  })

  it.effect("two policies that share a member see each other's holds", () =>
    Effect.gen(function* () {
      const first = yield* Policy.make("first", { rows: RowGuard, tokens: TokenGuard })
      const second = yield* Policy.make("second", { dollars: Dollars, rows: RowGuard })
      yield* first.reserve({ rows: 60, tokens: 1 })
      assert.strictEqual(exceededBy(yield* Effect.exit(second.reserve({ dollars: 1, rows: 41 }))).budget, "rows")
      yield* second.reserve({ dollars: 1, rows: 40 })
      assert.deepStrictEqual(yield* books, { rows: [0, 100, 0], tokens: [999, 1, 0], dollars: [9_999, 1, 0] })
    }).pipe(Effect.provide(layer({})))
  )
})
