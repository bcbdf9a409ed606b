/** `npm run bench`: the library within one process, compared with the packages that come closest. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { budgetSuite } from "./cases/budget.ts"
import { denialSuite } from "./cases/denial.ts"
import { guardSuite } from "./cases/guard.ts"
import { memoryLayer } from "./cases/library.ts"
import { listenersSuite } from "./cases/listeners.ts"
import { queueSuite } from "./cases/queue.ts"
import { quotaSuite } from "./cases/quota.ts"
import { transactionSuite } from "./cases/transaction.ts"
import { makeYardsticks } from "./cases/yardsticks.ts"
import { type Settings, spread } from "./harness.ts"
import { bytesEach, type Kind } from "./memory.ts"
import type { Bench, Verdict } from "./report.ts"

export const engine = (loops: Settings, quick: boolean): Effect.Effect<Bench, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const yardsticks = yield* makeYardsticks
    const suites = [
      { title: "Yardsticks", cases: Object.values(yardsticks), comparisons: [] },
      yield* budgetSuite(yardsticks),
      yield* guardSuite(yardsticks),
      yield* denialSuite(yardsticks),
      yield* listenersSuite,
      yield* quotaSuite,
      yield* transactionSuite(yardsticks)
    ]
    const waiting: Settings = quick
      ? { repeats: 3, warmUpMillis: 50, sampleMillis: 50 }
      : { repeats: 7, warmUpMillis: 1_000, sampleMillis: 100 }
    const bench: Bench = {
      packages: ["effect", "p-limit", "p-queue", "rate-limiter-flexible"],
      notes: [
        "Times are CPU time. Times of effects include the loop that drives them; ratios between two effects leave it out."
      ],
      groups: [
        { suites, settings: loops },
        { suites: [yield* queueSuite], settings: waiting }
      ],
      figures: (wanted) => Effect.promise(() => measureMemory(quick ? 1 : 3, wanted))
    }
    return bench
  }).pipe(Effect.provide(memoryLayer))

const weights: ReadonlyArray<{ readonly kind: Kind; readonly text: string; readonly atMost?: number }> = [
  { kind: "budget", text: "heap for each idle budget, 100,000 in one store", atMost: 1_200 },
  { kind: "reservation", text: "heap for each open reservation, a million in one scope", atMost: 360 },
  { kind: "waiter", text: "heap for each waiting fiber, 100,000 of one budget", atMost: 1_900 },
  { kind: "finalizer", text: "heap for each no-op finalizer, a million in one scope" },
  { kind: "semaphoreWaiter", text: "heap for each waiting fiber, 100,000 of one PartitionedSemaphore" }
]

const measureMemory = async (repeats: number, wanted: (text: string) => boolean): Promise<ReadonlyArray<Verdict>> => {
  const verdicts: Array<Verdict> = []
  for (const { atMost, kind, text } of weights) {
    if (!wanted(text)) continue
    const bytes: Array<number> = []
    while (bytes.length < repeats) bytes.push(await bytesEach(kind))
    verdicts.push({ text, measured: spread(bytes), atMost, unit: "bytes" })
  }
  return verdicts
}
