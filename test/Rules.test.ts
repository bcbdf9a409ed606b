/** Rules that a small change of the engine could break while every other test stays green. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Option, Stream, TxRef } from "effect"
import { TestClock } from "effect/testing"
import { Budget, BudgetGuard, BudgetStore, Limit, Policy } from "../src/index.ts"
import { TypeId } from "../src/internal/face/layout.ts"
import type { MemoryAccount } from "../src/internal/memory/account.ts"
import { Share } from "../src/internal/quota/share.ts"
import { openPool, usage } from "./support/faces.ts"
import { exceededBy, failedBy } from "./utils/exits.ts"
import { creditOf, open as openQuotas, resource } from "./utils/quotas.ts"

class A extends Budget.Service<A>()("test/A") {}
class B extends Budget.Service<B>()("test/B") {}
class Both extends Policy.Service<Both>()("test/Both", { a: A, b: B }) {}

const open = (limit: Budget.Options["limit"], options: Partial<Budget.Options> = {}) =>
  Budget.make({ ...options, limit, name: "test/Budget" }).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))

const openGuard = (limit: Limit.Limit) =>
  BudgetGuard.make({ limit, name: "test/Guard" }).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))

const openBoth = (a: Budget.Options, b: Budget.Options) =>
  Effect.map(Layer.build(Layer.provideMerge(Both.layer, [A.layer(a), B.layer(b)])), (services) => ({
    a: Context.get(services, A),
    b: Context.get(services, B),
    both: Context.get(services, Both)
  }))

const fork = <X, E, R>(effect: Effect.Effect<X, E, R>) => Effect.forkChild(effect, { startImmediately: true })
const waits = (fiber: Fiber.Fiber<unknown, unknown>) => fiber.pollUnsafe() === undefined
const settled = Effect.repeat(Effect.yieldNow, { times: 20 })
const rate = Limit.rate({ amount: 10, per: "1 second" })

/** All that a stream emits until the end of the scope. */
const heard = <X>(stream: Stream.Stream<X>) =>
  Effect.gen(function* () {
    const all: Array<X> = []
    yield* Effect.forkScoped(
      Stream.runForEach(stream, (value) => Effect.sync(() => all.push(value))),
      { startImmediately: true }
    )
    yield* settled
    return all
  })

describe("an overage", () => {
  it.effect("is charged after what time has brought, which a full bucket could not take", () =>
    Effect.gen(function* () {
      const budget = yield* open(rate)
      const reservation = yield* budget.reserve(4)
      yield* TestClock.adjust("1 second")
      yield* reservation.commit(9)
      assert.strictEqual(yield* budget.available, 5)
    })
  )

  it.effect("is charged after what time has brought, to each member of a policy and each limit of a budget", () =>
    Effect.gen(function* () {
      const { a, b, both } = yield* openBoth({ limit: rate }, { limit: [Limit.capacity(100), rate] })
      const reservation = yield* both.reserve({ a: 4, b: 4 })
      yield* TestClock.adjust("1 second")
      yield* reservation.commit({ a: 9, b: 9 })
      assert.strictEqual(yield* a.available, 5)
      assert.strictEqual(yield* b.available, 5)
    })
  )

  it.effect("is what a charge of a pool has beyond its caps, and no more", () =>
    Effect.gen(function* () {
      const pool = yield* openPool({ total: 10 })
      yield* pool.charge(usage(6, 0))
      assert.strictEqual((yield* pool.snapshot).total.overage, 0)
      assert.deepStrictEqual((yield* pool.charge(usage(6, 0))).overran, ["faces/Pool/total"])
      assert.strictEqual((yield* pool.snapshot).total.overage, 2)
      assert.strictEqual((yield* pool.snapshot).input.overage, 0)
    })
  )

  it.effect("is what a charge has beyond the limit as it is now, refills included", () =>
    Effect.gen(function* () {
      const budget = yield* open(rate)
      const { accounts, store } = budget[TypeId]
      yield* budget.withReservation(10, () => Effect.void)
      yield* TestClock.adjust("1 second")
      yield* store.charge(accounts, [7])
      assert.strictEqual((yield* budget.snapshot).overage, 0)
      yield* store.charge(accounts, [7])
      assert.strictEqual((yield* budget.snapshot).overage, 4)
      assert.strictEqual(yield* budget.available, -4)
    })
  )
})

