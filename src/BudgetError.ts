/**
 * The two ways a budget says no. Both are `Schema` errors, so they travel over HTTP or RPC.
 *
 * A wrong amount (negative, fractional, NaN, above 2^53 - 1) is neither: it is a programming error, and dies with a
 * `RangeError` that names the budget and the value.
 */
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import * as Limit from "./Limit.ts"

/**
 * The limits say no.
 *
 * - `budget`, `limit`: the first budget that denied, and the limit of it that did
 * - `requested`, `available`: in that budget's unit; `available` is negative while there is debt
 * - `retryAfter`: when time alone will admit the whole request, if nothing else takes the room; absent when time cannot help
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

/** The wait took longer than the `timeout`, a duration. */
export class TimedOut extends Schema.TaggedError<TimedOut>("effect-budget/TimedOut")("TimedOut", {
  after: Schema.DurationFromMillis
}) {
  override get message(): string {
    return `no room within ${Duration.format(this.after)}`
  }
}

/** `maxQueued` others were waiting already. */
export class QueueFull extends Schema.TaggedError<QueueFull>("effect-budget/QueueFull")("QueueFull", {
  maxQueued: Schema.Int
}) {
  override get message(): string {
    return `${this.maxQueued} are waiting already`
  }
}

/** The resource's enforcement rejected the request; `estimatedWait` is absent when it is not known. */
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
 * The reservation could not be had for a reason other than the limits. Recover from one of them with
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
