/**
 * A `LanguageModel` under budget, with no change to the code that calls it: `generateText`, `generateObject`, `streamText`,
 * `Chat`, tool calls and `ExecutionPlan` reserve an estimate before each request and settle what the provider reports. One
 * request is one reservation, also for each step of a tool loop and each attempt of a retry.
 *
 * What a request is charged, and why (`source`):
 *
 * - `reported`: the usage that the provider reported
 * - `delivered`: the stream was cut before usage came; the estimated input, and what was delivered (counted by the `Tokenizer`
 *   of the context if there is one, else by the estimator)
 * - `estimated`: nothing is known (also of a stream that was cut while tools were called), so all that was held
 * - nothing, when the request never reached the model: it was turned away (429, quota, credentials, a wrong request, no
 *   connection) or never sent
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { AiError, LanguageModel, Prompt, type Response, Telemetry, Tokenizer } from "effect/ai"
import { BudgetExceeded, FailedReservation } from "../BudgetError.ts"
import { encode, TypeId } from "../internal/reservable.ts"
import type * as Reservation from "../Reservation.ts"
import type { Usd } from "../Usd.ts"
import { Estimator } from "./Estimator.ts"
import { MaxOutputTokens } from "./MaxOutputTokens.ts"
import { Pricing, UnknownPrice } from "./Pricing.ts"
import * as TokenUsage from "./TokenUsage.ts"

/** What a request used, or may use: in the terms that a budget's amounts are made of. */
export interface Use {
  readonly usage: TokenUsage.TokenUsage
  /** All tokens of the usage. */
  readonly tokens: number
}

/** The same with its price in nano-dollars. */
export interface PricedUse extends Use {
  readonly cost: Usd
}

/** Where the charge of a request comes from. */
export type Source = "reported" | "delivered" | "estimated"

/** A request that was settled. `source` is `undefined` when it was refunded whole. */
export interface Charge<A> {
  readonly source: Source | undefined
  readonly settlement: Reservation.Settlement<A>
}

/** How requests are reserved and settled. */
export interface Options<in out A, in U> {
  /** The amount of the budget (a number, a record for a policy) that a use is worth. It must not fall when the use grows. */
  readonly amounts: (use: U) => A
  /**
   * The most output tokens of one request, at least 1. The model is told (see `MaxOutputTokens`), and what the estimator makes of it
   * is reserved: all of them, unless it has learned that fewer will do.
   */
  readonly maxOutputTokens: number
  /** Names the model for the estimator. */
  readonly model?: string | undefined
  /**
   * What is charged when a request was sent and its usage never came: `delivered` (the default) is the estimated input and what
   * was delivered, or the hold if nothing was; `hold` is always the hold.
   */
  readonly whenUsageUnknown?: "delivered" | "hold" | undefined
  /**
   * Goes on with fewer output tokens when there is not enough for `maxOutputTokens`: at least this many (at least 1). Without it,
   * such a request is denied, or waits.
   */
  readonly minOutputTokens?: number | undefined
  /** Told of every request that was settled. */
  readonly onCharge?: ((charge: Charge<A>) => Effect.Effect<void>) | undefined
  /** Passed on to the reservation. */
  readonly reservation?: Reservation.Options | undefined
}

/** The options where dollars are reserved too. */
export interface PricedOptions<in out A> extends Options<A, PricedUse> {
  /** Names the model for its price. */
  readonly model: string
  readonly provider?: string | undefined
}

/**
 * Puts the `LanguageModel` of the context under a budget of tokens or rows.
 *
 * Denials are an `AiError` (the error channel of a `LanguageModel` is closed): `RateLimitError` with its `retryAfter` when time
 * alone will help, else `QuotaExhaustedError`. `denialOf` and `typed` get the budget's own error back.
 */
