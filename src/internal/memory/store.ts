/**
 * The store of one process. The books of each limit are a `TxRef<Ledger>`. Outside a transaction the store writes them
 * directly, in one synchronous step, with the same effect as a committed transaction (value, version, wake-ups); inside
 * `Effect.tx` it goes through the journal.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as TxRef from "effect/TxRef"
import { type BudgetExceeded, type FailedReservation, UnknownResource } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import type { Limit } from "../../Limit.ts"
import { adjustedLedgers } from "../adjustment.ts"
import { check, checkUpTo, exceeded, refuse, failed } from "../denial.ts"
import type { Share } from "../quota/share.ts"
import { ledgerSnapshot, snapshotOf } from "../snapshot.ts"
import { byCause } from "../tallies.ts"
import { told } from "../told.ts"
import {
  type AnyFiber,
  MemoryAccount,
  type MemoryHold,
  type MemoryRequest,
  nowFor,
  nowOf,
  wholeMillis
} from "./account.ts"
import { enter, fitting, owned, reduce, settle, take, takeOne, writeDirect } from "./books.ts"
import { denialOf } from "./denial.ts"
import { holdWith, inTransaction, nested } from "./transaction.ts"
import { blocked, end, freed, giveUp, pump, queueUp, stand, wait, Waiter } from "./waiting.ts"

/** Accounts and holds are opaque to the faces, which hand each back to the store it came from. */
const mine = (request: Store.Request): MemoryRequest => request as MemoryRequest

/** Takes a hold if that can be done now and nobody waits who was there before. */
const holdNow = (
  fiber: AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>,
  into: MemoryHold | undefined,
  share?: Share | undefined
): MemoryHold | "denied" | "undecided" => {
  check(accounts, amounts, into)
  share?.check()
  if (blocked(accounts, amounts) || inTransaction(fiber)) return "undecided"
  if (into !== undefined && accounts.length === 1 && accounts[0]!.cells.length === 1) {
    return takeOne(fiber, accounts[0]!, amounts[0]!, into) ? into : "denied"
  }
  const epochs = take(fiber, accounts, amounts, nowFor(fiber, accounts))
  if (epochs === undefined) return "denied"
  return owned(fiber, enter(accounts, amounts as Array<number>, epochs, into), amounts, share)
}

const hold = (
  request: MemoryRequest,
  restore: Store.Restore
): Effect.Effect<Store.Hold, BudgetExceeded | FailedReservation> =>
  Effect.withFiber((fiber) => {
    const { accounts, amounts, into } = request
    check(accounts, amounts, into)
    // Here, and not where the request was made: its token may have ended since.
    request.share?.check()
    if (request.upTo !== undefined) checkUpTo(accounts, amounts, request.upTo)
    if (inTransaction(fiber)) return Effect.die(nested(accounts[0]!, into === undefined ? "reserve" : "extend"))
    const closed = accounts.find((account) => account.closed)
    if (closed !== undefined) return unknown(request, closed)
    const now = nowFor(fiber, accounts)
    // An extension does not stand behind those who may be waiting for what it extends.
    if (request.extends === true || !blocked(accounts, amounts)) {
      const granted = fitting(request, now)
      const epochs = take(fiber, accounts, granted, now)
      if (epochs !== undefined) {
        return Effect.succeed(owned(fiber, enter(accounts, granted, epochs, into), granted, request.share))
      }
    }
    const denial = denialOf(request, now)
    if (denial?.decided) return refuse(denial)
    const waiter = new Waiter(request, fiber, false)
    return Effect.map(queueUp(waiter) ?? wait(waiter, restore), () => waiter.hold!)
  })

const unknown = (request: MemoryRequest, account: MemoryAccount): Effect.Effect<never, FailedReservation> =>
  Effect.fail(failed(request, account, new UnknownResource({ resource: account.name })))

