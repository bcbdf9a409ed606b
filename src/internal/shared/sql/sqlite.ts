/** The books in SQLite: each step is a transaction that takes the file for itself and runs `steps.ts`. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as PubSub from "effect/PubSub"
import { BeginTransaction, type SqlClient } from "effect/sql/SqlClient"
import * as Stream from "effect/Stream"
import type { StoreUnavailable } from "../../../BudgetError.ts"
import type { SharedBooks } from "../books.ts"
import * as Steps from "../steps.ts"
import { outside, step } from "./errors.ts"
import { type BudgetRecord, budgetToRecord, recordToBudget } from "./records.ts"
import { together } from "./together.ts"

export interface Options {
  readonly group: string
  /** In milliseconds. */
  readonly keepOutcomes: number
}

/** What a step needs, and what it does. */
interface Step {
  readonly ids: ReadonlyArray<string>
  readonly budgets: ReadonlyArray<string>
  readonly body: (records: Steps.Records, now: number) => unknown
}

export const make = Effect.fnUntraced(function* (
  sql: SqlClient,
  { group, keepOutcomes }: Options
): Effect.fn.Return<SharedBooks> {
  const freed = yield* PubSub.sliding<ReadonlyArray<string>>(1024)

  const select = <Row extends ReadonlyArray<unknown>>(statement: string, param: number | ReadonlyArray<string>) =>
    Effect.map(
      sql.unsafe(statement, [group, typeof param === "number" ? param : JSON.stringify(param)]).values,
      (rows) => rows as unknown as ReadonlyArray<Row>
    )

  /** Loads what is due and what is named, ends what has expired, runs the steps, and writes what they changed. */
  const transaction = Effect.fnUntraced(function* (steps: ReadonlyArray<Step>) {
    const now = yield* Clock.currentTimeMillis
    const due = yield* select<HoldRow>(DUE_HOLDS, now)
    const ids = steps.flatMap(({ ids }) => ids)
    const named = ids.length === 0 ? [] : yield* select<HoldRow>(HOLDS, ids)
    const holds = new Map([...due, ...named].map(([id, record]) => [id, holdOf(record)]))
    const names = new Set(steps.flatMap(({ budgets }) => budgets))
    for (const { entries } of holds.values()) for (const { budget } of entries) names.add(budget)
    const rows = yield* select<BudgetRow>(BUDGETS, [...names])
    const budgets = new Map(rows.map(([name, record]) => [name, budgetOf(record)]))

    const records: Steps.Records = {
      budgets: new Map(budgets),
      holds: new Map(holds),
      keepOutcomes,
      freed: new Set()
    }
    Steps.sweep(
      records,
      due.map(([id]) => id),
      now
    )
    const answers = steps.map(({ body }) => body(records, now))

    for (const [name, budget] of records.budgets) {
      if (budgets.get(name) === budget) continue
      yield* sql.unsafe(WRITE_BUDGET, [group, name, JSON.stringify(budgetToRecord(budget))])
    }
    for (const [id, hold] of records.holds) {
      if (holds.get(id) === hold) continue
      yield* sql.unsafe(WRITE_HOLD, [group, id, hold.due, JSON.stringify(hold)])
    }
    for (const id of holds.keys()) {
      if (!records.holds.has(id)) yield* sql.unsafe(FORGET_HOLD, [group, id])
    }
    return { answers, freed: [...records.freed] }
  })

  const all = together((steps: ReadonlyArray<Step>) =>
    transaction(steps).pipe(
      sql.withTransaction,
      Effect.provideService(BeginTransaction, "BEGIN IMMEDIATE"),
      step,
      outside(sql),
      Effect.tap(({ freed: names }) => (names.length === 0 ? Effect.void : PubSub.publish(freed, names))),
      Effect.map(({ answers }) => answers)
    )
  )

  const run = <A>(
    ids: ReadonlyArray<string>,
    budgets: ReadonlyArray<string>,
    body: (records: Steps.Records, now: number) => A
  ) => apart(sql, all({ ids, budgets, body })) as Effect.Effect<A, StoreUnavailable>

  const namesOf = (entries: ReadonlyArray<{ readonly budget: string }>) => entries.map(({ budget }) => budget)

  return {
    hold: (request) => run([request.id], namesOf(request.entries), (records, now) => Steps.hold(records, request, now)),
    reduce: (request) => run([request.id], [], (records, now) => Steps.reduce(records, request, now)),
    settle: (request) =>
      run([request.id], namesOf(request.entries), (records, now) => Steps.settle(records, request, now)),
    charge: (request) =>
      run([request.id], namesOf(request.entries), (records, now) => Steps.charge(records, request, now)),
    renew: (holds, expiresAfter) =>
      run(
        holds.map(({ id }) => id),
        [],
        (records, now) => Steps.renew(records, holds, expiresAfter, now)
      ),
    read: (budgets) => run([], budgets, (records, now) => Steps.read(records, budgets, now)),
    update: (budgets, change) =>
      run([], budgets, (records, now) => {
        const changed = change(Steps.read(records, budgets, now), now)
        budgets.forEach((budget, i) => {
          records.budgets.set(budget, changed[i]!)
          records.freed.add(budget)
        })
      }),
    freed: Stream.fromPubSub(freed)
  }
})

/**
 * A transaction of the caller has the only connection. To join it would let it roll the books back; to wait for it is to wait
 * for oneself.
 */
const apart = <A, E>(sql: SqlClient, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.flatMap(Effect.serviceOption(sql.transactionService), (transaction) =>
    transaction._tag === "None"
      ? effect
      : Effect.die(
          new Error("SqlBudgetStore: the books of this SQLite client cannot be used inside one of its transactions")
        )
  )

type HoldRow = readonly [id: string, record: string]
type BudgetRow = readonly [name: string, record: string]

const DUE_HOLDS =
  "SELECT id, record FROM effect_budget_holds WHERE group_name = ? AND due <= ? ORDER BY due, id LIMIT 1000"
const HOLDS =
  "SELECT id, record FROM effect_budget_holds WHERE group_name = ? AND id IN (SELECT value FROM json_each(?))"
const BUDGETS =
  "SELECT name, record FROM effect_budget_budgets WHERE group_name = ? AND name IN (SELECT value FROM json_each(?))"
const WRITE_BUDGET = "INSERT OR REPLACE INTO effect_budget_budgets (group_name, name, record) VALUES (?, ?, ?)"
const WRITE_HOLD = "INSERT OR REPLACE INTO effect_budget_holds (group_name, id, due, record) VALUES (?, ?, ?, ?)"
const FORGET_HOLD = "DELETE FROM effect_budget_holds WHERE group_name = ? AND id = ?"

/** What is `undefined` is left out of JSON, and is read as such again. */
const holdOf = (record: string): Steps.Hold => {
  const hold = JSON.parse(record) as Steps.Hold
  return { ...hold, progress: hold.progress, outcome: hold.outcome }
}

const budgetOf = (record: string) => recordToBudget(JSON.parse(record) as BudgetRecord)
