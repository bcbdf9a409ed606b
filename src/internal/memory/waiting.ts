/**
 * The queue of those who wait. Whoever frees capacity (a settlement, an adjustment, a timer) takes the hold for the next in
 * turn in the same synchronous step and wakes it afterwards, so a newcomer cannot slip in between. Someone who waits on
 * several accounts stands in the queue of each, and holds none. Tickets are global: whoever has the lowest stands first
 * everywhere, so two waiters never wait for each other.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { type BudgetExceeded, type FailedReservation, QueueFull, TimedOut } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import type { FairQueue } from "../quota/fairQueue.ts"
import type { Share } from "../quota/share.ts"
import type { Place } from "../waitQueue.ts"
import {
  type AnyFiber,
  type MemoryAccount,
  type MemoryHold,
  type MemoryRequest,
  notify,
  nowFor,
  nowOf,
  queues
} from "./account.ts"
import { enter, fitting, owned, take } from "./books.ts"
import { ended, refuse, failed, patienceOf } from "../denial.ts"
import { denialOf } from "./denial.ts"

/** How far `firstFit` looks past the first, and how often it may pass the same waiter. */
const LOOK_AHEAD = 64
const MAX_OVERTAKEN = 64

const MAX_TIMER_MILLIS = 2 ** 31 - 1

export class Waiter {
  readonly request: MemoryRequest
  readonly fiber: AnyFiber
  readonly priority: number
  readonly ticket = tickets++
  readonly accounts: ReadonlyArray<MemoryAccount>
  readonly amount: number
  readonly share: Share | undefined
  /** Where it stands; empty when it does not. */
  places: ReadonlyArray<Place<Waiter>> = []
  overtaken = 0
  hold: MemoryHold | undefined = undefined
  /** What the wait ends with; `undefined` while it goes on. */
  verdict: Effect.Effect<void, BudgetExceeded | FailedReservation> | undefined = undefined
  resume: (() => void) | undefined = undefined
  deadline: AnyFiber | undefined = undefined
  /** Set when the deadline has passed. */
  late: Effect.Effect<never, FailedReservation> | undefined = undefined
  /**
   * For a transaction, which takes what it wants by itself: `true` once it has been told that it is its turn. It keeps its
   * place until it has decided, so that nobody passes meanwhile.
   */
  deciding: boolean | undefined

  constructor(request: MemoryRequest, fiber: AnyFiber, transaction: boolean) {
    this.request = request
    this.fiber = fiber
    this.priority = request.extends === true ? Infinity : (request.priority ?? 0)
    this.deciding = transaction ? false : undefined
    this.amount = request.amounts[0]!
    this.share = request.share
    this.accounts = request.accounts.filter((account, i) => queues(account) && request.amounts[i]! > 0)
  }
}

let tickets = 0

/** Whether somebody waits who was there before, or nobody is admitted any more. */
export const blocked = (accounts: ReadonlyArray<MemoryAccount>, amounts: ReadonlyArray<number>): boolean => {
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    if ((account.queue.size > 0 && amounts[i]! > 0) || account.closed) return true
  }
  return false
}

export const stand = (waiter: Waiter): void => {
  waiter.places = waiter.accounts.map((account) => account.queue.add(waiter))
  for (const account of waiter.accounts) notify(waiter.fiber, account)
}

const leave = (waiter: Waiter): void => {
  waiter.places.forEach((place, i) => {
    waiter.accounts[i]!.queue.remove(place)
    notify(waiter.fiber, waiter.accounts[i]!)
  })
  waiter.places = []
}

/** Leaves and lets the others move up. */
export const giveUp = (waiter: Waiter): void => {
  leave(waiter)
  pump(waiter.accounts)
}

