import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Config,
  ConfigProvider,
  Deferred,
  Effect,
  Exit,
  Fiber,
  FileSystem,
  Layer,
  Logger,
  Queue,
  Scheduler,
  Scope,
  Stream
} from "effect"
import { TestClock } from "effect/testing"
import { BudgetExceeded, FailedReservation, Limit, type BudgetError, type BudgetStore } from "../src/index.ts"
import { Quota, QuotaManifest, QuotaToken, type QuotaUsages } from "../src/quota/index.ts"
import { MAX_EXPECTED_USE } from "../src/internal/quota/share.ts"
import { accountOf, creditOf, open, resource } from "./utils/quotas.ts"

type Token = QuotaToken.QuotaToken

const usageOf = (quota: Quota["Service"], name = "units") => Effect.map(quota.usage, (usage) => usage[name]!)

/** Quotas with one resource, `units`. */
const opened = (limit: Limit.Limit, enforcement: BudgetStore.Enforcement = "reject") =>
  open({ units: resource(limit, enforcement) })

/** One of them, and a token of it for the scope of the test. */
const one = (limit: Limit.Limit, enforcement: BudgetStore.Enforcement = "reject", expectedUse = 10) =>
  Effect.gen(function* () {
    const quota = yield* opened(limit, enforcement)
    return { quota, token: yield* quota.acquire("units", { expectedUse }) }
  })

const rejected = <A>(
  effect: Effect.Effect<A, BudgetError.BudgetExceeded | BudgetError.FailedReservation, Scope.Scope>
): Effect.Effect<BudgetError.FailedReservationReason, never, Scope.Scope> =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.instanceOf(error, FailedReservation)
    return error.reason
  }).pipe(Effect.orDie)

const defectOf = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Error, never, R> =>
  Effect.map(Effect.exit(effect), (exit) => {
    assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), "a defect")
    const defect = Cause.squash((exit as Exit.Failure<A, E>).cause)
    assert.instanceOf(defect, Error)
    return defect
  })

const dies = <A, E, R>(effect: Effect.Effect<A, E, R>, words: string) =>
  Effect.map(defectOf(effect), (defect) => assert.include(defect.message, words))

/** Starts to wait. */
const waits = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

/** Takes an amount until it is given back by closing the scope that it answers. */
const hold = (token: Token, amount: number) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    yield* Scope.provide(token.reserve(amount, { onSuccess: "release" }), scope)
    return scope
  })

const release = (scope: Scope.Closeable) => Scope.close(scope, Exit.void)

