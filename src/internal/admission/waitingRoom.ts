/**
 * The rules of waiting, independent of the store. The step that frees capacity (a settlement, an adjustment, a timer) also takes
 * the hold for the next waiter and wakes its fiber afterwards, so that a newcomer cannot slip in between. A request over several
 * budgets stands in the queue of each and holds none of them. Tickets are global: the lowest one is first in every queue, so that
 * two waiters never wait for each other.
 */
import * as Duration from "effect/Duration"
import type * as Store from "../../BudgetStore.ts"
import { changed } from "../runtime/changeSource.ts"
import { later, nowOf, timerMillis } from "../runtime/clock.ts"
import { flush } from "../runtime/wakeUps.ts"
import {
  type DeclaredRequest,
  failureDenial,
  defectDenial,
  type LimitDenial,
  settledError,
  timedOut,
  timeoutOfRequest
} from "./denial.ts"
import { crowded, isEmpty, isHead, mayServe, newHead, ofSettled, someWaiter, standBy, waitersOf } from "./room.ts"
import { DECIDED, LATE, NEVER, noPlaces, type Offer, type Room, type RoomAccount, Waiter } from "./waiter.ts"

/** The candidate of a queue that time alone will admit first, and the time until then. */
interface Soonest<A extends RoomAccount<A>> {
  wait: number
  waiter: Waiter<A> | undefined
}

/** The rules of waiting over the books of a store. */
export abstract class WaitingRoom<A extends RoomAccount<A>> {
  /** The offer of the books to a request now. With `head`, it is the first in all its queues and may take less than it wants. */
  protected abstract offer(waiter: Waiter<A>, head: boolean, now: number): Offer
  /** Takes an offer that was made in this step. */
  protected abstract grant(waiter: Waiter<A>, amounts: Array<number>, now: number): Store.Hold
  abstract denialOf(request: DeclaredRequest<A>, now: number): LimitDenial<A> | undefined
  /** The least time until the request can be admitted if all other holds came back now; 0 when it cannot be known. */
  protected abstract earliest(request: DeclaredRequest<A>, now: number): number
  /** Whether spending takes room that no refund gives back, so that a later request may never fit. */
  protected abstract losesRoom(account: A): boolean
  /** Milliseconds until time takes room away: a top-up of a window is lost at its end. */
  protected abstract losesRoomAfter(account: A, now: number): number | undefined
  protected abstract now(fiber: Store.AnyFiber, accounts: ReadonlyArray<A>): number

  /** Those to be woken at the end of a settlement. */
  private woken: Array<Waiter<A>> | undefined = undefined
  private nested = 0
  private readonly looking: Soonest<A> = { wait: Infinity, waiter: undefined }
  private readonly aside: Soonest<A> = { wait: Infinity, waiter: undefined }

  /** Joins the queues. Returns the answer if there is one at once. */
  queueUp(waiter: Waiter<A>): Store.Hold | Store.Denial | undefined {
    const timeout = timeoutOfRequest(waiter.request)
    if (timeout !== undefined) waiter.deadlineAt = nowOf(waiter.fiber) + Duration.toMillis(timeout)
    this.stand(waiter)
    if (mayServe(waiter)) this.pump(waiter.accounts)
    if (waiter.answer !== undefined) return waiter.answer
    const full = waiter.deciding === true ? undefined : crowded(waiter)
    if (full !== undefined) {
      waiter.answer = full
      this.giveUp(waiter)
      return full
    }
    if (timeout !== undefined) this.setDeadline(waiter, Duration.toMillis(timeout))
    return waiter.answer
  }

  stand(waiter: Waiter<A>): void {
    const { accounts, request } = waiter
    waiter.places = accounts.map(({ books }) => (books.queue ??= books.newQueue()).add(waiter))
    for (const { books } of accounts) changed(books)
    if (accounts.length < request.accounts.length && accounts.length > 0) {
      for (const account of request.accounts) if (!accounts.includes(account)) standBy(account.books, waiter)
    }
    for (const account of request.accounts) this.watchWindow(account)
  }

