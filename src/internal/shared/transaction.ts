/** A step over books that others share cannot be taken back, so no transaction can have it as a part. */
import * as Effect from "effect/Effect"
import type * as Store from "../../BudgetStore.ts"
import { inTransaction } from "../runtime/transaction.ts"

/** The defect of a step inside `Effect.tx`. */
const nestedError = ([account]: ReadonlyArray<Store.Account>): Error =>
  new Error(
    `Budget "${account!.name}": a reservation or charge inside Effect.tx is refused, since a transaction may run more than ` +
      `once. The books are shared with other processes, so no transaction can join them: reserve outside of it.`
  )

export const assertOutside = (fiber: Store.AnyFiber, accounts: ReadonlyArray<Store.Account>): void => {
  if (inTransaction(fiber)) throw nestedError(accounts)
}

export const outside = <A, E, R>(
  accounts: ReadonlyArray<Store.Account>,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) => {
    assertOutside(fiber, accounts)
    return effect
  })

/** The defect of `reserveTx`. */
export const localBooksError = ([account]: ReadonlyArray<Store.Account>): Error =>
  new Error(`Budget "${account!.name}": reserveTx needs books in this process, which a transaction can join`)