describe("a hold of several epochs", () => {
  it.effect("is charged first in, first charged, also where each member of a policy has an epoch of its own", () =>
    Effect.gen(function* () {
      const { a, b, both } = yield* openBoth({ limit: Limit.capacity(100) }, { limit: Limit.capacity(100) })
      const ten = { a: 10, b: 10 }
      const reservation = yield* both.reserve(ten)
      yield* a.reset
      yield* reservation.extend(ten)
      yield* b.reset
      yield* reservation.extend(ten)
      yield* reservation.commit({ a: 15, b: 15 })
      // Of 30 held, the first 10 are of an epoch that is over for both, the next 10 for b.
      assert.strictEqual((yield* a.snapshot).ledgers[0].spent, 5)
      assert.strictEqual((yield* b.snapshot).ledgers[0].spent, 0)
      assert.deepStrictEqual([yield* a.available, yield* b.available], [95, 100])
    })
  )

  it.effect("counts its whole hold of a limit when it decides that an extension can never fit", () =>
    Effect.gen(function* () {
      const limits = [Limit.capacity(10), Limit.window({ amount: 10, every: "1 minute" })]
      const budget = yield* open(limits, { enforcement: "throttle" })
      const reservation = yield* budget.reserve(6)
      yield* TestClock.adjust("1 minute")
      yield* reservation.extend(1)
      const fiber = yield* fork(Effect.exit(reservation.extend(5)))
      assert.isFalse(waits(fiber))
      assert.strictEqual(exceededBy(yield* Fiber.join(fiber)).limit._tag, "Capacity")
    })
  )
})

describe("changes and thresholds", () => {
  it.effect("report each tryReserve and each release of a guard", () =>
    Effect.gen(function* () {
      const guard = yield* openGuard(Limit.capacity(10))
      const changes = yield* heard(Stream.map(guard.changes, ({ available }) => available))
      const thresholds = yield* heard(Stream.map(guard.thresholds([0.5, 0.9]), ({ fraction }) => fraction))
      for (const step of [
        guard.tryReserve(5),
        guard.release(2),
        guard.tryReserve(7),
        guard.tryReserve(1),
        guard.release(10)
      ]) {
        yield* step
        yield* settled
      }
      assert.deepStrictEqual(changes, [10, 5, 7, 0, 10])
      assert.deepStrictEqual(thresholds, [0.5, 0.9])
    })
  )

  it.effect("report the hold that a transaction takes, whether it waited or not", () =>
    Effect.gen(function* () {
      for (const enforcement of ["reject", "throttle"] as const) {
        const budget = yield* open(Limit.concurrency(10), { enforcement })
        const changes = yield* heard(Stream.map(budget.changes, ({ available }) => available))
        const thresholds = yield* heard(Stream.map(budget.thresholds([0.4]), ({ fraction }) => fraction))
        const { reservation } = yield* budget.reserveTx(4, Effect.void)
        yield* settled
        assert.deepStrictEqual(changes, [10, 6])
        assert.deepStrictEqual(thresholds, [0.4])
        yield* reservation.release
        yield* settled
        assert.deepStrictEqual(changes, [10, 6, 10])
      }
    })
  )

  it.effect("of a rate count what is missing from its bucket, also after much was refilled", () =>
    Effect.gen(function* () {
      const budget = yield* open(rate)
      for (let second = 0; second < 20; second++) {
        yield* budget.withReservation(5, () => Effect.void)
        yield* TestClock.adjust("1 second")
      }
      const thresholds = yield* heard(Stream.map(budget.thresholds([0.8]), ({ fraction }) => fraction))
      assert.deepStrictEqual(thresholds, [])
      yield* budget.withReservation(8, () => Effect.void)
      yield* settled
      assert.deepStrictEqual(thresholds, [0.8])
    })
  )

  it.effect("read after time has passed show the books of that time", () =>
    Effect.gen(function* () {
      const budget = yield* open(rate)
      yield* budget.withReservation(10, () => Effect.void)
      const first = yield* Stream.runHead(budget.changes)
      assert.strictEqual(first._tag === "Some" && first.value.available, 0)
      yield* TestClock.adjust("500 millis")
      const second = yield* Stream.runHead(budget.changes)
      assert.strictEqual(second._tag === "Some" && second.value.available, 5)
    })
  )

  it.effect("of several budgets report a change of any of them that happens while the last one is handled", () =>
    Effect.gen(function* () {
      const { a, b } = yield* openBoth({ limit: Limit.capacity(10) }, { limit: Limit.capacity(10) })
      const { store } = a[TypeId]
      const gate = yield* Deferred.make<void>()
      const told: Array<ReadonlyArray<number>> = []
      yield* Effect.forkScoped(
        Stream.runForEach(store.changes([...a[TypeId].accounts, ...b[TypeId].accounts]), (snapshots) => {
          told.push(snapshots.map(({ available }) => available))
          return Deferred.await(gate)
        }),
        { startImmediately: true }
      )
      yield* settled
      yield* b.withReservation(4, () => Effect.void)
      yield* Deferred.succeed(gate, undefined)
      yield* settled
      assert.deepStrictEqual(told, [
        [10, 10],
        [10, 6]
      ])
    })
  )

  it.effect("of all resources of a quota report each of them", () =>
    Effect.gen(function* () {
      const quota = yield* openQuotas({ one: resource(Limit.capacity(10)), two: resource(Limit.capacity(10)) })
      const two = yield* quota.acquire("two", { expectedUse: 1 })
      const changes = yield* heard(Stream.map(quota.usageChanges, ({ two }) => two!.available))
      yield* two.withReservation(4, () => Effect.void)
      yield* settled
      assert.strictEqual(changes.at(-1), 6)
    })
  )
})

