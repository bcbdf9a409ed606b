/** Sequences of events that are rare, and that once went wrong or easily could. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit, Fiber, Latch, Layer, Scheduler, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Budget, BudgetGuard, BudgetPool, BudgetStore, Limit, Policy, Usd } from "../src/index.ts"

class A extends Budget.Service<A>()("test/A") {}
class B extends Budget.Service<B>()("test/B") {}
class Both extends Policy.Service<Both>()("test/Both", { a: A, b: B }) {}
class Pool extends BudgetPool.Service<Pool>()("test/Pool") {}

const open = (options: Budget.Options) =>
  Budget.make({ ...options, name: "test/Budget" }).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))

const policyOver = (a: Budget.Options, b: Budget.Options) =>
  Effect.map(Layer.build(Layer.provideMerge(Both.layer, [A.layer(a), B.layer(b)])), (services) =>
    Effect.provide(Effect.all({ policy: Both, a: A, b: B }), services)
  ).pipe(Effect.flatten)

const fork = <X, E, R>(effect: Effect.Effect<X, E, R>) => Effect.forkChild(effect, { startImmediately: true })

/** A clock that says what it is told. */
const clockAt = (millis: () => number) =>
  Effect.provideServiceEffect(
    Clock.Clock,
    Effect.map(Clock.clockWith(Effect.succeed), (clock) => ({
      ...clock,
      currentTimeMillisUnsafe: millis,
      currentTimeMillis: Effect.sync(millis)
    }))
  )

describe("a settlement", () => {
  it.effect("is whole, whatever the clock says", () =>
    Effect.gen(function* () {
      const rate = Limit.rate({ amount: 9_000_000_000_000_000, per: "1 minute" })
      const { a, b, policy } = yield* policyOver({ limit: Limit.capacity(100) }, { limit: rate })
      for (const time of [Infinity, -Infinity, NaN, 1.5, 100_001.5]) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const reservation = yield* policy.reserve({ a: 10, b: 8_000_000_000_000_000 })
            yield* reservation.commit({ a: 1, b: 8_500_000_000_000_000 })
          })
        ).pipe(
          clockAt(() => time),
          Effect.exit
        )
      }
      for (const budget of [a, b]) {
        const [{ available, granted, held, spent }] = (yield* budget.snapshot).ledgers
        assert.strictEqual(available + held + spent, granted)
        assert.strictEqual(held, 0)
        assert.isTrue(Number.isSafeInteger(available))
      }
    })
  )

  it.effect("can be passed on by itself", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(100) })
      yield* budget.withReservation(50, (reservation) => Effect.flatMap(Effect.succeed(40), reservation.commit))
      yield* budget.withReservation(50, ({ commit, extend, progress }) =>
        Effect.andThen(extend(1), Effect.andThen(progress(2), commit(3)))
      )
      assert.strictEqual((yield* budget.snapshot).charged, 43)
    })
  )

  it.effect("charges the progress beyond the hold, also in success", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(100) })
      yield* budget.withReservation(10, (reservation) => reservation.progress(30))
      assert.strictEqual((yield* budget.snapshot).charged, 30)
      yield* budget.withReservation(10, (reservation) => reservation.progress(3))
      assert.strictEqual((yield* budget.snapshot).charged, 40)
    })
  )
})

describe("an extension", () => {
  it.effect("does not wait behind those who wait for what it extends", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.concurrency(10), enforcement: "throttle" })
      const gate = yield* Latch.make(false)
      const holder = yield* fork(
        budget.withReservation(6, (reservation) => Effect.andThen(gate.await, reservation.extend(2)))
      )
      const waiter = yield* fork(budget.withReservation(5, () => Effect.void))
      yield* gate.open
      yield* Fiber.join(holder)
      yield* Fiber.join(waiter)
      assert.strictEqual(yield* budget.available, 10)
    })
  )

  it.effect("that has to wait goes before those who hold nothing", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.concurrency(10), enforcement: "throttle" })
      const order: Array<string> = []
      const scope = yield* Scope.make()
      yield* Scope.provide(budget.reserve(4), scope)
      const holder = yield* budget.reserve(5)
      const newcomer = yield* fork(budget.withReservation(2, () => Effect.sync(() => order.push("newcomer"))))
      const extension = yield* fork(
        Effect.andThen(
          holder.extend(5),
          Effect.sync(() => order.push("extension"))
        )
      )
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(extension)
      assert.deepStrictEqual(order, ["extension"])
      yield* holder.release
      yield* Fiber.join(newcomer)
    })
  )

  it.effect("counts what it holds of this epoch only", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(10), enforcement: "throttle" })
      const old = yield* budget.reserve(8)
      yield* budget.reset
      const other = yield* budget.reserve(6)
      const extension = yield* fork(old.extend(5))
      assert.strictEqual(extension.pollUnsafe(), undefined)
      yield* other.release
      yield* Fiber.join(extension)
      assert.strictEqual(old.amount, 13)
      assert.strictEqual(yield* budget.available, 5)
    })
  )
})

