import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Layer, Option, Ref, Schema, Stream } from "effect"
import {
  AiError,
  LanguageModel,
  OpenAiStructuredOutput,
  type Prompt,
  type Response,
  Telemetry,
  Tool,
  Toolkit
} from "effect/ai"
import { BudgetExceeded, Limit, TokenGuard } from "../../src/index.ts"
import { BudgetedLanguageModel, Estimator, MaxOutputTokens } from "../../src/ai/index.ts"
import { aiError, ask, budgeted, cap, charged, delta, fake, finish, text } from "./utils.ts"

const Search = Tool.make("Search", {
  description: "Searches the catalogue",
  parameters: Schema.Struct({ query: Schema.String, limit: Schema.optionalKey(Schema.Int) }),
  success: Schema.String
})
const Time = Tool.make("Time", { success: Schema.String })
const Look = Tool.providerDefined({
  id: "vendor.look",
  customName: "Look",
  providerName: "look",
  args: Schema.Struct({ region: Schema.String })
})({ region: "far away" })
const Remote = Tool.dynamic("Remote", {
  parameters: { type: "object", properties: { remoteField: { type: "string" } } }
})

const handlers = { Search: () => Effect.succeed("found"), Time: () => Effect.succeed("noon") }
const both = Toolkit.make(Search, Time)

const call = (name: string, params: unknown): Response.ToolCallPartEncoded => ({
  type: "tool-call",
  id: "1",
  name,
  params
})
const calling = (name: string, params: unknown) =>
  Effect.succeed<Array<Response.PartEncoded>>([call(name, params), finish(80, 20)])

/** Another model, under a budget of its own. */
class Inner extends Context.Service<Inner, LanguageModel.LanguageModel>()("test/Inner") {
  static readonly layer = Layer.effect(Inner, LanguageModel.LanguageModel).pipe(
    Layer.provide(Layer.fresh(budgeted({ answer: text("x", 7, 3), stream: Stream.fromIterable([finish(7, 3)]) }, cap)))
  )
}

