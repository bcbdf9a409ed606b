/** A model by script under a budget, for the tests of what it is charged. */
import { assert } from "@effect/vitest"
import { Effect, Layer, Stream } from "effect"
import { AiError, LanguageModel, type Response } from "effect/ai"
import { Limit, TokenGuard } from "../../src/index.ts"
import { BudgetedLanguageModel, Estimator } from "../../src/ai/index.ts"

/** A call is held at 100 tokens of input and 50 of output. */
export const estimator = Layer.succeed(
  Estimator.Estimator,
  Estimator.Estimator.of({
    estimate: ({ maxOutputTokens, prompt }) => {
      const text = prompt.content.flatMap((message) =>
        typeof message.content === "string"
          ? [message.content]
          : message.content.map((p) => (p.type === "text" ? p.text : ""))
      )
      // What was delivered is counted by its letters.
      const delivered = text.join("").startsWith("delta")
      return Effect.succeed({
        input: delivered ? text.join("").length : 100,
        output: Math.min(maxOutputTokens ?? 50, 50)
      })
    },
    observe: () => Effect.void
  })
)

export const finish = (input: number | undefined, output: number | undefined): Response.FinishPartEncoded => ({
  type: "finish",
  reason: "stop",
  usage: {
    inputTokens: { total: input, uncached: input, cacheRead: undefined, cacheWrite: undefined },
    outputTokens: { total: output, text: output, reasoning: undefined }
  },
  response: undefined
})

export interface Script {
  readonly answer?: Effect.Effect<Array<Response.PartEncoded>, AiError.AiError> | undefined
  readonly stream?: Stream.Stream<Response.StreamPartEncoded, AiError.AiError> | undefined
}

export const text = (answer: string, input: number | undefined, output: number | undefined) =>
  Effect.succeed<Array<Response.PartEncoded>>([{ type: "text", text: answer }, finish(input, output)])

export const fake = (script: Script) =>
  Layer.effect(
    LanguageModel.LanguageModel,
    LanguageModel.make({
      generateText: () => script.answer ?? text("hello", 80, 20),
      streamText: () => script.stream ?? Stream.empty
    })
  )

export const aiError = (reason: AiError.AiErrorReason) =>
  AiError.make({ module: "Fake", method: "generateText", reason })

export const budgeted = (
  script: Script,
  limit: Limit.Limit,
  options: Partial<BudgetedLanguageModel.Options<number, BudgetedLanguageModel.Use>> = {}
) =>
  BudgetedLanguageModel.layer(TokenGuard, {
    amounts: ({ tokens }) => tokens,
    maxOutputTokens: 50,
    ...options
  }).pipe(Layer.provide([fake(script), estimator]), Layer.provideMerge(Layer.fresh(TokenGuard.layer({ limit }))))

/** What the budget was charged, with nothing held any more. */
export const charged = Effect.gen(function* () {
  const tokens = yield* TokenGuard
  const { charged, ledgers } = yield* tokens.snapshot
  assert.strictEqual(ledgers[0].held, 0)
  return charged
})

export const cap = Limit.capacity(1_000)
export const ask = LanguageModel.generateText({ prompt: "hi" })
export const delta = (text: string): Response.StreamPartEncoded => ({ type: "text-delta", id: "1", delta: text })
export const start: Response.StreamPartEncoded = { type: "text-start", id: "1" }