  private leave(waiter: Waiter<A>): void {
    const { accounts, places, request } = waiter
    for (let i = 0; i < places.length; i++) {
      const { books } = accounts[i]!
      books.queue!.remove(places[i]!)
      if (books.head === waiter) books.head = undefined
      changed(books)
    }
    waiter.places = noPlaces
    for (const { books } of request.accounts) {
      const beside = books.bystanders?.get(accounts[0]!.books)
      if (beside?.delete(waiter) === true && beside.size === 0) books.bystanders!.delete(accounts[0]!.books)
      if (books.windowEnd !== undefined && isEmpty(books)) {
        books.windowEnd.interruptUnsafe()
        books.windowEnd = undefined
      }
    }
  }

  /** Looks at all that wait for this budget again when a window ends that was topped up: they may be waiting for the top-up. */
  watchWindow(account: A): void {
    const { books } = account
    if (books.windowEnd !== undefined || !this.losesRoom(account) || isEmpty(books)) return
    const { fiber } = someWaiter(books)
    const after = this.losesRoomAfter(account, this.now(fiber, [account]))
    if (after === undefined) return
    books.windowEnd = later(fiber, timerMillis(after), () => {
      books.windowEnd = undefined
      this.endNever(books)
      this.watchWindow(account)
      flush(fiber)
    })
  }

  /** Leaves without an answer and serves the waiters that move up. */
  readonly giveUp = (waiter: Waiter<A>): void => {
    waiter.deadline?.interruptUnsafe()
    waiter.deadline = undefined
    this.stepAside(waiter)
  }

  waiter(request: DeclaredRequest<A>, fiber: Store.AnyFiber, transaction: boolean): Waiter<A> {
    return new Waiter(this.giveUp, request, fiber, transaction)
  }

  /** Leaves its places for a while, but keeps its ticket and its deadline. */
  stepAside(waiter: Waiter<A>): void {
    if (waiter.places.length === 0) return
    this.leave(waiter)
    this.pump(waiter.accounts)
    flush(waiter.fiber)
  }

  /** Ends a wait. A transaction that is deciding finds the answer when it asks for the next turn. */
  end(waiter: Waiter<A>, answer: Store.Hold | Store.Denial): void {
    waiter.answer = answer
    if (waiter.deciding === true) return
    this.leave(waiter)
    waiter.deadline?.interruptUnsafe()
    waiter.deadline = undefined
    this.wake(waiter)
  }

  private wake(waiter: Waiter<A>): void {
    if (waiter.resume === undefined) return
    if (this.woken !== undefined) {
      this.woken.push(waiter)
      return
    }
    waiter.fiber.currentDispatcher.scheduleTask(waiter.resume, 0)
    waiter.resume = undefined
  }

  /**
   * Serves those who wait for what a settlement gives back, and runs them at once: a task for each would cost most of the time of a
   * long queue. Nothing is left half done when they run. A chain of settlements goes on in a task from time to time.
   */
  serveSettled(fiber: Store.AnyFiber, accounts: ReadonlyArray<A>, hold: Store.Hold): void {
    const woken: Array<Waiter<A>> = []
    this.woken = this.nested < MAX_NESTED ? woken : undefined
    this.endExtensions(hold, accounts, ofSettled)
    for (const account of accounts) if (this.losesRoom(account)) this.endNever(account.books)
    for (let i = 0; i < accounts.length; i++) this.freed(accounts[i]!)
    this.woken = undefined
    flush(fiber)
    this.nested++
    for (const { resume } of woken) resume!()
    this.nested--
  }

  /** Serves waiters after a change that may have freed capacity. */
  freed({ books }: A): void {
    // Also when the last waiter has left, to end its timer.
    if ((books.queue !== undefined && books.queue.size > 0) || books.timer !== undefined) this.pumpOne(books)
    // In strict order, the head is never one that this budget has denied.
    if (books.bystanders !== undefined) {
      for (const room of [...books.bystanders.keys()]) if (!room.queue!.strict) this.pumpOne(room)
    }
    changed(books)
  }

  /** Serves waiters in order, as long as there is room. */
  pump(accounts: ReadonlyArray<A>): void {
    if (accounts.length === 1) this.pumpOne(accounts[0]!.books)
    else if (accounts.length > 1) this.serveAll(new Set(accounts.map(({ books }) => books)))
  }

  private pumpOne(room: Room<A>): void {
    const others = this.serve(room, undefined)
    if (others !== undefined) this.serveAll(others)
  }

  private serveAll(rooms: Set<Room<A>>): void {
    for (const room of rooms) {
      rooms.delete(room)
      this.serve(room, rooms)
    }
  }