const charge = (request: MemoryRequest): Effect.Effect<void, BudgetExceeded> =>
  Effect.withFiber((fiber) => {
    const { accounts, amounts } = request
    check(accounts, amounts, undefined)
    if (inTransaction(fiber)) return Effect.die(nested(accounts[0]!, "a charge"))
    const now = nowFor(fiber, accounts)
    const epochs = take(fiber, accounts, amounts, now)
    if (epochs === undefined) return Effect.fail(exceeded(denialOf(request, now, undefined, true)!))
    settleNow(fiber, enter(accounts, [...amounts], epochs, undefined), "committed", undefined)
    return Effect.void
  })

const tryHold = (request: MemoryRequest): Effect.Effect<Store.Hold | undefined> =>
  Effect.withFiber((fiber) => {
    const { accounts, amounts, into } = request
    if (inTransaction(fiber)) return Effect.die(nested(accounts[0]!, "tryReserve"))
    const hold = holdNow(fiber, accounts, [...amounts], into)
    if (typeof hold === "object") return Effect.succeed(hold)
    // The queue decides whether this one may pass, by its priority or by first fit.
    if (hold === "denied" || denialOf(request, nowFor(fiber, accounts)) !== undefined) return nothing
    if (accounts.some((account) => account.closed)) return nothing
    const waiter = new Waiter(request, fiber, false)
    stand(waiter)
    pump(waiter.accounts)
    if (waiter.verdict === undefined) giveUp(waiter)
    return Effect.succeed(waiter.hold)
  })

const nothing = Effect.sync((): undefined => undefined)

const settleNow = (
  fiber: AnyFiber,
  hold: MemoryHold,
  cause: Store.Cause,
  charges: ReadonlyArray<number> | undefined
): Store.Outcome => {
  if (hold.outcome !== undefined) return hold.outcome
  const outcome = settle(fiber, hold, cause, charges)
  for (let i = 0; i < hold.accounts.length; i++) freed(fiber, hold.accounts[i]!)
  return outcome
}

const reduceNow = (fiber: AnyFiber, hold: MemoryHold, amounts: ReadonlyArray<number>): void => {
  if (inTransaction(fiber)) throw nested(hold.accounts[0]!, "release")
  reduce(fiber, hold, amounts)
  for (let i = 0; i < hold.accounts.length; i++) freed(fiber, hold.accounts[i]!)
}

/** Nothing changes unless all can be done; `set` is called then, before anybody is served. */
const adjustNow = (
  fiber: AnyFiber,
  changes: ReadonlyArray<readonly [MemoryAccount, Store.Adjustment]>,
  set?: () => void
): void => {
  if (inTransaction(fiber)) throw nested(changes[0]![0], "a change of the budget")
  const now = nowOf(fiber)
  const adjustedAll = changes.map(([account, adjustment]) =>
    adjustedLedgers(
      account.name,
      account.cells.map((cell) => Ledger.refill(cell.value, now)),
      adjustment,
      now
    )
  )
  set?.()
  changes.forEach(([account], i) => {
    account.cells.forEach((cell, j) => writeDirect(fiber, cell, adjustedAll[i]![j]!))
    account.timed = adjustedAll[i]!.some(Ledger.isTimed)
  })
  for (const [account, { _tag }] of changes) {
    // A top-up makes nothing hopeless.
    if (_tag === "SetLimit" || _tag === "Reset") endHopeless(account, now)
    freed(fiber, account)
  }
}

/** What can never fit any more fails at once, wherever it stands. */
const endHopeless = (account: MemoryAccount, now: number): void => {
  for (const waiter of [...account.queue]) {
    if (waiter.verdict !== undefined) continue
    const denial = denialOf(waiter.request, now)
    if (!denial?.never) continue
    end(waiter, refuse(denial))
    pump(waiter.accounts)
  }
}

const define = (fiber: AnyFiber, account: MemoryAccount, limit: Limit, enforcement: Store.Enforcement): void =>
  adjustNow(fiber, [[account, { _tag: "SetLimit", limits: [limit] }]], () => {
    account.closed = false
    account.definition = { ...account.definition, enforcement }
  })

