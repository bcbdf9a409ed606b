/** Rules about clocks, windows and timeouts. Each was broken once. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Duration, Effect, Fiber, Layer, type Scope } from "effect"
import { TestClock } from "effect/testing"
import { Budget, BudgetStore, Limit, Policy, type Reservation } from "../src/index.ts"
import { faces } from "./support/faces.ts"
import { exceededBy, failedBy } from "./utils/exits.ts"

const HOUR = 3_600_000
const DAY = 24 * HOUR

const open = (limit: Budget.Options["limit"], options: Partial<Budget.Options> = {}) =>
  Budget.make({ ...options, limit, name: "test/Budget" }).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))

const fork = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

/** The `retryAfter` of a request that has timed out, in milliseconds. */
const retryAfterTimeout = (exit: Parameters<typeof failedBy>[0]): number => {
  const { reason } = failedBy(exit)
  assert(reason._tag === "TimedOut")
  return Duration.toMillis(reason.retryAfter!)
}

/** Each admits ten units per second. */
const timed: ReadonlyArray<Limit.Limit> = [
  Limit.rate({ amount: 10, per: "1 second" }),
  Limit.rate({ amount: 10, per: "1 second", refill: "interval" }),
  Limit.window({ amount: 10, every: "1 second" })
]

const steps: ReadonlyArray<readonly [words: string, millis: number]> = [
  ["a millisecond", 1],
  ["half a second", 500],
  ["a second", 1_000],
  ["a minute and a bit", 60_700],
  ["an hour", HOUR],
  ["a day", DAY]
]

/**
 * Runs an effect under a clock that can be set while sleeps continue, like a system clock. The argument of `set` is added to the time
 * of the test clock.
 */
const withClockSet = <A, E, R>(use: (set: (millis: number) => void) => Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    let shift = 0
    return Clock.clockWith((clock) =>
      Effect.provideService(
        use((millis) => {
          shift = millis
        }),
        Clock.Clock,
        {
          ...clock,
          currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe() + shift,
          currentTimeMillis: Effect.sync(() => clock.currentTimeMillisUnsafe() + shift)
        }
      )
    )
  })

/** The milliseconds, in steps, until `done` returns true. */
const millisUntil = (done: Effect.Effect<boolean>, step = 50, most = 10_000) =>
  Effect.gen(function* () {
    for (let millis = 0; millis < most; millis += step) {
      if (yield* done) return millis
      yield* TestClock.adjust(step)
    }
    return Infinity
  })