  /** Serves one room. Returns the other rooms in which waiters have moved up. */
  private serve(room: Room<A>, others: Set<Room<A>> | undefined): Set<Room<A>> | undefined {
    const { looking } = this
    do {
      for (;;) {
        const waiter = this.next(room, looking)
        if (waiter === undefined || !this.isTurn(waiter, room)) break
        if (waiter.accounts.length > 1) {
          others ??= new Set()
          for (const { books } of waiter.accounts) if (books !== room) others.add(books)
        }
        this.finish(waiter)
      }
    } while (this.setTimer(room, looking))
    return others
  }

  /** The waiter that the order of this queue serves next, if its wait can end now. */
  private next(room: Room<A>, soonest: Soonest<A>): Waiter<A> | undefined {
    soonest.wait = Infinity
    soonest.waiter = undefined
    const { queue } = room
    if (queue === undefined || queue.size === 0) return undefined
    let place: Store.Place<Waiter<A>> | undefined
    for (let seen = 0; ; seen++) {
      const now = queue.strict ? 0 : nowOf(queue.first!.waiter.fiber)
      place = queue.candidate(place, seen, now)
      if (place === undefined) return undefined
      const { waiter } = place
      // A transaction whose turn it is fits, so nobody may pass it.
      if (waiter.deciding === true) return undefined
      if (seen === 0 && room.head !== waiter) newHead(room, waiter)
      const offer = this.look(waiter, seen === 0)
      if (typeof offer !== "number" || offer === NEVER || offer === LATE || (offer === DECIDED && seen === 0)) {
        return waiter
      }
      const wait = offer === DECIDED ? this.deniedFor(waiter) : offer
      if (wait < soonest.wait) {
        soonest.wait = wait
        soonest.waiter = waiter
      }
    }
  }

  /** The time until time alone admits a waiter that a budget denies which does not throttle. */
  private deniedFor({ fiber, request }: Waiter<A>): number {
    return this.denialOf(request, this.now(fiber, request.accounts))?.retryAfter ?? Infinity
  }

  private look(waiter: Waiter<A>, first: boolean): Offer {
    const { request } = waiter
    if (request.into?.outcome !== undefined) return (waiter.offer = NEVER)
    const now = this.now(waiter.fiber, request.accounts)
    const head = first && request.upTo !== undefined && isHead(waiter)
    // A clock that steps back does not lengthen its patience.
    if (head) waiter.headSince = Math.min(waiter.headSince ?? Infinity, nowOf(waiter.fiber))
    const offer = this.offer(waiter, head, now)
    const waits = typeof offer === "number" && offer >= 0
    return (waiter.offer = waits && this.tooLate(waiter, now) ? LATE : offer)
  }

  /** Whether all its other queues would serve it next, too. */
  private isTurn(waiter: Waiter<A>, room: Room<A>): boolean {
    if (waiter.accounts.length === 1) return true
    const { offer } = waiter
    for (const { books } of waiter.accounts) {
      if (books !== room && this.next(books, this.aside) !== waiter) return false
    }
    waiter.offer = offer
    return true
  }

  private finish(waiter: Waiter<A>): void {
    const { fiber, offer, request } = waiter
    const now = this.now(fiber, request.accounts)
    if (typeof offer === "number") {
      if (offer === LATE) return this.end(waiter, this.timedOut(waiter, now))
      const settled = request.into?.outcome !== undefined
      return this.end(waiter, settled ? defectDenial(settledError(request.accounts)) : this.denialOf(request, now)!)
    }
    for (let i = 0; i < waiter.places.length; i++) waiter.accounts[i]!.books.queue!.serve(waiter.places[i]!)
    if (waiter.deciding === undefined) {
      this.end(waiter, this.grant(waiter, offer, now))
      // What one extension adds may leave no room for another of the same hold, ever.
      if (request.into !== undefined) this.endExtensions(request.into, waiter.accounts, this.neverFits)
      return
    }
    waiter.deciding = true
    this.wake(waiter)
  }

  /** Ends the waits that a change has left without hope, at any place in the queue. */
  endHopeless(room: Room<A>): void {
    this.endWhere(waitersOf(room), (waiter) => {
      const now = this.now(waiter.fiber, waiter.request.accounts)
      const denial = this.denialOf(waiter.request, now)
      if (denial === undefined || denial.never) return denial
      return this.tooLate(waiter, now) ? this.timedOut(waiter, now) : undefined
    })
  }