describe("a change of the limit", () => {
  it.effect("by keepLevel leaves no more than the new maximum", () =>
    Effect.gen(function* () {
      for (const limit of [Limit.capacity(100), Limit.window({ amount: 100, every: "1 day" })]) {
        const budget = yield* open(limit)
        yield* budget.withReservation(40, () => Effect.void)
        yield* budget.setLimit({ ...limit, amount: 10 }, { strategy: "keepLevel" })
        assert.strictEqual(yield* budget.available, 10)
        yield* budget.setLimit({ ...limit, amount: 50 }, { strategy: "keepLevel" })
        assert.strictEqual(yield* budget.available, 10)
      }
    })
  )

  it.effect("while the clock is behind the books does not earn the same time twice", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(100_000)
      const budget = yield* open(rate)
      yield* budget.withReservation(10, () => Effect.void)
      yield* TestClock.setTime(99_100)
      yield* budget.setLimit(Limit.rate({ amount: 10, per: "1 second", refill: "interval" }))
      yield* budget.setLimit(Limit.capacity(10))
      yield* budget.setLimit(rate)
      yield* TestClock.setTime(100_000)
      assert.isAtMost(yield* budget.available, 9)
      const window = yield* open(Limit.rate({ amount: 10, per: "1 second", refill: "interval" }))
      yield* window.withReservation(10, () => Effect.void)
      yield* TestClock.setTime(99_100)
      yield* window.setLimit(rate)
      yield* TestClock.setTime(100_000)
      assert.strictEqual(yield* window.available, 0)
    })
  )
})

describe("an amount of an unlimited budget", () => {
  it.effect("is held whatever was spent, up to the most that the books can count", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.unlimited)
      yield* budget.withReservation(1, ({ commit }) => commit(Number.MAX_SAFE_INTEGER))
      const reservation = yield* budget.reserve(5)
      const [{ available, granted, held, spent }] = (yield* budget.snapshot).ledgers
      assert.strictEqual(held, 5)
      assert.strictEqual(available + held + spent, granted)
      assert.isAtLeast(available, 0)
      yield* reservation.commit(5)
      assert.strictEqual((yield* budget.snapshot).charged, Number.MAX_SAFE_INTEGER)
      assert.isTrue(Number.isSafeInteger((yield* budget.snapshot).charged))
    })
  )
})

