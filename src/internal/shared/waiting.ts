/**
 * Who waits in this process for budgets that it shares with others. Only who is first in all its queues asks the store, when a
 * notification comes, when time has freed enough, or from time to time: one asks for a process and budget, whoever waits behind.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { type BudgetExceeded, type FailedReservation, QueueFull, TimedOut } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import { failed, patienceOf } from "../denial.ts"
import type { Place, Ranked } from "../waitQueue.ts"
import { type SharedAccount, Signal } from "./account.ts"

export interface SharedRequest extends Store.Request {
  readonly accounts: ReadonlyArray<SharedAccount>
}

export class Waiter implements Ranked {
  readonly priority: number
  readonly ticket = tickets++
  readonly signal = new Signal()
  readonly accounts: ReadonlyArray<SharedAccount>
  places: ReadonlyArray<Place<Waiter>> = []

  constructor(request: SharedRequest) {
    this.priority = request.extends === true ? Infinity : (request.priority ?? 0)
    this.accounts = request.accounts.filter(
      ({ definition }, i) => definition.enforcement === "throttle" && request.amounts[i]! > 0
    )
  }

  get isTurn(): boolean {
    return this.places.every((place, i) => this.accounts[i]!.queue.first === place)
  }
}

let tickets = 0

/** Whether somebody waits here who was there before. */
export const blocked = ({ accounts, amounts }: SharedRequest): boolean =>
  accounts.some((account, i) => account.queue.size > 0 && amounts[i]! > 0)

/** Lets the first in turn ask again. */
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

/** What asking came to: the end of the wait, or how long time alone will take, in milliseconds (`Infinity` if it cannot help). */
export type Answer<A> = Effect.Effect<A, BudgetExceeded | FailedReservation> | number

/**
 * Asks at once, unless somebody waits here who was there before, and waits if that is the answer. Asking is not interruptible,
 * so what is granted is never lost; only waiting is.
 */
export const admit = <A>(
  request: SharedRequest,
  first: Effect.Effect<Answer<A>>,
  ask: Effect.Effect<Answer<A>>,
  pollInterval: number,
  restore: Store.Restore
): Effect.Effect<A, BudgetExceeded | FailedReservation> =>
  Effect.suspend(() => {
    const wait = (hint: number | undefined) => queueUp(request, ask, hint, pollInterval, restore)
    if (request.extends !== true && blocked(request)) return wait(undefined)
    const wakes = wakesOf(request)
    return Effect.flatMap(first, (answer) =>
      // What came back while this one asked woke nobody.
      typeof answer === "number" ? wait(wakesOf(request) === wakes ? answer : undefined) : answer
    )
  })

/**
 * Asks whenever it is this one's turn, until there is an answer; at first only after the time of the `hint`, what it has been
 * told already.
 */
const queueUp = <A>(
  request: SharedRequest,
  ask: Effect.Effect<Answer<A>>,
  hint: number | undefined,
  pollInterval: number,
  restore: Store.Restore
): Effect.Effect<A, BudgetExceeded | FailedReservation> =>
  Effect.flatMap(Clock.currentTimeMillis, (start) => {
    const waiter = new Waiter(request)
    const full = crowded(waiter, request)
    if (full !== undefined) return Effect.fail(full)
    const timeout = patienceOf(request)
    const deadline = timeout === undefined ? Infinity : start + Duration.toMillis(timeout)
    const late = () => failed(request, waiter.accounts[0] ?? request.accounts[0]!, new TimedOut({ after: timeout! }))
    const loop = (hint: number | undefined): Effect.Effect<A, BudgetExceeded | FailedReservation> => {
      const asked = hint !== undefined ? Effect.succeed(hint) : waiter.isTurn ? ask : Effect.succeed(Infinity)
      return Effect.flatMap(asked, (answer) => {
        if (typeof answer !== "number") return answer
        return Effect.flatMap(Clock.currentTimeMillis, (now) => {
          if (now >= deadline) return Effect.fail(late())
          const most = waiter.isTurn ? Math.min(Math.max(answer, 1), pollInterval) : Infinity
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
    return Effect.onExit(loop(hint), () => Effect.sync(() => leave(waiter)))
  })

/** Who would stand where too many wait already. */
const crowded = (waiter: Waiter, request: SharedRequest): FailedReservation | undefined => {
  for (const account of waiter.accounts) {
    const { maxQueued } = account.definition
    if (maxQueued !== undefined && account.queue.size >= maxQueued) {
      return failed(request, account, new QueueFull({ maxQueued }))
    }
  }
  return undefined
}
