/** The faces over one limit, as one: for what must hold whichever of them a program uses. */
import { Context, Effect, Layer, type Scope } from "effect"
import {
  Budget,
  type BudgetError,
  BudgetGuard,
  BudgetPool,
  type BudgetStore,
  type Limit,
  Policy,
  type Reservation,
  TokenBudget,
  Usd
} from "../../src/index.ts"
import { open as openQuotas, resource } from "../utils/quotas.ts"

class Inner extends Budget.Service<Inner>()("faces/Inner") {}
class Single extends Policy.Service<Single>()("faces/Single", { inner: Inner }) {}
class Nested extends Policy.Service<Nested>()("faces/Nested", { single: Single }) {}
class Plain extends Budget.Service<Plain>()("faces/Plain") {}
class Guard extends BudgetGuard.Service<Guard>()("faces/Guard") {}
class Tokens extends TokenBudget.Service<Tokens>()("faces/Tokens") {}
class Pool extends BudgetPool.Service<Pool>()("faces/Pool") {}

type Failure = BudgetError.BudgetExceeded | BudgetError.FailedReservation

/** A hold, in one number. */
interface Held {
  readonly commit: (actual: number) => Effect.Effect<unknown>
  readonly progress: (spent: number) => Effect.Effect<void>
  readonly extend: (more: number) => Effect.Effect<void, Failure>
}

/** The books of the limit. */
interface Amounts extends Pick<BudgetStore.LedgerSnapshot, "available" | "granted" | "held" | "spent"> {
  readonly waiters: number
}

/** What can be reserved, with one number for its amount, and the books behind it. */
export interface Face {
  readonly reserve: (amount: number, options?: Reservation.Options) => Effect.Effect<Held, Failure, Scope.Scope>
  /** Whether the amount is granted without waiting; it is charged. */
  readonly tries: (amount: number) => Effect.Effect<boolean>
  readonly books: Effect.Effect<Amounts>
  readonly setLimit: (limit: Limit.Limit) => Effect.Effect<void>
}

const build = <I, S, E>(layer: Layer.Layer<I, E>, key: Context.Key<I, S>): Effect.Effect<S, E, Scope.Scope> =>
  Effect.map(Layer.build(layer), Context.get(key))

/** An amount in the terms of a face. */
const inTerms = <A>(of: Reservation.TryReservable<A>, amount: (n: number) => A): Pick<Face, "reserve" | "tries"> => ({
  reserve: (n, options) =>
    Effect.map(of.reserve(amount(n), options), (reservation) => ({
      commit: (actual) => reservation.commit(amount(actual)),
      progress: (spent) => reservation.progress(amount(spent)),
      extend: (more) => reservation.extend(amount(more))
    })),
  tries: (n) => Effect.scoped(Effect.map(of.tryReserve(amount(n)), ({ _tag }) => _tag === "Some"))
})

const same = (n: number): number => n

const booksOf = ({ setLimit, snapshot }: Budget.Books): Pick<Face, "books" | "setLimit"> => ({
  books: Effect.map(snapshot, ({ ledgers: [{ available, granted, held, spent }], waiters }) => ({
    available,
    granted,
    held,
    spent,
    waiters
  })),
  setLimit: (limit) => setLimit(limit)
})

type Enforcement = BudgetStore.Enforcement
type Open = (limit: Limit.Limit, enforcement?: Enforcement) => Effect.Effect<Face, never, Scope.Scope>

/** Opens each face that can be over any one limit. */
export const faces: ReadonlyArray<readonly [name: string, open: Open]> = [
  [
    "a Budget",
    (limit, enforcement) =>
      Effect.map(build(Plain.layer({ limit, enforcement }), Plain), (budget) => ({
        ...inTerms(budget, same),
        ...booksOf(budget)
      }))
  ],
  [
    "a TokenBudget",
    (limit, enforcement) =>
      Effect.map(build(Tokens.layer({ limit, enforcement }), Tokens), (budget) => ({
        ...inTerms(budget, same),
        ...booksOf(budget)
      }))
  ],
  [
    "a BudgetGuard",
    (limit, enforcement) =>
      Effect.map(build(Guard.layer({ limit, enforcement }), Guard), (guard) => ({
        reserve: guard.reserve,
        // The pair holds what it took: that is as good as spent.
        tries: guard.tryReserve,
        ...booksOf(guard)
      }))
  ],
  [
    "a Policy",
    (limit, enforcement) =>
      Effect.map(
        Layer.build(Layer.provideMerge(Single.layer, Inner.layer({ limit, enforcement }))),
        (services): Face => ({
          ...inTerms(Context.get(services, Single), (inner) => ({ inner })),
          ...booksOf(Context.get(services, Inner))
        })
      )
  ],
  [
    "a Policy of a Policy",
    (limit, enforcement) =>
      Effect.map(
        Layer.build(
          Nested.layer.pipe(Layer.provideMerge(Single.layer), Layer.provideMerge(Inner.layer({ limit, enforcement })))
        ),
        (services): Face => ({
          ...inTerms(Context.get(services, Nested), (inner) => ({ single: { inner } })),
          ...booksOf(Context.get(services, Inner))
        })
      )
  ],
  [
    "a QuotaToken",
    (limit, enforcement) =>
      Effect.gen(function* () {
        const quota = yield* Effect.orDie(openQuotas({ units: resource(limit, enforcement) }))
        const token = yield* Effect.orDie(quota.acquire("units", { expectedUse: 1 }))
        return {
          reserve: token.reserve,
          tries: (amount) =>
            Effect.match(
              token.withReservation(amount, () => Effect.void, { timeout: 0 }),
              granted
            ),
          books: Effect.map(quota.usage, ({ units }) => units!),
          setLimit: (limit) => Effect.orDie(quota.update("units", resource(limit, enforcement)))
        }
      })
  ]
]

const granted = { onFailure: () => false, onSuccess: () => true }

/** A pool, by its cap on the total. */
export const openPool = (
  caps: BudgetPool.Caps,
  options: Omit<BudgetPool.Options, "caps"> = {}
): Effect.Effect<BudgetPool.BudgetPool, never, Scope.Scope> => build(Pool.layer({ ...options, caps }), Pool)

export const usage = (input: number, output: number, cost = 0): BudgetPool.Usage => ({
  input,
  output,
  cost: Usd.nanos(cost)
})