describe("the patience of a request for as much as fits", () => {
  const limits: ReadonlyArray<readonly [limit: Limit.Limit, amount: number]> = [
    [rate, 10],
    [Limit.rate({ amount: 10, per: "1 second", refill: "interval" }), 10],
    [Limit.window({ amount: 10, every: "1 second" }), 10]
  ]
  for (const [limit, amount] of limits) {
    it.effect(`is by default the time in which a ${Limit.format(limit)} earns what is wanted`, () =>
      Effect.gen(function* () {
        yield* TestClock.setTime(10_000)
        const budget = yield* open(limit, { enforcement: "throttle" })
        yield* budget.withReservation(9, () => Effect.void)
        const fiber = yield* fork(budget.reserveUpTo(1, 10))
        assert.isTrue(waits(fiber))
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Fiber.join(fiber)).amount, amount)
      })
    )
  }

  it.effect("is what the request says: 0 takes what fits at once, and more waits for more", () =>
    Effect.gen(function* () {
      const budget = yield* open(rate, { enforcement: "throttle" })
      yield* budget.withReservation(7, () => Effect.void)
      assert.strictEqual((yield* budget.reserveUpTo(1, 10, { patience: 0 })).amount, 3)
      yield* budget.withReservation(0, ({ commit }) => commit(10))
      const fiber = yield* fork(budget.reserveUpTo(1, 10, { patience: "2 seconds" }))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(fiber)).amount, 10)
      yield* budget.withReservation(0, ({ commit }) => commit(10))
      const usual = yield* fork(budget.reserveUpTo(1, 10))
      yield* TestClock.adjust("2 seconds")
      assert.isBelow((yield* Fiber.join(usual)).amount, 10)
    })
  )

  it.effect("counts from when the request became the first of its queue, also when its wait grows longer", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.rate({ amount: 10, per: "1 second", burst: 100 }), { enforcement: "throttle" })
      yield* budget.withReservation(100, () => Effect.void)
      const fiber = yield* fork(budget.reserveUpTo(1, 50, { patience: "5 seconds" }))
      yield* TestClock.adjust("4 seconds")
      yield* budget.setLimit(Limit.rate({ amount: 5, per: "1 second", burst: 100 }))
      yield* settled
      assert.isFalse(waits(fiber))
      assert.strictEqual((yield* Fiber.join(fiber)).amount, 40)
    })
  )

  it.effect("goes on when a tryReserve of a higher priority is granted at once", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.rate({ amount: 10, per: "1 second", burst: 100 }), { enforcement: "throttle" })
      yield* budget.withReservation(100, () => Effect.void)
      const fiber = yield* fork(budget.reserveUpTo(1, 50, { patience: "6 seconds" }))
      yield* TestClock.adjust("3 seconds")
      assert.isTrue(Option.isSome(yield* budget.tryReserve(30, { priority: 1 })))
      yield* TestClock.adjust("3 seconds")
      // All of it would come after 8 seconds.
      assert.isFalse(waits(fiber))
      assert.isBelow((yield* Fiber.join(fiber)).amount, 50)
    })
  )

  it.effect("starts again when a waiter of a higher priority has been served before it", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.rate({ amount: 10, per: "1 second", burst: 100 }), { enforcement: "throttle" })
      yield* budget.withReservation(100, () => Effect.void)
      const fiber = yield* fork(budget.reserveUpTo(1, 50, { patience: "6 seconds" }))
      yield* TestClock.adjust("3 seconds")
      const first = yield* fork(budget.reserve(40, { priority: 1 }))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(first)
      yield* TestClock.adjust("4999 millis")
      assert.isTrue(waits(fiber))
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Fiber.join(fiber)).amount, 50)
    })
  )

  it.effect("is used for all that can ever fit, where more than that is wanted", () =>
    Effect.gen(function* () {
      const budget = yield* open(rate, { enforcement: "throttle" })
      yield* budget.withReservation(9, () => Effect.void)
      const fiber = yield* fork(budget.reserveUpTo(1, 50))
      assert.isTrue(waits(fiber))
      yield* TestClock.adjust("900 millis")
      assert.strictEqual((yield* Fiber.join(fiber)).amount, 10)
    })
  )

  it.effect("ends before its timeout does, with what fits then", () =>
    Effect.gen(function* () {
      const budget = yield* open(rate, { enforcement: "throttle" })
      yield* budget.withReservation(10, () => Effect.void)
      const fiber = yield* fork(budget.reserveUpTo(1, 10, { timeout: "500 millis" }))
      yield* TestClock.adjust("500 millis")
      assert.isAtLeast((yield* Fiber.join(fiber)).amount, 1)
    })
  )

  it.effect("is not used where nobody waits and there is room for all, nor where time alone brings nothing", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.capacity(10), { enforcement: "throttle" })
      assert.strictEqual((yield* budget.reserveUpTo(1, 6)).amount, 6)
      assert.strictEqual((yield* budget.reserveUpTo(1, 6)).amount, 4)
    })
  )
})

