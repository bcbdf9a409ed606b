/** Rules about the order in which waiters are served, and about when a wait ends. Each was broken once. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Budget, BudgetStore, Limit, Policy } from "../src/index.ts"
import { openPool, usage } from "./support/faces.ts"
import { defectOf, exceededBy } from "./utils/exits.ts"
import { open as openQuotas, resource } from "./utils/quotas.ts"

class A extends Budget.Service<A>()("test/A") {}
class B extends Budget.Service<B>()("test/B") {}
class Both extends Policy.Service<Both>()("test/Both", { b: B, a: A }) {}
class Outer extends Policy.Service<Outer>()("test/Outer", { both: Both }) {}

const open = (limit: Budget.Options["limit"], options: Partial<Budget.Options> = {}) =>
  Budget.make({ enforcement: "throttle", ...options, limit, name: "test/Budget" }).pipe(
    Effect.provide(BudgetStore.BudgetStore.layerMemory)
  )

const openBoth = (a: Budget.Options, b: Budget.Options) =>
  Effect.map(
    Layer.build(Layer.provideMerge(Outer.layer, Layer.provideMerge(Both.layer, [A.layer(a), B.layer(b)]))),
    (services) => ({
      a: Context.get(services, A),
      b: Context.get(services, B),
      both: Context.get(services, Both),
      outer: Context.get(services, Outer)
    })
  )

const fork = <X, E, R>(effect: Effect.Effect<X, E, R>) => Effect.forkChild(effect, { startImmediately: true })
const waits = (fiber: Fiber.Fiber<unknown, unknown>) => fiber.pollUnsafe() === undefined
const settled = Effect.repeat(Effect.yieldNow, { times: 20 })
const throttled = (limit: Limit.Limit): Budget.Options => ({ limit, enforcement: "throttle" })

type Ask = readonly [
  words: string,
  ask: (budget: Budget.Budget, amount: number) => Effect.Effect<unknown, unknown, Scope.Scope>
]

/** Runs an effect in its own scope. Returns its value and an effect that closes the scope. */
const inScope = <X, E>(effect: Effect.Effect<X, E, Scope.Scope>) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const value = yield* Scope.provide(effect, scope)
    return { value, close: Scope.close(scope, Exit.void) }
  })

