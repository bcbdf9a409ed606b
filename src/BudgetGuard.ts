/**
 * A guard for unit-cost work that is known up front: rows, dispatches, queue slots. It adds the plain pair `tryReserve` /
 * `release` to a budget, for code that cannot carry a reservation around.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Limit, RowGuard } from "effect-budget"
 *
 * const program = Effect.gen(function*() {
 *   const rows = yield* RowGuard
 *   const first = yield* rows.tryReserve(80)
 *   const second = yield* rows.tryReserve(80)
 *   yield* rows.release(80)
 *   return [first, second, yield* rows.available]
 * })
 *
 * const answer = await Effect.runPromise(Effect.provide(program, RowGuard.layer({ limit: Limit.capacity(100) })))
 * console.log(answer) // [ true, false, 100 ]
 * ```
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type Books, BooksFace, open, type Options } from "./Budget.ts"
import type { AnyFiber, BudgetStore, Hold, RequestOptions, Snapshot } from "./BudgetStore.ts"
import { badAmount, isAmount } from "./internal/amount.ts"
import { TypeId } from "./internal/face/layout.ts"
import { face, type FaceClass } from "./internal/face/service.ts"
import * as Limit from "./Limit.ts"
import type * as Reservation from "./Reservation.ts"

/**
 * A budget of units with the plain pair `tryReserve` and `release`. Costs are whole numbers from 0 to 2^53 - 1.
 *
 * The pair is not counted as reservations in `settled` of a snapshot. After the layer of the guard is closed, it dies.
 */
export interface BudgetGuard extends Reservation.Reservable<number>, Books {
  /**
   * Takes `cost` (default 1) and returns `true`, or returns `false` when it is denied. Never waits. The amount counts as held
   * until `release` gives it back. It belongs to no scope; when the layer of the guard is closed, it is charged.
   */
  readonly tryReserve: (cost?: number) => Effect.Effect<boolean>
  /**
   * Gives back `cost` (default 1) of the amount taken with `tryReserve`, the oldest first. Giving back more than was taken is a
   * programming error: it dies, and gives back nothing.
   */
  readonly release: (cost?: number) => Effect.Effect<void>
  /** The least maximum among the limits, without top-ups. */
  readonly capacity: Effect.Effect<number>
  /** The used part of the fullest limit, from 0 to 1; 0 when its capacity is 0. */
  readonly utilization: Effect.Effect<number>
  /** Makes the whole capacity available again, except for the held amount. Forgives a debt. */
  readonly refill: Effect.Effect<void>
}

/** Opens a guard in the `BudgetStore` of the context. A limit that cannot be used dies with a `RangeError` that says why. */
export const make = (
  options: Options & { readonly name: string }
): Effect.Effect<BudgetGuard, never, BudgetStore | Scope.Scope> =>
  Effect.flatMap(open(options), (layout) => {
    const guard = new GuardFace(layout)
    return Effect.as(
      Effect.addFinalizer(() => guard.close()),
      guard
    )
  })

/**
 * The pair is one hold that grows and shrinks, which no tally counts. If a store expires it, the pair goes on with a new hold.
 */
const pairOptions = { wait: false, onExpiry: "hold", counted: false } as const

class GuardFace extends BooksFace implements BudgetGuard {
  /** The hold of everything taken through the pair. */
  private pair: Hold | undefined = undefined
  private into: RequestOptions = pairOptions
  /** The amount that was taken, and then charged by a store where the hold expired: it cannot be given back any more. */
  private charged = 0
  private closed = false

  get tryReserve(): BudgetGuard["tryReserve"] {
    return (cost = 1) => Effect.withFiber((fiber) => this.take(fiber, cost))
  }

  get release(): BudgetGuard["release"] {
    return (cost = 1) => Effect.withFiber((fiber) => this.giveBack(fiber, cost) ?? Effect.void)
  }

  get capacity(): Effect.Effect<number> {
    return Effect.map(this.snapshot, ({ ledgers }) => Math.min(...ledgers.map(({ limit }) => Limit.maximum(limit))))
  }

  get utilization(): Effect.Effect<number> {
    return Effect.map(this.snapshot, utilizationOf)
  }

