/** What is known of one request: what was held for it, and what its model has answered so far. */
import * as Cause from "effect/Cause"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import { AiError, type Response } from "effect/ai"
import { saturate } from "../../internal/amount.ts"
import type * as Reservation from "../../Reservation.ts"
import type { Request as EstimateRequest } from "../Estimator.ts"
import * as TokenUsage from "../TokenUsage.ts"

export interface Request<A> {
  readonly reservation: Reservation.Reservation<A>
  /** What the estimator was asked. */
  readonly asked: EstimateRequest
  /** The estimate, as far as it was granted. */
  readonly held: TokenUsage.TokenUsage
  /** The most output that the model is told. */
  readonly maxOutputTokens: number
  sent: boolean
  settled: boolean
  /** Whether the provider has answered anything: then it has not turned the request away, whatever fails later. */
  answered: boolean
  /** Whether anything came out of the model: then its output is not 0 tokens, whatever is reported. */
  spoke: boolean
  /** Whether a tool was called, or a file came: then there was more than the texts tell. */
  hidden: boolean
  /** How the model itself failed, whatever became of those who read its answer. */
  failure: Cause.Cause<unknown> | undefined
  reported: TokenUsage.Reported | undefined
  /** Whether a stream went on after it: then there was more than was reported. */
  stale: boolean
  /** What a stream has delivered. */
  text: string
  reasoning: string
}

export const make = <A>(
  reservation: Reservation.Reservation<A>,
  asked: EstimateRequest,
  held: TokenUsage.TokenUsage,
  maxOutputTokens: number
): Request<A> => ({
  reservation,
  asked,
  held,
  maxOutputTokens,
  sent: false,
  settled: false,
  answered: false,
  spoke: false,
  hidden: false,
  failure: undefined,
  reported: undefined,
  stale: false,
  text: "",
  reasoning: ""
})

export type Part = { readonly type: string }

/** Takes down all that a provider has answered, if only that it has. */
export const seeAll = <A>(request: Request<A>, parts: ReadonlyArray<Part>): void => {
  request.answered = true
  see(request, parts)
}

/** Takes down what a provider answers. */
export const see = <A>(request: Request<A>, parts: ReadonlyArray<Part>): void => {
  for (const part of parts) {
    // Tools that were approved earlier have their results before the request is sent.
    if (
      part.type === "tool-result" &&
      (part as Response.ToolResultPart<string, unknown, unknown>).providerExecuted !== true
    )
      continue
    request.answered = true
    if (part.type === "finish") {
      const { usage } = part as Response.FinishPart
      request.reported = {
        inputTokens: largest(request.reported?.inputTokens, usage.inputTokens),
        outputTokens: largest(request.reported?.outputTokens, usage.outputTokens)
      }
      request.stale = false
      continue
    }
    if (part.type === "tool-call" || part.type === "file") request.hidden = true
    if (request.hidden || has(part, "text")) request.spoke = true
    if (!has(part, "delta")) continue
    request.spoke = true
    request.stale = request.reported !== undefined
    if (part.type === "reasoning-delta") request.reasoning += part.delta
    else request.text += part.delta
  }
}

const has = <Key extends "delta" | "text">(part: Part, key: Key): part is Part & { readonly [K in Key]: string } =>
  Predicate.hasProperty(part, key) && typeof part[key] === "string" && part[key] !== ""

/** Usage may come in parts, or anew as it grows, or twice the same: of each number, the largest. */
const largest = <Counts extends Readonly<Record<string, number | undefined>>>(
  before: Counts | undefined,
  after: Counts
): Counts => {
  const counts: Record<string, number | undefined> = { ...before }
  for (const [name, count] of Object.entries(after)) {
    const [one, other] = [saturate(counts[name]), saturate(count)]
    counts[name] = one === undefined ? other : Math.max(one, other ?? 0)
  }
  return counts as Counts
}

/** The usage that was reported, unless it cannot be true: no request is without input, and what was said is not nothing. */
export const believed = <A>({ reported, spoke, stale }: Request<A>): TokenUsage.TokenUsage | undefined => {
  const usage = Option.getOrUndefined(TokenUsage.fromReported(reported))
  if (usage === undefined || stale || TokenUsage.totalInput(usage) === 0) return undefined
  return spoke && TokenUsage.totalOutput(usage) === 0 ? undefined : usage
}

/** A count of ours; of what was reported beside it, though not to be believed as a whole, the side that is more. */
export const atLeast = (
  counted: TokenUsage.TokenUsage,
  reported: TokenUsage.Reported | undefined
): TokenUsage.TokenUsage => {
  const known = TokenUsage.atLeast(reported)
  const { cacheRead, cacheWrite, input } =
    TokenUsage.totalInput(known) > TokenUsage.totalInput(counted) ? known : counted
  const { output, reasoning } = TokenUsage.totalOutput(known) > TokenUsage.totalOutput(counted) ? known : counted
  return { input, cacheRead, cacheWrite, output, reasoning }
}

/** What a provider answers, or this side finds, before the model has done any work. */
const TURNED_AWAY: ReadonlySet<string> = new Set([
  "RateLimitError",
  "QuotaExhaustedError",
  "AuthenticationError",
  "InvalidRequestError",
  "NetworkError",
  "InvalidUserInputError",
  "UnsupportedSchemaError",
  "ToolConfigurationError",
  "ToolkitRequiredError"
])

export const wasTurnedAway = <A>({ answered, failure }: Request<A>): boolean => {
  if (answered || failure === undefined) return false
  const error = Option.getOrUndefined(Cause.findErrorOption(failure))
  return AiError.isAiError(error) && TURNED_AWAY.has(error.reason._tag)
}