describe("Quota: what differs from its forerunners", () => {
  it.effect("ties in priority go by ticket", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.concurrency(1), "throttle", 0)
      const other = yield* quota.acquire("units", { expectedUse: 0 })
      const holder = yield* hold(yield* quota.acquire("units", { expectedUse: 0 }), 1)
      const served: Array<string> = []
      const ask = (name: string, token: Token) =>
        waits(token.withReservation(1, () => Effect.sync(() => served.push(name)), { onSuccess: "release" }))
      const fibers = [yield* ask("a", other), yield* ask("b", token), yield* ask("c", other), yield* ask("d", token)]
      yield* release(holder)
      yield* Fiber.joinAll(fibers)
      assert.deepStrictEqual(served, ["a", "b", "c", "d"])
    })
  )

  it.effect("overtaking is bounded: a token without credit is served after 65 grants to another at the latest", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.concurrency(1), "throttle", 1_000_000)
      const poor = yield* quota.acquire("units", { expectedUse: 0 })
      let served = 0
      const turn = token.withReservation(1, () =>
        Effect.andThen(
          Effect.sync(() => served++),
          Effect.sleep("1 second")
        )
      )
      for (let n = 0; n < 3; n++) yield* Effect.forkScoped(Effect.forever(turn))
      yield* TestClock.adjust("1 second")
      const before = served
      const fiber = yield* waits(poor.withReservation(1, () => Effect.sync(() => served - before)))
      for (let n = 0; n < 100; n++) yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(fiber), 64)
    })
  )

  it.effect("an interrupted waiter leaks nothing", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.concurrency(1), "throttle")
      const holder = yield* hold(token, 1)
      const fiber = yield* waits(token.withReservation(1, () => Effect.never))
      const credit = yield* creditOf(token)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* creditOf(token), credit)
      yield* release(holder)
      const { available, held, waiters } = yield* usageOf(quota)
      assert.deepStrictEqual({ available, held, waiters }, { available: 1, held: 0, waiters: 0 })
    })
  )

  it.effect("a refund is not lost when the definition changes meanwhile", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.capacity(100))
      const holder = yield* hold(token, 60)
      yield* quota.update("units", resource(Limit.capacity(80)))
      yield* release(holder)
      assert.strictEqual((yield* usageOf(quota)).available, 80)
    })
  )

  it.effect("overage is debt", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.capacity(10))
      yield* token.withReservation(5, () => Effect.succeed(QuotaToken.used(25, undefined)))
      const { available, spent } = yield* usageOf(quota)
      assert.deepStrictEqual({ available, spent }, { available: -15, spent: 25 })
      assert.strictEqual(yield* creditOf(token), -250)
    })
  )

  it.effect("concurrency slots come back, whole, always", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.concurrency(3))
      yield* token.withReservation(3, () => Effect.succeed(QuotaToken.used(1, undefined)))
      yield* token.withReservation(3, () => Effect.void)
      yield* Effect.exit(token.withReservation(3, () => Effect.die("on purpose")))
      yield* Effect.scoped(token.reserve(3))
      assert.strictEqual((yield* usageOf(quota)).available, 3)
    })
  )

  it.effect("consumption survives every change of a definition", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.capacity(100))
      yield* token.withReservation(100, () => Effect.void)
      yield* quota.update("units", resource(Limit.capacity(100)))
      yield* quota.define("units", resource(Limit.capacity(100), "throttle"))
      assert.strictEqual((yield* usageOf(quota)).available, 0)
      yield* quota.update("units", resource(Limit.capacity(130)))
      assert.strictEqual((yield* usageOf(quota)).available, 30)
      // Also when it was not there for a while.
      yield* quota.remove("units")
      yield* quota.define("units", resource(Limit.capacity(130)))
      assert.strictEqual((yield* usageOf(quota)).available, 30)
      yield* token.withReservation(30, () => Effect.void)
    })
  )

  it.effect("an amount above the maximum fails at once, never fits", () =>
    Effect.gen(function* () {
      for (const enforcement of ["reject", "throttle"] as const) {
        for (const limit of [Limit.capacity(5), Limit.concurrency(5), Limit.rate({ amount: 5, per: "1 second" })]) {
          const { token } = yield* one(limit, enforcement)
          const error = yield* Effect.flip(token.reserve(6))
          assert.instanceOf(error, BudgetExceeded)
          assert.isUndefined(error.retryAfter)
        }
      }
    })
  )

  it.effect("a rate with the value 0 is refused", () =>
    Effect.gen(function* () {
      const bad = { environments: { test: { units: { limit: { type: "rate", value: 0, period: "second" } } } } }
      const error = yield* Effect.flip(QuotaManifest.parse(JSON.stringify(bad)))
      assert.include(error.message, "environments.test.units.limit.value")
      const zero = resource(Limit.rate({ amount: 0, per: "1 second" }))
      yield* dies(open({ units: zero }), 'Budget "units": a rate of 0 would never refill')
    })
  )

  it.effect("an unknown resource name is an UnknownResource", () =>
    Effect.gen(function* () {
      const quota = yield* opened(Limit.capacity(1))
      const error = yield* Effect.flip(quota.acquire("unit", { expectedUse: 3 }))
      assert.instanceOf(error, FailedReservation)
      assert.strictEqual(error.message, 'Budget "unit": 3 requested, no resource "unit" is defined')
      assert.strictEqual((yield* Effect.flip(quota.update("unit", resource(Limit.unlimited)))).resource, "unit")
      assert.strictEqual((yield* Effect.flip(quota.remove("unit"))).resource, "unit")
    })
  )

  it.effect("deleting a definition fails its waiters, settles its holds, fails new reserves", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.concurrency(2), "throttle")
      const gate = yield* Deferred.make<void>()
      const holder = yield* waits(
        token.withReservation(2, (reservation) =>
          Effect.andThen(Deferred.await(gate), Effect.exit(reservation.extend(0)))
        )
      )
      const waiting = yield* waits(rejected(token.reserve(1)))
      yield* quota.remove("units")
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "UnknownResource")
      assert.strictEqual((yield* rejected(token.reserve(0)))._tag, "UnknownResource")
      assert.isFalse(Object.hasOwn(yield* quota.usage, "units"))
      yield* Effect.flip(quota.acquire("units", { expectedUse: 1 }))
      yield* Deferred.succeed(gate, undefined)
      assert.isTrue(Exit.isFailure(yield* Fiber.join(holder)), "an extension is a new reserve")
      yield* quota.define("units", resource(Limit.concurrency(2)))
      const { available, held } = yield* usageOf(quota)
      assert.deepStrictEqual({ available, held }, { available: 2, held: 0 })
    })
  )

  it.effect("a rate refills continuously by default, and by whole periods if asked", () =>
    Effect.gen(function* () {
      const rate = { amount: 10, per: "1 second" } as const
      const quota = yield* open({
        flow: resource(Limit.rate(rate)),
        drops: resource(Limit.rate({ ...rate, refill: "interval" }))
      })
      const waits: Record<string, unknown> = {}
      for (const name of ["flow", "drops"]) {
        const token = yield* quota.acquire(name, { expectedUse: 1 })
        yield* token.withReservation(10, () => Effect.void)
        waits[name] = yield* rejected(token.reserve(1))
      }
      assert.deepInclude(waits["flow"], { message: "rejected, estimated wait 100ms" })
      assert.deepInclude(waits["drops"], { message: "rejected, estimated wait 1s" })
    })
  )
})

