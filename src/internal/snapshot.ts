/** What is told of a budget: the same for every store. */
import type { LedgerSnapshot, Snapshot } from "../BudgetStore.ts"
import type { Ledger } from "../Ledger.ts"

export const ledgerSnapshot = ({ available, epoch, granted, held, limit, spent }: Ledger): LedgerSnapshot => ({
  limit,
  granted,
  available,
  held,
  spent,
  epoch
})

export const snapshotOf = (
  budget: string,
  ledgers: ReadonlyArray<LedgerSnapshot>,
  { charged, overage, settled, waiters }: Pick<Snapshot, "waiters" | "settled" | "charged" | "overage">
): Snapshot => {
  const [first, ...rest] = ledgers
  return {
    budget,
    ledgers: [first!, ...rest],
    available: Math.min(...ledgers.map(({ available }) => available)),
    waiters,
    settled,
    charged,
    overage
  }
}
