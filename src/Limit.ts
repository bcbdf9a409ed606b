/**
 * The limits that a budget can have. They are plain data: they can be compared, sent over the wire and read from configuration.
 *
 * Every amount is a non-negative safe integer in the unit of the budget (rows, tokens, nano-dollars).
 *
 * ```ts
 * import { Equal } from "effect"
 * import { Limit } from "effect-budget"
 *
 * const limit = Limit.rate({ amount: 100, per: "1 minute", burst: 200 })
 * console.log(Limit.format(limit)) // rate of 100 per 1m (burst 200)
 * console.log(Limit.problem(limit)) // undefined
 * console.log(Equal.equals(Limit.capacity(5), Limit.capacity(5))) // true
 * ```
 */
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import { isAmount } from "./internal/amount.ts"

const Amount = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))

/**
 * A fixed amount that never refills; only `topUp` and `reset` add to it. Settled amounts stay spent. A caller that waits for more
 * than is left waits until a refund, a top-up or a reset: give waits a `timeout`.
 */
export interface Capacity extends Schema.Schema.Type<typeof Capacity> {}
export const Capacity = Schema.TaggedStruct("Capacity", { amount: Amount })

/**
 * A token bucket: `amount` flows in continuously per `per`, up to `burst`. It starts full. Settled amounts stay spent; a refund
 * goes back to the bucket as far as it has room. With `refill: "interval"`, the `amount` comes at once after each whole `per`.
 * The periods are counted from when the books were opened (or reset), also while the bucket is full.
 *
 * A clock that steps back by less than the time in which the bucket fills is waited for; after any other step, refilling
 * continues at the new time.
 */
export interface Rate extends Schema.Schema.Type<typeof Rate> {}
export const Rate = Schema.TaggedStruct("Rate", {
  amount: Amount,
  per: Schema.DurationFromMillis,
  burst: Amount,
  /** Default `continuous`. */
  refill: Schema.optionalKey(Schema.Literals(["continuous", "interval"]))
})

/**
 * `amount` for each window of length `every`. Windows are aligned to the Unix epoch, so that all processes that share a limit
 * agree on its boundaries. A hold belongs to the window in which it was taken, also when it settles later; so does its overage,
 * which the next window does not have to pay.
 *
 * A clock that steps back by less than a window is waited for; after any other step, the books continue with the window of the
 * new time.
 */
export interface Window extends Schema.Schema.Type<typeof Window> {}
export const Window = Schema.TaggedStruct("Window", {
  amount: Amount,
  every: Schema.DurationFromMillis
})

/** At most `amount` held at the same time. The whole hold comes back at settlement, whatever the actual amount. */
export interface Concurrency extends Schema.Schema.Type<typeof Concurrency> {}
export const Concurrency = Schema.TaggedStruct("Concurrency", { amount: Amount })

/** No bound: amounts are counted and never denied, up to the 2^53 - 1 units that the books can count at once. */
export interface Unlimited extends Schema.Schema.Type<typeof Unlimited> {}
export const Unlimited = Schema.TaggedStruct("Unlimited", {})

/** One of the limits. */
export type Limit = Capacity | Rate | Window | Concurrency | Unlimited
export const Limit = Schema.Union([Capacity, Rate, Window, Concurrency, Unlimited])

/** A fixed amount of `amount` units, from 0 to 2^53 - 1. */
export const capacity = (amount: number): Capacity => ({ _tag: "Capacity", amount })

/**
 * `amount` units per `per`, up to `burst` at once (default `amount`).
 *
 * Bounds: `amount` and `burst` from 1 to 2^53 - 1; `per` finite and above 0. With a `per` that is not whole milliseconds, the
 * `amount` is at most 9,007,199,254, so that refills stay exact; with `refill: "interval"` it is whole milliseconds.
 */
export const rate = (options: {
  readonly amount: number
  readonly per: Duration.Input
  readonly burst?: number | undefined
  readonly refill?: "continuous" | "interval" | undefined
}): Rate => ({
  _tag: "Rate",
  amount: options.amount,
  per: Duration.fromInputUnsafe(options.per),
  burst: options.burst ?? options.amount,
  ...(options.refill === "interval" ? { refill: "interval" } : undefined)
})

/**
 * `amount` units in each window of length `every`.
 *
 * Bounds: `every` is a whole number of milliseconds, at least 1.
 */