describe("what is sent beside the prompt", () => {
  /** The definitions that the estimator is told of. */
  const seen = <E, R>(use: Effect.Effect<unknown, E, LanguageModel.LanguageModel | R>) =>
    Effect.gen(function* () {
      const told = yield* Ref.make<ReadonlyArray<string>>([])
      const layer = BudgetedLanguageModel.layer(TokenGuard, {
        amounts: ({ tokens }) => tokens,
        maxOutputTokens: 50
      }).pipe(
        Layer.provide([
          fake({ answer: text('{"answer":1}', 80, 20) }),
          TokenGuard.layer({ limit: cap }),
          Layer.succeed(Estimator.Estimator, {
            estimate: ({ definitions = [] }) => Effect.as(Ref.set(told, definitions), { input: 1, output: 1 }),
            observe: () => Effect.void
          })
        ])
      )
      yield* Effect.provide(use, layer)
      return yield* Ref.get(told)
    })
  const prompt = "hi"

  it.effect("nothing", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* seen(ask), [])
      assert.deepStrictEqual(yield* seen(LanguageModel.generateText({ prompt, toolkit: Toolkit.empty })), [])
    })
  )

  it.effect("each tool with name, description and schema, however the toolkit is given", () =>
    Effect.gen(function* () {
      const toolkit = yield* both
      const plain = yield* seen(LanguageModel.generateText({ prompt, toolkit }))
      assert.strictEqual(plain.length, 2)
      for (const part of ["Search", "Searches the catalogue", "query", "limit"]) assert.include(plain[0]!, part)
      // The parameters in the form that OpenAI takes are longer than the plain ones.
      assert.isAtLeast(
        plain[0]!.length,
        JSON.stringify(Tool.getJsonSchema(Search, { transformer: OpenAiStructuredOutput.toCodecOpenAI })).length
      )
      assert.isAtLeast(plain[0]!.length, JSON.stringify(Tool.getJsonSchema(Search)).length)
      for (const toolkit of [both, Effect.succeed(yield* both)]) {
        assert.deepStrictEqual(yield* seen(LanguageModel.generateText({ prompt, toolkit })), plain)
        assert.deepStrictEqual(yield* seen(Stream.runDrain(LanguageModel.streamText({ prompt, toolkit: both }))), plain)
      }
      const unresolved = { prompt, toolkit: both, disableToolCallResolution: true } as const
      assert.deepStrictEqual(yield* seen(LanguageModel.generateText(unresolved)), plain)
    }).pipe(Effect.provide(both.toLayer(handlers)))
  )

  it.effect("only the tools that may be called", () =>
    Effect.gen(function* () {
      const one = yield* seen(LanguageModel.generateText({ prompt, toolkit: both, toolChoice: { oneOf: ["Time"] } }))
      assert.strictEqual(one.length, 1)
      assert.include(one[0]!, "Time")
      const all = yield* seen(LanguageModel.generateText({ prompt, toolkit: both, toolChoice: { tool: "Time" } }))
      assert.strictEqual(all.length, 2)
    }).pipe(Effect.provide(both.toLayer(handlers)))
  )

  it.effect("tools of the provider with their arguments, and those with a JSON schema of their own", () =>
    Effect.gen(function* () {
      const tools = Toolkit.make(Look, Remote)
      const definitions = yield* seen(
        LanguageModel.generateText({ prompt, toolkit: tools, disableToolCallResolution: true })
      ).pipe(Effect.provide(tools.toLayer({ Remote: () => Effect.succeed("") })))
      assert.include(definitions[0]!, "far away")
      assert.include(definitions[1]!, "remoteField")
    })
  )

  it.effect("the schema of an object, with the tools", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ answer: Schema.Finite })
      const [own, ...others] = yield* seen(
        LanguageModel.generateObject({ prompt, schema, objectName: "the answer to it" })
      )
      assert.strictEqual(others.length, 0)
      assert.include(own!, "the answer to it")
      assert.include(own!, '"answer"')
      const withTools = yield* seen(LanguageModel.generateObject({ prompt, schema, toolkit: both }))
      assert.strictEqual(withTools.length, 3)
    }).pipe(Effect.provide(both.toLayer(handlers)))
  )
})

