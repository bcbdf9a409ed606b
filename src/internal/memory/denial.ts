/** Why a request is not admitted by the books of this process. */
import type * as Ledger from "../../Ledger.ts"
import { type Denial, denialAmong } from "../denial.ts"
import type { MemoryAccount, MemoryRequest } from "./account.ts"
import { current, heldIn } from "./books.ts"

/** By the books as they are, or by these ledgers of all accounts. */
export const denialOf = (
  request: MemoryRequest,
  now: number,
  ledgers?: ReadonlyArray<Ledger.Ledger>,
  inOrder = false
): Denial<MemoryAccount> | undefined => {
  let from = 0
  return denialAmong(
    request,
    now,
    (i) => {
      const account = request.accounts[i]!
      if (ledgers !== undefined) return ledgers.slice(from, (from += account.cells.length))
      return account.cells.map((cell) => current(account, cell, now))
    },
    (i, k, ledger) => heldIn(request.into!, i, k, ledger),
    inOrder
  )
}