export const end = (waiter: Waiter, verdict: Effect.Effect<void, BudgetExceeded | FailedReservation>): void => {
  waiter.verdict = verdict
  if (waiter.deciding !== true) {
    leave(waiter)
    waiter.deadline?.interruptUnsafe()
  }
  if (waiter.resume !== undefined) waiter.fiber.currentDispatcher.scheduleTask(waiter.resume, 0)
}

/** Grants to those whose turn it is, as long as there is room. */
export const pump = (accounts: Iterable<MemoryAccount>): void => {
  const left = new Set(accounts)
  for (const account of left) {
    left.delete(account)
    serve(account, left)
  }
}

const serve = (account: MemoryAccount, others: Set<MemoryAccount>): void => {
  if (account.fair !== undefined) return serveFair(account, account.fair)
  const lookAhead = account.definition.order === "fifo" ? 1 : LOOK_AHEAD
  let soonest: Waiter | undefined
  let wait = Infinity
  let place = account.queue.first
  for (let seen = 0; place !== undefined && seen < lookAhead; seen++) {
    const { waiter } = place
    const waiterWait = consider(waiter)
    if (waiterWait === undefined) {
      for (const other of waiter.accounts) if (other !== account) others.add(other)
      // Everyone moves up: start again from the first.
      soonest = undefined
      wait = Infinity
      place = account.queue.first
      seen = -1
      continue
    }
    if (waiterWait < wait) {
      wait = waiterWait
      soonest = waiter
    }
    if (waiter.overtaken >= MAX_OVERTAKEN) break
    place = account.queue.after(place)
  }
  setTimer(account, soonest, wait)
}

/** The order is taken anew for each, since a grant takes from the credit of who got it. */
const serveFair = (account: MemoryAccount, queue: FairQueue<Waiter>): void => {
  for (;;) {
    const now = queue.first === undefined ? 0 : nowOf(queue.first.waiter.fiber)
    const waiter = queue.choose(now)
    const wait = waiter === undefined ? Infinity : consider(waiter)
    if (wait !== undefined) return setTimer(account, waiter, wait)
  }
}

/** Ends the wait if that can be done now (`undefined`), or answers how long time alone will take. */
const consider = (waiter: Waiter): number | undefined => {
  const { fiber, request } = waiter
  if (waiter.deciding === true) return Infinity
  for (let i = 0; i < waiter.accounts.length; i++) {
    if (!isTurn(waiter.accounts[i]!, waiter.places[i]!)) return Infinity
  }
  if (request.into?.outcome !== undefined) {
    end(waiter, Effect.die(ended(request.accounts)))
    return undefined
  }
  const now = nowFor(fiber, request.accounts)
  const denial = denialOf(request, now)
  // Who waits is only rejected when it is its turn: until then, a budget that rejects may have room again.
  if (denial?.never || (denial?.decided && denial.turnAfter === undefined)) {
    end(waiter, refuse(denial))
    return undefined
  }
  if (denial !== undefined) return denial.turnAfter!
  overtake(waiter)
  if (waiter.deciding === false) {
    waiter.deciding = true
    end(waiter, Effect.void)
    return Infinity
  }
  const granted = fitting(request, now)
  const epochs = take(fiber, request.accounts, granted, now)!
  waiter.hold = owned(fiber, enter(request.accounts, granted, epochs, request.into), granted, request.share)
  end(waiter, Effect.void)
  return undefined
}

const isTurn = (account: MemoryAccount, place: Place<Waiter>): boolean => {
  if (account.fair !== undefined) return account.fair.chosen === place.waiter
  let ahead = account.queue.first
  if (account.definition.order === "fifo") return ahead === place
  for (let seen = 0; ahead !== undefined && seen < LOOK_AHEAD; seen++) {
    if (ahead === place) return true
    if (ahead.waiter.overtaken >= MAX_OVERTAKEN) return false
    ahead = account.queue.after(ahead)
  }
  return false
}

