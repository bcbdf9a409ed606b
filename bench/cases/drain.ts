/** Cases for work that waits: a queue that drains, and a crowd that starts at once. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { equal } from "node:assert/strict"
import { setImmediate, setTimeout } from "node:timers/promises"
import { type Case, type Check, collectGarbage, nanosNow, promiseCase } from "../harness.ts"

/** Runs an effect once there is room for it. */
export interface Guarded {
  readonly name: string
  readonly guard: (use: Effect.Effect<void>) => Effect.Effect<void, unknown>
  readonly check?: Check | undefined
}

/** Calls a function that returns a promise once there is room for it. */
export interface Limited {
  readonly name: string
  readonly limit: (use: () => Promise<void>) => Promise<unknown>
}

const count = (n: number): string => n.toLocaleString("en")

const drainCase = (name: string, waiters: number, run: Case["run"], check?: Check): Case => ({
  name: `${count(waiters)} waiters drained, ${name}`,
  kind: "whole",
  run,
  check
})

export interface DrainOptions {
  /** Default 1. */
  readonly slots?: number
  /**
   * Collects garbage before the clock starts and before it stops. Most of 10,000 new waiters are in the young generation, and
   * copying them adds to the time of the drain; most of 100,000 have left it. The drain of 10,000 may end before its own garbage
   * is collected; that of 100,000 cannot. Their times compare only when both start in the old generation and pay for their
   * garbage. Default `false`.
   */
  readonly settled?: boolean
}

/**
 * All waiters queue behind the holders of the slots. The time is from the end of the holders to the end of the last waiter. Each
 * waiter yields once.
 */
export const drainEffects = (
  { check, guard, name }: Guarded,
  waiters: number,
  { settled = false, slots = 1 }: DrainOptions = {}
): Case => {
  const run = Effect.gen(function* () {
    const gate = yield* Deferred.make<void>()
    const holders = yield* Effect.forEach(Array.from({ length: slots }), () =>
      Effect.forkChild(guard(Deferred.await(gate)), { startImmediately: true })
    )
    let served = 0
    const turn = Effect.map(Effect.yieldNow, () => void served++)
    const fibers = yield* Effect.forEach(Array.from({ length: waiters }), () =>
      Effect.forkChild(guard(turn), { startImmediately: true })
    )
    yield* Effect.sleep(1)
    equal(served, 0, `${name}: some did not wait`)
    if (settled) yield* Effect.promise(() => collectGarbage("major"))
    const start = nanosNow()
    yield* Deferred.succeed(gate, undefined)
    yield* Fiber.await(fibers[waiters - 1]!)
    if (settled) yield* Effect.promise(() => collectGarbage("minor"))
    const nanos = nanosNow() - start
    yield* Fiber.joinAll([...holders, ...fibers])
    equal(served, waiters, `${name}: some were not served`)
    return nanos
  })
  return drainCase(settled ? `${name}, settled heap` : name, waiters, () => Effect.runPromise(run), check)
}

export const drainPromises = ({ limit, name }: Limited, waiters: number): Case =>
  drainCase(name, waiters, async () => {
    const gate = Promise.withResolvers<undefined>()
    const holder = limit(() => gate.promise)
    let served = 0
    const turn = async () => {
      await yieldOnce()
      served++
    }
    const turns = Array.from({ length: waiters }, () => limit(turn))
    await setTimeout(1)
    equal(served, 0, `${name}: some did not wait`)
    const start = nanosNow()
    gate.resolve(undefined)
    await turns[waiters - 1]
    const nanos = nanosNow() - start
    await Promise.all([holder, ...turns])
    equal(served, waiters, `${name}: some were not served`)
    return nanos
  })

/** Lets the event loop run once, as the yield of an effect does. */
const yieldOnce = (): Promise<void> => setImmediate()

const CROWD = 1_000

const crowdCase = (name: string, run: () => Promise<unknown>, check?: Check): Case =>
  promiseCase(`${count(CROWD)} at once, ${name}`, run, check)

/** A thousand start at once. The time is from the start of the first to the end of the last. */
export const crowdEffects = ({ check, guard, name }: Guarded): Case =>
  crowdCase(
    name,
    () =>
      Effect.runPromise(
        Effect.forEach(Array.from({ length: CROWD }), () => guard(Effect.yieldNow), {
          concurrency: "unbounded",
          discard: true
        })
      ),
    check
  )

export const crowdPromises = ({ limit, name }: Limited): Case =>
  crowdCase(name, () => Promise.all(Array.from({ length: CROWD }, () => limit(yieldOnce))))
