/** A step over books that others share cannot be taken back, so no transaction can have it as a part. */
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type * as Store from "../../BudgetStore.ts"
import { inTransaction } from "../memory/transaction.ts"

/** Why a step is refused inside `Effect.tx`, `undefined` outside of it. */
export const refused = (
  fiber: Fiber.Fiber<unknown, unknown>,
  [account]: ReadonlyArray<Store.Account>
): Error | undefined =>
  inTransaction(fiber)
    ? new Error(
        `Budget "${account!.name}": a reservation or charge inside Effect.tx is refused, since a transaction may run more than ` +
          `once. The books are shared with other processes, so no transaction can join them: reserve outside of it.`
      )
    : undefined

export const outside = <A, E, R>(
  accounts: ReadonlyArray<Store.Account>,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) => {
    const error = refused(fiber, accounts)
    return error === undefined ? effect : Effect.die(error)
  })