export const window = (options: { readonly amount: number; readonly every: Duration.Input }): Window => ({
  _tag: "Window",
  amount: options.amount,
  every: Duration.fromInputUnsafe(options.every)
})

/** At most `amount` units held at the same time, from 0 to 2^53 - 1. */
export const concurrency = (amount: number): Concurrency => ({ _tag: "Concurrency", amount })

/** No bound: the amounts are only counted. */
export const unlimited: Unlimited = { _tag: "Unlimited" }

/** The largest request that this limit can ever admit as it was declared (a `topUp` can raise it for a capacity). */
export const maximum = (self: Limit): number => {
  switch (self._tag) {
    case "Rate":
      return self.burst
    case "Unlimited":
      return Number.MAX_SAFE_INTEGER
    default:
      return self.amount
  }
}

/** A limit in words, for messages: `rate of 100 per 1m (burst 200)`, `rate of 100 per whole 1m`. */
export const format = (self: Limit): string => {
  switch (self._tag) {
    case "Capacity":
      return `capacity of ${self.amount}`
    case "Rate": {
      const burst = self.burst === self.amount ? "" : ` (burst ${self.burst})`
      const whole = self.refill === "interval" ? "whole " : ""
      return `rate of ${self.amount} per ${whole}${Duration.format(self.per)}${burst}`
    }
    case "Window":
      return `window of ${self.amount} every ${Duration.format(self.every)}`
    case "Concurrency":
      return `concurrency of ${self.amount}`
    case "Unlimited":
      return "unlimited"
  }
}

/** Why this limit cannot be used, in words, or `undefined` when it can. */
export const problem = (self: Limit): string | undefined => {
  if (self._tag === "Unlimited") return undefined
  if (!isAmount(self.amount)) {
    return `the ${self._tag.toLowerCase()} amount ${self.amount} is not a whole number from 0 to 2^53 - 1`
  }
  if (self._tag === "Rate") {
    if (self.amount === 0) return "a rate of 0 would never refill"
    if (!isAmount(self.burst) || self.burst === 0) {
      return `the burst ${self.burst} is not a whole number from 1 to 2^53 - 1, so no request could ever fit`
    }
    if (!isPositive(self.per)) return `the "per" of a rate must be above 0 and finite, not ${Duration.format(self.per)}`
    if (self.refill === "interval" && !isWholeMillis(self.per)) {
      return `the "per" of a rate that refills by interval must be whole milliseconds, not ${Duration.format(self.per)}`
    }
    if (flow(self) === undefined) {
      return `the rate of ${self.amount} per ${Duration.format(self.per)} cannot be counted exactly in whole milliseconds`
    }
  }
  if (self._tag === "Window") {
    if (!isPositive(self.every) || !isWholeMillis(self.every)) {
      return `the "every" of a window must be a whole number of milliseconds, at least 1, not ${Duration.format(self.every)}`
    }
  }
  return undefined
}

const isPositive = (duration: Duration.Duration): boolean =>
  Duration.isFinite(duration) && Duration.isPositive(duration)

const isWholeMillis = (duration: Duration.Duration): boolean => Number.isSafeInteger(Duration.toMillis(duration))

/**
 * How time refills a limit. A rate gains `units` per `millis`: continuously, as a reduced fraction, or all at once by interval. A
 * window has `units` for each `millis`.
 */
export interface Flow {
  readonly units: number
  readonly millis: number
}

/**
 * The exact flow of a limit; `undefined` for a limit that time does not change, or whose flow does not fit in safe integers.
 *
 * @internal
 */
export const flow = (self: Limit): Flow | undefined => {
  if (self._tag === "Window") return { units: self.amount, millis: Duration.toMillis(self.every) }
  if (self._tag !== "Rate") return undefined
  if (self.refill === "interval") return { units: self.amount, millis: Duration.toMillis(self.per) }
  const units = BigInt(self.amount) * 1_000_000n
  const nanos = Duration.toNanosUnsafe(self.per)
  let [a, b] = [units, nanos]
  while (b > 0n) [a, b] = [b, a % b]
  const reduced = { units: Number(units / a), millis: Number(nanos / a) }
  return Number.isSafeInteger(reduced.units) && Number.isSafeInteger(reduced.millis) ? reduced : undefined
}
