/**
 * A `LanguageModel` under budget, with no change to the code that calls it: `generateText`, `generateObject`, `streamText`,
 * `Chat`, tool calls and `ExecutionPlan` reserve an estimate before each request and settle what the provider reports. One
 * request is one reservation, also for each step of a tool loop and each attempt of a retry.
 *
 * What a request is charged, and why (`source`):
 *
 * - `reported`: the usage that the provider reported. Of usage that comes in parts or repeatedly, each number counts once, at its
 *   largest. Usage without any input, or without output of an answer that said something, is no usage.
 * - `delivered`: the stream ended or was cut without usage; the estimated input, and what was delivered (counted by the
 *   `Tokenizer` of the context if there is one, else by the estimator), reasoning as reasoning
 * - `estimated`: not even that is known (a call without usage, a stream that delivered nothing, or that was cut while tools were
 *   called, a call that failed with its tool), so all that was held
 * - nothing, when the request never reached the model: it was turned away (429, quota, credentials, a wrong request, no
 *   connection) or never sent
 *
 * What an estimate cannot see, and so does not hold, though it is charged when it is reported: what a provider's own tools add
 * to the context, results of tools that were approved earlier and run at the start of this request, and thinking that ignores
 * the ceiling. What nobody reports is not charged either: attempts that the provider's client repeats inside one call (turn its
 * retries off and use `Effect.retry`), and thinking that a cut stream did not deliver (`whenUsageUnknown: "hold"` charges the hold).
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { NoExcessProperties } from "effect/Types"
import { AiError, LanguageModel, Prompt, type Response, Telemetry, Tokenizer, type Tool } from "effect/ai"
import { BudgetExceeded, FailedReservation } from "../BudgetError.ts"
import { isAmount, saturate } from "../internal/amount.ts"
import { encode, TypeId } from "../internal/reservable.ts"
import type * as Reservation from "../Reservation.ts"
import type { Usd } from "../Usd.ts"
import { Estimator, type Request as EstimateRequest } from "./Estimator.ts"
import * as Definitions from "./internal/definitions.ts"
import { MaxOutputTokens } from "./MaxOutputTokens.ts"
import { type CostOptions, Pricing, UnknownPrice } from "./Pricing.ts"
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

/** The options where dollars are reserved too; `batch` and `cacheWriteTtl` say how the model is called. */
export interface PricedOptions<in out A> extends Options<A, PricedUse>, CostOptions {
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
      const amounts = (usage: TokenUsage.TokenUsage) => Effect.succeed(options.amounts(useOf(usage)))
      const holds = (input: number) =>
        Effect.succeed((output: number) => amounts({ ...TokenUsage.zero, input, output }))
      return yield* wrap(yield* LanguageModel.LanguageModel, yield* budget, yield* Estimator, options, amounts, holds)
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
      const costOf = (usage: TokenUsage.TokenUsage) => pricing.cost(usage, options, options)
      const amounts = (usage: TokenUsage.TokenUsage) =>
        Effect.map(costOf(usage), (cost) => options.amounts({ ...useOf(usage), cost }))
      const holds = (input: number, most: number) =>
        Effect.map(
          Effect.forEach(READINGS, (reading) => Effect.option(costOf(reading(input, most)))),
          (costs) => {
            const dearest = costs.reduce(
              (dearest, cost, i) =>
                Option.getOrElse(cost, () => -1) > Option.getOrElse(costs[dearest]!, () => -1) ? i : dearest,
              0
            )
            return (output: number) =>
              Effect.map(costOf(READINGS[dearest]!(input, output)), (cost) =>
                options.amounts({ ...useOf({ ...TokenUsage.zero, input, output }), cost })
              )
          }
        )
      return yield* wrap(yield* LanguageModel.LanguageModel, yield* budget, yield* Estimator, options, amounts, holds)
    })
  )

/** Before the call nobody knows what will be written to a cache, or thought: what is held is the dearest reading. */
const READINGS: ReadonlyArray<(input: number, output: number) => TokenUsage.TokenUsage> = [
  (input, output) => ({ ...TokenUsage.zero, input, output }),
  (cacheWrite, output) => ({ ...TokenUsage.zero, cacheWrite, output }),
  (input, reasoning) => ({ ...TokenUsage.zero, input, reasoning }),
  (cacheWrite, reasoning) => ({ ...TokenUsage.zero, cacheWrite, reasoning })
]

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