const close = (fiber: AnyFiber, account: MemoryAccount): void => {
  if (inTransaction(fiber)) throw nested(account, "a removal")
  account.closed = true
  for (const waiter of [...account.queue]) end(waiter, unknown(waiter.request, account))
  freed(fiber, account)
}

const withdraw = (
  fiber: AnyFiber,
  account: MemoryAccount,
  share: Share,
  heir: Share | undefined,
  defect: unknown
): void => {
  const queue = account.fair!
  const waiters = queue.of(share)
  for (const waiter of waiters) end(waiter, Effect.die(defect))
  heir?.absorb(share, nowOf(fiber), queue.turn)
  if (waiters.length > 0) freed(fiber, account)
}

const read = (accounts: ReadonlyArray<MemoryAccount>): Effect.Effect<ReadonlyArray<Store.Snapshot>> =>
  Effect.withFiber((fiber) => {
    const now = nowOf(fiber)
    return inTransaction(fiber)
      ? Effect.forEach(accounts, (account) =>
          Effect.map(Effect.tx(Effect.forEach(account.cells, TxRef.get)), (ledgers) => snapshot(account, ledgers, now))
        )
      : Effect.succeed(
          accounts.map((account) =>
            snapshot(
              account,
              account.cells.map((cell) => cell.value),
              now
            )
          )
        )
  })

const snapshot = (account: MemoryAccount, books: ReadonlyArray<Ledger.Ledger>, now: number): Store.Snapshot => {
  const { charged, name, overage, queue, settled } = account
  return snapshotOf(
    name,
    books.map((book) => ledgerSnapshot(Ledger.refill(book, now))),
    // Told as they are now: the account goes on counting.
    { waiters: queue.size, settled: byCause((cause) => ({ ...settled[cause] })), charged, overage }
  )
}

const changes = (account: MemoryAccount): Stream.Stream<Store.Snapshot> =>
  Stream.map(
    told(
      () => [account],
      () => read([account])
    ),
    ([snapshot]) => snapshot!
  )

export const memory: Store.BudgetStore["Service"] = {
  open: (definition) => Effect.map(Clock.currentTimeMillis, (now) => new MemoryAccount(definition, wholeMillis(now))),
  hold: (request, restore) => hold(mine(request), restore),
  tryHold: (request) => tryHold(mine(request)),
  charge: (request) => charge(mine(request)),
  holdWith: (request, alongside, restore) => holdWith(mine(request), alongside, restore),
  reduce: (hold, amounts) =>
    Effect.withFiber((fiber) => {
      reduceNow(fiber, hold as MemoryHold, amounts)
      return Effect.void
    }),
  settle: (hold, cause, charges) =>
    Effect.withFiber((fiber) => Effect.succeed(settleNow(fiber, hold as MemoryHold, cause, charges))),
  adjust: (changes) =>
    Effect.withFiberSucceed((fiber) =>
      adjustNow(fiber, changes as ReadonlyArray<readonly [MemoryAccount, Store.Adjustment]>)
    ),
  read: (accounts) => read(accounts as ReadonlyArray<MemoryAccount>),
  changes: (account) => changes(account as MemoryAccount),
  direct: {
    hold: (fiber, accounts, amounts, into, share) =>
      holdNow(fiber, accounts as ReadonlyArray<MemoryAccount>, amounts, into as MemoryHold | undefined, share),
    reduce: (fiber, hold, amounts) => reduceNow(fiber, hold as MemoryHold, amounts),
    settle: (fiber, hold, cause, charges) => settleNow(fiber, hold as MemoryHold, cause, charges)
  },
  quotas: {
    define: (fiber, account, limit, enforcement) => define(fiber, account as MemoryAccount, limit, enforcement),
    close: (fiber, account) => close(fiber, account as MemoryAccount),
    withdraw: (fiber, account, share, heir, defect) => withdraw(fiber, account as MemoryAccount, share, heir, defect),
    source: (account) => account as MemoryAccount
  }
}
