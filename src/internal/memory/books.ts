/** The books of the memory store, written directly: one synchronous step, as if a transaction had committed it. */
import type * as TxRef from "effect/TxRef"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import type { Share } from "../quota/share.ts"
import {
  type AnyFiber,
  type MemoryAccount,
  MemoryHold,
  type MemoryRequest,
  notify,
  nowFor,
  nowOf,
  type Part,
  sum
} from "./account.ts"

/** Writes a `TxRef` as a transaction of one step would: value, version, wake-ups. */
export const writeDirect = <A>(fiber: AnyFiber, ref: TxRef.TxRef<A>, value: A): void => {
  if (Object.is(value, ref.value)) return
  ref.version++
  ref.value = value
  if (ref.pending.size > 0) {
    for (const wake of ref.pending.values()) fiber.currentDispatcher.scheduleTask(wake, 0)
    ref.pending.clear()
  }
}

/** Without `now`, the books as of the last refill. */
export const current = (
  account: MemoryAccount,
  cell: TxRef.TxRef<Ledger.Ledger>,
  now: number | undefined
): Ledger.Ledger => (account.timed && now !== undefined ? Ledger.refill(cell.value, now) : cell.value)

const scratch: Array<Ledger.Ledger> = []

/** Takes all of the request or nothing; answers the epochs it was taken in. */
export const take = (
  fiber: AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>,
  now: number
): ReadonlyArray<number> | undefined => {
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    for (let j = 0; j < account.cells.length; j++) {
      const ledger = current(account, account.cells[j]!, now)
      if (!Ledger.admits(ledger, amounts[i]!)) return undefined
      scratch[k++] = ledger
    }
  }
  const epochs = epochsOf(k)
  k = 0
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    const amount = amounts[i]!
    for (let j = 0; j < account.cells.length; j++) {
      const ledger = scratch[k++]!
      writeDirect(fiber, account.cells[j]!, Ledger.hold(ledger, amount))
    }
    notify(fiber, account)
  }
  return epochs
}

/** What a request gets that fits: its amounts, or as much more as it wants and there is. */
export const fitting = (request: MemoryRequest, now: number): Array<number> => {
  const { accounts, amounts, upTo } = request
  if (upTo === undefined) return [...amounts]
  return amounts.map((amount, i) => {
    const { cells } = accounts[i]!
    return Math.max(amount, Math.min(upTo[i]!, ...cells.map((cell) => Ledger.most(current(accounts[i]!, cell, now)))))
  })
}

/**
 * The same for an open hold of one account with one limit, in one pass: the pair of a guard is used where a reservation would
 * cost too much.
 */
export const takeOne = (fiber: AnyFiber, account: MemoryAccount, amount: number, hold: MemoryHold): boolean => {
  const cell = account.cells[0]!
  const ledger = current(account, cell, account.timed ? nowOf(fiber) : undefined)
  if (!Ledger.admits(ledger, amount)) return false
  writeDirect(fiber, cell, Ledger.hold(ledger, amount))
  notify(fiber, account)
  if (hold.epochs[0] === ledger.epoch) hold.amounts[0]! += amount
  else enter(hold.accounts, [amount], [ledger.epoch], hold)
  return true
}

const latestEpochs: Array<ReadonlyArray<number>> = []

/** Holds that were taken in the same epochs share one array. */
const epochsOf = (count: number): ReadonlyArray<number> => {
  const latest = latestEpochs[count]
  let k = 0
  while (latest !== undefined && k < count && latest[k] === scratch[k]!.epoch) k++
  if (latest !== undefined && k === count) return latest
  return (latestEpochs[count] = scratch.slice(0, count).map((ledger) => ledger.epoch))
}

export const enter = (
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: Array<number>,
  epochs: ReadonlyArray<number>,
  into: MemoryHold | undefined
): MemoryHold => {
  if (into === undefined) {
    const hold = new MemoryHold(accounts, amounts, epochs)
    track(hold)
    return hold
  }
  if (sameEpochs(into.epochs, epochs)) {
    for (let i = 0; i < amounts.length; i++) into.amounts[i]! += amounts[i]!
  } else {
    into.older = older(into, epochs)
    into.amounts = amounts
    into.epochs = epochs
  }
  return into
}

/** A hold that a share pays for. */
export const owned = (
  fiber: AnyFiber,
  hold: MemoryHold,
  amounts: ReadonlyArray<number>,
  share: Share | undefined
): MemoryHold => {
  if (share === undefined) return hold
  hold.share = share
  share.debit(amounts[0]!, nowOf(fiber))
  return hold
}

/** The parts before those of `epochs`. What is of no epoch that goes on is one part, however many epochs it came from. */
const older = (hold: MemoryHold, epochs: ReadonlyArray<number>): ReadonlyArray<Part> => {
  const parts: Array<Part> = []
  for (const part of [...hold.older, hold]) {
    if (part.amounts.every((amount) => amount === 0)) continue
    const going = part.epochs.map((epoch, k) => (epoch === epochs[k] ? epoch : OVER))
    const same = parts.findIndex((other) => sameEpochs(other.epochs, going))
    if (same < 0) parts.push({ amounts: part.amounts, epochs: going })
    else parts[same] = { amounts: sum(parts[same]!.amounts, part.amounts), epochs: going }
  }
  return parts
}

