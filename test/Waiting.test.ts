import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import {
  Budget,
  BudgetError,
  BudgetExceeded,
  BudgetStore,
  FailedReservation,
  Limit,
  Policy,
  type Reservation
} from "../src/index.ts"

const open = (limit: Budget.Options["limit"], options?: Omit<Budget.Options, "limit" | "name">) =>
  Effect.provide(
    Budget.make({ enforcement: "throttle", ...options, name: "calls", limit }),
    BudgetStore.BudgetStore.layerMemory
  )

/** The books of the first limit. That they add up is asserted for every limit. */
const books = (budget: Budget.Budget) =>
  Effect.map(budget.snapshot, ({ ledgers }) => {
    for (const { available, granted, held, spent } of ledgers) assert.strictEqual(available + held + spent, granted)
    const { available, held, spent } = ledgers[0]
    return { available, held, spent }
  })

const waiters = (budget: Budget.Budget) => Effect.map(budget.snapshot, (snapshot) => snapshot.waiters)

/** Lets every fiber that can go on do so. */
const settled = Effect.forEach(Array.from({ length: 10 }), () => Effect.yieldNow, { discard: true })

type Reserve = (
  amount: number,
  options?: Reservation.Options
) => Effect.Effect<unknown, BudgetExceeded | FailedReservation, Scope.Scope>

/** Who asks for a reservation, and who has got one. */
const line = (reserve: Reserve) => {
  const granted: Array<string> = []
  return {
    granted,
    /** Asks, and keeps what it gets until it is interrupted. */
    ask: (name: string, amount: number, options?: Reservation.Options) =>
      reserve(amount, options).pipe(
        Effect.andThen(Effect.sync(() => granted.push(name))),
        Effect.andThen(Effect.never),
        Effect.scoped,
        Effect.forkChild({ startImmediately: true })
      ),
    /** Everybody who was granted since the last time. */
    next: Effect.map(settled, () => granted.splice(0))
  }
}

/** Notes when it was granted, in milliseconds, and charges the amount. */
const grantTime = (budget: Budget.Budget, amount: number, options?: Reservation.Options) =>
  Effect.forkChild(
    budget.withReservation(amount, () => Clock.currentTimeMillis, options),
    { startImmediately: true }
  )

const errorOf = (exit: Exit.Exit<unknown, unknown>): unknown =>
  Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined

const exceededBy = (exit: Exit.Exit<unknown, unknown>): BudgetExceeded => {
  const error = errorOf(exit)
  if (!(error instanceof BudgetExceeded)) return assert.fail(`expected BudgetExceeded, got ${String(exit)}`)
  return error
}

const failedBy = (exit: Exit.Exit<unknown, unknown>): FailedReservation => {
  const error = errorOf(exit)
  if (!(error instanceof FailedReservation)) return assert.fail(`expected FailedReservation, got ${String(exit)}`)
  return error
}

const timedOutAfter = (exit: Exit.Exit<unknown, unknown>): Duration.Duration => {
  const { reason } = failedBy(exit)
  if (!(reason instanceof BudgetError.TimedOut)) return assert.fail(`expected TimedOut, got ${reason._tag}`)
  return reason.after
}

