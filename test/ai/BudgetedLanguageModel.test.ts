import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, ExecutionPlan, Exit, Fiber, Latch, Layer, Option, Schema, Stream } from "effect"
import { AiError, Chat, LanguageModel, type Response, Tool, Toolkit } from "effect/ai"
import { TestClock } from "effect/testing"
import {
  Budget,
  BudgetExceeded,
  BudgetGuard,
  FailedReservation,
  Limit,
  Policy,
  TokenGuard,
  Usd
} from "../../src/index.ts"
import { BudgetedLanguageModel, BudgetedTool, MaxOutputTokens, Pricing } from "../../src/ai/index.ts"
import { aiError, ask, budgeted, cap, charged, delta, estimator, fake, finish, start, text } from "./utils.ts"

describe("a call", () => {
  it.effect("holds the estimate and is charged what the provider reports", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const sources: Array<unknown> = []
      const layer = budgeted({ answer: Effect.andThen(Deferred.await(gate), text("hello", 80, 20)) }, cap, {
        onCharge: ({ settlement, source }) => Effect.sync(() => sources.push([source, settlement.refunded]))
      })
      yield* Effect.gen(function* () {
        const tokens = yield* TokenGuard
        const call = yield* Effect.forkChild(ask, { startImmediately: true })
        assert.strictEqual(yield* tokens.available, 850)
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual((yield* Fiber.join(call)).text, "hello")
        assert.strictEqual(yield* charged, 100)
        assert.deepStrictEqual(sources, [["reported", 50]])
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("that is refused says so in the channel of the model, and as a typed error", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(ask)
      assert.strictEqual(error.reason._tag, "QuotaExhaustedError")
      const denial = Option.getOrThrow(BudgetedLanguageModel.denialOf(error))
      assert.instanceOf(denial, BudgetExceeded)
      const typed = yield* Effect.flip(BudgetedLanguageModel.generateText({ prompt: "hi" }))
      assert.instanceOf(typed, BudgetExceeded)
      assert.strictEqual(typed._tag === "BudgetExceeded" && typed.requested, 150)
      const streamed = yield* Effect.flip(Stream.runDrain(BudgetedLanguageModel.streamText({ prompt: "hi" })))
      assert.instanceOf(streamed, BudgetExceeded)
      assert.strictEqual(yield* charged, 0)
    }).pipe(Effect.provide(budgeted({}, Limit.capacity(149))))
  )

  it.effect("that time will admit says when", () =>
    Effect.gen(function* () {
      yield* ask
      const error = yield* Effect.flip(ask)
      assert.strictEqual(error.reason._tag, "RateLimitError")
      assert.strictEqual(Duration.toMillis(error.retryAfter!), 50_000)
      yield* TestClock.adjust("50 seconds")
      yield* ask
    }).pipe(Effect.provide(budgeted({}, Limit.rate({ amount: 120, per: "1 minute", burst: 150 }))))
  )

  it.effect("whose wait times out keeps that error too", () =>
    Effect.gen(function* () {
      const tokens = yield* TokenGuard
      yield* tokens.reserve(100)
      const call = yield* Effect.forkChild(Effect.flip(BudgetedLanguageModel.generateText({ prompt: "hi" })), {
        startImmediately: true
      })
      yield* TestClock.adjust("1 second")
      assert.instanceOf(yield* Fiber.join(call), FailedReservation)
    }).pipe(
      Effect.provide(
        BudgetedLanguageModel.layer(TokenGuard, { amounts: ({ tokens }) => tokens, maxOutputTokens: 50 }).pipe(
          Layer.provide([fake({}), estimator]),
          Layer.provideMerge(
            TokenGuard.layer({ limit: Limit.capacity(200), enforcement: "throttle", timeout: "1 second" })
          )
        )
      )
    )
  )

  for (const reason of [
    new AiError.RateLimitError({}),
    new AiError.QuotaExhaustedError({}),
    new AiError.AuthenticationError({ kind: "InvalidKey" }),
    new AiError.InvalidRequestError({})
  ]) {
    it.effect(`that the provider turned away costs nothing: ${reason._tag}`, () =>
      Effect.gen(function* () {
        yield* Effect.flip(ask)
        assert.strictEqual(yield* charged, 0)
      }).pipe(Effect.provide(budgeted({ answer: Effect.fail(aiError(reason)) }, cap)))
    )
  }

  it.effect("that failed on the way is charged what was held", () =>
    Effect.gen(function* () {
      yield* Effect.flip(ask)
      assert.strictEqual(yield* charged, 150)
    }).pipe(
      Effect.provide(
        budgeted({ answer: Effect.fail(aiError(new AiError.InternalProviderError({ description: "boom" }))) }, cap)
      )
    )
  )

  it.effect("that is interrupted in flight is charged what was held; before it was sent, nothing", () =>
    Effect.gen(function* () {
      const call = yield* Effect.forkChild(ask, { startImmediately: true })
      yield* Fiber.interrupt(call)
      assert.strictEqual(yield* charged, 150)
      const tokens = yield* TokenGuard
      yield* tokens.reserve(800)
      const waiting = yield* Effect.forkChild(ask, { startImmediately: true })
      yield* Fiber.interrupt(waiting)
      assert.strictEqual((yield* tokens.snapshot).charged, 150)
    }).pipe(Effect.provide(budgeted({ answer: Effect.never }, cap)))
  )

  it.effect("whose usage is missing is charged what was held", () =>
    Effect.gen(function* () {
      yield* ask
      assert.strictEqual(yield* charged, 150)
    }).pipe(Effect.provide(budgeted({ answer: text("hello", undefined, undefined) }, cap)))
  )

  it.effect("of which one side was reported is charged that, and what was held for the other", () =>
    Effect.gen(function* () {
      yield* ask
      assert.strictEqual(yield* charged, 450)
    }).pipe(Effect.provide(budgeted({ answer: text("hello", 400, undefined) }, cap)))
  )

  it.effect("is charged also when who is told of it dies", () =>
    Effect.gen(function* () {
      yield* Effect.exit(ask)
      assert.strictEqual(yield* charged, 100)
    }).pipe(Effect.provide(budgeted({}, cap, { onCharge: () => Effect.die(new Error("told")) })))
  )

  it.effect("whose object cannot be decoded is charged what was reported", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(
        LanguageModel.generateObject({ prompt: "hi", schema: Schema.Struct({ answer: Schema.Number }) })
      )
      assert.strictEqual(error.reason._tag, "StructuredOutputError")
      assert.strictEqual(yield* charged, 100)
    }).pipe(Effect.provide(budgeted({ answer: text("no json", 80, 20) }, cap)))
  )

  it.effect("whose tool fails like a provider is not refunded", () =>
    Effect.gen(function* () {
      const Fail = Tool.make("Fail", { parameters: Schema.Struct({}), success: Schema.String })
      const toolkit = yield* Toolkit.make(Fail).pipe(
        Effect.provide(Toolkit.make(Fail).toLayer({ Fail: () => Effect.fail(aiError(new AiError.RateLimitError({}))) }))
      )
      yield* Effect.flip(LanguageModel.generateText({ prompt: "hi", toolkit }))
      assert.strictEqual(yield* charged, 150)
    }).pipe(
      Effect.provide(
        budgeted(
          {
            answer: Effect.succeed<Array<Response.PartEncoded>>([
              { type: "tool-call", id: "1", name: "Fail", params: {} },
              finish(80, 20)
            ])
          },
          cap
        )
      )
    )
  )

  it.effect("passes on a prompt that can be read only once", () =>
    Effect.gen(function* () {
      let seen = 0
      const layer = BudgetedLanguageModel.layer(TokenGuard, {
        amounts: ({ tokens }) => tokens,
        maxOutputTokens: 50
      }).pipe(
        Layer.provide([
          Layer.effect(
            LanguageModel.LanguageModel,
            LanguageModel.make({
              generateText: ({ prompt }) => {
                seen = prompt.content.length
                return text("hello", 80, 20)
              },
              streamText: () => Stream.empty
            })
          ),
          estimator,
          TokenGuard.layer({ limit: cap })
        ])
      )
      const once = (function* () {
        yield { role: "user" as const, content: [{ type: "text" as const, text: "hi" }] }
      })()
      yield* Effect.provide(LanguageModel.generateText({ prompt: once }), layer)
      assert.strictEqual(seen, 1)
    })
  )

  it.effect("is fitted to what is left", () =>
    Effect.gen(function* () {
      let seen: number | undefined
      const layer = budgeted(
        {
          answer: Effect.gen(function* () {
            seen = yield* MaxOutputTokens
            return yield* text("hello", 80, 20)
          })
        },
        Limit.capacity(260),
        { minOutputTokens: 5 }
      )
      yield* Effect.gen(function* () {
        yield* ask
        assert.strictEqual(seen, 50)
        const tokens = yield* TokenGuard
        yield* tokens.reserve(40)
        yield* ask
        assert.strictEqual(seen, 20)
        yield* Effect.flip(ask)
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("100 of $0.10 against $5: exactly 50 run", () =>
    Effect.gen(function* () {
      const latch = yield* Latch.make(false)
      const layer = BudgetedLanguageModel.layer(Dollars, {
        amounts: () => Usd.dollars("0.10"),
        maxOutputTokens: 50
      }).pipe(
        Layer.provide([fake({ answer: Effect.andThen(latch.await, text("hello", 80, 20)) }), estimator]),
        Layer.provideMerge(Dollars.layer({ limit: Limit.capacity(Usd.dollars(5)) }))
      )
      yield* Effect.gen(function* () {
        const calls = yield* Effect.forEach(Array.from({ length: 100 }), () =>
          Effect.forkChild(Effect.exit(ask), { startImmediately: true })
        )
        yield* latch.open
        const exits = yield* Effect.forEach(calls, Fiber.join)
        assert.strictEqual(exits.filter(Exit.isSuccess).length, 50)
        const dollars = yield* Dollars
        assert.strictEqual(yield* dollars.available, 0)
      }).pipe(Effect.provide(layer))
    })
  )
})

class Dollars extends Budget.Service<Dollars>()("test/Dollars") {}
class Calls extends BudgetGuard.Service<Calls>()("test/Calls") {}
class All extends Policy.Service<All>()("test/All", { calls: Calls, tokens: TokenGuard, dollars: Dollars }) {}

describe("a stream", () => {
  const parts = [start, delta("delta one "), delta("two"), finish(90, 10)]
  const run = Stream.runDrain(LanguageModel.streamText({ prompt: "hi" }))

  it.effect("is charged what the provider reports at its end", () =>
    Effect.gen(function* () {
      yield* run
      assert.strictEqual(yield* charged, 100)
    }).pipe(Effect.provide(budgeted({ stream: Stream.fromIterable(parts) }, cap)))
  )

  it.effect("that is left early is charged its input and what was delivered", () =>
    Effect.gen(function* () {
      yield* Stream.runDrain(Stream.take(LanguageModel.streamText({ prompt: "hi" }), 2))
      assert.strictEqual(yield* charged, 100 + "delta one ".length)
    }).pipe(Effect.provide(budgeted({ stream: Stream.rechunk(Stream.fromIterable(parts), 1) }, cap)))
  )

  it.effect("that is interrupted is charged its input and what was delivered", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(run, { startImmediately: true })
      for (let i = 0; i < 20; i++) yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* charged, 100 + "delta one two".length)
    }).pipe(
      Effect.provide(
        budgeted(
          { stream: Stream.concat(Stream.rechunk(Stream.fromIterable(parts.slice(0, 3)), 1), Stream.never) },
          cap
        )
      )
    )
  )

  it.effect("that breaks off is charged its input and what was delivered, also by a network error", () =>
    Effect.gen(function* () {
      yield* Effect.flip(run)
      assert.strictEqual(yield* charged, 100 + "delta one ".length)
    }).pipe(
      Effect.provide(
        budgeted(
          {
            stream: Stream.concat(
              Stream.fromIterable(parts.slice(0, 2)),
              Stream.fail(
                aiError(
                  new AiError.NetworkError({ reason: "TransportError", method: "POST", url: "http://127.0.0.1/" })
                )
              )
            )
          },
          cap
        )
      )
    )
  )

  it.effect("that breaks off is charged what was held, if that is the policy", () =>
    Effect.gen(function* () {
      yield* Stream.runDrain(Stream.take(LanguageModel.streamText({ prompt: "hi" }), 2))
      assert.strictEqual(yield* charged, 150)
    }).pipe(
      Effect.provide(
        budgeted({ stream: Stream.rechunk(Stream.fromIterable(parts), 1) }, cap, { whenUsageUnknown: "hold" })
      )
    )
  )

  it.effect("whose reader fails is not taken for one that was turned away", () =>
    Effect.gen(function* () {
      const reason = new AiError.RateLimitError({})
      yield* Effect.flip(
        Stream.runDrain(
          Stream.mapEffect(LanguageModel.streamText({ prompt: "hi" }), () => Effect.fail(aiError(reason)))
        )
      )
      assert.strictEqual(yield* charged, 150)
    }).pipe(Effect.provide(budgeted({ stream: Stream.concat(Stream.fromIterable([start]), Stream.never) }, cap)))
  )

  it.effect("that began to answer was not turned away, whatever it says later", () =>
    Effect.gen(function* () {
      yield* Effect.flip(run)
      assert.strictEqual(yield* charged, 150)
    }).pipe(
      Effect.provide(
        budgeted(
          {
            stream: Stream.concat(Stream.fromIterable([start]), Stream.fail(aiError(new AiError.RateLimitError({}))))
          },
          cap
        )
      )
    )
  )

  it.effect("that delivered nothing is charged what was held; that was turned away, nothing", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(run, { startImmediately: true })
      for (let i = 0; i < 20; i++) yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* charged, 150)
    }).pipe(
      Effect.provide(budgeted({ stream: Stream.never }, cap)),
      Effect.andThen(
        Effect.gen(function* () {
          yield* Effect.flip(run)
          assert.strictEqual(yield* charged, 0)
        }).pipe(Effect.provide(budgeted({ stream: Stream.fail(aiError(new AiError.RateLimitError({}))) }, cap)))
      )
    )
  )
})

