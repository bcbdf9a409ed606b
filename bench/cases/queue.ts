import { Budget, Limit, Quota } from "effect-budget"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import { setImmediate } from "node:timers/promises"
import pLimit from "p-limit"
import PQueue from "p-queue"
import { type Case, nanosNow, promiseCase, type Suite } from "../harness.ts"

/** Runs an effect, or a function that answers a promise, once there is room. */
type Guarded = (use: Effect.Effect<void>) => Effect.Effect<void, unknown>
type Limited = (use: () => Promise<void>) => Promise<unknown>

const count = (n: number): string => n.toLocaleString("en")

/**
 * All wait behind those who hold the slots; the time is from their end to the end of the last. Each takes its turn, yields once
 * and makes room.
 */
const drainEffects = (name: string, waiters: number, guarded: Guarded, slots = 1): Case => ({
  name: `${count(waiters)} waiters drained, ${name}`,
  kind: "whole",
  run: () =>
    Effect.runPromise(
      Effect.gen(function* () {
        const gate = yield* Deferred.make<void>()
        const holders = yield* Effect.forEach(Array.from({ length: slots }), () =>
          Effect.forkChild(guarded(Deferred.await(gate)), { startImmediately: true })
        )
        let served = 0
        const turn = Effect.andThen(
          Effect.yieldNow,
          Effect.sync(() => served++)
        )
        const fibers = yield* Effect.forEach(Array.from({ length: waiters }), () =>
          Effect.forkChild(guarded(Effect.asVoid(turn)), { startImmediately: true })
        )
        yield* Effect.sleep(1)
        if (served > 0) return yield* Effect.die(new Error(`${name}: ${served} did not wait`))
        const start = nanosNow()
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.await(fibers[waiters - 1]!)
        const nanos = nanosNow() - start
        yield* Fiber.joinAll([...holders, ...fibers])
        return nanos
      })
    )
})

const drainPromises = (name: string, waiters: number, limited: Limited): Case => ({
  name: `${count(waiters)} waiters drained, ${name}`,
  kind: "whole",
  run: async () => {
    const gate = Promise.withResolvers<undefined>()
    void limited(() => gate.promise)
    const turns = Array.from({ length: waiters }, () => limited(yieldOnce))
    await new Promise((resolve) => setTimeout(resolve, 1))
    const start = nanosNow()
    gate.resolve(undefined)
    await turns[waiters - 1]
    const nanos = nanosNow() - start
    await Promise.all(turns)
    return nanos
  }
})

/** As an effect's yield does, it lets the event loop turn once. */
const yieldOnce = (): Promise<void> => setImmediate()

/** A thousand start at once where ten have room; the time is from the start of the first to the end of the last. */
const crowd = 1_000
const room = 10

const crowdEffects = (name: string, guarded: Guarded): Case =>
  promiseCase(`${count(crowd)} over ${room}, ${name}`, () =>
    Effect.runPromise(
      Effect.forEach(Array.from({ length: crowd }), () => guarded(Effect.yieldNow), {
        concurrency: "unbounded",
        discard: true
      })
    )
  )

const crowdPromises = (name: string, limited: Limited): Case =>
  promiseCase(`${count(crowd)} over ${room}, ${name}`, () =>
    Promise.all(Array.from({ length: crowd }, () => limited(yieldOnce)))
  )

const throttled = (name: string, concurrency: number) =>
  Effect.map(
    Budget.make({ name, limit: Limit.concurrency(concurrency), enforcement: "throttle" }),
    (budget): Guarded =>
      (use) =>
        budget.withReservation(1, () => use)
  )

export const queueSuite = Effect.gen(function* () {
  const one = yield* throttled("one at a time", 1)
  const few = yield* throttled("few at a time", room)
  const semaphore = Semaphore.makeUnsafe(1).withPermits(1)
  const wideSemaphore = Semaphore.makeUnsafe(room).withPermits(1)
  const limit = pLimit(1)
  const queue = new PQueue({ concurrency: 1 })
  const wideQueue = new PQueue({ concurrency: room })
  const services = yield* Layer.build(
    Quota.layer({
      environments: {
        bench: { slots: { limit: Limit.concurrency(1), enforcement: "throttle", unit: "slot", units: "slots" } }
      }
    })
  )
  const tokens = yield* Effect.forEach(Array.from({ length: 10 }), (_, i) =>
    Context.get(services, Quota).acquire("slots", { expectedUse: 100 * (i + 1) })
  )
  let next = 0
  const ofTokens: Guarded = (use) => tokens[next++ % tokens.length]!.withReservation(1, () => use)
  const drains = (waiters: number) => ({
    tokens: drainEffects("ten tokens of a quota", waiters, ofTokens),
    budget: drainEffects("Budget", waiters, one),
    budgetOfTen: drainEffects(`Budget, ${room} at a time`, waiters, few, room),
    pLimit: drainPromises("p-limit", waiters, limit),
    pQueue: drainPromises("p-queue", waiters, (use) => queue.add(use))
  })
  const small = drains(10_000)
  const large = drains(100_000)
  // The semaphore looks at all who wait each time that one makes room: 100,000 would take minutes.
  const thousand = drainEffects("Semaphore", 1_000, semaphore)
  const tenThousand = drainEffects("Semaphore", 10_000, semaphore)
  const crowds = {
    budget: crowdEffects("Budget", few),
    others: [
      crowdEffects("Semaphore", wideSemaphore),
      crowdPromises("p-limit", pLimit(room)),
      crowdPromises("p-queue", (use) => wideQueue.add(use))
    ]
  }
  const against = (of: Case, others: ReadonlyArray<Case>) =>
    others.map((to) => ({ text: `${of.name} / ${to.name}`, of, to }))
  const suite: Suite = {
    title: "Waiting",
    cases: [...Object.values(small), ...Object.values(large), thousand, tenThousand, crowds.budget, ...crowds.others],
    comparisons: [
      { text: "100,000 waiters drained / 10,000, Budget", of: large.budget, to: small.budget, atMost: 13 },
      {
        text: `100,000 waiters drained / 10,000, Budget, ${room} at a time`,
        of: large.budgetOfTen,
        to: small.budgetOfTen,
        atMost: 13
      },
      {
        text: "100,000 waiters drained / 10,000, ten tokens of a quota",
        of: large.tokens,
        to: small.tokens,
        atMost: 13
      },
      { text: "100,000 waiters drained / 10,000, p-limit", of: large.pLimit, to: small.pLimit },
      { text: "100,000 waiters drained / 10,000, p-queue", of: large.pQueue, to: small.pQueue },
      { text: "10,000 waiters drained / 1,000, Semaphore", of: tenThousand, to: thousand },
      ...against(small.budget, [tenThousand, small.pLimit, small.pQueue]),
      ...against(large.budget, [large.pLimit, large.pQueue]),
      ...against(crowds.budget, crowds.others)
    ]
  }
  return suite
})
