/**
 * One pool for many tasks, with caps on input tokens, output tokens, total tokens and cost, any of them absent.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { BudgetPool, Usd } from "effect-budget"
 *
 * class Agents extends BudgetPool.Service<Agents>()("app/Agents") {}
 *
 * const program = Effect.gen(function*() {
 *   const pool = yield* Agents
 *   yield* pool.record({ input: 900, output: 300, cost: Usd.dollars("0.02") })
 *   return yield* pool.totals
 * })
 *
 * const layer = Agents.layer({ caps: { total: 10_000, cost: Usd.dollars(1) } })
 * console.log((await Effect.runPromise(Effect.provide(program, layer))).total) // 1200
 * ```
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { BudgetExceeded } from "./BudgetError.ts"
import type { Snapshot } from "./BudgetStore.ts"
import { BudgetStore } from "./BudgetStore.ts"
import { definitionOf, type WaitOptions } from "./internal/definition.ts"
import { encode, operations, type Reservable as Layout, tryReserve } from "./internal/reservable.ts"
import { face, type FaceClass } from "./internal/service.ts"
import * as Limit from "./Limit.ts"
import type * as Reservation from "./Reservation.ts"
import * as Usd from "./Usd.ts"

/** What one task uses: tokens, and nano-dollars (see `Usd`). */
export interface Usage {
  readonly input: number
  readonly output: number
  readonly cost: Usd.Usd
}

/** How much all tasks may use together; exactly at the cap is allowed. What is absent has no cap. */
export interface Caps {
  readonly input?: number | undefined
  readonly output?: number | undefined
  readonly total?: number | undefined
  readonly cost?: Usd.Usd | undefined
}

/** What all tasks have used since the last reset. What is only held does not count. */
export interface Totals extends Usage {
  readonly total: number
  /** How many usages were charged. */
  readonly calls: number
}

/** The caps, and what happens when a `reserve` does not fit; `record` never waits. */
export interface Options extends WaitOptions {
  /** In errors and snapshots, as `name/input`, `name/cost` and so on. Default: the identifier of the service. */
  readonly name?: string | undefined
  readonly caps: Caps
}

/** A pool. All amounts are whole numbers from 0 to 2^53 - 1. */
export interface BudgetPool extends Reservation.Reservable<Usage> {
  readonly tryReserve: (
    usage: Usage,
    options?: Reservation.Options
  ) => Effect.Effect<Option.Option<Reservation.Reservation<Usage>>, never, Scope.Scope>
  /**
   * Charges a usage that was not reserved, or nothing of it when it does not fit. The error names the first cap that it does
   * not fit, in the order input, output, total, cost.
   */
  readonly record: (usage: Usage) => Effect.Effect<void, BudgetExceeded>
  readonly totals: Effect.Effect<Totals>
  /** The caps now. */
  readonly caps: Effect.Effect<Caps>
  /** Changes the caps; what is used stays used. A cap that is absent is lifted. */
  readonly setCaps: (caps: Caps) => Effect.Effect<void>
  /** Sets the totals to zero. What is held from before neither refunds into the new books nor charges them. */
  readonly reset: Effect.Effect<void>
  /** The books of input, output, total, cost and calls, all at the same moment. */
  readonly snapshot: Effect.Effect<Record<keyof Totals, Snapshot>>
}

const KINDS = ["input", "output", "total", "cost", "calls"] as const

const limitOf = (caps: Caps, kind: (typeof KINDS)[number]): Limit.Limit => {
  const cap = kind === "calls" ? undefined : caps[kind]
  return cap === undefined ? Limit.unlimited : Limit.capacity(cap)
}

/** Opens a pool in the `BudgetStore` of the context. A cap that is not an amount dies with a `RangeError`. */
export const make = (
  options: Options & { readonly name: string }
): Effect.Effect<BudgetPool, never, BudgetStore | Scope.Scope> =>
  Effect.gen(function* () {
    const store = yield* BudgetStore
    const accounts = yield* Effect.forEach(KINDS, (kind) =>
      store.open(definitionOf(`${options.name}/${kind}`, [limitOf(options.caps, kind)], options))
    )
    const layout: Layout<Usage> = {
      store,
      accounts,
      encode: ({ cost, input, output }, into, at, more) => {
        into[at] = input
        into[at + 1] = output
        into[at + 2] = input + output
        into[at + 3] = cost
        into[at + 4] = more ? 0 : 1
      },
      decode: (amounts, at) => ({ input: amounts[at]!, output: amounts[at + 1]!, cost: Usd.nanos(amounts[at + 3]!) })
    }
    const snapshot = Effect.map(
      store.read(accounts),
      ([input, output, total, cost, calls]) =>
        ({ input: input!, output: output!, total: total!, cost: cost!, calls: calls! }) satisfies Record<
          keyof Totals,
          Snapshot
        >
    )
    const spent = (snapshot: Snapshot) => snapshot.ledgers[0].spent
    const capOf = (snapshot: Snapshot): number | undefined => {
      const { limit } = snapshot.ledgers[0]
      return limit._tag === "Unlimited" ? undefined : Limit.maximum(limit)
    }
    return {
      ...operations(layout),
      tryReserve: (usage, options) => tryReserve(layout, usage, options),
      record: (usage) => Effect.suspend(() => store.charge({ accounts, amounts: encode(layout, usage) })),
      totals: Effect.map(snapshot, ({ calls, cost, input, output, total }) => ({
        input: spent(input),
        output: spent(output),
        total: spent(total),
        cost: Usd.nanos(spent(cost)),
        calls: spent(calls)
      })),
      caps: Effect.map(snapshot, ({ cost, input, output, total }) => ({
        input: capOf(input),
        output: capOf(output),
        total: capOf(total),
        cost: Option.getOrUndefined(Option.map(Option.fromUndefinedOr(capOf(cost)), Usd.nanos))
      })),
      setCaps: (caps) =>
        store.adjust(
          KINDS.map((kind, i) => [accounts[i]!, { _tag: "SetLimit", limits: [limitOf(caps, kind)] }] as const)
        ),
      reset: store.adjust(accounts.map((account) => [account, { _tag: "Reset" }] as const)),
      snapshot
    }
  })

/** A service class for a pool: `class Agents extends BudgetPool.Service<Agents>()("app/Agents") {}`. */
export const Service =
  <Self>() =>
  <const Id extends string>(id: Id): FaceClass<Self, Id, BudgetPool, Options> =>
    face(id, make)
