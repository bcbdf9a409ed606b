/**
 * A budget for any resource: reserve an estimate, run, settle the actual cost, get the rest back.
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
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type Adjustment, BudgetStore, type Snapshot } from "./BudgetStore.ts"
import { definitionOf, type WaitOptions } from "./internal/admission/definition.ts"
import { Face } from "./internal/face/face.ts"
import { SingleLayout, TypeId } from "./internal/face/layout.ts"
import { tryReserve } from "./internal/face/reservable.ts"
import { face, type FaceClass } from "./internal/face/service.ts"
import { type Threshold, thresholds } from "./internal/face/thresholds.ts"
import type { SetLimitStrategy } from "./Ledger.ts"
import type { Limit } from "./Limit.ts"
import type * as Reservation from "./Reservation.ts"

export type { WaitOptions } from "./internal/admission/definition.ts"
export type { FaceClass } from "./internal/face/service.ts"
export type { Threshold } from "./internal/face/thresholds.ts"

/** The limits of a budget, and what happens when they deny a request. */
export interface Options extends WaitOptions {
  /**
   * The name in errors and snapshots. In one store, budgets of one name are one budget. Default: the identifier of the service.
   */
  readonly name?: string | undefined
  /** One limit or several, all of which must admit. */
  readonly limit: Limit | ReadonlyArray<Limit>
}

/** The operations of every face over one set of books. */
export interface Books {
  readonly name: string
  /** The books now, as a frozen value. */
  readonly snapshot: Effect.Effect<Snapshot>
  /**
   * The snapshot now and after every change; changes that come together are emitted once. The passage of time alone does not emit
   * a snapshot.
   */
  readonly changes: Stream.Stream<Snapshot>
  /**
   * Emits when a part of the budget is used (held or spent): each of the fractions, say 0.8 and 0.95, once per epoch of the limit
   * that reached it first. A use that ends between two changes that are emitted together goes unnoticed; spending never does.
   * Dies with a `RangeError` unless the fractions are above 0 and at most 1.
   */
  readonly thresholds: (fractions: ReadonlyArray<number>) => Stream.Stream<Threshold>
  /** The most that could be reserved now: the least of all limits. Negative while there is debt. */
  readonly available: Effect.Effect<number>
  /**
   * Adds to the granted amount and admits waiters. A rate takes it as far as the bucket has room. Dies with a `RangeError` when
   * the amount is wrong or the books could not count the sum.
   */
  readonly topUp: (amount: number) => Effect.Effect<void>
  /**
   * Starts a new epoch with fresh books: earlier holds neither refund into it nor charge it. The slots of a concurrency limit
   * that are in use stay in use. A wait for more than the fresh books can ever admit fails.
   */
  readonly reset: Effect.Effect<void>
  /**
   * Changes the limit, or as many limits as the budget has. Open holds stay. Raising a limit admits waiters; lowering it denies
   * requests until the holds and the spending fit. A wait that the new limit can never admit fails at once. Dies with a
   * `RangeError` when a limit cannot be used, or when there are more or fewer of them than the budget has.
   *
   * The `strategy` says what becomes of the available amount:
   *
   * - `additive` (default): the difference of the two maxima is added to it or taken from it.
   * - `keepLevel`: it stays, up to the new maximum. For rates that follow the headers of a provider.
   * - `reset`: it starts full, in a new epoch.
   *
   * A debt stays owed under the first two, also when the kind of limit changes, and changing a limit back and forth grants
   * nothing.
   */
  readonly setLimit: (
    limit: Limit | ReadonlyArray<Limit>,
    options?: { readonly strategy?: SetLimitStrategy | undefined }
  ) => Effect.Effect<void>
}

/** A budget in one unit. Amounts are whole numbers from 0 to 2^53 - 1. */
export interface Budget extends Reservation.TryReservable<number>, Books {}

/** Opens a budget in the `BudgetStore` of the context. A limit that cannot be used dies with a `RangeError` that says why. */
export const make = (
  options: Options & { readonly name: string }
): Effect.Effect<Budget, never, BudgetStore | Scope.Scope> =>
  Effect.map(open(options), (layout) => new BudgetFace(layout))

/** A service class for a budget: `class Calls extends Budget.Service<Calls>()("app/Calls") {}`. */
export const Service =
  <Self>() =>
  <const Id extends string>(id: Id): FaceClass<Self, Id, Budget, Options> =>
    face(id, make)

/**
 * One budget in one unit, with its books.
 *
 * @internal
 */
export class BooksFace extends Face<number, SingleLayout> implements Books {
  get name(): string {
    return this[TypeId].accounts[0].name
  }

  get snapshot(): Effect.Effect<Snapshot> {
    const { accounts, store } = this[TypeId]
    return Effect.map(store.read(accounts), ([snapshot]) => snapshot!)
  }

  get changes(): Stream.Stream<Snapshot> {
    const { accounts, store } = this[TypeId]
    return Stream.map(store.changes(accounts), ([snapshot]) => snapshot!)
  }

  get thresholds(): Books["thresholds"] {
    return (fractions) => thresholds(this.name, this.changes, fractions)
  }

  get available(): Effect.Effect<number> {
    return Effect.map(this.snapshot, ({ available }) => available)
  }

  get topUp(): Books["topUp"] {
    return (amount) => this.adjust({ _tag: "TopUp", amount })
  }

  get reset(): Effect.Effect<void> {
    return this.adjust({ _tag: "Reset" })
  }

  get setLimit(): Books["setLimit"] {
    return (limit, options) => this.adjust({ _tag: "SetLimit", limits: listOf(limit), strategy: options?.strategy })
  }

  protected adjust(adjustment: Adjustment): Effect.Effect<void> {
    const { accounts, store } = this[TypeId]
    return store.adjust([[accounts[0], adjustment]])
  }
}

/** @internal */
export class BudgetFace extends BooksFace implements Budget {
  get tryReserve(): Budget["tryReserve"] {
    const layout = this[TypeId]
    return (amount, options) => tryReserve(layout, amount, options)
  }
}

/** @internal */
export const open = (
  options: Options & { readonly name: string }
): Effect.Effect<SingleLayout, never, BudgetStore | Scope.Scope> =>
  BudgetStore.use((store) =>
    Effect.map(
      Effect.suspend(() => store.open(definitionOf(options.name, listOf(options.limit), options))),
      (account) => new SingleLayout(store, account)
    )
  )

const listOf = (limit: Limit | ReadonlyArray<Limit>): ReadonlyArray<Limit> => ("_tag" in limit ? [limit] : limit)
