/**
 * How many tokens a request may use, before it is sent: what to hold.
 *
 * - `layerBytes` needs nothing and holds the most: no tokenizer makes more tokens than bytes
 * - `layerTokenizer` counts the input with the `Tokenizer` of the context
 * - `layerLearned` holds what most calls like this one really answered, in place of the ceiling that few of them reach
 *
 * An estimate decides what is admitted, never what is charged: the settlement charges what was used. When actual usage is
 * above what was held, the budget goes into debt, and admits nothing more until that is paid. So however wrong the
 * estimates are, the overshoot at any moment is at most **the sum of max(actual - held, 0) over the calls in flight at
 * the last admission**. With `layerBytes` and `layerTokenizer` it is 0 as long as the estimates are the bounds that they are
 * meant to be; with `layerLearned` it is what the calls above the quantile answer beyond it.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Prompt } from "effect/ai"
 * import { Estimator } from "effect-budget/ai"
 *
 * const program = Effect.gen(function*() {
 *   const estimator = yield* Estimator.Estimator
 *   return yield* estimator.estimate({ prompt: Prompt.make("Which day is it?"), maxOutputTokens: 100 })
 * })
 *
 * const layer = Estimator.layerBytes({ maxOutputTokens: 4_096 })
 * console.log(await Effect.runPromise(Effect.provide(program, layer))) // { input: 32, output: 100 }
 * ```
 */
import type { AiError, Prompt } from "effect/ai"
import { Tokenizer } from "effect/ai"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { isAmount, saturate } from "../internal/amount.ts"

/** What is about to be asked of a model. */
export interface Request {
  readonly model?: string | undefined
  readonly prompt: Prompt.Prompt
  /** What is sent beside the prompt, each as text: the definitions of tools and of structured output, as JSON. Default: none. */
  readonly definitions?: ReadonlyArray<string> | undefined
  /** The most that the provider is told to answer. Default: the `maxOutputTokens` of the layer. */
  readonly maxOutputTokens?: number | undefined
}

/** Tokens of both directions, whole numbers. */
export interface Tokens {
  readonly input: number
  readonly output: number
}

/** Says what to hold for a request, and learns what it really used if it can. */
export interface Service {
  /** Dies with a `RangeError` when the request's `maxOutputTokens` is not a whole number from 0 to 2^53 - 1. */
  readonly estimate: (request: Request) => Effect.Effect<Tokens>
  /**
   * Tells what a call used. Only calls that ended by themselves teach anything: leave out those that were cut. What is
   * negative or not a number is unknown, and teaches nothing.
   */
  readonly observe: (request: Request, actual: Tokens) => Effect.Effect<void>
}

export class Estimator extends Context.Service<Estimator, Service>()("effect-budget/ai/Estimator") {}

/** What all estimators of a prompt's size need to know. */
export interface Options {
  /**
   * The output part, for requests that set no ceiling of their own: the most the model answers. It bounds the answer only if
   * the provider enforces it, so give the model's own maximum, or send the ceiling with the request.
   */
  readonly maxOutputTokens: number
  /**
   * What a file of the prompt counts. Default: `fileTokens`, which is a guess for anything but text.
   */
  readonly fileTokens?: ((file: Prompt.FilePart) => number) | undefined
}

/**
 * Each message, and each part that is not plain text, is wrapped in tokens that the prompt does not show. The chat formats of
 * OpenAI take 3 to 6 for a message, and 3 to begin the answer.
 */
const WRAPPING = 8

/** With the first definition comes a prompt of the provider's own, that tells how to call tools: 159 to 530 for Anthropic's. */
const PREAMBLE = 530

/** What an image counts at most for the larger vision models; also the least that any other file counts. */
const FILE_TOKENS = 4_096

/**
 * The default for files: text by its bytes, an image 4,096, anything else by its bytes but at least 4,096. How providers count
 * images, audio and documents differs by model and by detail, so this is a guess; so is any file given by its address.
 */
export const fileTokens = (file: Prompt.FilePart): number => {
  const bytes = sizeOf(file.data)
  if (bytes === undefined || file.mediaType.startsWith("image/")) return FILE_TOKENS
  return file.mediaType.startsWith("text/") ? bytes : Math.max(bytes, FILE_TOKENS)
}

/** Bytes of inline data; base64 is counted as it is, which is more. An address says nothing about what is behind it. */
const sizeOf = (data: Prompt.FilePart["data"]): number | undefined => {
  if (typeof data === "string") return /^https?:/i.test(data) ? undefined : utf8Length(data)
  return data instanceof Uint8Array ? data.byteLength : undefined
}

