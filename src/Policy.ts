/**
 * Several budgets as one: all are reserved in one step nobody can observe half-done, or none is. Each is settled with its own
 * actual amount. A wait for some of them holds none of them, but stands in the queue of each: who comes after it waits behind
 * it, also for a budget that has room. Give waits a `timeout`, or the budgets `order: "firstFit"`.
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
import type * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { Snapshot } from "./BudgetStore.ts"
import { type Layout, operations, type Reservable, tryReserve, TypeId } from "./internal/reservable.ts"
import type * as Reservation from "./Reservation.ts"

/** The budgets of a policy, by the keys that its amounts and settlements use. */
export type Members = Readonly<Record<string, Context.Key<unknown, Reservation.AnyReservable>>>

/** An amount of each member. */
export type Amounts<M extends Members> = { readonly [K in keyof M]: Reservation.Amount<M[K]["Service"]> }

/** Several budgets as one. */
export interface Policy<in out M extends Members> extends Reservation.Reservable<Amounts<M>> {
  /** Reserves for the current scope if that can be done now: never waits, and `None` is the soft no. */
  readonly tryReserve: (
    amounts: Amounts<M>,
    options?: Reservation.Options
  ) => Effect.Effect<Option.Option<Reservation.Reservation<Amounts<M>>>, never, Scope.Scope>
  /** The budgets of each member (one for most faces), all at the same moment. */
  readonly snapshot: Effect.Effect<{ readonly [K in keyof M]: readonly [Snapshot, ...Array<Snapshot>] }>
}

/**
 * A service class for a policy. Its layer needs the members' layers; `Layer.provideMerge` instead of `Layer.provide` gives the
 * program the same budgets as the policy.
 */
export interface PolicyClass<
  in out Self,
  in out Id extends string,
  in out M extends Members
> extends Context.ServiceClass<Self, Id, Policy<M>> {
  readonly layer: Layer.Layer<Self, never, M[keyof M]["Identifier"]>
}

/**
 * Makes a policy of the members in the context. A policy without members, with the same budget twice (also by way of another
 * policy), or over budgets of different stores dies with an error that says so.
 */
export const make = <const M extends Members>(
  name: string,
  members: M
): Effect.Effect<Policy<M>, never, M[keyof M]["Identifier"]> =>
  Effect.map(Effect.context<M[keyof M]["Identifier"]>(), (context) => {
    const keys: ReadonlyArray<keyof M & string> = Object.keys(members)
    const layouts = keys.map((key) => Context.getUnsafe(context, members[key]!)[TypeId])
    const layout = combine<M>(name, keys, layouts)
    const snapshot = Effect.map(layout.store.read(layout.accounts), (snapshots) => {
      let from = 0
      return Object.fromEntries(
        keys.map((key, i): [string, readonly [Snapshot, ...Array<Snapshot>]] => {
          const [first, ...rest] = snapshots.slice(from, (from += layouts[i]!.accounts.length))
          return [key, [first!, ...rest]]
        })
      ) as Effect.Success<Policy<M>["snapshot"]>
    })
    return {
      ...operations(layout),
      tryReserve: (amounts, options) => tryReserve(layout, amounts, options),
      snapshot
    }
  })

/** `class Import extends Policy.Service<Import>()("app/Import", { rows: RowGuard, tokens: TokenGuard }) {}` */
export const Service =
  <Self>() =>
  <const Id extends string, const M extends Members>(id: Id, members: M): PolicyClass<Self, Id, M> => {
    const Key = Context.Service<Self, Policy<M>>()(id)
    return Object.assign(Key, { layer: Layer.effect(Key, make(id, members)) })
  }

const combine = <M extends Members>(
  name: string,
  keys: ReadonlyArray<keyof M & string>,
  layouts: ReadonlyArray<Layout>
): Reservable<Amounts<M>> => {
  const [first] = layouts
  if (first === undefined) throw new RangeError(`Policy "${name}" has no members: name at least one budget`)
  const accounts = layouts.flatMap((layout) => layout.accounts)
  accounts.forEach((account, i) => {
    if (accounts.indexOf(account) !== i) throw new RangeError(`Policy "${name}" has the budget "${account.name}" twice`)
  })
  if (layouts.some((layout) => layout.store !== first.store)) {
    throw new RangeError(`Policy "${name}" has budgets of different stores, which cannot be reserved in one step`)
  }
  // Each member's own layout is behind its key, so a member is only ever given its own amount.
  const members = layouts as ReadonlyArray<Reservable<Amounts<M>[keyof M]>>
  return {
    store: first.store,
    accounts,
    encode: (amounts, into, at, more) => {
      let k = at
      for (let i = 0; i < keys.length; i++) {
        members[i]!.encode(amounts[keys[i]!], into, k, more)
        k += members[i]!.accounts.length
      }
    },
    decode: (amounts, at) => {
      const decoded: Record<string, unknown> = {}
      let k = at
      for (let i = 0; i < keys.length; i++) {
        decoded[keys[i]!] = members[i]!.decode(amounts, k)
        k += members[i]!.accounts.length
      }
      return decoded as Amounts<M>
    }
  }
}