describe("an extension", () => {
  it.effect("of a budget that rejects is granted where it fits, also while others wait for the same books", () =>
    Effect.gen(function* () {
      const options = { name: "same", limit: Limit.concurrency(10) }
      yield* Effect.gen(function* () {
        const rejects = yield* Budget.make(options)
        const throttles = yield* Budget.make({ ...options, enforcement: "throttle" })
        const reservation = yield* rejects.reserve(6)
        const waiter = yield* fork(throttles.reserve(5))
        assert.isTrue(waits(waiter))
        yield* reservation.extend(2)
        assert.strictEqual(reservation.amount, 8)
        exceededBy(yield* Effect.exit(rejects.reserve(1)))
      }).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))
    })
  )
})

describe("a policy with a member that rejects", () => {
  it.effect("is forgotten by that member once its wait has ended", () =>
    Effect.gen(function* () {
      const { a, b, both } = yield* openBoth(
        { limit: Limit.concurrency(1), enforcement: "throttle" },
        { limit: Limit.concurrency(10) }
      )
      const ask = both.reserve({ a: 1, b: 1 }, { timeout: "1 second" })
      const holder = yield* a.reserve(1)
      yield* Fiber.interrupt(yield* fork(ask))
      const late = yield* fork(Effect.exit(ask))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(late)
      const granted = yield* fork(ask)
      const { books } = b[TypeId].accounts[0] as MemoryAccount
      assert.strictEqual(books.bystanders?.size, 1)
      yield* holder.release
      yield* Fiber.join(granted)
      assert.strictEqual(books.bystanders?.size, 0)
    })
  )

  it.effect("is not refused for lack of room in that member before its turn has come, also under first fit", () =>
    Effect.gen(function* () {
      const firstFit: Budget.Options = { limit: Limit.concurrency(10), enforcement: "throttle", order: "firstFit" }
      const { a, b, both } = yield* openBoth(firstFit, { limit: Limit.concurrency(10) })
      yield* a.reserve(7)
      const one = yield* a.reserve(1)
      const large = yield* fork(a.reserve(5))
      const policy = yield* fork(both.reserve({ a: 3, b: 1 }))
      const full = yield* b.reserve(10)
      yield* one.release
      yield* settled
      assert.isTrue(waits(large) && waits(policy))
      yield* full.release
      yield* Effect.scoped(a.reserve(0))
      yield* a.setLimit(Limit.concurrency(11))
      yield* Fiber.join(policy)
      assert.isTrue(waits(large))
    })
  )
})

describe("a denial of a request that fits, but would pass waiters", () => {
  it.effect("names the budget that they wait for", () =>
    Effect.gen(function* () {
      const waited = { name: "waited for", limit: Limit.concurrency(10) }
      yield* Effect.gen(function* () {
        const policy = yield* Policy.make("both", { a: A, b: B }).pipe(
          Effect.provideServiceEffect(A, Budget.make({ name: "free", limit: Limit.concurrency(10) })),
          Effect.provideServiceEffect(B, Budget.make(waited))
        )
        const throttles = yield* Budget.make({ ...waited, enforcement: "throttle" })
        yield* throttles.reserve(5)
        yield* fork(throttles.reserve(6))
        assert.strictEqual(exceededBy(yield* Effect.exit(policy.reserve({ a: 1, b: 1 }))).budget, "waited for")
      }).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))
    })
  )
})

describe("a wait whose timeout ends in the very millisecond in which time brings what it waits for", () => {
  it.effect("is granted, whichever of the two timers fires first", () =>
    Effect.gen(function* () {
      const budget = yield* open(rate, { enforcement: "throttle" })
      yield* budget.withReservation(10, () => Effect.void)
      const first = yield* fork(budget.reserve(1, { timeout: "100 millis" }))
      const second = yield* fork(budget.reserve(1, { timeout: "200 millis" }))
      yield* TestClock.adjust("100 millis")
      yield* Fiber.join(first)
      yield* TestClock.adjust("100 millis")
      yield* Fiber.join(second)
    })
  )
})