/**
 * An upper bound from the size of what is sent: the UTF-8 bytes of the prompt (text, reasoning, tool calls and results as JSON)
 * and of the definitions, 8 more for each message, for each part that is not text, for each definition and for the request, and
 * 530 if there are definitions (Anthropic puts up to so many of its own before them).
 *
 * A token of a byte-level tokenizer is at least one byte, so one token per byte can only be too much. It is not much
 * too much for all texts. Measured with `gpt-tokenizer`, tokens per byte of cl100k_base / o200k_base:
 *
 * | text | tokens per byte |
 * |---|---|
 * | English, TypeScript | 0.25 to 0.26 / 0.25 to 0.26 |
 * | Chinese, Japanese, Korean, Hindi prose | 0.30 to 0.43 / 0.12 to 0.32 |
 * | hexadecimal, base64 | 0.57 to 0.72 / 0.58 to 0.68 |
 * | Burmese, Amharic prose | 0.67 to 0.89 / 0.19 to 0.69 |
 * | random CJK, Hangul, emoji | 0.73 to 0.86 / 0.64 to 0.74 |
 * | single digits with a separator, control characters, rare scripts | 1.00 / 1.00 |
 *
 * So a smaller bound would be wrong for a table of numbers. Whoever knows the texts can set `bytesPerToken`: 2 for prose and code in the
 * larger languages. What nobody here can see is not in it: see `BudgetedLanguageModel`.
 */
export const layerBytes = (
  options: Options & {
    /** How many bytes one token has at least, 1 or more. Default 1, which holds for every text. */
    readonly bytesPerToken?: number | undefined
  }
): Layer.Layer<Estimator> =>
  Layer.effect(
    Estimator,
    Effect.sync(() => {
      const { bytesPerToken = 1 } = options
      check(options)
      if (!(bytesPerToken >= 1 && Number.isFinite(bytesPerToken))) {
        throw new RangeError(`Estimator: bytesPerToken must be a finite number from 1, not ${bytesPerToken}`)
      }
      return {
        estimate: (request) =>
          Effect.sync(() => withCeiling(request, options, bytesBound(request, options, bytesPerToken))),
        observe: () => Effect.void
      }
    })
  )

/**
 * Counts what is sent with the `Tokenizer` of the context, in one call with all its texts (text, reasoning, tool calls and
 * results as JSON, definitions), and adds for messages, parts and definitions what `layerBytes` adds. When the tokenizer fails,
 * the bound of `layerBytes` is held.
 *
 * It bounds the input as far as the tokenizer is that of the model; for another one, give a `factor`.
 */
export const layerTokenizer = (
  options: Options & {
    /** What a count is multiplied with, 1 or more: for a model whose own tokenizer counts more than this one. Default 1. */
    readonly factor?: number | undefined
  }
): Layer.Layer<Estimator, never, Tokenizer.Tokenizer> =>
  Layer.effect(
    Estimator,
    Effect.map(Tokenizer.Tokenizer, (tokenizer) => {
      const { factor = 1 } = options
      check(options)
      if (!(factor >= 1 && Number.isFinite(factor))) {
        throw new RangeError(`Estimator: factor must be a finite number from 1, not ${factor}`)
      }
      const count = (request: Request): Effect.Effect<number> => {
        const { extra, texts } = contentOf(request, options)
        const counted: Effect.Effect<number, AiError.AiError> =
          texts.length === 0
            ? Effect.succeed(0)
            : Effect.map(tokenizer.tokenize(texts.join("\n")), (tokens) => tokens.length)
        return counted.pipe(
          Effect.map((tokens) => Math.ceil(tokens * factor) + extra),
          Effect.catch(() => Effect.sync(() => bytesBound(request, options, 1)))
        )
      }
      return {
        estimate: (request) =>
          Effect.map(
            Effect.suspend(() => count(request)),
            (input) => withCeiling(request, options, input)
          ),
        observe: () => Effect.void
      }
    })
  )

/** The encodings of OpenAI's models: `o200k_base` since GPT-4o, `o200k_harmony` of gpt-oss, `cl100k_base` of GPT-4 and GPT-3.5. */
export type GptEncoding = "o200k_base" | "o200k_harmony" | "cl100k_base" | "p50k_base" | "r50k_base"

type Encode = (text: string, options: { readonly disallowedSpecial: Set<string> }) => Array<number>

/** Loaded on demand: the package is optional, and each encoding is large. */
const encodings: Record<GptEncoding, () => Promise<{ readonly encode: Encode }>> = {
  o200k_base: () => import("gpt-tokenizer/encoding/o200k_base"),
  o200k_harmony: () => import("gpt-tokenizer/encoding/o200k_harmony"),
  cl100k_base: () => import("gpt-tokenizer/encoding/cl100k_base"),
  p50k_base: () => import("gpt-tokenizer/encoding/p50k_base"),
  r50k_base: () => import("gpt-tokenizer/encoding/r50k_base")
}