describe("an extension that waits", () => {
  const ends = ["commit", "release", "the end of its scope"] as const
  for (const end of ends) {
    it.effect(`ends at once, with a defect that says why, when ${end} settles its reservation`, () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(10))
        const one = yield* budget.reserve(4)
        const { close, value: two } = yield* inScope(budget.reserve(4))
        const first = yield* fork(one.extend(5))
        const second = yield* fork(two.extend(5))
        yield* end === "commit" ? two.commit(4) : end === "release" ? two.release : close
        yield* settled
        assert.isFalse(waits(second))
        assert.include(defectOf(yield* Fiber.await(second)).message, "settled")
        const { waiters } = yield* budget.snapshot
        assert.strictEqual(waiters, waits(first) ? 1 : 0)
      })
    )
  }

  it.effect("ends at once when its reservation is settled, whichever member of a policy it waits for", () =>
    Effect.gen(function* () {
      for (const member of ["a", "b"] as const) {
        const { a, b, both, outer } = yield* openBoth(throttled(Limit.capacity(10)), throttled(Limit.capacity(10)))
        yield* (member === "a" ? a : b).reserve(8)
        const one = yield* both.reserve({ a: 1, b: 1 })
        const two = yield* outer.reserve({ both: { a: 1, b: 1 } })
        const first = yield* fork(one.extend({ a: 2, b: 2 }))
        const second = yield* fork(two.extend({ both: { a: 2, b: 2 } }))
        assert.isTrue(waits(first) && waits(second))
        yield* two.commit({ both: { a: 1, b: 1 } })
        yield* settled
        assert.isFalse(waits(second))
        assert.isTrue(waits(first))
        yield* one.commit({ a: 0, b: 0 })
        yield* settled
        assert.isFalse(waits(first))
        assert.strictEqual((yield* a.snapshot).waiters + (yield* b.snapshot).waiters, 0)
      }
    })
  )

  it.effect("ends at once when its reservation is settled, over a pool and with a token of a quota", () =>
    Effect.gen(function* () {
      const pool = yield* openPool({ total: 10 }, { enforcement: "throttle" })
      yield* pool.reserve(usage(1, 7))
      const call = yield* pool.reserve(usage(1, 1))
      const more = yield* fork(call.extend(usage(1, 1)))
      assert.isTrue(waits(more))
      yield* call.commit(usage(1, 1))
      yield* settled
      assert.isFalse(waits(more))

      const quota = yield* openQuotas({ units: resource(Limit.capacity(10), "throttle") })
      const token = yield* quota.acquire("units", { expectedUse: 1 })
      yield* token.reserve(8)
      const reservation = yield* token.reserve(2)
      const extending = yield* fork(reservation.extend(1))
      assert.isTrue(waits(extending))
      yield* reservation.commit(2)
      yield* settled
      assert.isFalse(waits(extending))
    })
  )

  const newcomers: ReadonlyArray<
    readonly [words: string, ask: (budget: Budget.Budget) => Effect.Effect<unknown, unknown, Scope.Scope>]
  > = [
    ["an extension", (budget) => Effect.flatMap(budget.reserve(0), (reservation) => reservation.extend(1))],
    ["a reservation", (budget) => budget.reserve(1)],
    ["a reservation of a high priority", (budget) => budget.reserve(1, { priority: 1_000_000 })],
    ["a bracket", (budget) => budget.withReservation(1, () => Effect.void)],
    ["a transaction", (budget) => budget.reserveTx(1, Effect.void)],
    ["a try", (budget) => Effect.flatMap(budget.tryReserve(1), Effect.fromOption)],
    [
      "a request for as much as fits",
      (budget) =>
        Effect.flatMap(budget.reserveUpTo(0, 1), ({ amount }) => (amount > 0 ? Effect.void : Effect.fail("nothing")))
    ]
  ]
  for (const [words, ask] of newcomers) {
    it.effect(`is passed by no later ${words.slice(words.indexOf(" ") + 1)} that fits`, () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.concurrency(10))
        const first = yield* budget.reserve(1)
        const other = yield* budget.reserve(4)
        const extending = yield* fork(first.extend(7))
        const newcomer = yield* fork(Effect.exit(Effect.scoped(ask(budget))))
        yield* settled
        const exit = newcomer.pollUnsafe()
        assert.isTrue(exit === undefined || (Exit.isSuccess(exit) && Exit.isFailure(exit.value)))
        assert.strictEqual((yield* budget.snapshot).ledgers[0].held, 5)
        yield* other.release
        yield* Fiber.join(extending)
      })
    )
  }

  it.effect("of a policy is not passed by a later one of a member", () =>
    Effect.gen(function* () {
      const { a, both } = yield* openBoth(throttled(Limit.concurrency(10)), throttled(Limit.concurrency(10)))
      const large = yield* both.reserve({ a: 1, b: 1 })
      const small = yield* a.reserve(1)
      const holder = yield* a.reserve(4)
      const first = yield* fork(large.extend({ a: 7, b: 1 }))
      const second = yield* fork(small.extend(1))
      yield* settled
      assert.isTrue(waits(first) && waits(second))
      yield* holder.release
      yield* Fiber.join(first)
      yield* settled
      assert.isFalse(waits(second))
    })
  )
})

