/**
 * Shared books in the memory of the test: the reference that the books of every store are checked against, at the time of the
 * `Clock`, and with faults on demand.
 */
import { BudgetError } from "../../src/index.ts"
import { assert } from "@effect/vitest"
import { Clock, type Duration, Effect, PubSub, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { SharedBooks } from "../../src/internal/shared/books.ts"
import * as Steps from "../../src/internal/shared/steps.ts"

export type Operation = Exclude<keyof SharedBooks, "freed">

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

export interface ReferenceBooks extends Mutable<SharedBooks> {
  readonly records: Steps.Records
  /** How often each operation was asked. */
  readonly calls: Record<Operation, number>
  /** What happens to the next operations: none reaches the books, or the answer is lost on its way back. */
  fault: ((operation: Operation) => "away" | "answerLost" | undefined) | undefined
  /** Holds and budgets are gone, as after a restart without a disk. */
  readonly lose: () => void
}

const unavailable = new BudgetError.StoreUnavailable({ message: "away on purpose" })

export const make = (
  options: { readonly keepOutcomes?: number; readonly silent?: boolean } = {}
): Effect.Effect<ReferenceBooks> =>
  Effect.gen(function* () {
    const freed = yield* PubSub.unbounded<ReadonlyArray<string>>()
    const records: Steps.Records = {
      budgets: new Map(),
      holds: new Map(),
      keepOutcomes: options.keepOutcomes ?? 600_000,
      freed: new Set()
    }
    const calls: Record<Operation, number> = {
      hold: 0,
      reduce: 0,
      settle: 0,
      charge: 0,
      renew: 0,
      read: 0,
      update: 0
    }
    const step = <A>(operation: Operation, run: (now: number) => A): Effect.Effect<A, BudgetError.StoreUnavailable> =>
      // A turn of the scheduler in which the question travels, and one for the answer.
      Effect.andThen(
        Effect.yieldNow,
        Effect.gen(function* () {
          calls[operation]++
          const fault = books.fault?.(operation)
          if (fault === "away") return yield* unavailable
          const now = yield* Clock.currentTimeMillis
          Steps.sweep(records, [...records.holds.keys()], now)
          const answer = run(now)
          const names = [...records.freed]
          records.freed.clear()
          if (names.length > 0 && options.silent !== true) yield* PubSub.publish(freed, names)
          yield* Effect.yieldNow
          return fault === "answerLost" ? yield* unavailable : answer
        })
      )
    const books: ReferenceBooks = {
      records,
      calls,
      fault: undefined,
      lose: () => {
        records.budgets.clear()
        records.holds.clear()
      },
      hold: (request) => step("hold", (now) => Steps.hold(records, request, now)),
      reduce: (request) => step("reduce", (now) => Steps.reduce(records, request, now)),
      settle: (request) => step("settle", (now) => Steps.settle(records, request, now)),
      charge: (request) => step("charge", (now) => Steps.charge(records, request, now)),
      renew: (holds, expiresAfter) => step("renew", (now) => Steps.renew(records, holds, expiresAfter, now)),
      read: (budgets) => step("read", (now) => Steps.read(records, budgets, now)),
      update: (budgets, change) =>
        step("update", (now) => {
          const changed = change(Steps.read(records, budgets, now), now)
          budgets.forEach((budget, i) => {
            records.budgets.set(budget, changed[i]!)
            records.freed.add(budget)
          })
        }),
      freed: Stream.fromPubSub(freed)
    }
    return books
  })

/** The books of the budget "tokens", which balance. */
export const booksOf = (books: ReferenceBooks) => {
  const { available, granted, held, spent } = books.records.budgets.get("tokens")!.ledgers[0]!
  assert.strictEqual(available + held + spent, granted)
  return { available, held, spent }
}

/** Everybody comes as far as they can without the clock. */
export const turns = Effect.repeat(Effect.yieldNow, { times: 200 })

/** The same, and then the clock goes on, and again. */
export const adjust = (duration: Duration.Input) =>
  Effect.andThen(turns, Effect.andThen(TestClock.adjust(duration), turns))
