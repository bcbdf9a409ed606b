/** The books in PostgreSQL: one call of a function for each step. */
import * as Effect from "effect/Effect"
import { hasProperty } from "effect/Predicate"
import type * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import * as Stream from "effect/Stream"
import type { StoreUnavailable } from "../../../BudgetError.ts"
import type { Denied, Ended, Entry, Held, Settled, SharedBooks, Unopened } from "../books.ts"
import { outside, step } from "./errors.ts"
import { type BudgetRecord, budgetToRecord, recordToBudget, recordToLedgers } from "./records.ts"
import { together } from "./together.ts"

export interface Options {
  readonly group: string
  /** In milliseconds. */
  readonly keepOutcomes: number
  /** In place of the server's clock, for tests. */
  readonly now?: (() => number) | undefined
}

export const make = Effect.fnUntraced(function* (
  sql: SqlClient,
  { group, keepOutcomes, now }: Options
): Effect.fn.Return<SharedBooks, StoreUnavailable> {
  const run = <A>(statement: string, params: ReadonlyArray<string | null>): Effect.Effect<A, SqlError> =>
    Effect.map(sql.unsafe(statement, params).values, (rows) => JSON.parse(String(rows[0]![0])) as A)

  /** A step: all parameters are text, of which the server makes what the function asks for. */
  const call = <A>(name: keyof typeof calls, params: ReadonlyArray<string | null>): Effect.Effect<A, SqlError> =>
    Effect.suspend(() =>
      run<A>(calls[name], [group, `${keepOutcomes}`, now === undefined ? null : `${now()}`, ...params])
    )

  const away = <A>(effect: Effect.Effect<A, SqlError>): Effect.Effect<A, StoreUnavailable> => outside(sql)(step(effect))

  const { channel, isolation } = yield* away(
    run<{ readonly channel: string; readonly isolation: string }>(OPEN, [group])
  )
  if (isolation !== "read committed") {
    // Each step has to see what the step before it left, also if it began to wait earlier.
    return yield* Effect.die(
      new Error(`SqlBudgetStore needs transactions that are "read committed", not "${isolation}"`)
    )
  }

  const steps = together((requests: ReadonlyArray<Request>) =>
    away(
      call<ReadonlyArray<unknown>>("steps", [
        texts(requests.map(({ what }) => what)),
        texts(requests.map(({ id }) => id)),
        numbers(requests.map(({ step }) => step)),
        texts(requests.map(({ entries }) => entries && texts(entries.map(({ budget }) => budget)))),
        texts(requests.map(({ amounts, entries }) => numbers(amounts ?? entries!.map(({ amount }) => amount)))),
        texts(requests.map(({ more }) => more && numbers(more))),
        texts(requests.map(({ word }) => word)),
        numbers(requests.map(({ expiresAfter }) => expiresAfter))
      ])
    )
  )
  /** What it answers is what the function of this name builds. */
  const ask = <A>(request: Request) => steps(request) as Effect.Effect<A, StoreUnavailable>

  return {
    hold: ({ entries, expiresAfter, id, onExpiry, step }) =>
      Effect.map(
        ask<Held | DeniedRecord | Ended | Unopened>({
          what: "hold",
          id,
          step,
          entries,
          more: entries.some(({ upTo }) => upTo !== undefined) ? entries.map(({ upTo }) => upTo) : undefined,
          word: onExpiry,
          expiresAfter
        }),
        decoded
      ),
    reduce: ({ amounts, id, step }) => Effect.asVoid(ask({ what: "reduce", id, step, amounts })),
    settle: ({ cause, charges, entries, id }) =>
      ask<Settled | Unopened>({ what: "settle", id, entries, more: charges, word: cause }),
    charge: ({ entries, id }) =>
      Effect.map(ask<Settled | DeniedRecord | Unopened>({ what: "charge", id, entries }), decoded),
    renew: (holds, expiresAfter) =>
      away(
        call<ReadonlyArray<string>>("renew", [
          texts(holds.map(({ id }) => id)),
          texts(holds.map(({ progress }) => progress && numbers(progress))),
          `${expiresAfter}`
        ])
      ),
    read: (budgets) =>
      away(Effect.map(call<ReadOut>("read", [texts(budgets)]), ({ budgets }) => budgets.map(budgetOf))),
    update: (budgets, change) =>
      away(
        sql.withTransaction(
          Effect.gen(function* () {
            const before = yield* call<ReadOut>("readToWrite", [texts(budgets)])
            const after = change(before.budgets.map(budgetOf), before.now)
            const records = JSON.stringify(after.map(budgetToRecord))
            yield* run("SELECT effect_budget_write($1::text, $2::text[], $3::jsonb)", [group, texts(budgets), records])
          })
        )
      ),
    freed: listens(sql) ? freed(sql, channel) : Stream.never
  }
})

