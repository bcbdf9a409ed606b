/** Checks that a case did the work that it was timed for. */
import { type BudgetStore } from "effect-budget"
import * as Effect from "effect/Effect"
import { deepEqual, equal } from "node:assert/strict"
import type { Check } from "../harness.ts"

/** Anything with one set of books. */
export interface Books {
  readonly snapshot: Effect.Effect<BudgetStore.Snapshot>
}

/** The books balance, nothing waits, and these amounts are held and spent. */
export const assertBooks = (
  { snapshot }: Books,
  expected: { readonly held?: number; readonly spent: number; readonly waiters?: number }
): Effect.Effect<void> =>
  Effect.map(snapshot, ({ ledgers, waiters }) => {
    for (const { available, granted, held, spent } of ledgers) {
      const balance = available + held + spent - granted
      deepEqual({ balance, held, spent, waiters }, { balance: 0, held: 0, waiters: 0, ...expected })
    }
  })

/** Nothing is held after a case has run, and each operation has spent `each` from each of the books. */
export const spends =
  (each: number, ...books: ReadonlyArray<Books>): Check =>
  (operations) =>
    Effect.forEach(books, (one) => assertBooks(one, { spent: each * operations }), { discard: true })

/** A counter, and the check that every operation of a case has incremented it once. */
export const counter = () => {
  let count = 0
  const check: Check = (operations) => Effect.sync(() => equal(count, operations))
  return { increment: () => void count++, check }
}
