/**
 * The objects that programs hold. All operations of a face are on its prototype, so that one more budget costs little. They are
 * getters, so that an operation can be passed around without its face.
 */
import type * as Reservation from "../../Reservation.ts"
import { type Reservable, TypeId } from "./layout.ts"
import { reserve, reserveTx, reserveUpTo, tryReserve, withReservation } from "./reservable.ts"

/** The operations that every face has, over its layout. */
export class Face<in out A, L extends Reservable<A> = Reservable<A>> implements Reservation.Reservable<A> {
  readonly [TypeId]: L

  constructor(layout: L) {
    this[TypeId] = layout
  }

  get reserve(): Reservation.Reservable<A>["reserve"] {
    const layout = this[TypeId]
    return (amount, options) => reserve(layout, amount, options)
  }

  get reserveUpTo(): Reservation.Reservable<A>["reserveUpTo"] {
    const layout = this[TypeId]
    return (least, wanted, options) => reserveUpTo(layout, least, wanted, options)
  }

  get withReservation(): Reservation.Reservable<A>["withReservation"] {
    const layout = this[TypeId]
    return (amount, use, options) => withReservation(layout, amount, use, options)
  }

  get reserveTx(): Reservation.Reservable<A>["reserveTx"] {
    const layout = this[TypeId]
    return (amount, alongside, options) => reserveTx(layout, amount, alongside, options)
  }
}

/** The faces that also have `tryReserve`. */
export class TryFace<in out A, L extends Reservable<A> = Reservable<A>>
  extends Face<A, L>
  implements Reservation.TryReservable<A>
{
  get tryReserve(): Reservation.TryReservable<A>["tryReserve"] {
    const layout = this[TypeId]
    return (amount, options) => tryReserve(layout, amount, options)
  }
}