describe("Quota: enforcement", () => {
  it.effect("reject answers the estimated wait of a rate, and none of a capacity or a concurrency", () =>
    Effect.gen(function* () {
      const limits = [Limit.rate({ amount: 10, per: "1 second" }), Limit.capacity(10), Limit.concurrency(10)]
      const waits = yield* Effect.forEach(limits, (limit) =>
        Effect.gen(function* () {
          const { token } = yield* one(limit)
          yield* token.reserve(7)
          const reason = yield* rejected(token.reserve(8))
          assert.strictEqual(reason._tag, "Rejected")
          return reason.message
        })
      )
      assert.deepStrictEqual(waits, ["rejected, estimated wait 500ms", "rejected", "rejected"])
    })
  )

  it.effect("throttle waits its turn, with a limit in time if asked", () =>
    Effect.gen(function* () {
      const { token } = yield* one(Limit.rate({ amount: 10, per: "1 second" }), "throttle")
      yield* token.withReservation(10, () => Effect.void)
      const fiber = yield* waits(token.withReservation(5, () => Effect.succeed("done")))
      const late = yield* waits(rejected(token.reserve(10, { timeout: "700 millis" })))
      yield* TestClock.adjust("499 millis")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "done")
      yield* TestClock.adjust("200 millis")
      assert.strictEqual((yield* Fiber.join(late))._tag, "TimedOut")
    })
  )

  it.effect("terminate ends the fiber with a defect that says why, and finalizers run", () =>
    Effect.gen(function* () {
      const { token } = yield* one(Limit.capacity(10), "terminate")
      let finalized = false
      const program = Effect.ensuring(
        token.withReservation(11, () => Effect.void),
        Effect.sync(() => (finalized = true))
      )
      const defect = yield* defectOf(program)
      assert.instanceOf(defect, BudgetExceeded)
      assert.include(defect.message, "11 requested, 10 available of its capacity of 10")
      assert.isTrue(finalized)
    })
  )

  it.effect("changed to reject, who waits is rejected unless there is room", () =>
    Effect.gen(function* () {
      const rate = Limit.rate({ amount: 10, per: "1 second" })
      const { quota, token } = yield* one(rate, "throttle")
      yield* token.withReservation(8, () => Effect.void)
      const large = yield* waits(rejected(token.reserve(10)))
      const small = yield* waits(token.withReservation(2, () => Effect.succeed("done")))
      yield* quota.update("units", resource(rate))
      const reason = yield* Fiber.join(large)
      assert.strictEqual(reason.message, "rejected, estimated wait 800ms")
      assert.strictEqual(yield* Fiber.join(small), "done")
    })
  )

  it.effect("changed to terminate, who waits ends with a defect; changed to throttle, who comes waits", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.concurrency(1), "throttle")
      const holder = yield* hold(token, 1)
      const waiting = yield* waits(defectOf(token.withReservation(1, () => Effect.void)))
      yield* quota.update("units", resource(Limit.concurrency(1), "terminate"))
      assert.instanceOf(yield* Fiber.join(waiting), BudgetExceeded)
      yield* quota.update("units", resource(Limit.concurrency(1), "throttle"))
      const again = yield* waits(token.withReservation(1, () => Effect.void))
      yield* Effect.yieldNow
      assert.strictEqual((yield* usageOf(quota)).waiters, 1)
      yield* release(holder)
      yield* Fiber.join(again)
    })
  )

  it.effect("a limit and an enforcement change in one step: what can never fit any more ends as the new one says", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.capacity(10), "throttle")
      yield* token.reserve(5)
      const waiting = yield* waits(defectOf(token.withReservation(8, () => Effect.void)))
      yield* quota.update("units", resource(Limit.capacity(6), "terminate"))
      assert.instanceOf(yield* Fiber.join(waiting), BudgetExceeded)
    })
  )

  it.effect("two who define the same resource at once define one", () =>
    Effect.gen(function* () {
      for (let operations = 3; operations <= 20; operations++) {
        const quota = yield* open({})
        const define = (amount: number) =>
          Effect.forkChild(
            quota.define("units", resource(Limit.capacity(amount))).pipe(
              Effect.andThen(quota.acquire("units", { expectedUse: amount })),
              Effect.tap((token) => token.withReservation(amount, () => Effect.void)),
              Effect.exit,
              Effect.provideService(Scheduler.MaxOpsBeforeYield, operations)
            )
          )
        yield* Fiber.joinAll([yield* define(5), yield* define(7)])
        const { available, granted, spent, tokens } = yield* usageOf(quota)
        assert.isAbove(spent, 0)
        assert.deepStrictEqual({ granted, sum: available + spent, tokens }, { granted, sum: granted, tokens: 2 })
      }
    })
  )

  it.effect("a raised limit admits who waits, a lowered one fails what can never fit any more", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.concurrency(4), "throttle")
      yield* token.reserve(4)
      const three = yield* waits(Effect.flip(Effect.scoped(token.reserve(3))))
      const two = yield* waits(Effect.scoped(token.reserve(2)))
      yield* quota.update("units", resource(Limit.concurrency(2), "throttle"))
      assert.instanceOf(yield* Fiber.join(three), BudgetExceeded)
      yield* quota.update("units", resource(Limit.concurrency(6), "throttle"))
      yield* Fiber.join(two)
    })
  )

  it.effect("the kind of a limit can be changed", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.capacity(10))
      yield* token.withReservation(4, () => Effect.void)
      yield* quota.update("units", resource(Limit.concurrency(3)))
      assert.strictEqual((yield* usageOf(quota)).available, 3)
      yield* quota.update("units", resource(Limit.unlimited))
      yield* token.withReservation(1_000, () => Effect.void)
    })
  )
})

