import { assert, describe, it } from "@effect/vitest"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { Budget, BudgetStore, Limit, Policy, type Reservation } from "../src/index.ts"
import { defectOf, exceededBy } from "./utils/exits.ts"

const open = (limit: Budget.Options["limit"], options?: Omit<Budget.Options, "limit" | "name">) =>
  Effect.provide(Budget.make({ ...options, name: "calls", limit }), BudgetStore.BudgetStore.layerMemory)

/** The books of the first limit. That they add up is asserted for every limit. */
const books = (budget: Budget.Budget) =>
  Effect.map(budget.snapshot, ({ ledgers }) => {
    for (const { available, granted, held, spent } of ledgers) assert.strictEqual(available + held + spent, granted)
    const { available, granted, held, spent } = ledgers[0]
    return { granted, available, held, spent }
  })

const never = { committed: 0, released: 0, succeeded: 0, failed: 0, interrupted: 0 }

const settledCounts = (budget: Budget.Budget) =>
  Effect.map(budget.snapshot, ({ settled }) => ({
    committed: settled.committed.count,
    released: settled.released.count,
    succeeded: settled.succeeded.count,
    failed: settled.failed.count,
    interrupted: settled.interrupted.count
  }))

describe("Budget", () => {
  describe("reserve", () => {
    it.effect("holds the amount until the scope ends", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        yield* Effect.scoped(
          Effect.gen(function* () {
            const first = yield* budget.reserve(3)
            assert.strictEqual(first.amount, 3)
            assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 7, held: 3, spent: 0 })
            yield* budget.reserve(4)
            assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 3, held: 7, spent: 0 })
          })
        )
        assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 3, held: 0, spent: 7 })
      })
    )

    it.effect("grants exactly what is left, and amount 0 when nothing is", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        yield* budget.reserve(10)
        const none = yield* budget.reserve(0)
        assert.strictEqual(none.amount, 0)
        assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 0, held: 10, spent: 0 })
      })
    )

    it.effect("a denial says what was asked and what was left, and consumes nothing", () =>
      Effect.gen(function* () {
        const limit = Limit.capacity(10)
        const budget = yield* open(limit)
        yield* budget.reserve(8)
        const error = exceededBy(yield* Effect.exit(budget.reserve(3)))
        assert.strictEqual(error.budget, "calls")
        assert.deepStrictEqual(error.limit, limit)
        assert.strictEqual(error.requested, 3)
        assert.strictEqual(error.available, 2)
        assert.isUndefined(error.retryAfter)
        assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 2, held: 8, spent: 0 })
        assert.deepStrictEqual(yield* settledCounts(budget), never)
      })
    )
  })

  describe("tryReserve", () => {
    it.effect("answers Some and holds, or None and takes nothing", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        yield* Effect.scoped(
          Effect.gen(function* () {
            const first = yield* budget.tryReserve(6)
            assert.strictEqual(Option.getOrThrow(first).amount, 6)
            assert.isTrue(Option.isNone(yield* budget.tryReserve(5)))
            assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 4, held: 6, spent: 0 })
            yield* Option.getOrThrow(first).commit(2)
          })
        )
        assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 8, held: 0, spent: 2 })
        assert.deepStrictEqual(yield* settledCounts(budget), { ...never, committed: 1 })
      })
    )

    it.effect("is the soft no under every enforcement, without waiting or dying", () =>
      Effect.gen(function* () {
        for (const enforcement of ["reject", "throttle", "terminate"] as const) {
          const budget = yield* open(Limit.capacity(10), { enforcement })
          assert.isTrue(Option.isNone(yield* budget.tryReserve(11)), enforcement)
          assert.strictEqual((yield* budget.snapshot).waiters, 0)
        }
      })
    )
  })

  describe("withReservation", () => {
    it.effect("answers what the body answers and settles before it returns", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        const answer = yield* budget.withReservation(4, (reservation) =>
          Effect.map(reservation.commit(1), (settlement) => settlement.refunded)
        )
        assert.strictEqual(answer, 3)
        assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 9, held: 0, spent: 1 })
      })
    )

    it.effect("does not run the body when the answer is no", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        let ran = false
        const exit = yield* Effect.exit(
          budget.withReservation(11, () =>
            Effect.sync(() => {
              ran = true
            })
          )
        )
        assert.strictEqual(exceededBy(exit).requested, 11)
        assert.isFalse(ran)
      })
    )

    it.effect("a body that throws before it answers an effect is a failure", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        const exit = yield* Effect.exit(
          budget.withReservation(4, (): Effect.Effect<void> => {
            throw new Error("boom")
          })
        )
        assert.strictEqual(defectOf(exit).message, "boom")
        assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 10, held: 0, spent: 0 })
      })
    )
  })

  describe("the rule for scopes that end", () => {
    type Held = Reservation.Reservation<number>
    type Body = (reservation: Held) => Effect.Effect<void, string>
    type Construct = (
      budget: Budget.Budget,
      body: Body,
      options?: Reservation.Options
    ) => Effect.Effect<void, unknown, Scope.Scope>

    const constructs: Record<string, Construct> = {
      reserve: (budget, body, options) => Effect.scoped(Effect.flatMap(budget.reserve(10, options), body)),
      tryReserve: (budget, body, options) =>
        Effect.scoped(Effect.flatMap(budget.tryReserve(10, options), (some) => body(Option.getOrThrow(some)))),
      withReservation: (budget, body, options) => budget.withReservation(10, body, options)
    }

    const endings: Record<string, Effect.Effect<void, string>> = {
      succeeded: Effect.void,
      failed: Effect.fail("no"),
      defect: Effect.die("boom"),
      interrupted: Effect.interrupt
    }

    const charged = (ending: string, progress: number | undefined, release: boolean): number =>
      Math.max(ending === "succeeded" && !release ? 10 : 0, progress ?? 0)

    for (const [construct, run] of Object.entries(constructs)) {
      for (const [ending, end] of Object.entries(endings)) {
        for (const progress of [undefined, 4, 15]) {
          for (const onSuccess of ["charge", "release"] as const) {
            const expected = charged(ending, progress, onSuccess === "release")
            it.effect(
              `${construct}: ${ending}, progress ${progress}, onSuccess ${onSuccess}: charges ${expected}`,
              () =>
                Effect.gen(function* () {
                  const budget = yield* open(Limit.capacity(100))
                  const body: Body = (reservation) =>
                    Effect.andThen(progress === undefined ? Effect.void : reservation.progress(progress), end)
                  yield* Effect.exit(run(budget, body, { onSuccess }))
                  assert.deepStrictEqual(yield* books(budget), {
                    granted: 100,
                    available: 100 - expected,
                    held: 0,
                    spent: expected
                  })
                  const cause = ending === "defect" ? "failed" : ending
                  assert.deepStrictEqual(yield* settledCounts(budget), { ...never, [cause]: 1 })
                  assert.strictEqual((yield* budget.snapshot).overage, Math.max(0, expected - 10))
                })
            )
          }
        }
      }
    }

    it.effect("an interruption from outside is one too", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        const fiber = yield* Effect.forkChild(
          budget.withReservation(10, (reservation) => Effect.andThen(reservation.progress(3), Effect.never)),
          { startImmediately: true }
        )
        assert.strictEqual((yield* books(budget)).held, 10)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 97, held: 0, spent: 3 })
        assert.deepStrictEqual(yield* settledCounts(budget), { ...never, interrupted: 1 })
      })
    )

    it.effect("progress is a total that never goes down", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        yield* Effect.exit(
          budget.withReservation(10, (reservation) =>
            Effect.gen(function* () {
              yield* reservation.progress(2)
              yield* reservation.progress(6)
              yield* reservation.progress(5)
              return yield* Effect.fail("no")
            })
          )
        )
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 94, held: 0, spent: 6 })
      })
    )

    it.effect("a reservation that was settled is left alone", () =>
      Effect.gen(function* () {
        for (const end of Object.values(endings)) {
          const budget = yield* open(Limit.capacity(100))
          const exit = yield* Effect.exit(
            budget.withReservation(10, (reservation) =>
              Effect.andThen(Effect.andThen(reservation.commit(2), reservation.progress(9)), end)
            )
          )
          assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 98, held: 0, spent: 2 }, String(exit))
          assert.deepStrictEqual(yield* settledCounts(budget), { ...never, committed: 1 })
        }
      })
    )
  })

  describe("settling", () => {
    it.effect("commit charges the actual and gives the rest back", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        const reservation = yield* budget.reserve(10)
        assert.deepStrictEqual(yield* reservation.commit(4), {
          cause: "committed",
          held: 10,
          charged: 4,
          refunded: 6,
          overage: 0,
          overran: []
        })
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 96, held: 0, spent: 4 })
      })
    )

    it.effect("release gives all of it back", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        const reservation = yield* budget.reserve(10)
        assert.deepStrictEqual(yield* reservation.release, {
          cause: "released",
          held: 10,
          charged: 0,
          refunded: 10,
          overage: 0,
          overran: []
        })
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 100, held: 0, spent: 0 })
      })
    )

    it.effect("overage that still fits is charged in full and leaves no debt", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        const reservation = yield* budget.reserve(10)
        const settlement = yield* reservation.commit(25)
        assert.deepStrictEqual(settlement, {
          cause: "committed",
          held: 10,
          charged: 25,
          refunded: 0,
          overage: 15,
          overran: []
        })
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 75, held: 0, spent: 25 })
      })
    )

    it.effect("overage beyond what is left is debt: nothing but 0 is admitted until it is paid", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(20))
        const reservation = yield* budget.reserve(10)
        const settlement = yield* reservation.commit(25)
        assert.strictEqual(settlement.charged, 25)
        assert.strictEqual(settlement.overage, 15)
        assert.deepStrictEqual(settlement.overran, ["calls"])
        assert.deepStrictEqual(yield* books(budget), { granted: 20, available: -5, held: 0, spent: 25 })
        assert.strictEqual(exceededBy(yield* Effect.exit(budget.reserve(1))).available, -5)
        yield* budget.reserve(0)
        yield* budget.topUp(5)
        exceededBy(yield* Effect.exit(budget.reserve(1)))
        yield* budget.topUp(1)
        yield* budget.reserve(1)
        assert.deepStrictEqual(yield* books(budget), { granted: 26, available: 0, held: 1, spent: 25 })
      })
    )

    it.effect("settling again changes nothing and answers the first settlement", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        const committed = yield* budget.reserve(10)
        const first = yield* committed.commit(4)
        assert.deepStrictEqual(yield* committed.commit(9), first)
        assert.deepStrictEqual(yield* committed.release, first)
        const released = yield* budget.reserve(10)
        const second = yield* released.release
        assert.deepStrictEqual(yield* released.commit(9), second)
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 96, held: 0, spent: 4 })
        assert.deepStrictEqual(yield* settledCounts(budget), { ...never, committed: 1, released: 1 })
      })
    )

    it.effect("a commit after the scope answers how the scope settled it", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        const reservation = yield* Effect.scoped(budget.reserve(10))
        const settlement = yield* reservation.commit(3)
        assert.strictEqual(settlement.cause, "succeeded")
        assert.strictEqual(settlement.charged, 10)
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 90, held: 0, spent: 10 })
      })
    )

    it.effect("an effect to settle can be kept and run later, more than once", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        const reservation = yield* budget.reserve(10)
        const commit = reservation.commit(4)
        assert.strictEqual((yield* books(budget)).held, 10)
        assert.deepStrictEqual(yield* commit, yield* commit)
        assert.strictEqual((yield* books(budget)).spent, 4)
      })
    )

    it.effect("a commit of what is not an amount dies, and the hold is the charge: unknown is not zero", () =>
      Effect.gen(function* () {
        for (const actual of [-1, 1.5, NaN, 2 ** 53]) {
          const budget = yield* open(Limit.capacity(100))
          const exit = yield* Effect.exit(budget.withReservation(10, (reservation) => reservation.commit(actual)))
          const defect = defectOf(exit)
          assert.instanceOf(defect, RangeError)
          assert.include(defect.message, `Budget "calls"`)
          assert.include(defect.message, String(actual))
          assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 90, held: 0, spent: 10 })
        }
      })
    )

    it.effect("charged + refunded = held + overage", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        for (const actual of [0, 3, 5, 6, 40]) {
          yield* budget.reset
          const reservation = yield* budget.reserve(5)
          const { charged, held, overage, refunded } = yield* reservation.commit(actual)
          assert.strictEqual(charged, actual)
          assert.strictEqual(charged + refunded, held + overage)
        }
      })
    )

    it.effect("in a rate, a refund beyond what the bucket can take leaves the books", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }))
        const reservation = yield* budget.reserve(6)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* books(budget), { granted: 16, available: 10, held: 6, spent: 0 })
        yield* reservation.commit(2)
        assert.deepStrictEqual(yield* books(budget), { granted: 12, available: 10, held: 0, spent: 2 })
      })
    )

    it.effect("in a window, an old hold neither refunds into nor charges the new one", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.window({ amount: 10, every: "1 minute" }))
        const refund = yield* budget.reserve(4)
        const overrun = yield* budget.reserve(4)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 10, held: 0, spent: 0 })
        const settlement = yield* refund.commit(1)
        assert.strictEqual(settlement.refunded, 3)
        yield* overrun.commit(40)
        assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 10, held: 0, spent: 0 })
        const { charged, overage } = yield* budget.snapshot
        assert.strictEqual(charged, 41)
        assert.strictEqual(overage, 36)
      })
    )

    it.effect("a concurrency slot comes back whole, whatever was used", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        for (const actual of [0, 3, 4, 400]) {
          const reservation = yield* budget.reserve(4)
          assert.strictEqual(yield* budget.available, 6)
          yield* reservation.commit(actual)
          assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 10, held: 0, spent: 0 })
        }
        assert.strictEqual((yield* budget.snapshot).charged, 407)
      })
    )

    it.effect("without a limit, everything is counted and nothing denied", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.unlimited)
        yield* budget.withReservation(1_000_000, (reservation) => reservation.commit(2_000_000))
        const { held, spent } = yield* books(budget)
        assert.deepStrictEqual({ held, spent }, { held: 0, spent: 2_000_000 })
      })
    )
  })

  describe("extend", () => {
    it.effect("adds to the hold, and settles with it once", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        const reservation = yield* budget.reserve(10)
        yield* reservation.extend(5)
        yield* reservation.extend(0)
        assert.strictEqual(reservation.amount, 15)
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 85, held: 15, spent: 0 })
        const settlement = yield* reservation.commit(12)
        assert.strictEqual(settlement.held, 15)
        assert.strictEqual(settlement.refunded, 3)
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 88, held: 0, spent: 12 })
        assert.deepStrictEqual(yield* settledCounts(budget), { ...never, committed: 1 })
      })
    )

    it.effect("refused, leaves the hold as it was", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(20))
        yield* budget.withReservation(10, (reservation) =>
          Effect.gen(function* () {
            const error = exceededBy(yield* Effect.exit(reservation.extend(11)))
            assert.strictEqual(error.requested, 11)
            assert.strictEqual(error.available, 10)
            assert.strictEqual(reservation.amount, 10)
            assert.deepStrictEqual(yield* books(budget), { granted: 20, available: 10, held: 10, spent: 0 })
            yield* reservation.extend(10)
            assert.strictEqual(reservation.amount, 20)
          })
        )
        assert.deepStrictEqual(yield* books(budget), { granted: 20, available: 0, held: 0, spent: 20 })
      })
    )

    it.effect("is part of what a success charges and a failure refunds", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        yield* budget.withReservation(10, (reservation) => reservation.extend(5))
        assert.strictEqual((yield* books(budget)).spent, 15)
        yield* Effect.exit(
          budget.withReservation(10, (reservation) =>
            Effect.andThen(Effect.andThen(reservation.extend(5), reservation.progress(12)), Effect.fail("no"))
          )
        )
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 73, held: 0, spent: 27 })
      })
    )

    it.effect("in a later window: each part belongs to the window it was held in", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.window({ amount: 100, every: "1 minute" }))
        const reservation = yield* budget.reserve(30)
        yield* TestClock.adjust("1 minute")
        yield* reservation.extend(20)
        assert.strictEqual(reservation.amount, 50)
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 80, held: 20, spent: 0 })
        const settlement = yield* reservation.commit(35)
        assert.deepStrictEqual(settlement, {
          cause: "committed",
          held: 50,
          charged: 35,
          refunded: 15,
          overage: 0,
          overran: []
        })
        // 30 of it belong to the window that is over.
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 95, held: 0, spent: 5 })
      })
    )

    it.effect("over three windows, with overage in the last", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.window({ amount: 100, every: "1 minute" }))
        const reservation = yield* budget.reserve(30)
        yield* TestClock.adjust("1 minute")
        yield* reservation.extend(20)
        yield* reservation.extend(5)
        yield* TestClock.adjust("1 minute")
        yield* reservation.extend(10)
        assert.strictEqual(reservation.amount, 65)
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 90, held: 10, spent: 0 })
        const settlement = yield* reservation.commit(70)
        assert.strictEqual(settlement.overage, 5)
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 85, held: 0, spent: 15 })
      })
    )

    it.effect("refused in a later window, still settles in the first", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.window({ amount: 100, every: "1 minute" }))
        const reservation = yield* budget.reserve(30)
        yield* TestClock.adjust("1 minute")
        yield* budget.reserve(90)
        const error = exceededBy(yield* Effect.exit(reservation.extend(20)))
        assert.deepStrictEqual(error.retryAfter, Duration.minutes(1))
        yield* reservation.commit(0)
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 10, held: 90, spent: 0 })
      })
    )

    it.effect("of a settled reservation dies with a message, and takes nothing", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        const reservation = yield* budget.reserve(10)
        yield* reservation.commit(10)
        const defect = defectOf(yield* Effect.exit(reservation.extend(5)))
        assert.strictEqual(defect.message, `Budget "calls": a reservation that has been settled cannot be extended`)
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 90, held: 0, spent: 10 })
      })
    )
  })

  describe("several limits at once", () => {
    const rate = Limit.rate({ amount: 10, per: "1 second" })
    const window = Limit.window({ amount: 20, every: "1 minute" })
    const capacity = Limit.capacity(25)

    for (const [what, limits] of [
      ["the longest last", [rate, window, capacity]],
      ["the longest first", [capacity, window, rate]]
    ] as const) {
      it.effect(`all must admit, and the denial names the one that takes longest: ${what}`, () =>
        Effect.gen(function* () {
          const budget = yield* open(limits)
          const denied = (amount: number) => Effect.map(Effect.exit(Effect.scoped(budget.reserve(amount))), exceededBy)
          const use = (amount: number) => budget.withReservation(amount, () => Effect.void)

          const tooLarge = yield* denied(11)
          assert.deepStrictEqual(tooLarge.limit, rate)
          assert.isUndefined(tooLarge.retryAfter)

          yield* use(10)
          const byRate = yield* denied(9)
          assert.deepStrictEqual(byRate.limit, rate)
          assert.strictEqual(byRate.available, 0)
          assert.deepStrictEqual(byRate.retryAfter, Duration.millis(900))

          yield* TestClock.adjust("1 second")
          yield* use(10)
          const byWindow = yield* denied(5)
          assert.deepStrictEqual(byWindow.limit, window)
          assert.strictEqual(byWindow.available, 0)
          assert.deepStrictEqual(byWindow.retryAfter, Duration.seconds(59))

          const byCapacity = yield* denied(6)
          assert.deepStrictEqual(byCapacity.limit, capacity)
          assert.strictEqual(byCapacity.available, 5)
          assert.isUndefined(byCapacity.retryAfter)

          yield* TestClock.adjust("59 seconds")
          yield* use(5)
          assert.deepStrictEqual((yield* denied(1)).limit, capacity)
        })
      )
    }

    it.effect("the retryAfter is the time at which the same request is admitted, and not a moment earlier", () =>
      Effect.gen(function* () {
        const budget = yield* open([Limit.rate({ amount: 3, per: "1 second" }), window])
        yield* budget.withReservation(3, () => Effect.void)
        const { retryAfter } = exceededBy(yield* Effect.exit(budget.reserve(2)))
        assert.deepStrictEqual(retryAfter, Duration.millis(667))
        yield* TestClock.adjust("666 millis")
        assert.isTrue(Option.isNone(yield* budget.tryReserve(2)))
        yield* TestClock.adjust("1 millis")
        assert.isTrue(Option.isSome(yield* budget.tryReserve(2)))
      })
    )

    it.effect("what one denies, none takes", () =>
      Effect.gen(function* () {
        for (const limits of [
          [Limit.capacity(100), Limit.concurrency(5)],
          [Limit.concurrency(5), Limit.capacity(100)]
        ]) {
          const budget = yield* open(limits)
          const before = yield* budget.snapshot
          assert.deepStrictEqual(
            exceededBy(yield* Effect.exit(budget.reserve(6))).limit,
            Limit.concurrency(5),
            "the limit that can never be met"
          )
          assert.deepStrictEqual(yield* budget.snapshot, before)
        }
      })
    )

    it.effect("each settles in its own way", () =>
      Effect.gen(function* () {
        const budget = yield* open([Limit.concurrency(10), rate])
        yield* budget.withReservation(6, (reservation) => reservation.commit(4))
        yield* books(budget)
        const { available, ledgers } = yield* budget.snapshot
        assert.deepStrictEqual(
          ledgers.map((ledger) => [ledger.available, ledger.held, ledger.spent]),
          [
            [10, 0, 0],
            [6, 0, 4]
          ]
        )
        assert.strictEqual(available, 6)
      })
    )
  })

  describe("snapshot", () => {
    it.effect("tells the books, how reservations ended, and the sums over all epochs", () =>
      Effect.gen(function* () {
        const limit = Limit.capacity(100)
        const budget = yield* open(limit)
        yield* budget.withReservation(10, (reservation) => reservation.commit(4))
        yield* budget.withReservation(10, (reservation) => reservation.commit(15))
        yield* budget.withReservation(10, (reservation) => reservation.release)
        yield* budget.withReservation(10, () => Effect.void)
        yield* Effect.exit(budget.withReservation(10, () => Effect.fail("no")))
        yield* Effect.exit(
          budget.withReservation(10, (reservation) => Effect.andThen(reservation.progress(3), Effect.interrupt))
        )
        yield* budget.reserve(7)
        assert.deepStrictEqual(yield* budget.snapshot, {
          budget: "calls",
          ledgers: [{ limit, granted: 100, available: 61, held: 7, spent: 32, epoch: 0 }],
          available: 61,
          waiters: 0,
          settled: {
            committed: { count: 2, refunded: 6 },
            released: { count: 1, refunded: 10 },
            succeeded: { count: 1, refunded: 0 },
            failed: { count: 1, refunded: 10 },
            interrupted: { count: 1, refunded: 7 },
            expired: { count: 0, refunded: 0 }
          },
          charged: 32,
          overage: 5
        })
      })
    )

    it.effect("is brought up to now, and stays as it was taken", () =>
      Effect.gen(function* () {
        const budget = yield* open([
          Limit.rate({ amount: 10, per: "1 second" }),
          Limit.window({ amount: 10, every: "1 second" })
        ])
        yield* budget.withReservation(10, () => Effect.void)
        const before = yield* budget.snapshot
        yield* TestClock.adjust("500 millis")
        const half = yield* budget.snapshot
        assert.deepStrictEqual(
          half.ledgers.map(({ available, epoch }) => [available, epoch]),
          [
            [5, 0],
            [0, 0]
          ]
        )
        yield* TestClock.adjust("500 millis")
        const after = yield* budget.snapshot
        assert.deepStrictEqual(
          after.ledgers.map(({ available, epoch }) => [available, epoch]),
          [
            [10, 0],
            [10, 1]
          ]
        )
        assert.deepStrictEqual([before.available, half.available], [0, 0])
      })
    )
  })

  describe("changes", () => {
    const watch = (budget: Budget.Budget) =>
      Effect.gen(function* () {
        const queue = yield* Queue.unbounded<BudgetStore.Snapshot>()
        yield* Effect.forkChild(Stream.runForEach(budget.changes, (snapshot) => Queue.offer(queue, snapshot)))
        return () => Queue.take(queue)
      })

    it.effect("tells the snapshot at once, then after every kind of change", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        const next = yield* watch(budget)
        assert.deepStrictEqual(yield* next(), yield* budget.snapshot)

        const reservation = yield* budget.reserve(4)
        assert.strictEqual((yield* next()).ledgers[0].held, 4)
        yield* reservation.extend(1)
        assert.strictEqual((yield* next()).ledgers[0].held, 5)
        yield* reservation.commit(3)
        assert.deepStrictEqual((yield* next()).ledgers[0].spent, 3)
        yield* budget.topUp(5)
        assert.strictEqual((yield* next()).available, 12)
        yield* budget.setLimit(Limit.capacity(20))
        assert.strictEqual((yield* next()).available, 22)
        yield* budget.reset
        assert.strictEqual((yield* next()).available, 20)
        yield* budget.withReservation(1, () => Effect.yieldNow)
        assert.strictEqual((yield* next()).ledgers[0].held, 1)
        assert.strictEqual((yield* next()).ledgers[0].spent, 1)
      })
    )

    it.effect("changes that come together are told once", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        const next = yield* watch(budget)
        assert.strictEqual((yield* next()).available, 10)
        yield* Effect.andThen(Effect.andThen(budget.topUp(1), budget.topUp(1)), budget.topUp(1))
        assert.strictEqual((yield* next()).available, 13)
        yield* budget.topUp(1)
        assert.strictEqual((yield* next()).available, 14)
      })
    )

    it.effect("a change while the last one is being told is not missed", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        const seen = yield* budget.changes.pipe(
          Stream.map((snapshot) => snapshot.available),
          Stream.tap(() => budget.topUp(1)),
          Stream.take(3),
          Stream.runCollect
        )
        assert.deepStrictEqual(seen, [10, 11, 12])
      })
    )

    it.effect("time and denials alone do not tell", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }))
        yield* budget.withReservation(10, () => Effect.void)
        const next = yield* watch(budget)
        assert.strictEqual((yield* next()).available, 0)
        yield* TestClock.adjust("300 millis")
        yield* Effect.exit(budget.reserve(9))
        yield* TestClock.adjust("300 millis")
        yield* budget.topUp(1)
        assert.strictEqual((yield* next()).available, 7)
      })
    )

    it.effect("tells who waits and who does not any more", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10), { enforcement: "throttle" })
        yield* budget.reserve(10)
        const next = yield* watch(budget)
        assert.strictEqual((yield* next()).waiters, 0)
        const fiber = yield* Effect.forkChild(Effect.scoped(budget.reserve(1)), { startImmediately: true })
        assert.strictEqual((yield* next()).waiters, 1)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* next()).waiters, 0)
      })
    )

    it.effect("tells everyone who listens, and nobody who has stopped", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        const one = yield* watch(budget)
        const other = yield* watch(budget)
        assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(budget.changes, 1)), [yield* budget.snapshot])
        yield* one()
        yield* other()
        yield* budget.topUp(1)
        assert.strictEqual((yield* one()).available, 11)
        assert.strictEqual((yield* other()).available, 11)
      })
    )
  })

  describe("topUp", () => {
    it.effect("adds to what a capacity granted", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        yield* budget.withReservation(10, () => Effect.void)
        yield* budget.topUp(15)
        assert.deepStrictEqual(yield* books(budget), { granted: 25, available: 15, held: 0, spent: 10 })
        yield* budget.withReservation(15, () => Effect.void)
        assert.strictEqual(yield* budget.available, 0)
      })
    )

    it.effect("fills a rate as far as the bucket has room", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }))
        yield* budget.withReservation(4, () => Effect.void)
        yield* budget.topUp(3)
        assert.deepStrictEqual(yield* books(budget), { granted: 13, available: 9, held: 0, spent: 4 })
        yield* budget.topUp(100)
        assert.deepStrictEqual(yield* books(budget), { granted: 14, available: 10, held: 0, spent: 4 })
      })
    )

    it.effect("adds to this window only", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.window({ amount: 10, every: "1 minute" }))
        yield* budget.topUp(5)
        assert.strictEqual(yield* budget.available, 15)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* budget.available, 10)
      })
    )

    it.effect("has nothing to add to slots", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        yield* budget.reserve(4)
        yield* budget.topUp(5)
        assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 6, held: 4, spent: 0 })
      })
    )

    it.effect("of what is not an amount, or more than can be counted, dies and changes nothing", () =>
      Effect.gen(function* () {
        const budget = yield* open([Limit.capacity(10), Limit.window({ amount: 10, every: "1 minute" })])
        const before = yield* budget.snapshot
        for (const amount of [-1, 1.5, NaN, 2 ** 53, Number.MAX_SAFE_INTEGER]) {
          const defect = defectOf(yield* Effect.exit(budget.topUp(amount)))
          assert.include(defect.message, `Budget "calls"`)
          assert.include(defect.message, String(amount))
        }
        assert.deepStrictEqual(yield* budget.snapshot, before)
      })
    )
  })

  describe("reset", () => {
    it.effect("starts a new epoch: holds from before neither refund into it nor charge it", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        yield* budget.withReservation(20, () => Effect.void)
        const refund = yield* budget.reserve(30)
        const overrun = yield* budget.reserve(30)
        yield* budget.reset
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 100, held: 0, spent: 0 })
        assert.strictEqual((yield* budget.snapshot).ledgers[0].epoch, 1)
        const settlement = yield* overrun.commit(50)
        assert.deepStrictEqual(settlement, {
          cause: "committed",
          held: 30,
          charged: 50,
          refunded: 0,
          overage: 20,
          overran: []
        })
        yield* refund.release
        assert.deepStrictEqual(yield* books(budget), { granted: 100, available: 100, held: 0, spent: 0 })
        const { charged, overage } = yield* budget.snapshot
        assert.deepStrictEqual([charged, overage], [70, 20])
      })
    )

    it.effect("forgives debt and top-ups", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        yield* budget.topUp(5)
        yield* budget.withReservation(10, (reservation) => reservation.commit(100))
        yield* budget.reset
        assert.deepStrictEqual(yield* books(budget), { granted: 10, available: 10, held: 0, spent: 0 })
      })
    )

    it.effect("leaves slots in use until they are given back", () =>
      Effect.gen(function* () {
        const budget = yield* open([Limit.concurrency(10), Limit.capacity(100)])
        const reservation = yield* budget.reserve(6)
        yield* budget.reset
        const availables = Effect.map(budget.snapshot, ({ ledgers }) => ledgers.map(({ available }) => available))
        assert.deepStrictEqual(yield* availables, [4, 100])
        yield* reservation.commit(6)
        assert.deepStrictEqual(yield* availables, [10, 100])
      })
    )
  })

  describe("setLimit", () => {
    it.effect("raising gives the difference, and keeps what is spent and held", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        yield* budget.withReservation(20, () => Effect.void)
        const reservation = yield* budget.reserve(30)
        yield* budget.setLimit(Limit.capacity(150))
        assert.deepStrictEqual(yield* books(budget), { granted: 150, available: 100, held: 30, spent: 20 })
        yield* reservation.release
        assert.deepStrictEqual(yield* books(budget), { granted: 150, available: 130, held: 0, spent: 20 })
      })
    )

    it.effect("lowering cancels no hold: it denies until what is outstanding fits", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(100))
        const first = yield* budget.reserve(30)
        const second = yield* budget.reserve(30)
        yield* budget.setLimit(Limit.capacity(40))
        assert.deepStrictEqual(yield* books(budget), { granted: 40, available: -20, held: 60, spent: 0 })
        assert.isTrue(Option.isNone(yield* budget.tryReserve(1)))
        yield* first.release
        assert.strictEqual(yield* budget.available, 10)
        assert.isTrue(Option.isSome(yield* budget.tryReserve(10)))
        yield* second.commit(30)
        assert.deepStrictEqual(yield* books(budget), { granted: 40, available: 0, held: 10, spent: 30 })
      })
    )

    it.effect("lowering the slots waits for those in use to come back", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(5))
        const held = yield* Effect.forEach([1, 2, 3, 4], () => budget.reserve(1))
        yield* budget.setLimit(Limit.concurrency(2))
        const tries: Array<boolean> = []
        for (const reservation of held) {
          tries.push(Option.isSome(yield* Effect.scoped(budget.tryReserve(1))))
          yield* reservation.release
        }
        assert.deepStrictEqual(tries, [false, false, false, true])
        assert.deepStrictEqual(yield* books(budget), { granted: 2, available: 2, held: 0, spent: 0 })
      })
    )

    it.effect("a rate goes on at the new pace from what it had", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second", burst: 100 }))
        yield* budget.withReservation(100, () => Effect.void)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(yield* budget.available, 20)
        yield* budget.setLimit(Limit.rate({ amount: 20, per: "1 second", burst: 100 }))
        assert.strictEqual(yield* budget.available, 20)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* budget.available, 40)
      })
    )

    it.effect("a window keeps what was spent in it until its boundary", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.window({ amount: 100, every: "1 minute" }))
        yield* budget.withReservation(60, () => Effect.void)
        yield* budget.setLimit(Limit.window({ amount: 50, every: "1 minute" }))
        assert.deepStrictEqual(yield* books(budget), { granted: 50, available: -10, held: 0, spent: 60 })
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* books(budget), { granted: 50, available: 50, held: 0, spent: 0 })
      })
    )

    describe("to another kind: what is held stays held, and settles in the new books", () => {
      const cases: ReadonlyArray<
        readonly [from: Limit.Limit, to: Limit.Limit, before: number, after: number, spent: number]
      > = [
        // 20 spent and 30 held before; 10 of the 30 are charged after.
        [Limit.capacity(100), Limit.rate({ amount: 100, per: "1 hour" }), 50, 70, 30],
        [Limit.capacity(100), Limit.window({ amount: 100, every: "1 hour" }), 50, 70, 30],
        // Slots do not count what was spent. It is still there for the limit after them, as is what earlier holds spend.
        [Limit.capacity(100), Limit.concurrency(100), 70, 100, 30],
        [Limit.rate({ amount: 100, per: "1 hour" }), Limit.capacity(100), 50, 70, 30],
        [Limit.rate({ amount: 100, per: "1 hour" }), Limit.window({ amount: 100, every: "1 hour" }), 50, 70, 30],
        [Limit.rate({ amount: 100, per: "1 hour" }), Limit.concurrency(100), 70, 100, 30],
        [Limit.window({ amount: 100, every: "1 hour" }), Limit.capacity(100), 50, 70, 30],
        [Limit.window({ amount: 100, every: "1 hour" }), Limit.rate({ amount: 100, per: "1 hour" }), 50, 70, 30],
        [Limit.concurrency(100), Limit.capacity(100), 70, 90, 10],
        [Limit.concurrency(100), Limit.rate({ amount: 100, per: "1 hour" }), 70, 90, 10],
        [Limit.unlimited, Limit.capacity(100), 50, 70, 30],
        [Limit.unlimited, Limit.concurrency(100), 70, 100, 30]
      ]
      for (const [from, to, before, after, spent] of cases) {
        it.effect(`${Limit.format(from)} to ${Limit.format(to)}`, () =>
          Effect.gen(function* () {
            const budget = yield* open(from)
            yield* budget.withReservation(20, () => Effect.void)
            const reservation = yield* budget.reserve(30)
            yield* budget.setLimit(to)
            const changed = yield* books(budget)
            assert.deepStrictEqual([changed.available, changed.held], [before, 30])
            yield* reservation.commit(10)
            const { available, held, spent: spentAfter } = yield* books(budget)
            assert.deepStrictEqual({ available, held, spent: spentAfter }, { available: after, held: 0, spent })
          })
        )
      }

      it.effect("capacity to unlimited and back: the spending in between counts", () =>
        Effect.gen(function* () {
          const budget = yield* open(Limit.capacity(100))
          yield* budget.withReservation(20, () => Effect.void)
          yield* budget.setLimit(Limit.unlimited)
          yield* budget.withReservation(500, () => Effect.void)
          yield* budget.setLimit(Limit.capacity(1_000))
          assert.deepStrictEqual(yield* books(budget), { granted: 1_000, available: 480, held: 0, spent: 520 })
        })
      )

      it.effect("time begins and ceases to count", () =>
        Effect.gen(function* () {
          const budget = yield* open(Limit.capacity(10))
          yield* budget.withReservation(10, () => Effect.void)
          yield* budget.setLimit(Limit.rate({ amount: 10, per: "1 second" }))
          assert.isTrue(Option.isNone(yield* budget.tryReserve(5)))
          yield* TestClock.adjust("500 millis")
          assert.isTrue(Option.isSome(yield* budget.tryReserve(5)))
          yield* budget.setLimit(Limit.concurrency(6))
          yield* TestClock.adjust("1 hour")
          assert.strictEqual(yield* budget.available, 1)
        })
      )

      it.effect("those who wait go on under the new one", () =>
        Effect.gen(function* () {
          const budget = yield* open(Limit.capacity(10), { enforcement: "throttle" })
          yield* budget.withReservation(10, () => Effect.void)
          const fiber = yield* Effect.forkChild(
            budget.withReservation(4, () => Effect.void),
            { startImmediately: true }
          )
          yield* budget.setLimit(Limit.window({ amount: 3, every: "1 hour" })).pipe(Effect.andThen(Effect.yieldNow))
          assert.strictEqual(exceededBy(yield* Fiber.await(fiber)).requested, 4)

          yield* budget.setLimit(Limit.capacity(10))
          const waiting = yield* Effect.forkChild(Effect.scoped(budget.reserve(4)), { startImmediately: true })
          assert.strictEqual((yield* budget.snapshot).waiters, 1)
          yield* budget.setLimit(Limit.rate({ amount: 10, per: "1 second" }))
          assert.strictEqual((yield* budget.snapshot).waiters, 1)
          yield* TestClock.adjust("400 millis")
          yield* Fiber.join(waiting)
          assert.strictEqual(yield* budget.available, 0)
        })
      )
    })

    it.effect("takes as many limits as there are, and usable ones; else dies and changes nothing", () =>
      Effect.gen(function* () {
        const budget = yield* open([Limit.capacity(10), Limit.concurrency(2)])
        const before = yield* budget.snapshot
        const fewer = defectOf(yield* Effect.exit(budget.setLimit(Limit.capacity(5))))
        assert.include(fewer.message, `Budget "calls" has 2 limits`)
        const bad = yield* Effect.exit(budget.setLimit([Limit.capacity(5), Limit.concurrency(-2)]))
        assert.include(defectOf(bad).message, "-2")
        assert.deepStrictEqual(yield* budget.snapshot, before)
        yield* budget.setLimit([Limit.capacity(5), Limit.unlimited])
        assert.strictEqual(yield* budget.available, 5)
      })
    )
  })

  describe("layers", () => {
    class Calls extends Budget.Service<Calls>()("app/Calls") {}
    class Rows extends Budget.Service<Rows>()("app/Rows") {}

    it.effect("layer opens books of its own under the identifier of the service", () =>
      Effect.gen(function* () {
        const calls = yield* Calls
        const rows = yield* Rows
        assert.strictEqual(calls.name, "app/Calls")
        assert.strictEqual(rows.name, "rows")
        yield* calls.reserve(4)
        assert.deepStrictEqual([yield* calls.available, yield* rows.available], [6, 10])
      }).pipe(
        Effect.provide([
          Calls.layer({ limit: Limit.capacity(10) }),
          Rows.layer({ name: "rows", limit: Limit.capacity(10) })
        ])
      )
    )

    it.effect("a name of undefined is as good as none", () =>
      Effect.gen(function* () {
        const calls = yield* Calls
        assert.strictEqual(calls.name, "app/Calls")
        assert.strictEqual(exceededBy(yield* Effect.exit(calls.reserve(11))).budget, "app/Calls")
      }).pipe(Effect.provide(Calls.layer({ name: undefined, limit: Limit.capacity(10) })))
    )

    const fromConfig = Calls.layerConfig({
      limit: Config.map(Config.Int("CALLS"), Limit.capacity),
      enforcement: Config.succeed("throttle" as const),
      timeout: Config.Duration("WAIT")
    })
    const provideConfig = (config: Record<string, string>) =>
      ConfigProvider.layer(ConfigProvider.fromEnv({ env: config }))

    it.effect("layerConfig reads the options when it is built", () =>
      Effect.gen(function* () {
        const calls = yield* Calls
        yield* calls.reserve(7)
        const fiber = yield* Effect.forkChild(Effect.flip(calls.reserve(1)), { startImmediately: true })
        yield* TestClock.adjust("3 seconds")
        const error = yield* Fiber.join(fiber)
        assert.strictEqual(error._tag === "FailedReservation" && error.reason._tag, "TimedOut")
      }).pipe(Effect.provide(fromConfig.pipe(Layer.provide(provideConfig({ CALLS: "7", WAIT: "3 seconds" })))))
    )

    it.effect("layerConfig fails with what is missing", () =>
      Effect.gen(function* () {
        const error = yield* Calls.pipe(
          Effect.provide(fromConfig.pipe(Layer.provide(provideConfig({ WAIT: "3 seconds" })))),
          Effect.flip
        )
        assert.strictEqual(error._tag, "ConfigError")
        assert.include(error.message, "CALLS")
      })
    )

    it.effect("layerStore opens the books in the store of the context", () =>
      Effect.gen(function* () {
        const calls = yield* Calls
        yield* calls.withReservation(4, (reservation) => reservation.commit(1))
        assert.strictEqual(yield* calls.available, 9)
      }).pipe(
        Effect.provide(
          Calls.layerStore({ limit: Limit.capacity(10) }).pipe(Layer.provide(BudgetStore.BudgetStore.layerMemory))
        )
      )
    )

    it.effect("budgets of one store can be reserved together", () =>
      Effect.gen(function* () {
        const both = yield* Policy.make("both", { calls: Calls, rows: Rows })
        yield* both.withReservation({ calls: 1, rows: 2 }, () => Effect.void)
        assert.deepStrictEqual([yield* (yield* Calls).available, yield* (yield* Rows).available], [9, 8])
      }).pipe(
        Effect.provide(
          Layer.mergeAll(
            Calls.layerStore({ limit: Limit.capacity(10) }),
            Rows.layerStore({ limit: Limit.capacity(10) })
          ).pipe(Layer.provide(BudgetStore.BudgetStore.layerMemory))
        )
      )
    )

    it.effect("a limit that cannot be used dies, with the name and the value", () =>
      Effect.gen(function* () {
        for (const [limit, value] of [
          [Limit.capacity(-1), "-1"],
          [Limit.rate({ amount: 0, per: "1 second" }), "a rate of 0"],
          [Limit.rate({ amount: 1, per: 0 }), `"per"`],
          [Limit.window({ amount: 1, every: 0 }), `"every"`],
          [[], "no limit"]
        ] as const) {
          const exit = yield* Effect.exit(Effect.provide(Calls, Calls.layer({ limit })))
          const defect = defectOf(exit)
          assert.instanceOf(defect, RangeError)
          assert.include(defect.message, `Budget "app/Calls"`)
          assert.include(defect.message, value)
        }
      })
    )
  })
})
