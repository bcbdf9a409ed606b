import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { TestClock } from "effect/testing"
import { BudgetGuard, BudgetStore, Limit, RowGuard } from "../src/index.ts"
import { defectOf } from "./utils/exits.ts"

const open = (limit: Limit.Limit | ReadonlyArray<Limit.Limit>, enforcement?: BudgetStore.Enforcement) =>
  Effect.provide(BudgetGuard.make({ name: "rows", limit, enforcement }), BudgetStore.BudgetStore.layerMemory)

/** The books of the first limit. That they add up is asserted for every limit. */
const books = (guard: BudgetGuard.BudgetGuard) =>
  Effect.map(guard.snapshot, ({ ledgers }) => {
    for (const { available, granted, held, spent } of ledgers) assert.strictEqual(available + held + spent, granted)
    const { available, granted, held, spent } = ledgers[0]
    return { granted, available, held, spent }
  })

describe("BudgetGuard", () => {
  describe("the pair", () => {
    it.effect("takes and gives back, 1 unless said otherwise, whatever scope it runs in", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.capacity(10))
        assert.isTrue(yield* Effect.scoped(guard.tryReserve()))
        assert.isTrue(yield* guard.tryReserve(5))
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 4, held: 6, spent: 0 })
        yield* guard.release()
        yield* guard.release(3)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 8, held: 2, spent: 0 })
        yield* guard.release(2)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 10, held: 0, spent: 0 })
      })
    )

    it.effect("answers false and takes nothing when it does not fit, under every enforcement", () =>
      Effect.gen(function* () {
        for (const enforcement of ["reject", "throttle", "terminate"] as const) {
          const guard = yield* open([Limit.capacity(100), Limit.concurrency(10)], enforcement)
          assert.isTrue(yield* guard.tryReserve(8))
          const before = yield* guard.snapshot
          assert.isFalse(yield* guard.tryReserve(3))
          assert.deepStrictEqual(yield* guard.snapshot, before)
          assert.isTrue(yield* guard.tryReserve(2))
          assert.isTrue(yield* guard.tryReserve(0))
        }
      })
    )

    it.effect("never gives back more than was taken: that dies, and gives back nothing", () =>
      Effect.gen(function* () {
        for (const limit of [
          Limit.capacity(10),
          Limit.concurrency(10),
          Limit.rate({ amount: 10, per: "1 hour" }),
          Limit.window({ amount: 10, every: "1 hour" })
        ]) {
          const guard = yield* open(limit)
          defectOf(yield* Effect.exit(guard.release()))
          yield* guard.tryReserve(3)
          const defect = defectOf(yield* Effect.exit(guard.release(4)))
          assert.instanceOf(defect, RangeError)
          assert.strictEqual(defect.message, `Budget "rows": 4 released, but only 3 taken with tryReserve`)
          assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 7, held: 3, spent: 0 })
          yield* guard.release(3)
          defectOf(yield* Effect.exit(guard.release(1)))
          assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 10, held: 0, spent: 0 })
        }
      })
    )

    it.effect("does not give back what reservations hold", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.capacity(10))
        const reservation = yield* guard.reserve(4)
        yield* guard.tryReserve(1)
        defectOf(yield* Effect.exit(guard.release(2)))
        yield* guard.release(1)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 6, held: 4, spent: 0 })
        yield* reservation.commit(3)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 7, held: 0, spent: 3 })
      })
    )

    it.effect("refuses what is not an amount", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.capacity(10))
        yield* guard.tryReserve(5)
        for (const cost of [-1, 1.5, NaN, 2 ** 53]) {
          for (const attempt of [guard.tryReserve(cost), guard.release(cost)]) {
            const defect = defectOf(yield* Effect.exit<unknown, never, never>(attempt))
            assert.instanceOf(defect, RangeError)
            assert.include(defect.message, `Budget "rows"`)
            assert.include(defect.message, String(cost))
          }
        }
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 5, held: 5, spent: 0 })
      })
    )

    it.effect("does not pass those who wait, and wakes them", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.concurrency(10), "throttle")
        yield* guard.tryReserve(8)
        const fiber = yield* Effect.forkChild(
          guard.withReservation(5, () => Effect.void),
          { startImmediately: true }
        )
        assert.isFalse(yield* guard.tryReserve(1))
        yield* guard.release(2)
        assert.strictEqual((yield* guard.snapshot).waiters, 1)
        yield* guard.release(1)
        assert.strictEqual((yield* guard.snapshot).waiters, 0)
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 5, held: 5, spent: 0 })
      })
    )
  })

  describe("the pair over windows", () => {
    const window = Limit.window({ amount: 10, every: "1 second" })

    it.effect("what was taken in a window that is over is not given back to the new one", () =>
      Effect.gen(function* () {
        const guard = yield* open(window)
        yield* guard.tryReserve(5)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 10, held: 0, spent: 0 })
        yield* guard.release(5)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 10, held: 0, spent: 0 })
        defectOf(yield* Effect.exit(guard.release(1)))
      })
    )

    it.effect("gives back the oldest first", () =>
      Effect.gen(function* () {
        const guard = yield* open(window)
        yield* guard.tryReserve(5)
        yield* TestClock.adjust("1 second")
        yield* guard.tryReserve(3)
        yield* TestClock.adjust("1 second")
        yield* guard.tryReserve(2)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 8, held: 2, spent: 0 })
        yield* guard.release(4)
        yield* guard.release(4)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 8, held: 2, spent: 0 })
        yield* guard.release(1)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 9, held: 1, spent: 0 })
        defectOf(yield* Effect.exit(guard.release(2)))
        yield* guard.release(1)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 10, held: 0, spent: 0 })
      })
    )

    it.effect("goes on for any number of windows with some always taken", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.window({ amount: 10, every: 1 }))
        yield* guard.tryReserve(2)
        for (let i = 1; i <= 12_000; i++) {
          yield* TestClock.setTime(i)
          assert.isTrue(yield* guard.tryReserve(1))
          yield* guard.release(1)
        }
        yield* guard.release(2)
        defectOf(yield* Effect.exit(guard.release(1)))
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 10, held: 0, spent: 0 })
      })
    )

    it.effect("a reset leaves nothing to give back to the new books", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.capacity(10))
        yield* guard.tryReserve(5)
        yield* guard.reset
        yield* guard.tryReserve(2)
        yield* guard.release(5)
        assert.deepStrictEqual(yield* books(guard), { granted: 10, available: 8, held: 2, spent: 0 })
      })
    )
  })

  describe("refill", () => {
    it.effect("restores what is available to the capacity, and what is held stays held", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.capacity(100))
        yield* guard.withReservation(20, () => Effect.void)
        yield* guard.tryReserve(30)
        const reservation = yield* guard.reserve(10)
        yield* guard.refill
        assert.deepStrictEqual(yield* books(guard), { granted: 120, available: 60, held: 40, spent: 20 })
        yield* guard.release(30)
        yield* reservation.release
        assert.strictEqual(yield* guard.available, 100)
      })
    )

    it.effect("pays debt, and takes nothing away when there is more", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.capacity(100))
        yield* guard.withReservation(20, (reservation) => reservation.commit(150))
        assert.strictEqual(yield* guard.available, -50)
        yield* guard.refill
        assert.strictEqual(yield* guard.available, 100)
        yield* guard.topUp(7)
        yield* guard.refill
        assert.deepStrictEqual(yield* books(guard), { granted: 257, available: 107, held: 0, spent: 150 })
      })
    )

    it.effect("fills a bucket and a window, and has nothing to do for slots", () =>
      Effect.gen(function* () {
        const guard = yield* open([
          Limit.rate({ amount: 10, per: "1 hour" }),
          Limit.window({ amount: 20, every: "1 hour" }),
          Limit.concurrency(30)
        ])
        yield* guard.withReservation(6, () => Effect.void)
        yield* guard.tryReserve(4)
        yield* guard.refill
        yield* books(guard)
        const { ledgers } = yield* guard.snapshot
        assert.deepStrictEqual(
          ledgers.map(({ available, held }) => [available, held]),
          [
            [6, 4],
            [16, 4],
            [26, 4]
          ]
        )
      })
    )

    it.effect("admits who waits", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.capacity(10), "throttle")
        yield* guard.withReservation(10, () => Effect.void)
        const fiber = yield* Effect.forkChild(
          guard.withReservation(5, () => Effect.void),
          { startImmediately: true }
        )
        yield* guard.refill
        yield* Fiber.join(fiber)
        assert.strictEqual(yield* guard.available, 5)
      })
    )
  })

  describe("capacity and utilization", () => {
    it.effect("capacity is the least that any limit allows in all, and follows setLimit", () =>
      Effect.gen(function* () {
        const guard = yield* open([Limit.capacity(100), Limit.rate({ amount: 10, per: "1 second", burst: 40 })])
        assert.strictEqual(yield* guard.capacity, 40)
        yield* guard.tryReserve(30)
        assert.strictEqual(yield* guard.capacity, 40)
        yield* guard.setLimit([Limit.capacity(20), Limit.rate({ amount: 10, per: "1 second", burst: 40 })])
        assert.strictEqual(yield* guard.capacity, 20)
      })
    )

    it.effect("utilization counts what is held and spent, from 0 to 1", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.capacity(100))
        const seen = [yield* guard.utilization]
        yield* guard.tryReserve(25)
        seen.push(yield* guard.utilization)
        yield* guard.withReservation(25, () => Effect.void)
        seen.push(yield* guard.utilization)
        yield* guard.release(25)
        seen.push(yield* guard.utilization)
        yield* guard.topUp(1_000)
        seen.push(yield* guard.utilization)
        yield* guard.withReservation(0, (reservation) => reservation.commit(5_000))
        seen.push(yield* guard.utilization)
        assert.deepStrictEqual(seen, [0, 0.25, 0.5, 0.25, 0, 1])
      })
    )

    it.effect("utilization is that of the fullest limit, and 0 for a capacity of 0", () =>
      Effect.gen(function* () {
        const several = yield* open([Limit.capacity(100), Limit.concurrency(10)])
        yield* several.withReservation(10, () => Effect.void)
        assert.strictEqual(yield* several.utilization, 0.1)
        yield* several.tryReserve(5)
        assert.strictEqual(yield* several.utilization, 0.5)
        const none = yield* open(Limit.capacity(0))
        assert.strictEqual(yield* none.utilization, 0)
        assert.isFalse(yield* none.tryReserve(1))
        const unlimited = yield* open(Limit.unlimited)
        yield* unlimited.tryReserve(1_000)
        assert.isBelow(yield* unlimited.utilization, 1e-9)
      })
    )

    it.effect("utilization goes down with time", () =>
      Effect.gen(function* () {
        const guard = yield* open(Limit.rate({ amount: 10, per: "1 second" }))
        yield* guard.withReservation(10, () => Effect.void)
        assert.strictEqual(yield* guard.utilization, 1)
        yield* TestClock.adjust("400 millis")
        assert.strictEqual(yield* guard.utilization, 0.6)
      })
    )
  })

  it.effect("RowGuard is a guard that can be used as it is", () =>
    Effect.gen(function* () {
      const rows = yield* RowGuard
      assert.strictEqual(rows.name, "effect-budget/RowGuard")
      assert.isTrue(yield* rows.tryReserve(80))
      assert.isFalse(yield* rows.tryReserve(80))
      yield* rows.release(80)
      yield* rows.withReservation(70, () => Effect.void)
      assert.strictEqual(yield* rows.available, 30)
    }).pipe(Effect.provide(RowGuard.layer({ limit: Limit.capacity(100) })))
  )
})
