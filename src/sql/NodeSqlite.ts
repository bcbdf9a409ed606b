/**
 * A `SqlClient` on the SQLite that comes with Node, for books in a file. It needs `node:sqlite`, which Node has from version
 * 22.13 on; nothing is loaded before the layer is built.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as SqlClient from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import { classifySqliteError, ConnectionError, SqlError } from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import * as Stream from "effect/Stream"
import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite"

export interface Options {
  /** A file, which is made when it is not there; its folder has to be. `:memory:` keeps nothing. */
  readonly filename: string
  /**
   * How long a statement waits for another process that has the file for itself. The process stands still while it waits. Default
   * 250 milliseconds.
   */
  readonly busyTimeout?: Duration.Input | undefined
  /**
   * When a transaction counts as done: once it is on the disk (`full`, default), or once the operating system has it (`normal`):
   * many times faster, and it survives the process, but not a power failure.
   */
  readonly synchronous?: "full" | "normal" | undefined
}

/**
 * A client with one connection, in WAL mode, whose transactions take the file for themselves when they begin. It closes with its
 * scope.
 */
export const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<SqlClient.SqlClient, SqlError, Scope.Scope | Reactivity.Reactivity> {
  const { DatabaseSync } = yield* Effect.tryPromise({
    try: () => import("node:sqlite"),
    catch: (cause) => failed(cause, "open")
  })
  const busy = Duration.toMillis(Duration.fromInputUnsafe(options.busyTimeout ?? "250 millis"))
  const db = yield* Effect.acquireRelease(
    attempt("open", () => {
      const db = new DatabaseSync(options.filename)
      try {
        db.exec(`PRAGMA busy_timeout = ${busy}`)
        db.exec(`PRAGMA journal_mode = WAL`)
        db.exec(`PRAGMA synchronous = ${options.synchronous ?? "full"}`)
        return db
      } catch (cause) {
        db.close()
        throw cause
      }
    }),
    (db) => Effect.sync(() => db.close())
  ).pipe(
    // To go over to WAL, the file must be free of others who do so: it does not wait for them by itself.
    Effect.tapError(() => Effect.yieldNow),
    Effect.retry({ times: 100, while: ({ reason }) => reason._tag === "LockTimeoutError" })
  )
  const connection = connectionOf(db)
  return yield* SqlClient.make({
    ...SqlClient.makeSqliteAcquirers({
      connection: Effect.succeed(connection),
      semaphore: Semaphore.makeUnsafe(1),
      isTransaction: () => db.isTransaction
    }),
    driver: "node:sqlite",
    compiler: Statement.makeCompilerSqlite(),
    beginTransaction: "BEGIN IMMEDIATE",
    prepareTransactionControls: true,
    spanAttributes: [["db.system.name", "sqlite"]]
  })
})

/** `make` as a layer. */
export const layer = (options: Options): Layer.Layer<SqlClient.SqlClient, SqlError> =>
  Layer.effect(SqlClient.SqlClient, make(options)).pipe(Layer.provide(Reactivity.layer))

const connectionOf = (db: DatabaseSync): Connection => {
  // The latest last. One that is new takes the place of the one that was not used for longest.
  const prepared = new Map<string, StatementSync>()
  const prepare = (sql: string): StatementSync => {
    const statement = prepared.get(sql) ?? db.prepare(sql)
    prepared.delete(sql)
    prepared.set(sql, statement)
    if (prepared.size > PREPARED) prepared.delete(prepared.keys().next().value!)
    return statement
  }
  const all = (statement: StatementSync, params: ReadonlyArray<unknown>) => {
    statement.setReturnArrays(false)
    return statement.all(...(params as ReadonlyArray<SQLInputValue>))
  }
  const arrays = (statement: StatementSync, params: ReadonlyArray<unknown>) => {
    statement.setReturnArrays(true)
    // Its type tells only of objects.
    return statement.all(...(params as ReadonlyArray<SQLInputValue>)) as unknown as ReadonlyArray<
      ReadonlyArray<unknown>
    >
  }
  const rows = (sql: string, params: ReadonlyArray<unknown>) => attempt("execute", () => all(prepare(sql), params))
  const execute: Connection["execute"] = (sql, params, transform) =>
    transform === undefined ? rows(sql, params) : Effect.map(rows(sql, params), transform)
  return {
    execute,
    executeRaw: rows,
    executeValues: (sql, params) => attempt("execute", () => arrays(prepare(sql), params)),
    executeUnprepared: (sql, params, transform) => {
      const once = attempt("execute", () => all(db.prepare(sql), params))
      return transform === undefined ? once : Effect.map(once, transform)
    },
    executeValuesUnprepared: (sql, params) => attempt("execute", () => arrays(db.prepare(sql), params)),
    executeStream: (sql, params, transform) =>
      Stream.unwrap(Effect.map(execute(sql, params, transform), Stream.fromIterable))
  }
}

const PREPARED = 100

const attempt = <A>(operation: string, body: () => A): Effect.Effect<A, SqlError> =>
  Effect.try({ try: body, catch: (cause) => failed(cause, operation) })

const failed = (cause: unknown, operation: string): SqlError => {
  const message = cause instanceof Error ? cause.message : String(cause)
  const code = cause instanceof Error && "errcode" in cause ? Number(cause.errcode) : undefined
  const props = { cause, message, operation }
  if (code !== BUSY && (operation === "open" || (code !== undefined && AWAY.has(code & 0xff)))) {
    return new SqlError({ reason: new ConnectionError(props) })
  }
  const known = Object.assign(new Error(message, { cause }), { errno: code === PRIMARY_KEY ? UNIQUE : code })
  return new SqlError({ reason: classifySqliteError(known, props) })
}

const BUSY = 5
const PRIMARY_KEY = 1555
const UNIQUE = 2067

/** The disk fails, is full, or cannot be written: what may go well later. */
const AWAY: ReadonlySet<number> = new Set([8, 10, 13])
