/** The books of the memory store, written directly: one synchronous step, as if a transaction had committed it. */
import type * as TxRef from "effect/TxRef"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { type AnyFiber, type MemoryAccount, MemoryHold, notify, nowFor, type Part, sum } from "./account.ts"

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

/** The books of all accounts, to be changed before any of it is written: nothing is ever half-done. */
const open = (accounts: ReadonlyArray<MemoryAccount>, now: number | undefined): void => {
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    const { cells } = accounts[i]!
    for (let j = 0; j < cells.length; j++) scratch[k++] = current(accounts[i]!, cells[j]!, now)
  }
}

/** Gives `amounts` of a part back, of which `charges` are charged. */
const giveBack = (
  accounts: ReadonlyArray<MemoryAccount>,
  epochs: ReadonlyArray<number>,
  amounts: ReadonlyArray<number>,
  charges: ReadonlyArray<number>
): void => {
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    for (let j = 0; j < accounts[i]!.cells.length; j++, k++) {
      scratch[k] = Ledger.settle(scratch[k]!, amounts[i]!, epochs[k]!, charges[i]!)
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
  open(accounts, now)
  for (const { amounts, epochs } of hold.older) {
    const part = least(rest, amounts)
    giveBack(accounts, epochs, amounts, part)
    rest = difference(rest, part)
  }
  giveBack(accounts, hold.epochs, hold.amounts, rest)
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
  return hold.outcome
}

const exceeds = (charges: ReadonlyArray<number>, held: ReadonlyArray<number>): boolean => {
  for (let i = 0; i < held.length; i++) if (charges[i]! > held[i]!) return true
  return false
}

/** Gives back some of an open hold, of what was held first. */
export const reduce = (fiber: AnyFiber, hold: MemoryHold, amounts: ReadonlyArray<number>): void => {
  const { accounts } = hold
  const none = zeros(amounts.length)
  let rest = amounts
  open(accounts, undefined)
  if (hold.older.length > 0) {
    hold.older = hold.older.map((part) => {
      const given = least(rest, part.amounts)
      giveBack(accounts, part.epochs, given, none)
      rest = difference(rest, given)
      return { amounts: difference(part.amounts, given), epochs: part.epochs }
    })
  }
  giveBack(accounts, hold.epochs, rest, none)
  write(fiber, accounts)
  for (let i = 0; i < accounts.length; i++) hold.amounts[i]! -= rest[i]!
}

const least = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): ReadonlyArray<number> =>
  one.map((amount, i) => Math.min(amount, other[i]!))

const difference = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): ReadonlyArray<number> =>
  one.map((amount, i) => amount - other[i]!)

const zeros = (count: number): ReadonlyArray<number> => (noCharges[count] ??= new Array<number>(count).fill(0))

const noCharges: Array<ReadonlyArray<number>> = []
