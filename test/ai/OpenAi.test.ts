import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Latch, Redacted, Ref, Schema, Stream } from "effect"
import { type AiError, LanguageModel, type Response, Tool, Toolkit } from "effect/ai"
import { encode } from "gpt-tokenizer/encoding/cl100k_base"
import { spawn } from "node:child_process"
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as OpenAiModel from "../../examples/demo/OpenAiModel.ts"
import { MaxOutputTokens } from "../../src/ai/index.ts"
import { root } from "../utils/compiler.ts"
import * as Server from "../utils/openAiServer.ts"

/** A server that replies so, and a model that asks it. */
const setup = (...replies: ReadonlyArray<Server.Reply>) =>
  Effect.gen(function* () {
    const server = yield* Server.make(Server.script(...replies))
    return { server, model: modelOf(server.baseUrl) }
  })

const modelOf = (baseUrl: string) =>
  OpenAiModel.layer({ baseUrl, model: "test-model", apiKey: Redacted.make("test-key") })

const deltasOf = (parts: ReadonlyArray<Response.StreamPart<{}>>) =>
  parts.flatMap((part) => (part.type === "text-delta" ? [part.delta] : []))

const usageOf = (parts: ReadonlyArray<Response.StreamPart<{}>>) =>
  parts.flatMap((part) => (part.type === "finish" ? [part.usage] : []))

const prompt = "How much is left?"
const promptTokens = encode(prompt).length

/** Both ways to ask; what an error means must not depend on them. */
const methods = {
  generateText: Effect.asVoid(LanguageModel.generateText({ prompt })),
  streamText: Stream.runDrain(LanguageModel.streamText({ prompt }))
}

