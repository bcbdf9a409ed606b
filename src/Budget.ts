/**
 * A budget for any resource: reserve an estimate, run, settle what it really cost, get the rest back.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Budget, Limit } from "effect-budget"
 *
 * class Calls extends Budget.Service<Calls>()("app/Calls") {}
 *
 * const program = Effect.gen(function*() {
 *   const calls = yield* Calls
 *   yield* calls.withReservation(3, (reservation) => reservation.commit(2))
 *   return yield* calls.available
 * })
 *
 * const left = await Effect.runPromise(Effect.provide(program, Calls.layer({ limit: Limit.capacity(10) })))
 * console.log(left) // 8
 * ```
 */
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { BudgetStore } from "./BudgetStore.ts"
import type { Account, Adjustment, LedgerSnapshot, Snapshot } from "./BudgetStore.ts"
import { definitionOf, type WaitOptions } from "./internal/definition.ts"
import { thresholds } from "./internal/thresholds.ts"
import { operations, type Reservable as Layout, tryReserve } from "./internal/reservable.ts"
import { face, type FaceClass } from "./internal/service.ts"
import type { Limit } from "./Limit.ts"
import type * as Reservation from "./Reservation.ts"

export type { WaitOptions } from "./internal/definition.ts"
export type { FaceClass } from "./internal/service.ts"

/** What a budget allows and what happens when the answer is no. */
export interface Options extends WaitOptions {
  /** In errors and snapshots. Default: the identifier of the service. */
  readonly name?: string | undefined
  /** What is allowed; of several limits, all must admit. */
  readonly limit: Limit | ReadonlyArray<Limit>
}

/** A part of a budget that is used. */
export interface Threshold {
  readonly fraction: number
  /** The limit that reached it. */
  readonly ledger: LedgerSnapshot
  readonly snapshot: Snapshot
}

/** What every face over one set of books can be asked. */
export interface Books {
  readonly name: string
  readonly snapshot: Effect.Effect<Snapshot>
  /** The snapshot now and after every change; changes that come together are told once. Time alone does not tell. */
  readonly changes: Stream.Stream<Snapshot>
  /**
   * Tells when a part of the budget is used (held or spent): each of the fractions, say 0.8 and 0.95, once per epoch of the limit
   * that reached it first. What is used only between two changes that are told together goes unnoticed; what is spent never
   * does. Fractions are above 0 and at most 1; else it dies with a `RangeError`.
   */
  readonly thresholds: (fractions: ReadonlyArray<number>) => Stream.Stream<Threshold>
  /** What could be reserved now: the least of all limits. Negative while there is debt. */
  readonly available: Effect.Effect<number>
  /**
   * Adds to what is granted and admits who waits; a rate takes it as far as the bucket has room. Dies with a `RangeError` when
   * the amount is wrong or the books could not count the sum.
   */
  readonly topUp: (amount: number) => Effect.Effect<void>
  /** Starts a new epoch with fresh books: what is held from before neither refunds into it nor charges it. */
  readonly reset: Effect.Effect<void>
  /**
   * Changes the limit, or as many limits as the budget has. What is spent and held is kept. Raising admits who waits;
   * lowering denies until what is outstanding fits. Dies with a `RangeError` when a limit cannot be used, or when there are
   * more or fewer of them than the budget has.
   */
  readonly setLimit: (limit: Limit | ReadonlyArray<Limit>) => Effect.Effect<void>
}

/** A budget in one unit. Amounts are whole numbers from 0 to 2^53 - 1. */
export interface Budget extends Reservation.Reservable<number>, Books {
  /** Reserves for the current scope if that can be done now: never waits, and `None` is the soft no. */
  readonly tryReserve: (
    amount: number,
    options?: Reservation.Options
  ) => Effect.Effect<Option.Option<Reservation.Reservation<number>>, never, Scope.Scope>
}

/** Opens a budget in the `BudgetStore` of the context. A limit that cannot be used dies with a `RangeError` that says why. */
export const make = (
  options: Options & { readonly name: string }
): Effect.Effect<Budget, never, BudgetStore | Scope.Scope> => Effect.map(open(options), fromLayout)

/** A service class for a budget: `class Calls extends Budget.Service<Calls>()("app/Calls") {}`. */
export const Service =
  <Self>() =>
  <const Id extends string>(id: Id): FaceClass<Self, Id, Budget, Options> =>
    face(id, make)

/** @internal */
export interface SingleLayout extends Layout<number> {
  readonly account: Account
}

/** @internal */
export const open = (
  options: Options & { readonly name: string }
): Effect.Effect<SingleLayout, never, BudgetStore | Scope.Scope> =>
  BudgetStore.use((store) =>
    Effect.map(
      Effect.suspend(() => store.open(definitionOf(options.name, listOf(options.limit), options))),
      (account) => ({
        store,
        account,
        accounts: [account],
        encode: (amount, into, at) => {
          into[at] = amount
        },
        decode: (amounts, at) => amounts[at]!
      })
    )
  )

/** @internal */
export const books = ({ account, store }: SingleLayout): Books => {
  const adjust = (adjustment: Adjustment) => store.adjust([[account, adjustment]])
  const snapshot = Effect.map(store.read([account]), ([snapshot]) => snapshot!)
  return {
    name: account.name,
    snapshot,
    changes: store.changes(account),
    thresholds: (fractions) => thresholds(account.name, store.changes(account), fractions),
    available: Effect.map(snapshot, (snapshot) => snapshot.available),
    topUp: (amount) => adjust({ _tag: "TopUp", amount }),
    reset: adjust({ _tag: "Reset" }),
    setLimit: (limit) => adjust({ _tag: "SetLimit", limits: listOf(limit) })
  }
}

/** @internal */
export const fromLayout = (layout: SingleLayout): Budget => ({
  ...operations(layout),
  ...books(layout),
  tryReserve: (amount, options) => tryReserve(layout, amount, options)
})

const listOf = (limit: Limit | ReadonlyArray<Limit>): ReadonlyArray<Limit> => ("_tag" in limit ? [limit] : limit)
