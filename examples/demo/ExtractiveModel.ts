/**
 * A `LanguageModel` that needs no key and no network: it answers with the two sentences of the prompt that say most, and reports
 * how many tokens it was asked and how many it answered, counted by a tokenizer of real models (cl100k_base).
 */
import { Duration, Effect, Layer, Stream } from "effect"
import { LanguageModel, type Prompt, type Response, Tokenizer } from "effect/ai"
import { decode, encode } from "gpt-tokenizer/encoding/cl100k_base"

export interface Options {
  readonly maxOutputTokens: number
  /** How fast it pretends to read. */
  readonly tokensPerSecond: number
}

export const layer = (options: Options): Layer.Layer<LanguageModel.LanguageModel | Tokenizer.Tokenizer> =>
  Layer.merge(
    Layer.effect(LanguageModel.LanguageModel, make(options)),
    Layer.succeed(
      Tokenizer.Tokenizer,
      Tokenizer.make({ tokenize: (prompt) => Effect.sync(() => tokensOf(textOf(prompt))) })
    )
  )

const make = ({ maxOutputTokens, tokensPerSecond }: Options) => {
  const answer = Effect.fnUntraced(function* (prompt: Prompt.Prompt) {
    const text = textOf(prompt)
    const asked = tokensOf(text).length
    yield* Effect.sleep(Duration.seconds(0.05 + asked / tokensPerSecond))
    const summary = clip(summaryOf(text), maxOutputTokens)
    const finish: Response.FinishPartEncoded = {
      type: "finish",
      reason: "stop",
      // No request is without input.
      usage: { inputTokens: { total: Math.max(1, asked) }, outputTokens: { total: tokensOf(summary).length } }
    }
    return { summary, finish }
  })
  return LanguageModel.make({
    generateText: ({ prompt }) =>
      Effect.map(answer(prompt), ({ finish, summary }) => [{ type: "text", text: summary }, finish]),
    streamText: ({ prompt }) =>
      Stream.fromIterableEffect(
        Effect.map(answer(prompt), ({ finish, summary }): Array<Response.StreamPartEncoded> => [
          { type: "text-start", id: "0" },
          { type: "text-delta", id: "0", delta: summary },
          { type: "text-end", id: "0" },
          finish
        ])
      )
  })
}

const textOf = (prompt: Prompt.Prompt): string =>
  prompt.content
    .flatMap(({ content }) =>
      typeof content === "string" ? content : content.map((part) => (part.type === "text" ? part.text : ""))
    )
    .join("\n")

/**
 * The tokenizer takes time by the square of the length of a word, so a file of one endless word is cut. Names of special tokens
 * are text like any other.
 */
const tokensOf = (text: string): Array<number> =>
  text.split(/(\S{1000}|\s{1000})/u).flatMap((piece) => encode(piece, { disallowedSpecial: new Set() }))

const clip = (text: string, maxTokens: number): string => {
  let clipped = text
  for (let keep = maxTokens; tokensOf(clipped).length > maxTokens; keep--) {
    clipped = decode(tokensOf(text).slice(0, keep)).replace(/\ufffd+$/, "")
  }
  return clipped
}

/** The two sentences whose words are the most frequent ones of the text, in their own order. */
const summaryOf = (text: string): string => {
  const sentences = sentencesOf(text)
  const frequencies = new Map<string, number>()
  for (const word of sentences.flatMap(wordsOf)) frequencies.set(word, (frequencies.get(word) ?? 0) + 1)
  const scoreOf = (sentence: string): number => {
    const words = wordsOf(sentence)
    // The constant keeps the shortest sentences behind.
    return words.reduce((sum, word) => sum + Math.log(1 + frequencies.get(word)!), 0) / (words.length + 8)
  }
  return sentences
    .map((sentence, position) => ({ sentence, position, score: scoreOf(sentence) }))
    .toSorted((a, b) => b.score - a.score || a.position - b.position)
    .slice(0, 2)
    .toSorted((a, b) => a.position - b.position)
    .map(({ sentence }) => sentence)
    .join(" ")
}

/** The sentences of the prose, without what looks like code; its lines, if there is no prose. */
const sentencesOf = (text: string): ReadonlyArray<string> => {
  const lines = text.split("\n").map((line) => line.replace(/^[\s/*#>|-]+/, "").trimEnd())
  const prose = lines
    .map((line) => (CODE.test(line) ? "" : line))
    .join("\n")
    .split(/\n{2,}/)
    .flatMap((paragraph) => paragraph.replace(/\s+/g, " ").match(SENTENCE) ?? [])
  return prose.length > 0 ? prose : lines.filter((line) => line !== "").map((line) => line.slice(0, 100))
}

const CODE = /[{}=;]|\w[<|]| [<|]|\($|\) ?[,:]|^(?:import|readonly|return) |^["'`\])]/
const SENTENCE = /(?<!\S)\p{Lu}(?:[^.!?]|[.!?](?! |$)){15,300}?[.!?](?= |$)/gu

/** Short words connect, and say little. */
const wordsOf = (sentence: string): ReadonlyArray<string> => sentence.toLowerCase().match(/\p{L}{4,}/gu) ?? []
