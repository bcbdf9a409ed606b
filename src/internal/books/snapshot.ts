/** Snapshots of a budget, for all stores. They are frozen, since the listeners of a budget share them. */
import * as Duration from "effect/Duration"
import type { LedgerSnapshot, Snapshot } from "../../BudgetStore.ts"
import type { Ledger } from "../../Ledger.ts"
import type { Limit } from "../../Limit.ts"

export const ledgerSnapshot = ({ available, epoch, granted, held, limit, spent }: Ledger): LedgerSnapshot =>
  Object.freeze({ limit: frozen(limit), granted, available, held, spent, epoch })

export const snapshotOf = (
  budget: string,
  ledgers: ReadonlyArray<LedgerSnapshot>,
  { charged, overage, settled, waiters }: Pick<Snapshot, "waiters" | "settled" | "charged" | "overage">
): Snapshot => {
  const [first, ...rest] = ledgers
  for (const tally of Object.values(settled)) Object.freeze(tally)
  return Object.freeze({
    budget,
    ledgers: Object.freeze([first!, ...rest] as const),
    available: Math.min(...ledgers.map(({ available }) => available)),
    waiters,
    settled: Object.freeze(settled),
    charged,
    overage
  })
}

/** A copy of a limit that nobody can change, or the limit itself if it is such a copy. */
export const frozen = (limit: Limit): Limit => {
  if (copies.has(limit)) return limit
  const copy = Object.freeze(
    limit._tag === "Rate"
      ? { ...limit, per: frozenDuration(limit.per) }
      : limit._tag === "Window"
        ? { ...limit, every: frozenDuration(limit.every) }
        : { ...limit }
  )
  copies.add(copy)
  return copy
}

const copies = new WeakSet<Limit>()

/** A sum is a new object, which shares nothing with the caller's. */
const frozenDuration = (duration: Duration.Duration): Duration.Duration => {
  const copy = Duration.sum(duration, Duration.zero)
  Object.freeze(copy.value)
  return Object.freeze(copy)
}
