/** The rules of waiting for books in this process. */
import * as Duration from "effect/Duration"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { denialAmong, LimitDenial, throttles } from "../admission/denial.ts"
import { amountsWithin } from "../admission/upTo.ts"
import { DECIDED, NEVER, type Offer, type Waiter } from "../admission/waiter.ts"
import { WaitingRoom } from "../admission/waitingRoom.ts"
import { heldIn } from "../books/parts.ts"
import { type MemoryAccount, type MemoryHold, type MemoryRequest, nowFor } from "./account.ts"
import { admits, bringUp, holdNow, settle } from "./books.ts"
import { settleSingle } from "./single.ts"
import { flush } from "../runtime/wakeUps.ts"

/** The amount that the hold of the request already has in a ledger. An extension has to fit in addition to it. */
const ownIn = (request: MemoryRequest, i: number, k: number, { epoch }: Ledger.Ledger): number =>
  request.into === undefined ? 0 : heldIn(request.into as MemoryHold, i, k, epoch)

/** The denial of a request by the present books, or by the given ledgers of all accounts. */
export const denialOf = (
  request: MemoryRequest,
  now: number,
  ledgers?: ReadonlyArray<Ledger.Ledger>,
  inOrder = false
): LimitDenial<MemoryAccount> | undefined => {
  if (ledgers === undefined) bringUp(request.accounts, now)
  let from = 0
  return denialAmong(
    request,
    now,
    (i) => {
      const { cells } = request.accounts[i]!.books
      if (ledgers !== undefined) return ledgers.slice(from, (from += cells.length))
      return cells.map((cell) => ({ ...cell.current }))
    },
    (i, k, ledger) => ownIn(request, i, k, ledger),
    inOrder
  )
}

/** The denial of a request that fits, but would pass earlier waiters. */
export const queuedDenial = (request: MemoryRequest, now: number): Store.Denial => {
  const denial = denialOf(request, now)
  if (denial !== undefined) return denial
  const i = request.accounts.findIndex(({ books }) => books.queue !== undefined && books.queue.size > 0)
  const account = request.accounts[Math.max(0, i)]!
  const ledger = { ...account.books.cells[0]!.current }
  return new LimitDenial(account, ledger, request.amounts[Math.max(0, i)]!, false, true, request.payer)
}

/** The time until time alone admits these amounts in all budgets that throttle (0: they fit now), or `NEVER` or `DECIDED`. */
export const outlook = (request: MemoryRequest, amounts: ReadonlyArray<number>, now: number): number => {
  const { accounts } = request
  let wait = 0
  let decided = false
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    const { books, definition } = accounts[i]!
    const throttles = definition.enforcement === "throttle"
    for (const cell of books.cells) {
      const ledger = books.timed ? cell.refill(now) : cell.current
      const place = k++
      if (Ledger.admits(ledger, amounts[i]!)) continue
      const own = request.extends === true ? ownIn(request, i, place, ledger) : 0
      if (!Ledger.fits(ledger, amounts[i]!, own)) return NEVER
      decided ||= !throttles
      if (throttles) wait = Math.max(wait, 1, Ledger.retryAfter(ledger, amounts[i]!, now) ?? Infinity)
    }
  }
  return wait > 0 ? wait : decided ? DECIDED : 0
}

/** The largest amounts up to the wanted ones for which `roomIn` has room in each ledger. */
const within = (
  request: MemoryRequest,
  roomIn: (ledger: Ledger.Ledger, i: number) => number
): Array<number> | undefined =>
  amountsWithin(
    request.amounts,
    request.upTo!,
    request.accounts.map(({ books }, i) => Math.min(...books.cells.map(({ current }) => roomIn(current, i))))
  )

/** The wanted amounts, as far as they can ever fit. */
export const reachable = (request: MemoryRequest, now: number): Array<number> => {
  bringUp(request.accounts, now)
  const waits = request.accounts.some((_, i) => throttles(request, i))
  // While others are waited for, a budget that rejects is not.
  const roomIn = (ledger: Ledger.Ledger, i: number) =>
    waits && !throttles(request, i) ? Ledger.most(ledger) : Ledger.ceiling(ledger)
  return within(request, roomIn) ?? [...request.amounts]
}

/** As much of the wanted amounts as fits now; `undefined` when the least amounts do not fit. */
export const fitting = (request: MemoryRequest, now: number): Array<number> | undefined => {
  bringUp(request.accounts, now)
  return within(request, Ledger.most)
}

