/** Makes a definition from the options of a face. An option that cannot be used is a programming error that names the budget. */
import * as Duration from "effect/Duration"
import type { Definition, Enforcement, Order } from "../../BudgetStore.ts"
import type { Limit } from "../../Limit.ts"
import { isAmount } from "../amount.ts"
import { assertLimits } from "../books/adjustment.ts"
import { frozen } from "../books/snapshot.ts"

export interface WaitOptions {
  /**
   * What happens when the limits deny a request. Default `reject`. A request that can never fit fails at once under `throttle`
   * too.
   */
  readonly enforcement?: Enforcement | undefined
  /** The order of the waiters, for `throttle`. Default `fifo`. */
  readonly order?: Order | undefined
  /** The greatest number of waiters, for `throttle`; one more fails with `QueueFull`. Default: no bound. */
  readonly maxQueued?: number | undefined
  /**
   * The longest wait, for `throttle`; a longer one fails with `TimedOut`, as does at once a wait that neither refunds nor time
   * can end within it. Default: no bound. It bounds the wait for the budget, not the transaction that `reserveTx` runs alongside.
   */
  readonly timeout?: Duration.Input | undefined
}

export const definitionOf = (name: string, limits: ReadonlyArray<Limit>, options: WaitOptions): Definition => {
  assertLimits(name, limits)
  const { maxQueued } = options
  if (maxQueued !== undefined && !isAmount(maxQueued)) {
    throw new RangeError(`Budget "${name}": maxQueued must be a whole number from 0, not ${maxQueued}`)
  }
  return {
    name,
    limits: limits.map(frozen),
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