describe("QuotaToken", () => {
  it.effect("commits what is used, and only what QuotaToken.used says", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.capacity(100))
      const value: string = yield* token.withReservation(10, () => Effect.succeed(QuotaToken.used(3, "mine")))
      assert.strictEqual(value, "mine")
      assert.strictEqual((yield* usageOf(quota)).spent, 3)
      const alike = { used: 1, value: "mine" }
      assert.strictEqual(yield* token.withReservation(10, () => Effect.succeed(alike)), alike)
      assert.strictEqual((yield* usageOf(quota)).spent, 13)
      const first = yield* token.withReservation(10, (reservation) =>
        Effect.as(reservation.commit(5), QuotaToken.used(7, "committed before"))
      )
      assert.strictEqual(first, "committed before")
      assert.strictEqual((yield* usageOf(quota)).spent, 18)
      yield* dies(
        token.withReservation(10, () => Effect.succeed(QuotaToken.used(-1, 0))),
        "the actual amount must be a whole number"
      )
      // Unknown is never zero.
      assert.strictEqual((yield* usageOf(quota)).spent, 28)
    })
  )

  it.effect("earns on the Clock, pays for a grant also when it does not wait, and gets back what is not used", () =>
    Effect.gen(function* () {
      const { token } = yield* one(Limit.capacity(10_000), "reject", 10)
      assert.strictEqual(yield* creditOf(token), 0)
      yield* TestClock.adjust("30 millis")
      assert.strictEqual(yield* creditOf(token), 300)
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* creditOf(token), 10_000)
      yield* token.withReservation(1_500, (reservation) =>
        Effect.gen(function* () {
          assert.strictEqual(yield* creditOf(token), -5_000)
          yield* reservation.extend(500)
          assert.strictEqual(yield* creditOf(token), -10_000)
          return QuotaToken.used(400, undefined)
        })
      )
      assert.strictEqual(yield* creditOf(token), 6_000)
    })
  )

  it.effect("splits what is expected and its credit, which come back when the child is closed", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.capacity(1_000), "reject", 10)
      yield* TestClock.adjust("100 millis")
      const scope = yield* Scope.make()
      const child = yield* Scope.provide(token.split(3), scope)
      assert.deepStrictEqual([yield* token.expectedUse, yield* child.expectedUse], [7, 3])
      assert.deepStrictEqual([yield* creditOf(token), yield* creditOf(child)], [700, 300])
      assert.strictEqual((yield* usageOf(quota)).tokens, 2)
      const open = yield* hold(child, 20)
      yield* release(scope)
      assert.strictEqual((yield* usageOf(quota)).tokens, 1)
      assert.deepStrictEqual([yield* token.expectedUse, yield* creditOf(token)], [10, 800])
      yield* dies(child.reserve(1), 'Quota "units": the token has been closed with its scope')
      // Its reservation goes on, and what it gives back comes to who took over.
      assert.strictEqual((yield* usageOf(quota)).held, 20)
      yield* release(open)
      assert.strictEqual((yield* usageOf(quota)).held, 0)
      assert.strictEqual(yield* creditOf(token), 1_000)
    })
  )

  it.effect("splits nothing or all, and no more than all", () =>
    Effect.gen(function* () {
      const { token } = yield* one(Limit.capacity(1_000))
      const nothing = yield* token.split(0)
      const all = yield* token.split(10)
      assert.deepStrictEqual([yield* nothing.expectedUse, yield* all.expectedUse, yield* token.expectedUse], [0, 10, 0])
      yield* Effect.scoped(nothing.reserve(5))
      yield* dies(token.split(1), 'Quota "units": 1 cannot be split from an expected use of 0')
      yield* dies(all.split(11), "11 cannot be split")
      yield* dies(all.split(-1), "the expected use must be a whole number from 0 to")
      yield* dies(all.split(0.5), "the expected use must be a whole number from 0 to")
      assert.strictEqual(yield* all.expectedUse, 10)
    })
  )

  it.effect("closes those that were split from it, however deep", () =>
    Effect.gen(function* () {
      const quota = yield* opened(Limit.concurrency(10), "throttle")
      const scope = yield* Scope.make()
      const parent = yield* Scope.provide(quota.acquire("units", { expectedUse: 10 }), scope)
      const child = yield* parent.split(6)
      const grandchild = yield* child.split(2)
      const open = yield* hold(grandchild, 10)
      const waiting = yield* waits(defectOf(Effect.scoped(grandchild.reserve(1))))
      yield* release(scope)
      assert.include((yield* Fiber.join(waiting)).message, "has been closed with the one it was split from")
      for (const token of [child, grandchild]) {
        yield* dies(token.reserve(0), "has been closed with the one it was split from")
      }
      assert.strictEqual((yield* usageOf(quota)).tokens, 0)
      yield* release(open)
      assert.strictEqual((yield* usageOf(quota)).available, 10)
    })
  )

  it.effect("merges another of its resource, which is no more", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.concurrency(10), "throttle", 10)
      const other = yield* quota.acquire("units", { expectedUse: 5 })
      const child = yield* other.split(2)
      yield* TestClock.adjust("10 millis")
      const open = yield* hold(other, 10)
      const waiting = yield* waits(defectOf(Effect.scoped(other.reserve(1))))
      yield* token.merge(other)
      assert.deepStrictEqual([yield* token.expectedUse, yield* creditOf(token)], [15, 50])
      assert.include((yield* Fiber.join(waiting)).message, 'Quota "units": the token has been merged into another')
      const operations: ReadonlyArray<Effect.Effect<unknown, unknown, Scope.Scope>> = [
        other.expectedUse,
        other.reserve(1),
        other.withReservation(1, () => Effect.void),
        other.split(0),
        other.merge(token),
        token.merge(other)
      ]
      for (const operation of operations) yield* dies(operation, "the token has been merged into another")
      yield* dies(child.reserve(1), "has been closed with the one it was split from")
      yield* release(open)
      assert.strictEqual(yield* creditOf(token), 150)
      assert.strictEqual((yield* usageOf(quota)).tokens, 1)
    })
  )

  it.effect("merges nothing else, and then nothing changes", () =>
    Effect.gen(function* () {
      const quota = yield* open({ units: resource(Limit.capacity(10)), others: resource(Limit.capacity(10)) })
      const token = yield* quota.acquire("units", { expectedUse: 10 })
      const child = yield* token.split(4)
      const stranger = yield* (yield* opened(Limit.capacity(10))).acquire("units", { expectedUse: 1 })
      yield* dies(token.merge(token), 'Quota "units": a token cannot be merged with itself')
      yield* dies(token.merge(yield* quota.acquire("others", { expectedUse: 1 })), 'merged with one of "others"')
      yield* dies(token.merge(stranger), "merged with one of another Quota")
      yield* dies(child.merge(token), "merged with one that it was split from")
      assert.deepStrictEqual([yield* token.expectedUse, yield* child.expectedUse], [6, 4])
      yield* token.merge(child)
      assert.strictEqual(yield* token.expectedUse, 10)
    })
  )

  it.effect("cannot be made by hand, nor by a copy", () =>
    Effect.gen(function* () {
      const { quota, token } = yield* one(Limit.capacity(10))
      const copies: ReadonlyArray<unknown> = [
        {},
        null,
        undefined,
        "token",
        { ...token },
        structuredClone(token),
        JSON.parse(JSON.stringify(token)),
        Object.create(token),
        Object.create(Object.getPrototypeOf(token)),
        Object.assign(Object.create(Object.getPrototypeOf(token)), token),
        new Proxy(token, {})
      ]
      for (const copy of copies) {
        yield* dies(
          Effect.suspend(() => token.merge(copy as Token)),
          "This is not a QuotaToken"
        )
        yield* Effect.suspend(() => (copy as Token).reserve(1)).pipe(
          Effect.exit,
          Effect.map((exit) => assert.isTrue(Exit.hasDies(exit)))
        )
      }
      assert.isTrue(Object.isFrozen(token))
      assert.isTrue(Object.isFrozen(Object.getPrototypeOf(token)), "else it could be made to hand out other tokens")
      assert.strictEqual(token.constructor, Object)
      assert.strictEqual(token.resource, "units")
      const { held, tokens } = yield* usageOf(quota)
      assert.deepStrictEqual({ held, tokens }, { held: 0, tokens: 1 })
    })
  )

  it.effect("refuses a wrong expected use", () =>
    Effect.gen(function* () {
      const quota = yield* opened(Limit.capacity(10))
      for (const expectedUse of [-1, 0.5, NaN, MAX_EXPECTED_USE + 1]) {
        yield* dies(quota.acquire("units", { expectedUse }), "the expected use must be a whole number from 0 to")
      }
      yield* quota.acquire("units", { expectedUse: MAX_EXPECTED_USE })
    })
  )
})

