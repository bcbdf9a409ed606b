/** Makes the tables that are not there yet. Several processes may start at once: one of them makes, the others wait. */
import * as Effect from "effect/Effect"
import * as Migrator from "effect/sql/Migrator"
import { BeginTransaction, SqlClient } from "effect/sql/SqlClient"
import { SqlError } from "effect/sql/SqlError"
import type { StoreUnavailable } from "../../../BudgetError.ts"
import { outside, step } from "./errors.ts"
import * as Postgres from "./postgresSchema.ts"
import * as Sqlite from "./sqliteSchema.ts"

export const migrate = (sql: SqlClient, dialect: "pg" | "sqlite"): Effect.Effect<void, StoreUnavailable> => {
  const statements = dialect === "pg" ? Postgres.statements : Sqlite.statements
  const create = Effect.forEach(statements, (statement) => sql.unsafe(statement), { discard: true })
  return Migrator.make({})({
    loader: Migrator.fromRecord({ "0001_books": create }),
    table: "effect_budget_migrations"
  }).pipe(
    // What went wrong with the database is looked at like in any step.
    Effect.catchTag("MigrationError", (error) =>
      error.cause instanceof SqlError ? Effect.fail(error.cause) : Effect.die(error)
    ),
    Effect.provideService(SqlClient, sql),
    dialect === "sqlite" ? Effect.provideService(BeginTransaction, "BEGIN IMMEDIATE") : (effect) => effect,
    step,
    outside(sql),
    Effect.asVoid
  )
}