type WithoutToolkit = Omit<LanguageModel.GenerateTextOptions<{}>, "toolkit"> & { readonly toolkit?: undefined }

type WithToolkit<Tools extends Record<string, Tool.Any>> = LanguageModel.GenerateTextOptions<Tools> & {
  readonly toolkit: LanguageModel.ToolkitInput<Tools>
}

/** The names and kinds of the options, whatever the tools. */
interface AnyOptions extends Omit<LanguageModel.GenerateTextOptions<{}>, "toolkit" | "toolChoice"> {
  readonly toolkit?: unknown
  readonly toolChoice?: LanguageModel.ToolChoice<string> | undefined
}

/** A schema that `LanguageModel.generateObject` takes. */
type ObjectSchema = Parameters<typeof LanguageModel.generateObject>[0]["schema"]

interface AnyObjectOptions<S extends ObjectSchema> extends AnyOptions {
  readonly objectName?: string | undefined
  readonly schema: S
}

/** `LanguageModel.generateText`, with the budget's denials as typed errors. */
export function generateText<Options extends NoExcessProperties<WithoutToolkit, Options>>(
  options: Options & WithoutToolkit
): Effect.Effect<
  LanguageModel.GenerateTextResponse<{}, LanguageModel.ExtractToolParametersModeWithoutToolkit<Options>>,
  LanguageModel.ExtractError<Options> | Denial,
  LanguageModel.LanguageModel | LanguageModel.ExtractServices<Options>
>
export function generateText<
  Tools extends Record<string, Tool.Any>,
  Options extends NoExcessProperties<WithToolkit<Tools>, Options>
>(
  options: Options & WithToolkit<Tools>
): Effect.Effect<
  LanguageModel.GenerateTextResponse<Tools, LanguageModel.ExtractToolParametersMode<Options>>,
  LanguageModel.ExtractError<Options> | Denial,
  LanguageModel.LanguageModel | LanguageModel.ExtractServices<Options>
>
export function generateText<Options extends NoExcessProperties<AnyOptions, Options> & { readonly toolkit: unknown }>(
  options: Options &
    LanguageModel.GenerateTextOptions<LanguageModel.ExtractTools<Options>> & { readonly toolkit: Options["toolkit"] }
): Effect.Effect<
  LanguageModel.GenerateTextResponse<
    LanguageModel.ExtractTools<Options>,
    LanguageModel.ExtractToolParametersMode<Options>
  >,
  LanguageModel.ExtractError<Options> | Denial,
  LanguageModel.LanguageModel | LanguageModel.ExtractServices<Options>
>
export function generateText(options: WithoutToolkit): Effect.Effect<unknown, unknown, unknown> {
  return typed(LanguageModel.generateText(options))
}

/** `LanguageModel.generateObject`, with the budget's denials as typed errors. */
export function generateObject<
  S extends ObjectSchema,
  Options extends NoExcessProperties<AnyObjectOptions<S>, Options>
>(
  options: Options & LanguageModel.GenerateObjectOptions<LanguageModel.ExtractTools<Options>, S>
): Effect.Effect<
  LanguageModel.GenerateObjectResponse<
    LanguageModel.ExtractTools<Options>,
    S["Type"],
    LanguageModel.ExtractToolParametersMode<Options>
  >,
  LanguageModel.ExtractError<Options> | Denial,
  LanguageModel.LanguageModel | LanguageModel.ExtractServices<Options> | S["DecodingServices"]
>
export function generateObject(
  options: LanguageModel.GenerateObjectOptions<{}, ObjectSchema>
): Effect.Effect<unknown, unknown, unknown> {
  return typed(LanguageModel.generateObject(options))
}

/** `LanguageModel.streamText`, with the budget's denials as typed errors. */
export function streamText<Options extends NoExcessProperties<WithoutToolkit, Options>>(
  options: Options & WithoutToolkit
): Stream.Stream<
  Response.StreamPart<{}, LanguageModel.ExtractToolParametersModeWithoutToolkit<Options>>,
  LanguageModel.ExtractError<Options> | Denial,
  LanguageModel.LanguageModel | LanguageModel.ExtractServices<Options>
>
export function streamText<
  Tools extends Record<string, Tool.Any>,
  Options extends NoExcessProperties<WithToolkit<Tools>, Options>