  get refill(): Effect.Effect<void> {
    return this.adjust({ _tag: "Refill" })
  }

  private take(fiber: AnyFiber, cost: number): Effect.Effect<boolean> {
    this.assertOpen()
    const { accounts, store } = this[TypeId]
    const answer = store.hold(fiber, accounts, [cost], this.into)
    if (answer._tag === "Denial") return no
    if (answer._tag === "Hold") {
      if (this.pair === undefined) this.start(answer)
      return yes
    }
    const { pair } = this
    // A pair has no owner on the stack, so nothing may interrupt the answer of its store.
    return Effect.uninterruptible(Effect.flatMap(answer.wait, (told) => this.taken(fiber, cost, pair, told)))
  }

  /** Handles the answer to a request that adds to the pair `asked`, which another fiber may have replaced meanwhile. */
  private taken(
    fiber: AnyFiber,
    cost: number,
    asked: Hold | undefined,
    answer: Hold | { readonly _tag: "Denial" }
  ): Effect.Effect<boolean> {
    if (answer._tag === "Denial") {
      if (asked?.expired !== true) return no
      return Effect.andThen(this.drop(fiber, asked), this.take(fiber, cost))
    }
    if (this.pair === undefined) this.start(answer)
    if (this.pair === answer) return yes
    // Another fiber has made the pair meanwhile.
    const { store } = this[TypeId]
    const undone = store.settle(fiber, answer, "released", [0])
    return Effect.andThen(Effect.isEffect(undone) ? undone : Effect.void, this.take(fiber, cost))
  }

  /** Settles an expired pair late, unless another fiber has done so. */
  private drop(fiber: AnyFiber, pair: Hold): Effect.Effect<void> {
    if (this.pair !== pair) return Effect.void
    this.charged += pair.held[0]!
    this.pair = undefined
    this.into = pairOptions
    return this.settle(fiber, pair)
  }

  private start(pair: Hold): void {
    this.pair = pair
    this.into = { ...pairOptions, into: pair }
  }

  private giveBack(fiber: AnyFiber, cost: number): Effect.Effect<void> | undefined {
    this.assertOpen()
    if (!isAmount(cost)) throw badAmount(this.name, "the amount to release", cost)
    const taken = this.pair?.held[0] ?? 0
    const late = Math.max(0, cost - taken)
    if (late > this.charged) {
      throw new RangeError(`Budget "${this.name}": ${cost} released, but only ${taken} taken with tryReserve`)
    }
    this.charged -= late
    return this.pair === undefined ? undefined : this[TypeId].store.reduce(fiber, this.pair, [cost - late])
  }

  private assertOpen(): void {
    if (this.closed) throw new Error(`Budget "${this.name}": the guard has been closed with its layer`)
  }

  /** Charges the amount that is still taken. */
  close(): Effect.Effect<void> {
    return Effect.withFiber((fiber) => {
      this.closed = true
      return this.pair === undefined ? Effect.void : this.settle(fiber, this.pair)
    })
  }

  private settle(fiber: AnyFiber, pair: Hold): Effect.Effect<void> {
    const outcome = this[TypeId].store.settle(fiber, pair, "succeeded", undefined)
    return Effect.isEffect(outcome) ? Effect.asVoid(outcome) : Effect.void
  }
}

const utilizationOf = ({ ledgers }: Snapshot): number =>
  Math.max(
    ...ledgers.map(({ available, limit }) => {
      const capacity = Limit.maximum(limit)
      return capacity === 0 ? 0 : Math.min(1, Math.max(0, (capacity - available) / capacity))
    })
  )

const yes = Effect.succeed(true)
const no = Effect.succeed(false)

/** A service class for a guard: `class Slots extends BudgetGuard.Service<Slots>()("app/Slots") {}`. */
export const Service =
  <Self>() =>
  <const Id extends string>(id: Id): FaceClass<Self, Id, BudgetGuard, Options> =>
    face(id, make)

/** The guard of the rows that a program processes. */
export class RowGuard extends Service<RowGuard>()("effect-budget/RowGuard") {}
