/** The options of a face as a store takes them, checked: what cannot be used is a programming error that names the budget. */
import * as Duration from "effect/Duration"
import type { Definition, Enforcement, Order } from "../BudgetStore.ts"
import * as Limit from "../Limit.ts"
import { isAmount } from "./amount.ts"

export interface WaitOptions {
  /** Default `reject`. What can never fit fails at once under `throttle` too. */
  readonly enforcement?: Enforcement | undefined
  /** Whose turn it is, for `throttle`. Default `fifo`. */
  readonly order?: Order | undefined
  /** How many may wait, for `throttle`; one more fails with `QueueFull`. Default: no bound. */
  readonly maxQueued?: number | undefined
  /**
   * How long a wait may take, for `throttle`; longer fails with `TimedOut`. Default: no bound. It is the wait for the budget that
   * it bounds, not what `reserveTx` runs alongside.
   */
  readonly timeout?: Duration.Input | undefined
}

export const definitionOf = (name: string, limits: ReadonlyArray<Limit.Limit>, options: WaitOptions): Definition => {
  checkLimits(name, limits)
  const { maxQueued } = options
  if (maxQueued !== undefined && !isAmount(maxQueued)) {
    throw new RangeError(`Budget "${name}": maxQueued must be a whole number from 0, not ${maxQueued}`)
  }
  return {
    name,
    limits,
    enforcement: options.enforcement ?? "reject",
    order: options.order ?? "fifo",
    maxQueued,
    timeout: timeoutOf(name, options.timeout)
  }
}

export const timeoutOf = (name: string, timeout: Duration.Input | undefined): Duration.Duration | undefined => {
  if (timeout === undefined) return undefined
  const duration = Duration.fromInputUnsafe(timeout)
  if (Duration.isNegative(duration)) {
    throw new RangeError(`Budget "${name}": the timeout must not be negative, as is ${Duration.format(duration)}`)
  }
  return duration
}

export const checkLimits = (name: string, limits: ReadonlyArray<Limit.Limit>): void => {
  if (limits.length === 0)
    throw new RangeError(`Budget "${name}" has no limit; Limit.unlimited says that there is none`)
  for (const limit of limits) {
    const problem = Limit.problem(limit)
    if (problem !== undefined) throw new RangeError(`Budget "${name}": ${problem}`)
  }
}