  /** Ends the waits for what can never fit any more. */
  endNever(room: Room<A>): void {
    this.endWhere(waitersOf(room), this.neverFits)
  }

  private readonly neverFits = ({ fiber, request }: Waiter<A>): Store.Denial | undefined => {
    const denial = this.denialOf(request, this.now(fiber, request.accounts))
    return denial?.never === true ? denial : undefined
  }

  /** Ends the extensions of a hold to which `answerOf` has an answer. */
  private endExtensions(
    hold: Store.Hold,
    accounts: ReadonlyArray<A>,
    answerOf: (waiter: Waiter<A>) => Store.Denial | undefined
  ): void {
    for (const { books } of accounts) {
      if (books.queue?.first?.waiter.priority !== Infinity) continue
      const extensions: Array<Waiter<A>> = []
      for (const waiter of books.queue) {
        if (waiter.priority !== Infinity) break
        if (waiter.request.into === hold) extensions.push(waiter)
      }
      this.endWhere(extensions, answerOf)
    }
  }

  /** Ends all waits to which `answerOf` has an answer, and then serves the waiters that move up. */
  endWhere(waiters: Iterable<Waiter<A>>, answerOf: (waiter: Waiter<A>) => Store.Denial | undefined): void {
    const freed = new Set<A>()
    for (const waiter of waiters) {
      if (waiter.answer !== undefined) continue
      const answer = answerOf(waiter)
      if (answer === undefined) continue
      this.end(waiter, answer)
      for (const account of waiter.accounts) freed.add(account)
    }
    this.pump([...freed])
  }

  /**
   * Sets the timer of a room, for the waiter that time will serve first. Firing too early is harmless, so it is seldom moved.
   * Returns whether the time has passed already: a clock may sleep without waiting.
   */
  private setTimer(room: Room<A>, { wait, waiter }: Soonest<A>): boolean {
    if (waiter === undefined) {
      room.timer?.sleeper.interruptUnsafe()
      room.timer = undefined
      return false
    }
    const millis = timerMillis(Math.max(1, wait))
    const now = nowOf(waiter.fiber)
    const at = now + millis
    // A timer that is much later than it can be was set before the clock stepped back.
    if (room.timer !== undefined && room.timer.at <= at) return false
    room.timer?.sleeper.interruptUnsafe()
    room.timer = undefined
    const { fiber } = waiter
    const sleeper = later(fiber, millis, () => {
      room.timer = undefined
      this.pumpOne(room)
      flush(fiber)
    })
    if (sleeper !== undefined) room.timer = { at, sleeper }
    return sleeper === undefined && nowOf(fiber) > now
  }

  private setDeadline(waiter: Waiter<A>, millis: number): void {
    const { accounts, fiber, request } = waiter
    const end = () => {
      this.end(waiter, this.timedOut(waiter, this.now(fiber, request.accounts)))
      this.pump(accounts)
    }
    if (this.tooLate(waiter, this.now(fiber, request.accounts))) return end()
    waiter.deadline = later(fiber, millis, () => {
      waiter.deadline = undefined
      // A refill in this very millisecond is in time.
      if (waiter.answer === undefined) this.pump(accounts)
      if (waiter.answer === undefined) end()
      flush(fiber)
    })
    // A clock may sleep without waiting.
    if (waiter.deadline === undefined && waiter.answer === undefined) end()
  }

  /** Whether neither refunds nor time can end the wait before its deadline. */
  private tooLate(waiter: Waiter<A>, now: number): boolean {
    if (waiter.deadlineAt === Infinity) return false
    const earliest = this.earliest(waiter.request, now)
    return earliest > 0 && now + earliest > waiter.deadlineAt
  }

  private timedOut(waiter: Waiter<A>, now: number): Store.Denial {
    const { accounts, request } = waiter
    const denial = this.denialOf(request, now)
    const account = denial?.account ?? accounts[0] ?? request.accounts[0]!
    return failureDenial(request, account, timedOut(timeoutOfRequest(request)!, denial))
  }
}

/** How many fibers may run one inside the other, each woken by the settlement of the one before. */
const MAX_NESTED = 8
