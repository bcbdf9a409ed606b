/**
 * The operations that all faces share: they take, hand out and settle a reservation over any number of accounts of one store. A
 * face only has to lay out its amounts over the accounts.
 *
 * **Frame first.** A hold is taken in one synchronous step, by a fiber that already has the frame on its stack which settles the
 * hold. So no interruption can come between the hold and its owner, wherever it comes from (a hook of the scheduler or of a
 * tracer included), and nothing has to be masked: a fiber that is interrupted while it waits leaves the queue by the same frame.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type * as Store from "../../BudgetStore.ts"
import type * as Reservation from "../../Reservation.ts"
import { timeoutOf } from "../admission/definition.ts"
import { encode, type Reservable } from "./layout.ts"
import { type Failure, normalized, requestOptionsOf, ReservationImpl } from "./reservation.ts"

type AnyFiber = Store.AnyFiber

/** The owner of a hold, or of a wait for one. */
class Owner<A> {
  readonly of: Reservable<A>
  readonly options: Reservation.Options | undefined
  reservation: ReservationImpl<A> | undefined = undefined
  pending: Store.Pending | undefined = undefined

  constructor(of: Reservable<A>, options: Reservation.Options | undefined) {
    this.of = of
    this.options = options
  }

  /** Asks for the amounts and runs `use` with the reservation, at once if it is granted at once. */
  ask<B, E, R>(
    fiber: AnyFiber,
    amounts: Array<number>,
    asking: Store.RequestOptions | undefined,
    use: (reservation: ReservationImpl<A>, fiber: AnyFiber) => Effect.Effect<B, E, R>,
    refuse: (denial: Store.Denial) => Effect.Effect<B, E>
  ): Effect.Effect<B, E, R> {
    const { of } = this
    const answer = of.store.hold(fiber, of.accounts, amounts, asking)
    if (answer._tag === "Hold") return use(this.take(answer), fiber)
    if (answer._tag === "Denial") return refuse(answer)
    this.pending = answer
    return Effect.flatMap(answer.wait, (told) => (told._tag === "Hold" ? use(this.take(told), fiber) : refuse(told)))
  }

  take(hold: Store.Hold): ReservationImpl<A> {
    this.pending = undefined
    return (this.reservation = new ReservationImpl(this.of, hold, this.options))
  }