>(
  options: Options & WithToolkit<Tools>
): Stream.Stream<
  Response.StreamPart<Tools, LanguageModel.ExtractToolParametersMode<Options>>,
  LanguageModel.ExtractError<Options> | Denial,
  LanguageModel.LanguageModel | LanguageModel.ExtractServices<Options>
>
export function streamText<Options extends NoExcessProperties<AnyOptions, Options> & { readonly toolkit: unknown }>(
  options: Options &
    LanguageModel.GenerateTextOptions<LanguageModel.ExtractTools<Options>> & { readonly toolkit: Options["toolkit"] }
): Stream.Stream<
  Response.StreamPart<LanguageModel.ExtractTools<Options>, LanguageModel.ExtractToolParametersMode<Options>>,
  LanguageModel.ExtractError<Options> | Denial,
  LanguageModel.LanguageModel | LanguageModel.ExtractServices<Options>
>
export function streamText(options: WithoutToolkit): Stream.Stream<unknown, unknown, unknown> {
  return typedStream(LanguageModel.streamText(options))
}

// ---------------------------------------------------------------------------------------------------------------------

const MODULE = "BudgetedLanguageModel"
const METADATA = "effect-budget"

const DenialJson = Schema.toCodecJson(Schema.Union([BudgetExceeded, FailedReservation, UnknownPrice]))

interface CallOptions {
  readonly prompt: Prompt.RawInput
  readonly toolkit?: Tools | Effect.Effect<Tools, unknown, unknown> | undefined
  readonly toolChoice?: LanguageModel.ToolChoice<string> | undefined
  readonly objectName?: string | undefined
  readonly schema?: Schema.Constraint | undefined
}

interface Tools {
  readonly tools: Readonly<Record<string, Tool.Any>>
  readonly handle: (...call: ReadonlyArray<never>) => Effect.Effect<AnyStream, unknown, unknown>
}

type AnyStream = Stream.Stream<unknown, unknown, unknown>

/** The methods of a `LanguageModel` as far as the budget is concerned, whatever tools and schemas they are called with. */
interface Methods {
  readonly generateText: (options: CallOptions) => Effect.Effect<Answer, unknown, unknown>
  readonly generateObject: (options: CallOptions) => Effect.Effect<Answer, unknown, unknown>
  readonly streamText: (options: CallOptions) => Stream.Stream<Part, unknown, unknown>
}

interface Answer {
  readonly content: ReadonlyArray<Part>
}

type Part = { readonly type: string }

/** One request: what is known of it so far. */
interface Request<A> {
  readonly reservation: Reservation.Reservation<A>
  /** What the estimator was asked. */
  readonly asked: EstimateRequest
  readonly input: number
  /** The most output that the reservation allows. */
  readonly maxOutputTokens: number
  sent: boolean
  /** Whether the provider has answered anything: then it has not turned the request away, whatever fails later. */
  answered: boolean
  /** Whether anything came out of the model: then its output is not 0 tokens, whatever is reported. */
  spoke: boolean
  /** Whether a tool was called: then more may have come than was passed on. */
  toolCalled: boolean
  /** How the model itself failed, whatever became of those who read its answer. */
  failure: Cause.Cause<unknown> | undefined
  reported: TokenUsage.Reported | undefined
  /** What a stream has delivered. */
  text: string
  reasoning: string
}

