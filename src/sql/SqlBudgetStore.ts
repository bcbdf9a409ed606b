/**
 * Budgets whose books are in a database, shared by all who use it: PostgreSQL for several machines, SQLite (a file, no server) for
 * one machine whose budgets must survive a restart. The programs stay the same, with `layerStore` in place of `layer`:
 *
 * ```ts
 * import { Limit, RowGuard } from "effect-budget"
 * import { NodeSqlite, SqlBudgetStore } from "effect-budget/sql"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const rows = yield* RowGuard
 *   yield* rows.withReservation(40, (reservation) => reservation.commit(25))
 *   console.log(yield* rows.available) // 75
 * })
 *
 * const Rows = RowGuard.layerStore({ limit: Limit.capacity(100) }).pipe(
 *   Layer.provide(SqlBudgetStore.layer()),
 *   Layer.provide(NodeSqlite.layer({ filename: ":memory:" }))
 * )
 * await Effect.runPromise(program.pipe(Effect.provide(Rows)))
 * ```
 *
 * The tables (their names begin with `effect_budget_`) are made when the layer is built.
 *
 * On PostgreSQL, each step is one call of a function, at the server's clock, in a transaction of its own, even while the caller is
 * in one; steps that come while one is under way go together in the next call. Notifications come through `PgClient` of
 * `@effect/sql-pg`, which then listens on a connection of its pool: give it at least 2, and 3 if budgets are used inside of
 * transactions. With another client, or a pool of 1, who waits asks from time to time. The transactions must be `read committed`,
 * which is PostgreSQL's default.
 *
 * On SQLite, each step is a transaction that has the file for itself, at the clock of the machine. Those who wait in the same
 * process are told at once; those in other processes ask from time to time. Give the books a file and a client of their own: inside
 * a transaction of this client, a budget cannot be used, and a long transaction on the same file keeps the budgets waiting.
 */
import type { SqlClient } from "effect/sql/SqlClient"
import type { StoreUnavailable } from "../BudgetError.ts"
import { type StoreLayer, storeLayer } from "../internal/shared/layer.ts"
import { keepOutcomesOf, type SharedOptions } from "../internal/shared/options.ts"
import { make } from "../internal/shared/sql/books.ts"

export interface Options extends SharedOptions {
  /** Budgets are shared by those who name the same group in the same database. Default `default`. */
  readonly group?: string | undefined
}

/**
 * Keeps the books in the database of the `SqlClient` that is provided. Fails with `StoreUnavailable` when the database is away
 * while the layer is built; any database but PostgreSQL and SQLite is a defect.
 */
export const layer: StoreLayer<Options, StoreUnavailable, SqlClient> = storeLayer((options) =>
  make({ group: options.group ?? "default", keepOutcomes: keepOutcomesOf(options) })
)
