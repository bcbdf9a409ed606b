import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { BudgetPool, BudgetStore, Limit, Usd } from "../src/index.ts"
import { exceededBy } from "./utils/exits.ts"

interface Caps {
  readonly input?: number
  readonly output?: number
  readonly total?: number
  readonly cost?: number
}

const capsOf = ({ cost, ...tokens }: Caps): BudgetPool.Caps =>
  cost === undefined ? tokens : { ...tokens, cost: Usd.nanos(cost) }

const open = (caps: Caps, enforcement?: BudgetStore.Enforcement) =>
  Effect.provide(
    BudgetPool.make({ name: "agents", caps: capsOf(caps), enforcement }),
    BudgetStore.BudgetStore.layerMemory
  )

const usage = (input: number, output: number, cost = 0): BudgetPool.Usage => ({ input, output, cost: Usd.nanos(cost) })

/** What is available of each kind with a cap. That all books add up is asserted on the way. */
const left = (pool: BudgetPool.BudgetPool) =>
  Effect.map(pool.snapshot, (snapshots) => {
    for (const { ledgers } of Object.values(snapshots)) {
      for (const { available, granted, held, spent } of ledgers) assert.strictEqual(available + held + spent, granted)
    }
    const { cost, input, output, total } = snapshots
    return [input, output, total, cost].map(({ available }) => available)
  })