describe("a model over the protocol of OpenAI", () => {
  it.effect("asks, and answers with text and usage", () =>
    Effect.gen(function* () {
      const { model, server } = yield* setup(Server.answer(["Enough", " is", " left."]))
      const response = yield* LanguageModel.generateText({
        prompt: [
          { role: "system", content: "You count." },
          {
            role: "user",
            content: [
              { type: "text", text: "How much" },
              { type: "text", text: "is left?" }
            ]
          },
          {
            role: "assistant",
            content: [
              { type: "reasoning", text: "hm" },
              { type: "text", text: "Of what?" }
            ]
          },
          { role: "user", content: "Of it." }
        ]
      }).pipe(Effect.provide(model))
      assert.strictEqual(response.text, "Enough is left.")
      assert.strictEqual(response.finishReason, "stop")
      assert.strictEqual(response.usage.outputTokens.total, 3)
      assert.strictEqual(response.usage.inputTokens.total, server.exchanges[0]!.promptTokens)

      assert.strictEqual(server.exchanges.length, 1)
      const { body, ended, generated, headers, written } = server.exchanges[0]!
      assert.deepStrictEqual(body, {
        model: "test-model",
        messages: [
          { role: "system", content: "You count." },
          { role: "user", content: "How much\nis left?" },
          { role: "assistant", content: "Of what?" },
          { role: "user", content: "Of it." }
        ]
      })
      assert.strictEqual(headers.authorization, "Bearer test-key")
      assert.deepStrictEqual({ generated, written }, { generated: 3, written: 3 })
      assert.strictEqual(yield* Deferred.await(ended), "completed")
    })
  )

  it.effect("streams text, then usage", () =>
    Effect.gen(function* () {
      const { model, server } = yield* setup(Server.answer(["Enough", " is", " left."]))
      const parts = yield* Stream.runCollect(LanguageModel.streamText({ prompt })).pipe(Effect.provide(model))
      assert.deepStrictEqual(
        parts.map(({ type }) => type),
        ["response-metadata", "text-start", "text-delta", "text-delta", "text-delta", "text-end", "finish"]
      )
      assert.deepStrictEqual(deltasOf(parts), ["Enough", " is", " left."])
      const [usage] = usageOf(parts)
      assert.deepInclude(usage!.inputTokens, { total: promptTokens })
      assert.deepInclude(usage!.outputTokens, { total: 3, text: 3, reasoning: 0 })
      const { body, ended, written } = server.exchanges[0]!
      assert.deepInclude(body, { stream: true, stream_options: { include_usage: true } })
      assert.strictEqual(written, 3)
      assert.strictEqual(yield* Deferred.await(ended), "completed")
    })
  )

  it.effect("answers with an object by a schema", () =>
    Effect.gen(function* () {
      const { model, server } = yield* setup(Server.answer(['{"left":', "7}"]))
      const schema = Schema.Struct({ left: Schema.Finite })
      const { value } = yield* LanguageModel.generateObject({ prompt, schema, objectName: "rest" }).pipe(
        Effect.provide(model)
      )
      assert.deepStrictEqual(value, { left: 7 })
      const format = server.exchanges[0]!.body.response_format
      assert.nestedPropertyVal(format, "json_schema.name", "rest")
      assert.nestedPropertyVal(format, "json_schema.schema.properties.left.type", "number")
    })
  )

  it.effect("sends the cap of output that is set around it, and none otherwise", () =>
    Effect.gen(function* () {
      const reply = Server.answer(Server.words(10), { reasoningTokens: 1 })
      const { model, server } = yield* setup(reply, reply, reply)
      yield* Effect.gen(function* () {
        const whole = yield* LanguageModel.generateText({ prompt })
        assert.strictEqual(whole.usage.outputTokens.total, 11)
        const cut = yield* LanguageModel.generateText({ prompt }).pipe(Effect.provideService(MaxOutputTokens, 4))
        assert.strictEqual(cut.text, " word word word")
        assert.strictEqual(cut.finishReason, "length")
        assert.strictEqual(cut.usage.outputTokens.total, 4)
        const streamed = yield* LanguageModel.streamText({ prompt }).pipe(
          Stream.provideService(MaxOutputTokens, 5),
          Stream.runCollect
        )
        assert.strictEqual(deltasOf(streamed).length, 4)
      }).pipe(Effect.provide(model))
      assert.deepStrictEqual(
        server.exchanges.map(({ body }) => body.max_tokens),
        [undefined, 4, 5]
      )
    })
  )

  it("calls the cap by the name that the server knows", () => {
    assert.deepStrictEqual(OpenAiModel.outputCap("https://api.openai.com/v1", 5), { max_completion_tokens: 5 })
    assert.deepStrictEqual(OpenAiModel.outputCap("http://127.0.0.1:8080/v1", 5), { max_tokens: 5 })
    assert.deepStrictEqual(OpenAiModel.outputCap("https://api.openai.com/v1", undefined), {})
  })

  it.effect("refuses what it cannot send, without a request", () =>
    Effect.gen(function* () {
      const { model, server } = yield* setup()
      const toolkit = Toolkit.make(Tool.make("Count"))
      const handlers = toolkit.toLayer({ Count: () => Effect.void })
      const file = { type: "file", mediaType: "image/png", data: Uint8Array.of(1) } as const
      const errors = yield* Effect.all([
        LanguageModel.generateText({ prompt, toolkit }).pipe(Effect.provide(handlers), Effect.flip),
        Effect.flip(LanguageModel.generateText({ prompt: [{ role: "user", content: [file] }] }))
      ]).pipe(Effect.provide(model))
      assert.deepStrictEqual(errors.map(tagOf), ["InvalidRequestError", "InvalidRequestError"])
      assert.strictEqual(server.exchanges.length, 0)
    })
  )
})

