/**
 * The two errors of a budget. Both are `Schema` errors, so they travel over HTTP or RPC.
 *
 * A wrong amount (negative, fractional, NaN, above 2^53 - 1) is neither: it is a programming error, and dies with a
 * `RangeError` that names the budget and the value.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Budget, Limit } from "effect-budget"
 *
 * class Calls extends Budget.Service<Calls>()("app/Calls") {}
 *
 * const program = Effect.gen(function* () {
 *   const calls = yield* Calls
 *   return yield* calls.withReservation(20, () => Effect.succeed("ran"))
 * }).pipe(
 *   Effect.catchTag("BudgetExceeded", ({ available }) => Effect.succeed(`only ${available} left`)),
 *   Effect.catchReason("FailedReservation", "TimedOut", ({ message }) => Effect.succeed(message))
 * )
 *
 * console.log(await Effect.runPromise(Effect.provide(program, Calls.layer({ limit: Limit.capacity(10) })))) // only 10 left
 * ```
 */
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import * as Limit from "./Limit.ts"

/**
 * The limits deny a request.
 *
 * - `budget`, `limit`: the budget that denied it, and which of its limits did
 * - `requested`, `available`: in the unit of that budget; `available` is negative while there is debt
 * - `retryAfter`: the time after which time alone will admit the whole request, if nothing else takes the room; absent when time
 *   cannot help
 */
export class BudgetExceeded extends Schema.TaggedError<BudgetExceeded>("effect-budget/BudgetExceeded")(
  "BudgetExceeded",
  {
    budget: Schema.String,
    limit: Limit.Limit,
    requested: Schema.Int,
    available: Schema.Int,
    retryAfter: Schema.optionalKey(Schema.DurationFromMillis)
  }
) {
  override get message(): string {
    const wait = this.retryAfter === undefined ? "" : `, retry after ${Duration.format(this.retryAfter)}`
    const left = `${this.available} available of its ${Limit.format(this.limit)}`
    return `Budget "${this.budget}" exceeded: ${this.requested} requested, ${left}${wait}`
  }
}

/**
 * The wait took longer than the `timeout`, or could not end within it. `after` is that timeout. The other fields are those of the
 * `BudgetExceeded` that the request would have got at that moment: the `limit` that denied it, its `available` amount, and
 * `retryAfter` where time alone will admit the request. They are absent when the request fitted and only had to wait its turn.
 */
export class TimedOut extends Schema.TaggedError<TimedOut>("effect-budget/TimedOut")("TimedOut", {
  after: Schema.DurationFromMillis,
  limit: Schema.optionalKey(Limit.Limit),
  available: Schema.optionalKey(Schema.Int),
  retryAfter: Schema.optionalKey(Schema.DurationFromMillis)
}) {
  override get message(): string {
    const within = `no room within ${Duration.format(this.after)}`
    if (this.limit === undefined) return within
    const wait = this.retryAfter === undefined ? "" : `, retry after ${Duration.format(this.retryAfter)}`
    return `${within}: ${this.available} available of its ${Limit.format(this.limit)}${wait}`
  }
}

/** As many requests as `maxQueued` allows were waiting already. */
export class QueueFull extends Schema.TaggedError<QueueFull>("effect-budget/QueueFull")("QueueFull", {
  maxQueued: Schema.Int
}) {
  override get message(): string {
    return `${this.maxQueued} are waiting already`
  }
}

/** The enforcement of the resource rejected the request. `estimatedWait` is absent when it is not known. */
export class Rejected extends Schema.TaggedError<Rejected>("effect-budget/Rejected")("Rejected", {
  estimatedWait: Schema.optionalKey(Schema.DurationFromMillis)
}) {
  override get message(): string {
    return this.estimatedWait === undefined
      ? "rejected"
      : `rejected, estimated wait ${Duration.format(this.estimatedWait)}`
  }
}

/** The store that keeps the books cannot be reached. */
export class StoreUnavailable extends Schema.TaggedError<StoreUnavailable>("effect-budget/StoreUnavailable")(
  "StoreUnavailable",
  { message: Schema.String, cause: Schema.optionalKey(Schema.Defect()) }
) {}

/** No resource of that name is defined. */
export class UnknownResource extends Schema.TaggedError<UnknownResource>("effect-budget/UnknownResource")(
  "UnknownResource",
  { resource: Schema.String }
) {
  override get message(): string {
    return `no resource "${this.resource}" is defined`
  }
}

export type FailedReservationReason = TimedOut | QueueFull | Rejected | StoreUnavailable | UnknownResource
export const FailedReservationReason = Schema.Union([TimedOut, QueueFull, Rejected, StoreUnavailable, UnknownResource])

/**
 * The reservation failed for a reason other than the limits. Recover from one reason with
 * `Effect.catchReason("FailedReservation", "TimedOut", ...)`.
 */
export class FailedReservation extends Schema.TaggedError<FailedReservation>("effect-budget/FailedReservation")(
  "FailedReservation",
  { budget: Schema.String, requested: Schema.Int, reason: FailedReservationReason }
) {
  override get message(): string {
    return `Budget "${this.budget}": ${this.requested} requested, ${this.reason.message}`
  }
}
