/** Heap bytes for each object of a kind. Each kind is measured in its own process: `node --expose-gc memory.ts KIND`. */
import { Budget, type BudgetStore, Limit } from "effect-budget"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as PartitionedSemaphore from "effect/PartitionedSemaphore"
import * as Scope from "effect/Scope"
import { equal } from "node:assert/strict"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { assertBooks } from "./cases/checks.ts"
import { memoryLayer } from "./cases/library.ts"

/** The steps of one measurement. Only the memory that `fill` adds is measured. */
interface Scale {
  readonly fill: Effect.Effect<unknown, unknown, BudgetStore.BudgetStore | Scope.Scope>
  /** Fails when `fill` has not created all objects. */
  readonly check: Effect.Effect<unknown, unknown>
  /** Fails when the objects do not end as expected. Runs after the scope of `fill` is closed. */
  readonly end: Effect.Effect<unknown, unknown>
}

/** Runs `count` effects in sequence and passes each result to `keep`. */
const times = <A, E, R>(
  count: number,
  each: (i: number) => Effect.Effect<A, E, R>,
  keep: (value: A, i: number) => void = () => {}
): Effect.Effect<void, E, R> =>
  Effect.suspend(() => {
    let done = 0
    return Effect.whileLoop({
      while: () => done < count,
      body: () => each(done),
      step: (value) => keep(value, done++)
    })
  })

/** Finalizers of one scope, as a control: an open reservation contains one. */
const finalizers = (count: number): Effect.Effect<Scale> =>
  Effect.sync(() => {
    let run = 0
    const end = Effect.sync(() => run++)
    return {
      fill: times(count, () => Effect.flatMap(Effect.scope, (scope) => Scope.addFinalizerExit(scope, () => end))),
      check: Effect.sync(() => equal(run, 0)),
      end: Effect.sync(() => equal(run, count))
    }
  })

/** Reservations of one budget, owned by one scope. */
const reservations = (count: number) =>
  Effect.map(Budget.make({ name: `reservations ${count}`, limit: Limit.capacity(2 * count) }), (budget): Scale => ({
    fill: times(count, () => budget.reserve(1)),
    check: assertBooks(budget, { held: count, spent: 0 }),
    end: assertBooks(budget, { spent: count })
  }))

/** Budgets of one store. The names exist before the measurement, and all budgets share one limit. */
const budgets = (count: number): Effect.Effect<Scale> =>
  Effect.sync(() => {
    const limit = Limit.capacity(7)
    const names = Array.from({ length: count }, (_, i) => `b${count + i}`)
    const kept = new Array<Budget.Budget | undefined>(count).fill(undefined)
    return {
      fill: times(
        count,
        (i) => Budget.make({ name: names[i]!, limit }),
        (budget, i) => {
          kept[i] = budget
        }
      ),
      check: times(count, (i) => assertBooks(kept[i]!, { spent: 0 })),
      end: Effect.void
    }
  })

/** Fibers that wait for a slot that is taken. The fiber itself counts. */
const waiters = (
  count: number,
  guard: (use: Effect.Effect<void>) => Effect.Effect<void, unknown>,
  assertWaiting: (waiters: number) => Effect.Effect<void>
) =>
  Effect.gen(function* () {
    const gate = yield* Deferred.make<void>()
    const holder = yield* Effect.forkChild(guard(Deferred.await(gate)), { startImmediately: true })
    let served = 0
    const use = Effect.sync(() => void served++)
    const kept = new Array<Fiber.Fiber<void, unknown> | undefined>(count).fill(undefined)
    const scale: Scale = {
      fill: times(
        count,
        () => Effect.forkChild(guard(use), { startImmediately: true }),
        (fiber, i) => {
          kept[i] = fiber
        }
      ),
      check: Effect.andThen(
        assertWaiting(count),
        Effect.sync(() => equal(served, 0))
      ),
      end: Effect.gen(function* () {
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.joinAll([holder, ...kept.map((fiber) => fiber!)])
        equal(served, count)
        yield* assertWaiting(0)
      })
    }
    return scale
  })

const budgetWaiters = (count: number) =>
  Effect.flatMap(
    Budget.make({ name: `waiters ${count}`, limit: Limit.concurrency(1), enforcement: "throttle" }),
    (budget) =>
      waiters(
        count,
        (use) => budget.withReservation(1, () => use),
        (waiters) => assertBooks(budget, { held: Math.min(waiters, 1), spent: 0, waiters })
      )
  )

const semaphoreWaiters = (count: number) =>
  waiters(
    count,
    PartitionedSemaphore.makeUnsafe<string>({ permits: 1 }).withPermits("the only partition", 1),
    () => Effect.void
  )

const kinds = {
  budget: { count: 100_000, scale: budgets },
  reservation: { count: 1_000_000, scale: reservations },
  waiter: { count: 100_000, scale: budgetWaiters },
  finalizer: { count: 1_000_000, scale: finalizers },
  semaphoreWaiter: { count: 100_000, scale: semaphoreWaiters }
}

export type Kind = keyof typeof kinds

const heapUsed = Effect.sync(() => {
  globalThis.gc?.()
  return process.memoryUsage().heapUsed
})

const weigh = <R>(count: number, scale: (count: number) => Effect.Effect<Scale, unknown, R>) =>
  Effect.gen(function* () {
    const { check, end, fill } = yield* scale(count)
    const bytes = Effect.gen(function* () {
      const before = yield* heapUsed
      yield* fill
      const after = yield* heapUsed
      yield* check
      return (after - before) / count
    })
    const measured = yield* Effect.scoped(bytes)
    yield* end
    return measured
  })

/** Measures the bytes for each object of a kind in a new process. */
export const bytesEach = async (kind: Kind): Promise<number> => {
  const { stdout } = await promisify(execFile)(process.execPath, ["--expose-gc", fileURLToPath(import.meta.url), kind])
  return Number(stdout)
}

if (import.meta.main) {
  const { count, scale } = kinds[process.argv[2] as Kind]
  const program = Effect.gen(function* () {
    // The first objects also load compiled code, which must not count.
    yield* weigh(count / 100, scale)
    return yield* weigh(count, scale)
  })
  console.log(await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(memoryLayer))))
}