describe("with prices", () => {
  const priced = (model: string, limit: Limit.Limit) =>
    BudgetedLanguageModel.layerPriced(All, {
      model,
      maxOutputTokens: 50,
      amounts: ({ cost, tokens }) => ({ calls: 1, tokens, dollars: cost })
    }).pipe(
      Layer.provide([fake({}), estimator, All.layer, Pricing.layerTable({ known: { input: "1", output: "10" } })]),
      Layer.provideMerge([
        Calls.layer({ limit: Limit.capacity(10) }),
        Layer.fresh(TokenGuard.layer({ limit: cap })),
        Dollars.layer({ limit })
      ])
    )

  it.effect("all budgets of a policy are held in one step, and settled each with its own", () =>
    Effect.gen(function* () {
      yield* ask
      const [calls, tokens, dollars] = [yield* Calls, yield* TokenGuard, yield* Dollars]
      assert.strictEqual(yield* calls.available, 9)
      assert.strictEqual(yield* tokens.available, 900)
      // 80 tokens at $1 and 20 at $10 for a million: 80,000 + 200,000 nano-dollars.
      assert.strictEqual(yield* dollars.available, Usd.dollars(1) - 280_000)
    }).pipe(Effect.provide(priced("known", Limit.capacity(Usd.dollars(1)))))
  )

  it.effect("a model without one is refused", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(ask)
      assert.strictEqual(error.reason._tag, "QuotaExhaustedError")
      assert.strictEqual(Option.getOrThrow(BudgetedLanguageModel.denialOf(error))._tag, "UnknownPrice")
      assert.strictEqual(yield* charged, 0)
    }).pipe(Effect.provide(priced("unknown", Limit.capacity(Usd.dollars(1)))))
  )
})

