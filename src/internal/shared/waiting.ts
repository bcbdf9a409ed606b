/**
 * The requests of this process that wait for budgets shared with others. Only a waiter that is first in all its queues asks the
 * store: when a notification comes, when time has freed enough, or from time to time. So one waiter asks for each process and
 * budget, however many wait behind it.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { QueueFull } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import { failureDenial, type LimitDenial, timedOut, timeoutOfRequest } from "../admission/denial.ts"

import { type SharedAccount, type SharedRequest, Waiter } from "./account.ts"
import type { Restore } from "./requests.ts"

/** Whether an earlier request of this process waits for one of these budgets. */
export const blocked = ({ accounts, amounts, upTo }: SharedRequest): boolean =>
  accounts.some((account, i) => account.queue.size > 0 && (upTo?.wanted ?? amounts)[i]! > 0)

/** Lets the first waiter of a budget ask again. */
export const wake = (account: SharedAccount): void => {
  account.wakes++
  account.queue.first?.waiter.signal.raise()
  for (const listener of account.listeners) listener.raise()
}

const wakesOf = ({ accounts }: SharedRequest): number => accounts.reduce((sum, { wakes }) => sum + wakes, 0)

const stand = (waiter: Waiter): void => {
  waiter.places = waiter.accounts.map((account) => account.queue.add(waiter))
  for (const account of waiter.accounts) for (const listener of account.listeners) listener.raise()
}

const leave = (waiter: Waiter): void => {
  waiter.places.forEach((place, i) => {
    waiter.accounts[i]!.queue.remove(place)
    wake(waiter.accounts[i]!)
  })
  waiter.places = []
}

/** The request is not admitted yet. */
export interface Postponed {
  readonly _tag: "Postponed"
  /** The time in which time alone will admit it, in milliseconds (`Infinity` if it cannot). */
  readonly after: number
  /** The least time in which it can be admitted if all that others hold came back now. */
  readonly earliest: number
  readonly denial: LimitDenial<SharedAccount> | undefined
}

export const postponed = (
  after: number,
  earliest = 0,
  denial: LimitDenial<SharedAccount> | undefined = undefined
): Postponed => ({ _tag: "Postponed", after, earliest, denial })

/** The answer to asking once. */
export type Reply = Store.Hold | Store.Denial | Postponed

/**
 * Asks at once, unless an earlier request waits here, and waits if the reply is to wait. Asking is not interruptible, so a grant is
 * never lost; only waiting is.
 */
export const admit = (
  request: SharedRequest,
  first: Effect.Effect<Reply>,
  ask: Effect.Effect<Reply>,
  pollInterval: number,
  restore: Restore
): Effect.Effect<Store.Hold | Store.Denial> =>
  Effect.suspend(() => {
    const wait = (known: Postponed | undefined, isCurrent: boolean) =>
      queueUp(request, ask, known, isCurrent, pollInterval, restore)
    if (request.extends !== true && blocked(request)) return wait(undefined, false)
    const wakes = wakesOf(request)
    return Effect.flatMap(first, (reply) =>
      // What came back while this one asked woke nobody.
      reply._tag === "Postponed" ? wait(reply, wakesOf(request) === wakes) : Effect.succeed(reply)
    )
  })

/** Asks whenever this one is first, until there is an answer. It acts on a `known` reply first, while that is current. */
const queueUp = (
  request: SharedRequest,
  ask: Effect.Effect<Reply>,
  known: Postponed | undefined,
  isCurrent: boolean,
  pollInterval: number,
  restore: Restore
): Effect.Effect<Store.Hold | Store.Denial> =>
  Effect.flatMap(Clock.currentTimeMillis, (start) => {
    const waiter = new Waiter(request)
    const full = crowded(waiter, request)
    if (full !== undefined) return Effect.succeed(full)
    const timeout = timeoutOfRequest(request)
    const deadline = timeout === undefined ? Infinity : start + Duration.toMillis(timeout)
    let denial = known?.denial
    const late = (): Store.Denial => {
      const account = denial?.account ?? waiter.accounts[0] ?? request.accounts[0]!
      return failureDenial(request, account, timedOut(timeout!, denial))
    }
    const loop = (known: Postponed | undefined): Effect.Effect<Store.Hold | Store.Denial> => {
      const asked = known !== undefined ? Effect.succeed(known) : waiter.isFirst ? ask : Effect.succeed(notAsked)
      return Effect.flatMap(asked, (reply) => {
        if (reply._tag !== "Postponed") return Effect.succeed(reply)
        denial = reply.denial ?? denial
        return Effect.flatMap(Clock.currentTimeMillis, (now) => {
          // Neither refunds nor time can end the wait before its deadline.
          if (now >= deadline || now + reply.earliest > deadline) return Effect.succeed(late())
          const most = waiter.isFirst ? Math.min(Math.max(reply.after, 1), pollInterval) : Infinity
          const millis = Math.min(most, deadline - now)
          const woken =
            millis === Infinity ? waiter.signal.wait : Effect.timeoutOption(waiter.signal.wait, Duration.millis(millis))
          return Effect.andThen(
            restore(woken),
            Effect.suspend(() => loop(undefined))
          )
        })
      })
    }
    stand(waiter)
    return Effect.onExit(loop(isCurrent ? known : undefined), () => Effect.sync(() => leave(waiter)))
  })

const notAsked = postponed(Infinity)

/** The denial of a request that would stand where too many wait already. */
const crowded = (waiter: Waiter, request: SharedRequest): Store.Denial | undefined => {
  for (const account of waiter.accounts) {
    const { maxQueued } = account.definition
    if (maxQueued !== undefined && account.queue.size >= maxQueued) {
      return failureDenial(request, account, new QueueFull({ maxQueued }))
    }
  }
  return undefined
}