/** A request of one budget that throttles, which time does not change. A change of the limit ends a hopeless one by itself. */
const isPlain = ({ accounts, into }: MemoryRequest): boolean =>
  accounts.length === 1 &&
  !accounts[0]!.books.timed &&
  accounts[0]!.definition.enforcement === "throttle" &&
  into === undefined

class MemoryRoom extends WaitingRoom<MemoryAccount> {
  protected offer(waiter: Waiter<MemoryAccount>, head: boolean, now: number): Offer {
    const { request } = waiter
    if (request.upTo !== undefined) return offerUpTo(waiter, head, now)
    const { accounts, amounts } = request
    // The request is used once: its array becomes the hold's.
    if (admits(accounts, amounts, now)) return amounts as Array<number>
    return isPlain(request) ? Infinity : outlook(request, amounts, now)
  }

  protected grant(waiter: Waiter<MemoryAccount>, amounts: Array<number>): Store.Hold {
    const { fiber, request } = waiter
    return holdNow(fiber, request.accounts, amounts, request, request.into as MemoryHold | undefined)
  }

  denialOf(request: MemoryRequest, now: number): LimitDenial<MemoryAccount> | undefined {
    return denialOf(request, now)
  }

  protected earliest(request: MemoryRequest, now: number): number {
    let earliest = 0
    let k = 0
    request.accounts.forEach(({ books }, i) => {
      for (const { current } of books.cells) {
        const returned = current.held - ownIn(request, i, k++, current)
        earliest = Math.max(earliest, Ledger.retryAfter(current, request.amounts[i]!, now, returned) ?? 0)
      }
    })
    return earliest
  }

  protected losesRoom({ books }: MemoryAccount): boolean {
    return books.cells.some(({ current }) => current.limit._tag === "Window" && current.granted > current.limit.amount)
  }

  protected losesRoomAfter({ books }: MemoryAccount, now: number): number | undefined {
    let soonest: number | undefined
    for (const { current } of books.cells) {
      const after = Ledger.losesRoomAfter(current, now)
      if (after !== undefined) soonest = Math.min(soonest ?? Infinity, after)
    }
    return soonest
  }

  protected now(fiber: Store.AnyFiber, accounts: ReadonlyArray<MemoryAccount>): number {
    return nowFor(fiber, accounts)
  }
}

export const room = new MemoryRoom()

/**
 * The offer to a request of `reserveUpTo`. The head waits for all it wants, as far as that can ever fit, while time alone brings
 * it within the patience and before the deadline; then it takes what fits. The others wait for all of it.
 */
const offerUpTo = (waiter: Waiter<MemoryAccount>, head: boolean, now: number): Offer => {
  const { request } = waiter
  const least = outlook(request, request.amounts, now)
  if (least === NEVER) return NEVER
  const all = reachable(request, now)
  const wait = outlook(request, all, now)
  if (wait === 0) return all
  if (!head) return wait < 0 ? Infinity : wait
  if (
    wait > 0 &&
    wait !== Infinity &&
    now + wait <= Math.min(waiter.headSince! + patienceOf(request, all), waiter.deadlineAt)
  )
    return wait
  return least === 0 ? fitting(request, now)! : least
}

const patienceOf = ({ accounts, upTo }: MemoryRequest, all: ReadonlyArray<number>): number => {
  if (upTo!.patience !== undefined) return Duration.toMillis(upTo!.patience)
  let longest = 0
  accounts.forEach(({ books }, i) => {
    for (const { current } of books.cells) longest = Math.max(longest, Ledger.earnsIn(current, all[i]!) ?? 0)
  })
  return longest
}

/** Ends a hold, once, and serves the waiters. */
export const settleNow = (
  fiber: Store.AnyFiber,
  hold: MemoryHold,
  cause: Store.Cause,
  charges: ReadonlyArray<number> | undefined
): Store.Outcome => {
  if (hold.outcome !== undefined) return hold.outcome
  const { accounts } = hold
  const outcome = settleSingle(fiber, hold, cause, charges) ?? settle(fiber, hold, cause, charges)
  for (let i = 0; i < accounts.length; i++) {
    const { queue } = accounts[i]!.books
    if (queue === undefined || queue.size === 0) continue
    room.serveSettled(fiber, accounts, hold)
    return outcome
  }
  for (let i = 0; i < accounts.length; i++) {
    const { bystanders, timer } = accounts[i]!.books
    if (timer !== undefined || bystanders !== undefined) room.freed(accounts[i]!)
  }
  flush(fiber)
  return outcome
}
