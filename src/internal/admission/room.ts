/** Questions about a room and those who wait in it. */
import { QueueFull } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import { nowOf } from "../runtime/clock.ts"
import { defectDenial, failureDenial, settledError } from "./denial.ts"
import type { Room, RoomAccount, Waiter } from "./waiter.ts"

/** The patience of a waiter that has lost the first place starts again. */
export const newHead = <A extends RoomAccount<A>>(room: Room<A>, waiter: Waiter<A>): void => {
  if (waiter.request.wait === false) return
  if (room.head !== undefined) room.head.headSince = undefined
  room.head = waiter
}

export const isHead = <A extends RoomAccount<A>>(waiter: Waiter<A>): boolean =>
  waiter.accounts.every(({ books }) => books.queue!.candidate(undefined, 0, nowOf(waiter.fiber))?.waiter === waiter)

/** An extension of a hold that has been settled is a programming error. */
export const ofSettled = <A extends RoomAccount<A>>({ request }: Waiter<A>): Store.Denial =>
  defectDenial(settledError(request.accounts))

export const standBy = <A extends RoomAccount<A>>(room: Room<A>, waiter: Waiter<A>): void => {
  const { books } = waiter.accounts[0]!
  const bystanders = (room.bystanders ??= new Map())
  const beside = bystanders.get(books)
  if (beside === undefined) bystanders.set(books, new Set([waiter]))
  else beside.add(waiter)
}

export const isEmpty = <A extends RoomAccount<A>>({ bystanders, queue }: Room<A>): boolean =>
  (queue === undefined || queue.size === 0) && (bystanders === undefined || bystanders.size === 0)

/** Some waiter of a room that is not empty. */
export const someWaiter = <A extends RoomAccount<A>>({ bystanders, queue }: Room<A>): Waiter<A> => {
  for (const waiter of queue ?? []) return waiter
  for (const beside of bystanders!.values()) for (const waiter of beside) return waiter
  throw new Error("the room is empty")
}

/** All that wait for a budget, in its queue or for others. */
export const waitersOf = <A extends RoomAccount<A>>({ bystanders, queue }: Room<A>): ReadonlyArray<Waiter<A>> => {
  const waiters = [...(queue ?? [])]
  if (bystanders !== undefined) for (const beside of bystanders.values()) waiters.push(...beside)
  return waiters
}

/** Whether a waiter that has just joined can change who is served. Behind others in a strict order, it cannot. */
export const mayServe = <A extends RoomAccount<A>>({ accounts, places }: Waiter<A>): boolean => {
  for (let i = 0; i < accounts.length; i++) {
    const { queue } = accounts[i]!.books
    if (!queue!.strict || queue!.first === places[i]) return true
  }
  return false
}

/** The denial of a waiter in a queue that exceeds `maxQueued`. */
export const crowded = <A extends RoomAccount<A>>(waiter: Waiter<A>): Store.Denial | undefined => {
  for (const account of waiter.accounts) {
    const { maxQueued } = account.definition
    if (maxQueued !== undefined && account.books.queue!.size > maxQueued) {
      return failureDenial(waiter.request, account, new QueueFull({ maxQueued }))
    }
  }
  return undefined
}
