/**
 * A budget of LLM tokens: reserve an estimate, then reconcile it with the usage that the provider reports.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Limit, TokenGuard } from "effect-budget"
 *
 * const callModel = Effect.succeed({ prompt: 900, completion: 350 })
 *
 * const program = Effect.gen(function*() {
 *   const tokens = yield* TokenGuard
 *   yield* tokens.withReservation(4_000, (reservation) =>
 *     Effect.flatMap(callModel, (usage) => tokens.recordUsage(reservation, usage)))
 *   return yield* tokens.tokensConsumed
 * })
 *
 * const layer = TokenGuard.layer({ limit: Limit.rate({ amount: 2_000_000, per: "1 minute" }) })
 * console.log(await Effect.runPromise(Effect.provide(program, layer))) // 1250
 * ```
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type Budget, BudgetFace, open, type Options } from "./Budget.ts"
import type { BudgetStore } from "./BudgetStore.ts"
import { saturate } from "./internal/amount.ts"
import { face, type FaceClass } from "./internal/face/service.ts"
import type * as Reservation from "./Reservation.ts"

/** The usage that a provider reported, in tokens. It is not trusted: see `recordUsage`. */
export interface Usage {
  readonly prompt: number | undefined
  readonly completion: number | undefined
}

/** A budget of tokens. */
export interface TokenBudget extends Budget {
  /**
   * Settles a reservation by the usage that the provider reported, whether less or more than the hold. Fractions are rounded up,
   * and larger numbers count as 2^53 - 1. A part that is missing, negative or not a number is unknown, and unknown is never zero:
   * the charge is then the known part, but at least the hold. A reservation of another budget settles that other budget.
   */
  readonly recordUsage: (
    reservation: Reservation.Reservation<number>,
    usage: Usage | undefined
  ) => Effect.Effect<Reservation.Settlement<number>>
  /** The sum of all tokens charged, over all epochs. */
  readonly tokensConsumed: Effect.Effect<number>
}

/** Opens a token budget in the `BudgetStore` of the context. A limit that cannot be used dies with a `RangeError`. */
export const make = (
  options: Options & { readonly name: string }
): Effect.Effect<TokenBudget, never, BudgetStore | Scope.Scope> =>
  Effect.map(open(options), (layout) => new TokenFace(layout))

class TokenFace extends BudgetFace implements TokenBudget {
  get recordUsage(): TokenBudget["recordUsage"] {
    return (reservation, usage) => Effect.suspend(() => reservation.commit(charge(reservation.amount, usage)))
  }

  get tokensConsumed(): Effect.Effect<number> {
    return Effect.map(this.snapshot, ({ charged }) => charged)
  }
}

/**
 * The charge for a reported usage and a reservation of `held` tokens, by the rule of `recordUsage`. For a policy, which settles
 * several budgets at once.
 */
export const charge = (held: number, usage: Usage | undefined): number => {
  const prompt = saturate(usage?.prompt)
  const completion = saturate(usage?.completion)
  const known = Math.min((prompt ?? 0) + (completion ?? 0), Number.MAX_SAFE_INTEGER)
  return prompt === undefined || completion === undefined ? Math.max(known, held) : known
}

/** A service class for a token budget: `class Tokens extends TokenBudget.Service<Tokens>()("app/Tokens") {}`. */
export const Service =
  <Self>() =>
  <const Id extends string>(id: Id): FaceClass<Self, Id, TokenBudget, Options> =>
    face(id, make)

/** The budget of the tokens that a program uses. */
export class TokenGuard extends Service<TokenGuard>()("effect-budget/TokenGuard") {}