const wrap = Effect.fnUntraced(function* <A, U extends Use, E>(
  inner: LanguageModel.LanguageModel,
  budget: Reservation.Reservable<A>,
  estimator: Estimator["Service"],
  options: Options<A, U>,
  amountsOf: (usage: TokenUsage.TokenUsage) => Effect.Effect<A, E>,
  /** What to hold for an input and any output, of which there will be no more than `most`. */
  holdsOf: (input: number, most: number) => Effect.Effect<(output: number) => Effect.Effect<A, E>>
): Effect.fn.Return<LanguageModel.LanguageModel> {
  const ceiling = options.maxOutputTokens
  const fewest = options.minOutputTokens
  for (const [name, tokens = 1] of Object.entries({ maxOutputTokens: ceiling, minOutputTokens: fewest })) {
    if (isAmount(tokens) && tokens >= 1) continue
    throw new RangeError(`${MODULE}: ${name} must be a whole number from 1 to 2^53 - 1, not ${tokens}`)
  }
  const unknown = options.whenUsageUnknown ?? "delivered"
  // A model looks for it in the context of a call, and only if there is none there, in that of its layer.
  const telemetry = yield* Effect.serviceOption(Telemetry.CurrentSpanTransformer)

  /** Reserves for the current scope, and settles at its end by what is known then. */
  const begin = (method: string, callOptions: CallOptions, tools: Tools | undefined) =>
    Effect.gen(function* () {
      // Whoever calls, or holds another budget around this one, may have set a lower ceiling.
      const most = Math.max(1, Math.min(ceiling, (yield* MaxOutputTokens) ?? ceiling))
      const asked = {
        model: options.model,
        prompt: Prompt.make(callOptions.prompt),
        definitions: definitionsOf(callOptions, tools),
        maxOutputTokens: most
      }
      const estimate = yield* estimator.estimate(asked)
      // No request is free: an amount of 0 would be admitted whatever is left.
      const input = Math.max(1, estimate.input)
      const [reservation, maxOutputTokens] = yield* reserve(input, Math.max(1, Math.min(estimate.output, most)), most)
      const request: Request<A> = {
        reservation,
        asked,
        input,
        maxOutputTokens,
        sent: false,
        answered: false,
        spoke: false,
        toolCalled: false,
        failure: undefined,
        reported: undefined,
        text: "",
        reasoning: ""
      }
      yield* Effect.addFinalizer((exit) => settle(request, exit))
      return request
    }).pipe(Effect.mapError(toAiError(method)))

  /** A reservation, and the most output that the model is told for it. */
  const reserve = Effect.fnUntraced(function* (
    input: number,
    output: number,
    most: number
  ): Effect.fn.Return<
    readonly [Reservation.Reservation<A>, number],
    E | BudgetExceeded | FailedReservation,
    Scope.Scope
  > {
    const holds = yield* holdsOf(input, output)
    const wanted = yield* holds(output)
    if (fewest === undefined || fewest >= output) return [yield* budget.reserve(wanted, options.reservation), most]
    const least = yield* holds(fewest)
    const reservation = yield* budget.reserveUpTo(least, wanted, options.reservation)
    // The most output whose amounts are within what was granted: amounts grow with the output, mostly evenly. So first it is
    // looked for where it then is, then where the next one is that does not fit, and last by halving what is left between.
    const granted = encode(budget[TypeId], reservation.amount)
    const fits = (amounts: ReadonlyArray<number>) => amounts.every((amount, i) => amount <= granted[i]!)
    let [low, high] = [
      { output: fewest, amounts: encode(budget[TypeId], least) },
      { output, amounts: encode(budget[TypeId], wanted) }
    ]
    if (fits(high.amounts)) return [reservation, most]
    for (let step = 0; high.output - low.output > 1; step++) {
      const parts = granted.map((amount, i) =>
        high.amounts[i]! > amount ? (amount + step - low.amounts[i]!) / (high.amounts[i]! - low.amounts[i]!) : 1
      )
      const part = step < 2 ? Math.min(...parts) : 0.5
      const guess = low.output + Math.floor(part * (high.output - low.output))
      const output = Math.max(low.output + 1, Math.min(high.output - 1, guess))
      const amounts = encode(budget[TypeId], yield* holds(output))
      if (fits(amounts)) low = { output, amounts }
      else high = { output, amounts }
    }
    return [reservation, low.output]
  })

  const settle = (request: Request<A>, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
    Effect.gen(function* () {
      const { asked, reservation } = request
      const charge = yield* Effect.catchCause(
        Effect.flatMap(chargeOf(request), ({ amounts, source }) =>
          Effect.map(
            amounts === undefined ? reservation.release : reservation.commit(amounts),
            (settlement): Charge<A> => ({ source, settlement })
          )
        ),
        // Whatever goes wrong in counting, what was sent is not free.
        () =>
          Effect.map(reservation.commit(reservation.amount), (settlement): Charge<A> => ({
            source: "estimated",
            settlement
          }))
      )
      if (options.onCharge !== undefined) yield* options.onCharge(charge)
      const usage = believed(request)
      // An answer that was cut, or had to be shorter than usual, teaches nothing about the usual ones.
      if (usage === undefined || Exit.isFailure(exit) || request.maxOutputTokens < ceiling) return
      yield* estimator.observe(asked, { input: TokenUsage.totalInput(usage), output: TokenUsage.totalOutput(usage) })
    })

  const chargeOf = Effect.fnUntraced(function* (
    request: Request<A>
  ): Effect.fn.Return<{ readonly source: Source | undefined; readonly amounts: A | undefined }, E> {
    const { input, maxOutputTokens, reported, reservation } = request
    const usage = believed(request)
    if (usage !== undefined) return { source: "reported", amounts: yield* amountsOf(usage) }
    const turnedAway = !request.answered && request.failure !== undefined && wasTurnedAway(request.failure)
    if (!request.sent || turnedAway) return { source: undefined, amounts: undefined }
    // One side of the usage may have been reported all the same.
    const known = reported === undefined ? undefined : yield* amountsOf(TokenUsage.atLeast(reported))
    const delivered = request.text !== "" || request.reasoning !== ""
    if (unknown === "hold" || !delivered || request.toolCalled) {
      return { source: "estimated", amounts: larger(reservation.amount, known) }
    }
    const text = yield* countTokens(request.text)
    const counted = text + (yield* countTokens(request.reasoning))
    // The model was told to say no more than this, however roughly the text is counted.
    const all = Math.min(counted, maxOutputTokens)
    const output = Math.floor((text / counted) * all)
    const usageOfDelivered = { ...TokenUsage.zero, input, output, reasoning: all - output }
    return { source: "delivered", amounts: larger(yield* amountsOf(usageOfDelivered), known) }
  })

  /** By the tokenizer of the context if there is one, else as the estimator would. */
  const countTokens = Effect.fnUntraced(function* (text: string): Effect.fn.Return<number> {
    if (text === "") return 0
    const prompt = Prompt.make(text)
    const estimated = Effect.map(
      estimator.estimate({ model: options.model, prompt, maxOutputTokens: 1 }),
      ({ input }) => input
    )
    const tokenizer = yield* Effect.serviceOption(Tokenizer.Tokenizer)
    if (Option.isNone(tokenizer)) return yield* estimated
    const counted = Effect.map(tokenizer.value.tokenize(prompt), (tokens) => tokens.length)
    return yield* Effect.catch(counted, () => estimated)
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

  /** Sees the usage as soon as the provider has answered, beside whoever else looks at the answers. */
  const watching = (request: Request<A>): Effect.Effect<Telemetry.SpanTransformer> =>
    Effect.map(Effect.serviceOption(Telemetry.CurrentSpanTransformer), (current) => (answer) => {
      see(request, answer.response)
      const others = Option.orElse(current, () => telemetry)
      if (Option.isSome(others)) others.value(answer)
    })

  const guard =
    (method: string, call: Methods["generateText"]): Methods["generateText"] =>
    (callOptions) =>
      // Not `scoped`: the scope of this request is no business of the tools, which may use that of the caller.
      Effect.scopedWith((scope) =>
        Effect.gen(function* () {
          const tools = yield* toolsOf(callOptions)
          const request = yield* Scope.provide(begin(method, callOptions, tools), scope)
          const options = optionsOf(callOptions, request, tools, yield* Effect.context<never>())
          request.sent = true
          return yield* call(options).pipe(
            Effect.tap(({ content }) => Effect.sync(() => see(request, content))),
            Effect.tapCause((cause) =>
              Effect.sync(() => {
                request.failure = cause
              })
            ),
            // The provider has answered before a structured output is decoded: its usage counts though that fails.
            Effect.provideServiceEffect(Telemetry.CurrentSpanTransformer, watching(request)),
            Effect.provideService(MaxOutputTokens, request.maxOutputTokens)
          )
        })
      )

  const streamText: Methods["streamText"] = (callOptions) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const tools = yield* toolsOf(callOptions)
        const request = yield* begin("streamText", callOptions, tools)
        const options = optionsOf(callOptions, request, tools, yield* Effect.context<never>())
        return Stream.suspend(() => {
          request.sent = true
          return methods.streamText(options)
        }).pipe(
          Stream.tapCause((cause) =>
            Effect.sync(() => {
              request.failure = cause
            })
          ),
          Stream.mapArray((parts) => {
            see(request, parts)
            return parts
          }),
          Stream.provideService(MaxOutputTokens, request.maxOutputTokens)
        )
      })
    )

  // The methods are generic in the tools and schemas of each call, which pass through untouched.
  const methods = inner as unknown as Methods
  const wrapped: Methods = {
    generateText: guard("generateText", methods.generateText),
    generateObject: guard("generateObject", methods.generateObject),
    streamText
  }
  return { ...inner, ...(wrapped as unknown as Pick<LanguageModel.LanguageModel, keyof Methods>) }
})

