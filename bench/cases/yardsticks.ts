import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import * as Semaphore from "effect/Semaphore"
import * as TxRef from "effect/TxRef"
import * as RateLimiter from "effect/persistence/RateLimiter"
import { equal } from "node:assert/strict"
import pLimit from "p-limit"
import PQueue from "p-queue"
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible"
import { effectCase, emptyLoop, promiseCase } from "../harness.ts"
import { counter } from "./checks.ts"

/** In seconds. Longer than any run, so that no points come back while it lasts. */
const duration = 3_600

const pairCase = () => {
  const limiter = new RateLimiterMemory({ points: 1_000_000_000, duration })
  return promiseCase(
    "rate-limiter-flexible consume + reward",
    async () => {
      await limiter.consume("key", 1)
      await limiter.reward("key", 1)
    },
    () => Effect.promise(async () => equal((await limiter.get("key"))?.consumedPoints, 0))
  )
}

const rejectCase = async () => {
  const limiter = new RateLimiterMemory({ points: 1, duration })
  await limiter.consume("key", 1)
  const rejected = counter()
  const caught = (reason: unknown) => {
    if (!(reason instanceof RateLimiterRes)) throw reason
    rejected.increment()
  }
  return promiseCase("rate-limiter-flexible reject", () => limiter.consume("key", 1).catch(caught), rejected.check)
}

/** The closest operations of other libraries and of Effect itself. */
export const makeYardsticks = Effect.gen(function* () {
  const ref = yield* Ref.make(0)
  const txRef = yield* TxRef.make(0)
  const semaphore = yield* Semaphore.make(10)
  const limiter = yield* Effect.provide(RateLimiter.make, RateLimiter.layerStoreMemory)
  const window = { key: "key", limit: 1_000_000_000, window: "1 minute" } as const
  const limit = pLimit(10)
  const queue = new PQueue({ concurrency: 10 })
  const nothing = async () => undefined
  return {
    loop: emptyLoop,
    sync: effectCase("Effect.sync", () => Effect.sync(() => 1)),
    ref: effectCase("Ref.modify", () => Ref.modify(ref, (n) => [n, n + 1])),
    txRef: effectCase("TxRef.modify", () => TxRef.modify(txRef, (n) => [n, n + 1])),
    bracket: effectCase("Effect.acquireUseRelease, no-op", () =>
      Effect.acquireUseRelease(
        Effect.void,
        () => Effect.void,
        () => Effect.void
      )
    ),
    semaphore: effectCase("Semaphore.withPermits(1), no-op", () => semaphore.withPermits(1)(Effect.void)),
    fixedWindow: effectCase("effect RateLimiter.consume, fixed window", () => limiter.consume(window)),
    tokenBucket: effectCase("effect RateLimiter.consume, token bucket", () =>
      limiter.consume({ ...window, algorithm: "token-bucket" })
    ),
    flexible: pairCase(),
    flexibleReject: yield* Effect.promise(rejectCase),
    pLimit: promiseCase("p-limit, no-op", () => limit(nothing)),
    pQueue: promiseCase("p-queue, no-op", () => queue.add(nothing))
  }
})

export type Yardsticks = Effect.Success<typeof makeYardsticks>