describe("usage", () => {
  const plain = {
    inputTokens: { uncached: 100, total: 100, cacheRead: 0 },
    outputTokens: { total: 2, text: 2, reasoning: 0 }
  }
  const unknown = {
    inputTokens: { uncached: undefined, total: undefined, cacheRead: undefined },
    outputTokens: { total: undefined, text: undefined, reasoning: undefined }
  }
  const cases: ReadonlyArray<
    readonly [name: string, reply: Partial<Server.Answer>, inputTokens: object, outputTokens: object]
  > = [
    ["without classes", {}, plain.inputTokens, plain.outputTokens],
    [
      "cached input is part of the input, reasoning is part of the output",
      { cachedTokens: 64, reasoningTokens: 30 },
      { uncached: 36, total: 100, cacheRead: 64 },
      { total: 32, text: 2, reasoning: 30 }
    ],
    [
      "reasoning beside the completion is found in the total",
      { report: (usage) => ({ ...usage, total_tokens: 132, completion_tokens_details: { reasoning_tokens: 30 } }) },
      plain.inputTokens,
      { total: 32, text: 2, reasoning: 30 }
    ],
    [
      "a part that is more than the whole",
      { cachedTokens: 500, report: (usage) => ({ ...usage, completion_tokens_details: { reasoning_tokens: 9 } }) },
      { uncached: 0, total: 100, cacheRead: 100 },
      { total: 2, text: 0, reasoning: 2 }
    ],
    [
      "no details, no total",
      { report: (usage) => ({ prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens }) },
      plain.inputTokens,
      plain.outputTokens
    ],
    ["none", { report: () => undefined }, unknown.inputTokens, unknown.outputTokens],
    ["null", { report: () => null }, unknown.inputTokens, unknown.outputTokens],
    [
      "what cannot be a number of tokens",
      { report: (usage) => ({ ...usage, prompt_tokens: -5, completion_tokens: 1.5, total_tokens: "many" }) },
      unknown.inputTokens,
      unknown.outputTokens
    ]
  ]
  for (const [name, options, inputTokens, outputTokens] of cases) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const reply = Server.answer(["a", "b"], { promptTokens: 100, ...options })
        const { model } = yield* setup(reply, reply)
        yield* Effect.gen(function* () {
          const { usage } = yield* LanguageModel.generateText({ prompt })
          const [streamed] = usageOf(yield* Stream.runCollect(LanguageModel.streamText({ prompt })))
          for (const { inputTokens: input, outputTokens: output } of [usage, streamed!]) {
            assert.deepInclude(input, inputTokens)
            assert.deepInclude(output, outputTokens)
          }
        }).pipe(Effect.provide(model))
      })
    )
  }
})

