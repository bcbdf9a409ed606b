/**
 * How much a request may answer, told to the model by whoever holds the budget.
 */
import { Context } from "effect"

/**
 * The most output tokens that a request may produce; `undefined`, which is the default, is no cap of ours. It is set by
 * `BudgetedLanguageModel` around each request, and read by models, which send it to their provider as `max_tokens` or
 * whatever it is called there. Reasoning counts as output. Tools that are called during the request do not see it.
 *
 * A lower one that is there already counts: `Effect.provideService(call, MaxOutputTokens, 200)` reserves, and asks for, at most 200.
 */
export const MaxOutputTokens = Context.Reference<number | undefined>("effect-budget/ai/MaxOutputTokens", {
  defaultValue: () => undefined
})