describe("the timeout of a policy's request", () => {
  it.effect(
    "is the shortest of the budgets that it waits for, and not of one that rejects or is asked for nothing",
    () =>
      Effect.gen(function* () {
        const slots: Budget.Options = { limit: Limit.concurrency(1), enforcement: "throttle", timeout: "1 minute" }
        const others: ReadonlyArray<readonly [options: Budget.Options, amount: number]> = [
          [{ limit: Limit.capacity(10), timeout: "1 second" }, 1],
          [{ limit: Limit.capacity(10), enforcement: "throttle", timeout: "1 second" }, 0]
        ]
        for (const [other, amount] of others) {
          const { a, both } = yield* openBoth(slots, other)
          yield* a.reserve(1)
          const fiber = yield* fork(Effect.exit(both.reserve({ a: 1, b: amount })))
          yield* TestClock.adjust("59 seconds")
          assert.isTrue(waits(fiber))
          yield* TestClock.adjust("1 second")
          assert.strictEqual(failedBy(yield* Fiber.join(fiber)).reason._tag, "TimedOut")
        }
      })
  )
})

describe("a transaction that takes a hold", () => {
  it.effect("keeps its place among those who wait while it lets others pass for something else", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.concurrency(1), { enforcement: "throttle" })
      const jobs = yield* TxRef.make(1)
      const takeJob = Effect.flatMap(TxRef.get(jobs), (n) => (n === 0 ? Effect.txRetry : TxRef.set(jobs, n - 1)))
      const served: Array<string> = []
      const holder = yield* budget.reserve(1)
      const transaction = yield* fork(
        Effect.scoped(
          Effect.andThen(
            budget.reserveTx(1, takeJob),
            Effect.sync(() => served.push("transaction"))
          )
        )
      )
      const gate = yield* Deferred.make<void>()
      const first = yield* fork(
        budget.withReservation(1, () =>
          Effect.andThen(
            Effect.sync(() => served.push("first")),
            Deferred.await(gate)
          )
        )
      )
      yield* settled
      yield* Effect.tx(TxRef.set(jobs, 0))
      yield* holder.release
      yield* settled
      assert.deepStrictEqual(served, ["first"])
      const second = yield* fork(budget.withReservation(1, () => Effect.sync(() => served.push("second"))))
      yield* Effect.tx(TxRef.set(jobs, 1))
      yield* settled
      assert.strictEqual((yield* budget.snapshot).waiters, 2)
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.joinAll([transaction, first, second])
      assert.deepStrictEqual(served, ["first", "transaction", "second"])
    })
  )
})