describe("errors", () => {
  const turnedAway: ReadonlyArray<readonly [name: string, reply: Server.Reply, tag: string, detail?: object]> = [
    ["429", Server.rateLimited("7"), "RateLimitError", { retryAfter: 7_000 }],
    ["429 with a fraction", Server.rateLimited("0.25"), "RateLimitError", { retryAfter: 250 }],
    [
      "429 with a date",
      Server.refusal(429, "later", {
        headers: { date: "Sun, 06 Nov 1994 08:49:37 GMT", "retry-after": "Sun, 06 Nov 1994 08:50:07 GMT" }
      }),
      "RateLimitError",
      { retryAfter: 30_000 }
    ],
    ["429 that does not say when", Server.refusal(429, "later"), "RateLimitError", { retryAfter: undefined }],
    ["429 with nonsense", Server.rateLimited("soon"), "RateLimitError", { retryAfter: undefined }],
    [
      "429 of a quota",
      Server.refusal(429, "pay first", { type: "insufficient_quota", code: "insufficient_quota" }),
      "QuotaExhaustedError"
    ],
    ["402", Server.refusal(402, "pay first"), "QuotaExhaustedError"],
    ["401", Server.refusal(401, "Incorrect API key"), "AuthenticationError", { kind: "InvalidKey" }],
    ["403", Server.refusal(403, "not you"), "AuthenticationError", { kind: "InsufficientPermissions" }],
    ["400", Server.refusal(400, "no", { param: "max_tokens" }), "InvalidRequestError", { parameter: "max_tokens" }],
    ["404", Server.refusal(404, "no such model"), "InvalidRequestError"],
    ["500", Server.refusal(500, "sorry"), "InternalProviderError"],
    ["503", Server.refusal(503, "busy"), "InternalProviderError"],
    ["409", Server.refusal(409, "odd"), "UnknownError"],
    ["a connection without an answer", Server.hangUp, "NetworkError"]
  ]
  for (const [method, ask] of Object.entries(methods)) {
    for (const [name, reply, tag, detail] of turnedAway) {
      it.effect(`${method}: ${name}`, () =>
        Effect.gen(function* () {
          const { model, server } = yield* setup(reply)
          const error = yield* ask.pipe(Effect.provide(model), Effect.flip)
          assert.strictEqual(tagOf(error), tag)
          for (const [key, value] of Object.entries(detail ?? {}))
            assert.strictEqual(detailOf(error.reason, key), value)
          if (reply._tag === "Refusal")
            assert.deepInclude(detailOf(error.reason, "http"), { body: `${reply.status} ${reply.error.message}` })
          assert.strictEqual(server.exchanges.length, 1, "one attempt is one request")
          assert.strictEqual(
            yield* Deferred.await(server.exchanges[0]!.ended),
            reply._tag === "HangUp" ? "disconnected" : "refused"
          )
        })
      )
    }

    it.effect(`${method}: no server`, () =>
      Effect.gen(function* () {
        // Its port was free a moment ago, and is not given out again so soon.
        const { baseUrl } = yield* Effect.scoped(Server.make(Server.script()))
        const error = yield* ask.pipe(Effect.provide(modelOf(baseUrl)), Effect.flip)
        assert.strictEqual(tagOf(error), "NetworkError")
        assert.include(error.message, "ECONNREFUSED")
      })
    )

    it.effect(`${method}: the body breaks off`, () =>
      Effect.gen(function* () {
        const { model, server } = yield* setup(Server.answer(Server.words(5), { disconnectAfter: 5 }))
        const error = yield* ask.pipe(Effect.provide(model), Effect.flip)
        assert.strictEqual(tagOf(error), "InternalProviderError")
        assert.strictEqual(yield* Deferred.await(server.exchanges[0]!.ended), "disconnected")
        assert.strictEqual(server.exchanges[0]!.generated, 5)
      })
    )
  }

  /** Asks, and tells each delta that came until the end. */
  const listen = (onDelta: (count: number) => Effect.Effect<unknown>) =>
    Effect.gen(function* () {
      const heard = yield* Ref.make(0)
      const exit = yield* LanguageModel.streamText({ prompt }).pipe(
        Stream.filter(({ type }) => type === "text-delta"),
        Stream.runForEach(() =>
          Effect.flatMap(
            Ref.updateAndGet(heard, (count) => count + 1),
            onDelta
          )
        ),
        Effect.flip
      )
      return { error: exit, heard: yield* Ref.get(heard) }
    })

  it.effect("a stream that breaks off has delivered what came before", () =>
    Effect.gen(function* () {
      const all = yield* Latch.make()
      const { model, server } = yield* setup(
        Server.answer(Server.words(9), {
          disconnectAfter: 3,
          beforeChunk: (index) => (index === 3 ? all.await : Effect.void)
        })
      )
      const { error, heard } = yield* listen((count) => (count === 3 ? all.open : Effect.void)).pipe(
        Effect.provide(model)
      )
      assert.strictEqual(tagOf(error), "InternalProviderError")
      assert.deepStrictEqual({ heard, written: server.exchanges[0]!.written }, { heard: 3, written: 3 })
    })
  )

  it.effect("an error within a stream is not a request that was turned away, whatever it says", () =>
    Effect.gen(function* () {
      const { model } = yield* setup(Server.answer(Server.words(9), { errorAfter: 3 }))
      const { error, heard } = yield* listen(() => Effect.void).pipe(Effect.provide(model))
      assert.strictEqual(tagOf(error), "InternalProviderError")
      assert.include(error.message, "Overloaded")
      assert.strictEqual(heard, 3)
    })
  )

  it.effect("a stream that ends as if nothing were missing is an error too", () =>
    Effect.gen(function* () {
      const { model, server } = yield* setup(Server.answer(Server.words(9), { truncateAfter: 3 }))
      const { error, heard } = yield* listen(() => Effect.void).pipe(Effect.provide(model))
      assert.strictEqual(tagOf(error), "InternalProviderError")
      assert.strictEqual(heard, 3)
      assert.strictEqual(yield* Deferred.await(server.exchanges[0]!.ended), "completed")
    })
  )
})