const overtake = (waiter: Waiter): void => {
  waiter.accounts.forEach((account, i) => {
    if (account.fair !== undefined) return account.fair.serve(waiter)
    for (let ahead = account.queue.first!; ahead !== waiter.places[i]; ahead = account.queue.after(ahead)!) {
      ahead.waiter.overtaken++
    }
  })
}

/** One timer an account, for the waiter that time will serve first. Firing too early is harmless, so it is seldom moved. */
const setTimer = (account: MemoryAccount, waiter: Waiter | undefined, wait: number): void => {
  if (waiter === undefined || wait === Infinity) {
    account.timer?.fiber.interruptUnsafe()
    account.timer = undefined
    return
  }
  const at = nowOf(waiter.fiber) + Math.min(wait, MAX_TIMER_MILLIS)
  if (account.timer !== undefined && account.timer.at <= at) return
  account.timer?.fiber.interruptUnsafe()
  account.timer = undefined
  const fiber = later(waiter.fiber, Math.min(wait, MAX_TIMER_MILLIS), () => {
    account.timer = undefined
    pump([account])
  })
  // A clock may sleep without waiting: then the timer has fired already.
  if (fiber.pollUnsafe() === undefined) account.timer = { at, fiber }
}

const later = (fiber: AnyFiber, millis: number, run: () => void): AnyFiber =>
  Effect.runForkWith(fiber.context)(Effect.andThen(Effect.sleep(Duration.millis(millis)), Effect.sync(run)))

const setDeadline = (waiter: Waiter): void => {
  const timeout = patienceOf(waiter.request)
  if (timeout === undefined) return
  waiter.deadline = later(waiter.fiber, Duration.toMillis(timeout), () => {
    waiter.deadline = undefined
    const { accounts, fiber, request } = waiter
    const account = denialOf(request, nowFor(fiber, request.accounts))?.account ?? accounts[0]!
    waiter.late = Effect.fail(failed(request, account, new TimedOut({ after: timeout })))
    if (waiter.verdict !== undefined) return
    end(waiter, waiter.late)
    pump(accounts)
  })
}

/** Who stands where too many wait already. */
const crowded = (waiter: Waiter): FailedReservation | undefined => {
  for (const account of waiter.accounts) {
    const { maxQueued } = account.definition
    if (maxQueued !== undefined && account.queue.size > maxQueued) {
      return failed(waiter.request, account, new QueueFull({ maxQueued }))
    }
  }
  return undefined
}

/**
 * Waits for the verdict. Only this is interruptible, and nothing is decided here: when an interruption comes together with a
 * grant, the grant stands. The caller installs its finalizer, and the interruption then runs it.
 */
export const wait = (waiter: Waiter, restore: Store.Restore): Effect.Effect<void, BudgetExceeded | FailedReservation> =>
  Effect.flatMap(
    Effect.exit(
      restore(
        Effect.callback<void>((resume) => {
          waiter.resume = () => resume(Effect.void)
          if (waiter.verdict !== undefined) waiter.resume()
        })
      )
    ),
    (exit) => {
      if (waiter.verdict !== undefined) return waiter.verdict
      waiter.deadline?.interruptUnsafe()
      giveUp(waiter)
      return exit
    }
  )

/** Joins the queue; the verdict may be there at once. */
export const queueUp = (waiter: Waiter): Effect.Effect<void, BudgetExceeded | FailedReservation> | undefined => {
  stand(waiter)
  pump(waiter.accounts)
  if (waiter.verdict !== undefined) return waiter.verdict
  const full = crowded(waiter)
  if (full !== undefined) {
    giveUp(waiter)
    return Effect.fail(full)
  }
  setDeadline(waiter)
  return undefined
}

/** Something was given back: it may be enough for the next. */
export const freed = (fiber: AnyFiber, account: MemoryAccount): void => {
  // Also when the last one has left, for its timer.
  if (account.queue.size > 0 || account.timer !== undefined) pump([account])
  notify(fiber, account)
}
