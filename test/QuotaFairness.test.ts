import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Scope, Exit } from "effect"
import { TestClock } from "effect/testing"
import { Limit } from "../src/index.ts"
import { accountOf, open, resource } from "./utils/quotas.ts"

describe("fair shares", () => {
  // 7 a millisecond are what the expected uses of 10, 20 and 40 earn; with a hundredth of it, all credits stand at their most,
  // with a hundred times as much, all sink.
  for (const [name, amount, fibers] of [
    ["what all earn", 7, 5],
    ["what all earn, with many waiters", 7, 60],
    ["less than all earn", 1, 5],
    ["less than all earn, with many waiters", 1, 60],
    ["more than all earn", 700, 600]
  ] as const) {
    it.effect(`three tokens of 1 : 2 : 4 get that much of ${name}, within 5 % over 10,000 grants`, () =>
      Effect.gen(function* () {
        const expectedUses = name.startsWith("less") ? [1_000, 2_000, 4_000] : [10, 20, 40]
        const limit = Limit.rate({ amount, per: "1 millis" })
        const quota = yield* open({ units: resource(limit, "throttle") })
        const served: Array<number> = []
        for (const [i, expectedUse] of expectedUses.entries()) {
          const token = yield* quota.acquire("units", { expectedUse })
          const turn = token.withReservation(1, () => Effect.sync(() => served.push(i)))
          for (let n = 0; n < fibers; n++) yield* Effect.forkScoped(Effect.forever(turn))
        }
        while (served.length < 12_000) yield* TestClock.adjust(1)
        const longest = [0, 0, 0]
        const last = [-1, -1, -1]
        const grants = [0, 0, 0]
        // Those who come first do not wait.
        served.slice(2_000, 12_000).forEach((i, n) => {
          grants[i]!++
          longest[i] = Math.max(longest[i]!, n - last[i]! - 1)
          last[i] = n
        })
        for (const i of [0, 1, 2]) {
          const share = (10_000 * 2 ** i) / 7
          assert.approximately(grants[i]!, share, 0.05 * share, grants.join(" : "))
          assert.isAtMost(longest[i]!, 65 * 2)
        }
      })
    )
  }

  it.effect("a small part that was split off, served and came back costs the rest of the token no more than that", () =>
    Effect.gen(function* () {
      const quota = yield* open({ units: resource(Limit.rate({ amount: 1, per: "1 millis" }), "throttle") })
      const grants = [0, 0]
      const tokens = yield* Effect.forEach([0, 1], () => quota.acquire("units", { expectedUse: 1_000 }))
      for (const [i, token] of tokens.entries()) {
        const turn = token.withReservation(1, () => Effect.sync(() => grants[i]!++))
        for (let n = 0; n < 5; n++) yield* Effect.forkScoped(Effect.forever(turn))
      }
      yield* TestClock.adjust("100 millis")
      const part = yield* Effect.forkChild(
        Effect.scoped(Effect.flatMap(tokens[0]!.split(1), (part) => part.withReservation(1, () => Effect.void))),
        { startImmediately: true }
      )
      while (part.pollUnsafe() === undefined) yield* TestClock.adjust(1)
      grants.fill(0)
      for (let n = 0; n < 200; n++) yield* TestClock.adjust(1)
      for (const count of grants) assert.approximately(count, 100, 5, grants.join(" : "))
    })
  )

  it.effect("a request for 90 % of the capacity is served among thousands of small ones", () =>
    Effect.gen(function* () {
      for (const sameToken of [true, false]) {
        const quota = yield* open({ units: resource(Limit.concurrency(100), "throttle") })
        const small = yield* quota.acquire("units", { expectedUse: 1_000_000 })
        const large = sameToken ? small : yield* quota.acquire("units", { expectedUse: 1 })
        yield* TestClock.adjust("1 second")
        let served = 0
        let before = 0
        const use = Effect.andThen(
          Effect.sleep("10 millis"),
          Effect.sync(() => served++)
        )
        const one = small.withReservation(1, () => use, { onSuccess: "release" })
        for (let n = 0; n < 300; n++) yield* Effect.forkScoped(Effect.forever(one))
        yield* TestClock.adjust("1 second")
        const fiber = yield* Effect.forkChild(
          Effect.andThen(
            Effect.sync(() => (before = served)),
            large.withReservation(90, () => Effect.sync(() => served - before))
          ),
          { startImmediately: true }
        )
        yield* TestClock.adjust("1 second")
        // 64 pass it at most, beside the 200 of its token that came before and 100 that were at it.
        assert.isAtMost(yield* Fiber.join(fiber), 64 + 200 + 100)
        assert.isAbove(served, 5_000)
      }
    })
  )
})

describe("draining", () => {
  const drain = (waiters: number) =>
    Effect.scoped(
      Effect.gen(function* () {
        const quota = yield* open({ units: resource(Limit.concurrency(1), "throttle") })
        const tokens = yield* Effect.forEach(Array.from({ length: 10 }), (_, i) =>
          quota.acquire("units", { expectedUse: 100 * i })
        )
        const scope = yield* Scope.make()
        yield* Scope.provide(tokens[0]!.reserve(1), scope)
        const done = yield* Deferred.make<void>()
        let served = 0
        for (let n = 0; n < waiters; n++) {
          const turn = tokens[n % 10]!.withReservation(1, () =>
            Effect.sync(() => ++served === waiters && Deferred.doneUnsafe(done, Exit.void))
          )
          yield* Effect.forkChild(turn, { startImmediately: true })
        }
        assert.strictEqual(accountOf(tokens[0]!).books.queue?.size, waiters)
        yield* Scope.close(scope, Exit.void)
        yield* Deferred.await(done)
        return served
      })
    )

  it.live("serves 100,000 waiters of ten tokens", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* drain(100_000), 100_000)
    })
  )
})
