/**
 * What earlier budget libraries do differently, and what this one does. One test for each behaviour, so that each is a choice
 * that is kept.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { TestClock } from "effect/testing"
import { Budget, BudgetGuard, BudgetPool, BudgetStore, Limit, Policy, TokenBudget, Usd } from "../src/index.ts"
import { defectOf, exceededBy } from "./utils/exits.ts"

const inMemory = Effect.provide(BudgetStore.BudgetStore.layerMemory)

const openBudget = (limit: Limit.Limit, options?: Omit<Budget.Options, "limit" | "name">) =>
  inMemory(Budget.make({ ...options, name: "budget", limit }))
const openTokens = (name: string, limit: Limit.Limit) => inMemory(TokenBudget.make({ name, limit }))
const openGuard = (limit: Limit.Limit) => inMemory(BudgetGuard.make({ name: "guard", limit }))
const openPool = (caps: BudgetPool.Caps) => inMemory(BudgetPool.make({ name: "pool", caps }))

const waiters = (budget: Budget.Budget) => Effect.map(budget.snapshot, (snapshot) => snapshot.waiters)

describe("rig-compose budget", () => {
  it.effect("failure and interruption refund, the progress is charged", () =>
    Effect.gen(function* () {
      const tokens = yield* openTokens("tokens", Limit.capacity(100))
      yield* Effect.exit(tokens.withReservation(50, () => Effect.fail("no")))
      yield* Effect.exit(tokens.withReservation(50, () => Effect.interrupt))
      assert.strictEqual(yield* tokens.available, 100)
      yield* Effect.exit(
        tokens.withReservation(50, (reservation) => Effect.andThen(reservation.progress(7), Effect.fail("no")))
      )
      assert.strictEqual(yield* tokens.available, 93)
    })
  )

  it.effect("success without a commit charges the hold, so a forgotten recordUsage does not make a budget free", () =>
    Effect.gen(function* () {
      const tokens = yield* openTokens("tokens", Limit.capacity(100))
      yield* tokens.withReservation(30, () => Effect.void)
      yield* Effect.scoped(tokens.reserve(30))
      assert.strictEqual(yield* tokens.tokensConsumed, 60)
      yield* tokens.withReservation(30, () => Effect.void, { onSuccess: "release" })
      assert.strictEqual(yield* tokens.tokensConsumed, 60)
      assert.strictEqual(yield* tokens.available, 40)
    })
  )

  it.effect("debt is carried in full, so the order of settlements does not matter", () =>
    Effect.gen(function* () {
      for (const actuals of [
        [80, 20],
        [20, 80]
      ]) {
        const tokens = yield* openTokens("tokens", Limit.capacity(100))
        const holds = [yield* tokens.reserve(50), yield* tokens.reserve(50)]
        for (const [i, actual] of actuals.entries()) {
          yield* tokens.recordUsage(holds[i]!, { prompt: actual, completion: 0 })
        }
        assert.strictEqual(yield* tokens.available, 0)
        assert.strictEqual(yield* tokens.tokensConsumed, 100)
      }
    })
  )

  it.effect("never gives back more than was taken through the pair: giving back more is a defect", () =>
    Effect.gen(function* () {
      const guard = yield* openGuard(Limit.capacity(100))
      yield* guard.withReservation(40, () => Effect.void)
      yield* guard.tryReserve(10)
      assert.instanceOf(defectOf(yield* Effect.exit(guard.release(11))), RangeError)
      assert.strictEqual(yield* guard.available, 50)
      yield* guard.release(10)
      assert.strictEqual(yield* guard.available, 60)
    })
  )

  it.effect("a refill keeps holds on the books: their refund does not come on top", () =>
    Effect.gen(function* () {
      const guard = yield* openGuard(Limit.capacity(100))
      yield* guard.tryReserve(30)
      yield* guard.refill
      assert.strictEqual(yield* guard.available, 70)
      assert.strictEqual((yield* guard.snapshot).ledgers[0].held, 30)
      yield* guard.release(30)
      assert.strictEqual(yield* guard.available, 100)
    })
  )

  it.effect("a reservation settles its own budget only, whoever is asked to record it", () =>
    Effect.gen(function* () {
      const mine = yield* openTokens("mine", Limit.capacity(100))
      const other = yield* openTokens("other", Limit.capacity(100))
      const before = yield* other.snapshot
      const reservation = yield* mine.reserve(50)
      yield* other.recordUsage(reservation, { prompt: 20, completion: 10 })
      assert.strictEqual(yield* mine.available, 70)
      assert.deepStrictEqual(yield* other.snapshot, before)
    })
  )
})

describe("token-budget-pool", () => {
  it.effect("cost is integer nano-dollars: ten times $0.10 is exactly $1", () =>
    Effect.gen(function* () {
      const pool = yield* openPool({ cost: Usd.dollars(1) })
      const dime = { input: 0, output: 0, cost: Usd.dollars(0.1) }
      yield* Effect.replicateEffect(pool.record(dime), 10, { discard: true })
      assert.strictEqual((yield* pool.totals).cost, 1_000_000_000)
      assert.strictEqual(Usd.format((yield* pool.totals).cost), "$1.00")
      exceededBy(yield* Effect.exit(pool.record({ input: 0, output: 0, cost: Usd.nanos(1) })))
    })
  )

  it.effect("a scoped reserve and record share the caps, so money can be set aside before it is spent", () =>
    Effect.gen(function* () {
      const pool = yield* openPool({ input: 100, output: 100, total: 150, cost: Usd.dollars(1) })
      const reservation = yield* pool.reserve({ input: 80, output: 20, cost: Usd.dollars("0.60") })
      const denied = yield* Effect.exit(pool.record({ input: 10, output: 10, cost: Usd.dollars("0.50") }))
      assert.strictEqual(exceededBy(denied).budget, "pool/cost")
      yield* reservation.commit({ input: 80, output: 20, cost: Usd.dollars("0.30") })
      yield* pool.record({ input: 10, output: 10, cost: Usd.dollars("0.50") })
      assert.deepStrictEqual(yield* pool.totals, {
        input: 90,
        output: 30,
        total: 120,
        cost: Usd.dollars("0.80"),
        calls: 2
      })
    })
  )

  it.effect("the actual is always recorded, and the answer says which caps it overran", () =>
    Effect.gen(function* () {
      const pool = yield* openPool({ input: 100, output: 100, total: 120, cost: Usd.dollars(1) })
      const reservation = yield* pool.reserve({ input: 50, output: 50, cost: Usd.nanos(0) })
      const settlement = yield* reservation.commit({ input: 60, output: 90, cost: Usd.dollars(3) })
      assert.deepStrictEqual(settlement.overran, ["pool/total", "pool/cost"])
      assert.deepStrictEqual(yield* pool.totals, {
        input: 60,
        output: 90,
        total: 150,
        cost: Usd.dollars(3),
        calls: 1
      })
    })
  )
})

describe("Golem quotas", () => {
  it.effect("ties in priority go by ticket", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(Limit.concurrency(1), { enforcement: "throttle" })
      const held = yield* budget.reserve(1)
      const order: Array<number> = []
      const fibers = yield* Effect.forEach([0, 1, 2, 3, 4, 5, 6, 7], (i) =>
        Effect.forkChild(
          budget.withReservation(1, () => Effect.sync(() => order.push(i)), { priority: i % 2 }),
          { startImmediately: true }
        )
      )
      yield* held.release
      yield* Effect.forEach(fibers, Fiber.join)
      assert.deepStrictEqual(order, [1, 3, 5, 7, 0, 2, 4, 6])
    })
  )

  it.effect("overtaking is bounded: a large waiter does not starve behind a stream of small ones", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(Limit.concurrency(10), { enforcement: "throttle", order: "firstFit" })
      let small = 0
      let largeAfter: number | undefined
      // Two streams of small ones, so that without a bound there would never be room for the large one.
      const stream = budget
        .withReservation(1, () => Effect.andThen(Effect.yieldNow, Effect.yieldNow))
        .pipe(Effect.andThen(Effect.sync(() => small++)), Effect.repeat({ times: 200 }))
      const streams = yield* Effect.replicateEffect(Effect.forkChild(stream, { startImmediately: true }), 2)
      yield* budget.withReservation(10, () => Effect.sync(() => (largeAfter = small)))
      assert.isAtLeast(largeAfter!, 1)
      assert.isAtMost(largeAfter!, 66)
      yield* Effect.forEach(streams, Fiber.join)
    })
  )

  it.effect("an interrupted waiter leaks nothing", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(Limit.capacity(10), { enforcement: "throttle" })
      const held = yield* budget.reserve(10)
      const fibers = yield* Effect.replicateEffect(
        Effect.forkChild(Effect.scoped(budget.reserve(3)), { startImmediately: true }),
        20
      )
      assert.strictEqual(yield* waiters(budget), 20)
      yield* Effect.forEach(fibers, Fiber.interrupt)
      assert.strictEqual(yield* waiters(budget), 0)
      yield* held.release
      assert.strictEqual(yield* budget.available, 10)
      yield* budget.reserve(10)
    })
  )

  it.effect("a refund is not lost when the budget was topped up or its limit changed meanwhile", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(Limit.capacity(100))
      const reservation = yield* budget.reserve(60)
      yield* budget.topUp(5)
      yield* budget.setLimit(Limit.capacity(50))
      yield* budget.setLimit(Limit.capacity(100))
      yield* reservation.commit(10)
      assert.strictEqual(yield* budget.available, 95)
    })
  )

  it.effect("overage is debt", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(Limit.capacity(100))
      yield* budget.withReservation(50, (reservation) => reservation.commit(130))
      assert.strictEqual(yield* budget.available, -30)
      assert.isTrue(Option.isNone(yield* budget.tryReserve(1)))
      yield* budget.topUp(40)
      assert.strictEqual(yield* budget.available, 10)
    })
  )

  it.effect("concurrency slots come back, whole, always", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(Limit.concurrency(5))
      for (const end of [
        budget.withReservation(5, (reservation) => reservation.commit(5)),
        budget.withReservation(5, (reservation) => reservation.commit(50)),
        budget.withReservation(5, (reservation) => reservation.commit(0)),
        budget.withReservation(5, (reservation) => reservation.release),
        budget.withReservation(5, () => Effect.void),
        budget.withReservation(5, () => Effect.fail("no")),
        budget.withReservation(5, (reservation) => Effect.andThen(reservation.progress(3), Effect.interrupt))
      ]) {
        yield* Effect.exit<unknown, unknown, never>(end)
        assert.strictEqual(yield* budget.available, 5)
      }
      // Not even a renewal of the limit takes a slot, in use or free.
      const reservation = yield* budget.reserve(3)
      yield* budget.setLimit(Limit.concurrency(5))
      yield* budget.reset
      assert.strictEqual(yield* budget.available, 2)
      yield* reservation.release
      assert.strictEqual(yield* budget.available, 5)
    })
  )

  it.effect("consumption survives every change of the limit", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(Limit.capacity(100))
      yield* budget.withReservation(100, () => Effect.void)
      yield* budget.setLimit(Limit.capacity(100))
      assert.strictEqual(yield* budget.available, 0)
      yield* budget.setLimit(Limit.capacity(150))
      assert.strictEqual(yield* budget.available, 50)
      yield* budget.setLimit(Limit.unlimited)
      yield* budget.setLimit(Limit.capacity(100))
      assert.strictEqual(yield* budget.available, 0)
    })
  )

  it.effect("an amount above the maximum fails at once, also when the policy is to wait", () =>
    Effect.gen(function* () {
      for (const limit of [
        Limit.capacity(10),
        Limit.concurrency(10),
        Limit.rate({ amount: 10, per: "1 second" }),
        Limit.window({ amount: 10, every: "1 second" })
      ]) {
        const budget = yield* openBudget(limit, { enforcement: "throttle" })
        assert.isUndefined(exceededBy(yield* Effect.exit(budget.reserve(11))).retryAfter)
      }
    })
  )

  it.effect("a rate of 0 is refused, with the name of the budget", () =>
    Effect.gen(function* () {
      const defect = defectOf(yield* Effect.exit(openBudget(Limit.rate({ amount: 0, per: "1 second" }))))
      assert.strictEqual(defect.message, `Budget "budget": a rate of 0 would never refill`)
      const budget = yield* openBudget(Limit.rate({ amount: 1, per: "1 second" }))
      defectOf(yield* Effect.exit(budget.setLimit(Limit.rate({ amount: 0, per: "1 second" }))))
      assert.strictEqual(yield* budget.available, 1)
    })
  )

  it.effect("unlimited must be said", () =>
    Effect.gen(function* () {
      const none = inMemory(Budget.make({ name: "budget", limit: [] }))
      assert.include(defectOf(yield* Effect.exit(none)).message, "Limit.unlimited")
      const budget = yield* openBudget(Limit.unlimited)
      yield* budget.reserve(1_000_000)
    })
  )

  it.effect("a rate refills continuously, not by whole periods", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(Limit.rate({ amount: 10, per: "1 second" }))
      yield* budget.withReservation(10, () => Effect.void)
      yield* TestClock.adjust("500 millis")
      assert.strictEqual(yield* budget.available, 5)
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(yield* budget.available, 6)
    })
  )
})

describe("effect/persistence RateLimiter", () => {
  const rate = Limit.rate({ amount: 10, per: "1 second" })

  it.effect("a refund goes back to the bucket, as far as it has room", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(rate)
      const early = yield* budget.reserve(10)
      yield* early.commit(4)
      assert.strictEqual(yield* budget.available, 6)
      const late = yield* budget.reserve(6)
      yield* TestClock.adjust("800 millis")
      yield* late.commit(0)
      assert.strictEqual(yield* budget.available, 10)
    })
  )

  it.effect("what is reserved is settled by what it really cost", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(rate)
      const more = yield* budget.withReservation(2, (reservation) => reservation.commit(7))
      assert.strictEqual(more.overage, 5)
      assert.strictEqual(yield* budget.available, 3)
    })
  )

  it.effect("those who wait stand in a queue", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(rate, { enforcement: "throttle" })
      yield* budget.withReservation(10, () => Effect.void)
      const fibers = yield* Effect.forEach([6, 1, 2], (amount) =>
        Effect.forkChild(
          budget.withReservation(amount, () => Clock.currentTimeMillis),
          { startImmediately: true }
        )
      )
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Effect.forEach(fibers, Fiber.join), [600, 700, 900])
    })
  )

  it.effect("several are taken at once or not at all", () => {
    class Requests extends Budget.Service<Requests>()("test/Requests") {}
    class Tokens extends TokenBudget.Service<Tokens>()("test/Tokens") {}
    return Effect.gen(function* () {
      const policy = yield* Policy.make("call", { requests: Requests, tokens: Tokens })
      const error = exceededBy(yield* Effect.exit(policy.reserve({ requests: 1, tokens: 101 })))
      assert.strictEqual(error.budget, "test/Tokens")
      assert.strictEqual(yield* (yield* Requests).available, 10)
      yield* policy.reserve({ requests: 1, tokens: 100 })
      assert.strictEqual(yield* (yield* Requests).available, 9)
      assert.strictEqual(yield* (yield* Tokens).available, 0)
    }).pipe(
      Effect.provide(Layer.mergeAll(Requests.layer({ limit: rate }), Tokens.layer({ limit: Limit.capacity(100) })))
    )
  })

  it.effect("a denial says when to come back", () =>
    Effect.gen(function* () {
      const budget = yield* openBudget(rate)
      yield* budget.withReservation(8, () => Effect.void)
      const { retryAfter } = exceededBy(yield* Effect.exit(budget.reserve(5)))
      assert.deepStrictEqual(retryAfter, Duration.millis(300))
      yield* TestClock.adjust(retryAfter!)
      yield* budget.reserve(5)
    })
  )
})
