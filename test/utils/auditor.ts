/**
 * An auditor beside the memory store: after every step it checks the books of a budget against the holds that are open, and
 * the queue against the books.
 */
import type { Ledger, Reservation } from "../../src/index.ts"
import { MemoryAccount } from "../../src/internal/memory/account.ts"
import { denialOf } from "../../src/internal/memory/denial.ts"
import { TypeId } from "../../src/internal/reservable.ts"

MemoryAccount.audited = true

/** The accounts of a budget that was opened after this module was loaded. */
export const audited = (budget: Reservation.AnyReservable): ReadonlyArray<MemoryAccount> =>
  budget[TypeId].accounts as ReadonlyArray<MemoryAccount>

export const audit = (accounts: Iterable<MemoryAccount>): string | undefined => {
  for (const account of accounts) {
    const problem = auditBooks(account) ?? auditQueue(account)
    if (problem !== undefined) return `"${account.name}": ${problem}`
  }
  return undefined
}

const auditBooks = (account: MemoryAccount): string | undefined => {
  for (let j = 0; j < account.cells.length; j++) {
    const ledger = account.cells[j]!.value
    const { available, granted, held, spent } = ledger
    const line = `granted ${granted}, available ${available}, held ${held}, spent ${spent}`
    if (available + held + spent !== granted) return `does not balance: ${line}`
    if (held < 0 || spent < 0) return `is negative: ${line}`
    const open = heldBy(account, j, ledger)
    if (open !== held) return `${open} in open holds, but ${line}`
  }
  return undefined
}

/** The sum of what the open holds have set aside in the current epoch of one ledger. */
const heldBy = (account: MemoryAccount, j: number, { epoch }: Ledger.Ledger): number => {
  let sum = 0
  for (const hold of account.open!) {
    const i = hold.accounts.indexOf(account)
    let k = j
    for (const before of hold.accounts.slice(0, i)) k += before.cells.length
    for (const part of [...hold.older, hold]) {
      if (part.epochs[k] === epoch) sum += part.amounts[i]!
    }
  }
  return sum
}

/** Who stands first everywhere and fits must have been served, unless its timer is about to fire: else a wake-up was lost. */
const auditQueue = (account: MemoryAccount): string | undefined => {
  // Fair shares change with time alone, but the choice only with what happens.
  const first = account.fair === undefined ? account.queue.first?.waiter : account.fair.chosen
  if (account.fair !== undefined && account.queue.size > 0 && first === undefined) return "nobody is in turn"
  if (first === undefined || first.deciding === true) return undefined
  if (account.closed) return "is closed, and somebody waits"
  if (!first.accounts.every((other) => other.fair !== undefined || other.queue.first?.waiter === first))
    return undefined
  const books = first.request.accounts.flatMap((other) => other.cells.map((cell) => cell.value))
  const latest = Math.max(...books.map((ledger) => ledger.at))
  if (first.accounts.some((other) => other.timer !== undefined && other.timer.at <= latest)) return undefined
  return denialOf(first.request, Number.MIN_SAFE_INTEGER, books) === undefined
    ? "the first in turn fits, and still waits"
    : undefined
}