  /** Settles the hold or abandons the wait. */
  end(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | undefined {
    if (this.reservation === undefined) {
      this.pending?.abandon()
      const granted = this.pending?.granted
      if (granted === undefined) return undefined
      this.take(granted)
    }
    return this.reservation!.end(Fiber.getCurrent()!, exit)
  }

  /** Settles the hold with a charge. A charge that is not an amount is a defect, and the hold is charged. */
  commit(charge: A, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | undefined {
    const { reservation } = this
    if (reservation === undefined || reservation.hold.outcome !== undefined) return undefined
    try {
      return reservation.close(Fiber.getCurrent()!, "committed", reservation.chargesOf(charge))
    } catch (error) {
      return Effect.andThen(this.end(exit) ?? Effect.void, Effect.die(error))
    }
  }

  /** Settles the hold or abandons the wait, unless a scope owns the hold now. */
  hand(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | undefined {
    return Exit.isFailure(exit) ? this.end(exit) : undefined
  }
}

const refuse = (denial: Store.Denial): Effect.Effect<never, Failure> => denial.refuse()

/** Hands the reservation to the scope of the fiber. */
const own = <A>(
  reservation: ReservationImpl<A>,
  fiber: AnyFiber
): Effect.Effect<ReservationImpl<A>, never, Scope.Scope> =>
  Effect.as(
    addFinalizer(fiber, (exit) => Effect.withFiber((fiber) => reservation.end(fiber, exit) ?? Effect.void)),
    reservation
  )

export const reserve = <A>(
  of: Reservable<A>,
  amount: A,
  options?: Reservation.Options
): Effect.Effect<Reservation.Reservation<A>, Failure, Scope.Scope> =>
  Effect.suspend(() => {
    const owner = new Owner(of, options)
    return Effect.onExitPrimitive(
      Effect.withFiber((fiber) =>
        owner.ask<ReservationImpl<A>, Failure, Scope.Scope>(
          fiber,
          encode(of, amount),
          requestOptionsOf(of, options),
          own,
          refuse
        )
      ),
      (exit) => owner.hand(exit)
    )
  })

/** Reserves as much of `wanted` as fits, and at least `least`. */
export const reserveUpTo = <A>(
  of: Reservable<A>,
  least: A,
  wanted: A,
  options?: Reservation.UpToOptions
): Effect.Effect<Reservation.Reservation<A>, Failure, Scope.Scope> =>
  Effect.suspend(() => {
    const owner = new Owner(of, options)
    return Effect.onExitPrimitive(
      Effect.withFiber((fiber) => {
        const upTo: Store.UpTo = {
          wanted: encode(of, wanted),
          patience: timeoutOf(of.accounts[0]!.name, options?.patience),
          normalize: (amounts) => normalized(of, amounts)
        }
        const asking = { ...requestOptionsOf(of, options), upTo }
        return owner.ask<ReservationImpl<A>, Failure, Scope.Scope>(fiber, encode(of, least), asking, own, refuse)
      }),
      (exit) => owner.hand(exit)
    )
  })

/** Never waits. Returns `None` when the request is denied. */
export const tryReserve = <A>(
  of: Reservable<A>,
  amount: A,
  options?: Reservation.Options
): Effect.Effect<Option.Option<Reservation.Reservation<A>>, never, Scope.Scope> =>
  Effect.suspend(() => {
    const owner = new Owner(of, options)
    return Effect.onExitPrimitive(
      Effect.withFiber((fiber) =>
        owner.ask<Option.Option<ReservationImpl<A>>, never, Scope.Scope>(
          fiber,
          encode(of, amount),
          options === undefined && of.defaults === undefined
            ? withoutWaiting
            : { ...requestOptionsOf(of, options), wait: false },
          (reservation, fiber) => Effect.asSome(own(reservation, fiber)),
          none
        )
      ),
      (exit) => owner.hand(exit)
    )
  })

const withoutWaiting: Store.RequestOptions = { wait: false }

const none = () => Effect.succeedNone

export const withReservation = <A, B, E, R>(
  of: Reservable<A>,
  amount: A,
  use: (reservation: Reservation.Reservation<A>) => Effect.Effect<B, E, R>,
  options?: Reservation.Options
): Effect.Effect<B, E | Failure, R> => bracket(of, amount, use, options, ended)

const ended = <A>(owner: Owner<A>, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | undefined =>
  owner.end(exit)

/** `withReservation` with its own rule for the charge at the end of `use`. */
export const withCharge = <A, B, E, R>(
  of: Reservable<A>,
  amount: A,
  use: (reservation: Reservation.Reservation<A>) => Effect.Effect<B, E, R>,
  options: Reservation.Options | undefined,
  chargeOf: (answer: B) => A | undefined
): Effect.Effect<B, E | Failure, R> =>
  bracket(of, amount, use, options, (owner, exit) => {
    const charge = Exit.isSuccess(exit) ? chargeOf(exit.value) : undefined
    return charge === undefined ? owner.end(exit) : owner.commit(charge, exit)
  })

const bracket = <A, B, E, R>(
  of: Reservable<A>,
  amount: A,
  use: (reservation: Reservation.Reservation<A>) => Effect.Effect<B, E, R>,
  options: Reservation.Options | undefined,
  end: (owner: Owner<A>, exit: Exit.Exit<B, E | Failure>) => Effect.Effect<void> | undefined
): Effect.Effect<B, E | Failure, R> =>
  Effect.suspend(() => {
    const owner = new Owner(of, options)
    return Effect.onExitPrimitive(
      Effect.withFiber((fiber) =>
        owner.ask<B, E | Failure, R>(fiber, encode(of, amount), requestOptionsOf(of, options), use, refuse)
      ),
      (exit) => end(owner, exit)
    )
  })

export const reserveTx = <A, B, E, R>(
  of: Reservable<A>,
  amount: A,
  alongside: Effect.Effect<B, E, R>,
  options?: Reservation.TxOptions<B>
): Effect.Effect<
  { readonly reservation: Reservation.Reservation<A>; readonly value: B },
  E | Failure,
  Exclude<R, Effect.Transaction> | Scope.Scope
> =>
  Effect.suspend(() => {
    let pending: Store.Pending<readonly [Store.Hold, B], E, Exclude<R, Effect.Transaction>> | undefined
    let owned: TxOwner<A, B> | undefined
    const take = ([hold, value]: readonly [Store.Hold, B]) => (owned ??= new TxOwner(of, hold, options, value))
    return Effect.onExitPrimitive(
      Effect.withFiber((fiber) => {
        const { accounts, store } = of
        const request = { ...requestOptionsOf(of, options), accounts, amounts: encode(of, amount) }
        pending = store.holdWith(fiber, request, alongside)
        return Effect.flatMap(pending.wait, (told) => {
          if ("_tag" in told) return told.refuse()
          const owner = take(told)
          return Effect.as(
            addFinalizer(fiber, (exit) => owner.end(exit)),
            { reservation: owner.reservation, value: owner.value }
          )
        })
      }),
      (exit) => {
        if (Exit.isSuccess(exit)) return undefined
        pending?.abandon()
        return pending?.granted === undefined ? undefined : take(pending.granted).end(exit)
      }
    )
  })

/** The owner of a hold and of the value that was taken alongside. */
class TxOwner<A, B> {
  readonly reservation: ReservationImpl<A>
  readonly options: Reservation.TxOptions<B> | undefined
  readonly value: B
  private ended = false

  constructor(of: Reservable<A>, hold: Store.Hold, options: Reservation.TxOptions<B> | undefined, value: B) {
    this.reservation = new ReservationImpl(of, hold, options)
    this.options = options
    this.value = value
  }

  end(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> {
    return Effect.withFiber((fiber) => {
      if (this.ended) return Effect.void
      this.ended = true
      const settled = this.reservation.end(fiber, exit) ?? Effect.void
      const { undo } = this.options ?? {}
      return Exit.isFailure(exit) && undo !== undefined
        ? Effect.andThen(settled, Effect.asVoid(undo(this.value)))
        : settled
    })
  }
}

const addFinalizer = (
  fiber: AnyFiber,
  finalizer: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<unknown>
): Effect.Effect<void, never, Scope.Scope> =>
  Scope.addFinalizerExit(Context.getUnsafe(fiber.context as Context.Context<Scope.Scope>, Scope.Scope), finalizer)
