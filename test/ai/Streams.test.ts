import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Redacted, Ref, Stream } from "effect"
import { LanguageModel, Prompt } from "effect/ai"
import { BudgetedLanguageModel, Estimator } from "../../src/ai/index.ts"
import { Limit, TokenGuard } from "../../src/index.ts"
import * as OpenAiModel from "../../examples/demo/OpenAiModel.ts"
import { answer, OpenAiServer, words } from "../utils/openAiServer.ts"
import { make as makeRandom } from "../utils/random.ts"

const STREAMS = 1_000
const CONCURRENCY = 50
const MAX_OUTPUT = 40

/** How a stream ends. */
type Cut = "none" | "left" | "interrupted" | "disconnected"

interface Plan {
  readonly cut: Cut
  readonly length: number
  /** After so many chunks. */
  readonly after: number
  /** Whether the server tells the usage. */
  readonly reports: boolean
}

const plansOf = (seed: number): ReadonlyArray<Plan> => {
  const random = makeRandom(seed)
  return Array.from({ length: STREAMS }, () => {
    const length = random.int(3, MAX_OUTPUT)
    return {
      cut: random.pick(["none", "left", "interrupted", "disconnected"] as const),
      length,
      after: random.int(1, length - 1),
      reports: random.chance(0.9)
    }
  })
}

interface Seen {
  readonly source: BudgetedLanguageModel.Source | undefined
  readonly charged: number
  readonly delivered: number
}

const nameOf = (i: number) => `stream number ${i}`

describe("a thousand streams, cut at random", () => {
  it.live("charge what the server says it delivered, within the bound for what nobody can know", () =>
    Effect.gen(function* () {
      const plans = plansOf(1)
      const server = yield* OpenAiServer
      const tokens = yield* TokenGuard
      const inner = yield* LanguageModel.LanguageModel
      const estimator = yield* Estimator.Estimator

      const one = Effect.fnUntraced(function* (i: number) {
        const plan = plans[i]!
        const charge = yield* Deferred.make<Omit<Seen, "delivered">>()
        const delivered = yield* Ref.make(0)
        const reached = yield* Deferred.make<void>()
        const layer = BudgetedLanguageModel.layer(TokenGuard, {
          amounts: ({ tokens }) => tokens,
          maxOutputTokens: MAX_OUTPUT,
          onCharge: ({ settlement, source }) =>
            Effect.asVoid(Deferred.succeed(charge, { source, charged: settlement.charged }))
        }).pipe(
          Layer.provide(Layer.succeed(LanguageModel.LanguageModel, inner)),
          Layer.provide(Layer.succeed(TokenGuard, tokens)),
          Layer.provide(Layer.succeed(Estimator.Estimator, estimator))
        )
        const deltas = LanguageModel.streamText({ prompt: nameOf(i) }).pipe(
          Stream.filter((part) => part.type === "text-delta"),
          Stream.tap(() =>
            Effect.flatMap(
              Ref.updateAndGet(delivered, (n) => n + 1),
              (n) => (n >= plan.after ? Deferred.succeed(reached, undefined) : Effect.void)
            )
          )
        )
        const run = Stream.runDrain(plan.cut === "left" ? Stream.take(deltas, plan.after) : deltas).pipe(
          Effect.provide(layer)
        )
        const fiber = yield* Effect.forkChild(run)
        if (plan.cut === "interrupted") {
          yield* Effect.raceFirst(Deferred.await(reached), Fiber.await(fiber))
          yield* Fiber.interrupt(fiber)
        }
        const exit = yield* Fiber.await(fiber)
        if (plan.cut === "none") assert.isTrue(Exit.isSuccess(exit))
        if (plan.cut === "disconnected") assert.isTrue(Exit.isFailure(exit))
        return { ...(yield* Deferred.await(charge)), delivered: yield* Ref.get(delivered) } satisfies Seen
      })

      const seen = yield* Effect.forEach(plans, (_, i) => one(i), { concurrency: CONCURRENCY })
      const inputs = yield* Effect.forEach(plans, (_, i) => inputOf(estimator, nameOf(i)))

      // No hold is open, and the books are the sum of the settlements.
      const { charged, ledgers } = yield* tokens.snapshot
      assert.strictEqual(ledgers[0].held, 0)
      assert.strictEqual(
        charged,
        seen.reduce((sum, call) => sum + call.charged, 0)
      )

      let known = 0
      let off = 0
      let bound = 0
      for (const exchange of server.exchanges) {
        yield* Deferred.await(exchange.ended)
        const i = plans.findIndex((_, i) => exchange.body.messages[0].content === nameOf(i))
        const call = seen[i]!
        const billed = exchange.promptTokens + exchange.generated
        if (call.source === "reported") {
          assert.strictEqual(call.charged, billed)
          known++
          continue
        }
        assert.strictEqual(call.source, "delivered")
        // Above by what the estimate of the input and the count of the text are too high, below by what was on its way.
        const above =
          inputs[i]! - exchange.promptTokens + (yield* inputOf(estimator, " word".repeat(call.delivered + 1)))
        const below = exchange.generated - call.delivered
        assert.isAtMost(call.charged, billed + above)
        assert.isAtLeast(call.charged, billed - below)
        off += Math.abs(call.charged - billed)
        bound += above + Math.max(0, below)
      }
      assert.strictEqual(server.exchanges.length, STREAMS)
      assert.isAbove(known, STREAMS / 8)
      assert.isBelow(known, STREAMS)
      assert.isAtMost(off, bound)
    }).pipe(
      Effect.provide(
        Layer.unwrap(
          Effect.map(OpenAiServer, ({ baseUrl }) =>
            OpenAiModel.layer({ baseUrl, model: "local", apiKey: Redacted.make("none") })
          )
        ).pipe(
          Layer.provideMerge(
            OpenAiServer.layer(({ body }) => {
              const plan = plansOf(1).find((_, i) => body.messages[0].content === nameOf(i))!
              return Effect.succeed(
                answer(words(plan.length), {
                  ...(plan.cut === "disconnected" ? { disconnectAfter: plan.after } : undefined),
                  ...(plan.reports ? undefined : { report: () => undefined })
                })
              )
            })
          ),
          Layer.provideMerge([
            TokenGuard.layer({ limit: Limit.capacity(10_000_000) }),
            Estimator.layerTokenizer({ maxOutputTokens: MAX_OUTPUT }).pipe(Layer.provide(Estimator.layerGptTokenizer()))
          ])
        )
      )
    )
  )
})

const inputOf = (estimator: Estimator.Estimator["Service"], prompt: string) =>
  Effect.map(estimator.estimate({ prompt: Prompt.make(prompt), maxOutputTokens: 1 }), ({ input }) => input)