describe("Quota: who waits", () => {
  it.effect("is served by credit for the amount, highest first, and nobody passes the first", () =>
    Effect.gen(function* () {
      const quota = yield* opened(Limit.concurrency(10), "throttle")
      const tokens = yield* Effect.forEach([1, 10, 100], (expectedUse) => quota.acquire("units", { expectedUse }))
      const holder = yield* hold(yield* quota.acquire("units", { expectedUse: 0 }), 10)
      yield* TestClock.adjust("10 millis")
      const served: Array<string> = []
      const ask = (i: number, amount: number) =>
        waits(
          tokens[i]!.withReservation(
            amount,
            () =>
              Effect.andThen(
                Effect.sync(() => served.push(`${amount} for ${i}`)),
                Effect.sleep("1 second")
              ),
            { onSuccess: "release" }
          )
        )
      // Credits of 1, 10 and 100 units: for the amounts that is 0.2, 2, 1, 12.5 and 10 at first.
      const fibers = [yield* ask(0, 5), yield* ask(1, 5), yield* ask(1, 10), yield* ask(2, 8), yield* ask(2, 10)]
      yield* release(holder)
      yield* Effect.yieldNow
      // 10 for 2 is the first now (9.2), and nobody who would fit passes it.
      assert.deepStrictEqual(served, ["8 for 2"])
      for (let i = 0; i < 10; i++) yield* TestClock.adjust("1 second")
      yield* Fiber.joinAll(fibers)
      assert.deepStrictEqual(served, ["8 for 2", "10 for 2", "5 for 1", "10 for 1", "5 for 0"])
    })
  )

  it.effect("two grants of one step see each other's debit", () =>
    Effect.gen(function* () {
      const quota = yield* opened(Limit.concurrency(2), "throttle")
      const [a, b] = yield* Effect.forEach([11, 10], (expectedUse) => quota.acquire("units", { expectedUse }))
      const holder = yield* hold(yield* quota.acquire("units", { expectedUse: 0 }), 2)
      yield* TestClock.adjust("1 millis")
      const served: Array<string> = []
      const ask = (name: string, token: Token) =>
        waits(
          token.withReservation(1, () =>
            Effect.andThen(
              Effect.sync(() => served.push(name)),
              Effect.never
            )
          )
        )
      for (let i = 0; i < 2; i++) {
        yield* ask("a", a!)
        yield* ask("b", b!)
      }
      yield* release(holder)
      yield* Effect.yieldNow
      assert.deepStrictEqual(served.toSorted(), ["a", "b"])
    })
  )
})

