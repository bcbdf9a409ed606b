/**
 * What one call of a model used, by the classes that are priced apart. The classes are disjoint: no token is counted twice,
 * whatever the provider's own convention.
 *
 * What comes in is the `Usage` of `effect/ai`, as the client of a provider fills it in. The providers count differently:
 *
 * - OpenAI: `prompt_tokens` includes `prompt_tokens_details.cached_tokens`, `completion_tokens` includes
 *   `completion_tokens_details.reasoning_tokens`; a call tells no cache writes.
 * - Anthropic: `input_tokens` excludes `cache_read_input_tokens` and `cache_creation_input_tokens`; `output_tokens` includes
 *   the thinking.
 * - Gemini: `promptTokenCount` includes `cachedContentTokenCount`; `candidatesTokenCount` excludes `thoughtsTokenCount`.
 * - xAI: `completion_tokens` excludes `reasoning_tokens`.
 *
 * A client may pass a number on by its provider's convention, or add up first. So a report is read by its own numbers:
 *
 * 1. A `total` includes its parts (cache reads and writes, or reasoning), as the fields of `Usage` are defined, unless the
 *    `Convention` says that it does not, or the parts are more than the total: then it cannot include them.
 * 2. Where the rest (`uncached`, `text`) is reported too and the two disagree, the larger one counts.
 *
 * A contradiction is therefore never charged less than any class, nor less than the total.
 */
import * as Option from "effect/Option"
import { saturate } from "../internal/amount.ts"

/** Tokens by class, each a whole number from 0 to 2^53 - 1. */
export interface TokenUsage {
  /** Input that was neither read from a cache nor written to one. */
  readonly input: number
  readonly cacheRead: number
  readonly cacheWrite: number
  /** Output that is not reasoning. */
  readonly output: number
  readonly reasoning: number
}

/**
 * What a provider's client reports: a `Response.Usage` of `effect/ai` is one. Never trusted: fractions count up, what is too
 * large counts as 2^53 - 1, and what is negative or not a number counts as missing.
 */
export interface Reported {
  readonly inputTokens?:
    | {
        readonly uncached?: number | undefined
        readonly total?: number | undefined
        readonly cacheRead?: number | undefined
        readonly cacheWrite?: number | undefined
      }
    | undefined
  readonly outputTokens?:
    | {
        readonly total?: number | undefined
        readonly text?: number | undefined
        readonly reasoning?: number | undefined
      }
    | undefined
}

/**
 * Where a client's totals leave parts out, for one that copies the numbers of such a provider: 500 tokens of `total` with 300
 * of reasoning look the same either way. Default `"inside"` for both.
 */
export interface Convention {
  /** Cache reads and writes, to the total of the input. `"outside"`: Anthropic's own counts. */
  readonly cache?: "inside" | "outside" | undefined
  /** Reasoning, to the total of the output. `"outside"`: Gemini's and xAI's own counts. */
  readonly reasoning?: "inside" | "outside" | undefined
}

/** No tokens. */
export const zero: TokenUsage = { input: 0, cacheRead: 0, cacheWrite: 0, output: 0, reasoning: 0 }

const clamp = (sum: number): number => Math.min(sum, Number.MAX_SAFE_INTEGER)

/** What is left of a total beside its parts, by the rules above; `undefined` when nothing tells it. */
const rest = (
  total: number | undefined,
  reported: number | undefined,
  parts: number,
  outside: boolean
): number | undefined =>
  total === undefined ? reported : Math.max(reported ?? 0, outside || parts > total ? total : total - parts)

const decode = (reported: Reported | undefined, convention: Convention | undefined) => {
  const cacheRead = saturate(reported?.inputTokens?.cacheRead) ?? 0
  const cacheWrite = saturate(reported?.inputTokens?.cacheWrite) ?? 0
  const reasoning = saturate(reported?.outputTokens?.reasoning) ?? 0
  const input = rest(
    saturate(reported?.inputTokens?.total),
    saturate(reported?.inputTokens?.uncached),
    cacheRead + cacheWrite,
    convention?.cache === "outside"
  )
  const output = rest(
    saturate(reported?.outputTokens?.total),
    saturate(reported?.outputTokens?.text),
    reasoning,
    convention?.reasoning === "outside"
  )
  return { input, cacheRead, cacheWrite, output, reasoning }
}

/**
 * The usage that a provider reported, by disjoint classes. None when the input or the output is unknown (neither a total nor
 * its rest is there): unknown is never zero. `atLeast` says what is known even then.
 *
 * ```ts
 * import { Option } from "effect"
 * import { TokenUsage } from "effect-budget/ai"
 *
 * const usage = TokenUsage.fromReported({
 *   inputTokens: { total: 1_000, cacheRead: 800 },
 *   outputTokens: { total: 500, reasoning: 300 }
 * })
 * const { input, cacheRead, output, reasoning } = Option.getOrThrow(usage)
 * console.log(input, cacheRead, output, reasoning) // 200 800 200 300
 * ```
 */
export const fromReported = (
  reported: Reported | undefined,
  convention?: Convention | undefined
): Option.Option<TokenUsage> => {
  const decoded = decode(reported, convention)
  const { input, output } = decoded
  return input === undefined || output === undefined ? Option.none() : Option.some({ ...decoded, input, output })
}

/** What a report proves, whether it is whole or not: classes that it does not tell are 0, so this is a lower bound. */
export const atLeast = (reported: Reported | undefined, convention?: Convention | undefined): TokenUsage => {
  const decoded = decode(reported, convention)
  return { ...decoded, input: decoded.input ?? 0, output: decoded.output ?? 0 }
}

/** All tokens that went in: uncached, read from a cache and written to one. At most 2^53 - 1. */
export const totalInput = (usage: TokenUsage): number => clamp(usage.input + usage.cacheRead + usage.cacheWrite)

/** All tokens that came out, reasoning included. At most 2^53 - 1. */
export const totalOutput = (usage: TokenUsage): number => clamp(usage.output + usage.reasoning)

/** All tokens of all classes. At most 2^53 - 1. */
export const total = (usage: TokenUsage): number => clamp(totalInput(usage) + totalOutput(usage))

/** The sum, class by class. A class stops at 2^53 - 1. */
export const plus = (self: TokenUsage, that: TokenUsage): TokenUsage => ({
  input: clamp(self.input + that.input),
  cacheRead: clamp(self.cacheRead + that.cacheRead),
  cacheWrite: clamp(self.cacheWrite + that.cacheWrite),
  output: clamp(self.output + that.output),
  reasoning: clamp(self.reasoning + that.reasoning)
})