describe("a change of a limit", () => {
  it.effect("does not end a wait that can still be met", () =>
    Effect.gen(function* () {
      const { a, b, policy } = yield* policyOver(
        { limit: Limit.concurrency(1), enforcement: "throttle" },
        { limit: Limit.concurrency(1) }
      )
      const first = yield* a.reserve(1)
      const waiter = yield* fork(policy.withReservation({ a: 1, b: 1 }, () => Effect.succeed("ran")))
      const taken = yield* b.reserve(1)
      yield* a.setLimit(Limit.concurrency(1))
      yield* a.topUp(0)
      assert.strictEqual(waiter.pollUnsafe(), undefined)
      yield* taken.release
      yield* first.release
      assert.strictEqual(yield* Fiber.join(waiter), "ran")
    })
  )

  it.effect("that rejects for now does not keep a wait from its turn", () =>
    Effect.gen(function* () {
      const { a, b, policy } = yield* policyOver(
        { limit: Limit.window({ amount: 10, every: "1 minute" }), enforcement: "throttle" },
        { limit: Limit.capacity(10) }
      )
      yield* a.withReservation(10, () => Effect.void)
      const waiter = yield* fork(policy.withReservation({ a: 1, b: 1 }, () => Effect.succeed("ran")))
      const taken = yield* b.reserve(10)
      // Somebody comes and goes while the second budget is empty: the timer of the first is set anew.
      yield* Fiber.interrupt(yield* fork(a.withReservation(1, () => Effect.void)))
      yield* a.topUp(0)
      yield* taken.release
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* Fiber.join(waiter), "ran")
    })
  )

  it.effect("to a rate, while a transaction takes a hold, does not fill the bucket", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(1_000_000_000_000)
      for (let operations = 3; operations <= 40; operations++) {
        for (let yields = 0; yields <= 20; yields++) {
          const budget = yield* open({ limit: Limit.capacity(100) })
          const fiber = yield* Effect.forkChild(
            Effect.scoped(Effect.andThen(budget.reserveTx(1, Effect.void), Effect.void)).pipe(
              Effect.provideService(Scheduler.MaxOpsBeforeYield, operations)
            )
          )
          for (let i = 0; i < yields; i++) yield* Effect.yieldNow
          yield* budget.setLimit(Limit.rate({ amount: 100, per: "1 hour" }))
          const all = yield* Effect.orDie(
            Effect.flatMap(budget.available, (all) =>
              Effect.as(
                budget.withReservation(all, () => Effect.void),
                all
              )
            )
          )
          assert.isAtMost(all, 100)
          yield* Effect.exit(Fiber.join(fiber))
          assert.isAtMost(yield* budget.available, 0)
        }
      }
    })
  )

  it.effect("refills a guard out of any debt", () =>
    Effect.gen(function* () {
      const guard = yield* BudgetGuard.make({ name: "test/Guard", limit: Limit.capacity(10) }).pipe(
        Effect.provide(BudgetStore.BudgetStore.layerMemory)
      )
      yield* guard.withReservation(5, (reservation) => reservation.commit(Number.MAX_SAFE_INTEGER))
      yield* guard.tryReserve(0)
      yield* guard.refill
      assert.strictEqual(yield* guard.available, 10)
    })
  )
})

describe("a pool", () => {
  it.effect("records in one step, which a reset cannot split", () =>
    Effect.gen(function* () {
      for (let operations = 3; operations <= 40; operations++) {
        for (let yields = 0; yields <= 10; yields++) {
          const services = yield* Layer.build(Layer.fresh(Pool.layer({ caps: { total: 10 } })))
          const pool = yield* Effect.provide(Pool, services)
          const fiber = yield* Effect.forkChild(
            pool
              .record({ input: 1, output: 2, cost: Usd.nanos(3) })
              .pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, operations))
          )
          for (let i = 0; i < yields; i++) yield* Effect.yieldNow
          const before = (yield* pool.totals).total
          yield* pool.reset
          yield* Fiber.join(fiber)
          assert.strictEqual(before + (yield* pool.totals).total, 3)
        }
      }
    })
  )
})

describe("a wait", () => {
  it.effect("that times out names the budget that had no room", () =>
    Effect.gen(function* () {
      const throttle: Budget.Options = { limit: Limit.concurrency(1), enforcement: "throttle" }
      const { b, policy } = yield* policyOver(throttle, throttle)
      yield* b.reserve(1)
      const waiter = yield* fork(
        Effect.flip(policy.withReservation({ a: 1, b: 1 }, () => Effect.void, { timeout: "1 minute" }))
      )
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Fiber.join(waiter)).budget, "test/B")
    })
  )

  it.effect("goes on when the clock's sleep takes no time", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.rate({ amount: 1, per: "1 second" }), enforcement: "throttle" })
      let now = 0
      const instant = Effect.provideServiceEffect(
        Clock.Clock,
        Effect.map(Clock.clockWith(Effect.succeed), (clock) => ({
          ...clock,
          currentTimeMillisUnsafe: () => now,
          sleep: (duration: Duration.Duration) => Effect.sync(() => void (now += Duration.toMillis(duration)))
        }))
      )
      yield* Effect.forEach(Array.from({ length: 5 }), () => budget.withReservation(1, () => Effect.void), {
        concurrency: "unbounded"
      }).pipe(instant)
      assert.strictEqual((yield* budget.snapshot).waiters, 0)
      assert.strictEqual(now, 4_000)
    })
  )
})

describe("a scope that is closed already", () => {
  it.effect("gets the hold of reserveTx back, also when the undo dies", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(100) })
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.fail("over"))
      yield* Effect.exit(
        Scope.provide(budget.reserveTx(5, Effect.void, { undo: () => Effect.die(new Error("undo")) }), scope)
      )
      assert.strictEqual(yield* budget.available, 100)
    })
  )
})
