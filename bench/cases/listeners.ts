import { Budget } from "effect-budget"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { deepEqual } from "node:assert/strict"
import { type Case, type Check, effectCase, type Suite } from "../harness.ts"
import { spends } from "./checks.ts"
import { wide } from "./limits.ts"

const LISTENERS = 100

/** A budget with this many running listeners. The check is that each of them has seen the final books. */
const listenedTo = (name: string, listeners: number) =>
  Effect.gen(function* () {
    const budget = yield* Budget.make({ name: `listeners, ${name}`, limit: wide.capacity })
    const seen = Array.from({ length: listeners }, () => 0)
    for (const i of seen.keys()) {
      const listen = Stream.runForEach(budget.changes, ({ ledgers: [{ spent }] }) =>
        Effect.sync(() => {
          seen[i] = spent
        })
      )
      yield* Effect.forkScoped(listen, { startImmediately: true })
    }
    const check: Check = (operations) =>
      Effect.gen(function* () {
        yield* spends(1, budget)(operations)
        // Listeners run after the operations that they observe.
        yield* Effect.sleep(100)
        deepEqual(new Set(seen), new Set(seen.map(() => operations)))
      })
    return { budget, check }
  })

/** The same operation with and without listeners. */
const pair = (name: string, use: Effect.Effect<void>) => {
  const withListeners = (listeners: number) => {
    const title = `${name}, ${listeners} listeners on changes`
    return Effect.map(listenedTo(title, listeners), ({ budget, check }) =>
      effectCase(title, () => budget.withReservation(1, () => use), check)
    )
  }
  return Effect.all({ none: withListeners(0), many: withListeners(LISTENERS) })
}

export const listenersSuite = Effect.gen(function* () {
  const plain = yield* pair("withReservation", Effect.void)
  const yielding = yield* pair("withReservation that yields once", Effect.yieldNow)
  const difference = ({ many, none }: { readonly many: Case; readonly none: Case }, atMost?: number) => ({
    text: `${many.name}, each operation - with none`,
    of: many,
    to: none,
    unit: "us" as const,
    atMost
  })
  const suite: Suite = {
    title: "Listeners",
    cases: [plain.none, plain.many, yielding.none, yielding.many],
    comparisons: [difference(plain, 10), difference(yielding)]
  }
  return suite
})