const toolsOf = ({ toolkit }: CallOptions): Effect.Effect<Tools | undefined, unknown, unknown> =>
  Effect.isEffect(toolkit) ? toolkit : Effect.succeed(toolkit)

/** What is sent beside the prompt. */
const definitionsOf = (
  { objectName, schema, toolChoice }: CallOptions,
  tools: Tools | undefined
): ReadonlyArray<string> => {
  const only = typeof toolChoice === "object" && "oneOf" in toolChoice ? toolChoice.oneOf : undefined
  const definitions = Object.values(tools?.tools ?? {})
    .filter(({ name }) => only === undefined || only.includes(name))
    .map(Definitions.ofTool)
  if (schema !== undefined) {
    definitions.push((objectName ?? "") + Definitions.ofSchema(schema))
  }
  return definitions
}

/** The same call, with the prompt as it was read (it may be an iterable that gives only once) and with its tools watched. */
const optionsOf = <A>(
  options: CallOptions,
  request: Request<A>,
  tools: Tools | undefined,
  outside: Context.Context<never>
): CallOptions => {
  const { prompt } = request.asked
  if (tools === undefined) return { ...options, prompt }
  return {
    ...options,
    prompt,
    toolkit: {
      ...tools,
      handle: (...call) => {
        request.answered = true
        request.spoke = true
        request.toolCalled = true
        return tools
          .handle(...call)
          .pipe(Effect.map(Stream.updateContext(as(outside))), Effect.updateContext(as(outside)))
      }
    }
  }
}

