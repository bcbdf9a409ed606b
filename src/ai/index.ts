/**
 * Language models under budget. It rests on `effect/ai`, which Effect marks as unstable; the prices come from the optional peer
 * `@pydantic/genai-prices`, the exact token counts from the optional peer `gpt-tokenizer`.
 */
export * as BudgetedLanguageModel from "./BudgetedLanguageModel.ts"
export * as BudgetedTool from "./BudgetedTool.ts"
export * as Estimator from "./Estimator.ts"
export { MaxOutputTokens } from "./MaxOutputTokens.ts"
export * as Pricing from "./Pricing.ts"
export * as TokenUsage from "./TokenUsage.ts"