const OVER = -1

const sameEpochs = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): boolean => {
  if (one === other) return true
  for (let k = 0; k < one.length; k++) if (one[k] !== other[k]) return false
  return true
}

/** What a hold has set aside in the current epoch of the ledger at place `k`, of account `i`. */
export const heldIn = (hold: MemoryHold, i: number, k: number, { epoch }: Ledger.Ledger): number => {
  let held = hold.epochs[k] === epoch ? hold.amounts[i]! : 0
  for (const part of hold.older) if (part.epochs[k] === epoch) held += part.amounts[i]!
  return held
}

export const track = (hold: MemoryHold): void => {
  for (let i = 0; i < hold.accounts.length; i++) hold.accounts[i]!.open?.add(hold)
}

/**
 * Gives `amounts` of a part back, of which `charges` are charged: from the books for the `first` part, from what the parts
 * before have made of them for the others. Nothing is written before all is computed, so nothing is ever half-done.
 */
const giveBack = (
  accounts: ReadonlyArray<MemoryAccount>,
  epochs: ReadonlyArray<number>,
  amounts: ReadonlyArray<number>,
  charges: ReadonlyArray<number>,
  now: number | undefined,
  first: boolean
): void => {
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    for (let j = 0; j < account.cells.length; j++, k++) {
      const before = first ? current(account, account.cells[j]!, now) : scratch[k]!
      scratch[k] = Ledger.settle(before, amounts[i]!, epochs[k]!, charges[i]!)
    }
  }
}

const write = (fiber: AnyFiber, accounts: ReadonlyArray<MemoryAccount>): void => {
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    const { cells } = accounts[i]!
    for (let j = 0; j < cells.length; j++) writeDirect(fiber, cells[j]!, scratch[k++]!)
  }
}

const nobody: ReadonlyArray<string> = []

export const settle = (
  fiber: AnyFiber,
  hold: MemoryHold,
  cause: Store.Cause,
  charges: ReadonlyArray<number> | undefined
): Store.Outcome => {
  const { accounts, held } = hold
  const charged = charges ?? held
  // A refill and a refund give the same in either order. Only overage must come after what a full bucket could not take.
  const now = exceeds(charged, held) ? nowFor(fiber, accounts) : undefined
  // What was held first is charged first; what is left is charged to the latest.
  let rest = charged
  let first = true
  for (const { amounts, epochs } of hold.older) {
    const part = least(rest, amounts)
    giveBack(accounts, epochs, amounts, part, now, first)
    first = false
    rest = difference(rest, part)
  }
  giveBack(accounts, hold.epochs, hold.amounts, rest, now, first)
  write(fiber, accounts)
  let overran = nobody
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    const left = held[i]! - charged[i]!
    const tally = account.settled[cause]
    tally.count++
    account.charged = Math.min(account.charged + charged[i]!, Number.MAX_SAFE_INTEGER)
    if (left > 0) tally.refunded = Math.min(tally.refunded + left, Number.MAX_SAFE_INTEGER)
    else if (left < 0) {
      account.overage = Math.min(account.overage - left, Number.MAX_SAFE_INTEGER)
      if (account.cells.some((cell) => Ledger.debt(cell.value) > 0)) overran = [...overran, account.name]
    }
    account.open?.delete(hold)
  }
  hold.outcome = { cause, charges: charged, overran }
  if (hold.share !== undefined && held[0] !== charged[0]) hold.share.giveBack(held[0]! - charged[0]!, nowOf(fiber))
  return hold.outcome
}

const exceeds = (charges: ReadonlyArray<number>, held: ReadonlyArray<number>): boolean => {
  for (let i = 0; i < held.length; i++) if (charges[i]! > held[i]!) return true
  return false
}

/** Gives back some of an open hold, of what was held first. */
export const reduce = (fiber: AnyFiber, hold: MemoryHold, amounts: ReadonlyArray<number>): void => {
  const { accounts } = hold
  if (accounts.length === 1 && accounts[0]!.cells.length === 1 && hold.older.length === 0) {
    const cell = accounts[0]!.cells[0]!
    writeDirect(fiber, cell, Ledger.settle(cell.value, amounts[0]!, hold.epochs[0]!, 0))
    hold.amounts[0]! -= amounts[0]!
    return
  }
  const none = zeros(amounts.length)
  let rest = amounts
  hold.older = hold.older.map((part, n) => {
    const given = least(rest, part.amounts)
    giveBack(accounts, part.epochs, given, none, undefined, n === 0)
    rest = difference(rest, given)
    return { amounts: difference(part.amounts, given), epochs: part.epochs }
  })
  giveBack(accounts, hold.epochs, rest, none, undefined, hold.older.length === 0)
  write(fiber, accounts)
  for (let i = 0; i < accounts.length; i++) hold.amounts[i]! -= rest[i]!
}

const least = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): ReadonlyArray<number> =>
  one.map((amount, i) => Math.min(amount, other[i]!))

const difference = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): ReadonlyArray<number> =>
  one.map((amount, i) => amount - other[i]!)

const zeros = (count: number): ReadonlyArray<number> => (noCharges[count] ??= new Array<number>(count).fill(0))

const noCharges: Array<ReadonlyArray<number>> = []