describe("first fit", () => {
  const firstFit = (limit: Limit.Limit): Budget.Options => ({ limit, enforcement: "throttle", order: "firstFit" })
  const orders: ReadonlyArray<readonly [first: "a" | "both" | "outer" | "tx" | "pair", second: "a" | "both" | "tx"]> = [
    ["a", "both"],
    ["both", "a"],
    ["both", "both"],
    ["outer", "both"],
    ["tx", "a"],
    ["tx", "both"],
    ["a", "tx"],
    ["both", "tx"]
  ]
  for (const [one, two] of orders) {
    it.effect(`serves ${one} before ${two} where both fit and ${one} was there first`, () =>
      Effect.gen(function* () {
        const { a, both, outer } = yield* openBoth(firstFit(Limit.concurrency(1)), firstFit(Limit.concurrency(1)))
        const served: Array<string> = []
        const serve = (name: string) =>
          Effect.andThen(
            Effect.sync(() => served.push(name)),
            Effect.sleep("5 millis")
          )
        const ask = (what: string, name: string): Effect.Effect<unknown, unknown> =>
          what === "a"
            ? a.withReservation(1, () => serve(name))
            : what === "tx"
              ? Effect.scoped(Effect.andThen(a.reserveTx(1, Effect.void), serve(name)))
              : what === "both"
                ? both.withReservation({ a: 1, b: 1 }, () => serve(name))
                : outer.withReservation({ both: { a: 1, b: 1 } }, () => serve(name))
        const holder = yield* fork(both.withReservation({ a: 1, b: 1 }, () => Effect.never))
        const first = yield* fork(ask(one, "first"))
        const second = yield* fork(ask(two, "second"))
        yield* Fiber.interrupt(holder)
        yield* settled
        yield* TestClock.adjust("5 millis")
        yield* settled
        yield* TestClock.adjust("5 millis")
        yield* Fiber.joinAll([first, second])
        assert.deepStrictEqual(served, ["first", "second"])
      })
    )
  }

  it.effect("passes a large request of a policy 64 times in all, and not 64 times for each of its budgets", () =>
    Effect.gen(function* () {
      const { a, b, both } = yield* openBoth(firstFit(Limit.concurrency(10)), firstFit(Limit.concurrency(10)))
      yield* a.reserve(5)
      yield* b.reserve(5)
      const large = yield* fork(both.reserve({ a: 6, b: 6 }))
      let passed = 0
      for (let i = 0; i < 200; i++) {
        const budget = i % 2 === 0 ? a : b
        const small = yield* fork(Effect.scoped(Effect.asVoid(budget.reserve(1))))
        yield* settled
        if (waits(small)) {
          yield* Fiber.interrupt(small)
          continue
        }
        passed++
      }
      assert.isTrue(waits(large))
      assert.strictEqual(passed, 64)
    })
  )

  it.effect("passes a large request of one budget 64 times when requests of a policy pass it", () =>
    Effect.gen(function* () {
      const { a, both } = yield* openBoth(firstFit(Limit.concurrency(10)), firstFit(Limit.concurrency(10)))
      yield* a.reserve(5)
      const large = yield* fork(a.reserve(6))
      let passed = 0
      for (let i = 0; i < 100; i++) {
        const small = yield* fork(Effect.scoped(Effect.asVoid(both.reserve({ a: 1, b: 1 }))))
        yield* settled
        if (waits(small)) yield* Fiber.interrupt(small)
        else passed++
      }
      assert.isTrue(waits(large))
      assert.strictEqual(passed, 64)
    })
  )

  for (const [by, limit] of [
    ["a release", Limit.concurrency(10)],
    ["time", Limit.rate({ amount: 10, per: "10 seconds" })],
    ["time", Limit.window({ amount: 10, every: "10 seconds" })]
  ] as const) {
    it.effect(
      `serves a request over a policy that fits again once ${by} makes room in its ${limit._tag}, which rejects`,
      () =>
        Effect.gen(function* () {
          class Slots extends Budget.Service<Slots>()("test/Slots") {}
          class Units extends Budget.Service<Units>()("test/Units") {}
          class Both extends Policy.Service<Both>()("test/Both", { slots: Slots, units: Units }) {}
          const services = yield* Layer.build(
            Layer.provideMerge(Both.layer, [
              Slots.layer({ limit: Limit.concurrency(10), enforcement: "throttle", order: "firstFit" }),
              Units.layer({ limit })
            ])
          )
          const slots = Context.get(services, Slots)
          yield* slots.reserve(7)
          const one = yield* slots.reserve(1)
          yield* Effect.forkChild(slots.reserve(5), { startImmediately: true })
          const fits = yield* Effect.forkChild(Context.get(services, Both).reserve({ slots: 3, units: 1 }), {
            startImmediately: true
          })
          const full = yield* Context.get(services, Units).reserve(10)
          yield* one.release
          assert.isUndefined(fits.pollUnsafe())
          if (by === "time") {
            yield* full.commit(10)
            assert.isUndefined(fits.pollUnsafe())
            yield* TestClock.adjust("10 seconds")
          } else yield* full.release
          yield* settled
          assert.isDefined(fits.pollUnsafe())
        })
    )
  }
})

