import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Budget, BudgetStore, Limit, Policy } from "../src/index.ts"
import { sweep } from "./utils/sweep.ts"

class A extends Budget.Service<A>()("test/A") {}
class B extends Budget.Service<B>()("test/B") {}
class Both extends Policy.Service<Both>()("test/Both", { a: A, b: B }) {}

const open = (options: Budget.Options) =>
  Budget.make({ ...options, name: "test/Budget" }).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))

describe("reserveUpTo", () => {
  it.effect("grants what is wanted, what there is, or nothing below the least", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: [Limit.capacity(100), Limit.rate({ amount: 60, per: "1 minute" })] })
      assert.strictEqual((yield* budget.reserveUpTo(10, 40)).amount, 40)
      assert.strictEqual((yield* budget.reserveUpTo(10, 40)).amount, 20)
      const denied = yield* Effect.flip(budget.reserveUpTo(1, 40))
      assert.strictEqual(denied._tag === "BudgetExceeded" && denied.requested, 1)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* budget.reserveUpTo(0, 40)).amount, 5)
      assert.strictEqual((yield* budget.reserveUpTo(0, 40)).amount, 0)
    })
  )

  it.effect("waits for the least, and then takes what there is", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.concurrency(10), enforcement: "throttle" })
      const holder = yield* budget.reserve(8)
      const waiter = yield* Effect.forkChild(budget.reserveUpTo(3, 20), { startImmediately: true })
      assert.strictEqual(waiter.pollUnsafe(), undefined)
      yield* holder.release
      assert.strictEqual((yield* Fiber.join(waiter)).amount, 10)
    })
  )

  it.effect("grants the same part of the way to all budgets of a policy, in one step", () =>
    Effect.gen(function* () {
      const services = yield* Layer.build(
        Layer.provideMerge(Both.layer, [A.layer({ limit: Limit.capacity(10) }), B.layer({ limit: Limit.unlimited })])
      )
      const policy = yield* Effect.provide(Both, services)
      const reservation = yield* policy.reserveUpTo({ a: 1, b: 1 }, { a: 30, b: 30 })
      assert.deepStrictEqual(reservation.amount, { a: 10, b: 10 })
      assert.deepStrictEqual((yield* reservation.commit({ a: 4, b: 4 })).refunded, { a: 6, b: 6 })
      assert.strictEqual((yield* Effect.flip(policy.reserveUpTo({ a: 7, b: 0 }, { a: 9, b: 0 }))).budget, "test/A")
    })
  )

  it.effect("dies when less is wanted than the least", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(10) })
      const exit = yield* Effect.exit(budget.reserveUpTo(5, 4))
      assert.include(String(exit), "test/Budget")
      assert.strictEqual(yield* budget.available, 10)
    })
  )

  it.effect("interrupted at any point, nothing stays held", () =>
    Effect.gen(function* () {
      const { interrupted, problems } = yield* sweep(
        Effect.map(Effect.scoped(open({ limit: Limit.capacity(10) })), (budget) => ({
          program: Effect.scoped(Effect.andThen(budget.reserveUpTo(3, 30), Effect.yieldNow)),
          problem: Effect.map(budget.snapshot, ({ ledgers: [{ held }] }) => (held === 0 ? undefined : `${held} held`))
        }))
      )
      assert.deepStrictEqual(problems, [])
      assert.isAbove(interrupted, 100)
    })
  )
})

describe("thresholds", () => {
  it.effect("are each told once per epoch", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(100) })
      const told: Array<number> = []
      yield* Effect.forkChild(
        Stream.runForEach(budget.thresholds([0.95, 0.8]), ({ fraction }) => Effect.sync(() => told.push(fraction))),
        { startImmediately: true }
      )
      const spend = (amount: number) =>
        Effect.andThen(
          budget.withReservation(amount, () => Effect.void),
          Effect.repeat(Effect.yieldNow, { times: 10 })
        )
      yield* spend(79)
      assert.deepStrictEqual(told, [])
      yield* spend(1)
      assert.deepStrictEqual(told, [0.8])
      yield* spend(5)
      assert.deepStrictEqual(told, [0.8])
      yield* spend(15)
      assert.deepStrictEqual(told, [0.8, 0.95])
      yield* budget.reset
      yield* spend(96)
      assert.deepStrictEqual(told, [0.8, 0.95, 0.8, 0.95])
    })
  )

  it.effect("die when they are no fractions", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(100) })
      for (const fraction of [0, 1.1, NaN]) {
        const exit = yield* Effect.exit(Stream.runDrain(budget.thresholds([fraction])))
        assert.include(String(exit), `not ${fraction}`)
      }
    })
  )
})
