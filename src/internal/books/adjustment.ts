/** The changes of a budget while the program runs. A change that cannot be made is a programming error that names the budget. */
import type { Adjustment } from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import * as Limit from "../../Limit.ts"
import { badAmount, isAmount } from "../amount.ts"
import { frozen } from "./snapshot.ts"

/** The adjustments that change ledgers. */
export type LedgerAdjustment = Exclude<Adjustment, { readonly _tag: "Close" | "Withdraw" }>

/** The ledgers of a budget after a change. Expects ledgers that are brought up to `now`. */
export const adjustedLedgers = (
  name: string,
  ledgers: ReadonlyArray<Ledger.Ledger>,
  adjustment: LedgerAdjustment,
  now: number
): ReadonlyArray<Ledger.Ledger> => {
  switch (adjustment._tag) {
    case "TopUp": {
      const { amount } = adjustment
      if (!isAmount(amount)) throw badAmount(name, "the top-up", amount)
      return ledgers.map((ledger) => {
        const changed = Ledger.topUp(ledger, amount)
        if (changed === undefined) {
          throw badAmount(name, "the sum of all that was granted", `${ledger.granted} + ${amount}`)
        }
        return changed
      })
    }
    case "Refill":
      return ledgers.map(Ledger.replenish)
    case "Reset":
      return ledgers.map((ledger) => Ledger.reset(ledger, now))
    case "SetLimit": {
      const { limits, strategy } = adjustment
      assertLimits(name, limits)
      if (limits.length !== ledgers.length) {
        throw new RangeError(
          `Budget "${name}" has ${ledgers.length} limits, so setLimit takes as many, not ${limits.length}; ` +
            `Limit.unlimited takes one out of force`
        )
      }
      return ledgers.map((ledger, j) => Ledger.setLimit(ledger, frozen(limits[j]!), now, strategy))
    }
  }
}

/** A limit that cannot be used is a programming error. */
export const assertLimits = (name: string, limits: ReadonlyArray<Limit.Limit>): void => {
  if (limits.length === 0)
    throw new RangeError(`Budget "${name}" has no limit; Limit.unlimited says that there is none`)
  for (const limit of limits) {
    const problem = Limit.problem(limit)
    if (problem !== undefined) throw new RangeError(`Budget "${name}": ${problem}`)
  }
}
