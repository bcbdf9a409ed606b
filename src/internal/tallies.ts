/** What is counted by how holds end. */
import type { Cause } from "../BudgetStore.ts"

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
