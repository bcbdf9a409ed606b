/**
 * The steps over one budget with one limit, where nobody waits: most requests are of this kind. They do the same as those in
 * `books.ts`, without a loop; a differential test holds them to that.
 */
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { noParts } from "../books/parts.ts"
import { makeTally, record } from "../books/tally.ts"
import { changed } from "../runtime/changeSource.ts"
import { nowOf } from "../runtime/clock.ts"
import { type MemoryAccount, MemoryHold } from "./account.ts"
import { nobody } from "./books.ts"

let latestEpochs: readonly [number] = [0]

/** Holds that were taken in the same epoch share one array. */
const epochsOf = (epoch: number): readonly [number] =>
  latestEpochs[0] === epoch ? latestEpochs : (latestEpochs = [epoch])

/** Holds an amount, or answers `undefined` where that takes more than this. */
export const holdSingle = (
  fiber: Store.AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: Array<number>
): MemoryHold | undefined => {
  const { books } = accounts[0]!
  const { queue, single } = books
  if (single === undefined || books.closed !== undefined || (queue !== undefined && queue.size > 0)) return undefined
  const amount = amounts[0]!
  if (!Ledger.admits(books.timed ? single.refill(nowOf(fiber)) : single.current, amount)) return undefined
  const ledger = single.own()
  if (amount !== 0) {
    Ledger.holdInPlace(ledger, amount)
    single.touch()
  }
  changed(books)
  const hold = new MemoryHold(accounts, amounts, epochsOf(ledger.epoch))
  books.open?.add(hold)
  return hold
}

/** Ends a hold, or answers `undefined` where that takes more than this. */
export const settleSingle = (
  fiber: Store.AnyFiber,
  hold: MemoryHold,
  cause: Store.Cause,
  charges: ReadonlyArray<number> | undefined
): Store.Outcome | undefined => {
  const { accounts, amounts } = hold
  const { books, name } = accounts[0]!
  const { single } = books
  if (accounts.length !== 1 || single === undefined || hold.older !== noParts || hold.options !== undefined)
    return undefined
  const held = amounts[0]!
  const charged = charges === undefined ? held : charges[0]!
  if (charged > held && books.timed) single.refill(nowOf(fiber))
  const ledger = single.own()
  if (Ledger.settleInPlace(ledger, held, hold.epochs[0]!, charged)) single.touch()
  record((books.tally ??= makeTally()), cause, held, charged, true)
  books.open?.delete(hold)
  changed(books)
  const overran = charged > held && Ledger.debt(ledger) > 0 ? [name] : nobody
  return (hold.outcome = { cause, charges: charges ?? amounts, overran })
}
