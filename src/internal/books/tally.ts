/** The counts of a budget over all its epochs: holds by how they ended, the sum of the charges, and the sum of the overage. */
import type { Cause, Snapshot } from "../../BudgetStore.ts"

/** In the order in which shared books write their tallies. */
export const CAUSES = [
  "committed",
  "released",
  "succeeded",
  "failed",
  "interrupted",
  "expired"
] as const satisfies ReadonlyArray<Cause>

export const byCause = <A>(of: (cause: Cause) => A): Record<Cause, A> => ({
  committed: of("committed"),
  released: of("released"),
  succeeded: of("succeeded"),
  failed: of("failed"),
  interrupted: of("interrupted"),
  expired: of("expired")
})

export interface Tally {
  readonly settled: Record<Cause, { count: number; refunded: number }>
  charged: number
  overage: number
}

export const makeTally = (): Tally => ({
  settled: byCause(() => ({ count: 0, refunded: 0 })),
  charged: 0,
  overage: 0
})

const MAX = Number.MAX_SAFE_INTEGER

/** Counts a settlement. A sum that would leave the safe integers stays at the greatest of them. */
export const record = (self: Tally, cause: Cause, held: number, charged: number, counted: boolean): void => {
  self.charged = Math.min(self.charged + charged, MAX)
  if (charged > held) self.overage = Math.min(self.overage + charged - held, MAX)
  if (!counted) return
  const { [cause]: tally } = self.settled
  tally.count++
  if (held > charged) tally.refunded = Math.min(tally.refunded + held - charged, MAX)
}

/** A copy of the counts, which the tally does not change later. */
export const tallySnapshot = (self: Tally | undefined): Pick<Snapshot, "settled" | "charged" | "overage"> => ({
  settled: byCause((cause) => ({ count: 0, refunded: 0, ...self?.settled[cause] })),
  charged: self?.charged ?? 0,
  overage: self?.overage ?? 0
})
