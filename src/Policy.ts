/**
 * Several budgets as one: all are reserved in one step that nobody can observe half done, or none is. Each is settled with its
 * own actual amount. A request that waits for some of them holds none of them, but stands in the queue of each: later requests
 * wait behind it, also for a budget that has room. Give waits a `timeout`, or the budgets `order: "firstFit"`.
 *
 * The books of the members may be in any memory stores. Members in a store of another kind must all be in the same one.
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { Limit, Policy, RowGuard, TokenGuard } from "effect-budget"
 *
 * class Import extends Policy.Service<Import>()("app/Import", { rows: RowGuard, tokens: TokenGuard }) {}
 *
 * const program = Effect.gen(function*() {
 *   const policy = yield* Import
 *   yield* policy.withReservation({ rows: 1, tokens: 500 }, (reservation) =>
 *     reservation.commit({ rows: 1, tokens: 420 }))
 *   return (yield* policy.snapshot).tokens[0].available
 * })
 *
 * const layer = Import.layer.pipe(
 *   Layer.provide([RowGuard.layer({ limit: Limit.capacity(100) }), TokenGuard.layer({ limit: Limit.capacity(10_000) })])
 * )
 * console.log(await Effect.runPromise(Effect.provide(program, layer))) // 9580
 * ```
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Snapshot } from "./BudgetStore.ts"
import { TryFace } from "./internal/face/face.ts"
import { type Layout, type Purpose, type Reservable, TypeId } from "./internal/face/layout.ts"
import type * as Reservation from "./Reservation.ts"

/** The budgets of a policy, by the keys that its amounts and settlements use. */
export type Members = Readonly<Record<string, Context.Key<unknown, Reservation.AnyReservable>>>

/** An amount for each member. */
export type Amounts<M extends Members> = { readonly [K in keyof M]: Reservation.Amount<M[K]["Service"]> }

/** Several budgets as one. */
export interface Policy<in out M extends Members> extends Reservation.TryReservable<Amounts<M>> {
  /** The snapshots of the budgets of each member (one for most faces), all at the same moment. */
  readonly snapshot: Effect.Effect<{ readonly [K in keyof M]: readonly [Snapshot, ...Array<Snapshot>] }>
}

/**
 * A service class for a policy. Its layer needs the layers of the members; `Layer.provideMerge` instead of `Layer.provide` gives
 * the program the same budgets as the policy. The layer is fresh: a policy has no state, and each build is over the budgets of
 * the context in which it is built. So a policy per user in a `LayerMap` is over the budgets of that user.
 */
export interface PolicyClass<
  in out Self,
  in out Id extends string,
  in out M extends Members
> extends Context.ServiceClass<Self, Id, Policy<M>> {
  readonly layer: Layer.Layer<Self, never, M[keyof M]["Identifier"]>
}

/**
 * Makes a policy over the members in the context. Dies with an error that names the cause if the policy has no members, has the
 * same budget twice (also by way of another policy), or is over budgets whose stores cannot serve one request together.
 */
export const make = <const M extends Members>(
  name: string,
  members: M
): Effect.Effect<Policy<M>, never, M[keyof M]["Identifier"]> =>
  Effect.map(Effect.context<M[keyof M]["Identifier"]>(), (context) => {
    const keys: ReadonlyArray<keyof M & string> = Object.keys(members)
    const layouts = keys.map((key) => Context.getUnsafe(context, members[key]!)[TypeId])
    return new PolicyFace(combine<M>(name, keys, layouts))
  })

/** `class Import extends Policy.Service<Import>()("app/Import", { rows: RowGuard, tokens: TokenGuard }) {}` */
export const Service =
  <Self>() =>
  <const Id extends string, const M extends Members>(id: Id, members: M): PolicyClass<Self, Id, M> => {
    const Key = Context.Service<Self, Policy<M>>()(id)
    return Object.assign(Key, { layer: Layer.fresh(Layer.effect(Key, make(id, members))) })
  }

const combine = <M extends Members>(
  name: string,
  keys: ReadonlyArray<keyof M & string>,
  layouts: ReadonlyArray<Layout>
): PolicyLayout<M> => {
  const [first] = layouts
  if (first === undefined) throw new RangeError(`Policy "${name}" has no members: name at least one budget`)
  const books = new Set<object>()
  for (const account of layouts.flatMap(({ accounts }) => accounts)) {
    if (books.has(account.books)) throw new RangeError(`Policy "${name}" has the budget "${account.name}" twice`)
    books.add(account.books)
  }
  if (layouts.some(({ store }) => store.group !== first.store.group)) {
    throw new RangeError(`Policy "${name}" has budgets of different stores, which cannot be reserved in one step`)
  }
  // Each member's own layout is behind its key, so a member is only ever given its own amount.
  return new PolicyLayout(first.store, keys, layouts as ReadonlyArray<Reservable<Amounts<M>[keyof M]>>)
}

/** The accounts of all members, one after the other. */
class PolicyLayout<M extends Members> implements Reservable<Amounts<M>> {
  readonly store: Layout["store"]
  readonly accounts: Layout["accounts"]
  readonly keys: ReadonlyArray<keyof M & string>
  readonly members: ReadonlyArray<Reservable<Amounts<M>[keyof M]>>

  constructor(
    store: Layout["store"],
    keys: ReadonlyArray<keyof M & string>,
    members: ReadonlyArray<Reservable<Amounts<M>[keyof M]>>
  ) {
    this.store = store
    this.accounts = members.flatMap(({ accounts }) => accounts)
    this.keys = keys
    this.members = members
  }

  encode(amounts: Amounts<M>, into: Array<number>, at: number, purpose: Purpose): void {
    const { keys, members } = this
    let k = at
    for (let i = 0; i < keys.length; i++) {
      members[i]!.encode(amounts[keys[i]!], into, k, purpose)
      k += members[i]!.accounts.length
    }
  }

  decode(amounts: ReadonlyArray<number>, at: number): Amounts<M> {
    const { keys, members } = this
    const decoded: Record<string, unknown> = {}
    let k = at
    for (let i = 0; i < keys.length; i++) {
      decoded[keys[i]!] = members[i]!.decode(amounts, k)
      k += members[i]!.accounts.length
    }
    return decoded as Amounts<M>
  }

  normalize(amounts: Array<number>, at: number): void {
    let k = at
    for (const member of this.members) {
      member.normalize?.(amounts, k)
      k += member.accounts.length
    }
  }
}

class PolicyFace<M extends Members> extends TryFace<Amounts<M>, PolicyLayout<M>> implements Policy<M> {
  get snapshot(): Policy<M>["snapshot"] {
    const { accounts, keys, members, store } = this[TypeId]
    return Effect.map(store.read(accounts), (snapshots) => {
      let from = 0
      return Object.fromEntries(
        keys.map((key, i): [string, readonly [Snapshot, ...Array<Snapshot>]] => {
          const [first, ...rest] = snapshots.slice(from, (from += members[i]!.accounts.length))
          return [key, [first!, ...rest]]
        })
      ) as Effect.Success<Policy<M>["snapshot"]>
    })
  }
}