describe("Quota: usage", () => {
  it.effect("tells of each resource, now and after every change", () =>
    Effect.gen(function* () {
      const quota = yield* open({
        pages: { limit: Limit.capacity(10), enforcement: "throttle", unit: "page", units: "pages" }
      })
      const told = yield* Queue.unbounded<string>()
      yield* quota.usageChanges.pipe(
        Stream.runForEach((usages) =>
          Queue.offer(
            told,
            Object.entries(usages)
              .map(([name, { available, held, spent, tokens, waiters }]) =>
                [name, available, held, spent, waiters, tokens].join(" ")
              )
              .join(", ")
          )
        ),
        Effect.forkScoped
      )
      const next = Queue.take(told)
      assert.strictEqual(yield* next, "pages 10 0 0 0 0")
      const token = yield* quota.acquire("pages", { expectedUse: 1 })
      assert.strictEqual(yield* next, "pages 10 0 0 0 1")
      const holder = yield* hold(token, 8)
      assert.strictEqual(yield* next, "pages 2 8 0 0 1")
      const waiting = yield* waits(token.withReservation(5, () => Effect.void))
      assert.strictEqual(yield* next, "pages 2 8 0 1 1")
      // The waiter runs within the settlement.
      yield* release(holder)
      assert.strictEqual(yield* next, "pages 5 0 5 0 1")
      yield* Fiber.join(waiting)
      yield* quota.define("rows", resource(Limit.concurrency(3)))
      assert.strictEqual(yield* next, "pages 5 0 5 0 1, rows 3 0 0 0 0")
      yield* quota.remove("pages")
      assert.strictEqual(yield* next, "rows 3 0 0 0 0")
      assert.deepStrictEqual(yield* usageOf(quota, "rows"), {
        limit: Limit.concurrency(3),
        enforcement: "reject",
        unit: "unit",
        units: "units",
        granted: 3,
        available: 3,
        held: 0,
        spent: 0,
        waiters: 0,
        tokens: 0
      })
    })
  )

  it.effect("who listens for long leaves nothing behind where nothing changes", () =>
    Effect.gen(function* () {
      const quota = yield* open({ busy: resource(Limit.capacity(50)), quiet: resource(Limit.concurrency(1)) })
      const busy = yield* quota.acquire("busy", { expectedUse: 1 })
      const quiet = yield* quota.acquire("quiet", { expectedUse: 1 })
      let told = 0
      const fiber = yield* waits(Stream.runForEach(quota.usageChanges, () => Effect.sync(() => told++)))
      for (let n = 0; n < 50; n++) {
        yield* busy.withReservation(1, () => TestClock.adjust(1))
      }
      yield* TestClock.adjust(1)
      assert.isAtLeast(told, 50)
      assert.isAtMost(accountOf(quiet).books.listeners?.size ?? 0, 1)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(accountOf(quiet).books.listeners?.size ?? 0, 0)
    })
  )

  it.effect("an empty name and a limit that cannot be used are refused, and change nothing", () =>
    Effect.gen(function* () {
      const quota = yield* opened(Limit.capacity(10))
      yield* dies(quota.define("", resource(Limit.capacity(1))), "A resource must have a name")
      yield* dies(quota.define("rows", resource(Limit.capacity(-1))), 'Budget "rows": the capacity amount -1')
      yield* dies(
        quota.update("units", resource(Limit.capacity(-1), "throttle")),
        'Budget "units": the capacity amount -1'
      )
      const usage = yield* quota.usage
      assert.deepStrictEqual(Object.keys(usage), ["units"])
      assert.strictEqual(usage["units"]!.enforcement, "reject")
    })
  )
})

