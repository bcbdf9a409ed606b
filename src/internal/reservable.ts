/**
 * What all faces share: how a reservation is taken, handed out and settled, over any number of accounts of one store. A face
 * only says how its amounts are laid out over the accounts.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type { BudgetExceeded, FailedReservation } from "../BudgetError.ts"
import type * as Store from "../BudgetStore.ts"
import type * as Reservation from "../Reservation.ts"
import { badAmount, isAmount } from "./amount.ts"
import { timeoutOf } from "./definition.ts"
import type { Share } from "./quota/share.ts"

export const TypeId = "~effect-budget/Reservable"

export interface Layout {
  readonly store: Store.BudgetStore["Service"]
  readonly accounts: ReadonlyArray<Store.Account>
  /** Of a token of a named quota. */
  readonly share?: Share | undefined
}

export interface Reservable<in out A> extends Layout {
  /** Writes the amount of each account from `at` on; `more` for an extension, which is not counted as another use. */
  readonly encode: (amount: A, into: Array<number>, at: number, more: boolean) => void
  readonly decode: (amounts: ReadonlyArray<number>, at: number) => A
}

/** The amount of each account. */
export const encode = <A>(of: Reservable<A>, amount: A, more = false): Array<number> => {
  const amounts = new Array<number>(of.accounts.length)
  of.encode(amount, amounts, 0, more)
  return amounts
}

const same = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): boolean => {
  for (let i = 0; i < one.length; i++) if (one[i] !== other[i]) return false
  return true
}

class ReservationImpl<A> implements Reservation.Reservation<A> {
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

  // Getters, so that the operations can be passed on by themselves without each reservation carrying them.

  get commit() {
    const { direct } = this.of.store
    return (actual: A): Effect.Effect<Reservation.Settlement<A>> =>
      direct === undefined
        ? Effect.suspend(() => this.settle("committed", this.chargesOf(actual)))
        : Effect.withFiber((fiber) => {
            const charges = this.chargesOf(actual)
            const outcome = direct.settle(fiber, this.hold, "committed", charges)
            return outcome === "undecided"
              ? this.settle("committed", charges)
              : Effect.succeed(this.settlement(outcome))
          })
  }

  get release(): Effect.Effect<Reservation.Settlement<A>> {
    return Effect.suspend(() => this.settle("released", this.none()))
  }

  get progress() {
    return (spent: A): Effect.Effect<void> =>
      Effect.sync(() => {
        const amounts = encode(this.of, spent)
        const bad = amounts.findIndex((amount) => !isAmount(amount))
        if (bad >= 0) throw badAmount(this.of.accounts[bad]!.name, "the progress", amounts[bad])
        this.report(amounts)
      })
  }

  get extend() {
    return (more: A): Effect.Effect<void, BudgetExceeded | FailedReservation> =>
      Effect.uninterruptibleMask((restore) =>
        this.of.store.hold(
          {
            ...requestOf(this.of, more, this.options, true),
            into: this.hold,
            extends: true
          },
          restore
        )
      )
  }

  chargesOf(actual: A): ReadonlyArray<number> {
    const charges = encode(this.of, actual)
    for (let i = 0; i < charges.length; i++) {
      if (isAmount(charges[i]!)) continue
      // It was a charge, of an amount that is not known: unknown is never zero.
      this.report(this.hold.held)
      throw badAmount(this.of.accounts[i]!.name, "the actual amount", charges[i])
    }
    return charges
  }