/**
 * A `Tokenizer` over `gpt-tokenizer`, an optional peer dependency that is loaded when the layer is built; without it the layer
 * dies. It counts all texts of a prompt, but no wrapping and no files.
 *
 * The tokenizer takes time by the square of the length of a word, so runs of 1,000 characters with no change between space and
 * not space are counted apart. Names of special tokens are text like any other.
 */
export const layerGptTokenizer = (options?: {
  /** Default `o200k_base`. */
  readonly encoding?: GptEncoding | undefined
}): Layer.Layer<Tokenizer.Tokenizer> =>
  Layer.effect(
    Tokenizer.Tokenizer,
    Effect.map(Effect.promise(encodings[options?.encoding ?? "o200k_base"]), ({ encode }) => {
      const plain = { disallowedSpecial: new Set<string>() }
      return Tokenizer.make({
        tokenize: (prompt) =>
          Effect.sync(() => {
            const tokens: Array<number> = []
            for (const piece of contentOf({ prompt }, {}).texts.join("\n").split(LONG_RUN)) {
              for (const token of encode(piece, plain)) tokens.push(token)
            }
            return tokens
          })
      })
    })
  )

const LONG_RUN = /(\S{1000}|\s{1000})/u

/** How `layerLearned` learns. */
export interface LearnedOptions<E, R> {
  /** What estimates the input, and the ceiling of the output. */
  readonly base: Layer.Layer<Estimator, E, R>
  /** Which part of the recent calls of a class the held output would have been enough for, above 0 to 1. Default 0.95. */
  readonly quantile?: number | undefined
  /** How many calls of a class are needed before its quantile is used, at least 1. Default 30. */
  readonly afterSamples?: number | undefined
  /** How many of the last calls of a class are remembered, at least `afterSamples`. Default 256. */
  readonly window?: number | undefined
  /** How many classes are remembered, at least 1; the one observed longest ago is forgotten. Default 256. */
  readonly maxClasses?: number | undefined
}

/**
 * The input part of `base`; for the output part the quantile (nearest rank) of what recent calls of the same class answered, but
 * never above the ceiling of `base`. A class is a model and a size of what is sent, from a power of two of UTF-8 bytes to the
 * next. Until a class has seen enough calls, the ceiling.
 *
 * With a quantile of 0.95, about one call in twenty answers more than is held for it. What that adds to the overshoot is at most
 * (ceiling - quantile) for each of those in flight; it is charged in full, and paid before more is admitted. Whoever must not
 * overshoot uses `base` alone, or sends the held output with the request as its ceiling.
 *
 * Answers that were cut at a lower ceiling than usual teach a lower quantile than the model would have: give calls with another
 * purpose an estimator of their own.
 */
export const layerLearned = <E, R>(options: LearnedOptions<E, R>): Layer.Layer<Estimator, E, R> =>
  Layer.effect(
    Estimator,
    Effect.map(Estimator, (base) => learned(base, options))
  ).pipe(Layer.provide(options.base))

const learned = (base: Service, options: Omit<LearnedOptions<never, never>, "base">): Service => {
  const { afterSamples = 30, maxClasses = 256, quantile = 0.95 } = options
  const window = options.window ?? Math.max(256, afterSamples)
  if (!(quantile > 0 && quantile <= 1)) {
    throw new RangeError(`Estimator: quantile must be above 0 and at most 1, not ${quantile}`)
  }
  for (const [name, value, least] of [
    ["afterSamples", afterSamples, 1],
    ["window", window, afterSamples],
    ["maxClasses", maxClasses, 1]
  ] as const) {
    if (!isAmount(value) || value < least) {
      throw new RangeError(`Estimator: ${name} must be a whole number from ${least}, not ${value}`)
    }
  }

  // In the order of the last observation, oldest first.
  const classes = new Map<string, Recent>()
  return {
    estimate: (request) =>
      Effect.map(base.estimate(request), ({ input, output }) => {
        const recent = classes.get(classOf(request))
        if (recent === undefined || recent.count < afterSamples) return { input, output }
        return { input, output: Math.min(output, recent.quantile(quantile)) }
      }),
    observe: (request, actual) =>
      Effect.andThen(
        base.observe(request, actual),
        Effect.sync(() => {
          const output = saturate(actual.output)
          if (output === undefined) return
          const key = classOf(request)
          const recent = classes.get(key) ?? new Recent(window)
          recent.add(output)
          classes.delete(key)
          classes.set(key, recent)
          if (classes.size > maxClasses) classes.delete(classes.keys().next().value!)
        })
      )
  }
}

/** The last `window` values, in the order they came and in the order of their size. */
class Recent {
  private readonly ring: Array<number> = []
  private readonly sorted: Array<number> = []
  private oldest = 0
  private readonly window: number

