/**
 * The steps over books in this process. Each is synchronous and changes the ledgers in place, by the rules of `Ledger`. Nothing
 * is changed before it is certain that the whole step can be done. A differential test compares them with the pure functions.
 */
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { sameNumbers, zeros } from "../amount.ts"
import { forEachCharged, noParts, olderParts, type Part, withoutOlder } from "../books/parts.ts"
import { makeTally, record } from "../books/tally.ts"
import { changed } from "../runtime/changeSource.ts"
import { nowOf } from "../runtime/clock.ts"
import { type MemoryAccount, makeHold, MemoryBooks, type MemoryHold, nowFor } from "./account.ts"

/** Whether all accounts admit their amounts. Brings the books up to `now`. */
export const admits = (
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>,
  now: number
): boolean => {
  for (let i = 0; i < accounts.length; i++) {
    const { cells, timed } = accounts[i]!.books
    const amount = amounts[i]!
    for (let j = 0; j < cells.length; j++) {
      if (!Ledger.admits(timed ? cells[j]!.refill(now) : cells[j]!.current, amount)) return false
    }
  }
  return true
}

/** Takes amounts that are admitted. Returns the epochs in which they were taken. */
const take = (accounts: ReadonlyArray<MemoryAccount>, amounts: ReadonlyArray<number>): ReadonlyArray<number> => {
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    const { books } = accounts[i]!
    const { cells } = books
    const amount = amounts[i]!
    for (let j = 0; j < cells.length; j++) {
      const cell = cells[j]!
      const ledger = cell.own()
      if (amount !== 0) {
        Ledger.holdInPlace(ledger, amount)
        cell.touch()
      }
      taken[k++] = ledger.epoch
    }
    changed(books)
  }
  return epochsOf(k)
}

/** The epochs of the latest step. */
const taken: Array<number> = []

const latestEpochs: Array<ReadonlyArray<number>> = []

/** Holds that were taken in the same epochs share one array. */
const epochsOf = (count: number): ReadonlyArray<number> => {
  const latest = latestEpochs[count]
  let k = 0
  while (latest !== undefined && k < count && latest[k] === taken[k]) k++
  if (latest !== undefined && k === count) return latest
  return (latestEpochs[count] = taken.slice(0, count))
}

/** Takes amounts that are admitted, as a new hold or as an addition to one. */
export const holdNow = (
  fiber: Store.AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: Array<number>,
  options: Store.RequestOptions | undefined,
  into: MemoryHold | undefined
): MemoryHold => {
  const epochs = take(accounts, amounts)
  const payer = options?.payer
  if (payer !== undefined) payer.debit(amounts[0]!, nowOf(fiber))
  if (into !== undefined) {
    add(into, amounts, epochs)
    return into
  }
  const hold = makeHold(accounts, amounts, epochs, options)
  track(hold)
  return hold
}

const add = (hold: MemoryHold, amounts: ReadonlyArray<number>, epochs: ReadonlyArray<number>): void => {
  if (sameNumbers(hold.epochs, epochs)) {
    for (let i = 0; i < amounts.length; i++) hold.amounts[i]! += amounts[i]!
    return
  }
  hold.older = olderParts(hold, epochs)
  hold.amounts = [...amounts]
  hold.epochs = epochs
}

export const track = (hold: MemoryHold): void => {
  if (!MemoryBooks.audited) return
  for (let i = 0; i < hold.accounts.length; i++) hold.accounts[i]!.books.open?.add(hold)
}

/** Ends the hold of the amounts of a part, of which `charges` are charged. */
const giveBack = (
  accounts: ReadonlyArray<MemoryAccount>,
  { amounts, epochs }: Part,
  charges: ReadonlyArray<number>
): void => {
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    const { cells } = accounts[i]!.books
    for (let j = 0; j < cells.length; j++, k++) {
      const cell = cells[j]!
      if (Ledger.settleInPlace(cell.own(), amounts[i]!, epochs[k]!, charges[i]!)) cell.touch()
    }
  }
}

export const nobody: ReadonlyArray<string> = Object.freeze([])

/** Ends an open hold. */
export const settle = (
  fiber: Store.AnyFiber,
  hold: MemoryHold,
  cause: Store.Cause,
  charges: ReadonlyArray<number> | undefined
): Store.Outcome => {
  const { accounts, held, options } = hold
  const charged = charges ?? held
  // A refill and a refund have the same result in either order. Only overage must come after a refill that a full bucket limits.
  if (exceeds(charged, held)) bringUp(accounts, nowFor(fiber, accounts))
  if (hold.older === noParts) giveBack(accounts, hold, charged)
  else forEachCharged(hold, charged, (part, charges) => giveBack(accounts, part, charges))
  const counted = options === undefined || options.counted !== false
  let overran = nobody
  for (let i = 0; i < accounts.length; i++) {
    const { books } = accounts[i]!
    changed(books)
    record((books.tally ??= makeTally()), cause, held[i]!, charged[i]!, counted)
    if (charged[i]! > held[i]! && inDebt(books)) overran = [...overran, accounts[i]!.name]
    books.open?.delete(hold)
  }
  hold.outcome = { cause, charges: charged, overran }
  const payer = options?.payer
  if (payer !== undefined && held[0] !== charged[0]) payer.giveBack(held[0]! - charged[0]!, nowOf(fiber))
  return hold.outcome
}

const inDebt = ({ cells }: MemoryBooks): boolean => cells.some(({ current }) => Ledger.debt(current) > 0)

const exceeds = (charges: ReadonlyArray<number>, held: ReadonlyArray<number>): boolean => {
  if (charges === held) return false
  for (let i = 0; i < held.length; i++) if (charges[i]! > held[i]!) return true
  return false
}

/** Brings books up to `now`. */
export const bringUp = (accounts: ReadonlyArray<MemoryAccount>, now: number): void => {
  for (const { books } of accounts) {
    if (books.timed) for (const cell of books.cells) cell.refill(now)
  }
}

/** Gives back a part of an open hold, from its oldest part first. */
export const reduce = (hold: MemoryHold, amounts: ReadonlyArray<number>): void => {
  const { accounts } = hold
  const { older, rest } = withoutOlder(hold.older, amounts, (part, given) =>
    giveBack(accounts, { amounts: given, epochs: part.epochs }, zeros(given.length))
  )
  hold.older = older.length === 0 ? noParts : older
  giveBack(accounts, { amounts: rest, epochs: hold.epochs }, zeros(rest.length))
  for (let i = 0; i < rest.length; i++) hold.amounts[i]! -= rest[i]!
}
