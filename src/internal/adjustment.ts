/** The changes of a budget while the program runs. What cannot be done is a programming error that names the budget. */
import type { Adjustment } from "../BudgetStore.ts"
import * as Ledger from "../Ledger.ts"
import { badAmount, isAmount } from "./amount.ts"
import { checkLimits } from "./definition.ts"

/** What a change of a budget makes of its ledgers, which are refilled up to `now`. */
export const adjustedLedgers = (
  name: string,
  ledgers: ReadonlyArray<Ledger.Ledger>,
  adjustment: Adjustment,
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
      const { limits } = adjustment
      checkLimits(name, limits)
      if (limits.length !== ledgers.length) {
        throw new RangeError(
          `Budget "${name}" has ${ledgers.length} limits, so setLimit takes as many, not ${limits.length}; ` +
            `Limit.unlimited takes one out of force`
        )
      }
      return ledgers.map((ledger, j) => Ledger.setLimit(ledger, limits[j]!, now))
    }
  }
}