  finalize(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> {
    return Effect.withFiber((fiber) => this.close(fiber, exit) ?? Effect.void)
  }

  report(spent: ReadonlyArray<number>): void {
    const before = this.spent
    this.spent = before === undefined ? spent : spent.map((amount, i) => Math.max(amount, before[i]!))
    this.of.store.report?.(this.hold, this.spent)
  }

  settle(cause: Store.Cause, charges: ReadonlyArray<number> | undefined): Effect.Effect<Reservation.Settlement<A>> {
    return Effect.map(this.of.store.settle(this.hold, cause, charges), (outcome) => this.settlement(outcome))
  }

  settlement(outcome: Store.Outcome): Reservation.Settlement<A> {
    const { cause, charges, overran } = outcome
    const { held } = this.hold
    const late = outcome.late === undefined ? undefined : ({ late: true } as const)
    const decode = (amounts: ReadonlyArray<number>): A => this.of.decode(amounts, 0)
    const all = decode(held)
    if (same(charges, held)) {
      const none = decode(this.none())
      return { cause, held: all, charged: all, refunded: none, overage: none, overran, ...late }
    }
    return {
      cause,
      held: all,
      charged: decode(charges),
      refunded: decode(held.map((amount, i) => Math.max(0, amount - charges[i]!))),
      overage: decode(held.map((amount, i) => Math.max(0, charges[i]! - amount))),
      overran,
      ...late
    }
  }

  /** The end of the scope. */
  close(fiber: Fiber.Fiber<unknown, unknown>, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | undefined {
    if (this.hold.outcome !== undefined) return undefined
    if (Exit.isFailure(exit)) {
      return this.end(fiber, Cause.hasInterrupts(exit.cause) ? "interrupted" : "failed", this.spent ?? this.none())
    }
    if (this.options?.onSuccess === "release") return this.end(fiber, "succeeded", this.spent ?? this.none())
    // What is known to be spent beyond the hold is charged too.
    if (this.spent !== undefined) this.report(this.hold.held)
    return this.end(fiber, "succeeded", this.spent)
  }

  end(
    fiber: Fiber.Fiber<unknown, unknown>,
    cause: Store.Cause,
    charges: ReadonlyArray<number> | undefined
  ): Effect.Effect<void> | undefined {
    const { store } = this.of
    const outcome = store.direct?.settle(fiber, this.hold, cause, charges)
    return typeof outcome === "object" ? undefined : Effect.asVoid(store.settle(this.hold, cause, charges))
  }

  none(): ReadonlyArray<number> {
    return this.hold.held.map(() => 0)
  }
}

/** Wrong options are told whether or not there is room. */
const check = (of: Layout, options: Reservation.Options): void => {
  const { priority, timeout } = options
  if (priority !== undefined && !Number.isFinite(priority)) {
    throw new RangeError(`Budget "${of.accounts[0]!.name}": the priority must be a finite number, not ${priority}`)
  }
  timeoutOf(of.accounts[0]!.name, timeout)
}

const requestOf = <A>(
  of: Reservable<A>,
  amount: A,
  options: Reservation.Options | undefined,
  more = false
): Store.Request => {
  return {
    accounts: of.accounts,
    amounts: encode(of, amount, more),
    share: of.share,
    priority: options?.priority,
    timeout: timeoutOf(of.accounts[0]!.name, options?.timeout)
  }
}

/**
 * Takes the hold, at once where the store can. The amount is laid out anew for a second try, since a hold keeps its own.
 */
const take = <A, B, E, R>(
  of: Reservable<A>,
  amount: A,
  options: Reservation.Options | undefined,
  restore: Store.Restore,
  use: (fiber: Fiber.Fiber<unknown, unknown>, reservation: ReservationImpl<A>) => Effect.Effect<B, E, R>
): Effect.Effect<B, E | BudgetExceeded | FailedReservation, R> => {
  // Called by `uninterruptibleMask`, which has the fiber but does not hand it on.
  const fiber = Fiber.getCurrent()!
  if (options !== undefined) check(of, options)
  const hold = of.store.direct?.hold(fiber, of.accounts, encode(of, amount), undefined, of.share)
  return typeof hold === "object"
    ? use(fiber, new ReservationImpl(of, hold, options))
    : Effect.flatMap(of.store.hold(requestOf(of, amount, options), restore), (hold) =>
        use(fiber, new ReservationImpl(of, hold, options))
      )
}

/** The finalizer is installed in the same uninterruptible region that took the hold. */
const own = <A>(
  fiber: Fiber.Fiber<unknown, unknown>,
  reservation: ReservationImpl<A>
): Effect.Effect<ReservationImpl<A>, never, Scope.Scope> =>
  Effect.as(
    Scope.addFinalizerExit(Context.getUnsafe(fiber.context, Scope.Scope), (exit) => reservation.finalize(exit)),
    reservation
  )

export const reserve = <A>(
  of: Reservable<A>,
  amount: A,
  options?: Reservation.Options
): Effect.Effect<Reservation.Reservation<A>, BudgetExceeded | FailedReservation, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) => take(of, amount, options, restore, own))