const OPEN = `SELECT json_build_object(
  'channel', effect_budget_channel($1::text), 'isolation', current_setting('default_transaction_isolation')
)::text`

const calls = {
  steps:
    "SELECT effect_budget_steps($1::text, $2::bigint, $3::bigint, $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[])",
  renew: "SELECT effect_budget_renew($1::text, $2::bigint, $3::bigint, $4::text[], $5::text[], $6::bigint)",
  read: "SELECT effect_budget_read($1::text, $2::bigint, $3::bigint, $4::text[])",
  // The books are locked until the change is written: not for long, should this process stand still.
  readToWrite:
    "SELECT effect_budget_read($1::text, $2::bigint, $3::bigint, $4::text[]) FROM set_config('idle_in_transaction_session_timeout', '3000', true)"
} as const

/** See `effect_budget_steps`. */
interface Request {
  readonly what: "hold" | "settle" | "charge" | "reduce"
  readonly id: string
  readonly step?: number
  readonly entries?: ReadonlyArray<Entry>
  readonly amounts?: ReadonlyArray<number>
  readonly more?: ReadonlyArray<number | undefined> | undefined
  readonly word?: string
  readonly expiresAfter?: number
}

interface ReadOut {
  readonly now: number
  readonly budgets: ReadonlyArray<BudgetRecord | null>
}

interface DeniedRecord extends Omit<Denied, "ledgers"> {
  readonly budgets: ReadonlyArray<BudgetRecord>
}

const decoded = <A extends { readonly _tag: string }>(answer: A | DeniedRecord): A | Denied =>
  isDenied(answer)
    ? { _tag: "Denied", now: answer.now, ledgers: answer.budgets.map(recordToLedgers), own: answer.own }
    : answer

const isDenied = (answer: { readonly _tag: string }): answer is DeniedRecord => answer._tag === "Denied"

const budgetOf = (record: BudgetRecord | null) => (record === null ? undefined : recordToBudget(record))

/** Array literals, because clients differ in how they pass arrays. */
const numbers = (values: ReadonlyArray<number | undefined>): string => `{${values.map((n) => n ?? "NULL").join(",")}}`

const texts = (values: ReadonlyArray<string | undefined>): string =>
  `{${values.map((value) => (value === undefined ? "NULL" : `"${value.replace(/["\\]/g, "\\$&")}"`)).join(",")}}`

// ---------------------------------------------------------------------------------------------------------------------

/** What a `PgClient` of `@effect/sql-pg` has beyond any other client. */
interface Listens extends SqlClient {
  readonly listen: (
    channel: string
  ) => Effect.Effect<Queue.Dequeue<{ readonly payload: string }, SqlError>, SqlError, Scope.Scope>
  readonly config: { readonly maxConnections?: number | undefined }
}

/** Listening takes a connection of the pool, so it cannot take the only one. */
const listens = (sql: SqlClient): sql is Listens =>
  hasProperty(sql, "~@effect/sql-pg/PgClient") &&
  hasProperty(sql, "listen") &&
  hasProperty(sql, "config") &&
  !(hasProperty(sql.config, "maxConnections") && sql.config.maxConnections === 1)

/** Listens again after the connection was lost, however long it takes. */
const freed = (sql: Listens, channel: string): Stream.Stream<ReadonlyArray<string>> =>
  Stream.unwrap(Effect.map(outside(sql)(sql.listen(channel)), Stream.fromQueue)).pipe(
    Stream.mapArray((told) => [Array.from(new Set(told.map(({ payload }) => payload)))] as const),
    Stream.retry(Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("5 seconds")])),
    Stream.orDie
  )
