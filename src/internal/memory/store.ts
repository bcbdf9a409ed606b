/**
 * The store of one process. The books of each limit are a `TxRef` of a ledger. Outside a transaction the store changes them in
 * place, in one synchronous step with the same effect as a committed transaction (value, version, wake-ups); inside `Effect.tx`
 * it goes through the journal.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as TxRef from "effect/TxRef"
import type { BudgetExceeded } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { assertAmounts, assertUpTo, defectDenial, exceeded, settledError, throttles } from "../admission/denial.ts"
import { isBlocked, type Waiter } from "../admission/waiter.ts"
import { waitersOf } from "../admission/room.ts"
import { adjustedLedgers } from "../books/adjustment.ts"
import { ledgerSnapshot, snapshotOf } from "../books/snapshot.ts"
import { tallySnapshot } from "../books/tally.ts"
import { changesOf } from "../runtime/changeSource.ts"
import { nowOf, wholeMillis } from "../runtime/clock.ts"
import { inTransaction, nestedError } from "../runtime/transaction.ts"
import { flush } from "../runtime/wakeUps.ts"
import { MemoryAccount, MemoryBooks, type MemoryHold, type MemoryRequest, nowFor } from "./account.ts"
import { admits, bringUp, holdNow, reduce } from "./books.ts"
import { closedAmong, holdWith } from "./transaction.ts"
import { holdSingle } from "./single.ts"
import { denialOf, fitting, outlook, queuedDenial, reachable, room, settleNow } from "./waiting.ts"

type Options = Store.RequestOptions | undefined

/** Accounts and holds are opaque to the faces, which pass each back to its own store. */
const mine = (accounts: ReadonlyArray<Store.Account>) => accounts as ReadonlyArray<MemoryAccount>

const hold = (
  fiber: Store.AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: Array<number>,
  options: Options
): Store.Answer => {
  if (options === undefined) assertAmounts(accounts, amounts)
  else assertOptions(accounts, amounts, options)
  if (inTransaction(fiber)) throw nestedError(accounts[0]!.name, operationOf(options))
  if (options === undefined && accounts.length === 1) {
    const hold = holdSingle(fiber, accounts, amounts)
    if (hold !== undefined) return hold
  }
  if (mayTake(accounts, amounts, options)) {
    const now = nowFor(fiber, accounts)
    if (options?.upTo !== undefined) return holdUpTo(fiber, accounts, amounts, options, now)
    if (admits(accounts, amounts, now)) {
      return holdNow(fiber, accounts, amounts, options, options?.into as MemoryHold | undefined)
    }
  }
  return denyOrWait(fiber, requestOf(accounts, amounts, options))
}

const requestOf = (
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>,
  options: Options
): MemoryRequest => (options === undefined ? { accounts, amounts } : { ...options, accounts, amounts })

const assertOptions = (
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>,
  options: Store.RequestOptions
): void => {
  assertAmounts(accounts, amounts)
  if (options.into?.outcome !== undefined) throw settledError(accounts)
  if (options.upTo !== undefined) assertUpTo(accounts, amounts, options.upTo.wanted)
  // Checked here and not when the request was made, because its token may have ended since.
  options.payer?.assertOpen()
}

const operationOf = (options: Options): string =>
  options?.extends === true ? "extend" : options?.wait === false ? "tryReserve" : "reserve"

/** Whether no earlier request waits and no budget is closed. */
const mayTake = (accounts: ReadonlyArray<MemoryAccount>, amounts: ReadonlyArray<number>, options: Options): boolean => {
  for (let i = 0; i < accounts.length; i++) {
    const { books } = accounts[i]!
    if (books.closed !== undefined || isBlocked(books, (options?.upTo?.wanted ?? amounts)[i]!, options)) return false
  }
  return true
}

/** Takes all that is wanted if it fits. Otherwise takes what fits if no budget throttles, and waits if one does. */
const holdUpTo = (
  fiber: Store.AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: Array<number>,
  options: Store.RequestOptions,
  now: number
): Store.Answer => {
  const request = requestOf(accounts, amounts, options)
  const all = reachable(request, now)
  if (admits(accounts, all, now)) return holdNow(fiber, accounts, all, options, undefined)
  const fits = accounts.some((_, i) => throttles(request, i)) ? undefined : fitting(request, now)
  return fits === undefined ? denyOrWait(fiber, request) : holdNow(fiber, accounts, fits, options, undefined)
}

