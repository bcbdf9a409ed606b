/** When a part of a budget is used, told once per epoch. */
import * as Stream from "effect/Stream"
import type { Threshold } from "../Budget.ts"
import type { LedgerSnapshot, Snapshot } from "../BudgetStore.ts"
import * as Limit from "../Limit.ts"

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
    // By the place of the limit: the epoch, and the greatest fraction that was told in it.
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

/** Of a rate, what is missing from the bucket; of any other limit, what is held or spent of what was granted. */
const used = ({ available, granted, limit }: LedgerSnapshot): number => {
  if (limit._tag === "Unlimited") return 0
  const all = limit._tag === "Rate" ? Limit.maximum(limit) : granted
  return all === 0 ? 1 : (all - available) / all
}