/** A handler may ask a model too: that is no part of this request, neither of its ceiling nor of its usage. */
const as =
  (outside: Context.Context<never>) =>
  (inside: Context.Context<unknown>): Context.Context<unknown> => {
    const restored = Context.add(inside, MaxOutputTokens, Context.get(outside, MaxOutputTokens))
    return Option.match(Context.getOption(outside, Telemetry.CurrentSpanTransformer), {
      onNone: () => Context.omit(Telemetry.CurrentSpanTransformer)(restored),
      onSome: (transformer) => Context.add(restored, Telemetry.CurrentSpanTransformer, transformer)
    })
  }

/** Takes down what a provider answers. */
const see = <A>(request: Request<A>, parts: ReadonlyArray<Part>): void => {
  request.answered = true
  for (const part of parts) {
    if (part.type === "finish") {
      const { usage } = part as Response.FinishPart
      request.reported = {
        inputTokens: largest(request.reported?.inputTokens, usage.inputTokens),
        outputTokens: largest(request.reported?.outputTokens, usage.outputTokens)
      }
      continue
    }
    if (part.type === "tool-call") request.toolCalled = true
    if (part.type === "tool-call" || part.type === "file" || has(part, "text")) request.spoke = true
    if (!has(part, "delta")) continue
    request.spoke = true
    if (part.type === "reasoning-delta") request.reasoning += part.delta
    else request.text += part.delta
  }
}

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
const believed = <A>({ reported, spoke }: Request<A>): TokenUsage.TokenUsage | undefined => {
  const usage = Option.getOrUndefined(TokenUsage.fromReported(reported))
  if (usage === undefined || TokenUsage.totalInput(usage) === 0) return undefined
  return spoke && TokenUsage.totalOutput(usage) === 0 ? undefined : usage
}

const useOf = (usage: TokenUsage.TokenUsage): Use => ({ usage, tokens: TokenUsage.total(usage) })

const has = <Key extends "delta" | "text">(part: Part, key: Key): part is Part & { readonly [K in Key]: string } =>
  Predicate.hasProperty(part, key) && typeof part[key] === "string" && part[key] !== ""

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
      const retryAfter = waitOf(error)
      const reason =
        retryAfter === undefined
          ? new AiError.QuotaExhaustedError({ metadata })
          : new AiError.RateLimitError({ retryAfter, metadata })
      return AiError.make({ module: MODULE, method, reason })
    }
    const metadata = { [METADATA]: { message: Predicate.isError(error) ? error.message : String(error) } }
    return AiError.make({ module: MODULE, method, reason: new AiError.QuotaExhaustedError({ metadata }) })
  }

/** After how long time alone will help, if it will. */
const waitOf = (denial: Denial): Duration.Duration | undefined => {
  if (denial._tag === "BudgetExceeded") return denial.retryAfter
  return denial._tag === "FailedReservation" && denial.reason._tag === "Rejected"
    ? denial.reason.estimatedWait
    : undefined
}
