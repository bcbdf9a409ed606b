/**
 * An HTTP server on loopback that speaks the chat completions of OpenAI, in one piece or as server-sent events. What it answers
 * is scripted by the test; what it was asked, and how much it wrote before the client went away, is kept, so that a test can hold
 * its books against what was delivered. It ends with its scope, and so do its sockets.
 *
 * Each chunk of an answer counts as one token; `words(n)` are chunks that a tokenizer (cl100k_base) counts the same way.
 */
import { Context, Data, Deferred, Effect, Exit, FiberSet, Layer, Schema, type Scope } from "effect"
import { encode } from "gpt-tokenizer/encoding/cl100k_base"
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

// ---------------------------------------------------------------------------------------------------------------------
// What the test says
// ---------------------------------------------------------------------------------------------------------------------

/** How one request is answered. */
export type Reply = Answer | Refusal | HangUp

export interface Answer {
  readonly _tag: "Answer"
  /** What the model says, a token each. `max_tokens` cuts it. */
  readonly chunks: ReadonlyArray<string>
  /** Default: what a tokenizer counts in the messages. */
  readonly promptTokens?: number
  /** How many of the prompt were read from a cache. */
  readonly cachedTokens?: number
  /** Tokens before the first chunk, that nobody sees. They are output, and `max_tokens` cuts them too. */
  readonly reasoningTokens?: number
  /** What is told in place of the true usage; `undefined` tells none. */
  readonly report?: (usage: Usage) => unknown
  /** Runs before the head of the answer is sent. */
  readonly beforeHead?: Effect.Effect<void>
  /**
   * Runs before each chunk, by its number from 0, and once more before what comes after the last one, also if the connection
   * breaks there. A latch, or a sleep on the clock of the test.
   */
  readonly beforeChunk?: (index: number) => Effect.Effect<void>
  /** The connection breaks after so many chunks, and before what comes after the last one. */
  readonly disconnectAfter?: number
  /** The body ends after so many chunks as if nothing were missing. */
  readonly truncateAfter?: number
  /** A stream says after so many chunks that something is wrong, in an event of its own, and ends. */
  readonly errorAfter?: number
}

/** The request is turned away. */
export interface Refusal {
  readonly _tag: "Refusal"
  readonly status: number
  readonly error: {
    readonly message: string
    readonly type?: string
    readonly code?: string | null
    readonly param?: string | null
  }
  readonly headers?: Readonly<Record<string, string>>
}

/** The connection ends without one byte of an answer. */
export interface HangUp {
  readonly _tag: "HangUp"
}

export const answer = (chunks: ReadonlyArray<string>, options?: Omit<Answer, "_tag" | "chunks">): Answer => ({
  _tag: "Answer",
  chunks,
  ...options
})

export const refusal = (status: number, message: string, options?: Partial<Refusal["error"] & Refusal>): Refusal => {
  const { headers, ...error } = options ?? {}
  return { _tag: "Refusal", status, error: { message, ...error }, ...(headers && { headers }) }
}

export const rateLimited = (retryAfter: string): Refusal => ({
  _tag: "Refusal",
  status: 429,
  error: { message: "Rate limit reached", type: "requests", code: "rate_limit_exceeded" },
  headers: { "retry-after": retryAfter }
})

export const hangUp: HangUp = { _tag: "HangUp" }

/** Chunks that are one token each, also when they are counted together. */
export const words = (count: number): ReadonlyArray<string> => Array.from({ length: count }, () => " word")

/** Answers the first request with the first reply, and so on. A request too many is a 500, which no test mistakes for another. */
export const script = (...replies: ReadonlyArray<Reply>): Handler => {
  let next = 0
  return () => Effect.sync(() => replies[next++] ?? refusal(500, `the script has ${replies.length} replies`))
}

export type Handler = (exchange: Exchange) => Effect.Effect<Reply>

// ---------------------------------------------------------------------------------------------------------------------
// What the test sees
// ---------------------------------------------------------------------------------------------------------------------

/** How a request ended, as the server sees it. */
export type Ending = "completed" | "refused" | "disconnected" | "clientGone"

export interface Exchange {
  /** The number of the request, from 0. */
  readonly index: number
  readonly headers: IncomingHttpHeaders
  readonly body: ChatRequest
  readonly promptTokens: number
  /** Chunks that are written to the socket by now. */
  readonly written: number
  /** Output tokens that the model has made by now: what a provider bills, reasoning included. */
  readonly generated: number
  /** Settled when the connection is done with this request. */
  readonly ended: Deferred.Deferred<Ending>
}

export interface Usage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
  readonly prompt_tokens_details: { readonly cached_tokens: number }
  readonly completion_tokens_details: { readonly reasoning_tokens: number }
}

