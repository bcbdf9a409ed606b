import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import { Budget, Limit, Policy, type Reservation } from "../src/index.ts"
import { forSeedsEffect, make as makeRandom } from "./utils/random.ts"

const FIBERS = 10_000
/** Room for about a thousand of them. */
const MEAN_COST = 10
const CAPACITY = 1_000 * MEAN_COST

class Tokens extends Budget.Service<Tokens>()("test/Tokens") {}
class Dollars extends Budget.Service<Dollars>()("test/Dollars") {}
class Both extends Policy.Service<Both>()("test/Both", { tokens: Tokens, dollars: Dollars }) {}

/**
 * Every fiber reserves a random cost, runs for a while, and commits, fails, is interrupted or just ends. What it was charged
 * is added up beside the budget, and what is out is checked against the capacity at every point.
 */
const crowd = (seed: number) =>
  Effect.gen(function* () {
    const random = makeRandom(seed)
    const both = yield* Both
    const tokens = yield* Tokens
    const dollars = yield* Dollars
    const charged = { tokens: 0, dollars: 0 }
    let granted = 0
    const checkNow = Effect.map(both.snapshot, (snapshot) => {
      for (const [{ available, ledgers }] of [snapshot.tokens, snapshot.dollars]) {
        const [ledger] = ledgers
        assert.isAtLeast(available, 0)
        assert.isAtMost(ledger!.held + ledger!.spent, CAPACITY)
        assert.strictEqual(ledger!.available + ledger!.held + ledger!.spent, CAPACITY)
      }
    })
    const one = Effect.suspend(() => {
      // Either of the two may be the one that does not fit.
      const cost = { tokens: random.int(1, 2 * MEAN_COST - 1), dollars: random.int(1, 2 * MEAN_COST - 1) }
      const end = random.next()
      let mine: Reservation.Reservation<{ readonly tokens: number; readonly dollars: number }> | undefined
      return both
        .withReservation(cost, (reservation) => {
          mine = reservation
          granted++
          return Effect.gen(function* () {
            yield* checkNow
            for (let i = random.int(0, 5); i > 0; i--) yield* Effect.yieldNow
            const spent = { tokens: random.int(0, cost.tokens), dollars: random.int(0, cost.dollars) }
            if (end < 0.3) yield* reservation.commit(spent)
            if (end < 0.5) yield* reservation.progress(spent)
            if (end < 0.7) return yield* Effect.fail("failed" as const)
            if (end < 0.8) return yield* Effect.never
          })
        })
        .pipe(
          Effect.onExit(() =>
            Effect.suspend(() =>
              mine === undefined
                ? Effect.void
                : Effect.map(mine.release, (settlement) => {
                    charged.tokens += settlement.charged.tokens
                    charged.dollars += settlement.charged.dollars
                  })
            )
          )
        )
    })
    const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
    for (let i = 0; i < FIBERS; i++) {
      fibers.push(yield* Effect.forkChild(one))
      if (random.chance(0.1)) random.pick(fibers).interruptUnsafe()
      if (random.chance(0.01)) yield* Effect.yieldNow
    }
    for (let i = 0; i < 100; i++) yield* Effect.yieldNow
    for (const fiber of fibers) fiber.interruptUnsafe()
    for (const fiber of fibers) {
      const exit = yield* Fiber.await(fiber)
      if (Exit.isFailure(exit) && Cause.hasDies(exit.cause)) return yield* Effect.failCause(exit.cause)
    }
    for (const [budget, spentHere] of [
      [tokens, charged.tokens],
      [dollars, charged.dollars]
    ] as const) {
      const { ledgers, overage, waiters } = yield* budget.snapshot
      const [{ available, held, spent }] = ledgers as [(typeof ledgers)[0]]
      assert.deepStrictEqual(
        { available, held, spent, overage, waiters },
        {
          available: CAPACITY - spentHere,
          held: 0,
          spent: spentHere,
          overage: 0,
          waiters: 0
        }
      )
    }
    // The test is about scarcity: most of the room was used, and most of the fibers found none.
    assert.isAbove(charged.tokens, CAPACITY / 2)
    assert.isAbove(granted, 1_000)
    assert.isBelow(granted, FIBERS)
  })

const layerOf = (enforcement: Budget.Options["enforcement"]) => {
  const options = { limit: Limit.capacity(CAPACITY), enforcement }
  return Both.layer.pipe(Layer.provideMerge([Tokens.layer(options), Dollars.layer(options)]))
}

describe("ten thousand fibers against a capacity for one thousand", () => {
  it.effect("never overspend when they are rejected", () =>
    forSeedsEffect(3, (seed) => Effect.provide(crowd(seed), Layer.fresh(layerOf("reject"))))
  )

  it.effect("never overspend when they wait", () =>
    forSeedsEffect(3, (seed) => Effect.provide(crowd(seed), Layer.fresh(layerOf("throttle"))))
  )

  it.effect("never pass a concurrency", () =>
    Effect.gen(function* () {
      const random = makeRandom(1)
      const slots = yield* Tokens
      let running = 0
      let most = 0
      const one = Effect.suspend(() => {
        const width = random.int(1, 5)
        return slots.withReservation(width, () =>
          Effect.gen(function* () {
            running += width
            most = Math.max(most, running)
            yield* Effect.yieldNow
          }).pipe(Effect.ensuring(Effect.sync(() => (running -= width))))
        )
      })
      const fibers = yield* Effect.forEach(Array.from({ length: FIBERS }), () => Effect.forkChild(one))
      for (let i = 0; i < 1_000; i++) random.pick(fibers).interruptUnsafe()
      yield* Effect.forEach(fibers, Fiber.await)
      assert.isAtMost(most, 100)
      assert.isAbove(most, 95)
      assert.strictEqual(yield* slots.available, 100)
    }).pipe(Effect.provide(Tokens.layer({ limit: Limit.concurrency(100), enforcement: "throttle" })))
  )

  it.effect("never pass a rate", () =>
    Effect.gen(function* () {
      const random = makeRandom(1)
      const tokens = yield* Tokens
      let admitted = 0
      const fibers = yield* Effect.forEach(Array.from({ length: FIBERS }), () => {
        const cost = random.int(1, 2 * MEAN_COST - 1)
        return Effect.forkChild(tokens.withReservation(cost, () => Effect.sync(() => void (admitted += cost))))
      })
      yield* Effect.yieldNow
      for (let second = 0; fibers.some((fiber) => fiber.pollUnsafe() === undefined); second++) {
        // A burst, and what has flown in since.
        assert.isAtMost(admitted, 1_000 + 100 * second)
        assert.isAtLeast(admitted, Math.min(1_000 + 100 * second - 2 * MEAN_COST, FIBERS))
        yield* TestClock.adjust("1 second")
      }
      assert.strictEqual((yield* tokens.snapshot).charged, admitted)
    }).pipe(
      Effect.provide(
        Tokens.layer({ limit: Limit.rate({ amount: 100, per: "1 second", burst: 1_000 }), enforcement: "throttle" })
      )
    )
  )
})