describe("a transaction that waits to take a hold", () => {
  it.effect("leaves the queue when it is interrupted, when it fails and when it dies, and the next is served", () =>
    Effect.gen(function* () {
      for (const end of ["interrupted", "failed", "died"] as const) {
        const budget = yield* open(Limit.concurrency(1), { enforcement: "throttle" })
        const stop = yield* TxRef.make(false)
        const alongside = Effect.flatMap(TxRef.get(stop), (stop): Effect.Effect<void, string> =>
          !stop ? Effect.void : end === "failed" ? Effect.fail("stopped") : Effect.die("stopped")
        )
        const holder = yield* budget.reserve(1)
        const transaction = yield* fork(Effect.exit(Effect.scoped(budget.reserveTx(1, alongside))))
        const next = yield* fork(Effect.scoped(Effect.asVoid(budget.reserve(1))))
        yield* settled
        assert.strictEqual((yield* budget.snapshot).waiters, 2)
        if (end === "interrupted") yield* Fiber.interrupt(transaction)
        else yield* Effect.tx(TxRef.set(stop, true))
        yield* holder.release
        yield* Fiber.join(next)
        yield* Fiber.await(transaction)
        const { ledgers, waiters } = yield* budget.snapshot
        assert.deepStrictEqual([waiters, ledgers[0].held], [0, 0], end)
      }
    })
  )

  it.effect("passes no waiter of a higher priority when it comes back, though it fits and was there before", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.concurrency(10), { enforcement: "throttle" })
      const jobs = yield* TxRef.make(1)
      const takeJob = Effect.flatMap(TxRef.get(jobs), (n) => (n === 0 ? Effect.txRetry : TxRef.set(jobs, n - 1)))
      const holder = yield* budget.reserve(10)
      const transaction = yield* fork(Effect.scoped(Effect.asVoid(budget.reserveTx(1, takeJob))))
      yield* settled
      yield* Effect.tx(TxRef.set(jobs, 0))
      yield* holder.release
      yield* settled
      const other = yield* budget.reserve(5)
      const urgent = yield* fork(budget.reserve(10, { priority: 1 }))
      yield* Effect.tx(TxRef.set(jobs, 1))
      yield* settled
      assert.isTrue(waits(transaction) && waits(urgent))
      assert.strictEqual((yield* budget.snapshot).ledgers[0].held, 5)
      yield* other.release
      const reservation = yield* Fiber.join(urgent)
      yield* reservation.release
      yield* Fiber.join(transaction)
    })
  )

  it.effect("takes it in the window of that moment, when it has waited for something else since an earlier one", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.window({ amount: 10, every: "1 minute" }))
      const jobs = yield* TxRef.make(0)
      const takeJob = Effect.flatMap(TxRef.get(jobs), (n) => (n === 0 ? Effect.txRetry : TxRef.set(jobs, n - 1)))
      yield* budget.withReservation(4, () => Effect.void)
      const transaction = yield* fork(budget.reserveTx(3, takeJob))
      yield* settled
      yield* TestClock.adjust("2 minutes")
      yield* Effect.tx(TxRef.set(jobs, 1))
      const { reservation } = yield* Fiber.join(transaction)
      yield* reservation.commit(2)
      const [{ available, epoch, held, spent }] = (yield* budget.snapshot).ledgers
      assert.deepStrictEqual({ available, epoch, held, spent }, { available: 8, epoch: 2, held: 0, spent: 2 })
    })
  )

  it.effect("passes those of a lower priority where it fits, as a reservation does", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.concurrency(10), { enforcement: "throttle" })
      yield* budget.reserve(5)
      const large = yield* fork(budget.reserve(6))
      const transaction = yield* fork(Effect.scoped(Effect.asVoid(budget.reserveTx(1, Effect.void, { priority: 1 }))))
      yield* Fiber.join(transaction)
      assert.isTrue(waits(large))
    })
  )
})

describe("a transaction of the caller", () => {
  it.effect("that reads a budget twice sees the same books, whatever happens between", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.capacity(10))
      const read = yield* Deferred.make<void>()
      const changed = yield* Deferred.make<void>()
      const flag = yield* TxRef.make(0)
      const seen: Array<readonly [number, number]> = []
      const reading = yield* fork(
        Effect.tx(
          Effect.gen(function* () {
            const before = yield* budget.available
            yield* Deferred.succeed(read, undefined)
            yield* Deferred.await(changed)
            const after = yield* budget.available
            seen.push([before, after])
            yield* TxRef.set(flag, after)
          })
        )
      )
      yield* Deferred.await(read)
      yield* budget.withReservation(4, () => Effect.void)
      yield* Deferred.succeed(changed, undefined)
      yield* Fiber.join(reading)
      for (const [before, after] of seen) assert.strictEqual(before, after)
      assert.deepStrictEqual(seen.at(-1), [6, 6])
    })
  )
})

describe("a token of a quota", () => {
  it("that is split and merged again keeps its turn", () => {
    for (const part of [1, 5, 10]) {
      const share = new Share(10, 0)
      share.turn = 100
      const other = share.split(part, 0)
      assert.strictEqual(other.turn, 100)
      share.absorb(other, 0, 0)
      assert.strictEqual(share.turn, 100)
    }
  })

  it.effect("with a waiting extension is served before those that hold nothing, and keeps its turn", () =>
    Effect.gen(function* () {
      const quota = yield* openQuotas({ slots: resource(Limit.concurrency(4), "throttle") })
      const token = yield* quota.acquire("slots", { expectedUse: 1 })
      const other = yield* quota.acquire("slots", { expectedUse: 1 })
      const holder = yield* other.reserve(3)
      const reservation = yield* token.reserve(1)
      const waiter = yield* fork(other.reserve(1))
      const extending = yield* fork(reservation.extend(2))
      yield* settled
      assert.isTrue(waits(waiter) && waits(extending))
      yield* holder.commit(0)
      yield* Fiber.join(extending)
      yield* Fiber.join(waiter)
      assert.strictEqual(reservation.amount, 3)
      assert.strictEqual(yield* creditOf(token), -30)
    })
  )
})
