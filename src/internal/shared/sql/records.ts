/** How budgets and holds are written in SQL: as JSON whose numbers are safe integers. */
import * as Duration from "effect/Duration"
import type * as Ledger from "../../../Ledger.ts"
import * as Limit from "../../../Limit.ts"
import { CAUSES } from "../../books/tally.ts"
import type { Budget } from "../books.ts"

/** One element of each array for each limit; those of `settled` and `refunded` are by cause. */
export interface BudgetRecord {
  readonly kinds: ReadonlyArray<Kind>
  readonly maximum: ReadonlyArray<number>
  readonly units: ReadonlyArray<number>
  /** 0 where time changes nothing. */
  readonly millis: ReadonlyArray<number>
  readonly granted: ReadonlyArray<number>
  readonly available: ReadonlyArray<number>
  readonly held: ReadonlyArray<number>
  readonly spent: ReadonlyArray<number>
  readonly epoch: ReadonlyArray<number>
  readonly at: ReadonlyArray<number>
  readonly carry: ReadonlyArray<number>
  readonly settled: ReadonlyArray<number>
  readonly refunded: ReadonlyArray<number>
  readonly charged: number
  readonly overage: number
  readonly limits: ReadonlyArray<LimitRecord>
  readonly declared: ReadonlyArray<LimitRecord>
}

type Kind = Limit.Limit["_tag"] | "Interval"

/** A duration in milliseconds, or in nanoseconds when they are not whole, so that it comes back exact. */
type Span = number | string

type LimitRecord =
  | Limit.Capacity
  | Limit.Concurrency
  | Limit.Unlimited
  | (Omit<Limit.Rate, "per"> & { readonly per: Span })
  | (Omit<Limit.Window, "every"> & { readonly every: Span })

export const budgetToRecord = ({ charged, declared, ledgers, overage, settled }: Budget): BudgetRecord => {
  const each = <A>(f: (ledger: Ledger.Ledger) => A): ReadonlyArray<A> => ledgers.map(f)
  return {
    kinds: each(({ limit }) => (limit._tag === "Rate" && limit.refill === "interval" ? "Interval" : limit._tag)),
    maximum: each(({ limit }) => Limit.maximum(limit)),
    units: each(({ flow }) => flow?.units ?? 0),
    millis: each(({ flow }) => flow?.millis ?? 0),
    granted: each(({ granted }) => granted),
    available: each(({ available }) => available),
    held: each(({ held }) => held),
    spent: each(({ spent }) => spent),
    epoch: each(({ epoch }) => epoch),
    at: each(({ at }) => at),
    carry: each(({ carry }) => carry),
    settled: CAUSES.map((cause) => settled[cause].count),
    refunded: CAUSES.map((cause) => settled[cause].refunded),
    charged,
    overage,
    limits: each(({ limit }) => limitToRecord(limit)),
    declared: declared.map(limitToRecord)
  }
}

export const recordToBudget = (record: BudgetRecord): Budget => ({
  ledgers: recordToLedgers(record),
  declared: record.declared.map(recordToLimit),
  settled: {
    committed: tally(record, 0),
    released: tally(record, 1),
    succeeded: tally(record, 2),
    failed: tally(record, 3),
    interrupted: tally(record, 4),
    expired: tally(record, 5)
  },
  charged: record.charged,
  overage: record.overage
})

export const recordToLedgers = (record: BudgetRecord): ReadonlyArray<Ledger.Ledger> =>
  record.limits.map((limit, j) => {
    const millis = record.millis[j]!
    return {
      limit: recordToLimit(limit),
      granted: record.granted[j]!,
      available: record.available[j]!,
      held: record.held[j]!,
      spent: record.spent[j]!,
      epoch: record.epoch[j]!,
      at: record.at[j]!,
      carry: record.carry[j]!,
      flow: millis === 0 ? undefined : { units: record.units[j]!, millis }
    }
  })

const tally = (record: BudgetRecord, cause: number) => ({
  count: record.settled[cause]!,
  refunded: record.refunded[cause]!
})

const limitToRecord = (limit: Limit.Limit): LimitRecord => {
  if (limit._tag === "Rate") return { ...limit, per: spanOf(limit.per) }
  if (limit._tag === "Window") return { ...limit, every: spanOf(limit.every) }
  return limit
}

const recordToLimit = (record: LimitRecord): Limit.Limit => {
  if (record._tag === "Rate") return { ...record, per: durationOf(record.per) }
  if (record._tag === "Window") return { ...record, every: durationOf(record.every) }
  return record
}

const spanOf = (duration: Duration.Duration): Span => {
  const millis = Duration.toMillis(duration)
  return Number.isSafeInteger(millis) ? millis : `${Duration.toNanosUnsafe(duration)}`
}

const durationOf = (span: Span): Duration.Duration =>
  typeof span === "number" ? Duration.millis(span) : Duration.nanos(BigInt(span))