describe("interruption", () => {
  for (const [method, ask] of Object.entries(methods)) {
    it.effect(`${method}: before the answer begins`, () =>
      Effect.gen(function* () {
        const asked = yield* Latch.make()
        const { model, server } = yield* setup(
          Server.answer(Server.words(2), { beforeHead: Effect.andThen(asked.open, Effect.never) })
        )
        const fiber = yield* Effect.forkChild(Effect.provide(ask, model))
        yield* asked.await
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(yield* Deferred.await(server.exchanges[0]!.ended), "clientGone")
        assert.strictEqual(server.exchanges[0]!.generated, 0)
      })
    )
  }

  const cut: Readonly<
    Record<
      string,
      (stream: Stream.Stream<unknown, AiError.AiError>, three: Latch.Latch) => Effect.Effect<unknown, AiError.AiError>
    >
  > = {
    "a stream whose reader is interrupted": (stream, three) =>
      Effect.gen(function* () {
        const heard = yield* Ref.make(0)
        const fiber = yield* stream.pipe(
          Stream.runForEach(() =>
            Effect.flatMap(
              Ref.updateAndGet(heard, (count) => count + 1),
              (count) => (count === 3 ? three.open : Effect.void)
            )
          ),
          Effect.forkChild
        )
        yield* three.await
        yield* Fiber.interrupt(fiber)
      }),
    "a stream whose reader has enough": (stream) => Stream.runDrain(Stream.take(stream, 3)),
    "a stream whose reader fails": (stream) =>
      stream.pipe(
        Stream.mapAccum(
          () => 0,
          (count) => [count + 1, [count + 1]]
        ),
        Stream.runForEach((count) => (count === 3 ? Effect.fail("enough" as const) : Effect.void)),
        Effect.catch(() => Effect.void)
      )
  }
  for (const [name, read] of Object.entries(cut)) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const three = yield* Latch.make()
        const { model, server } = yield* setup(
          Server.answer(Server.words(9), { beforeChunk: (index) => (index === 3 ? Effect.never : Effect.void) })
        )
        yield* Effect.gen(function* () {
          const model = yield* LanguageModel.LanguageModel
          const deltas = model.streamText({ prompt }).pipe(Stream.filter(({ type }) => type === "text-delta"))
          yield* read(deltas, three)
        }).pipe(Effect.provide(model))
        const { ended, written } = server.exchanges[0]!
        assert.strictEqual(yield* Deferred.await(ended), "clientGone")
        assert.strictEqual(written, 3)
      })
    )
  }
})

describe("the server", () => {
  it.effect("takes many streams at once, and knows what each was given, also if it was cut", () =>
    Effect.gen(function* () {
      const server = yield* Server.make(() => Effect.succeed(Server.answer(Server.words(20))))
      const asked = Array.from({ length: 300 }, (_, i) => ({ prompt: `${i}`, most: i % 2 === 0 ? 5 : 100 }))
      const heard = yield* Effect.forEach(
        asked,
        ({ most, prompt }) =>
          LanguageModel.streamText({ prompt }).pipe(
            Stream.filter(({ type }) => type === "text-delta"),
            Stream.take(most),
            Stream.runCount
          ),
        { concurrency: "unbounded" }
      ).pipe(Effect.provide(modelOf(server.baseUrl)))
      assert.strictEqual(server.exchanges.length, asked.length)
      for (const { body, ended, generated, written } of server.exchanges) {
        const ending = yield* Deferred.await(ended)
        const index = Number(body.messages[0].content)
        assert.strictEqual(heard[index], Math.min(20, asked[index]!.most))
        assert.isAtMost(heard[index]!, written)
        assert.isAtMost(written, generated)
        if (index % 2 === 1) assert.deepStrictEqual({ ending, written }, { ending: "completed", written: 20 })
      }
    })
  )

  it.effect("destroys what is open when its scope ends", () =>
    Effect.gen(function* () {
      const asked = yield* Latch.make()
      const fiber = yield* Effect.scoped(
        Effect.gen(function* () {
          const { model, server } = yield* setup(
            Server.answer(["a"], { beforeHead: Effect.andThen(asked.open, Effect.never) })
          )
          const fiber = yield* Effect.forkDetach(Effect.flip(methods.streamText.pipe(Effect.provide(model))))
          yield* asked.await
          assert.strictEqual(yield* server.connections, 1)
          return fiber
        })
      )
      assert.strictEqual(tagOf(yield* Fiber.join(fiber)), "NetworkError")
    })
  )
})

