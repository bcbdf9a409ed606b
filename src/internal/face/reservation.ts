/** The handle on a hold. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { BudgetExceeded, FailedReservation } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import type * as Reservation from "../../Reservation.ts"
import { timeoutOf } from "../admission/definition.ts"
import { badAmount, isAmount, sameNumbers, zeros } from "../amount.ts"
import { encode, type Layout, type Reservable } from "./layout.ts"

export const normalized = (of: Layout, amounts: Array<number>): Array<number> => {
  of.normalize?.(amounts, 0)
  return amounts
}

/** How much of each amount is above the other. */
const beyond = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): Array<number> =>
  one.map((amount, i) => Math.max(0, amount - other[i]!))

/** The outcome, where it is there at once. */
const isOutcome = (outcome: Store.Outcome | Effect.Effect<Store.Outcome>): outcome is Store.Outcome =>
  "overran" in outcome

type AnyFiber = Store.AnyFiber

export type Failure = BudgetExceeded | FailedReservation

export class ReservationImpl<A> implements Reservation.Reservation<A> {
  readonly of: Reservable<A>
  readonly hold: Store.Hold
  readonly options: Reservation.Options | undefined
  spent: ReadonlyArray<number> | undefined = undefined

  constructor(of: Reservable<A>, hold: Store.Hold, options: Reservation.Options | undefined) {
    this.of = of
    this.hold = hold
    this.options = options
  }

  get amount(): A {
    return this.of.decode(this.hold.held, 0)
  }

  // Getters, so that an operation can be passed around without its reservation, and takes no memory in it.

  get commit() {
    return (actual: A): Effect.Effect<Reservation.Settlement<A>> =>
      Effect.withFiber((fiber) => this.settle(fiber, "committed", this.chargesOf(actual)))
  }

  get release(): Effect.Effect<Reservation.Settlement<A>> {
    return Effect.withFiber((fiber) => this.settle(fiber, "released", this.none()))
  }

  get progress() {
    return (spent: A): Effect.Effect<void> =>
      Effect.sync(() => {
        const amounts = encode(this.of, spent, "charge")
        const bad = amounts.findIndex((amount) => !isAmount(amount))
        if (bad >= 0) throw badAmount(this.of.accounts[bad]!.name, "the progress", amounts[bad])
        this.report(amounts)
      })
  }

  get extend() {
    return (more: A): Effect.Effect<void, Failure> =>
      Effect.suspend(() => {
        let pending: Store.Pending | undefined
        return Effect.onExitPrimitive(
          Effect.withFiber((fiber) => {
            const options: Store.RequestOptions = {
              ...requestOptionsOf(this.of, this.options),
              into: this.hold,
              extends: true
            }
            const answer = this.of.store.hold(fiber, this.of.accounts, encode(this.of, more, "extension"), options)
            if (answer._tag !== "Pending") return answer._tag === "Hold" ? Effect.void : answer.refuse()
            pending = answer
            return Effect.flatMap(answer.wait, (told) => (told._tag === "Hold" ? Effect.void : told.refuse()))
          }),
          () => {
            pending?.abandon()
            return undefined
          }
        )
      })
  }

  chargesOf(actual: A): ReadonlyArray<number> {
    const charges = encode(this.of, actual, "charge")
    for (let i = 0; i < charges.length; i++) {
      if (isAmount(charges[i]!)) continue
      // It was meant as a charge, of an unknown amount: unknown is never zero.
      this.report([...this.hold.held])
      throw badAmount(this.of.accounts[i]!.name, "the actual amount", charges[i])
    }
    return charges
  }

  report(spent: ReadonlyArray<number>): void {
    const before = this.spent
    this.spent =
      before === undefined
        ? spent
        : normalized(
            this.of,
            spent.map((amount, i) => Math.max(amount, before[i]!))
          )
    this.of.store.report(this.hold, this.spent)
  }

  settle(
    fiber: AnyFiber,
    cause: Store.Cause,
    charges: ReadonlyArray<number> | undefined
  ): Effect.Effect<Reservation.Settlement<A>> {
    const outcome = this.of.store.settle(fiber, this.hold, cause, charges)
    return isOutcome(outcome)
      ? Effect.succeed(this.settlement(outcome))
      : Effect.map(outcome, (outcome) => this.settlement(outcome))
  }

  settlement(outcome: Store.Outcome): Reservation.Settlement<A> {
    const { cause, charges, late, overran } = outcome
    const { of } = this
    const { held } = this.hold
    const all = of.decode(held, 0)
    let charged = all
    let refunded: A
    let overage: A
    if (sameNumbers(charges, held)) {
      refunded = overage = of.decode(this.none(), 0)
    } else {
      charged = of.decode(charges, 0)
      refunded = of.decode(beyond(held, charges), 0)
      overage = of.decode(beyond(charges, held), 0)
    }
    return late === undefined
      ? { cause, held: all, charged, refunded, overage, overran }
      : { cause, held: all, charged, refunded, overage, overran, late }
  }

  /** Settles the hold at the end of its scope. */
  end(fiber: AnyFiber, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | undefined {
    if (this.hold.outcome !== undefined) return undefined
    if (Exit.isFailure(exit)) {
      return this.close(fiber, Cause.hasInterrupts(exit.cause) ? "interrupted" : "failed", this.spent ?? this.none())
    }
    if (this.options?.onSuccess === "release") return this.close(fiber, "succeeded", this.spent ?? this.none())
    // Progress above the hold is charged too.
    if (this.spent !== undefined) this.report(this.hold.held)
    return this.close(fiber, "succeeded", this.spent)
  }

  close(
    fiber: AnyFiber,
    cause: Store.Cause,
    charges: ReadonlyArray<number> | undefined
  ): Effect.Effect<void> | undefined {
    const outcome = this.of.store.settle(fiber, this.hold, cause, charges)
    return isOutcome(outcome) ? undefined : Effect.asVoid(outcome)
  }

  none(): ReadonlyArray<number> {
    return zeros(this.of.accounts.length)
  }
}

/** The options of a request. Wrong options are a defect, whether or not the request fits. */
export const requestOptionsOf = <A>(
  of: Reservable<A>,
  options: Reservation.Options | undefined
): Store.RequestOptions | undefined => {
  if (options === undefined) return of.defaults
  const { priority, timeout } = options
  const [account] = of.accounts
  if (priority !== undefined && !Number.isFinite(priority)) {
    throw new RangeError(`Budget "${account!.name}": the priority must be a finite number, not ${priority}`)
  }
  return { ...of.defaults, priority, timeout: timeoutOf(account!.name, timeout) }
}