describe("a call with tools", () => {
  it.effect("has typed denials, and typed answers", () =>
    Effect.gen(function* () {
      const { generateObject, generateText, streamText } = BudgetedLanguageModel
      const toolkit = both
      const schema = Schema.Struct({ answer: Schema.Finite })
      const [result] = (yield* generateText({ prompt: "hi", toolkit })).toolResults
      assert.strictEqual(result?.name === "Search" && !result.isFailure && result.result, "found")
      assert.strictEqual(yield* charged, 100)
      for (const denied of [
        generateText({ prompt: "hi", toolkit }),
        generateObject({ prompt: "hi", schema }),
        Stream.runDrain(streamText({ prompt: "hi", toolkit }))
      ]) {
        assert.instanceOf(yield* Effect.flip(denied), BudgetExceeded)
      }
      assert.strictEqual(yield* charged, 100)
    }).pipe(
      Effect.provide([
        budgeted({ answer: calling("Search", { query: "a" }) }, Limit.capacity(249)),
        both.toLayer(handlers)
      ])
    )
  )

  it.effect("answers an object by its schema", () =>
    Effect.gen(function* () {
      const { value } = yield* BudgetedLanguageModel.generateObject({
        prompt: "hi",
        schema: Schema.Struct({ answer: Schema.FiniteFromString })
      })
      assert.strictEqual(value.answer, 42)
      assert.strictEqual(yield* charged, 100)
    }).pipe(Effect.provide(budgeted({ answer: text('{"answer":"42"}', 80, 20) }, cap)))
  )

  it.effect("resolves its toolkit once, and is not begun when that fails", () =>
    Effect.gen(function* () {
      const times = yield* Ref.make(0)
      const toolkit = Effect.tap(both, () => Ref.update(times, (n) => n + 1))
      yield* LanguageModel.generateText({ prompt: "hi", toolkit })
      assert.strictEqual(yield* Ref.get(times), 1)
      yield* Effect.exit(LanguageModel.generateText({ prompt: "hi", toolkit: Effect.die(new Error("no tools")) }))
      assert.strictEqual(yield* charged, 100)
    }).pipe(Effect.provide([budgeted({}, cap), both.toLayer(handlers)]))
  )

  it.effect("leaves what a handler acquires to the scope of the caller", () =>
    Effect.gen(function* () {
      const released = yield* Ref.make(false)
      const toolkit = yield* Effect.provide(
        Toolkit.make(Time),
        Toolkit.make(Time).toLayer({ Time: () => Effect.succeed("noon") })
      )
      yield* Effect.scoped(
        Effect.gen(function* () {
          const watched = Effect.as(
            Effect.acquireRelease(Effect.void, () => Ref.set(released, true)),
            toolkit
          )
          yield* LanguageModel.generateText({ prompt: "hi", toolkit: watched })
          assert.strictEqual(yield* charged, 100)
          assert.isFalse(yield* Ref.get(released))
        })
      )
      assert.isTrue(yield* Ref.get(released))
    }).pipe(Effect.provide(budgeted({}, cap)))
  )

  it.effect("that was cut while a handler ran, of which its reader knew nothing, is charged what was held", () =>
    Effect.gen(function* () {
      const read = yield* Deferred.make<void>()
      const called = yield* Deferred.make<void>()
      const toolkit = yield* Effect.provide(
        Toolkit.make(Time),
        Toolkit.make(Time).toLayer({ Time: () => Effect.andThen(Deferred.succeed(called, undefined), Effect.never) })
      )
      const stream = Stream.make(delta("delta")).pipe(
        Stream.concat(Stream.drain(Stream.fromEffect(Deferred.await(read)))),
        Stream.concat(Stream.make(call("Time", {}))),
        Stream.concat(Stream.make(delta("more"))),
        Stream.concat(Stream.never)
      )
      const layer = budgeted({ stream }, cap)
      yield* Effect.gen(function* () {
        const reader = Stream.runForEach(LanguageModel.streamText({ prompt: "hi", toolkit }), () =>
          Deferred.succeed(read, undefined).pipe(
            Effect.andThen(Deferred.await(called)),
            Effect.andThen(Effect.fail("enough" as const))
          )
        )
        assert.strictEqual(yield* Effect.flip(reader), "enough")
        assert.strictEqual(yield* charged, 150)
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("that was cut by a slow reader is charged what had come, not what was read", () =>
    Effect.gen(function* () {
      const read = yield* Deferred.make<void>()
      const ended = yield* Deferred.make<void>()
      const toolkit = yield* Effect.provide(both, both.toLayer(handlers))
      const stream = Stream.make(delta("delta")).pipe(
        Stream.concat(Stream.drain(Stream.fromEffect(Deferred.await(read)))),
        Stream.concat(Stream.make(delta("more"), finish(80, 20))),
        Stream.concat(Stream.drain(Stream.fromEffect(Deferred.succeed(ended, undefined))))
      )
      const reader = Stream.runForEach(LanguageModel.streamText({ prompt: "hi", toolkit }), () =>
        Effect.gen(function* () {
          yield* Deferred.succeed(read, undefined)
          yield* Deferred.await(ended)
          for (let i = 0; i < 20; i++) yield* Effect.yieldNow
          return yield* Effect.fail("enough" as const)
        })
      )
      yield* Effect.gen(function* () {
        assert.strictEqual(yield* Effect.flip(reader), "enough")
        assert.strictEqual(yield* charged, 100)
      }).pipe(Effect.provide(budgeted({ stream }, cap)))
    })
  )

  describe("that begins with a tool that was approved earlier", () => {
    const Send = Tool.make("Send", { success: Schema.String })
    const send = Toolkit.make(Send)
    const id = "call"
    const approved: ReadonlyArray<Prompt.MessageEncoded> = [
      { role: "user", content: [{ type: "text", text: "hi" }] },
      {
        role: "assistant",
        content: [
          { type: "tool-call", id, name: "Send", params: {}, providerExecuted: false },
          { type: "tool-approval-request", approvalId: "approval", toolCallId: id }
        ]
      },
      { role: "tool", content: [{ type: "tool-approval-response", approvalId: "approval", approved: true }] }
    ]
    const limited = aiError(new AiError.RateLimitError({}))
    for (const method of ["generateText", "streamText"] as const) {
      /** What is charged, and how often the tool ran; it fails like a provider after it has run so often. */
      const run = (
        answer: Effect.Effect<Array<Response.ToolCallPartEncoded>, AiError.AiError>,
        runs = 1,
        prompt: Prompt.RawInput = approved
      ) =>
        Effect.gen(function* () {
          let times = 0
          const toolkit = yield* Effect.provide(
            send,
            send.toLayer({
              Send: () => Effect.suspend(() => (times++ < runs ? Effect.succeed("sent") : Effect.fail(limited)))
            })
          )
          yield* Effect.flip(
            method === "generateText"
              ? LanguageModel.generateText({ prompt, toolkit })
              : Stream.runDrain(LanguageModel.streamText({ prompt, toolkit }))
          )
          return [times, yield* charged]
        }).pipe(Effect.provide(budgeted({ answer, stream: Stream.fromIterableEffect(answer) }, cap)))

      it.effect(`and is turned away then costs nothing (${method})`, () =>
        Effect.gen(function* () {
          assert.deepStrictEqual(yield* run(Effect.fail(limited)), [1, 0])
        })
      )

      it.effect(`and then calls it anew by the same name is not refunded (${method})`, () =>
        Effect.gen(function* () {
          const again = Effect.succeed([{ ...call("Send", {}), id }])
          assert.deepStrictEqual(yield* run(again), [2, 150])
          const result: Prompt.ToolMessagePartEncoded = {
            type: "tool-result",
            id,
            name: "Send",
            isFailure: false,
            result: "sent"
          }
          assert.deepStrictEqual(yield* run(again, 0, [...approved, { role: "tool", content: [result] }]), [1, 150])
        })
      )
    }
  })

  describe("whose handler asks a model under another budget", () => {
    for (const [ending, handler, charge] of [
      ["succeeds", () => Effect.succeed("found"), 100],
      ["answers its failure", () => Effect.fail("nothing" as const), 100],
      // The call fails with it, and what the provider reported is lost.
      ["fails", () => Effect.fail("nothing" as const), 150]
    ] as const) {
      for (const method of ["generateText", "streamText"] as const) {
        it.effect(`and ${ending}: each is charged its own usage, and has its own ceiling (${method})`, () =>
          Effect.gen(function* () {
            const caps: Array<number | undefined> = []
            const watched: Array<string> = []
            const inner = yield* Inner
            const Ask = Tool.make("Ask", {
              success: Schema.String,
              failure: Schema.Literal("nothing"),
              failureMode: ending === "answers its failure" ? "return" : "error"
            })
            const toolkit = yield* Effect.provide(
              Toolkit.make(Ask),
              Toolkit.make(Ask).toLayer({
                Ask: () =>
                  Effect.gen(function* () {
                    caps.push(yield* MaxOutputTokens)
                    watched.push(
                      Option.isSome(yield* Effect.serviceOption(Telemetry.CurrentSpanTransformer)) ? "yes" : "no"
                    )
                    yield* Effect.orDie(inner.generateText({ prompt: "hi" }))
                    yield* Effect.orDie(Stream.runDrain(inner.streamText({ prompt: "hi" })))
                    return yield* handler()
                  })
              })
            )
            const answered =
              method === "generateText"
                ? LanguageModel.generateText({ prompt: "hi", toolkit })
                : Stream.runDrain(LanguageModel.streamText({ prompt: "hi", toolkit }))
            assert.strictEqual(Exit.isSuccess(yield* Effect.exit(answered)), ending !== "fails")
            assert.strictEqual(yield* charged, charge)
            assert.deepStrictEqual([caps, watched], [[undefined], ["no"]])
          }).pipe(
            Effect.provide([
              budgeted(
                { answer: calling("Ask", {}), stream: Stream.fromIterable([call("Ask", {}), finish(80, 20)]) },
                cap
              ),
              Inner.layer
            ])
          )
        )
      }
    }
  })
})
