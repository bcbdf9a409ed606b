/** Waiting requests, and the waiting side of books. */
import * as Effect from "effect/Effect"
import type { FailedReservationReason } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import type { ChangeSource } from "../runtime/changeSource.ts"
import { type Declared, type DeclaredRequest, throttles } from "./denial.ts"

/** The waiting side of the books of one budget. */
export interface Room<A extends RoomAccount<A>> extends ChangeSource {
  /** Made for the first waiter. */
  queue: Store.Queue<Waiter<A>> | undefined
  /** Makes the queue, in the order that the budget was opened with first. */
  newQueue(): Store.Queue<Waiter<A>>
  /** The first waiter at the latest look at the queue. */
  head: Waiter<A> | undefined
  /**
   * The waiters whose requests include this budget but wait for other budgets, because this one does not throttle; by the first
   * budget that they wait for.
   */
  bystanders: Map<Room<A>, Set<Waiter<A>>> | undefined
  timer: { readonly at: number; readonly sleeper: Store.AnyFiber } | undefined
  /** Sleeps until the end of a window that was topped up while somebody waits: what they wait for may fit no more then. */
  windowEnd: Store.AnyFiber | undefined
  /** Why the budget is closed. */
  closed: FailedReservationReason | undefined
}

/** An account with a waiting room. */
export interface RoomAccount<A extends RoomAccount<A>> extends Declared {
  readonly books: Room<A>
}

/**
 * The amounts to grant, the time until time alone admits them (`Infinity`: never), or a reason to end the wait without a grant.
 */
export type Offer = Array<number> | number

/** The request can never be admitted any more. */
export const NEVER = -1
/** A budget that does not throttle denies the request. */
export const DECIDED = -2
/** Neither refunds nor time can end the wait before its deadline. */
export const LATE = -3

let tickets = 0

/** A request that waits. */
export class Waiter<A extends RoomAccount<A>> implements Store.Pending, Store.Queued {
  readonly leave: (waiter: Waiter<A>) => void
  readonly request: DeclaredRequest<A>
  readonly fiber: Store.AnyFiber
  readonly ticket = tickets++
  /** The accounts in whose queues it stands. */
  readonly accounts: ReadonlyArray<A>
  /** Its places in the queues of `accounts`; empty when it is in none. */
  places: ReadonlyArray<Store.Place<Waiter<A>>> = noPlaces
  overtaken = 0
  passedBy = -1
  /** The answer that has ended the wait. */
  answer: Store.Hold | Store.Denial | undefined = undefined
  resume: (() => void) | undefined = undefined
  deadline: Store.AnyFiber | undefined = undefined
  deadlineAt = Infinity
  /** The time at which it became the first in all its queues. */
  headSince: number | undefined = undefined
  /** The latest offer, until it is taken. */
  offer: Offer = Infinity
  /**
   * For a transaction, which takes its own hold: `true` from the moment when its turn has come until it has decided. Meanwhile it
   * keeps its places, so that nobody passes it. `undefined` for any other request.
   */
  deciding: boolean | undefined

  constructor(
    leave: (waiter: Waiter<A>) => void,
    request: DeclaredRequest<A>,
    fiber: Store.AnyFiber,
    transaction: boolean
  ) {
    this.leave = leave
    this.request = request
    this.fiber = fiber
    this.deciding = transaction ? false : undefined
    this.accounts = request.accounts.length === 1 && throttles(request, 0) ? request.accounts : standing(request)
  }

  get _tag(): "Pending" {
    return "Pending"
  }

  get priority(): number {
    return priorityOf(this.request)
  }

  get payer(): Store.Payer | undefined {
    return this.request.payer
  }

  get amount(): number {
    const { amounts, upTo } = this.request
    return (upTo?.wanted ?? amounts)[0]!
  }

  get wait(): Effect.Effect<Store.Hold | Store.Denial> {
    return Effect.callback((resume) => {
      if (this.answer !== undefined) return resume(Effect.succeed(this.answer))
      this.resume = () => resume(Effect.succeed(this.answer!))
    })
  }

  get granted(): Store.Hold | undefined {
    return this.answer?._tag === "Hold" ? this.answer : undefined
  }

  abandon(): void {
    if (this.answer === undefined) this.leave(this)
  }
}

export const noPlaces: ReadonlyArray<never> = []

export const priorityOf = (request: Store.RequestOptions): number =>
  request.extends === true ? Infinity : (request.priority ?? 0)

const standing = <A extends Declared>(request: DeclaredRequest<A>): ReadonlyArray<A> =>
  request.accounts.filter((_, i) => throttles(request, i))

/** Whether a newcomer that wants this amount would pass an earlier waiter. */
export const isBlocked = <A extends RoomAccount<A>>(
  { queue }: Room<A>,
  wanted: number,
  options: Store.RequestOptions | undefined
): boolean =>
  queue !== undefined &&
  queue.size > 0 &&
  wanted > 0 &&
  // The others may be waiting for exactly the hold that an extension extends.
  (options?.extends !== true || queue.first!.waiter.priority === Infinity)
