/** What a failure of the database means for the books. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { hasProperty } from "effect/Predicate"
import type { SqlClient } from "effect/sql/SqlClient"
import { isSqlError, type SqlError, type SqlErrorReason } from "effect/sql/SqlError"
import { StoreUnavailable } from "../../../BudgetError.ts"

/**
 * Runs a step. One that lost against another step is run again at once, a few times. When the database cannot be reached or
 * cannot do it now, it is `StoreUnavailable`; what would fail the same way again is a mistake, and a defect.
 */
export const step = <A, R>(effect: Effect.Effect<A, SqlError, R>): Effect.Effect<A, StoreUnavailable, R> =>
  effect.pipe(
    // What a transaction says when it cannot even be rolled back.
    Effect.catchDefect((defect) => (isSqlError(defect) ? Effect.fail(defect) : Effect.die(defect))),
    Effect.tapError(() => Effect.yieldNow),
    Effect.retry({ times: 5, while: ({ reason }) => lost.has(reason._tag) }),
    Effect.catch((error) =>
      isAway(error.reason)
        ? Effect.fail(
            new StoreUnavailable({ message: `the database is away: ${messageOf(error.reason)}`, cause: error })
          )
        : Effect.die(error)
    )
  )

/** Steps are never part of a transaction of the caller: it may be rolled back, and would keep all others waiting until then. */
export const outside =
  (sql: SqlClient) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.updateContext(
      effect,
      (context: Context.Context<R>) => Context.omit(sql.transactionService)(context) as Context.Context<R>
    )

const lost: ReadonlySet<SqlErrorReason["_tag"]> = new Set(["DeadlockError", "SerializationError", "LockTimeoutError"])

const isAway = (reason: SqlErrorReason): boolean => {
  switch (reason._tag) {
    case "ConnectionError":
    case "AuthenticationError":
    case "DeadlockError":
    case "SerializationError":
    case "LockTimeoutError":
    case "StatementTimeoutError":
      return true
    case "UnknownError":
      return hasProperty(reason.cause, "code") && isAwayState(reason.cause.code)
    default:
      return false
  }
}

/** Shutting down or starting, out of resources, failing disks, a standby that only reads, a transaction that stood still. */
const isAwayState = (code: unknown): boolean => typeof code === "string" && /^(57P|53|58|25006|25P03)/.test(code)

const messageOf = (reason: SqlErrorReason): string =>
  hasProperty(reason.cause, "message") ? `${reason.cause.message}` : (reason.message ?? reason._tag)
