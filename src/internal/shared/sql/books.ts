/** The books in the database of the `SqlClient` that is provided. */
import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { StoreUnavailable } from "../../../BudgetError.ts"
import type { SharedBooks } from "../books.ts"
import { migrate } from "./migrations.ts"
import * as Postgres from "./postgres.ts"
import * as Sqlite from "./sqlite.ts"

export type Options = Postgres.Options

export const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<SharedBooks, StoreUnavailable, SqlClient> {
  const sql = yield* SqlClient
  const dialect = sql.onDialectOrElse({
    pg: () => "pg" as const,
    sqlite: () => "sqlite" as const,
    orElse: () => undefined
  })
  if (dialect === undefined) {
    return yield* Effect.die(
      new Error(
        `SqlBudgetStore keeps its books in PostgreSQL or SQLite, not in what the SqlClient "${sql.driver}" speaks`
      )
    )
  }
  yield* migrate(sql, dialect)
  return yield* dialect === "pg" ? Postgres.make(sql, options) : Sqlite.make(sql, options)
})
