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
import type { Books, Options } from "./Budget.ts"
import { books, open } from "./Budget.ts"
import type { BudgetStore, Hold } from "./BudgetStore.ts"
import { badAmount, isAmount } from "./internal/amount.ts"
import { operations } from "./internal/reservable.ts"
import { face, type FaceClass } from "./internal/service.ts"
import * as Limit from "./Limit.ts"
import type * as Reservation from "./Reservation.ts"

/** A budget of units, with the plain pair. Costs are whole numbers from 0 to 2^53 - 1. */
export interface BudgetGuard extends Reservation.Reservable<number>, Books {
  /**
   * Takes `cost` (default 1) if that can be done now. What is taken counts as held until `release` gives it back; it belongs
   * to no scope.
   */
  readonly tryReserve: (cost?: number) => Effect.Effect<boolean>
  /**
   * Gives back `cost` (default 1) of what was taken with `tryReserve`, the oldest first. Giving back more than was taken is
   * a programming error: it dies, and gives back nothing.
   */
  readonly release: (cost?: number) => Effect.Effect<void>
  /** The least that any limit allows in all, top-ups aside. */
  readonly capacity: Effect.Effect<number>
  /** The used part of the fullest limit, from 0 to 1; 0 when its capacity is 0. */
  readonly utilization: Effect.Effect<number>
  /** Makes all available again that the capacity allows beside what is held; forgives a debt. */
  readonly refill: Effect.Effect<void>
}

/** Opens a guard in the `BudgetStore` of the context. A limit that cannot be used dies with a `RangeError` that says why. */
export const make = (
  options: Options & { readonly name: string }
): Effect.Effect<BudgetGuard, never, BudgetStore | Scope.Scope> =>
  Effect.gen(function* () {
    const layout = yield* open(options)
    const { account, accounts, store } = layout
    const common = books(layout)
    // All that is out through the pair is one hold, which grows and shrinks.
    const ask = store.tryHold({ accounts, amounts: [0], onExpiry: "hold" })
    let pair: Hold | undefined
    const { direct } = store
    // What is still out then was used. Where nothing is out, only a store that others share has something to forget.
    yield* Effect.addFinalizer(() => {
      if (pair === undefined || (pair.held[0] === 0 && direct?.reduce !== undefined)) return Effect.void
      return store.settle(pair, pair.held[0] === 0 ? "released" : "succeeded", undefined)
    })
    yield* Effect.uninterruptible(
      Effect.map(ask, (hold) => {
        pair = hold
      })
    )
    /** Taken, and then charged by a store that took this process for dead: there is nothing to give back any more. */
    let charged = 0
    const released = (cost: number): ReadonlyArray<number> => {
      if (!isAmount(cost)) throw badAmount(account.name, "what is released", cost)
      const taken = pair?.held[0] ?? 0
      const late = Math.max(0, cost - taken)
      if (late > charged) {
        throw new RangeError(`Budget "${account.name}": ${cost} released, but only ${taken} taken with tryReserve`)
      }
      charged -= late
      return [cost - late]
    }
    const add = (cost: number): Effect.Effect<boolean> =>
      Effect.suspend(() => {
        const before = pair
        if (before !== undefined && before.expired === undefined) {
          return Effect.flatMap(store.tryHold({ accounts, amounts: [cost], into: before }), (hold) => {
            if (hold !== undefined) return yes
            return before.expired === undefined ? no : add(cost)
          })
        }
        // A store that shares its books was away, or took this process for dead and charged what was out.
        return Effect.flatMap(ask, (hold) => {
          if (hold === undefined) return no
          if (pair !== before) return Effect.andThen(store.settle(hold, "released", [0]), add(cost))
          pair = hold
          if (before === undefined) return add(cost)
          charged += before.held[0]!
          // Books that were lost have not charged it yet.
          return Effect.andThen(store.settle(before, "succeeded", undefined), add(cost))
        })
      })
    return {
      ...operations(layout),
      ...common,
      tryReserve: (cost = 1) =>
        Effect.withFiber((fiber) => {
          const hold = direct?.hold(fiber, accounts, [cost], pair)
          if (hold === "denied") return no
          if (typeof hold === "object") return yes
          return Effect.uninterruptible(add(cost))
        }),
      release: (cost = 1) =>
        direct?.reduce === undefined
          ? Effect.suspend(() => {
              const amounts = released(cost)
              return pair === undefined ? Effect.void : store.reduce(pair, amounts)
            })
          : Effect.withFiberSucceed((fiber) => direct.reduce!(fiber, pair!, released(cost))),
      capacity: Effect.map(common.snapshot, ({ ledgers }) =>
        Math.min(...ledgers.map(({ limit }) => Limit.maximum(limit)))
      ),
      utilization: Effect.map(common.snapshot, ({ ledgers }) =>
        Math.max(
          ...ledgers.map(({ available, limit }) => {
            const capacity = Limit.maximum(limit)
            return capacity === 0 ? 0 : Math.min(1, Math.max(0, (capacity - available) / capacity))
          })
        )
      ),
      refill: store.adjust([[account, { _tag: "Refill" }]])
    }
  })

const yes = Effect.succeed(true)
const no = Effect.succeed(false)

/** A service class for a guard: `class Slots extends BudgetGuard.Service<Slots>()("app/Slots") {}`. */
export const Service =
  <Self>() =>
  <const Id extends string>(id: Id): FaceClass<Self, Id, BudgetGuard, Options> =>
    face(id, make)

/** The guard of the rows that a program processes. */
export class RowGuard extends Service<RowGuard>()("effect-budget/RowGuard") {}
