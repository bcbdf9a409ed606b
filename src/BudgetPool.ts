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
import { type Account, BudgetStore, type Snapshot } from "./BudgetStore.ts"
import { definitionOf, type WaitOptions } from "./internal/admission/definition.ts"
import { TryFace } from "./internal/face/face.ts"
import { encode, type Purpose, type Reservable as Layout, TypeId } from "./internal/face/layout.ts"
import { face, type FaceClass } from "./internal/face/service.ts"
import * as Limit from "./Limit.ts"
import type * as Reservation from "./Reservation.ts"
import * as Usd from "./Usd.ts"

/** The usage of one task: tokens, and nano-dollars (see `Usd`). */
export interface Usage {
  readonly input: number
  readonly output: number
  readonly cost: Usd.Usd
}

/** How much all tasks may use together. Usage of exactly the cap is allowed. An absent cap is no limit. */
export interface Caps {
  readonly input?: number | undefined
  readonly output?: number | undefined
  readonly total?: number | undefined
  readonly cost?: Usd.Usd | undefined
}

/** The usage of all tasks since the last reset. Held amounts do not count. */
export interface Totals extends Usage {
  readonly total: number
  /** How many usages were charged. */
  readonly calls: number
}

/** The caps, and what happens when a `reserve` does not fit. `record` and `charge` never wait. */
export interface Options extends WaitOptions {
  /** The name in errors and snapshots, as in `name/input` and `name/cost`. Default: the identifier of the service. */
  readonly name?: string | undefined
  readonly caps: Caps
}

/**
 * A pool. All amounts are whole numbers from 0 to 2^53 - 1. The total is always input + output: in holds, extensions, amounts
 * granted by `reserveUpTo`, progress and charges. A charge whose total would be above 2^53 - 1 is recorded with the total at
 * 2^53 - 1.
 */
export interface BudgetPool extends Reservation.TryReservable<Usage> {
  /**
   * Charges a usage that was not reserved, or nothing of it when it does not fit. The error names the first cap that denies it,
   * in the order input, output, total, cost.
   */
  readonly record: (usage: Usage) => Effect.Effect<void, BudgetExceeded>
  /**
   * Charges a usage that was not reserved and was really spent, whether or not it fits. The part that does not fit is debt.
   * Returns the names of the caps that it left in debt.
   */
  readonly charge: (usage: Usage) => Effect.Effect<{ readonly overran: ReadonlyArray<string> }>
  readonly totals: Effect.Effect<Totals>
  /** The present caps. */
  readonly caps: Effect.Effect<Caps>
  /** Changes the caps; usage stays used. A cap that is absent is lifted. */
  readonly setCaps: (caps: Caps) => Effect.Effect<void>
  /** Sets the totals to zero. Earlier holds neither refund into the new books nor charge them. */
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
  Effect.flatMap(BudgetStore, (store) =>
    Effect.map(
      Effect.forEach(KINDS, (kind) =>
        store.open(definitionOf(`${options.name}/${kind}`, [limitOf(options.caps, kind)], options))
      ),
      (accounts) => new PoolFace(new PoolLayout(store, accounts))
    )
  )

/** The accounts of input, output, total, cost and calls. */
class PoolLayout implements Layout<Usage> {
  readonly store: BudgetStore["Service"]
  readonly accounts: ReadonlyArray<Account>

  constructor(store: BudgetStore["Service"], accounts: ReadonlyArray<Account>) {
    this.store = store
    this.accounts = accounts
  }

  encode({ cost, input, output }: Usage, into: Array<number>, at: number, purpose: Purpose): void {
    into[at] = input
    into[at + 1] = output
    into[at + 2] = purpose === "charge" ? Math.min(input + output, Number.MAX_SAFE_INTEGER) : input + output
    into[at + 3] = cost
    into[at + 4] = purpose === "extension" ? 0 : 1
  }

  decode(amounts: ReadonlyArray<number>, at: number): Usage {
    return { input: amounts[at]!, output: amounts[at + 1]!, cost: Usd.nanos(amounts[at + 3]!) }
  }

  normalize(amounts: Array<number>, at: number): void {
    amounts[at + 2] = Math.min(amounts[at]! + amounts[at + 1]!, Number.MAX_SAFE_INTEGER)
  }
}

class PoolFace extends TryFace<Usage, PoolLayout> implements BudgetPool {
  get record(): BudgetPool["record"] {
    const { accounts, store } = this[TypeId]
    return (usage) => Effect.asVoid(Effect.suspend(() => store.record(accounts, encode(this[TypeId], usage, "charge"))))
  }

  get charge(): BudgetPool["charge"] {
    const { accounts, store } = this[TypeId]
    return (usage) =>
      Effect.map(
        Effect.suspend(() => store.charge(accounts, encode(this[TypeId], usage, "charge"))),
        ({ overran }) => ({ overran })
      )
  }

  get snapshot(): BudgetPool["snapshot"] {
    const { accounts, store } = this[TypeId]
    return Effect.map(store.read(accounts), ([input, output, total, cost, calls]) => ({
      input: input!,
      output: output!,
      total: total!,
      cost: cost!,
      calls: calls!
    }))
  }

  get totals(): Effect.Effect<Totals> {
    return Effect.map(this.snapshot, ({ calls, cost, input, output, total }) => ({
      input: spent(input),
      output: spent(output),
      total: spent(total),
      cost: Usd.nanos(spent(cost)),
      calls: spent(calls)
    }))
  }

  get caps(): Effect.Effect<Caps> {
    return Effect.map(this.snapshot, ({ cost, input, output, total }) => ({
      input: capOf(input),
      output: capOf(output),
      total: capOf(total),
      cost: Option.getOrUndefined(Option.map(Option.fromUndefinedOr(capOf(cost)), Usd.nanos))
    }))
  }

  get setCaps(): BudgetPool["setCaps"] {
    const { accounts, store } = this[TypeId]
    return (caps) =>
      store.adjust(KINDS.map((kind, i) => [accounts[i]!, { _tag: "SetLimit", limits: [limitOf(caps, kind)] }] as const))
  }

  get reset(): Effect.Effect<void> {
    const { accounts, store } = this[TypeId]
    return store.adjust(accounts.map((account) => [account, { _tag: "Reset" }] as const))
  }
}

const spent = (snapshot: Snapshot): number => snapshot.ledgers[0].spent

const capOf = (snapshot: Snapshot): number | undefined => {
  const { limit } = snapshot.ledgers[0]
  return limit._tag === "Unlimited" ? undefined : Limit.maximum(limit)
}

/** A service class for a pool: `class Agents extends BudgetPool.Service<Agents>()("app/Agents") {}`. */
export const Service =
  <Self>() =>
  <const Id extends string>(id: Id): FaceClass<Self, Id, BudgetPool, Options> =>
    face(id, make)