describe("a request for as much as fits, with 0 as its least amount", () => {
  it.effect("takes nothing that another waiter needs, under fifo and under first fit", () =>
    Effect.gen(function* () {
      for (const order of ["fifo", "firstFit"] as const) {
        const budget = yield* open(Limit.concurrency(10), { order })
        yield* budget.reserve(4)
        const waiter = yield* fork(budget.reserve(8))
        for (let i = 0; i < 200; i++) {
          const grab = yield* fork(Effect.scoped(Effect.map(budget.reserveUpTo(0, 8), ({ amount }) => amount)))
          yield* settled
          const exit = grab.pollUnsafe()
          if (exit !== undefined && Exit.isSuccess(exit)) assert.strictEqual(exit.value, 0)
          yield* Fiber.interrupt(grab)
        }
        assert.isTrue(waits(waiter))
      }
    })
  )

  it.effect("takes nothing that another waiter needs, over a pool and over a policy", () =>
    Effect.gen(function* () {
      const pool = yield* openPool({ total: 10 }, { enforcement: "throttle" })
      const holder = yield* pool.reserve(usage(4, 0))
      const waiter = yield* fork(pool.reserve(usage(8, 0)))
      const grab = yield* fork(pool.reserveUpTo(usage(0, 0), usage(4, 4)))
      yield* settled
      const exit = grab.pollUnsafe()
      if (exit !== undefined && Exit.isSuccess(exit)) assert.deepStrictEqual(exit.value.amount, usage(0, 0))
      assert.isTrue(waits(waiter))
      yield* holder.release
      yield* Fiber.join(waiter)

      const { a, both } = yield* openBoth(throttled(Limit.concurrency(10)), throttled(Limit.concurrency(10)))
      yield* a.reserve(4)
      const single = yield* fork(a.reserve(8))
      const several = yield* fork(both.reserveUpTo({ a: 0, b: 0 }, { a: 4, b: 4 }))
      yield* settled
      const answer = several.pollUnsafe()
      if (answer !== undefined && Exit.isSuccess(answer)) assert.strictEqual(answer.value.amount.a, 0)
      assert.isTrue(waits(single))
    })
  )

  it.effect("waits for its turn behind others, and then takes the rest", () =>
    Effect.gen(function* () {
      for (const order of ["fifo", "firstFit"] as const) {
        const budget = yield* open(Limit.concurrency(10), { order })
        const holder = yield* budget.reserve(10)
        const waiter = yield* fork(budget.reserve(8))
        const rest = yield* fork(budget.reserveUpTo(0, 4))
        assert.isTrue(waits(rest))
        yield* holder.release
        yield* Fiber.join(waiter)
        assert.strictEqual((yield* Fiber.join(rest)).amount, 2)
      }
    })
  )

  it.effect("is granted 0 at once when the budget rejects and is in debt", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.capacity(10), { enforcement: "reject" })
      yield* budget.withReservation(1, ({ commit }) => commit(15))
      assert.strictEqual((yield* budget.reserveUpTo(0, 8)).amount, 0)
    })
  )
})

describe("a request that can never fit", () => {
  const asks: ReadonlyArray<Ask> = [
    ["reserve", (budget, amount) => budget.reserve(amount)],
    ["withReservation", (budget, amount) => budget.withReservation(amount, () => Effect.void)],
    ["reserveUpTo", (budget, amount) => budget.reserveUpTo(amount, amount + 5)],
    ["reserveTx", (budget, amount) => budget.reserveTx(amount, Effect.void)],
    ["reserveTx whose transaction would wait", (budget, amount) => budget.reserveTx(amount, Effect.txRetry)],
    ["extend", (budget, amount) => Effect.flatMap(budget.reserve(0), (reservation) => reservation.extend(amount))]
  ]
  for (const order of ["fifo", "firstFit"] as const) {
    for (const [words, ask] of asks) {
      it.effect(`fails at once by ${words}, also while others wait, under ${order}`, () =>
        Effect.gen(function* () {
          for (const limit of [
            Limit.concurrency(10),
            Limit.capacity(10),
            Limit.rate({ amount: 10, per: "1 hour" }),
            Limit.window({ amount: 10, every: "1 hour" })
          ]) {
            const budget = yield* open(limit, { order })
            yield* budget.reserve(10)
            const waiter = yield* fork(budget.reserve(1))
            const fiber = yield* fork(Effect.exit(Effect.scoped(ask(budget, 11))))
            yield* settled
            assert.isFalse(waits(fiber), Limit.format(limit))
            exceededBy(yield* Fiber.join(fiber))
            assert.isTrue(waits(waiter))
            assert.strictEqual((yield* budget.snapshot).waiters, 1)
          }
        })
      )
    }
  }
})