describe("the demo, over the protocol of OpenAI", () => {
  /** A project of its own, whose package is its sources, and a folder to summarise. */
  const project = Effect.acquireRelease(
    Effect.sync(() => {
      const path = mkdtempSync(join(tmpdir(), "effect-budget-openai-"))
      const exports = { ".": "./src/index.ts", "./ai": "./src/ai/index.ts" }
      writeFileSync(join(path, "package.json"), JSON.stringify({ name: "effect-budget", type: "module", exports }))
      for (const part of ["src", "examples"]) cpSync(join(root, part), join(path, part), { recursive: true })
      symlinkSync(join(root, "node_modules"), join(path, "node_modules"))
      mkdirSync(join(path, "folder"))
      writeFileSync(join(path, "folder", "a.txt"), "This is one file.")
      writeFileSync(join(path, "folder", "b.txt"), "This is another file, which is a little longer.")
      return path
    }),
    (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
  )

  const demo = (project: string, args: ReadonlyArray<string>, env: Readonly<Record<string, string>>) =>
    Effect.callback<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>((resume) => {
      const child = spawn(process.execPath, [join(project, "examples/demo.ts"), join(project, "folder"), ...args], {
        stdio: "pipe",
        env: { PATH: process.env["PATH"], ...env }
      })
      let stdout = ""
      let stderr = ""
      child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
      child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
      child.on("close", (code) => resume(Effect.succeed({ code, stdout, stderr })))
      return Effect.sync(() => child.kill())
    })

  it.effect("asks the server, and charges what it reports", () =>
    Effect.gen(function* () {
      const path = yield* project
      const server = yield* Server.make(({ body }) =>
        Effect.succeed(
          body.messages[0].content.endsWith("one file.")
            ? Server.answer(Server.words(200))
            : Server.refusal(400, "not this one")
        )
      )
      const { code, stderr, stdout } = yield* demo(
        path,
        ["--model", "openai", "--base-url", server.baseUrl, "--name", "test-model"],
        { OPENAI_API_KEY: "test-key" }
      )
      assert.deepStrictEqual({ code, stderr }, { code: 0, stderr: "" }, stdout)
      assert.isTrue(stdout.endsWith("\nThe books balance.\n"), stdout)
      assert.include(stdout, "files: 2 in all: 1 done, 0 timed out, 1 failed, 0 denied, 0 unfinished\n")
      assert.match(stdout, /^failed +b\.txt .*400 not this one/m)

      const asked = server.exchanges.find(({ written }) => written > 0)!
      assert.strictEqual(asked.written, 96, "the cap was sent")
      assert.strictEqual(asked.body.model, "test-model")
      assert.strictEqual(asked.headers.authorization, "Bearer test-key")
      assert.match(stdout, new RegExp(`^done +a\\.txt +${asked.promptTokens + 96} tokens, `, "m"))
    })
  )

  it.effect("ends with 2 and one line when something is missing", () =>
    Effect.gen(function* () {
      const path = yield* project
      const url = ["--base-url", "http://127.0.0.1:9/v1"]
      const openai = ["--model", "openai"]
      const key = { OPENAI_API_KEY: "test-key" }
      const needs = /^--model openai needs --base-url URL .*, --name MODEL, and a key in .* OPENAI_API_KEY\n$/
      const cases: ReadonlyArray<
        readonly [args: ReadonlyArray<string>, env: Readonly<Record<string, string>>, RegExp]
      > = [
        [[...openai, ...url], key, needs],
        [[...openai, ...url, "--name", "m"], {}, needs],
        [[...openai, "--base-url", "nowhere", "--name", "m"], key, needs],
        [url, key, /^--base-url and --name go with --model openai\n$/]
      ]
      const answers = yield* Effect.forEach(cases, ([args, env]) => demo(path, args, env), { concurrency: 2 })
      for (const [i, { code, stderr, stdout }] of answers.entries()) {
        assert.deepStrictEqual({ code, stdout }, { code: 2, stdout: "" })
        assert.match(stderr, cases[i]![2])
      }
    })
  )
})

const tagOf = ({ reason }: AiError.AiError) => reason._tag

/** A property of a reason, whatever kind of reason it is; a duration in milliseconds. */
const detailOf = (reason: object, key: string): unknown => {
  const value: unknown = Reflect.get(reason, key)
  return Duration.isDuration(value) ? Duration.toMillis(value) : value
}
