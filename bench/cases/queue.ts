import { Budget, Limit } from "effect-budget"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PartitionedSemaphore from "effect/PartitionedSemaphore"
import * as Semaphore from "effect/Semaphore"
import pLimit from "p-limit"
import PQueue from "p-queue"
import type { Case, Comparison, Suite } from "../harness.ts"
import { spends } from "./checks.ts"
import { crowdEffects, crowdPromises, drainEffects, drainPromises, type Guarded, type Limited } from "./drain.ts"
import { Quota } from "./library.ts"

/** The slots, where there are several. */
const ROOM = 10

const throttled = (name: string, slots: number) =>
  Effect.map(Budget.make({ name, limit: Limit.concurrency(slots), enforcement: "throttle" }), (budget): Guarded => ({
    name,
    guard: (use) => budget.withReservation(1, () => use),
    check: spends(0, budget)
  }))

/** The tokens of a quota, which wait for one slot. */
const quotaTokens = (count: number) =>
  Effect.gen(function* () {
    const slots = { limit: Limit.concurrency(1), enforcement: "throttle", unit: "slot", units: "slots" } as const
    const services = yield* Layer.build(Quota.layer({ environments: { bench: { slots } } }))
    const tokens = yield* Effect.forEach(Array.from({ length: count }), (_, i) =>
      Context.get(services, Quota).acquire("slots", { expectedUse: 100 * (i + 1) })
    )
    let next = 0
    const guarded: Guarded = {
      name: "ten tokens of a quota",
      guard: (use) => tokens[next++ % tokens.length]!.withReservation(1, () => use)
    }
    return guarded
  })

const semaphore = (slots: number): Guarded => ({
  name: "Semaphore",
  guard: Semaphore.makeUnsafe(slots).withPermits(1)
})

const partitioned = (): Guarded => ({
  name: "PartitionedSemaphore",
  guard: PartitionedSemaphore.makeUnsafe<string>({ permits: 1 }).withPermits("the only partition", 1)
})

const limitOf = (slots: number): Limited => ({ name: "p-limit", limit: pLimit(slots) })

const queueOf = (slots: number): Limited => {
  const queue = new PQueue({ concurrency: slots })
  return { name: "p-queue", limit: (use) => queue.add(use) }
}

/**
 * One that has the slot and some that wait for it, until the end of the bench. If nobody waited between two samples, a collection
 * would discard the shapes of the objects of waiting and all code that was compiled for them, and each sample would measure the
 * compiler.
 */
const alwaysWaited = ({ guard }: Guarded) =>
  Effect.forEach(Array.from({ length: 4 }), () => Effect.forkScoped(guard(Effect.never), { startImmediately: true }))

const alwaysWaitedFor = ({ limit }: Limited): void => {
  for (let i = 0; i < 4; i++) void limit(() => new Promise<void>(() => undefined))
}

export const queueSuite = Effect.gen(function* () {
  for (const kind of [yield* throttled("another budget", 1), yield* quotaTokens(2), semaphore(1), partitioned()]) {
    yield* alwaysWaited(kind)
  }
  for (const kind of [limitOf(1), queueOf(1)]) alwaysWaitedFor(kind)
  const onePartition = partitioned()
  const one = yield* throttled("Budget", 1)
  const few = yield* throttled(`Budget, ${ROOM} at a time`, ROOM)
  const tokens = yield* quotaTokens(10)
  const budget = drainEffects(one, 10_000)
  const ofPartitioned = drainEffects(onePartition, 10_000)
  const ofSemaphore = drainEffects(semaphore(1), 10_000)
  const others = [ofSemaphore, drainPromises(limitOf(1), 10_000), drainPromises(queueOf(1), 10_000)]
  // Semaphore visits all waiters on each release: 100,000 would take minutes.
  const thousand = drainEffects(semaphore(1), 1_000)
  const growing = [
    { guarded: one, atMost: 11 },
    { guarded: few, slots: ROOM, atMost: 11 },
    { guarded: onePartition },
    { guarded: tokens }
  ].map(({ atMost, guarded, slots = 1 }) => {
    const [to, of] = [10_000, 100_000].map((waiters) => drainEffects(guarded, waiters, { slots, settled: true }))
    return { text: `${of!.name} / 10,000`, of: of!, to: to!, atMost }
  })
  const crowd = crowdEffects(few)
  const crowds = [crowdEffects(semaphore(ROOM)), crowdPromises(limitOf(ROOM)), crowdPromises(queueOf(ROOM))]
  const against = (of: Case, others: ReadonlyArray<Case>): ReadonlyArray<Comparison> =>
    others.map((to) => ({ text: `${of.name} / ${to.name}`, of, to }))
  const suite: Suite = {
    title: "Waiting",
    cases: [
      ...[budget, ofPartitioned, ...others, thousand],
      ...growing.flatMap(({ of, to }) => [to, of]),
      ...[crowd, ...crowds]
    ],
    comparisons: [
      { text: `${budget.name} / ${ofPartitioned.name}`, of: budget, to: ofPartitioned, atMost: 1.3 },
      ...growing,
      { text: `${ofSemaphore.name} / 1,000`, of: ofSemaphore, to: thousand },
      ...against(budget, others),
      ...against(crowd, crowds)
    ]
  }
  return suite
})