describe("BudgetPool", () => {
  describe("record", () => {
    it.effect("charges the usage and counts the call", () =>
      Effect.gen(function* () {
        const pool = yield* open({ total: 10_000, cost: Usd.dollars(1) })
        yield* pool.record(usage(900, 300, Usd.dollars("0.02")))
        yield* pool.record(usage(100, 0, Usd.dollars("0.01")))
        assert.deepStrictEqual(yield* pool.totals, {
          input: 1_000,
          output: 300,
          total: 1_300,
          cost: Usd.dollars("0.03"),
          calls: 2
        })
      })
    )

    it.effect("is all or nothing", () =>
      Effect.gen(function* () {
        const fitting = { input: 100, output: 100, total: 200, cost: 1_000 }
        for (const cap of ["input", "output", "total", "cost"] as const) {
          const pool = yield* open({ ...fitting, [cap]: 10 })
          const before = yield* pool.snapshot
          const error = exceededBy(yield* Effect.exit(pool.record(usage(20, 20, 20))))
          assert.strictEqual(error.budget, `agents/${cap}`)
          assert.strictEqual(error.requested, cap === "total" ? 40 : 20)
          assert.strictEqual(error.available, 10)
          assert.deepStrictEqual(error.limit, Limit.capacity(10))
          assert.deepStrictEqual(yield* pool.snapshot, before)
        }
      })
    )

    it.effect("its error names the first cap that it does not fit, in the order input, output, total, cost", () =>
      Effect.gen(function* () {
        const named = []
        for (const caps of [
          { input: 1, output: 1, total: 1, cost: 1 },
          { output: 1, total: 1, cost: 1 },
          { total: 1, cost: 1 },
          { cost: 1 }
        ]) {
          const pool = yield* open(caps)
          named.push(exceededBy(yield* Effect.exit(pool.record(usage(2, 2, 2)))).budget)
        }
        assert.deepStrictEqual(named, ["agents/input", "agents/output", "agents/total", "agents/cost"])
      })
    )

    it.effect("the order holds also when a later cap could never fit and an earlier one could", () =>
      Effect.gen(function* () {
        for (const enforcement of ["reject", "throttle", "terminate"] as const) {
          const pool = yield* open({ input: 10, cost: 5 }, enforcement)
          yield* pool.record(usage(8, 0, 0))
          assert.strictEqual(
            exceededBy(yield* Effect.exit(pool.record(usage(3, 0, 6)))).budget,
            "agents/input",
            enforcement
          )
        }
      })
    )

    it.effect("exactly at the cap is allowed, one more is not", () =>
      Effect.gen(function* () {
        const pool = yield* open({ input: 10, output: 20, total: 30, cost: 40 })
        yield* pool.record(usage(10, 20, 40))
        assert.deepStrictEqual(yield* left(pool), [0, 0, 0, 0])
        for (const more of [usage(1, 0), usage(0, 1), usage(0, 0, 1)]) {
          exceededBy(yield* Effect.exit(pool.record(more)))
        }
        yield* pool.record(usage(0, 0, 0))
        assert.strictEqual((yield* pool.totals).calls, 2)
      })
    )

    it.effect("without caps, everything is counted and nothing denied", () =>
      Effect.gen(function* () {
        const pool = yield* open({})
        yield* pool.record(usage(1_000_000, 2_000_000, 3_000_000))
        assert.deepStrictEqual(yield* pool.totals, {
          input: 1_000_000,
          output: 2_000_000,
          total: 3_000_000,
          cost: 3_000_000,
          calls: 1
        })
      })
    )

    it.effect("never waits and never terminates", () =>
      Effect.gen(function* () {
        for (const enforcement of ["throttle", "terminate"] as const) {
          const pool = yield* open({ total: 10 }, enforcement)
          yield* pool.reserve(usage(5, 5))
          assert.strictEqual(exceededBy(yield* Effect.exit(pool.record(usage(1, 0)))).budget, "agents/total")
        }
      })
    )

    it.effect("goes ahead of those who wait, since what it records is spent already", () =>
      Effect.gen(function* () {
        const pool = yield* open({ total: 10 }, "throttle")
        yield* pool.reserve(usage(8, 0))
        yield* Effect.forkChild(Effect.scoped(pool.reserve(usage(5, 0))), { startImmediately: true })
        yield* pool.record(usage(1, 1))
        assert.strictEqual((yield* pool.totals).total, 2)
        assert.strictEqual((yield* pool.snapshot).total.waiters, 1)
      })
    )

    it.effect("of what is not an amount dies with the name and the value, and charges nothing", () =>
      Effect.gen(function* () {
        const pool = yield* open({ total: 10 })
        for (const [bad, name, value] of [
          [usage(-1, 0), "agents/input", "-1"],
          [usage(0, 1.5), "agents/output", "1.5"]
        ] as const) {
          const exit = yield* Effect.exit(pool.record(bad))
          const defect = Exit.isFailure(exit) ? Result.getOrThrow(Cause.findDefect(exit.cause)) : undefined
          if (!(defect instanceof RangeError)) return assert.fail(`expected a RangeError, got ${String(exit)}`)
          assert.include(defect.message, `Budget "${name}"`)
          assert.include(defect.message, value)
        }
        assert.strictEqual((yield* pool.totals).calls, 0)
      })
    )
  })

  describe("reserve", () => {
    it.effect("holds of every cap, and charges the actual of each", () =>
      Effect.gen(function* () {
        const pool = yield* open({ input: 100, output: 100, total: 150, cost: 1_000 })
        yield* pool.withReservation(usage(50, 40, 500), (reservation) =>
          Effect.gen(function* () {
            assert.deepStrictEqual(reservation.amount, usage(50, 40, 500))
            assert.deepStrictEqual(yield* left(pool), [50, 60, 60, 500])
            assert.strictEqual((yield* pool.totals).total, 0)
            assert.deepStrictEqual(yield* reservation.commit(usage(60, 10, 300)), {
              cause: "committed",
              held: usage(50, 40, 500),
              charged: usage(60, 10, 300),
              refunded: usage(0, 30, 200),
              overage: usage(10, 0, 0),
              overran: []
            })
          })
        )
        assert.deepStrictEqual(yield* left(pool), [40, 90, 80, 700])
        assert.deepStrictEqual(yield* pool.totals, { input: 60, output: 10, total: 70, cost: 300, calls: 1 })
      })
    )

    it.effect("follows the rule for scopes that end; a call counts when it was charged", () =>
      Effect.gen(function* () {
        const pool = yield* open({ total: 100 })
        yield* pool.withReservation(usage(10, 10), () => Effect.void)
        assert.strictEqual((yield* pool.totals).total, 20)
        yield* Effect.exit(pool.withReservation(usage(10, 10), () => Effect.fail("no")))
        assert.deepStrictEqual(yield* pool.totals, { ...usage(10, 10), total: 20, calls: 1 })
        yield* Effect.exit(
          pool.withReservation(usage(10, 10), (reservation) =>
            Effect.andThen(reservation.progress(usage(10, 3, 7)), Effect.interrupt)
          )
        )
        assert.deepStrictEqual(yield* pool.totals, { ...usage(20, 13, 7), total: 33, calls: 2 })
        yield* pool.withReservation(usage(10, 10), (reservation) => reservation.release)
        assert.strictEqual((yield* pool.totals).calls, 2)
        assert.deepStrictEqual(yield* left(pool), [
          Number.MAX_SAFE_INTEGER - 20,
          Number.MAX_SAFE_INTEGER - 13,
          67,
          Number.MAX_SAFE_INTEGER - 7
        ])
      })
    )

    it.effect("a commit over the caps is recorded, and the answer names the caps it overran", () =>
      Effect.gen(function* () {
        const pool = yield* open({ input: 10, output: 100, total: 50, cost: 1_000 })
        const reservation = yield* pool.reserve(usage(5, 5, 100))
        const settlement = yield* reservation.commit(usage(20, 40, 500))
        assert.deepStrictEqual(settlement.overran, ["agents/input", "agents/total"])
        assert.deepStrictEqual(settlement.overage, usage(15, 35, 400))
        assert.deepStrictEqual(yield* pool.totals, { input: 20, output: 40, total: 60, cost: 500, calls: 1 })
        assert.deepStrictEqual(yield* left(pool), [-10, 60, -10, 500])
      })
    )

    it.effect("is all or nothing; tryReserve is the soft no", () =>
      Effect.gen(function* () {
        const pool = yield* open({ input: 100, cost: 10 })
        const before = yield* pool.snapshot
        assert.strictEqual(exceededBy(yield* Effect.exit(pool.reserve(usage(5, 5, 11)))).budget, "agents/cost")
        assert.isTrue(Option.isNone(yield* pool.tryReserve(usage(5, 5, 11))))
        assert.deepStrictEqual(yield* pool.snapshot, before)
        const some = yield* pool.tryReserve(usage(5, 5, 10))
        assert.deepStrictEqual(Option.getOrThrow(some).amount, usage(5, 5, 10))
      })
    )

    it.effect("extends over the same caps", () =>
      Effect.gen(function* () {
        const pool = yield* open({ total: 20 })
        const reservation = yield* pool.reserve(usage(5, 5))
        assert.strictEqual(exceededBy(yield* Effect.exit(reservation.extend(usage(5, 6)))).budget, "agents/total")
        yield* reservation.extend(usage(5, 5))
        assert.deepStrictEqual(reservation.amount, usage(10, 10))
        yield* reservation.commit(usage(1, 1))
        assert.strictEqual((yield* pool.snapshot).total.available, 18)
      })
    )

    it.effect("an extended call is one call", () =>
      Effect.gen(function* () {
        const pool = yield* open({ total: 100 })
        yield* pool.withReservation(usage(5, 5), (reservation) => reservation.extend(usage(5, 5)))
        assert.strictEqual((yield* pool.totals).total, 20)
        assert.strictEqual((yield* pool.totals).calls, 1)
      })
    )

    it.effect("waits for its turn when the pool throttles", () =>
      Effect.gen(function* () {
        const pool = yield* open({ total: 10, cost: 100 }, "throttle")
        const reservation = yield* pool.reserve(usage(8, 0, 10))
        const fiber = yield* Effect.forkChild(
          pool.withReservation(usage(5, 0, 10), () => Effect.void),
          { startImmediately: true }
        )
        assert.strictEqual((yield* pool.snapshot).total.waiters, 1)
        yield* reservation.commit(usage(2, 0, 10))
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* pool.totals, { input: 7, output: 0, total: 7, cost: 20, calls: 2 })
      })
    )
  })

  it.effect("reset sets the totals to zero, and what is held from before does not come back", () =>
    Effect.gen(function* () {
      const pool = yield* open({ input: 100, output: 100, total: 100, cost: 100 })
      yield* pool.record(usage(10, 20, 30))
      const reservation = yield* pool.reserve(usage(5, 5, 5))
      yield* pool.reset
      const zero = { input: 0, output: 0, total: 0, cost: 0, calls: 0 }
      assert.deepStrictEqual(yield* pool.totals, zero)
      assert.deepStrictEqual(yield* left(pool), [100, 100, 100, 100])
      yield* reservation.commit(usage(9, 9, 9))
      assert.deepStrictEqual(yield* pool.totals, zero)
      assert.deepStrictEqual(yield* left(pool), [100, 100, 100, 100])
    })
  )

  it.effect("setCaps changes the caps and keeps what is used; one that is absent is lifted", () =>
    Effect.gen(function* () {
      const pool = yield* open({ input: 100, total: 100 })
      yield* pool.record(usage(40, 20, 30))
      assert.deepStrictEqual(yield* pool.caps, { input: 100, output: undefined, total: 100, cost: undefined })
      yield* pool.setCaps(capsOf({ output: 50, total: 61, cost: 20 }))
      assert.deepStrictEqual(yield* pool.caps, { input: undefined, output: 50, total: 61, cost: Usd.nanos(20) })
      assert.deepStrictEqual(yield* pool.totals, { input: 40, output: 20, total: 60, cost: 30, calls: 1 })
      assert.deepStrictEqual(yield* left(pool), [Number.MAX_SAFE_INTEGER - 40, 30, 1, -10])
      assert.strictEqual(exceededBy(yield* Effect.exit(pool.record(usage(0, 2, 0)))).budget, "agents/total")
      yield* pool.record(usage(1, 0, 0))
      yield* pool.setCaps({ input: 100, total: 100 })
      assert.deepStrictEqual((yield* left(pool)).slice(0, 3), [59, Number.MAX_SAFE_INTEGER - 20, 39])
    })
  )

  it.effect("setCaps with a cap that is not an amount dies, and changes none of them", () =>
    Effect.gen(function* () {
      const pool = yield* open({ input: 100, total: 100 })
      const before = yield* pool.snapshot
      const exit = yield* Effect.exit(pool.setCaps({ input: 50, total: -1 }))
      const defect = Exit.isFailure(exit) ? Result.getOrThrow(Cause.findDefect(exit.cause)) : undefined
      if (!(defect instanceof RangeError)) return assert.fail(`expected a RangeError, got ${String(exit)}`)
      assert.include(defect.message, "agents/total")
      assert.include(defect.message, "-1")
      assert.deepStrictEqual(yield* pool.snapshot, before)
    })
  )

  it.effect("a service has a layer, and its name is in the errors", () => {
    class Agents extends BudgetPool.Service<Agents>()("app/Agents") {}
    return Effect.gen(function* () {
      const pool = yield* Agents
      assert.strictEqual(exceededBy(yield* Effect.exit(pool.record(usage(11, 0)))).budget, "app/Agents/input")
    }).pipe(Effect.provide(Agents.layer({ caps: { input: 10 } })))
  })
})
