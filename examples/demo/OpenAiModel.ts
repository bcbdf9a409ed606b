/**
 * A `LanguageModel` for any server that speaks the chat completions of OpenAI, through its own client. Text only: a prompt with
 * files or tools is refused before it is sent.
 *
 * What matters to whoever pays for it:
 *
 * - A call is one request. The client does not retry behind our back, so that each attempt is seen, and paid, by itself.
 * - An interruption ends the request, also in the middle of a stream.
 * - An error tells whether the provider did any work. After its first byte, every error is an `InternalProviderError`, whatever
 *   it says: what was delivered by then is paid for.
 */
import { Duration, Effect, Layer, Redacted, Result, Stream } from "effect"
import { AiError, LanguageModel, OpenAiStructuredOutput, type Prompt, type Response } from "effect/ai"
import { MaxOutputTokens } from "effect-budget/ai"
import OpenAI from "openai"

export interface Options {
  /** With the version, like `https://api.openai.com/v1`. */
  readonly baseUrl: string
  readonly model: string
  readonly apiKey: Redacted.Redacted
}

export const layer = (options: Options): Layer.Layer<LanguageModel.LanguageModel> =>
  Layer.effect(LanguageModel.LanguageModel, make(options))

const make = ({ apiKey, baseUrl, model }: Options): Effect.Effect<LanguageModel.LanguageModel> => {
  const client = new OpenAI({ apiKey: Redacted.value(apiKey), baseURL: baseUrl, maxRetries: 0, logLevel: "off" })
  const failure = (method: string, reason: AiError.AiErrorReason) =>
    AiError.make({ module: "OpenAiModel", method, reason })

  const request = Effect.fnUntraced(function* (method: string, options: LanguageModel.ProviderOptions) {
    const cap = yield* MaxOutputTokens
    return yield* Effect.fromResult(
      Result.map(bodyOf(options), (body) => ({ ...body, ...outputCap(baseUrl, cap), model }))
    ).pipe(Effect.mapError((reason) => failure(method, reason)))
  })

  const generateText = Effect.fnUntraced(function* (options: LanguageModel.ProviderOptions) {
    const body = yield* request("generateText", options)
    const completion = yield* Effect.tryPromise({
      try: (signal) => client.chat.completions.create(body, { signal }),
      catch: (error) => failure("generateText", reasonOf(error, baseUrl))
    })
    const [choice] = completion.choices ?? []
    if (choice === undefined) {
      const reason = new AiError.InternalProviderError({ description: "the provider answered without a choice" })
      return yield* failure("generateText", reason)
    }
    const text = choice.message.content ?? choice.message.refusal
    return [
      metadataOf(completion),
      ...(text ? [{ type: "text" as const, text }] : []),
      finishOf(choice.finish_reason, completion.usage)
    ]
  })

  const streamText = Effect.fnUntraced(function* (options: LanguageModel.ProviderOptions) {
    const body = yield* request("streamText", options)
    const signal = yield* Effect.abortSignal
    const chunks = yield* Effect.tryPromise({
      try: () =>
        client.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } }, { signal }),
      catch: (error) => failure("streamText", reasonOf(error, baseUrl))
    })
    return Stream.fromAsyncIterable(partsOf(chunks), (error) =>
      failure("streamText", new AiError.InternalProviderError({ description: messageOf(error) }))
    )
  })

  return LanguageModel.make({
    generateText,
    // The signal belongs to the scope of the stream: whoever stops reading ends the request.
    streamText: (options) => Stream.unwrap(streamText(options)),
    codecTransformer: OpenAiStructuredOutput.toCodecOpenAI
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// What is asked
// ---------------------------------------------------------------------------------------------------------------------

type Body = Omit<OpenAI.Chat.ChatCompletionCreateParamsNonStreaming, "model">

const bodyOf = (options: LanguageModel.ProviderOptions): Result.Result<Body, AiError.InvalidRequestError> => {
  if (options.tools.length > 0) return unsupported("tools")
  const messages: Array<OpenAI.Chat.ChatCompletionMessageParam> = []
  for (const message of options.prompt.content) {
    const content = textOf(message)
    if (content === undefined) return unsupported(`a message of the ${message.role} that is more than text`)
    if (message.role !== "tool") messages.push({ role: message.role, content })
  }
  return options.responseFormat.type === "text"
    ? Result.succeed({ messages })
    : Result.map(jsonSchemaOf(options.responseFormat), (response_format) => ({ messages, response_format }))
}

const unsupported = (description: string) =>
  Result.fail(new AiError.InvalidRequestError({ description: `${description}: not supported here` }))

/** Reasoning is the model's own, and not sent back. */
const textOf = ({ content }: Prompt.Message): string | undefined => {
  if (typeof content === "string") return content
  const texts: Array<string> = []
  for (const part of content) {
    if (part.type === "text") texts.push(part.text)
    else if (part.type !== "reasoning") return undefined
  }
  return texts.join("\n")
}

const jsonSchemaOf = ({
  objectName,
  schema
}: Extract<LanguageModel.ProviderOptions["responseFormat"], { readonly type: "json" }>) =>
  Result.try({
    try: () => ({
      type: "json_schema" as const,
      json_schema: { name: objectName, schema: OpenAiStructuredOutput.toCodecOpenAI(schema).jsonSchema, strict: true }
    }),
    catch: (error) => new AiError.InvalidRequestError({ description: messageOf(error) })
  })

/** OpenAI itself refuses `max_tokens` for its reasoning models; most others know nothing else. */
export const outputCap = (
  baseUrl: string,
  tokens: number | undefined
): { readonly max_tokens?: number; readonly max_completion_tokens?: number } => {
  if (tokens === undefined) return {}
  return new URL(baseUrl).hostname === "api.openai.com" ? { max_completion_tokens: tokens } : { max_tokens: tokens }
}

// ---------------------------------------------------------------------------------------------------------------------
// What is answered
// ---------------------------------------------------------------------------------------------------------------------

async function* partsOf(
  chunks: AsyncIterable<OpenAI.Chat.ChatCompletionChunk>
): AsyncGenerator<Response.StreamPartEncoded, void, undefined> {
  const id = "0"
  let begun = false
  let text = false
  let finishReason: string | undefined
  let usage: OpenAI.CompletionUsage | undefined
  try {
    for await (const chunk of chunks) {
      if (!begun) yield metadataOf(chunk)
      begun = true
      // The last one that reports usage has no choice; some servers count along, so that the latest is the right one.
      usage = chunk.usage ?? usage
      const [choice] = chunk.choices ?? []
      const delta = choice?.delta?.content ?? choice?.delta?.refusal
      if (delta) {
        if (!text) yield { type: "text-start", id }
        text = true
        yield { type: "text-delta", id, delta }
      }
      finishReason = choice?.finish_reason ?? finishReason
    }
  } catch (error) {
    // Once the model has finished, a connection that breaks costs nothing but, perhaps, the usage.
    if (finishReason === undefined) throw error
  }
  // A connection can also break in a way that looks like an end.
  if (finishReason === undefined) throw new Error("the stream ended before the model had finished")
  if (text) yield { type: "text-end", id }
  yield finishOf(finishReason, usage)
}

const metadataOf = ({
  id,
  model
}: {
  readonly id: string
  readonly model: string
}): Response.ResponseMetadataPartEncoded => ({ type: "response-metadata", id, modelId: model })

const finishOf = (reason: string, usage: OpenAI.CompletionUsage | null | undefined): Response.FinishPartEncoded => ({
  type: "finish",
  reason: FINISH_REASONS.get(reason) ?? "unknown",
  usage: usageOf(usage ?? undefined)
})

const FINISH_REASONS: ReadonlyMap<string, Response.FinishReason> = new Map([
  ["stop", "stop"],
  ["length", "length"],
  ["content_filter", "content-filter"],
  ["tool_calls", "tool-calls"],
  ["function_call", "tool-calls"]
])

/**
 * Cached input is part of the input, and reasoning is part of the output. Servers that leave reasoning out of the completion
 * still count it in the total. What is missing stays unknown, and so does what cannot be a number of tokens.
 */
const usageOf = (usage: OpenAI.CompletionUsage | undefined): Response.FinishPartEncoded["usage"] => {
  const input = countOf(usage?.prompt_tokens)
  const cacheRead = partOf(input, usage?.prompt_tokens_details?.cached_tokens)
  const completion = countOf(usage?.completion_tokens)
  const all = countOf(usage?.total_tokens)
  const output =
    completion === undefined || input === undefined || all === undefined
      ? completion
      : Math.max(completion, all - input)
  const reasoning = partOf(output, usage?.completion_tokens_details?.reasoning_tokens)
  return {
    inputTokens: { total: input, cacheRead, uncached: restOf(input, cacheRead) },
    outputTokens: { total: output, reasoning, text: restOf(output, reasoning) }
  }
}

const countOf = (tokens: unknown): number | undefined =>
  typeof tokens === "number" && Number.isSafeInteger(tokens) && tokens >= 0 ? tokens : undefined

/** A part that is not told is none; one that is more than the whole is the whole. */
const partOf = (whole: number | undefined, tokens: unknown): number | undefined =>
  whole === undefined ? undefined : Math.min(whole, countOf(tokens) ?? 0)

const restOf = (whole: number | undefined, part: number | undefined): number | undefined =>
  whole === undefined || part === undefined ? undefined : whole - part

// ---------------------------------------------------------------------------------------------------------------------
// What goes wrong
// ---------------------------------------------------------------------------------------------------------------------

/** Before an answer has begun; but a body that breaks off comes here too. */
const reasonOf = (error: unknown, baseUrl: string): AiError.AiErrorReason => {
  const description = messageOf(error)
  // It had the request for minutes, so it may have worked on it.
  if (error instanceof OpenAI.APIConnectionTimeoutError) return new AiError.InternalProviderError({ description })
  if (error instanceof OpenAI.APIConnectionError) {
    const url = `${baseUrl.replace(/\/+$/, "")}/chat/completions`
    return new AiError.NetworkError({ reason: "TransportError", method: "POST", url, description })
  }
  if (!(error instanceof OpenAI.APIError)) {
    // Neither HTTP nor the client itself: the body broke off, or it is not JSON.
    return error instanceof OpenAI.OpenAIError
      ? new AiError.UnknownError({ description })
      : new AiError.InternalProviderError({ description })
  }
  const { code, headers, param, status, type } = error
  // The headers may hold cookies, and say nothing else that matters here. Some reasons have no description, but all have a body.
  const http = { response: { status: status ?? 0, headers: {} }, body: description }
  const details = { description, http }
  switch (status) {
    case 400:
    case 404:
    case 413:
    case 422:
      return new AiError.InvalidRequestError({ ...details, ...(typeof param === "string" && { parameter: param }) })
    case 401:
      return new AiError.AuthenticationError({ ...details, kind: "InvalidKey" })
    case 403:
      return new AiError.AuthenticationError({ ...details, kind: "InsufficientPermissions" })
    case 402:
      return new AiError.QuotaExhaustedError(details)
    case 429:
      return code === "insufficient_quota" || type === "insufficient_quota"
        ? new AiError.QuotaExhaustedError(details)
        : new AiError.RateLimitError({ ...details, ...retryAfterOf(headers) })
    default:
      return status !== undefined && status >= 500
        ? new AiError.InternalProviderError(details)
        : new AiError.UnknownError(details)
  }
}

/** Seconds, or a date, which is read against the clock of the server. */
const retryAfterOf = (headers: Headers | undefined): { readonly retryAfter?: Duration.Duration } => {
  const header = headers?.get("retry-after")
  if (!header) return {}
  const date = Date.parse(headers?.get("date") ?? "")
  const millis = /^[\d.]+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - date
  return Number.isFinite(millis) ? { retryAfter: Duration.millis(Math.max(0, millis)) } : {}
}

/** The innermost cause says most: the client says `Connection error.`, its cause `connect ECONNREFUSED`. */
const messageOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error)
  return error.cause === undefined ? error.message : `${error.message} (${messageOf(error.cause)})`
}
