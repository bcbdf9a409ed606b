/**
 * Degrades before it stops: a warning at 80 % of the budget, then a cheaper model when the budget of the first denies, by an
 * `ExecutionPlan`, and a stop only when that is used up too.
 *
 *     npm run --silent build && node examples/degrade.ts
 */
import { Console, Effect, ExecutionPlan, Layer, Option, Stream } from "effect"
import { LanguageModel } from "effect/ai"
import { Budget, Limit, Usd } from "effect-budget"
import { BudgetedLanguageModel, Estimator, Pricing } from "effect-budget/ai"

class LargeModelDollars extends Budget.Service<LargeModelDollars>()("app/LargeModelDollars") {}
class SmallModelDollars extends Budget.Service<SmallModelDollars>()("app/SmallModelDollars") {}

/** Stands for a provider's layer. Each answer takes 1,000 tokens of input and 500 of output. */
const layerModel = (name: string) =>
  Layer.effect(
    LanguageModel.LanguageModel,
    LanguageModel.make({
      generateText: () =>
        Effect.succeed([
          { type: "text", text: `an answer of the ${name} model` },
          {
            type: "finish",
            reason: "stop",
            response: undefined,
            usage: {
              inputTokens: { total: 1_000, uncached: 1_000, cacheRead: 0, cacheWrite: 0 },
              outputTokens: { total: 500, text: 500, reasoning: 0 }
            }
          }
        ]),
      streamText: () => Stream.empty
    })
  )

/** Dollars for a million tokens, made up. A real program takes them from `Pricing.layer`. */
const prices = Pricing.layerTable({
  large: { input: "10", output: "40" },
  small: { input: "1", output: "4" }
})

const options = { maxOutputTokens: 1_000, amounts: ({ cost }: BudgetedLanguageModel.PricedUse) => cost }
const shared = [prices, Estimator.layerBytes({ maxOutputTokens: 1_000 })]

const large = BudgetedLanguageModel.layerPriced(LargeModelDollars, { ...options, model: "large" }).pipe(
  Layer.provide([layerModel("large"), ...shared])
)
const small = BudgetedLanguageModel.layerPriced(SmallModelDollars, { ...options, model: "small" }).pipe(
  Layer.provide([layerModel("small"), ...shared])
)

const plan = ExecutionPlan.make({ provide: large }, { provide: small })

export const program = Effect.gen(function* () {
  const dollars = yield* LargeModelDollars
  yield* Effect.forkChild(
    Stream.runForEach(dollars.thresholds([0.8]), ({ fraction, snapshot }) =>
      Console.log(`${fraction * 100} % of ${snapshot.budget} is used, ${Usd.format(snapshot.available)} is left`)
    )
  )
  for (let i = 1; ; i++) {
    const { text } = yield* LanguageModel.generateText({ prompt: "Which day is it?" }).pipe(
      Effect.withExecutionPlan(plan)
    )
    yield* Console.log(`${i}: ${text}`)
    yield* Effect.yieldNow
  }
}).pipe(
  Effect.catchTag("AiError", (error) =>
    Option.match(BudgetedLanguageModel.denialOf(error), {
      onNone: () => Effect.fail(error),
      onSome: ({ message }) => Console.log(`stopped: ${message}`)
    })
  ),
  Effect.provide([
    LargeModelDollars.layer({ limit: Limit.capacity(Usd.dollars("0.30")) }),
    SmallModelDollars.layer({ limit: Limit.capacity(Usd.dollars("0.02")) })
  ])
)

if (import.meta.main) await Effect.runPromise(program)
