/** Emits when a part of a budget is used, once per epoch. */
import * as Stream from "effect/Stream"
import type { LedgerSnapshot, Snapshot } from "../../BudgetStore.ts"
import * as Limit from "../../Limit.ts"

/** A part of a budget that has been used. */
export interface Threshold {
  readonly fraction: number
  /** The limit that reached it. */
  readonly ledger: LedgerSnapshot
  readonly snapshot: Snapshot
}

export const thresholds = (
  budget: string,
  changes: Stream.Stream<Snapshot>,
  fractions: ReadonlyArray<number>
): Stream.Stream<Threshold> =>
  Stream.suspend(() => {
    for (const fraction of fractions) {
      if (fraction > 0 && fraction <= 1) continue
      throw new RangeError(`Budget "${budget}": a threshold is above 0 and at most 1, not ${fraction}`)
    }
    const ascending = fractions.toSorted((one, other) => one - other)
    // For each limit: its epoch, and the greatest fraction that was emitted in that epoch.
    const told: Array<{ readonly epoch: number; readonly fraction: number }> = []
    return Stream.flatMap(changes, (snapshot) =>
      Stream.fromIterable(
        ascending.flatMap((fraction): ReadonlyArray<Threshold> => {
          const reached = snapshot.ledgers.findIndex((ledger) => used(ledger) >= fraction)
          if (reached < 0) return []
          const ledger = snapshot.ledgers[reached]!
          const before = told[reached]
          if (before !== undefined && before.epoch === ledger.epoch && before.fraction >= fraction) return []
          told[reached] = { epoch: ledger.epoch, fraction }
          return [{ fraction, ledger, snapshot }]
        })
      )
    )
  })

/** For a rate, the part missing from the bucket; for any other limit, the held and spent part of the granted amount. */
const used = ({ available, granted, limit }: LedgerSnapshot): number => {
  if (limit._tag === "Unlimited") return 0
  const all = limit._tag === "Rate" ? Limit.maximum(limit) : granted
  return all === 0 ? 1 : (all - available) / all
}