  constructor(window: number) {
    this.window = window
  }

  get count(): number {
    return this.ring.length
  }

  add(value: number): void {
    if (this.ring.length < this.window) {
      this.ring.push(value)
    } else {
      this.sorted.splice(this.rankOf(this.ring[this.oldest]!), 1)
      this.ring[this.oldest] = value
      this.oldest = (this.oldest + 1) % this.window
    }
    this.sorted.splice(this.rankOf(value), 0, value)
  }

  /** By nearest rank: the least value that is not below this part of them all. */
  quantile(part: number): number {
    // The product of two decimals can come out a little above a whole number that it is.
    const rank = Math.ceil(part * this.sorted.length - 1e-9)
    return this.sorted[Math.max(rank, 1) - 1]!
  }

  /** How many values are below. */
  private rankOf(value: number): number {
    let [low, high] = [0, this.sorted.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.sorted[middle]! < value) low = middle + 1
      else high = middle
    }
    return low
  }
}

/** A class of no model differs from that of a model with an empty name. */
const classOf = (request: Request): string => {
  const { model } = request
  const bytes = contentOf(request, {}).texts.reduce((sum, text) => sum + utf8Length(text), 0)
  return `${bytes === 0 ? -1 : Math.floor(Math.log2(bytes))}${model === undefined ? "" : `:${model}`}`
}

interface Content {
  readonly texts: ReadonlyArray<string>
  /** Tokens that no text accounts for: wrapping and files. */
  readonly extra: number
}

const contentOf = ({ definitions = [], prompt }: Request, options: Pick<Options, "fileTokens">): Content => {
  const countFile = (file: Prompt.FilePart): number => {
    const tokens = saturate((options.fileTokens ?? fileTokens)(file))
    if (tokens === undefined) throw new RangeError("Estimator: fileTokens must answer a number from 0")
    return tokens
  }
  const texts: Array<string> = [...definitions]
  let extra = WRAPPING + definitions.length * WRAPPING + (definitions.length > 0 ? PREAMBLE : 0)
  for (const { content } of prompt.content) {
    extra += WRAPPING
    if (typeof content === "string") {
      texts.push(content)
      continue
    }
    for (const part of content) {
      if (part.type !== "text") extra += WRAPPING
      switch (part.type) {
        case "text":
        case "reasoning":
          texts.push(part.text)
          break
        case "file":
          texts.push(part.fileName ?? "")
          extra += countFile(part)
          break
        case "tool-call":
          texts.push(part.id, part.name, jsonOf(part.params))
          break
        case "tool-result":
          texts.push(part.id, part.name)
          // What the model sees is the output made for it, if there is one.
          if (part.modelOutput === undefined) texts.push(jsonOf(part.result))
          else {
            for (const output of part.modelOutput) {
              extra += WRAPPING
              if (output.type === "text") texts.push(output.text)
              else extra += countFile(output)
            }
          }
          break
        case "tool-approval-request":
          texts.push(part.approvalId, part.toolCallId)
          break
        case "tool-approval-response":
          texts.push(part.approvalId, part.reason ?? "")
          break
      }
    }
  }
  return { texts, extra }
}

const bytesBound = (request: Request, options: Options, bytesPerToken: number): number => {
  const { extra, texts } = contentOf(request, options)
  // Rounded up for each text, since no token goes from one message to the next.
  return texts.reduce((sum, text) => sum + Math.ceil(utf8Length(text) / bytesPerToken), extra)
}

/** A value that cannot be JSON cannot be sent either. */
const jsonOf = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""))

const withCeiling = (request: Request, options: Options, input: number): Tokens => {
  const output = request.maxOutputTokens ?? options.maxOutputTokens
  checkCeiling(output)
  return { input: Math.min(input, Number.MAX_SAFE_INTEGER), output }
}

const check = (options: Options): void => checkCeiling(options.maxOutputTokens)

const checkCeiling = (maxOutputTokens: number): void => {
  if (!isAmount(maxOutputTokens)) {
    throw new RangeError(`Estimator: maxOutputTokens must be a whole number from 0 to 2^53 - 1, not ${maxOutputTokens}`)
  }
}

/** Counted without encoding: prompts can be large. A lone surrogate is sent as the replacement character, 3 bytes. */
const utf8Length = (text: string): number => {
  let bytes = 0
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    if (unit < 0x80) bytes += 1
    else if (unit < 0x800) bytes += 2
    else if (unit >= 0xd800 && unit < 0xdc00 && isTrail(text.charCodeAt(i + 1))) {
      bytes += 4
      i++
    } else bytes += 3
  }
  return bytes
}

const isTrail = (unit: number): boolean => unit >= 0xdc00 && unit < 0xe000
