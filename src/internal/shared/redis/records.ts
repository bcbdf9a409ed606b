/** What is kept of a budget in Redis, as text. The scripts read and write the same. */
import * as Duration from "effect/Duration"
import type { Cause } from "../../../BudgetStore.ts"
import type * as Ledger from "../../../Ledger.ts"
import * as Limit from "../../../Limit.ts"
import { CAUSES } from "../../books/tally.ts"
import type { Budget } from "../books.ts"

/** A Lua pattern for the first line: the gate, `charged`, `overage`, and for each cause its count and what it refunded. */
export const COUNTS = `^${Array(3 + 2 * CAUSES.length)
  .fill("(%d+)")
  .join(" ")}$`

const KINDS = { Capacity: "C", Rate: "R", Window: "W", Concurrency: "N", Unlimited: "U" } as const

/** Kind, maximum, the flow, and what else makes a rate: its amount, and `per` in nanoseconds. */
const limitText = (limit: Limit.Limit): string => {
  const interval = limit._tag === "Rate" && limit.refill === "interval"
  const { millis, units } = Limit.flow(limit) ?? { units: 0, millis: 0 }
  const rest = limit._tag === "Rate" ? [limit.amount, Duration.toNanosUnsafe(limit.per)] : [0, 0]
  return [interval ? "I" : KINDS[limit._tag], Limit.maximum(limit), units, millis, ...rest].join(" ")
}

const limitOf = ([kind, max, , millis, amount, nanos]: ReadonlyArray<string>): Limit.Limit => {
  switch (kind) {
    case "C":
      return Limit.capacity(Number(max))
    case "W":
      return Limit.window({ amount: Number(max), every: Number(millis) })
    case "N":
      return Limit.concurrency(Number(max))
    case "U":
      return Limit.unlimited
    default:
      return Limit.rate({
        amount: Number(amount),
        per: perOf(BigInt(nanos!)),
        burst: Number(max),
        refill: kind === "I" ? "interval" : "continuous"
      })
  }
}

const perOf = (nanos: bigint): Duration.Duration =>
  nanos % 1_000_000n === 0n ? Duration.millis(Number(nanos / 1_000_000n)) : Duration.nanos(nanos)

const ledgerOf = (line: string): Ledger.Ledger => {
  const words = line.split(" ")
  const [granted, available, held, spent, epoch, at, carry] = words.map(Number)
  const millis = Number(words[10])
  return {
    limit: limitOf(words.slice(7)),
    granted: granted!,
    available: available!,
    held: held!,
    spent: spent!,
    epoch: epoch!,
    at: at!,
    carry: carry!,
    flow: millis === 0 ? undefined : { units: Number(words[9]), millis }
  }
}

export const ledgersOf = (text: string): ReadonlyArray<Ledger.Ledger> => text.split("\n").slice(2).map(ledgerOf)

export const budgetOf = (text: string): Budget => {
  const [counts, declared] = text.split("\n")
  const [, charged, overage, ...tallies] = counts!.split(" ").map(Number)
  const tally = (cause: Cause) => {
    const at = 2 * CAUSES.indexOf(cause)
    return { count: tallies[at]!, refunded: tallies[at + 1]! }
  }
  return {
    ledgers: ledgersOf(text),
    declared: declared!.split(",").map((limit) => limitOf(limit.split(" "))),
    settled: {
      committed: tally("committed"),
      released: tally("released"),
      succeeded: tally("succeeded"),
      failed: tally("failed"),
      interrupted: tally("interrupted"),
      expired: tally("expired")
    },
    charged: charged!,
    overage: overage!
  }
}

export const budgetText = ({ charged, declared, ledgers, overage, settled }: Budget): string =>
  [
    [0, charged, overage, ...CAUSES.flatMap((cause) => [settled[cause].count, settled[cause].refunded])].join(" "),
    declared.map(limitText).join(","),
    ...ledgers.map(({ at, available, carry, epoch, granted, held, limit, spent }) =>
      [granted, available, held, spent, epoch, at, carry, limitText(limit)].join(" ")
    )
  ].join("\n")

/** A name as one word of the records. */
export const nameText = (name: string): string =>
  /^[\w.~*'()!-]+$/.test(name) ? name : encodeURIComponent(name.toWellFormed())

export const nameOf = decodeURIComponent

export const numbersOf = (text: string): ReadonlyArray<number> => text.split(",").map(Number)