describe("Waiting", () => {
  describe("order", () => {
    it.effect("first come, first served", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(1))
        const { ask, next } = line(budget.reserve)
        const fibers = yield* Effect.forEach(["a", "b", "c", "d"], (name) => ask(name, 1))
        assert.strictEqual(yield* waiters(budget), 3)
        for (let i = 0; i < 4; i++) {
          assert.deepStrictEqual(yield* next, [["a", "b", "c", "d"][i]])
          yield* Fiber.interrupt(fibers[i]!)
        }
        assert.deepStrictEqual(yield* books(budget), { available: 1, held: 0, spent: 0 })
      })
    )

    it.effect("higher priority goes first, ties by ticket", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(1))
        const first = yield* budget.reserve(1)
        const { ask, next } = line(budget.reserve)
        const order = [
          ["low 1", -1],
          ["plain 1", 0],
          ["high 1", 2.5],
          ["plain 2", undefined],
          ["low 2", -1],
          ["high 2", 2.5],
          ["top", 100]
        ] as const
        const fibers = new Map<string, Fiber.Fiber<unknown, unknown>>()
        for (const [name, priority] of order) fibers.set(name, yield* ask(name, 1, { priority }))
        const served: Array<string> = []
        yield* first.release
        for (let i = 0; i < order.length; i++) {
          const [name] = yield* next
          served.push(name!)
          yield* Fiber.interrupt(fibers.get(name!)!)
        }
        assert.deepStrictEqual(served, ["top", "high 1", "high 2", "plain 1", "plain 2", "low 1", "low 2"])
      })
    )

    it.effect("a newcomer never overtakes a waiter, though it would fit", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        const held = yield* budget.reserve(8)
        const { ask, next } = line(budget.reserve)
        yield* ask("large", 5)
        yield* ask("small", 1)
        assert.isTrue(Option.isNone(yield* budget.tryReserve(1)))
        assert.deepStrictEqual(yield* next, [])
        assert.deepStrictEqual(yield* books(budget), { available: 2, held: 8, spent: 0 })
        assert.strictEqual(yield* waiters(budget), 2)
        yield* held.release
        assert.deepStrictEqual(yield* next, ["large", "small"])
      })
    )

    it.effect("a newcomer of higher priority may, if it fits; also tryReserve", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        yield* budget.reserve(8)
        const { ask, next } = line(budget.reserve)
        yield* ask("large", 5)
        yield* ask("urgent", 1, { priority: 1 })
        assert.deepStrictEqual(yield* next, ["urgent"])
        assert.isTrue(Option.isSome(yield* budget.tryReserve(1, { priority: 1 })))
        assert.isTrue(Option.isNone(yield* budget.tryReserve(1, { priority: 1 })))
        assert.deepStrictEqual(yield* books(budget), { available: 0, held: 10, spent: 0 })
        assert.strictEqual(yield* waiters(budget), 1)
      })
    )

    it.effect("a newcomer of higher priority that does not fit holds up those behind it", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        const held = yield* budget.reserve(8)
        const { ask, next } = line(budget.reserve)
        yield* ask("plain", 3)
        yield* ask("urgent", 6, { priority: 1 })
        const more = yield* budget.tryReserve(1)
        assert.isTrue(Option.isNone(more))
        yield* held.commit(8)
        assert.deepStrictEqual(yield* next, ["urgent", "plain"])
      })
    )

    it.effect(
      "a priority that is not a finite number dies, with the name of the budget, whether there is room or not",
      () =>
        Effect.gen(function* () {
          const budget = yield* open(Limit.concurrency(1))
          const check = Effect.gen(function* () {
            for (const priority of [NaN, Infinity, -Infinity]) {
              for (const attempt of [budget.reserve(1, { priority }), budget.tryReserve(1, { priority })]) {
                const exit = yield* Effect.exit<unknown, unknown, Scope.Scope>(attempt)
                const defect = Exit.isFailure(exit) ? Result.getOrThrow(Cause.findDefect(exit.cause)) : undefined
                if (!(defect instanceof RangeError)) return assert.fail(`expected a RangeError, got ${String(exit)}`)
                assert.include(defect.message, `Budget "calls"`)
                assert.include(defect.message, String(priority))
              }
            }
          })
          yield* check
          yield* budget.reserve(1)
          yield* check
          assert.strictEqual(yield* waiters(budget), 0)
        })
    )

    it.effect("amount 0 passes at once", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10), { maxQueued: 1 })
        yield* budget.reserve(10)
        const { ask, next } = line(budget.reserve)
        yield* ask("waiting", 5)
        yield* ask("nothing", 0)
        assert.deepStrictEqual(yield* next, ["nothing"])
        assert.isTrue(Option.isSome(yield* budget.tryReserve(0)))
      })
    )

    it.effect("what is freed is theirs in the same step: nobody can slip in between", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        const held = yield* budget.reserve(10)
        const { ask, granted } = line(budget.reserve)
        yield* ask("a", 6)
        yield* ask("b", 4)
        // One effect without a yield: those who wait run within the settlement, before the newcomer asks.
        const [some, wasGranted] = yield* held.release.pipe(
          Effect.andThen(Effect.map(budget.tryReserve(1), (some) => [some, [...granted]] as const))
        )
        assert.isTrue(Option.isNone(some))
        assert.deepStrictEqual(wasGranted, ["a", "b"])
        assert.deepStrictEqual(yield* books(budget), { available: 0, held: 10, spent: 0 })
        assert.strictEqual(yield* waiters(budget), 0)
      })
    )

    it.effect("grants as many as there is room for, and no more", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        const held = yield* budget.reserve(10)
        const { ask, next } = line(budget.reserve)
        for (const [name, amount] of [
          ["a", 3],
          ["b", 3],
          ["c", 3],
          ["d", 3],
          ["e", 1]
        ] as const) {
          yield* ask(name, amount)
        }
        yield* held.release
        assert.deepStrictEqual(yield* next, ["a", "b", "c"])
        assert.deepStrictEqual(yield* books(budget), { available: 1, held: 9, spent: 0 })
      })
    )
  })

  describe("timeout", () => {
    it.effect("fails with TimedOut at that moment, and consumes nothing", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10), { timeout: "3 seconds" })
        const held = yield* budget.reserve(8)
        const fiber = yield* grantTime(budget, 5)
        yield* TestClock.adjust("2999 millis")
        assert.strictEqual(yield* waiters(budget), 1)
        yield* TestClock.adjust("1 millis")
        const exit = yield* Fiber.await(fiber)
        const { budget: name, reason, requested } = failedBy(exit)
        assert.deepStrictEqual([name, requested, reason._tag], ["calls", 5, "TimedOut"])
        assert.deepStrictEqual(timedOutAfter(exit), Duration.seconds(3))
        assert.deepStrictEqual(yield* books(budget), { available: 2, held: 8, spent: 0 })
        assert.strictEqual(yield* waiters(budget), 0)
        yield* held.release
        assert.deepStrictEqual(yield* books(budget), { available: 10, held: 0, spent: 0 })
      })
    )

    it.effect("the option of the request goes before the budget's own", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10), { timeout: "3 seconds" })
        yield* budget.reserve(10)
        const shorter = yield* grantTime(budget, 1, { timeout: "1 second" })
        const longer = yield* grantTime(budget, 1, { timeout: "1 hour" })
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(timedOutAfter(yield* Fiber.await(shorter)), Duration.seconds(1))
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual(yield* waiters(budget), 1)
        yield* TestClock.adjust("50 minutes")
        assert.deepStrictEqual(timedOutAfter(yield* Fiber.await(longer)), Duration.hours(1))
      })
    )

    it.effect("does not touch a grant, neither before it nor after it", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10), { timeout: "3 seconds" })
        const { ask, next } = line(budget.reserve)
        yield* ask("at once", 5)
        const held = yield* budget.reserve(5)
        yield* ask("later", 5)
        yield* TestClock.adjust("2 seconds")
        yield* held.release
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* next, ["at once", "later"])
        assert.deepStrictEqual(yield* books(budget), { available: 0, held: 10, spent: 0 })
      })
    )

    it.effect("of the first lets the next go", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        yield* budget.reserve(8)
        const first = yield* grantTime(budget, 5, { timeout: "1 second" })
        const second = yield* grantTime(budget, 2)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(timedOutAfter(yield* Fiber.await(first)), Duration.seconds(1))
        assert.strictEqual(yield* Fiber.join(second), 1_000)
      })
    )

    it.effect("is not used up by one who gets its turn when time serves it", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }), { timeout: "500 millis" })
        yield* budget.withReservation(10, () => Effect.void)
        const inTime = yield* grantTime(budget, 5)
        const tooLate = yield* grantTime(budget, 1)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(inTime), 500)
        assert.deepStrictEqual(timedOutAfter(yield* Fiber.await(tooLate)), Duration.millis(500))
        assert.deepStrictEqual(yield* books(budget), { available: 5, held: 0, spent: 15 })
      })
    )
  })

  describe("maxQueued", () => {
    it.effect("one more fails with QueueFull, until a place is free", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10), { maxQueued: 2 })
        const held = yield* budget.reserve(10)
        const { ask, next } = line(budget.reserve)
        const leaver = yield* ask("leaver", 1)
        yield* ask("stayer", 1)
        const { budget: name, reason, requested } = failedBy(yield* Effect.exit(budget.reserve(1)))
        assert.deepStrictEqual([name, requested], ["calls", 1])
        if (!(reason instanceof BudgetError.QueueFull)) return assert.fail(`expected QueueFull, got ${reason._tag}`)
        assert.strictEqual(reason.maxQueued, 2)
        assert.strictEqual(yield* waiters(budget), 2)

        yield* Fiber.interrupt(leaver)
        yield* ask("next", 1)
        failedBy(yield* Effect.exit(budget.reserve(1)))
        yield* held.release
        assert.deepStrictEqual(yield* next, ["stayer", "next"])
        assert.deepStrictEqual(yield* books(budget), { available: 8, held: 2, spent: 0 })
      })
    )

    it.effect("0 never waits, and still grants what fits", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10), { maxQueued: 0 })
        yield* budget.reserve(8)
        const { reason } = failedBy(yield* Effect.exit(budget.reserve(3)))
        assert.strictEqual(reason._tag, "QueueFull")
        yield* budget.reserve(2)
        yield* budget.reserve(0)
        assert.deepStrictEqual(yield* books(budget), { available: 0, held: 10, spent: 0 })
        assert.strictEqual(yield* waiters(budget), 0)
      })
    )

    it.effect("what can never fit says so, also when the queue is full", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10), { maxQueued: 0 })
        yield* budget.reserve(10)
        assert.strictEqual(exceededBy(yield* Effect.exit(budget.reserve(11))).requested, 11)
      })
    )
  })

  describe("firstFit", () => {
    it.effect("the first that fits goes; fifo keeps everyone behind the first", () =>
      Effect.gen(function* () {
        const cases: ReadonlyArray<readonly [order: BudgetStore.Order, expected: ReadonlyArray<string>]> = [
          ["fifo", []],
          ["firstFit", ["medium", "small", "newcomer"]]
        ]
        for (const [order, expected] of cases) {
          const budget = yield* open(Limit.concurrency(10), { order })
          yield* budget.reserve(5)
          const held = yield* budget.reserve(5)
          const { ask, next } = line(budget.reserve)
          yield* ask("large", 8)
          yield* ask("medium", 3)
          yield* ask("small", 1)
          assert.deepStrictEqual(yield* next, [])
          yield* held.release
          const served = yield* next
          yield* ask("newcomer", 1)
          assert.deepStrictEqual([...served, ...(yield* next)], [...expected], order)
          assert.strictEqual(yield* waiters(budget), 4 - expected.length)
        }
      })
    )

    it.effect("passes a blocked one of higher priority too", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10), { order: "firstFit" })
        yield* budget.reserve(5)
        const { ask, next } = line(budget.reserve)
        yield* ask("high", 8, { priority: 2 })
        yield* ask("low", 3, { priority: -1 })
        assert.deepStrictEqual(yield* next, ["low"])
        assert.strictEqual(yield* waiters(budget), 1)
      })
    )

    it.effect("passes a blocked large one 64 times and not once more", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(200), { order: "firstFit" })
        yield* budget.reserve(50)
        const held = yield* budget.reserve(50)
        const { ask, next } = line(budget.reserve)
        yield* ask("large", 110)
        const small: Array<Fiber.Fiber<unknown, unknown>> = []
        for (let i = 1; i <= 60; i++) small.push(yield* ask(`small ${i}`, 1))
        for (let i = 61; i <= 64; i++) assert.isTrue(Option.isSome(yield* budget.tryReserve(1)), `tryReserve ${i}`)
        assert.strictEqual((yield* next).length, 60)
        assert.deepStrictEqual(yield* books(budget), { available: 36, held: 164, spent: 0 })

        assert.isTrue(Option.isNone(yield* budget.tryReserve(1)))
        yield* ask("small 65", 1)
        assert.deepStrictEqual(yield* next, [])
        yield* held.release
        for (const fiber of small.slice(0, 23)) yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* next, [])
        yield* Fiber.interrupt(small[23]!)
        assert.deepStrictEqual(yield* next, ["large"])
        yield* Fiber.interrupt(small[24]!)
        assert.deepStrictEqual(yield* next, ["small 65"])
      })
    )

    it.effect("the large one that was passed 64 times goes next, before all others", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(100), { order: "firstFit" })
        yield* budget.reserve(50)
        const { ask, next } = line(budget.reserve)
        yield* ask("large", 60)
        const use = budget.withReservation(1, () => Effect.void)
        yield* Effect.replicateEffect(use, 64, { discard: true })
        const late = yield* Effect.forkChild(use, { startImmediately: true })
        assert.strictEqual(yield* waiters(budget), 2)
        yield* budget.setLimit(Limit.concurrency(110))
        assert.deepStrictEqual(yield* next, ["large"])
        assert.deepStrictEqual(yield* books(budget), { available: 0, held: 110, spent: 0 })
        yield* budget.setLimit(Limit.concurrency(111))
        yield* Fiber.join(late)
      })
    )

    it.effect("looks at the first 64 who wait", () =>
      Effect.gen(function* () {
        const cases: ReadonlyArray<readonly [blocked: number, expected: ReadonlyArray<string>]> = [
          [63, ["small"]],
          [64, []]
        ]
        for (const [blocked, expected] of cases) {
          const budget = yield* open(Limit.concurrency(10), { order: "firstFit" })
          yield* budget.reserve(5)
          const { ask, next } = line(budget.reserve)
          for (let i = 0; i < blocked; i++) yield* ask("large", 10)
          yield* ask("small", 1)
          assert.deepStrictEqual(yield* next, [...expected], `behind ${blocked}`)
        }
      })
    )

    it.effect("those who wait for time: the one that time serves first goes first", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }), { order: "firstFit" })
        yield* budget.withReservation(10, () => Effect.void)
        const large = yield* grantTime(budget, 9)
        const small = yield* grantTime(budget, 2)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(yield* Fiber.join(small), 200)
        assert.strictEqual(yield* Fiber.join(large), 1_100)
      })
    )
  })

  describe("can never fit", () => {
    const limits: ReadonlyArray<Limit.Limit> = [
      Limit.capacity(10),
      Limit.concurrency(10),
      Limit.rate({ amount: 10, per: "1 second" }),
      Limit.rate({ amount: 100, per: "1 second", burst: 10 }),
      Limit.window({ amount: 10, every: "1 second" })
    ]
    for (const limit of limits) {
      it.effect(`11 of a ${Limit.format(limit)} fails at once, also while others wait`, () =>
        Effect.gen(function* () {
          const budget = yield* open(limit)
          const check = Effect.gen(function* () {
            const error = exceededBy(yield* Effect.exit(budget.reserve(11)))
            assert.deepStrictEqual(error.limit, limit)
            assert.isUndefined(error.retryAfter)
          })
          yield* check
          yield* budget.reserve(10)
          yield* check
          yield* Effect.forkChild(budget.reserve(10), { startImmediately: true })
          yield* check
          assert.strictEqual(yield* waiters(budget), 1)
        })
      )
    }

    it.effect("an extension beyond the limit because of what the asker keeps", () =>
      Effect.gen(function* () {
        for (const limit of [Limit.capacity(10), Limit.concurrency(10)]) {
          const budget = yield* open(limit)
          const reservation = yield* budget.reserve(6)
          assert.strictEqual(exceededBy(yield* Effect.exit(reservation.extend(5))).available, 4)
          yield* reservation.extend(4)
        }
      })
    )
  })

  describe("limits that change while somebody waits", () => {
    it.effect("lowering fails at once whoever can never fit any more, wherever it stands; the others stay", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        const held = yield* budget.reserve(10)
        const { ask, next } = line(budget.reserve)
        const first = yield* ask("first", 9)
        yield* ask("stays", 5)
        const last = yield* ask("last", 6)
        yield* budget.setLimit(Limit.concurrency(5))
        assert.strictEqual(yield* waiters(budget), 1)
        for (const [fiber, requested] of [
          [first, 9],
          [last, 6]
        ] as const) {
          const error = exceededBy(yield* Fiber.await(fiber))
          assert.strictEqual(error.requested, requested)
          assert.deepStrictEqual(error.limit, Limit.concurrency(5))
        }
        yield* held.release
        assert.deepStrictEqual(yield* next, ["stays"])
      })
    )

    it.effect("lowering lets the next go when the hopeless one was first", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        yield* budget.reserve(5)
        const { ask, next } = line(budget.reserve)
        const hopeless = yield* ask("hopeless", 9)
        yield* ask("next", 3)
        yield* budget.setLimit(Limit.capacity(8))
        exceededBy(yield* Fiber.await(hopeless))
        assert.deepStrictEqual(yield* next, ["next"])
      })
    )

    it.effect("raising admits at once, in order, as many as fit", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        yield* budget.reserve(10)
        const { ask, next } = line(budget.reserve)
        yield* ask("a", 5)
        yield* ask("b", 5)
        yield* ask("c", 1)
        yield* budget.setLimit(Limit.concurrency(19))
        assert.deepStrictEqual(yield* books(budget), { available: 4, held: 15, spent: 0 })
        assert.deepStrictEqual(yield* next, ["a"])
        yield* budget.setLimit(Limit.concurrency(21))
        assert.deepStrictEqual(yield* next, ["b", "c"])
      })
    )

    it.effect("topUp admits, as far as it goes", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        yield* budget.withReservation(10, () => Effect.void)
        const { ask, next } = line(budget.reserve)
        yield* ask("a", 5)
        yield* ask("b", 5)
        yield* budget.topUp(4)
        assert.deepStrictEqual(yield* next, [])
        yield* budget.topUp(2)
        assert.deepStrictEqual(yield* next, ["a"])
        yield* budget.topUp(4)
        assert.deepStrictEqual(yield* next, ["b"])
        assert.deepStrictEqual(yield* books(budget), { available: 0, held: 10, spent: 10 })
      })
    )

    it.effect("reset admits", () =>
      Effect.gen(function* () {
        for (const limit of [
          Limit.capacity(10),
          Limit.rate({ amount: 10, per: "1 hour" }),
          Limit.window({ amount: 10, every: "1 hour" })
        ]) {
          const budget = yield* open(limit)
          yield* budget.reserve(10)
          const { ask, next } = line(budget.reserve)
          yield* ask("a", 6)
          yield* ask("b", 5)
          yield* budget.reset
          assert.deepStrictEqual(yield* books(budget), { available: 4, held: 6, spent: 0 })
          assert.deepStrictEqual(yield* next, ["a"])
        }
      })
    )

    it.effect("a faster rate serves earlier, a slower one later", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }))
        yield* budget.withReservation(10, () => Effect.void)
        const faster = yield* grantTime(budget, 10)
        yield* TestClock.adjust("100 millis")
        yield* budget.setLimit(Limit.rate({ amount: 10, per: "100 millis" }))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(faster), 190)

        yield* budget.withReservation(10, () => Effect.void)
        const slower = yield* grantTime(budget, 10)
        yield* budget.setLimit(Limit.rate({ amount: 10, per: "10 seconds" }))
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* Fiber.join(slower), 11_100)
      })
    )
  })

  describe("a rate", () => {
    it.effect("serves at exactly the computed time, one after the other", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }))
        yield* budget.withReservation(10, () => Effect.void)
        const first = yield* grantTime(budget, 5)
        const second = yield* grantTime(budget, 3)
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual([yield* Fiber.join(first), yield* Fiber.join(second)], [500, 800])
        assert.deepStrictEqual(yield* books(budget), { available: 10, held: 0, spent: 18 })
      })
    )

    it.effect("that does not divide evenly serves at the first whole millisecond, without drift", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 3, per: "1 second" }))
        yield* budget.withReservation(3, () => Effect.void)
        const fibers = yield* Effect.replicateEffect(grantTime(budget, 1), 9)
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(
          yield* Effect.forEach(fibers, Fiber.join),
          [334, 667, 1_000, 1_334, 1_667, 2_000, 2_334, 2_667, 3_000]
        )
      })
    )

    it.effect("serves the next at its own time when the first is interrupted, be that sooner or later", () =>
      Effect.gen(function* () {
        for (const [first, second, expected] of [
          [9, 2, 200],
          [2, 9, 900],
          // Already there when the first leaves.
          [9, 1, 150]
        ] as const) {
          const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }))
          const start = yield* Clock.currentTimeMillis
          yield* budget.withReservation(10, () => Effect.void)
          const head = yield* grantTime(budget, first)
          const next = yield* grantTime(budget, second)
          yield* TestClock.adjust("150 millis")
          yield* Fiber.interrupt(head)
          yield* TestClock.adjust("2 seconds")
          assert.strictEqual((yield* Fiber.join(next)) - start, expected)
        }
      })
    )

    it.effect("serves debt first", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }))
        yield* budget.withReservation(10, (reservation) => reservation.commit(25))
        const fiber = yield* grantTime(budget, 5)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* Fiber.join(fiber), 2_000)
      })
    )

    it.effect("serves sooner when a refund comes back meanwhile", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }))
        const held = yield* budget.reserve(10)
        const fiber = yield* grantTime(budget, 8)
        yield* TestClock.adjust("100 millis")
        yield* held.commit(5)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* Fiber.join(fiber), 300)
      })
    )

    it.effect("with several limits, serves when the last of them admits", () =>
      Effect.gen(function* () {
        const budget = yield* open([
          Limit.rate({ amount: 10, per: "1 second" }),
          Limit.window({ amount: 12, every: "1 minute" })
        ])
        yield* budget.withReservation(10, () => Effect.void)
        const small = yield* grantTime(budget, 2)
        const large = yield* grantTime(budget, 5)
        yield* TestClock.adjust("2 minutes")
        assert.deepStrictEqual([yield* Fiber.join(small), yield* Fiber.join(large)], [200, 60_000])
      })
    )

    it.effect("waits longer than a timer can run", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 1, per: "40 days" }), { timeout: "100 days" })
        yield* budget.withReservation(1, () => Effect.void)
        const fiber = yield* grantTime(budget, 1)
        yield* TestClock.adjust("50 days")
        assert.strictEqual(yield* Fiber.join(fiber), Duration.toMillis("40 days"))
      })
    )
  })

  describe("a window", () => {
    it.effect("serves at its boundary, as many as the new one takes", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.window({ amount: 10, every: "1 minute" }))
        yield* TestClock.adjust("45 seconds")
        yield* budget.withReservation(10, () => Effect.void)
        const fibers = yield* Effect.forEach([6, 4, 7, 4], (amount) => grantTime(budget, amount))
        yield* TestClock.adjust("5 minutes")
        assert.deepStrictEqual(yield* Effect.forEach(fibers, Fiber.join), [60_000, 60_000, 120_000, 180_000])
      })
    )

    it.effect("serves before its boundary what a refund makes room for", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.window({ amount: 10, every: "1 minute" }))
        const held = yield* budget.reserve(10)
        const fiber = yield* grantTime(budget, 6)
        yield* TestClock.adjust("10 seconds")
        yield* held.commit(4)
        assert.strictEqual(yield* Fiber.join(fiber), 10_000)
      })
    )
  })

  describe("timers", () => {
    /** Counts the sleeps that are under way. */
    const countSleeps = <A, E, R>(use: (sleeping: () => number) => Effect.Effect<A, E, R>) =>
      Clock.clockWith((clock) => {
        let sleeping = 0
        return Effect.provideService(
          use(() => sleeping),
          Clock.Clock,
          {
            ...clock,
            sleep: (duration) =>
              Effect.acquireUseRelease(
                Effect.sync(() => sleeping++),
                () => clock.sleep(duration),
                () => Effect.sync(() => sleeping--)
              )
          }
        )
      })

    const rate = Limit.rate({ amount: 10, per: "1 second" })

    it.effect("one serves the head of the queue, however many wait", () =>
      countSleeps((sleeping) =>
        Effect.gen(function* () {
          const budget = yield* open(rate)
          yield* budget.withReservation(10, () => Effect.void)
          const fibers = yield* Effect.replicateEffect(grantTime(budget, 1), 20)
          yield* settled
          assert.strictEqual(sleeping(), 1)
          yield* TestClock.adjust("1050 millis")
          assert.strictEqual(yield* waiters(budget), 10)
          assert.strictEqual(sleeping(), 1)
          yield* TestClock.adjust("950 millis")
          assert.deepStrictEqual(
            yield* Effect.forEach(fibers, Fiber.join),
            fibers.map((_, i) => (i + 1) * 100)
          )
          assert.strictEqual(sleeping(), 0)
        })
      )
    )

    const emptied: Record<string, (budget: Budget.Budget) => Effect.Effect<unknown>> = {
      "an interruption": () => Effect.void,
      "a top-up": (budget) => budget.topUp(10),
      "a reset": (budget) => budget.reset,
      "a higher limit": (budget) => budget.setLimit(Limit.rate({ amount: 30, per: "1 second" })),
      "a lower limit, under which it can never fit": (budget) =>
        budget.setLimit(Limit.rate({ amount: 3, per: "1 second" })),
      "another kind of limit": (budget) => budget.setLimit(Limit.concurrency(10)),
      "its timeout": () => TestClock.adjust("700 millis")
    }
    for (const [what, empty] of Object.entries(emptied)) {
      it.effect(`none is left after ${what} has emptied the queue`, () =>
        countSleeps((sleeping) =>
          Effect.gen(function* () {
            const budget = yield* open(rate, { timeout: "700 millis" })
            yield* budget.withReservation(8, () => Effect.void)
            // With a refund of these, the wait can end in time.
            yield* budget.reserve(2)
            const fiber = yield* grantTime(budget, 8)
            yield* settled
            assert.strictEqual(sleeping(), 2, "the timer and the deadline")
            yield* empty(budget)
            if (what === "an interruption") yield* Fiber.interrupt(fiber)
            yield* Fiber.await(fiber)
            yield* settled
            assert.strictEqual(yield* waiters(budget), 0)
            assert.strictEqual(sleeping(), 0)
          })
        )
      )
    }

    it.effect("none runs for those whom time alone cannot help", () =>
      countSleeps((sleeping) =>
        Effect.gen(function* () {
          const budget = yield* open([rate, Limit.capacity(15)])
          yield* budget.withReservation(10, () => Effect.void)
          const fiber = yield* grantTime(budget, 6)
          yield* settled
          assert.strictEqual(sleeping(), 0)
          yield* budget.topUp(1)
          yield* settled
          assert.strictEqual(sleeping(), 1)
          yield* TestClock.adjust("1 second")
          // The top-up gave the bucket one unit too.
          assert.strictEqual(yield* Fiber.join(fiber), 500)
        })
      )
    )

    it.effect("tryReserve leaves none behind", () =>
      countSleeps((sleeping) =>
        Effect.gen(function* () {
          const budget = yield* open(rate, { order: "firstFit" })
          yield* budget.withReservation(9, () => Effect.void)
          const fiber = yield* grantTime(budget, 8)
          assert.isTrue(Option.isSome(yield* budget.tryReserve(1)))
          assert.isTrue(Option.isNone(yield* budget.tryReserve(1)))
          yield* Fiber.interrupt(fiber)
          yield* settled
          assert.strictEqual(sleeping(), 0)
        })
      )
    )
  })

  describe("terminate", () => {
    it.effect("ends the fiber with BudgetExceeded as a defect, and finalizers run", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10), { enforcement: "terminate" })
        const log: Array<string> = []
        const program = Effect.gen(function* () {
          yield* Effect.addFinalizer(() => Effect.sync(() => log.push("finalized")))
          yield* budget.reserve(6)
          yield* budget.reserve(5).pipe(Effect.catch(() => Effect.sync(() => log.push("caught"))))
          log.push("went on")
        })
        const exit = yield* Effect.exit(Effect.scoped(program))
        const defect = Exit.isFailure(exit) ? Result.getOrThrow(Cause.findDefect(exit.cause)) : undefined
        if (!(defect instanceof BudgetExceeded)) return assert.fail(`expected BudgetExceeded, got ${String(exit)}`)
        assert.deepStrictEqual([defect.budget, defect.requested, defect.available], ["calls", 5, 4])
        assert.deepStrictEqual(log, ["finalized"])
        // The first hold was not settled: its scope ended in a failure.
        assert.deepStrictEqual(yield* books(budget), { available: 10, held: 0, spent: 0 })
      })
    )

    it.effect("ends it also where the answer would be to wait, and for an extension", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 10, per: "1 second" }), { enforcement: "terminate" })
        const reservation = yield* budget.reserve(8)
        for (const attempt of [
          budget.withReservation(5, () => Effect.void),
          Effect.scoped(budget.reserve(5)),
          reservation.extend(5)
        ]) {
          const exit = yield* Effect.exit(attempt)
          const defect = Exit.isFailure(exit) ? Result.getOrThrow(Cause.findDefect(exit.cause)) : undefined
          if (!(defect instanceof BudgetExceeded)) return assert.fail(`expected BudgetExceeded, got ${String(exit)}`)
          assert.deepStrictEqual(defect.retryAfter, Duration.millis(300))
        }
        assert.strictEqual(reservation.amount, 8)
        assert.deepStrictEqual(yield* books(budget), { available: 2, held: 8, spent: 0 })
      })
    )
  })

  describe("interruption", () => {
    it.effect("of the first lets the next go, and leaves nothing behind", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        yield* budget.reserve(8)
        const { ask, next } = line(budget.reserve)
        const large = yield* ask("large", 5)
        yield* ask("small", 2)
        assert.deepStrictEqual(yield* next, [])
        yield* Fiber.interrupt(large)
        assert.deepStrictEqual(yield* next, ["small"])
        assert.strictEqual(yield* waiters(budget), 0)
        assert.deepStrictEqual(yield* books(budget), { available: 0, held: 10, spent: 0 })
      })
    )

    it.effect("of one in the middle keeps the order of the others", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(3))
        const held = yield* budget.reserve(3)
        const { ask, next } = line(budget.reserve)
        yield* ask("a", 1)
        const middle = yield* ask("b", 1)
        yield* ask("c", 1)
        yield* Fiber.interrupt(middle)
        assert.strictEqual(yield* waiters(budget), 2)
        yield* held.release
        assert.deepStrictEqual(yield* next, ["a", "c"])
        assert.deepStrictEqual(yield* books(budget), { available: 1, held: 2, spent: 0 })
      })
    )

    it.effect("together with the grant gives the grant back, and the next gets it", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        yield* budget.reserve(10)
        const { ask, next } = line(budget.reserve)
        const first = yield* ask("first", 10)
        yield* ask("second", 10)
        // Granted in this step, and interrupted before it could go on.
        yield* Effect.andThen(
          budget.setLimit(Limit.concurrency(20)),
          Effect.sync(() => first.interruptUnsafe())
        )
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(first)))
        assert.deepStrictEqual(yield* next, ["second"])
        assert.deepStrictEqual(yield* books(budget), { available: 0, held: 20, spent: 0 })
        assert.strictEqual((yield* budget.snapshot).settled.interrupted.count, 1)
      })
    )
  })

  describe("extend", () => {
    it.effect("waits and is granted", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        const other = yield* budget.reserve(4)
        const reservation = yield* budget.reserve(6)
        const fiber = yield* Effect.forkChild(reservation.extend(3), { startImmediately: true })
        assert.strictEqual(yield* waiters(budget), 1)
        assert.strictEqual(reservation.amount, 6)
        yield* other.release
        assert.strictEqual(reservation.amount, 9)
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* books(budget), { available: 1, held: 9, spent: 0 })
        yield* reservation.commit(9)
        assert.deepStrictEqual(yield* books(budget), { available: 10, held: 0, spent: 0 })
      })
    )

    it.effect("goes before those who wait, who may be waiting for just what it extends", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        const reservation = yield* budget.reserve(6)
        const { ask, next } = line(budget.reserve)
        yield* ask("waiting", 5)
        yield* ask("urgent", 5, { priority: 100 })
        yield* reservation.extend(1)
        assert.strictEqual(reservation.amount, 7)
        const other = yield* budget.tryReserve(3, { priority: 200 })
        const fiber = yield* Effect.forkChild(reservation.extend(2), { startImmediately: true })
        assert.strictEqual(yield* waiters(budget), 3)
        yield* Option.getOrThrow(other).release
        yield* Fiber.join(fiber)
        assert.strictEqual(reservation.amount, 9)
        assert.deepStrictEqual(yield* next, [])
        yield* reservation.commit(9)
        assert.deepStrictEqual(yield* next, ["urgent", "waiting"])
        assert.deepStrictEqual(yield* books(budget), { available: 0, held: 10, spent: 0 })
      })
    )

    it.effect("that fits waits behind an earlier one that does not fit yet", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        const large = yield* budget.reserve(5)
        const small = yield* budget.reserve(2)
        const other = yield* budget.reserve(2)
        const first = yield* Effect.forkChild(large.extend(3), { startImmediately: true })
        const second = yield* Effect.forkChild(small.extend(1), { startImmediately: true })
        assert.strictEqual(yield* waiters(budget), 2)
        yield* other.commit(2)
        yield* Fiber.join(first)
        assert.strictEqual(yield* waiters(budget), 1)
        yield* large.commit(8)
        yield* Fiber.join(second)
        assert.strictEqual(small.amount, 3)
        assert.deepStrictEqual(yield* books(budget), { available: 7, held: 3, spent: 0 })
      })
    )

    it.effect("that times out or is interrupted leaves the hold as it was", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        yield* budget.reserve(4)
        const reservation = yield* budget.reserve(6, { timeout: "1 second" })
        const late = yield* Effect.forkChild(reservation.extend(3), { startImmediately: true })
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(timedOutAfter(yield* Fiber.await(late)), Duration.seconds(1))
        const stopped = yield* Effect.forkChild(reservation.extend(3), { startImmediately: true })
        yield* Fiber.interrupt(stopped)
        assert.strictEqual(reservation.amount, 6)
        assert.strictEqual(yield* waiters(budget), 0)
        assert.deepStrictEqual(yield* books(budget), { available: 0, held: 10, spent: 0 })
      })
    )

    it.effect("of a reservation that is settled meanwhile dies with a message, and takes nothing", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        yield* budget.reserve(4)
        const reservation = yield* budget.reserve(6)
        const fiber = yield* Effect.forkChild(reservation.extend(3), { startImmediately: true })
        yield* reservation.release
        const exit = yield* Fiber.await(fiber)
        const defect = Exit.isFailure(exit) ? Result.getOrThrow(Cause.findDefect(exit.cause)) : undefined
        if (!(defect instanceof Error)) return assert.fail(`expected a defect, got ${String(exit)}`)
        assert.include(defect.message, "has been settled")
        assert.deepStrictEqual(yield* books(budget), { available: 6, held: 4, spent: 0 })
        assert.strictEqual(yield* waiters(budget), 0)
      })
    )

    it.effect("granted by time, in a later window", () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.window({ amount: 10, every: "1 minute" }))
        const reservation = yield* budget.reserve(8)
        const fiber = yield* Effect.forkChild(reservation.extend(5), { startImmediately: true })
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(fiber)
        assert.strictEqual(reservation.amount, 13)
        yield* reservation.commit(10)
        assert.deepStrictEqual(yield* books(budget), { available: 8, held: 0, spent: 2 })
      })
    )
  })

  describe("who frees", () => {
    const frees: Record<string, (budget: Budget.Budget, gate: Effect.Effect<void>) => Effect.Effect<void, unknown>> = {
      "the end of a scope in success": (budget, gate) => Effect.scoped(Effect.andThen(budget.reserve(10), gate)),
      "the end of a scope in failure": (budget, gate) =>
        Effect.scoped(Effect.andThen(budget.reserve(10), Effect.andThen(gate, Effect.fail("no")))),
      withReservation: (budget, gate) => budget.withReservation(10, () => gate),
      "a commit in a finalizer": (budget, gate) =>
        Effect.scoped(
          Effect.flatMap(budget.reserve(10), (reservation) =>
            Effect.andThen(
              Effect.addFinalizer(() => reservation.commit(1)),
              gate
            )
          )
        )
    }
    for (const [what, run] of Object.entries(frees)) {
      it.effect(`${what} wakes who waits`, () =>
        Effect.gen(function* () {
          const budget = yield* open(Limit.concurrency(10))
          const gate = yield* Deferred.make<void>()
          yield* Effect.forkChild(Effect.exit(run(budget, Deferred.await(gate))), { startImmediately: true })
          const { ask, next } = line(budget.reserve)
          yield* ask("waiting", 10)
          assert.deepStrictEqual(yield* next, [])
          yield* Deferred.succeed(gate, undefined)
          assert.deepStrictEqual(yield* next, ["waiting"])
          assert.deepStrictEqual(yield* books(budget), { available: 0, held: 10, spent: 0 })
        })
      )
    }
  })

  describe("a policy", () => {
    class A extends Budget.Service<A>()("test/A") {}
    class B extends Budget.Service<B>()("test/B") {}
    class C extends Budget.Service<C>()("test/C") {}

    const throttled = { limit: Limit.concurrency(10), enforcement: "throttle" } as const
    const both = Layer.mergeAll(A.layer({ ...throttled, name: "a" }), B.layer({ ...throttled, name: "b" }))

    it.effect("holds none of its members while it waits, and takes all when it can", () =>
      Effect.gen(function* () {
        const a = yield* A
        const b = yield* B
        const policy = yield* Policy.make("both", { a: A, b: B })
        const heldA = yield* a.reserve(10)
        const heldB = yield* b.reserve(9)
        const { ask, next } = line((amount, options) => policy.reserve({ a: amount, b: amount }, options))
        yield* ask("policy", 4)
        assert.deepStrictEqual(yield* books(a), { available: 0, held: 10, spent: 0 })
        assert.deepStrictEqual(yield* books(b), { available: 1, held: 9, spent: 0 })
        assert.deepStrictEqual([yield* waiters(a), yield* waiters(b)], [1, 1])

        yield* heldB.release
        assert.deepStrictEqual(yield* books(b), { available: 10, held: 0, spent: 0 })
        assert.isTrue(Option.isNone(yield* b.tryReserve(1)), "nobody passes it at a member that has room")
        assert.isTrue(Option.isSome(yield* b.tryReserve(1, { priority: 1 })))

        yield* heldA.release
        assert.deepStrictEqual(yield* books(a), { available: 6, held: 4, spent: 0 })
        assert.deepStrictEqual(yield* books(b), { available: 5, held: 5, spent: 0 })
        assert.deepStrictEqual(yield* next, ["policy"])
        assert.deepStrictEqual([yield* waiters(a), yield* waiters(b)], [0, 0])
      }).pipe(Effect.provide(both))
    )

    it.effect("once granted, lets those behind it go at every member", () =>
      Effect.gen(function* () {
        const a = yield* A
        const b = yield* B
        const policy = yield* Policy.make("both", { a: A, b: B })
        const held = yield* a.reserve(10)
        const { ask, next } = line((amount) => policy.reserve({ a: amount, b: amount }))
        const atB = line(b.reserve)
        yield* ask("policy", 4)
        yield* atB.ask("behind", 3)
        assert.deepStrictEqual(yield* atB.next, [])
        yield* held.release
        assert.deepStrictEqual(yield* next, ["policy"])
        assert.deepStrictEqual(yield* atB.next, ["behind"])
        assert.deepStrictEqual(yield* books(b), { available: 3, held: 7, spent: 0 })
      }).pipe(Effect.provide(both))
    )

    it.effect("goes behind those who wait at any of its members", () =>
      Effect.gen(function* () {
        const a = yield* A
        const b = yield* B
        for (const policy of [
          yield* Policy.make("ab", { a: A, b: B }),
          yield* Policy.make("ba", { b: B, a: A })
        ] as const) {
          const held = yield* b.reserve(5)
          const atB = line(b.reserve)
          const { ask, next } = line((amount) => policy.reserve({ a: amount, b: amount }))
          const large = yield* atB.ask("large", 8)
          const fiber = yield* ask("policy", 1)
          yield* a.topUp(0)
          assert.deepStrictEqual(yield* next, [])
          assert.isTrue(Option.isNone(yield* policy.tryReserve({ a: 1, b: 1 })))
          yield* held.release
          assert.deepStrictEqual(yield* atB.next, ["large"])
          assert.deepStrictEqual(yield* next, ["policy"])
          yield* Fiber.interruptAll([large, fiber])
        }
      }).pipe(Effect.provide(both))
    )

    it.effect("stands only where it asks for something", () =>
      Effect.gen(function* () {
        const policy = yield* Policy.make("both", { a: A, b: B })
        yield* (yield* A).reserve(10)
        const { ask, next } = line((amount) => policy.reserve({ a: amount, b: 0 }))
        yield* ask("policy", 4)
        assert.isTrue(Option.isSome(yield* (yield* B).tryReserve(10)))
        assert.isTrue(Option.isSome(yield* policy.tryReserve({ a: 0, b: 0 })))
        assert.deepStrictEqual(yield* next, [])
      }).pipe(Effect.provide(both))
    )

    it.effect("two with the members in opposite order go by ticket", () =>
      Effect.gen(function* () {
        const a = yield* A
        const b = yield* B
        const ab = yield* Policy.make("ab", { a: A, b: B })
        const ba = yield* Policy.make("ba", { b: B, a: A })
        const heldA = yield* a.reserve(5)
        const heldB = yield* b.reserve(5)
        const { ask, next } = line((amount, options) =>
          (options?.priority === undefined ? ab : ba).reserve({ a: amount, b: amount })
        )
        const first = yield* ask("ab", 6)
        const second = yield* ask("ba", 6, { priority: 0 })
        yield* heldA.release
        assert.deepStrictEqual(yield* next, [])
        yield* heldB.release
        assert.deepStrictEqual(yield* next, ["ab"])
        yield* Fiber.interrupt(first)
        assert.deepStrictEqual(yield* next, ["ba"])
        yield* Fiber.interrupt(second)
      }).pipe(Effect.provide(both))
    )

    it.effect("many with the members in opposite order, and others on one of them, all get their turn", () =>
      Effect.gen(function* () {
        const a = yield* A
        const b = yield* B
        const ab = yield* Policy.make("ab", { a: A, b: B })
        const ba = yield* Policy.make("ba", { b: B, a: A })
        const turns = yield* Effect.forEach(
          Array.from({ length: 400 }, (_, i) => i),
          (i) => {
            const [some, more] = [1 + ((i * 7) % 10), 1 + ((i * 3) % 10)]
            const use = () => Effect.as(Effect.yieldNow, i)
            switch (i % 4) {
              case 0:
                return ab.withReservation({ a: some, b: more }, use)
              case 1:
                return ba.withReservation({ a: more, b: some }, use)
              case 2:
                return a.withReservation(some, use)
              default:
                return b.withReservation(more, use)
            }
          },
          { concurrency: "unbounded" }
        )
        assert.strictEqual(turns.length, 400)
        assert.deepStrictEqual(yield* books(a), { available: 10, held: 0, spent: 0 })
        assert.deepStrictEqual(yield* books(b), { available: 10, held: 0, spent: 0 })
        assert.deepStrictEqual([yield* waiters(a), yield* waiters(b)], [0, 0])
      }).pipe(Effect.provide(both))
    )

    it.effect("waits for the time at which all its members admit", () =>
      Effect.gen(function* () {
        const policy = yield* Policy.make("timed", { a: A, b: B })
        yield* policy.withReservation({ a: 10, b: 10 }, () => Effect.void)
        const fiber = yield* Effect.forkChild(
          policy.withReservation({ a: 5, b: 5 }, () => Clock.currentTimeMillis),
          { startImmediately: true }
        )
        const behind = yield* grantTime(yield* A, 10)
        yield* TestClock.adjust("2 minutes")
        assert.strictEqual(yield* Fiber.join(fiber), 60_000)
        // At that moment the bucket of A was full again, and 5 of it were taken.
        assert.strictEqual(yield* Fiber.join(behind), 60_500)
      }).pipe(
        Effect.provide(
          Layer.mergeAll(
            A.layer({ limit: Limit.rate({ amount: 10, per: "1 second" }), enforcement: "throttle" }),
            B.layer({ limit: Limit.window({ amount: 10, every: "1 minute" }), enforcement: "throttle" })
          )
        )
      )
    )

    describe("with a member that throttles and one that rejects", () => {
      const mixed = Layer.mergeAll(
        A.layer({ ...throttled, name: "throttles" }),
        B.layer({ name: "rejects", limit: Limit.capacity(10) })
      )

      it.effect("fails at once when the one that rejects denies", () =>
        Effect.gen(function* () {
          const policy = yield* Policy.make("mixed", { a: A, b: B })
          yield* (yield* A).reserve(10)
          assert.strictEqual(exceededBy(yield* Effect.exit(policy.reserve({ a: 1, b: 11 }))).budget, "rejects")
          yield* (yield* B).reserve(10)
          assert.strictEqual(exceededBy(yield* Effect.exit(policy.reserve({ a: 1, b: 1 }))).budget, "rejects")
          assert.strictEqual(yield* waiters(yield* A), 0)
        }).pipe(Effect.provide(mixed))
      )

      it.effect("fails at its turn when that happens while it waits, takes nothing, and lets the next go", () =>
        Effect.gen(function* () {
          const a = yield* A
          const b = yield* B
          const policy = yield* Policy.make("mixed", { a: A, b: B })
          const held = yield* a.reserve(10)
          const fiber = yield* Effect.forkChild(Effect.scoped(policy.reserve({ a: 6, b: 6 })), {
            startImmediately: true
          })
          const { ask, next } = line(a.reserve)
          yield* ask("next", 10)
          yield* b.reserve(5)
          yield* held.release
          const error = exceededBy(yield* Fiber.await(fiber))
          assert.deepStrictEqual([error.budget, error.requested, error.available], ["rejects", 6, 5])
          assert.deepStrictEqual(yield* next, ["next"])
          assert.deepStrictEqual(yield* books(a), { available: 0, held: 10, spent: 0 })
          assert.deepStrictEqual(yield* books(b), { available: 5, held: 5, spent: 0 })
        }).pipe(Effect.provide(mixed))
      )

      it.effect("a change of limits before its turn does not end the wait for what the other lacks now", () =>
        Effect.gen(function* () {
          const a = yield* A
          const b = yield* B
          const policy = yield* Policy.make("mixed", { a: A, b: B })
          const held = yield* a.reserve(10)
          const first = line(a.reserve)
          const fiber = yield* first.ask("first", 8)
          const { ask, next } = line((amount) => policy.reserve({ a: amount, b: amount }))
          yield* ask("policy", 6)
          const lacking = yield* b.reserve(10)
          yield* a.setLimit(Limit.concurrency(9))
          yield* a.setLimit(Limit.concurrency(10))
          assert.strictEqual(yield* waiters(a), 2)
          yield* lacking.release
          yield* held.release
          assert.deepStrictEqual(yield* first.next, ["first"])
          yield* Fiber.interrupt(fiber)
          assert.deepStrictEqual(yield* next, ["policy"])
        }).pipe(Effect.provide(mixed))
      )

      it.effect("goes when both admit at its turn", () =>
        Effect.gen(function* () {
          const policy = yield* Policy.make("mixed", { a: A, b: B })
          const held = yield* (yield* A).reserve(10)
          const { ask, next } = line((amount) => policy.reserve({ a: amount, b: amount }))
          yield* ask("policy", 6)
          yield* held.release
          assert.deepStrictEqual(yield* next, ["policy"])
          assert.deepStrictEqual(yield* books(yield* B), { available: 4, held: 6, spent: 0 })
        }).pipe(Effect.provide(mixed))
      )

      it.effect("with one that terminates, the fiber ends", () =>
        Effect.gen(function* () {
          const policy = yield* Policy.make("mixed", { a: A, c: C })
          yield* (yield* A).reserve(10)
          const exit = yield* Effect.exit(policy.reserve({ a: 1, c: 11 }))
          const defect = Exit.isFailure(exit) ? Result.getOrThrow(Cause.findDefect(exit.cause)) : undefined
          if (!(defect instanceof BudgetExceeded)) return assert.fail(`expected BudgetExceeded, got ${String(exit)}`)
          assert.strictEqual(defect.budget, "ends")
        }).pipe(Effect.provide([mixed, C.layer({ name: "ends", limit: Limit.capacity(10), enforcement: "terminate" })]))
      )
    })

    for (const [what, inA, inB] of [
      ["first", "2 seconds", "10 seconds"],
      ["last", "10 seconds", "2 seconds"]
    ] as const) {
      it.effect(`the shortest timeout of its members counts (${what}), and the option of the request goes before`, () =>
        Effect.gen(function* () {
          const a = yield* A
          const b = yield* B
          const policy = yield* Policy.make("both", { a: A, b: B })
          yield* a.reserve(10)
          const member = yield* Effect.forkChild(
            policy.withReservation({ a: 4, b: 2 }, () => Effect.void),
            {
              startImmediately: true
            }
          )
          const option = yield* Effect.forkChild(
            policy.withReservation({ a: 4, b: 2 }, () => Effect.void, { timeout: "1 second" }),
            { startImmediately: true }
          )
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual(timedOutAfter(yield* Fiber.await(option)), Duration.seconds(1))
          yield* TestClock.adjust("1 second")
          const exit = yield* Fiber.await(member)
          assert.deepStrictEqual(timedOutAfter(exit), Duration.seconds(2))
          const { budget, requested } = failedBy(exit)
          assert.deepStrictEqual([budget, requested], ["a", 4])
          assert.deepStrictEqual([yield* waiters(a), yield* waiters(b)], [0, 0])
          assert.deepStrictEqual(yield* books(b), { available: 10, held: 0, spent: 0 })
        }).pipe(
          Effect.provide(
            Layer.mergeAll(
              A.layer({ ...throttled, name: "a", timeout: inA }),
              B.layer({ ...throttled, name: "b", timeout: inB })
            )
          )
        )
      )
    }

    it.effect("a full queue of any member sheds it, and it stands nowhere", () =>
      Effect.gen(function* () {
        const a = yield* A
        const b = yield* B
        const policy = yield* Policy.make("both", { a: A, b: B })
        yield* a.reserve(10)
        yield* b.reserve(10)
        const { ask } = line(b.reserve)
        yield* ask("waiting", 1)
        const { budget, reason, requested } = failedBy(yield* Effect.exit(policy.reserve({ a: 4, b: 2 })))
        assert.deepStrictEqual([budget, requested, reason._tag], ["b", 2, "QueueFull"])
        assert.deepStrictEqual([yield* waiters(a), yield* waiters(b)], [0, 1])
      }).pipe(
        Effect.provide(
          Layer.mergeAll(A.layer({ ...throttled, name: "a" }), B.layer({ ...throttled, name: "b", maxQueued: 1 }))
        )
      )
    )

    it.effect("interrupted or timed out, lets the others go at every member", () =>
      Effect.gen(function* () {
        const a = yield* A
        const b = yield* B
        const policy = yield* Policy.make("both", { a: A, b: B })
        for (const end of [
          (fiber: Fiber.Fiber<unknown, unknown>) => Fiber.interrupt(fiber),
          () => TestClock.adjust("1 second")
        ]) {
          const held = yield* a.reserve(10)
          const fiber = yield* Effect.forkChild(
            Effect.exit(policy.withReservation({ a: 1, b: 5 }, () => Effect.void, { timeout: "1 second" })),
            { startImmediately: true }
          )
          const atB = yield* grantTime(b, 8)
          assert.deepStrictEqual([yield* waiters(a), yield* waiters(b)], [1, 2])
          yield* end(fiber)
          yield* Fiber.join(atB)
          assert.deepStrictEqual([yield* waiters(a), yield* waiters(b)], [0, 0])
          yield* held.release
        }
      }).pipe(Effect.provide(both))
    )

    it.effect("lowering either member fails it at once, it stands nowhere, and those behind it go", () =>
      Effect.gen(function* () {
        const a = yield* A
        const b = yield* B
        const policy = yield* Policy.make("both", { a: A, b: B })
        const { ask, next } = line(b.reserve)
        for (const lowered of [a, b]) {
          const held = yield* a.reserve(10)
          const fiber = yield* Effect.forkChild(Effect.scoped(policy.reserve({ a: 5, b: 5 })), {
            startImmediately: true
          })
          const behind = yield* ask("behind", 2)
          assert.deepStrictEqual(yield* next, [])
          yield* lowered.setLimit(Limit.concurrency(4))
          assert.strictEqual(exceededBy(yield* Fiber.await(fiber)).budget, lowered.name)
          assert.deepStrictEqual([yield* waiters(a), yield* waiters(b)], [0, 0])
          assert.deepStrictEqual(yield* next, ["behind"])
          yield* Fiber.interrupt(behind)
          yield* held.release
          yield* lowered.setLimit(Limit.concurrency(10))
        }
      }).pipe(Effect.provide(both))
    )
  })

  it.effect("10,000 waiters drain in order", () =>
    Effect.gen(function* () {
      const count = 10_000
      const budget = yield* open(Limit.concurrency(3))
      const held = yield* budget.reserve(3)
      const order: Array<number> = []
      let inUse = 0
      const fibers = yield* Effect.forEach(
        Array.from({ length: count }, (_, i) => i),
        (i) =>
          Effect.forkChild(
            budget.withReservation(1, () =>
              Effect.gen(function* () {
                order.push(i)
                assert.isAtMost(++inUse, 3)
                yield* Effect.yieldNow
                inUse--
              })
            ),
            { startImmediately: true }
          )
      )
      assert.strictEqual(yield* waiters(budget), count)
      yield* held.release
      yield* Effect.forEach(fibers, Fiber.join, { discard: true })
      assert.deepStrictEqual(
        order,
        fibers.map((_, i) => i)
      )
      assert.deepStrictEqual(yield* books(budget), { available: 3, held: 0, spent: 0 })
    })
  )
})
