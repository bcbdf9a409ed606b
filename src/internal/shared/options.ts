/** How a process takes part in books that it shares with others. */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import { isAmount } from "../amount.ts"

export interface SharedOptions {
  /**
   * How long a hold stays when nobody renews it, from 1 second. It is renewed three times as often while its scope lives, so this
   * is how long a process that died pins what it held. Default 60 seconds.
   */
  readonly expiresAfter?: Duration.Input | undefined
  /**
   * What a hold that expired is charged: the `progress` that its process had told with the last renewal (default), or all of the
   * `hold`, for work that is paid for even if nobody is there to see it end. A settlement that comes later is charged all the
   * same, once.
   */
  readonly onExpiry?: "progress" | "hold" | undefined
  /**
   * How long the outcome of a hold is remembered, so that a settlement whose answer was lost can be sent again. Default 10
   * minutes, at least 1 second. One that is sent again later is charged again.
   */
  readonly keepOutcomes?: Duration.Input | undefined
  /** How long the store may take for one step before it counts as away, from 1 millisecond. Default 5 seconds. */
  readonly requestTimeout?: Duration.Input | undefined
  /**
   * How often who is first in turn asks again when no notification comes; the others do not ask. Also how often at least a store
   * that is away is tried. From 1 millisecond, default 1 second.
   */
  readonly pollInterval?: Duration.Input | undefined
  /**
   * What a reservation gets while the store is away:
   *
   * - `fail` (default): `FailedReservation` with the reason `StoreUnavailable`
   * - `deny`: what a full budget answers: `BudgetExceeded`, or a wait
   * - `{ allowWithin }`: goes on without the store until this amount (from 0 to 2^53 - 1) is out, for each budget and process, and
   *   `fail` beyond it. What is held counts, and what was spent until the store knows of it; what is given back does not. Slots
   *   count while they are used. What is spent so is charged when the store is back. It may have overspent the budget by that amount
   *   for each process that ran meanwhile, beside what was charged above its reservation.
   *
   * `tryReserve` answers its soft no in place of an error. Settlements never fail: they are kept, and sent in order when the
   * store is back. What it then cannot charge, since nobody has opened the budget, is kept until somebody does.
   */
  readonly onUnavailable?: "fail" | "deny" | { readonly allowWithin: number } | undefined
}

export interface Settings {
  readonly expiresAfter: number
  readonly onExpiry: "progress" | "hold"
  readonly requestTimeout: number
  readonly pollInterval: number
  readonly onUnavailable: "fail" | "deny"
  readonly allowWithin: number
}

/** In milliseconds, checked: what cannot be used is a programming error. */
export const settingsOf = (options: SharedOptions): Settings => {
  const { onUnavailable = "fail" } = options
  const allowWithin = typeof onUnavailable === "object" ? onUnavailable.allowWithin : 0
  if (!isAmount(allowWithin)) {
    throw new RangeError(`BudgetStore: allowWithin must be a whole number from 0 to 2^53 - 1, not ${allowWithin}`)
  }
  return {
    expiresAfter: millisOf("expiresAfter", options.expiresAfter ?? "60 seconds", 1_000),
    onExpiry: options.onExpiry ?? "progress",
    requestTimeout: millisOf("requestTimeout", options.requestTimeout ?? "5 seconds", 1),
    pollInterval: millisOf("pollInterval", options.pollInterval ?? "1 second", 1),
    onUnavailable: typeof onUnavailable === "object" ? "fail" : onUnavailable,
    allowWithin
  }
}

/** Shared with the books, which keep outcomes. */
export const keepOutcomesOf = (options: SharedOptions): number =>
  millisOf("keepOutcomes", options.keepOutcomes ?? "10 minutes", 1_000)

export const millisOf = (name: string, input: Duration.Input, least: number): number => {
  const millis = Option.map(Duration.fromInput(input), Duration.toMillis)
  if (Option.isSome(millis) && Number.isSafeInteger(millis.value) && millis.value >= least) return millis.value
  const got = Option.isSome(millis) ? millis.value : JSON.stringify(input)
  throw new RangeError(`BudgetStore: ${name} must be a whole number of milliseconds from ${least}, not ${got}`)
}