const Message = Schema.Struct({ role: Schema.String, content: Schema.String })

export type ChatRequest = typeof ChatRequest.Type
const ChatRequest = Schema.Struct({
  model: Schema.String,
  messages: Schema.NonEmptyArray(Message),
  stream: Schema.optional(Schema.Boolean),
  stream_options: Schema.optional(Schema.Struct({ include_usage: Schema.optional(Schema.Boolean) })),
  max_tokens: Schema.optional(Schema.Int.check(Schema.isGreaterThan(0))),
  max_completion_tokens: Schema.optional(Schema.Int.check(Schema.isGreaterThan(0))),
  response_format: Schema.optional(Schema.Json)
})

// ---------------------------------------------------------------------------------------------------------------------
// The server
// ---------------------------------------------------------------------------------------------------------------------

export class OpenAiServer extends Context.Service<
  OpenAiServer,
  {
    /** With the version, as clients want it. */
    readonly baseUrl: string
    /** All requests so far that could be read, in the order in which they came. */
    readonly exchanges: ReadonlyArray<Exchange>
    /** Connections that are open now. */
    readonly connections: Effect.Effect<number>
  }
>()("test/OpenAiServer") {
  static readonly layer = (handler: Handler): Layer.Layer<OpenAiServer> => Layer.effect(OpenAiServer, make(handler))
}

export const make: (handler: Handler) => Effect.Effect<OpenAiServer["Service"], never, Scope.Scope> = Effect.fnUntraced(
  function* (handler) {
    const exchanges: Array<Exchange> = []
    const server = createServer()
    const port = yield* Effect.acquireRelease(
      Effect.callback<number>((resume) => {
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed((server.address() as AddressInfo).port)))
      }),
      () =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          server.closeAllConnections()
        })
    )
    // After the server in the scope, so that they end before it.
    const run = yield* FiberSet.makeRuntime()
    server.on("request", (request, response) => {
      const fiber = run(serve(handler, exchanges, request, response))
      // Also at the end of a whole answer, when there is nothing left to interrupt.
      response.on("close", () => fiber.interruptUnsafe())
    })
    return {
      baseUrl: `http://127.0.0.1:${port}/v1`,
      exchanges,
      connections: Effect.callback<number>((resume) => {
        server.getConnections((_, count) => resume(Effect.succeed(count)))
      })
    }
  }
)

const serve = Effect.fnUntraced(function* (
  handler: Handler,
  exchanges: Array<Exchange>,
  request: IncomingMessage,
  response: ServerResponse
) {
  const ended = Deferred.makeUnsafe<Ending>()
  const text = yield* read(request)
  if (request.method !== "POST" || request.url !== "/v1/chat/completions") {
    return yield* refuse({ ended }, response, refusal(404, `Unknown request URL: ${request.method} ${request.url}`))
  }
  const decoded = yield* Effect.exit(Schema.decodeUnknownEffect(Schema.fromJsonString(ChatRequest))(text))
  if (Exit.isFailure(decoded)) {
    return yield* refuse({ ended }, response, refusal(400, "Invalid body", { type: "invalid_request_error" }))
  }
  const body = decoded.value
  const exchange = {
    index: exchanges.length,
    headers: request.headers,
    body,
    promptTokens: encode(body.messages.map(({ content }) => content).join("\n")).length,
    written: 0,
    generated: 0,
    ended
  }
  exchanges.push(exchange)
  yield* Effect.flatMap(handler(exchange), (reply) => respond(exchange, reply, response)).pipe(
    Effect.catchTag("ClientGone", () => Effect.void),
    Effect.ensuring(Effect.sync(() => settle(exchange, "clientGone")))
  )
})

