/** Whether a fiber is inside `Effect.tx`. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"

// The latest context without a transaction. Consecutive steps mostly have the same context.
let plain: Context.Context<never> | undefined

/** A finished transaction stays in the context of fibers and finalizers made inside it, so the test is whether `tx` joins it. */
export const inTransaction = (fiber: Fiber.Fiber<unknown, unknown>): boolean => {
  if (fiber.context === plain) return false
  const inherited = Context.getOrUndefined(fiber.context, Effect.Transaction)
  if (inherited !== undefined) {
    return (
      Effect.runSync(Effect.provideService(Effect.tx(Effect.Transaction), Effect.Transaction, inherited)) === inherited
    )
  }
  plain = fiber.context
  return false
}

/** The defect of a step that would be repeated whenever its transaction runs again. */
export const nestedError = (budget: string, what: string): Error =>
  new Error(
    `Budget "${budget}": ${what} inside Effect.tx is refused, since a transaction may run more than once. ` +
      `Use reserveTx outside of it and pass the transaction as its "alongside".`
  )
