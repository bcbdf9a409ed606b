import { Limit } from "effect-budget"

/** So wide that no case ever meets its end. */
export const wide = {
  capacity: Limit.capacity(1_000_000_000),
  concurrency: Limit.concurrency(10),
  /** A million dollars in nano-dollars: beyond the integers that the engine of JavaScript keeps unboxed. */
  dollars: Limit.capacity(1_000_000_000_000_000),
  rate: Limit.rate({ amount: 1_000_000_000, per: "1 second" })
} as const