/** At least `least`, and as much of what is `wanted` beyond it as fits. */
export const reserveUpTo = <A>(
  of: Reservable<A>,
  least: A,
  wanted: A,
  options?: Reservation.Options
): Effect.Effect<Reservation.Reservation<A>, BudgetExceeded | FailedReservation, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) => {
    const fiber = Fiber.getCurrent()!
    if (options !== undefined) check(of, options)
    const request = { ...requestOf(of, least, options), upTo: encode(of, wanted) }
    return Effect.flatMap(of.store.hold(request, restore), (hold) => own(fiber, new ReservationImpl(of, hold, options)))
  })

/** Never waits, and `None` is the soft no. */
export const tryReserve = <A>(
  of: Reservable<A>,
  amount: A,
  options?: Reservation.Options
): Effect.Effect<Option.Option<Reservation.Reservation<A>>, never, Scope.Scope> =>
  Effect.uninterruptible(
    Effect.withFiber((fiber) => {
      if (options !== undefined) check(of, options)
      const grant = (hold: Store.Hold) => Effect.asSome(own(fiber, new ReservationImpl(of, hold, options)))
      const hold = of.store.direct?.hold(fiber, of.accounts, encode(of, amount), undefined)
      if (typeof hold === "object") return grant(hold)
      if (hold === "denied") return Effect.succeedNone
      return Effect.flatMap(of.store.tryHold(requestOf(of, amount, options)), (hold) =>
        hold === undefined ? Effect.succeedNone : grant(hold)
      )
    })
  )

export const withReservation = <A, B, E, R, C = B>(
  of: Reservable<A>,
  amount: A,
  use: (reservation: Reservation.Reservation<A>) => Effect.Effect<B, E, R>,
  options?: Reservation.Options,
  /** Runs uninterruptibly on what `use` answers. */
  finish?: (reservation: Reservation.Reservation<A>, answer: B) => Effect.Effect<C>
): Effect.Effect<B | C, E | BudgetExceeded | FailedReservation, R> =>
  Effect.uninterruptibleMask((restore) =>
    take(of, amount, options, restore, (fiber, reservation) => {
      const answer = restore(begin(use, reservation))
      const finished: Effect.Effect<B | C, E, R> =
        finish === undefined ? answer : Effect.flatMap(answer, (answer) => finish(reservation, answer))
      return Effect.onExitPrimitive(finished, (exit) => reservation.close(fiber, exit), true)
    })
  )

/** As `Effect.suspend` does, without its step. */
const begin = <A, B, E, R>(use: (a: A) => Effect.Effect<B, E, R>, a: A): Effect.Effect<B, E, R> => {
  try {
    return use(a)
  } catch (defect) {
    return Effect.die(defect)
  }
}

export const reserveTx = <A, B, E, R>(
  of: Reservable<A>,
  amount: A,
  alongside: Effect.Effect<B, E, R>,
  options?: Reservation.TxOptions<B>
): Effect.Effect<
  { readonly reservation: Reservation.Reservation<A>; readonly value: B },
  E | BudgetExceeded | FailedReservation,
  Exclude<R, Effect.Transaction> | Scope.Scope
> =>
  Effect.uninterruptibleMask((restore) => {
    if (options !== undefined) check(of, options)
    const { holdWith } = of.store
    if (holdWith === undefined) {
      return Effect.die(
        new Error(
          `Budget "${of.accounts[0]!.name}": reserveTx needs books in this process, which a transaction can join`
        )
      )
    }
    return Effect.flatMap(holdWith(requestOf(of, amount, options), alongside, restore), ([hold, value]) =>
      Effect.withFiber((fiber) => {
        const reservation = new ReservationImpl(of, hold, options)
        const undo = (exit: Exit.Exit<unknown, unknown>) =>
          Exit.isFailure(exit) && options?.undo !== undefined ? options.undo(value) : Effect.void
        return Effect.as(
          Scope.addFinalizerExit(Context.getUnsafe(fiber.context, Scope.Scope), (exit) =>
            Effect.andThen(reservation.finalize(exit), undo(exit))
          ),
          { reservation, value }
        )
      })
    )
  })

/** The operations that every face has, over its layout. */
export const operations = <A>(of: Reservable<A>): Reservation.Reservable<A> => ({
  [TypeId]: of,
  reserve: (amount, options) => reserve(of, amount, options),
  reserveUpTo: (least, wanted, options) => reserveUpTo(of, least, wanted, options),
  withReservation: (amount, use, options) => withReservation(of, amount, use, options),
  reserveTx: (amount, alongside, options) => reserveTx(of, amount, alongside, options)
})