describe("a clock that is set back", () => {
  for (const [words, back] of steps) {
    for (const limit of timed) {
      const of = Limit.format(limit)

      for (const [name, face] of faces) {
        it.effect(`by ${words}: ${name} over a ${of} denies for no more than two seconds`, () =>
          withClockSet((set) =>
            Effect.gen(function* () {
              yield* TestClock.setTime(10 * DAY)
              const { tries } = yield* face(limit)
              assert.isTrue(yield* tries(10))
              assert.isFalse(yield* tries(1))
              set(-back)
              assert.isAtMost(yield* millisUntil(tries(1)), 2_000)
            })
          )
        )

        it.effect(`by ${words}: a waiter for ${name} over a ${of} is served within two seconds`, () =>
          withClockSet((set) =>
            Effect.gen(function* () {
              yield* TestClock.setTime(10 * DAY)
              const { reserve, tries } = yield* face(limit, "throttle")
              assert.isTrue(yield* tries(10))
              const before = yield* fork(reserve(1))
              set(-back)
              const after = yield* fork(reserve(1))
              const served = (fiber: Fiber.Fiber<unknown, unknown>) =>
                Effect.sync(() => fiber.pollUnsafe() !== undefined)
              assert.isAtMost(yield* millisUntil(served(before)), 2_000)
              assert.isAtMost(yield* millisUntil(served(after)), 200)
            })
          )
        )
      }

      it.effect(`by ${words}: a ${of} that is only read has its first unit within two seconds`, () =>
        withClockSet((set) =>
          Effect.gen(function* () {
            yield* TestClock.setTime(10 * DAY)
            const budget = yield* open(limit)
            yield* budget.withReservation(10, () => Effect.void)
            set(-back)
            const some = Effect.map(budget.available, (available) => available > 0)
            assert.isAtMost(yield* millisUntil(some), 2_000)
          })
        )
      )

      it.effect(`by ${words}: the retryAfter of a ${of} is at most two seconds, and holds`, () =>
        withClockSet((set) =>
          Effect.gen(function* () {
            yield* TestClock.setTime(10 * DAY)
            const budget = yield* open(limit)
            yield* budget.withReservation(10, () => Effect.void)
            set(-back)
            const { retryAfter } = exceededBy(yield* Effect.exit(budget.reserve(1)))
            assert.isAtMost(Duration.toMillis(retryAfter!), 2_000)
            yield* TestClock.adjust(Duration.toMillis(retryAfter!) - 1)
            assert.strictEqual((yield* budget.tryReserve(1))._tag, "None")
            yield* TestClock.adjust(1)
            assert.strictEqual((yield* budget.tryReserve(1))._tag, "Some")
          })
        )
      )

      it.effect(`by ${words}: a ${of} gives nothing for the step itself`, () =>
        withClockSet((set) =>
          Effect.gen(function* () {
            yield* TestClock.setTime(10 * DAY)
            const budget = yield* open(limit)
            yield* budget.withReservation(10, () => Effect.void)
            set(-back)
            assert.strictEqual(yield* budget.available, 0)
            const reservation = yield* budget.tryReserve(1)
            assert.strictEqual(reservation._tag, "None")
          })
        )
      )
    }

    it.effect(`by ${words}: a budget with a capacity and a rate denies for no more than two seconds`, () =>
      withClockSet((set) =>
        Effect.gen(function* () {
          yield* TestClock.setTime(10 * DAY)
          const budget = yield* open([Limit.capacity(1_000), ...timed])
          yield* budget.withReservation(10, () => Effect.void)
          set(-back)
          const tries = Effect.map(Effect.scoped(budget.tryReserve(1)), ({ _tag }) => _tag === "Some")
          assert.isAtMost(yield* millisUntil(tries), 2_000)
        })
      )
    )

    it.effect(`by ${words}: a reservation that spans it is charged and refunded as always`, () =>
      withClockSet((set) =>
        Effect.gen(function* () {
          yield* TestClock.setTime(10 * DAY)
          for (const limit of timed) {
            const budget = yield* open(limit)
            const less = yield* budget.reserve(6)
            const more = yield* budget.reserve(4)
            set(-back)
            yield* less.commit(2)
            yield* more.commit(5)
            const [{ available, granted, held, spent }] = (yield* budget.snapshot).ledgers
            assert.deepStrictEqual(
              { available, granted, held, spent },
              { available: 3, granted: 10, held: 0, spent: 7 }
            )
            set(0)
          }
        })
      )
    )
  }

  it.effect("repeatedly by 300 milliseconds grants no more than one limit for each second that passes", () =>
    withClockSet((set) =>
      Effect.gen(function* () {
        yield* TestClock.setTime(10 * DAY)
        for (const limit of timed.slice(0, 2)) {
          const budget = yield* open(limit)
          let granted = 0
          for (let i = 0; i < 20; i++) {
            set(i % 2 === 0 ? 0 : -300)
            const { amount } = yield* budget.reserveUpTo(0, 100)
            granted += amount
            yield* TestClock.adjust("100 millis")
          }
          // The refill of two seconds, and the full bucket at the start.
          assert.isAtMost(granted, 10 + 20 + 3)
          set(0)
        }
      })
    )
  )
})

describe("a step back", () => {
  const longest: ReadonlyArray<readonly [words: string, limit: Limit.Limit, millis: number, unit: number]> = [
    ["the time to fill the bucket", Limit.rate({ amount: 1, per: "1 second", burst: 10 }), 10_000, 1_000],
    [
      "the time to fill the bucket",
      Limit.rate({ amount: 1, per: "1 second", burst: 10, refill: "interval" }),
      10_000,
      1_000
    ],
    ["the window", Limit.window({ amount: 10, every: "1 minute" }), 60_000, 60_000]
  ]
  for (const [words, limit, millis, unit] of longest) {
    const opened = Effect.gen(function* () {
      yield* TestClock.setTime(600_000)
      const budget = yield* open(limit)
      yield* budget.withReservation(10, () => Effect.void)
      return budget
    })

    it.effect(`shorter than ${words} is waited for, under a ${Limit.format(limit)}`, () =>
      Effect.gen(function* () {
        const budget = yield* opened
        yield* TestClock.setTime(600_000 - millis + 1)
        const { retryAfter } = exceededBy(yield* Effect.exit(budget.reserve(1)))
        assert.strictEqual(Duration.toMillis(retryAfter!), millis - 1 + unit)
        yield* TestClock.setTime(600_000)
        assert.strictEqual(yield* budget.available, 0)
        yield* TestClock.adjust(unit)
        assert.isAbove(yield* budget.available, 0)
      })
    )

    it.effect(`exactly as long as ${words} moves the books, under a ${Limit.format(limit)}`, () =>
      Effect.gen(function* () {
        const budget = yield* opened
        yield* TestClock.setTime(600_000 - millis)
        const { retryAfter } = exceededBy(yield* Effect.exit(budget.reserve(1)))
        assert.strictEqual(Duration.toMillis(retryAfter!), unit)
        yield* TestClock.adjust(unit)
        assert.isAbove(yield* budget.available, 0)
      })
    )
  }
})