describe("around it", () => {
  it.effect("each step of a chat is a request of its own", () =>
    Effect.gen(function* () {
      const chat = yield* Chat.empty
      yield* chat.generateText({ prompt: "one" })
      yield* chat.generateText({ prompt: "two" })
      assert.strictEqual(yield* charged, 200)
    }).pipe(Effect.provide(budgeted({}, cap)))
  )

  it.effect("an execution plan goes on with another model when the budget of the first is used up", () =>
    Effect.gen(function* () {
      const model = (answer: string, limit: Limit.Limit) =>
        BudgetedLanguageModel.layer(Calls, { amounts: () => 1, maxOutputTokens: 50 }).pipe(
          Layer.provide([fake({ answer: text(answer, 80, 20) }), estimator, Layer.fresh(Calls.layer({ limit }))])
        )
      const plan = ExecutionPlan.make(
        { provide: yield* Effect.map(Layer.build(model("dear", Limit.capacity(1))), Layer.succeedContext) },
        { provide: yield* Effect.map(Layer.build(model("cheap", Limit.capacity(1))), Layer.succeedContext) }
      )
      const answer = Effect.map(ask.pipe(Effect.withExecutionPlan(plan)), ({ text }) => text)
      assert.strictEqual(yield* answer, "dear")
      assert.strictEqual(yield* answer, "cheap")
      assert.isTrue(Exit.isFailure(yield* Effect.exit(answer)))
    })
  )

  it.effect("a tool has a cost, refunded when its handler fails", () =>
    Effect.gen(function* () {
      const Search = Tool.make("Search", {
        parameters: Schema.Struct({ query: Schema.String }),
        success: Schema.String,
        failure: Schema.Union([Schema.Literal("nothing"), BudgetExceeded, FailedReservation])
      })
      const calls = yield* Calls
      const toolkit = yield* Toolkit.make(Search).pipe(
        Effect.provide(
          Toolkit.make(Search).toLayer({
            Search: BudgetedTool.costing(
              calls,
              ({ query }: { readonly query: string }) => query.length,
              ({ query }) => (query === "none" ? Effect.fail("nothing" as const) : Effect.succeed(`found ${query}`))
            )
          })
        )
      )
      const use = (query: string) =>
        LanguageModel.generateText({ prompt: "hi", toolkit }).pipe(
          Effect.provide(
            fake({
              answer: Effect.succeed<Array<Response.PartEncoded>>([
                { type: "tool-call", id: "1", name: "Search", params: { query } },
                finish(1, 1)
              ])
            })
          )
        )
      yield* use("abc")
      assert.strictEqual(yield* calls.available, 7)
      yield* Effect.exit(use("none"))
      assert.strictEqual(yield* calls.available, 7)
      const denied = yield* Effect.flip(use("something long"))
      assert.instanceOf(denied, BudgetExceeded)
      assert.strictEqual(yield* calls.available, 7)
    }).pipe(Effect.provide(Calls.layer({ limit: Limit.capacity(10) })))
  )
})