/** Handles a request that is not admitted or has earlier ones before it. */
const denyOrWait = (fiber: Store.AnyFiber, request: MemoryRequest): Store.Answer => {
  const closed = closedAmong(request)
  if (closed !== undefined) return closed
  const now = nowFor(fiber, request.accounts)
  // For one budget, a denial is only built where it is needed.
  if (request.wait === false || request.accounts.length > 1 || outlook(request, request.amounts, now) < 0) {
    const denial = denialOf(request, now)
    if (denial !== undefined && (denial.decided || request.wait === false)) return denial
  }
  const waiter = room.waiter(request, fiber, false)
  if (request.wait === false || waiter.accounts.length === 0) return tryInOrder(fiber, request, waiter)
  if (isRejectedForOthers(request)) return queuedDenial(request, now)
  return room.queueUp(waiter) ?? waiter
}

/** Whether a budget that rejects has waiters, of another that opened it: this request would pass them. */
const isRejectedForOthers = (request: MemoryRequest): boolean =>
  request.accounts.some(
    ({ books }, i) => !throttles(request, i) && isBlocked(books, (request.upTo?.wanted ?? request.amounts)[i]!, request)
  )

/** Lets the queue decide whether this request may pass the others, by its priority or by first fit. */
const tryInOrder = (fiber: Store.AnyFiber, request: MemoryRequest, waiter: Waiter<MemoryAccount>): Store.Answer => {
  if (waiter.accounts.length > 0) {
    room.stand(waiter)
    room.pump(waiter.accounts)
    if (waiter.answer === undefined) room.giveUp(waiter)
    if (waiter.answer !== undefined) return waiter.answer
  }
  // It may fit, but others wait for the same room.
  return queuedDenial(request, nowFor(fiber, request.accounts))
}

const record = (
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>
): Effect.Effect<Store.Outcome, BudgetExceeded> =>
  Effect.withFiber((fiber) => {
    assertCharge(fiber, accounts, amounts)
    const now = nowFor(fiber, accounts)
    if (admits(accounts, amounts, now)) return Effect.succeed(chargeNow(fiber, accounts, amounts, amounts))
    return Effect.fail(exceeded(denialOf({ accounts, amounts }, now, undefined, true)!))
  })

const charge = (accounts: ReadonlyArray<MemoryAccount>, amounts: ReadonlyArray<number>): Effect.Effect<Store.Outcome> =>
  Effect.withFiberSucceed((fiber) => {
    assertCharge(fiber, accounts, amounts)
    bringUp(accounts, nowFor(fiber, accounts))
    // Only the part above the limits is overage.
    const held = amounts.map((amount, i) =>
      Math.min(amount, ...accounts[i]!.books.cells.map(({ current }) => Ledger.most(current)))
    )
    return chargeNow(fiber, accounts, held, amounts)
  })

const assertCharge = (
  fiber: Store.AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>
): void => {
  assertAmounts(accounts, amounts)
  if (inTransaction(fiber)) throw nestedError(accounts[0]!.name, "a charge")
}

const chargeNow = (
  fiber: Store.AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  held: ReadonlyArray<number>,
  charges: ReadonlyArray<number>
): Store.Outcome => settleNow(fiber, holdNow(fiber, accounts, [...held], undefined, undefined), "committed", charges)

const reduceNow = (fiber: Store.AnyFiber, hold: MemoryHold, amounts: ReadonlyArray<number>): undefined => {
  const [account] = hold.accounts
  if (inTransaction(fiber)) throw nestedError(account!.name, "release")
  reduce(hold, amounts)
  for (const account of hold.accounts) room.freed(account)
  flush(fiber)
  return undefined
}

type Change = readonly [account: MemoryAccount, adjustment: Store.Adjustment]

/** Makes all changes, or none of them if one cannot be made. */
const adjustNow = (fiber: Store.AnyFiber, changes: ReadonlyArray<Change>): void => {
  if (inTransaction(fiber)) throw nestedError(changes[0]![0].name, "a change of the budget")
  const now = nowOf(fiber)
  const adjusted = changes.map(([account, adjustment]) => {
    const { cells } = account.books
    if (adjustment._tag === "Close" || adjustment._tag === "Withdraw") return undefined
    const ledgers = cells.map((cell) => Ledger.refill(cell.current, now))
    return adjustedLedgers(account.name, ledgers, adjustment, now)
  })
  changes.forEach(([account, adjustment], i) => write(account, adjustment, adjusted[i]))
  for (const [account, adjustment] of changes) follow(account, adjustment)
  flush(fiber)
}

const write = (
  account: MemoryAccount,
  adjustment: Store.Adjustment,
  ledgers: ReadonlyArray<Ledger.Ledger> | undefined
): void => {
  const { books } = account
  if (ledgers !== undefined) {
    books.cells.forEach((cell, j) => cell.write(ledgers[j]!))
    books.timed = ledgers.some(Ledger.isTimed)
  }
  if (adjustment._tag === "Close") books.closed = adjustment.reason
  if (adjustment._tag !== "SetLimit") return
  books.closed = undefined
  if (adjustment.enforcement !== undefined) {
    account.definition = { ...account.definition, enforcement: adjustment.enforcement }
  }
}