describe("a clock that is set during a wait", () => {
  for (const [words, by] of [
    ["back by a day", -DAY],
    ["back by a second", -1_000],
    ["forward by a day", DAY]
  ] as const) {
    it.effect(`${words} neither shortens nor lengthens a timeout`, () =>
      withClockSet((set) =>
        Effect.gen(function* () {
          yield* TestClock.setTime(10 * DAY)
          for (const limit of [Limit.capacity(10), Limit.concurrency(10)]) {
            const budget = yield* open(limit, { enforcement: "throttle" })
            yield* budget.reserve(10)
            const fiber = yield* fork(Effect.exit(budget.reserve(1, { timeout: "5 seconds" })))
            set(by)
            yield* TestClock.adjust("4999 millis")
            assert.isUndefined(fiber.pollUnsafe())
            yield* TestClock.adjust("1 millis")
            assert.strictEqual(failedBy(yield* Fiber.join(fiber)).reason._tag, "TimedOut")
            set(0)
          }
        })
      )
    )
  }

  it.effect("does not make the first waiter wait longer than its patience", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(10 * 24 * 3_600_000)
      let shift = 0
      const clock = yield* Clock.clockWith(Effect.succeed)
      const program = Effect.gen(function* () {
        const budget = yield* open(Limit.rate({ amount: 1_000, per: "10 seconds" }), { enforcement: "throttle" })
        yield* budget.withReservation(1_000, () => Effect.void)
        const fiber = yield* Effect.forkChild(budget.reserveUpTo(1, 1_000, { patience: "10 seconds" }), {
          startImmediately: true
        })
        shift = -3_600_000
        yield* budget.setLimit(Limit.rate({ amount: 1, per: "1 second", burst: 1_000 }))
        yield* TestClock.adjust("1 minute")
        assert.isDefined(fiber.pollUnsafe())
      })
      yield* Effect.provideService(program, Clock.Clock, {
        ...clock,
        currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe() + shift,
        currentTimeMillis: Effect.sync(() => clock.currentTimeMillisUnsafe() + shift)
      })
    })
  )
})

describe("windows that follow each other", () => {
  const windows: ReadonlyArray<readonly [words: string, limit: Budget.Options["limit"], place: number]> = [
    ["a window", Limit.window({ amount: 5, every: "1 second" }), 0],
    ["a window next to a capacity", [Limit.capacity(100), Limit.window({ amount: 5, every: "1 second" })], 1],
    ["a window set by setLimit", Limit.capacity(5), 0]
  ]
  for (const [words, limit, place] of windows) {
    it.effect(`${words}: each has an epoch of its own, whether it is read, used or neither`, () =>
      Effect.gen(function* () {
        const budget = yield* open(limit)
        if (words.endsWith("setLimit")) yield* budget.setLimit(Limit.window({ amount: 5, every: "1 second" }))
        const epoch = Effect.map(budget.snapshot, ({ ledgers }) => ledgers[place]!.epoch)
        const first = yield* epoch
        for (let n = 1; n <= 5; n++) {
          yield* TestClock.adjust("1 second")
          if (n === 2) continue
          if (n === 3) yield* budget.withReservation(1, () => Effect.void)
          assert.strictEqual(yield* epoch, first + n)
        }
      })
    )
  }
})

