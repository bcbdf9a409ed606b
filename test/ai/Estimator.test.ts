import { assert, describe, it } from "@effect/vitest"
import { AiError, Prompt, Tokenizer } from "effect/ai"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { encode as cl100k } from "gpt-tokenizer/encoding/cl100k_base"
import { encode as o200k } from "gpt-tokenizer/encoding/o200k_base"
import * as Estimator from "../../src/ai/Estimator.ts"
import * as Random from "../utils/random.ts"

const maxOutputTokens = 1_000

const estimate = (request: Estimator.Request) => Estimator.Estimator.use((estimator) => estimator.estimate(request))
const observe = (request: Estimator.Request, output: number) =>
  Estimator.Estimator.use((estimator) => estimator.observe(request, { input: 1, output }))

const plain = { disallowedSpecial: new Set<string>() }

/** A text of one kind, as long as the generator says. */
const kinds: Record<string, (random: Random.Random) => string> = {
  words: (random) => repeat(random, () => random.pick(["the ", "budget ", "of\n", "tokens, ", "Reserve", "d. "])),
  code: (random) =>
    repeat(random, () => random.pick(["const x = 1\n", "  if (a) {\n", "}\n", "=> ", "foo_Bar(", ");\t"])),
  digits: (random) => repeat(random, () => `${random.int(0, 9)}`),
  table: (random) => repeat(random, () => `${random.int(0, 9)}${random.pick([",", "\t", "\n", ";"])}`),
  base64: (random) =>
    repeat(random, () => random.pick([..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"])),
  ascii: (random) => repeat(random, () => String.fromCodePoint(random.int(0, 127))),
  control: (random) => repeat(random, () => String.fromCodePoint(random.int(0, 31))),
  combining: (random) => repeat(random, () => String.fromCodePoint(random.int(0x300, 0x36f))),
  cherokee: (random) => repeat(random, () => String.fromCodePoint(random.int(0x13a0, 0x13ff))),
  cjk: (random) => repeat(random, () => String.fromCodePoint(random.int(0x3400, 0x9fff))),
  rareCjk: (random) => repeat(random, () => String.fromCodePoint(random.int(0x20000, 0x2a6df))),
  emoji: (random) =>
    repeat(random, () => random.pick(["👨‍👩‍👧‍👦", "🏳️‍🌈", "👩🏽‍🚀", String.fromCodePoint(random.int(0x1f300, 0x1faff))])),
  surrogates: (random) => repeat(random, () => String.fromCharCode(random.int(0xd7f0, 0xe00f))),
  special: (random) => repeat(random, () => random.pick(["<|endoftext|>", "<|im_start|>", " ", "<|"])),
  longRun: (random) => "x9Qz".slice(random.int(0, 3)).repeat(random.int(1, 1_500)),
  spaces: (random) => random.pick([" ", "\n", "\t", " \n"]).repeat(random.int(1, 3_000)),
  empty: () => ""
}

const repeat = (random: Random.Random, one: () => string): string =>
  Array.from({ length: random.int(1, 200) }, one).join("")

const textOf = (random: Random.Random): string => kinds[random.pick(Object.keys(kinds))]!(random)

/** A prompt, and all its texts that a provider gets. */
const promptOf = (random: Random.Random): { readonly prompt: Prompt.Prompt; readonly texts: ReadonlyArray<string> } => {
  const texts: Array<string> = []
  const text = () => {
    const made = textOf(random)
    texts.push(made)
    return made
  }
  const messages = Array.from({ length: random.int(1, 4) }, (): Prompt.MessageEncoded => {
    switch (random.int(0, 3)) {
      case 0:
        return { role: "system", content: text() }
      case 1:
        return {
          role: "user",
          content: [
            { type: "text", text: text() },
            { type: "text", text: text() }
          ]
        }
      case 2: {
        const params = { [text()]: text() }
        texts.splice(-2, 2, JSON.stringify(params), "call", "search")
        return {
          role: "assistant",
          content: [
            { type: "reasoning", text: text() },
            { type: "tool-call", id: "call", name: "search", params }
          ]
        }
      }
      default:
        return {
          role: "tool",
          content: [{ type: "tool-result", id: "call", name: "search", isFailure: false, result: text() }]
        }
    }
  })
  return { prompt: Prompt.make(messages), texts }
}

const bounds = (layer: Layer.Layer<Estimator.Estimator>, encode: typeof o200k, seeds: number) =>
  Effect.provide(
    Random.forSeedsEffect(seeds, (seed) =>
      Effect.gen(function* () {
        const { prompt, texts } = promptOf(Random.make(seed))
        const counted = texts.reduce((sum, text) => sum + encode(text, plain).length, 0)
        const { input, output } = yield* estimate({ prompt })
        assert.isAtLeast(input, counted + 3 * prompt.content.length + 3)
        assert.isTrue(Number.isSafeInteger(input))
        assert.strictEqual(output, maxOutputTokens)
      })
    ),
    layer
  )

const gpt = (encoding: Estimator.GptEncoding) =>
  Layer.provide(Estimator.layerTokenizer({ maxOutputTokens }), Estimator.layerGptTokenizer({ encoding }))

describe("Estimator", () => {
  describe("is at least what the tokenizer counts, with the wrapping of messages", () => {
    const bytes = Estimator.layerBytes({ maxOutputTokens })
    it.effect("layerBytes, o200k_base", () => bounds(bytes, o200k, 100))
    it.effect("layerBytes, cl100k_base", () => bounds(bytes, cl100k, 100))
    it.effect("layerTokenizer, o200k_base", () => bounds(gpt("o200k_base"), o200k, 100))
    it.effect("layerTokenizer, cl100k_base", () => bounds(gpt("cl100k_base"), cl100k, 100))

    it.effect("every kind of text alone", () =>
      Effect.gen(function* () {
        for (const [kind, make] of Object.entries(kinds)) {
          const text = make(Random.make(7))
          const { input } = yield* estimate({ prompt: Prompt.make(text) })
          for (const encode of [o200k, cl100k]) assert.isAtLeast(input, encode(text, plain).length + 6, kind)
        }
      }).pipe(Effect.provide(bytes))
    )

    it("one token for two bytes would be too little for a table of numbers", () => {
      const text = kinds["table"]!(Random.make(1))
      assert.strictEqual(o200k(text, plain).length, text.length)
    })
  })

  describe("layerBytes", () => {
    const inputOf = (prompt: Prompt.RawInput, options?: Partial<Parameters<typeof Estimator.layerBytes>[0]>) =>
      Effect.map(estimate({ prompt: Prompt.make(prompt) }), ({ input }) => input).pipe(
        Effect.provide(Estimator.layerBytes({ maxOutputTokens, ...options }))
      )
    const file = (mediaType: string, data: string | Uint8Array | URL) =>
      Prompt.fromMessages([Prompt.userMessage({ content: [Prompt.filePart({ mediaType, data })] })])

    it.effect("UTF-8 bytes, and 8 for the request and for each message", () =>
      Effect.gen(function* () {
        const table: ReadonlyArray<readonly [text: string, bytes: number]> = [
          ["", 0],
          ["abc", 3],
          ["é", 2],
          ["预", 3],
          ["🚀", 4],
          ["\ud83d", 3],
          ["\ud83da", 4],
          ["\ude80\ud83d", 6]
        ]
        for (const [text, bytes] of table) {
          assert.strictEqual(new TextEncoder().encode(text).length, bytes)
          assert.strictEqual(yield* inputOf([{ role: "system", content: text }]), bytes + 16)
        }
        assert.strictEqual(yield* inputOf([]), 8)
        assert.strictEqual(
          yield* inputOf([
            { role: "system", content: "abc" },
            { role: "user", content: "de" }
          ]),
          5 + 24
        )
      })
    )

    it.effect("definitions by their bytes, 8 for each, and 530 for what the provider puts before them", () =>
      Effect.gen(function* () {
        const prompt = Prompt.make([{ role: "system", content: "abc" }])
        const inputs = yield* Effect.forEach([undefined, [], ["{}"], ["{}", "{é}"]], (definitions) =>
          Effect.map(estimate({ prompt, definitions }), ({ input }) => input)
        )
        assert.deepStrictEqual(inputs, [19, 19, 19 + 530 + 10, 19 + 530 + 10 + 12])
      }).pipe(Effect.provide(Estimator.layerBytes({ maxOutputTokens })))
    )

    it.effect("bytesPerToken rounds up for each text", () =>
      Effect.gen(function* () {
        const messages: Prompt.RawInput = [
          { role: "system", content: "abc" },
          { role: "user", content: "abcde" }
        ]
        assert.strictEqual(yield* inputOf(messages, { bytesPerToken: 2 }), 2 + 3 + 24)
      })
    )

    it.effect("files: text by its bytes, images as one amount, others by their bytes and at least that", () =>
      Effect.gen(function* () {
        // The request, the message, and the part.
        const wrapping = 24
        assert.strictEqual(yield* inputOf(file("text/csv", new Uint8Array(50))), 50 + wrapping)
        assert.strictEqual(yield* inputOf(file("image/png", new Uint8Array(9_999))), 4_096 + wrapping)
        assert.strictEqual(yield* inputOf(file("application/pdf", new Uint8Array(9_999))), 9_999 + wrapping)
        assert.strictEqual(yield* inputOf(file("application/pdf", new Uint8Array(9))), 4_096 + wrapping)
        assert.strictEqual(yield* inputOf(file("application/pdf", new URL("https://example.com/a"))), 4_096 + wrapping)
        assert.strictEqual(yield* inputOf(file("image/png", "AAAA"), { fileTokens: () => 85 }), 85 + wrapping)
      })
    )
  })

  describe("layerTokenizer", () => {
    const of = (tokenize: (prompt: Prompt.Prompt) => Effect.Effect<Array<number>, AiError.AiError>) =>
      Layer.succeed(Tokenizer.Tokenizer, Tokenizer.make({ tokenize }))
    const prompt = Prompt.make("four")

    it.effect("counts definitions with the tokenizer", () =>
      Effect.gen(function* () {
        const definition = JSON.stringify({ name: "search", description: "Searches the catalogue" })
        const { input } = yield* estimate({ prompt, definitions: [definition] })
        const alone = (yield* estimate({ prompt })).input
        assert.isAtLeast(input - alone, o200k(definition).length + 538)
        assert.isBelow(input - alone, definition.length + 538)
      }).pipe(Effect.provide(gpt("o200k_base")))
    )

    it.effect("multiplies the count with the factor, not the wrapping", () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* estimate({ prompt })).input, Math.ceil(101 * 1.35) + 16)
      }).pipe(
        Effect.provide(
          Layer.provide(
            Estimator.layerTokenizer({ maxOutputTokens, factor: 1.35 }),
            of(() => Effect.succeed(new Array<number>(101).fill(0)))
          )
        )
      )
    )

    it.effect("a tokenizer that fails leaves the bound by bytes", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* estimate({ prompt }), { input: 4 + 16, output: maxOutputTokens })
      }).pipe(
        Effect.provide(
          Layer.provide(
            Estimator.layerTokenizer({ maxOutputTokens }),
            of(() =>
              Effect.fail(AiError.make({ module: "Test", method: "tokenize", reason: new AiError.UnknownError({}) }))
            )
          )
        )
      )
    )
  })

  describe("layerGptTokenizer", () => {
    it.effect("counts ordinary text as the tokenizer does", () =>
      Effect.gen(function* () {
        const text = "Reserve an estimate, run, settle what it really cost.\n".repeat(50)
        const tokens = yield* Tokenizer.Tokenizer.use((tokenizer) => tokenizer.tokenize(text))
        assert.deepStrictEqual(tokens, o200k(text, plain))
      }).pipe(Effect.provide(Estimator.layerGptTokenizer()))
    )

    // One word of this length takes the tokenizer itself longer than the test may take.
    it.effect("a word without end takes time by its length", () =>
      Effect.gen(function* () {
        const tokens = yield* Tokenizer.Tokenizer.use((tokenizer) => tokenizer.tokenize("ab".repeat(250_000)))
        assert.isAtLeast(tokens.length, 1)
      }).pipe(Effect.provide(Estimator.layerGptTokenizer()))
    )
  })

  describe("the ceiling", () => {
    it.effect("is that of the request, else that of the layer", () =>
      Effect.gen(function* () {
        const prompt = Prompt.make("hi")
        assert.strictEqual((yield* estimate({ prompt })).output, maxOutputTokens)
        assert.strictEqual((yield* estimate({ prompt, maxOutputTokens: 5 })).output, 5)
        assert.strictEqual((yield* estimate({ prompt, maxOutputTokens: 9_999 })).output, 9_999)
        for (const bad of [-1, 1.5, NaN, 2 ** 53]) {
          const exit = yield* Effect.exit(estimate({ prompt, maxOutputTokens: bad }))
          assert.isTrue(Exit.hasDies(exit), `${bad}`)
        }
      }).pipe(Effect.provide(Estimator.layerBytes({ maxOutputTokens })))
    )

    it.effect("options that make no sense die, and name the value", () =>
      Effect.gen(function* () {
        const bytes = Estimator.layerBytes({ maxOutputTokens })
        const table: ReadonlyArray<readonly [Layer.Layer<Estimator.Estimator>, string]> = [
          [
            Estimator.layerBytes({ maxOutputTokens: -1 }),
            "maxOutputTokens must be a whole number from 0 to 2^53 - 1, not -1"
          ],
          [
            Estimator.layerBytes({ maxOutputTokens, bytesPerToken: 0.5 }),
            "bytesPerToken must be a finite number from 1, not 0.5"
          ],
          [
            Layer.provide(Estimator.layerTokenizer({ maxOutputTokens, factor: NaN }), Estimator.layerGptTokenizer()),
            "factor must be a finite number from 1, not NaN"
          ],
          [Estimator.layerLearned({ base: bytes, quantile: 0 }), "quantile must be above 0 and at most 1, not 0"],
          [
            Estimator.layerLearned({ base: bytes, afterSamples: 0 }),
            "afterSamples must be a whole number from 1, not 0"
          ],
          [Estimator.layerLearned({ base: bytes, window: 29 }), "window must be a whole number from 30, not 29"],
          [Estimator.layerLearned({ base: bytes, maxClasses: 0 }), "maxClasses must be a whole number from 1, not 0"]
        ]
        for (const [layer, message] of table) {
          const defect = yield* Effect.void.pipe(Effect.provide(layer), Effect.catchDefect(Effect.succeed))
          assert.instanceOf(defect, RangeError)
          assert.strictEqual(defect.message, `Estimator: ${message}`)
        }
      })
    )
  })

  describe("layerLearned", () => {
    const base = Estimator.layerBytes({ maxOutputTokens })
    const learned = (options?: Omit<Estimator.LearnedOptions<never, never>, "base">) =>
      Estimator.layerLearned({ base, ...options })
    const sized = (bytes: number, model?: string): Estimator.Request => ({
      prompt: Prompt.make([{ role: "system", content: "x".repeat(bytes) }]),
      model
    })
    const request = sized(100)
    const outputOf = (request: Estimator.Request) => Effect.map(estimate(request), ({ output }) => output)
    const teach = (request: Estimator.Request, ...outputs: ReadonlyArray<number>) =>
      Effect.forEach(outputs, (output) => observe(request, output), { discard: true })
    const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1)

    it.effect("the ceiling after 29 calls, the quantile after 30", () =>
      Effect.gen(function* () {
        yield* teach(request, ...upTo(29))
        assert.strictEqual(yield* outputOf(request), maxOutputTokens)
        yield* teach(request, 30)
        // 0.95 of thirty are 28.5 of them: the 29th.
        assert.deepStrictEqual(yield* estimate(request), { input: 100 + 16, output: 29 })
      }).pipe(Effect.provide(learned()))
    )

    it.effect("the quantile is the nearest rank", () =>
      Effect.gen(function* () {
        const table: ReadonlyArray<readonly [quantile: number, samples: number, rank: number]> = [
          [0.95, 1, 1],
          [0.95, 19, 19],
          [0.95, 20, 19],
          [0.95, 21, 20],
          [0.95, 100, 95],
          [0.95, 101, 96],
          [0.5, 1, 1],
          [0.5, 2, 1],
          [0.5, 3, 2],
          [0.99, 100, 99],
          [0.99, 101, 100],
          [0.07, 100, 7],
          [0.001, 10, 1],
          [1, 7, 7]
        ]
        for (const [quantile, samples, rank] of table) {
          const output = Effect.andThen(teach(request, ...upTo(samples)), outputOf(request)).pipe(
            Effect.provide(learned({ quantile, afterSamples: 1 }))
          )
          assert.strictEqual(yield* output, rank, `${quantile} of ${samples}`)
        }
      })
    )

    it.effect("agrees with sorting the last calls anew", () =>
      Random.forSeedsEffect(50, (seed) => {
        const random = Random.make(seed)
        const [window, afterSamples, quantile] = [random.int(5, 40), random.int(1, 5), random.int(1, 100) / 100]
        return Effect.gen(function* () {
          const seen: Array<number> = []
          for (let i = 0; i < 150; i++) {
            const output = random.int(0, random.pick([3, 2_000]))
            seen.push(output)
            yield* teach(request, output)
            const sorted = seen.slice(-window).sort((a, b) => a - b)
            const least = sorted.find(
              (value) => sorted.filter((other) => other <= value).length >= quantile * sorted.length - 1e-9
            )!
            const expected = seen.length < afterSamples ? maxOutputTokens : Math.min(least, maxOutputTokens)
            assert.strictEqual(yield* outputOf(request), expected)
          }
        }).pipe(Effect.provide(learned({ window, afterSamples, quantile })))
      })
    )

    it.effect("is never above the ceiling, whichever applies", () =>
      Effect.gen(function* () {
        yield* teach(request, 5_000)
        assert.strictEqual(yield* outputOf(request), maxOutputTokens)
        assert.strictEqual(yield* outputOf({ ...request, maxOutputTokens: 10 }), 10)
        assert.strictEqual(yield* outputOf({ ...request, maxOutputTokens: 9_000 }), 5_000)
      }).pipe(Effect.provide(learned({ afterSamples: 1 })))
    )

    it.effect("models and sizes of prompts are apart; a class is from one power of two to the next", () =>
      Effect.gen(function* () {
        yield* teach(sized(128), 1)
        yield* teach(sized(128, "a"), 2)
        yield* teach(sized(128, ""), 3)
        yield* teach(sized(127), 4)
        yield* teach(sized(256), 5)
        yield* teach(sized(0), 6)
        yield* teach(sized(1), 7)
        assert.deepStrictEqual(
          yield* Effect.all([
            outputOf(sized(128)),
            outputOf(sized(255)),
            outputOf(sized(200, "a")),
            outputOf(sized(128, "")),
            outputOf(sized(64)),
            outputOf(sized(511)),
            outputOf(sized(0)),
            outputOf(sized(1)),
            outputOf(sized(128, "b")),
            outputOf(sized(512))
          ]),
          [1, 1, 2, 3, 4, 5, 6, 7, maxOutputTokens, maxOutputTokens]
        )
      }).pipe(Effect.provide(learned({ afterSamples: 1 })))
    )

    it.effect("remembers the last calls of a class, and the classes observed last", () =>
      Effect.gen(function* () {
        yield* teach(request, 900, 1, 2)
        assert.strictEqual(yield* outputOf(request), 900)
        yield* teach(request, 3)
        assert.strictEqual(yield* outputOf(request), 3)

        yield* teach(sized(1_000), 4)
        yield* teach(request, 3)
        // Asking is not observing: the class of 1,000 stays the oldest.
        assert.strictEqual(yield* outputOf(sized(1_000)), 4)
        yield* teach(sized(10_000), 5)
        assert.strictEqual(yield* outputOf(sized(1_000)), maxOutputTokens)
        assert.strictEqual(yield* outputOf(request), 3)
        assert.strictEqual(yield* outputOf(sized(10_000)), 5)
      }).pipe(Effect.provide(learned({ afterSamples: 1, window: 3, maxClasses: 2, quantile: 1 })))
    )

    it.effect("what is unknown teaches nothing; fractions count up", () =>
      Effect.gen(function* () {
        yield* teach(request, NaN, -1)
        assert.strictEqual(yield* outputOf(request), maxOutputTokens)
        yield* teach(request, 6.2)
        assert.strictEqual(yield* outputOf(request), 7)
      }).pipe(Effect.provide(learned({ afterSamples: 1 })))
    )

    it.effect("passes what it observes on to its base", () =>
      Effect.gen(function* () {
        yield* teach(request, ...new Array<number>(30).fill(10))
        assert.strictEqual(yield* outputOf(request), 10)
        yield* teach(request, ...new Array<number>(170).fill(20))
        assert.strictEqual(yield* outputOf(request), 10)
      }).pipe(
        // The outer one would say 20, but it is never above the inner one, which looks at half of the calls.
        Effect.provide(Estimator.layerLearned({ base: learned({ quantile: 0.1 }) }))
      )
    )
  })
})