/** Ends and serves the waits that a change affects. */
const follow = (account: MemoryAccount, adjustment: Store.Adjustment): void => {
  const { books } = account
  // A top-up makes no wait hopeless.
  if (adjustment._tag === "SetLimit" || adjustment._tag === "Reset") {
    room.endHopeless(books)
    room.watchWindow(account)
  }
  if (adjustment._tag === "Close") room.endWhere(waitersOf(books), ({ request }) => closedAmong(request))
  if (adjustment._tag === "Withdraw") {
    const { defect, payer } = adjustment
    room.endWhere(waitersOf(books), (waiter) => (waiter.payer === payer ? defectDenial(defect) : undefined))
  }
  room.freed(account)
}

const read = (accounts: ReadonlyArray<MemoryAccount>): Effect.Effect<ReadonlyArray<Store.Snapshot>> =>
  Effect.withFiber((fiber) => {
    const now = nowOf(fiber)
    if (!inTransaction(fiber)) return Effect.succeed(accounts.map((account) => snapshot(account, now)))
    return Effect.forEach(accounts, (account) =>
      Effect.map(Effect.tx(Effect.forEach(account.books.cells, TxRef.get)), (ledgers) =>
        snapshotWith(
          account,
          ledgers.map((ledger) => Ledger.refill(ledger, now))
        )
      )
    )
  })

const snapshot = (account: MemoryAccount, now: number): Store.Snapshot => {
  bringUp([account], now)
  return snapshotWith(
    account,
    account.books.cells.map((cell) => cell.current)
  )
}

const snapshotWith = ({ books, name }: MemoryAccount, ledgers: ReadonlyArray<Ledger.Ledger>): Store.Snapshot =>
  snapshotOf(name, ledgers.map(ledgerSnapshot), { waiters: books.queue?.size ?? 0, ...tallySnapshot(books.tally) })

/** One snapshot for all listeners. */
const latestSnapshot = (account: MemoryAccount, now: number): Store.Snapshot => {
  const { books } = account
  const { changes, latest } = books
  if (latest !== undefined && latest.changes === changes && (latest.now === now || !books.timed)) return latest.snapshot
  books.latest = { changes, now, snapshot: snapshot(account, now) }
  return books.latest.snapshot
}

/** Opens the budget of this name, once. A later definition with other limits changes them. */
const open = (all: Map<string, MemoryBooks>, definition: Store.Definition): Effect.Effect<MemoryAccount> =>
  Effect.withFiberSucceed((fiber) => {
    const { limits, name } = definition
    const before = all.get(name)
    if (before === undefined) {
      const books = new MemoryBooks(definition, wholeMillis(fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()))
      all.set(name, books)
      return new MemoryAccount(definition, books)
    }
    const account = new MemoryAccount(definition, before)
    if (before.cells.length !== limits.length) {
      throw new RangeError(
        `Budget "${name}" is open in this store with ${before.cells.length} limits, and cannot be opened with ${limits.length}`
      )
    }
    if (Equal.equals(before.declared, limits)) return account
    adjustNow(fiber, [[account, { _tag: "SetLimit", limits }]])
    before.declared = limits
    return account
  })

/** All memory stores are of one group: a policy may combine the budgets of any of them. */
const group = {}

const operations: Omit<Store.BudgetStore["Service"], "open"> = {
  group,
  hold: (fiber, accounts, amounts, options) => {
    const answer = hold(fiber, mine(accounts), amounts, options)
    flush(fiber)
    return answer
  },
  holdWith: (fiber, request, alongside) => holdWith(fiber, request as MemoryRequest, alongside),
  record: (accounts, amounts) => record(mine(accounts), amounts),
  charge: (accounts, amounts) => charge(mine(accounts), amounts),
  reduce: (fiber, hold, amounts) => reduceNow(fiber, hold as MemoryHold, amounts),
  report: () => {},
  settle: (fiber, hold, cause, charges) => settleNow(fiber, hold as MemoryHold, cause, charges),
  adjust: (changes) => Effect.withFiberSucceed((fiber) => adjustNow(fiber, changes as ReadonlyArray<Change>)),
  read: (accounts) => read(mine(accounts)),
  changes: (accounts) => {
    const all = mine(accounts)
    return changesOf(
      all.map(({ books }) => books),
      Effect.withFiberSucceed((fiber) => {
        const now = nowFor(fiber, all)
        return all.map((account) => latestSnapshot(account, now))
      })
    )
  }
}

/** A new store, without budgets. */
export const makeMemoryStore = (): Store.BudgetStore["Service"] => {
  const all = new Map<string, MemoryBooks>()
  return { ...operations, open: (definition) => open(all, definition) }
}