const respond = Effect.fnUntraced(function* (
  exchange: { -readonly [Key in keyof Exchange]: Exchange[Key] },
  reply: Reply,
  response: ServerResponse
): Effect.fn.Return<void, ClientGone> {
  if (reply._tag === "HangUp") return yield* disconnect(exchange, response)
  if (reply._tag === "Refusal") return yield* refuse(exchange, response, reply)
  const { body } = exchange
  const {
    beforeChunk = () => Effect.void,
    cachedTokens = 0,
    disconnectAfter = Infinity,
    errorAfter,
    truncateAfter
  } = reply
  if (reply.promptTokens !== undefined) exchange.promptTokens = reply.promptTokens

  const cap = body.max_completion_tokens ?? body.max_tokens ?? Infinity
  const reasoning = Math.min(cap, reply.reasoningTokens ?? 0)
  const chunks = reply.chunks.slice(0, cap - reasoning)
  const finish_reason = chunks.length < reply.chunks.length ? "length" : "stop"
  const promptTokens = exchange.promptTokens
  const usage: Usage = {
    prompt_tokens: promptTokens,
    completion_tokens: reasoning + chunks.length,
    total_tokens: promptTokens + reasoning + chunks.length,
    prompt_tokens_details: { cached_tokens: cachedTokens },
    completion_tokens_details: { reasoning_tokens: reasoning }
  }
  const reported = reply.report === undefined ? usage : reply.report(usage)
  const common = { id: `chatcmpl-${exchange.index}`, created: 0, model: body.model }

  if (reply.beforeHead !== undefined) yield* reply.beforeHead
  exchange.generated = reasoning

  if (body.stream !== true) {
    for (let i = 0; i <= chunks.length; i++) {
      yield* beforeChunk(i)
      if (i === disconnectAfter) break
      if (i < chunks.length) exchange.generated++
    }
    const message = { role: "assistant", content: chunks.join(""), refusal: null }
    const completion = JSON.stringify({
      ...common,
      object: "chat.completion",
      choices: [{ index: 0, message, logprobs: null, finish_reason }],
      usage: reported
    })
    const broken = disconnectAfter <= chunks.length
    response.writeHead(200, { "content-type": "application/json" })
    yield* write(response, broken ? completion.slice(0, completion.length / 2) : completion)
    if (broken) return yield* disconnect(exchange, response)
    exchange.written = chunks.length
    return yield* end(exchange, response)
  }

  const withUsage = body.stream_options?.include_usage === true && reported !== undefined
  const event = (choices: ReadonlyArray<unknown>, usage: unknown = null, written?: () => void) => {
    const chunk = { ...common, object: "chat.completion.chunk", choices, ...(withUsage && { usage }) }
    return write(response, `data: ${JSON.stringify(chunk)}\n\n`, written)
  }
  const choice = (delta: object, finish_reason: string | null = null) => [
    { index: 0, delta, logprobs: null, finish_reason }
  ]

  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" })
  yield* event(choice({ role: "assistant", content: "", refusal: null }))
  for (let i = 0; i <= chunks.length; i++) {
    yield* beforeChunk(i)
    if (i === disconnectAfter) return yield* disconnect(exchange, response)
    if (i === truncateAfter) return yield* end(exchange, response)
    if (i === errorAfter) {
      const error = { message: "Overloaded", type: "server_error", code: "rate_limit_exceeded", param: null }
      yield* write(response, `data: ${JSON.stringify({ error })}\n\n`)
      return yield* end(exchange, response)
    }
    if (i === chunks.length) break
    exchange.generated++
    yield* event(choice({ content: chunks[i] }), null, () => exchange.written++)
  }
  yield* event(choice({}, finish_reason))
  if (withUsage) yield* event([], reported)
  yield* write(response, "data: [DONE]\n\n")
  return yield* end(exchange, response)
})

class ClientGone extends Data.TaggedError("ClientGone")<{}> {}

/** At once, and not at the end of the fiber: the connection closes with it, which interrupts whoever serves it. */
const settle = (exchange: Pick<Exchange, "ended">, ending: Ending) =>
  Deferred.doneUnsafe(exchange.ended, Exit.succeed(ending))

const disconnect = (exchange: Exchange, response: ServerResponse): Effect.Effect<void> =>
  Effect.sync(() => {
    settle(exchange, "disconnected")
    response.destroy()
  })

const refuse = (exchange: Pick<Exchange, "ended">, response: ServerResponse, { error, headers, status }: Refusal) =>
  Effect.suspend(() => {
    response.writeHead(status, { "content-type": "application/json", ...headers })
    const body = JSON.stringify({ error: { type: null, code: null, param: null, ...error } })
    return Effect.andThen(write(response, body), end(exchange, response, "refused"))
  })

/** Done when the bytes are with the kernel. `written` runs then, even if the request is interrupted meanwhile. */
const write = (response: ServerResponse, text: string, written?: () => void): Effect.Effect<void, ClientGone> =>
  Effect.callback((resume) => {
    response.write(text, (error) => {
      if (!error) written?.()
      resume(error ? Effect.fail(new ClientGone()) : Effect.void)
    })
  })

const end = (
  exchange: Pick<Exchange, "ended">,
  response: ServerResponse,
  ending: Ending = "completed"
): Effect.Effect<void> =>
  Effect.callback((resume) => {
    response.end(() => {
      if (response.writableFinished) settle(exchange, ending)
      resume(Effect.void)
    })
  })

const read = (request: IncomingMessage): Effect.Effect<string> =>
  Effect.callback((resume) => {
    let text = ""
    request
      .setEncoding("utf8")
      .on("data", (part: string) => (text += part))
      .on("end", () => resume(Effect.succeed(text)))
  })
