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
 * - `estimated`: not even that is known (a call without usage, a stream that delivered nothing, or a file, or that was cut while
 *   tools were called, a call that failed with its tool), so all that was held
 * - nothing, when the request never reached the model: it was turned away (429, quota, credentials, a wrong request, no
 *   connection) or never sent
 *
 * Where usage is not to be believed as a whole, the side of it that tells more than is charged otherwise is charged.
 *
 * What an estimate cannot see, and so does not hold, though it is charged when it is reported: what a provider's own tools add
 * to the context, results of tools that were approved earlier and run at the start of this request, and thinking that ignores
 * the ceiling. What nobody reports is not charged either: attempts that the provider's client repeats inside one call (turn its
 * retries off and use `Effect.retry`), what a model did for a request whose connection broke before its answer began (a client
 * should not call its own timeout a `NetworkError`), and thinking that a cut stream did not deliver (`whenUsageUnknown: "hold"`
 * charges the hold).
 *
 * A model that a tool asks is a request of its own. If it is under the same budget, it waits while this one holds: where the
 * budget throttles, give the wait a `timeout`.
 */
import type * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
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
import { isAmount } from "../internal/amount.ts"
import { encode, TypeId } from "../internal/face/layout.ts"
import type * as Reservation from "../Reservation.ts"
import type { Usd } from "../Usd.ts"
import { Estimator } from "./Estimator.ts"
import * as Call from "./internal/call.ts"
import * as Request from "./internal/request.ts"
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
  readonly reservation?: Omit<Reservation.Options, "onSuccess"> | undefined
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
  // Whatever was sent is settled by `settle`; what was not is free.
  const reserving: Reservation.Options = { ...options.reservation, onSuccess: "release" }
  // A model looks for it in the context of a call, and only if there is none there, in that of its layer.
  const telemetry = yield* Effect.serviceOption(Telemetry.CurrentSpanTransformer)

  /** Reserves for the current scope, and settles at its end by what is known then. */
  const begin = (method: string, callOptions: Call.Options, tools: Call.Tools | undefined) =>
    Effect.gen(function* () {
      // Whoever calls, or holds another budget around this one, may have set a lower ceiling.
      const most = Math.max(1, Math.min(ceiling, (yield* MaxOutputTokens) ?? ceiling))
      const asked = {
        model: options.model,
        prompt: Prompt.make(callOptions.prompt),
        definitions: Call.definitionsOf(callOptions, tools),
        maxOutputTokens: most
      }
      const estimate = yield* estimator.estimate(asked)
      // No request is free: an amount of 0 would be admitted whatever is left.
      const input = Math.max(1, estimate.input)
      const output = Math.max(1, Math.min(estimate.output, most))
      const [reservation, maxOutputTokens] = yield* reserve(input, output, most)
      const held = { ...TokenUsage.zero, input, output: Math.min(output, maxOutputTokens) }
      const request = Request.make(reservation, asked, held, maxOutputTokens)
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
    if (fewest === undefined || fewest >= output) return [yield* budget.reserve(wanted, reserving), most]
    const least = yield* holds(fewest)
    const reservation = yield* budget.reserveUpTo(least, wanted, reserving)
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

  const settle = (request: Request.Request<A>, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
    Effect.gen(function* () {
      const { asked, reservation } = request
      request.settled = true
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
      const usage = Request.believed(request)
      // An answer that was cut, or had to be shorter than usual, teaches nothing about the usual ones.
      if (usage === undefined || Exit.isFailure(exit) || request.maxOutputTokens < ceiling) return
      yield* estimator.observe(asked, { input: TokenUsage.totalInput(usage), output: TokenUsage.totalOutput(usage) })
    })

  const chargeOf = Effect.fnUntraced(function* (
    request: Request.Request<A>
  ): Effect.fn.Return<{ readonly source: Source | undefined; readonly amounts: A | undefined }, E> {
    const { held, maxOutputTokens, reported, reservation } = request
    const usage = Request.believed(request)
    if (usage !== undefined) return { source: "reported", amounts: yield* amountsOf(usage) }
    if (!request.sent || Request.wasTurnedAway(request)) return { source: undefined, amounts: undefined }
    const delivered = request.text !== "" || request.reasoning !== ""
    if (unknown === "hold" || !delivered || request.hidden) {
      const known = reported === undefined ? undefined : yield* amountsOf(Request.atLeast(held, reported))
      return { source: "estimated", amounts: larger(reservation.amount, known) }
    }
    const tokenizer = Option.getOrUndefined(yield* Effect.serviceOption(Tokenizer.Tokenizer))
    const text = yield* countTokens(request.text, tokenizer)
    const counted = text + (yield* countTokens(request.reasoning, tokenizer))
    // An estimate may be far too much, and the model was told to say no more than this. A count is what it said all the same.
    const all = tokenizer === undefined ? Math.min(counted, maxOutputTokens) : counted
    const output = Math.floor((text / counted) * all)
    const counts = { ...held, output, reasoning: all - output }
    return { source: "delivered", amounts: yield* amountsOf(Request.atLeast(counts, reported)) }
  })

  /** By the tokenizer of the context if there is one, else as the estimator would. */
  const countTokens = (text: string, tokenizer: Tokenizer.Service | undefined): Effect.Effect<number> => {
    if (text === "") return Effect.succeed(0)
    const prompt = Prompt.make(text)
    const estimated = Effect.map(
      estimator.estimate({ model: options.model, prompt, maxOutputTokens: 1 }),
      ({ input }) => input
    )
    if (tokenizer === undefined) return estimated
    return Effect.catch(
      Effect.map(tokenizer.tokenize(prompt), (tokens) => tokens.length),
      () => estimated
    )
  }

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
  const watching = (request: Request.Request<A>): Effect.Effect<Telemetry.SpanTransformer> =>
    Effect.map(Effect.serviceOption(Telemetry.CurrentSpanTransformer), (current) => (answer) => {
      Request.seeAll(request, answer.response)
      const others = Option.orElse(current, () => telemetry)
      if (Option.isSome(others)) others.value(answer)
    })

  const failing = (request: Request.Request<A>) => (cause: Cause.Cause<unknown>) =>
    Effect.sync(() => {
      request.failure = cause
    })

  const guard =
    (method: string, call: Call.Methods["generateText"]): Call.Methods["generateText"] =>
    (callOptions) =>
      // Not `scoped`: the scope of this request is no business of the tools, which may use that of the caller.
      Effect.scopedWith((scope) =>
        Effect.gen(function* () {
          const tools = yield* Call.toolsOf(callOptions)
          const request = yield* Scope.provide(begin(method, callOptions, tools), scope)
          const options = Call.optionsOf(callOptions, request, tools, yield* Effect.context<never>())
          request.sent = true
          return yield* call(options).pipe(
            Effect.tap(({ content }) => Effect.sync(() => Request.seeAll(request, content))),
            Effect.tapCause(failing(request)),
            // The provider has answered before a structured output is decoded: its usage counts though that fails.
            Effect.provideServiceEffect(Telemetry.CurrentSpanTransformer, watching(request)),
            Effect.provideService(MaxOutputTokens, request.maxOutputTokens)
          )
        })
      )

  const streamText: Call.Methods["streamText"] = (callOptions) =>
    Stream.unwrap(
      Effect.gen(function* () {
        const tools = yield* Call.toolsOf(callOptions)
        const request = yield* begin("streamText", callOptions, tools)
        const options = Call.optionsOf(callOptions, request, tools, yield* Effect.context<never>())
        const parts = Stream.suspend(() => {
          // Its scope was closed while it waited for its turn: there is nothing any more that could be charged.
          if (request.settled) return Stream.fromEffect(Effect.interrupt)
          request.sent = true
          return methods.streamText(options)
        }).pipe(
          Stream.tapCause(failing(request)),
          Stream.mapArray((parts) => {
            Request.see(request, parts)
            return parts
          })
        )
        // Where it runs tools, a model reads ahead of its reader: what has come counts, whether it was read or not.
        const ahead = Call.runsTools(callOptions, tools) ? Stream.buffer(parts, { capacity: "unbounded" }) : parts
        return Stream.provideService(ahead, MaxOutputTokens, request.maxOutputTokens)
      })
    )

  // The methods are generic in the tools and schemas of each call, which pass through untouched.
  const methods = inner as unknown as Call.Methods
  const wrapped: Call.Methods = {
    generateText: guard("generateText", methods.generateText),
    generateObject: guard("generateObject", methods.generateObject),
    streamText
  }
  return { ...inner, ...(wrapped as unknown as Pick<LanguageModel.LanguageModel, keyof Call.Methods>) }
})

const useOf = (usage: TokenUsage.TokenUsage): Use => ({ usage, tokens: TokenUsage.total(usage) })

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
