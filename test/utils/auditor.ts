/**
 * An auditor of the memory store: after every step it checks the books of a budget against the holds that are open, and the queue
 * against the books.
 */
import type { Ledger, Reservation } from "../../src/index.ts"
import { heldIn } from "../../src/internal/books/parts.ts"
import { type MemoryAccount, MemoryBooks } from "../../src/internal/memory/account.ts"
import { denialOf } from "../../src/internal/memory/waiting.ts"
import { TypeId } from "../../src/internal/face/layout.ts"

MemoryBooks.audited = true

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

const auditBooks = ({ books }: MemoryAccount): string | undefined => {
  for (let j = 0; j < books.cells.length; j++) {
    const ledger = books.cells[j]!.current
    const { available, granted, held, spent } = ledger
    const line = `granted ${granted}, available ${available}, held ${held}, spent ${spent}`
    if (available + held + spent !== granted) return `does not balance: ${line}`
    if (held < 0 || spent < 0) return `is negative: ${line}`
    const open = heldBy(books, j, ledger)
    if (open !== held) return `${open} in open holds, but ${line}`
  }
  return undefined
}

/** The sum of what the open holds have set aside in the current epoch of one ledger. */
const heldBy = (books: MemoryBooks, j: number, { epoch }: Ledger.Ledger): number => {
  let sum = 0
  for (const hold of books.open!) {
    const i = hold.accounts.findIndex((account) => account.books === books)
    let k = j
    for (const before of hold.accounts.slice(0, i)) k += before.books.cells.length
    sum += heldIn(hold, i, k, epoch)
  }
  return sum
}

/** Who stands first everywhere and fits must have been served, unless its timer is about to fire: else a wake-up was lost. */
const auditQueue = ({ books }: MemoryAccount): string | undefined => {
  const { queue } = books
  if (queue === undefined || queue.size === 0) return undefined
  // Fair shares change with time alone, but the choice only with what happens.
  const ordered = queue.first!.waiter.accounts.every(({ definition }) => definition.discipline === undefined)
  const first = queue.first!.waiter
  if (books.closed !== undefined) return "is closed, and somebody waits"
  if (first.deciding === true || !ordered || first.request.upTo !== undefined) return undefined
  if (!first.accounts.every((other) => other.books.queue?.first?.waiter === first)) return undefined
  const ledgers = first.request.accounts.flatMap((other) => other.books.cells.map((cell) => cell.current))
  const latest = Math.max(...ledgers.map((ledger) => ledger.at))
  if (first.accounts.some(({ books: { timer } }) => timer !== undefined && timer.at <= latest)) return undefined
  return denialOf(first.request, Number.MIN_SAFE_INTEGER, ledgers) === undefined
    ? "the first in turn fits, and still waits"
    : undefined
}