export const layer = <I, A>(
  budget: Context.Key<I, Reservation.Reservable<A>>,
  options: Options<A, Use>
): Layer.Layer<LanguageModel.LanguageModel, never, LanguageModel.LanguageModel | I | Estimator> =>
  Layer.effect(
    LanguageModel.LanguageModel,
    Effect.gen(function* () {
      const amounts = (use: Use) => Effect.succeed(options.amounts(use))
      return wrap(yield* LanguageModel.LanguageModel, yield* budget, yield* Estimator, options, amounts, amounts)
    })
  )

/**
 * Puts the `LanguageModel` of the context under a budget of dollars, tokens and rows, at the price of its model. A model without
 * a known price is refused: a `QuotaExhaustedError` whose metadata names it.
 */
export const layerPriced = <I, A>(
  budget: Context.Key<I, Reservation.Reservable<A>>,
  options: PricedOptions<A>
): Layer.Layer<LanguageModel.LanguageModel, never, LanguageModel.LanguageModel | I | Estimator | Pricing> =>
  Layer.effect(
    LanguageModel.LanguageModel,
    Effect.gen(function* () {
      const pricing = yield* Pricing
      const costOf = (usage: TokenUsage.TokenUsage) => pricing.cost(usage, options)
      const amounts = (use: Use) => Effect.map(costOf(use.usage), (cost) => options.amounts({ ...use, cost }))
      // Before the call nobody knows what will be written to a cache, or thought: what is held is the dearer reading.
      const most = (use: Use) => {
        const { input, output } = use.usage
        const dearer = { ...TokenUsage.zero, cacheWrite: input, reasoning: output }
        return Effect.zipWith(costOf(use.usage), Effect.option(costOf(dearer)), (cost, other) =>
          options.amounts({ ...use, cost: Option.isSome(other) && other.value > cost ? other.value : cost })
        )
      }
      return wrap(yield* LanguageModel.LanguageModel, yield* budget, yield* Estimator, options, amounts, most)
    })
  )

/** Why a request was not made: the budget denied it, or its price is not known. */
export type Denial = BudgetExceeded | FailedReservation | UnknownPrice

/** The denial behind an `AiError`, if that is what it is. */
export const denialOf = (error: unknown): Option.Option<Denial> =>
  AiError.isAiError(error) && "metadata" in error.reason
    ? Schema.decodeUnknownOption(DenialJson)(error.reason.metadata[METADATA])
    : Option.none()

/** Makes the budget's denials typed errors again: `typed(LanguageModel.generateText({ prompt }))`. */
export const typed = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | Denial, R> =>
  Effect.catch(effect, (error) => Effect.fail(Option.getOrElse(denialOf(error), (): E | Denial => error)))

/** The same for a stream: `typedStream(LanguageModel.streamText({ prompt }))`. */
export const typedStream = <A, E, R>(stream: Stream.Stream<A, E, R>): Stream.Stream<A, E | Denial, R> =>
  Stream.mapError(stream, (error) => Option.getOrElse(denialOf(error), (): E | Denial => error))

/** `LanguageModel.generateText`, with the budget's denials as typed errors. */
export const generateText = (options: {
  readonly prompt: Prompt.RawInput
}): Effect.Effect<LanguageModel.GenerateTextResponse<{}>, AiError.AiError | Denial, LanguageModel.LanguageModel> =>
  typed(LanguageModel.generateText({ prompt: options.prompt }))

/** `LanguageModel.streamText`, with the budget's denials as typed errors. */
export const streamText = (options: {
  readonly prompt: Prompt.RawInput
}): Stream.Stream<Response.StreamPart<{}>, AiError.AiError | Denial, LanguageModel.LanguageModel> =>
  typedStream(LanguageModel.streamText({ prompt: options.prompt }))

// ---------------------------------------------------------------------------------------------------------------------

const MODULE = "BudgetedLanguageModel"
const METADATA = "effect-budget"

const DenialJson = Schema.toCodecJson(Schema.Union([BudgetExceeded, FailedReservation, UnknownPrice]))

interface CallOptions {
  readonly prompt: Prompt.RawInput
  readonly toolkit?: Tools | Effect.Effect<Tools, unknown, unknown> | undefined
}

