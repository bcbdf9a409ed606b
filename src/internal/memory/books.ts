/** The books of the memory store, written directly: one synchronous step, as if a transaction had committed it. */
import type * as TxRef from "effect/TxRef"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { type AnyFiber, type MemoryAccount, MemoryHold, notify, nowFor, type Part } from "./account.ts"

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

export const current = (account: MemoryAccount, cell: TxRef.TxRef<Ledger.Ledger>, now: number): Ledger.Ledger =>
  account.timed ? Ledger.refill(cell.value, now) : cell.value

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
      if (amount > 0) writeDirect(fiber, account.cells[j]!, Ledger.hold(ledger, amount))
    }
    notify(fiber, account)
  }
  return epochs
}

let latestEpochs: ReadonlyArray<number> = []

/** Holds that were taken in the same epochs share one array. */
const epochsOf = (count: number): ReadonlyArray<number> => {
  let same = latestEpochs.length === count
  for (let k = 0; same && k < count; k++) same = latestEpochs[k] === scratch[k]!.epoch
  if (!same) latestEpochs = scratch.slice(0, count).map((ledger) => ledger.epoch)
  return latestEpochs
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
  if (into.epochs === epochs || into.epochs.every((epoch, k) => epoch === epochs[k])) {
    for (let i = 0; i < amounts.length; i++) into.amounts[i]! += amounts[i]!
  } else {
    // A part of nothing is not kept: in the chain of parts, what is behind an empty one is empty too.
    if (into.amounts.some((amount) => amount > 0)) {
      into.older = { amounts: into.amounts, epochs: into.epochs, older: into.older }
    }
    into.amounts = amounts
    into.epochs = epochs
  }
  return into
}

export const track = (hold: MemoryHold): void => {
  for (let i = 0; i < hold.accounts.length; i++) hold.accounts[i]!.open?.add(hold)
}

/** Gives `amounts` of a part back to the books, of which `charges` are charged. */
const giveBack = (
  fiber: AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  epochs: ReadonlyArray<number>,
  amounts: ReadonlyArray<number>,
  charges: ReadonlyArray<number>,
  now: number
): void => {
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    for (let j = 0; j < account.cells.length; j++) {
      const cell = account.cells[j]!
      writeDirect(fiber, cell, Ledger.settle(current(account, cell, now), amounts[i]!, epochs[k++]!, charges[i]!))
    }
  }
}

/** Splits what is charged over the parts of an extended hold: the older ones first, what is left to the last. */
const settleParts = (
  fiber: AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  part: Part,
  charges: ReadonlyArray<number>,
  now: number
): ReadonlyArray<number> => {
  if (part.older === undefined) return charges
  const rest = settleParts(fiber, accounts, part.older, charges, now)
  const older = part.older.amounts
  giveBack(
    fiber,
    accounts,
    part.older.epochs,
    older,
    rest.map((charge, i) => Math.min(charge, older[i]!)),
    now
  )
  return rest.map((charge, i) => Math.max(0, charge - older[i]!))
}

const nobody: ReadonlyArray<string> = []

export const settle = (
  fiber: AnyFiber,
  hold: MemoryHold,
  cause: Store.Cause,
  charges: ReadonlyArray<number> | undefined
): Store.Outcome => {
  const { accounts } = hold
  const now = nowFor(fiber, accounts)
  const { held } = hold
  const charged = charges ?? held
  giveBack(fiber, accounts, hold.epochs, hold.amounts, settleParts(fiber, accounts, hold, charged, now), now)
  let overran = nobody
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    const difference = held[i]! - charged[i]!
    const tally = account.settled[cause]
    tally.count++
    account.charged = Math.min(account.charged + charged[i]!, Number.MAX_SAFE_INTEGER)
    if (difference > 0) tally.refunded = Math.min(tally.refunded + difference, Number.MAX_SAFE_INTEGER)
    else if (difference < 0) {
      account.overage = Math.min(account.overage - difference, Number.MAX_SAFE_INTEGER)
      if (account.cells.some((cell) => Ledger.debt(cell.value) > 0)) overran = [...overran, account.name]
    }
    account.open?.delete(hold)
  }
  hold.outcome = { cause, charges: charged, overran }
  return hold.outcome
}

/** Gives back from the oldest part first. */
export const reduce = (fiber: AnyFiber, hold: MemoryHold, amounts: ReadonlyArray<number>): void => {
  const { accounts } = hold
  const now = nowFor(fiber, accounts)
  let rest = amounts
  if (hold.older !== undefined) {
    rest = reduceOlder(fiber, accounts, hold.older, amounts, now)
    if (hold.older.amounts.every((amount) => amount === 0)) hold.older = undefined
  }
  giveBack(fiber, accounts, hold.epochs, rest, zeros(rest.length), now)
  for (let i = 0; i < accounts.length; i++) hold.amounts[i]! -= rest[i]!
}

/** Answers what is left for the newer parts. */
const reduceOlder = (
  fiber: AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  part: Part,
  amounts: ReadonlyArray<number>,
  now: number
): ReadonlyArray<number> => {
  const asked = part.older === undefined ? amounts : reduceOlder(fiber, accounts, part.older, amounts, now)
  const given = asked.map((amount, i) => Math.min(amount, part.amounts[i]!))
  giveBack(fiber, accounts, part.epochs, given, zeros(given.length), now)
  given.forEach((amount, i) => (part.amounts[i]! -= amount))
  return asked.map((amount, i) => amount - given[i]!)
}

const zeros = (count: number): ReadonlyArray<number> => (noCharges[count] ??= new Array<number>(count).fill(0))

const noCharges: Array<ReadonlyArray<number>> = []