describe("a wait that time alone cannot end within its timeout", () => {
  const rate = Limit.rate({ amount: 10, per: "1 hour" })
  const limits = [
    rate,
    Limit.rate({ amount: 10, per: "1 hour", refill: "interval" }),
    Limit.window({ amount: 10, every: "1 hour" })
  ]
  for (const limit of limits) {
    for (const [name, face] of faces) {
      // The amount that a guard holds may come back.
      if (name === "a BudgetGuard") continue
      it.effect(`fails at once, for ${name} over a ${Limit.format(limit)}, with the fields of the denial`, () =>
        Effect.gen(function* () {
          yield* TestClock.setTime(HOUR)
          const { books, reserve, tries } = yield* face(limit, "throttle")
          assert.isTrue(yield* tries(10))
          const { reason } = failedBy(yield* Effect.exit(reserve(1, { timeout: "1 second" })))
          if (reason._tag !== "TimedOut") return assert.fail(reason._tag)
          assert.strictEqual(Limit.format(reason.limit!), Limit.format(limit))
          assert.strictEqual(reason.available, 0)
          const wait = limit._tag === "Rate" && limit.refill !== "interval" ? 360_000 : HOUR
          assert.strictEqual(Duration.toMillis(reason.retryAfter!), wait)
          assert.strictEqual((yield* books).waiters, 0)
          yield* TestClock.adjust(wait)
          yield* reserve(1, { timeout: "1 second" })
        })
      )
    }
  }

  const askers: ReadonlyArray<
    readonly [
      words: string,
      ask: (budget: Budget.Budget, options: Reservation.Options) => Effect.Effect<unknown, unknown, Scope.Scope>
    ]
  > = [
    ["reserve", (budget, options) => budget.reserve(1, options)],
    ["withReservation", (budget, options) => budget.withReservation(1, () => Effect.void, options)],
    ["reserveUpTo", (budget, options) => budget.reserveUpTo(1, 5, options)],
    ["reserveTx", (budget, options) => budget.reserveTx(1, Effect.void, options)]
  ]
  for (const [words, ask] of askers) {
    it.effect(`fails at once, by ${words}, also behind another waiter`, () =>
      Effect.gen(function* () {
        const budget = yield* open(rate, { enforcement: "throttle" })
        yield* budget.withReservation(10, () => Effect.void)
        const others = yield* fork(budget.reserve(1))
        const fiber = yield* fork(Effect.exit(Effect.scoped(ask(budget, { timeout: "1 second" }))))
        yield* Effect.yieldNow
        assert.strictEqual(retryAfterTimeout(yield* Fiber.join(fiber)), 360_000)
        assert.strictEqual(others.pollUnsafe(), undefined)
      })
    )
  }

  it.effect("fails at once for an extension, and leaves the reservation as it is", () =>
    Effect.gen(function* () {
      const budget = yield* open(rate, { enforcement: "throttle", timeout: "1 second" })
      const reservation = yield* budget.reserve(4)
      yield* budget.withReservation(6, () => Effect.void)
      assert.strictEqual(retryAfterTimeout(yield* Effect.exit(reservation.extend(1))), 360_000)
      assert.strictEqual(reservation.amount, 4)
    })
  )

  it.effect("continues while another hold may come back in time", () =>
    Effect.gen(function* () {
      const budget = yield* open(rate, { enforcement: "throttle" })
      const reservation = yield* budget.reserve(10)
      const fiber = yield* fork(budget.reserve(1, { timeout: "1 second" }))
      assert.strictEqual(fiber.pollUnsafe(), undefined)
      yield* reservation.commit(9)
      yield* Fiber.join(fiber)
    })
  )

  it.effect("ends at once when setLimit makes the rate too slow for its timeout, also behind another waiter", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.rate({ amount: 10, per: "10 seconds" }), { enforcement: "throttle" })
      yield* budget.withReservation(10, () => Effect.void)
      const without = yield* fork(budget.reserve(1))
      const within = yield* fork(Effect.exit(budget.reserve(1, { timeout: "5 seconds" })))
      assert.strictEqual(within.pollUnsafe(), undefined)
      yield* budget.setLimit(rate)
      yield* Effect.yieldNow
      assert.strictEqual(retryAfterTimeout(yield* Fiber.join(within)), 360_000)
      assert.strictEqual(without.pollUnsafe(), undefined)
    })
  )

  it.effect("fails at once for a policy, by whichever member takes longest", () =>
    Effect.gen(function* () {
      class Fast extends Budget.Service<Fast>()("test/Fast") {}
      class Slow extends Budget.Service<Slow>()("test/Slow") {}
      class Both extends Policy.Service<Both>()("test/Both", { fast: Fast, slow: Slow }) {}
      const services = yield* Layer.build(
        Layer.provideMerge(Both.layer, [
          Fast.layer({ limit: Limit.rate({ amount: 10, per: "10 seconds" }), enforcement: "throttle" }),
          Slow.layer({ limit: rate, enforcement: "throttle" })
        ])
      )
      const both = Context.get(services, Both)
      yield* both.withReservation({ fast: 10, slow: 10 }, () => Effect.void)
      const exit = yield* Effect.exit(both.reserve({ fast: 1, slow: 1 }, { timeout: "5 seconds" }))
      assert.strictEqual(retryAfterTimeout(exit), 360_000)
      assert.strictEqual((yield* Context.get(services, Fast).snapshot).waiters, 0)
    })
  )
})
