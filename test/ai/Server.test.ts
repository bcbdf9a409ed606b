import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Layer, Redacted, Schedule, Stream } from "effect"
import { type AiError, LanguageModel, Prompt } from "effect/ai"
import * as OpenAiModel from "../../examples/demo/OpenAiModel.ts"
import { BudgetedLanguageModel, Estimator } from "../../src/ai/index.ts"
import { Limit, TokenGuard } from "../../src/index.ts"
import {
  answer,
  hangUp,
  type Handler,
  OpenAiServer,
  rateLimited,
  refusal,
  script,
  words
} from "../utils/openAiServer.ts"

const MAX_OUTPUT = 30

/** The budgeted model in front of a real server on loopback. */
const against = (handler: Handler) =>
  BudgetedLanguageModel.layer(TokenGuard, { amounts: ({ tokens }) => tokens, maxOutputTokens: MAX_OUTPUT }).pipe(
    Layer.provide(
      Layer.unwrap(
        Effect.map(OpenAiServer, ({ baseUrl }) =>
          OpenAiModel.layer({ baseUrl, model: "local", apiKey: Redacted.make("none") })
        )
      )
    ),
    Layer.provideMerge(OpenAiServer.layer(handler)),
    Layer.provideMerge([
      Layer.fresh(TokenGuard.layer({ limit: Limit.capacity(10_000) })),
      Estimator.layerBytes({ maxOutputTokens: MAX_OUTPUT })
    ])
  )

const ask = LanguageModel.generateText({ prompt: "hello there" })
const listen = Stream.runDrain(LanguageModel.streamText({ prompt: "hello there" }))

const charged = Effect.gen(function* () {
  const { charged, ledgers } = yield* (yield* TokenGuard).snapshot
  assert.strictEqual(ledgers[0].held, 0)
  return charged
})

/** What the server says it did. */
const billed = Effect.map(OpenAiServer, ({ exchanges }) =>
  exchanges.reduce((sum, exchange) => sum + exchange.promptTokens + exchange.generated, 0)
)

describe("against a real server", () => {
  it.live("a call and a stream are charged what the server counts, cache and reasoning included once", () =>
    Effect.gen(function* () {
      yield* ask
      yield* listen
      assert.strictEqual(yield* charged, yield* billed)
      // The ceiling that was reserved is what the server is asked to keep to.
      const { exchanges } = yield* OpenAiServer
      assert.deepStrictEqual(
        exchanges.map(({ body }) => body.max_tokens),
        [MAX_OUTPUT, MAX_OUTPUT]
      )
    }).pipe(Effect.provide(against(() => Effect.succeed(answer(words(9), { cachedTokens: 4, reasoningTokens: 5 })))))
  )

  for (const [name, refused] of [
    ["429", rateLimited("7")],
    ["401", refusal(401, "no key")],
    ["400", refusal(400, "bad")],
    ["no answer at all", hangUp]
  ] as const) {
    it.live(`${name} costs nothing, of a call and of a stream`, () =>
      Effect.gen(function* () {
        const error: AiError.AiError = yield* Effect.flip(ask)
        if (name === "429") assert.strictEqual(Duration.toSeconds(error.retryAfter!), 7)
        yield* Effect.flip(listen)
        assert.strictEqual(yield* charged, 0)
      }).pipe(Effect.provide(against(script(refused, refused))))
    )
  }

  it.live("each attempt of a retry is a request of its own", () =>
    Effect.gen(function* () {
      yield* Effect.retry(ask, Schedule.recurs(3))
      assert.strictEqual((yield* OpenAiServer).exchanges.length, 3)
      assert.isAbove(yield* charged, 0)
    }).pipe(Effect.provide(against(script(rateLimited("0"), rateLimited("0"), answer(words(3))))))
  )

  it.live("usage that cannot be true is not believed", () =>
    Effect.gen(function* () {
      const held = yield* (yield* Estimator.Estimator).estimate({
        prompt: Prompt.make("hello there"),
        maxOutputTokens: MAX_OUTPUT
      })
      yield* Effect.exit(listen)
      // Nothing that was delivered is forgotten, whatever is told.
      assert.isAtLeast(yield* charged, 3)
      assert.isAtMost(yield* charged, held.input + held.output)
    }).pipe(
      Effect.provide(
        against(
          script(
            answer(words(3), {
              report: (usage) => ({ ...usage, prompt_tokens: -1, completion_tokens: -1, total_tokens: -2 })
            })
          )
        )
      )
    )
  )

  it.live("a stream that breaks off is charged what came, and an end without usage too", () =>
    Effect.gen(function* () {
      assert.isTrue(Exit.isFailure(yield* Effect.exit(listen)))
      const first = yield* charged
      assert.isAtLeast(first, 4)
      yield* listen
      assert.isAtLeast((yield* charged) - first, 6)
    }).pipe(
      Effect.provide(
        against(script(answer(words(9), { disconnectAfter: 4 }), answer(words(6), { report: () => undefined })))
      )
    )
  )
})