interface Tools {
  readonly handle: (...call: ReadonlyArray<never>) => unknown
}

/** The methods of a `LanguageModel` as far as the budget is concerned, whatever tools and schemas they are called with. */
interface Methods {
  readonly generateText: (options: CallOptions) => Effect.Effect<{ readonly usage: Response.Usage }, unknown, unknown>
  readonly generateObject: (options: CallOptions) => Effect.Effect<{ readonly usage: Response.Usage }, unknown, unknown>
  readonly streamText: (options: CallOptions) => Stream.Stream<Part, unknown, unknown>
}

type Part = { readonly type: string }

/** One request: what is known of it so far. */
interface Request<A> {
  readonly reservation: Reservation.Reservation<A>
  readonly prompt: Prompt.Prompt
  readonly input: number
  /** The most output that the reservation allows. */
  readonly maxOutputTokens: number
  sent: boolean
  /** Whether the provider has answered anything: then it has not turned the request away, whatever fails later. */
  answered: boolean
  /** Whether a tool was called: then more may have come than was passed on. */
  toolCalled: boolean
  /** How the model itself failed, whatever became of those who read its answer. */
  failure: Cause.Cause<unknown> | undefined
  reported: Response.Usage | undefined
  delivered: string
}

const wrap = <A, U extends Use, E>(
  inner: LanguageModel.LanguageModel,
  budget: Reservation.Reservable<A>,
  estimator: Estimator["Service"],
  options: Options<A, U>,
  amountsOf: (use: Use) => Effect.Effect<A, E>,
  mostOf: (use: Use) => Effect.Effect<A, E>
): LanguageModel.LanguageModel => {
  const ceiling = Math.max(1, options.maxOutputTokens)
  const unknown = options.whenUsageUnknown ?? "delivered"

  /** Reserves for the current scope, and settles at its end by what is known then. */
  const begin = (rawPrompt: Prompt.RawInput) =>
    Effect.gen(function* () {
      const prompt = Prompt.make(rawPrompt)
      const estimate = yield* estimator.estimate({ model: options.model, prompt, maxOutputTokens: ceiling })
      const output = Math.min(estimate.output, ceiling)
      const [reservation, maxOutputTokens] = yield* reserve(estimate.input, output)
      const request: Request<A> = {
        reservation,
        prompt,
        input: estimate.input,
        maxOutputTokens,
        sent: false,
        answered: false,
        toolCalled: false,
        failure: undefined,
        reported: undefined,
        delivered: ""
      }
      yield* Effect.addFinalizer((exit) => settle(request, exit))
      return request
    })

  const reserve = (
    input: number,
    output: number
  ): Effect.Effect<
    readonly [Reservation.Reservation<A>, number],
    E | BudgetExceeded | FailedReservation,
    Scope.Scope
  > =>
    Effect.gen(function* () {
      const wanted = yield* mostOf(useOf({ ...TokenUsage.zero, input, output }))
      const fewest = options.minOutputTokens
      if (fewest === undefined || fewest >= output) {
        return [yield* budget.reserve(wanted, options.reservation), Math.max(output, ceiling)] as const
      }
      const least = yield* mostOf(useOf({ ...TokenUsage.zero, input, output: Math.max(1, fewest) }))
      const reservation = yield* budget.reserveUpTo(least, wanted, options.reservation)
      // The most output whose amounts are within what was granted, by halving: amounts grow with the output.
      const granted = encode(budget[TypeId], reservation.amount)
      let [fits, beyond] = [Math.max(1, fewest), output + 1]
      while (beyond - fits > 1) {
        const middle = Math.floor((fits + beyond) / 2)
        const amounts = encode(budget[TypeId], yield* mostOf(useOf({ ...TokenUsage.zero, input, output: middle })))
        if (amounts.every((amount, i) => amount <= granted[i]!)) fits = middle
        else beyond = middle
      }
      return [reservation, fits === output ? ceiling : fits] as const
    })

  const settle = (request: Request<A>, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
    Effect.gen(function* () {
      const { prompt, reservation } = request
      const { amounts, source } = yield* Effect.catchCause(chargeOf(request), () =>
        // Whatever goes wrong in counting, what was sent is not free.
        Effect.succeed({ source: "estimated" as const, amounts: reservation.amount })
      )
      const settlement = yield* amounts === undefined ? reservation.release : reservation.commit(amounts)
      if (options.onCharge !== undefined) yield* options.onCharge({ source, settlement })
      const usage = Option.getOrUndefined(TokenUsage.fromReported(request.reported))
      // An answer that was cut, or had to be shorter than usual, teaches nothing about the usual ones.
      if (usage === undefined || Exit.isFailure(exit) || request.maxOutputTokens < ceiling) return
      yield* estimator.observe(
        { model: options.model, prompt, maxOutputTokens: ceiling },
        { input: TokenUsage.totalInput(usage), output: TokenUsage.totalOutput(usage) }
      )
    })

  const chargeOf = (
    request: Request<A>
  ): Effect.Effect<{ readonly source: Source | undefined; readonly amounts: A | undefined }, E> =>
    Effect.gen(function* () {
      const { reported, reservation } = request
      const usage = Option.getOrUndefined(TokenUsage.fromReported(reported))
      if (usage !== undefined) return { source: "reported", amounts: yield* amountsOf(useOf(usage)) }
      const turnedAway = !request.answered && request.failure !== undefined && wasTurnedAway(request.failure)
      if (!request.sent || turnedAway) {
        return { source: undefined, amounts: undefined }
      }
      // One side of the usage may have been reported all the same.
      const known = reported === undefined ? undefined : yield* amountsOf(useOf(TokenUsage.atLeast(reported)))
      if (unknown === "hold" || request.delivered === "" || request.toolCalled) {
        return { source: "estimated", amounts: larger(reservation.amount, known) }
      }
      const counted = yield* countTokens(request.delivered)
      // The model was told to say no more than this, however roughly the text is counted.
      const output = Math.min(counted, request.maxOutputTokens)
      const delivered = yield* amountsOf(useOf({ ...TokenUsage.zero, input: request.input, output }))
      return { source: "delivered", amounts: larger(delivered, known) }
    })

  /** By the tokenizer of the context if there is one, else as the estimator would. */
  const countTokens = (text: string): Effect.Effect<number> =>
    Effect.flatMap(Effect.serviceOption(Tokenizer.Tokenizer), (tokenizer) => {
      const prompt = Prompt.make(text)
      const estimated = Effect.map(
        estimator.estimate({ model: options.model, prompt, maxOutputTokens: 1 }),
        ({ input }) => input
      )
      return Option.isNone(tokenizer)
        ? estimated
        : Effect.catch(
            Effect.map(tokenizer.value.tokenize(prompt), (tokens) => tokens.length),
            () => estimated
          )
    })

  /** Budget by budget. */
  const larger = (one: A, other: A | undefined): A => {
    if (other === undefined) return one
    const layout = budget[TypeId]
    const others = encode(layout, other)
    return layout.decode(
      encode(layout, one).map((amount, i) => Math.max(amount, others[i]!)),
      0
    )
  }

  const guard = (method: string, call: Methods["generateText"]): Methods["generateText"] => {
    return (callOptions) =>
      Effect.scoped(
        Effect.flatMap(Effect.mapError(begin(callOptions.prompt), toAiError(method)), (request) =>
          Effect.suspend(() => {
            request.sent = true
            return call(optionsOf(callOptions, request))
          }).pipe(
            Effect.tap((response) =>
              Effect.sync(() => {
                request.reported ??= response.usage
              })
            ),
            Effect.tapCause((cause) =>
              Effect.sync(() => {
                request.failure = cause
              })
            ),
            // The provider has answered before a structured output is decoded: its usage counts though that fails.
            Effect.provideServiceEffect(Telemetry.CurrentSpanTransformer, watching(request)),
            Effect.provideService(MaxOutputTokens, request.maxOutputTokens)
          )
        )
      )
  }

  const streamText: Methods["streamText"] = (callOptions) =>
    Stream.unwrap(
      Effect.map(Effect.mapError(begin(callOptions.prompt), toAiError("streamText")), (request) =>
        Stream.suspend(() => {
          request.sent = true
          return methods.streamText(optionsOf(callOptions, request))
        }).pipe(
          Stream.tapCause((cause) =>
            Effect.sync(() => {
              request.failure = cause
            })
          ),
          Stream.tap((part) =>
            Effect.sync(() => {
              request.answered = true
              if (part.type === "tool-call") request.toolCalled = true
              if (part.type === "finish") request.reported = (part as Response.FinishPart).usage
              else if (isDelta(part)) request.delivered += part.delta
            })
          ),
          Stream.provideService(MaxOutputTokens, request.maxOutputTokens)
        )
      )
    )

  // The methods are generic in the tools and schemas of each call, which pass through untouched.
  const methods = inner as unknown as Methods
  const wrapped: Methods = {
    generateText: guard("generateText", methods.generateText),
    generateObject: guard("generateObject", methods.generateObject),
    streamText
  }
  return { ...inner, ...(wrapped as unknown as Pick<LanguageModel.LanguageModel, keyof Methods>) }
}

/** The same call, with the prompt as it was read (it may be an iterable that gives only once) and with its tools watched. */
const optionsOf = <A>(options: CallOptions, request: Request<A>): CallOptions => {
  const watch = (tools: Tools): Tools => ({
    ...tools,
    handle: (...call) => {
      request.answered = true
      request.toolCalled = true
      return tools.handle(...call)
    }
  })
  const { toolkit } = options
  if (toolkit === undefined) return { ...options, prompt: request.prompt }
  return {
    ...options,
    prompt: request.prompt,
    toolkit: Effect.isEffect(toolkit) ? Effect.map(toolkit, watch) : watch(toolkit)
  }
}

const useOf = (usage: TokenUsage.TokenUsage): Use => ({ usage, tokens: TokenUsage.total(usage) })

const isDelta = (part: Part): part is Part & { readonly delta: string } =>
  Predicate.hasProperty(part, "delta") && typeof part.delta === "string"

/** Sees the usage as soon as the provider has answered, beside whoever else looks at the answers. */
const watching = <A>(request: Request<A>): Effect.Effect<Telemetry.SpanTransformer> =>
  Effect.map(Effect.serviceOption(Telemetry.CurrentSpanTransformer), (others) => (answer) => {
    const finish = answer.response.findLast((part) => part.type === "finish")
    if (finish !== undefined) request.reported = finish.usage
    if (Option.isSome(others)) others.value(answer)
  })

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

const wasTurnedAway = (cause: Cause.Cause<unknown>): boolean => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  return AiError.isAiError(error) && TURNED_AWAY.has(error.reason._tag)
}

/** The error channel of a `LanguageModel` is closed: what the budget says goes into the metadata. */
const toAiError =
  (method: string) =>
  (error: unknown): AiError.AiError => {
    if (error instanceof BudgetExceeded || error instanceof FailedReservation || error instanceof UnknownPrice) {
      const metadata = { [METADATA]: Schema.encodeSync(DenialJson)(error) as Record<string, Schema.Json> }
      const reason =
        error._tag === "BudgetExceeded" && error.retryAfter !== undefined
          ? new AiError.RateLimitError({ retryAfter: error.retryAfter, metadata })
          : new AiError.QuotaExhaustedError({ metadata })
      return AiError.make({ module: MODULE, method, reason })
    }
    const metadata = { [METADATA]: { message: Predicate.isError(error) ? error.message : String(error) } }
    return AiError.make({ module: MODULE, method, reason: new AiError.QuotaExhaustedError({ metadata }) })
  }