describe("Quota: layers", () => {
  const text = (value: number, more = "") => `
environments:
  test:
    units: { limit: { type: capacity, value: ${value} }, unit: row }
${more}
`

  it.effect("an environment that is not there is an error", () =>
    Effect.gen(function* () {
      const manifest = yield* QuotaManifest.parse(text(10))
      const error = yield* Effect.flip(Layer.build(Quota.layer(manifest, { environment: "live" })))
      assert.include(error.message, 'no environment "live", there are "test"')
    })
  )

  it.effect("from configuration", () =>
    Effect.gen(function* () {
      const layer = Quota.layerConfig({
        manifest: Config.schema(QuotaManifest.QuotaManifest, "quotas"),
        environment: Config.String("environment")
      })
      const provider = ConfigProvider.fromUnknown({
        environment: "test",
        quotas: { environments: { test: { units: { limit: { type: "capacity", value: 3 } } }, live: {} } }
      })
      const usage = yield* Effect.flatMap(Quota, ({ usage }) => usage).pipe(
        Effect.provide(Layer.provide(layer, ConfigProvider.layer(provider)))
      )
      assert.strictEqual(usage["units"]?.available, 3)
    })
  )

  it.live(
    "from a file that is watched: what changes applies, what is used is kept, what is broken is told and changes nothing",
    () =>
      Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        const path = `${yield* fs.makeTempDirectoryScoped()}/quotas.yaml`
        const write = (text: string) => fs.writeFileString(path, text)
        yield* write(text(10))
        const warnings = yield* Queue.unbounded<string>()
        const logger = Logger.make(({ message }) => Queue.offerUnsafe(warnings, String(message)))
        yield* Effect.gen(function* () {
          const quota = yield* Quota
          const becomes = (predicate: (usages: QuotaUsages) => boolean) =>
            quota.usageChanges.pipe(Stream.filter(predicate), Stream.runHead)
          const token = yield* quota.acquire("units", { expectedUse: 1 })
          yield* token.withReservation(4, () => Effect.void)
          assert.strictEqual((yield* usageOf(quota)).units, "rows")
          yield* write(text(20, "    more: { limit: { type: concurrency, value: 2 } }"))
          yield* becomes((usages) => usages["more"]?.available === 2)
          assert.strictEqual((yield* usageOf(quota)).available, 16)
          yield* write(text(0))
          assert.include(yield* Queue.take(warnings), `${path}: environments.test.units.limit.value`)
          yield* write("environments: { live: {}, other: {} }")
          assert.include(yield* Queue.take(warnings), "say which environment")
          assert.strictEqual((yield* usageOf(quota)).available, 16)
          yield* write(text(15))
          yield* becomes((usages) => usages["more"] === undefined && usages["units"]?.available === 11)
          yield* write("environments: { test: { more: { limit: { type: concurrency, value: 3 } } } }")
          yield* becomes((usages) => usages["units"] === undefined && usages["more"]?.available === 3)
          assert.strictEqual((yield* rejected(token.reserve(1)))._tag, "UnknownResource")
          yield* write("environments: { test: { units: { limit: { type: rate, value: 9, period: 365 days } } } }")
          yield* becomes((usages) => usages["units"]?.limit._tag === "Rate")
          yield* write(text(15))
          yield* becomes((usages) => usages["units"]?.limit._tag === "Capacity")
          assert.strictEqual((yield* usageOf(quota)).spent, 4)
        }).pipe(Effect.provide(Layer.provide(Quota.layerFile(path, { watch: true }), Logger.layer([logger]))))
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
  )
})