describe("an extension that can never fit together with its reservation", () => {
  it.effect("fails at once, also behind another waiter", () =>
    Effect.gen(function* () {
      for (const limit of [Limit.capacity(10), Limit.concurrency(10)]) {
        const budget = yield* open(limit)
        const one = yield* budget.reserve(4)
        const two = yield* budget.reserve(4)
        const first = yield* fork(one.extend(5))
        const never = yield* fork(Effect.exit(two.extend(8)))
        assert.isFalse(waits(never))
        assert.strictEqual(exceededBy(yield* Fiber.join(never)).requested, 8)
        assert.isTrue(waits(first))
        yield* two.release
        yield* Fiber.join(first)
      }
    })
  )
})

describe("a wait that has become hopeless", () => {
  type Change = (budget: Budget.Budget) => Effect.Effect<void>
  /** Each leaves a budget of 10, topped up to 20, with room for less than the 15 that a waiter needs. */
  const changes: ReadonlyArray<readonly [words: string, change: Change]> = [
    ["setLimit lowers", (budget) => budget.setLimit(Limit.capacity(1))],
    ["reset takes back a top-up of", (budget) => budget.reset],
    ["setLimit with a new epoch lowers", (budget) => budget.setLimit(Limit.capacity(12), { strategy: "reset" })],
    ["setLimit to slots lowers", (budget) => budget.setLimit(Limit.concurrency(14))],
    ["setLimit to a rate lowers", (budget) => budget.setLimit(Limit.rate({ amount: 14, per: "1 hour" }))]
  ]
  const asks: ReadonlyArray<Ask> = [
    ["reserve", (budget, amount) => budget.reserve(amount)],
    ["reserveUpTo", (budget, amount) => budget.reserveUpTo(amount, amount + 1)],
    ["reserveTx", (budget, amount) => budget.reserveTx(amount, Effect.void)],
    ["extend", (budget, amount) => Effect.flatMap(budget.reserve(0), (reservation) => reservation.extend(amount))]
  ]
  for (const [change, run] of changes) {
    for (const [words, ask] of asks) {
      for (const place of ["alone", "first", "last"] as const) {
        it.effect(`ends at once when ${change} its limit: ${words}, ${place} in its queue`, () =>
          Effect.gen(function* () {
            const budget = yield* open(Limit.capacity(10))
            yield* budget.topUp(10)
            const holder = yield* inScope(budget.reserve(20))
            if (place === "last") yield* fork(budget.reserve(1))
            const fiber = yield* fork(Effect.exit(Effect.scoped(ask(budget, 15))))
            if (place === "first") yield* fork(budget.reserve(1))
            yield* settled
            assert.isTrue(waits(fiber))
            yield* run(budget)
            yield* settled
            assert.isFalse(waits(fiber))
            exceededBy(yield* Fiber.join(fiber))
            yield* holder.close
          })
        )
      }
    }

    for (const enforcement of ["throttle", "reject", "terminate"] as const) {
      for (const changed of ["a", "b"] as const) {
        it.effect(`ends at once when ${change} the limit of ${changed}, which does ${enforcement}, of a policy`, () =>
          Effect.gen(function* () {
            const other = changed === "a" ? "b" : "a"
            const lowered: Budget.Options = { limit: Limit.capacity(10), enforcement }
            const slots = throttled(Limit.concurrency(1))
            const all = yield* openBoth(changed === "a" ? lowered : slots, changed === "a" ? slots : lowered)
            yield* all[changed].topUp(10)
            yield* all[other].reserve(1)
            const amounts = changed === "a" ? { a: 15, b: 1 } : { a: 1, b: 15 }
            const asked = [
              all.both.reserve(amounts),
              all.outer.reserve({ both: amounts }),
              all.both.reserveUpTo(amounts, amounts),
              all.both.reserveTx(amounts, Effect.void),
              Effect.flatMap(all.both.reserve({ a: 0, b: 0 }), (reservation) => reservation.extend(amounts))
            ]
            const fibers = yield* Effect.forEach(asked, (effect) =>
              fork(Effect.exit(Effect.scoped(Effect.asVoid(effect))))
            )
            yield* settled
            assert.deepStrictEqual(fibers.map(waits), [true, true, true, true, true])
            yield* run(all[changed])
            yield* settled
            assert.deepStrictEqual(fibers.map(waits), [false, false, false, false, false])
            for (const fiber of fibers) {
              const exit = yield* Fiber.join(fiber)
              if (enforcement === "terminate") defectOf(exit)
              else assert.strictEqual(exceededBy(exit).budget, `test/${changed.toUpperCase()}`)
            }
            assert.strictEqual((yield* all[other].snapshot).waiters, 0)
          })
        )
      }
    }
  }

  it.effect("ends at once when setCaps or reset of a pool leaves no room for it, whichever cap it is", () =>
    Effect.gen(function* () {
      for (const caps of [{ input: 4 }, { output: 4 }, { total: 9 }]) {
        const pool = yield* openPool({ total: 20 }, { enforcement: "throttle" })
        yield* pool.reserve(usage(10, 10))
        const fiber = yield* fork(Effect.exit(pool.reserve(usage(5, 5))))
        assert.isTrue(waits(fiber))
        yield* pool.setCaps({ total: 20, ...caps })
        yield* settled
        assert.isFalse(waits(fiber))
        exceededBy(yield* Fiber.join(fiber))
      }
    })
  )

  it.effect("ends at once with the topped-up window that it needs", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.window({ amount: 10, every: "1 minute" }))
      yield* budget.topUp(10)
      yield* budget.reserve(20)
      const fiber = yield* fork(Effect.exit(budget.reserve(15)))
      yield* TestClock.adjust("59 seconds")
      assert.isTrue(waits(fiber))
      yield* TestClock.adjust("1 second")
      yield* settled
      assert.isFalse(waits(fiber))
      exceededBy(yield* Fiber.join(fiber))
    })
  )

  it.effect("ends at once with the topped-up window that it needs, of a member that rejects", () =>
    Effect.gen(function* () {
      const window = Limit.window({ amount: 10, every: "1 minute" })
      const { a, b, both } = yield* openBoth(throttled(Limit.concurrency(1)), { limit: window })
      yield* b.topUp(10)
      yield* a.reserve(1)
      const fiber = yield* fork(Effect.exit(both.reserve({ a: 1, b: 15 })))
      const stays = yield* fork(both.reserve({ a: 1, b: 5 }))
      yield* TestClock.adjust("59 seconds")
      assert.isTrue(waits(fiber))
      yield* TestClock.adjust("1 second")
      yield* settled
      assert.isFalse(waits(fiber))
      assert.strictEqual(exceededBy(yield* Fiber.join(fiber)).budget, "test/B")
      assert.isTrue(waits(stays))
    })
  )

  it.effect("ends at once with the topped-up window that it needs, by first fit also behind another waiter", () =>
    Effect.gen(function* () {
      const window = Limit.window({ amount: 10, every: "1 minute" })
      const { a, b, both } = yield* openBoth(throttled(Limit.concurrency(1)), {
        ...throttled(window),
        order: "firstFit"
      })
      yield* b.topUp(10)
      yield* a.reserve(1)
      yield* b.reserve(20)
      const first = yield* fork(both.reserve({ a: 1, b: 1 }))
      const hopeless = [yield* fork(Effect.exit(b.reserve(15))), yield* fork(Effect.exit(b.reserveUpTo(15, 16)))]
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual(hopeless.map(waits), [true, true])
      yield* TestClock.adjust("1 second")
      yield* settled
      assert.deepStrictEqual(hopeless.map(waits), [false, false])
      for (const fiber of hopeless) assert.strictEqual(exceededBy(yield* Fiber.join(fiber)).requested, 15)
      assert.isTrue(waits(first))
    })
  )

  it.effect("ends at once when the resource of its token is changed, for a split token too", () =>
    Effect.gen(function* () {
      const quota = yield* openQuotas({ units: resource(Limit.capacity(20), "throttle") })
      const token = yield* quota.acquire("units", { expectedUse: 10 })
      const part = yield* token.split(4)
      yield* token.reserve(20)
      const fibers = [yield* fork(Effect.exit(token.reserve(15))), yield* fork(Effect.exit(part.reserve(16)))]
      const stays = yield* fork(part.reserve(1))
      yield* quota.update("units", resource(Limit.capacity(12), "throttle"))
      yield* settled
      assert.deepStrictEqual(fibers.map(waits), [false, false])
      for (const fiber of fibers) exceededBy(yield* Fiber.join(fiber))
      assert.isTrue(waits(stays))
    })
  )

  for (const what of ["throttles", "rejects"] as const) {
    it.effect(`ends with the topped-up window that it needs, also behind another waiter, when the window ${what}`, () =>
      Effect.gen(function* () {
        class Slots extends Budget.Service<Slots>()("test/Slots") {}
        class Window extends Budget.Service<Window>()("test/Window") {}
        class Both extends Policy.Service<Both>()("test/Both", { slots: Slots, window: Window }) {}
        const services = yield* Layer.build(
          Layer.provideMerge(Both.layer, [
            Slots.layer({ limit: Limit.concurrency(1), enforcement: "throttle" }),
            Window.layer({
              limit: Limit.window({ amount: 10, every: "1 minute" }),
              enforcement: what === "throttles" ? "throttle" : "reject"
            })
          ])
        )
        const both = Context.get(services, Both)
        yield* Context.get(services, Window).topUp(10)
        yield* Context.get(services, Slots).reserve(1)
        const first = yield* Effect.forkChild(both.reserve({ slots: 1, window: 1 }), { startImmediately: true })
        const second = yield* Effect.forkChild(Effect.exit(both.reserve({ slots: 1, window: 15 })), {
          startImmediately: true
        })
        yield* TestClock.adjust("59 seconds")
        assert.isUndefined(second.pollUnsafe())
        yield* TestClock.adjust("2 seconds")
        assert.isUndefined(first.pollUnsafe())
        assert.isDefined(second.pollUnsafe())
      })
    )
  }

  it.effect(
    "ends when another extension of the same reservation leaves no room for it, also behind another waiter",
    () =>
      Effect.gen(function* () {
        for (const limit of [Limit.capacity(10), Limit.concurrency(10)]) {
          const budget = yield* open(limit)
          const one = yield* budget.reserve(5)
          const two = yield* budget.reserve(2)
          const holder = yield* budget.reserve(3)
          const fork = (more: Effect.Effect<void, unknown>) =>
            Effect.forkChild(Effect.exit(more), { startImmediately: true })
          const first = yield* fork(one.extend(3))
          yield* fork(two.extend(4))
          const hopeless = yield* fork(one.extend(3))
          yield* holder.release
          yield* Fiber.join(first)
          assert.strictEqual(one.amount, 8)
          yield* Effect.repeat(Effect.yieldNow, { times: 20 })
          // It has 8 of 10, so 3 more can never fit.
          assert.isDefined(hopeless.pollUnsafe())
        }
      })
  )

  it.effect("ends when a commit leaves only time to end it, and its timeout is too short for that", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.rate({ amount: 10, per: "1 hour" }))
      const holder = yield* budget.reserve(10)
      const fiber = yield* Effect.forkChild(Effect.exit(budget.reserve(1, { timeout: "1 minute" })), {
        startImmediately: true
      })
      assert.isUndefined(fiber.pollUnsafe())
      yield* holder.commit(10)
      yield* Effect.repeat(Effect.yieldNow, { times: 20 })
      assert.isDefined(fiber.pollUnsafe())
    })
  )
})
