/**
 * What the usage of a model costs, in exact nano-dollars.
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Usd } from "effect-budget"
 * import { Pricing, TokenUsage } from "effect-budget/ai"
 *
 * const usage = { ...TokenUsage.zero, input: 200, cacheRead: 800, output: 100 }
 *
 * const program = Effect.gen(function*() {
 *   const pricing = yield* Pricing.Pricing
 *   return yield* pricing.cost(usage, { provider: "my-cloud", model: "my-model" })
 * })
 *
 * const layer = Pricing.layerTable({ "my-model": { input: "0.50", cacheRead: "0.05", output: 2 } })
 * console.log(Usd.format(await Effect.runPromise(Effect.provide(program, layer)))) // $0.00034
 * ```
 *
 * The data is that of `@pydantic/genai-prices`, which carries cached reads, cache writes by time to live, reasoning, tiers for
 * long contexts and prices that change by date or hour for some 1,700 models of 43 providers. Of the others, `tokenlens` has
 * some 690 models without tiers, dates or cache lifetimes, and `gpt-tokenizer` only OpenAI's input and output, whose
 * cached and reasoning tokens it does not know.
 *
 * Only the data and its matching of names are taken from there: its own sums are floats. Here a price is the shortest decimal
 * of its number, in nano-dollars for a million tokens (what is finer is rounded up), classes are summed as integers, and the
 * sum is rounded up once to a whole nano-dollar.
 *
 * What a `TokenUsage` does not say is not priced: tokens of sound and images count as text, and the fees of a provider's own
 * tools (a web search) are not in it.
 */
import type * as Package from "@pydantic/genai-prices"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { isAmount } from "../internal/amount.ts"
import * as Usd from "../Usd.ts"
import * as TokenUsage from "./TokenUsage.ts"

/** Which model is priced. Without a provider, the first one known to have such a model. */
export interface ModelRef {
  readonly provider?: string | undefined
  readonly model: string
}

export interface CostOptions {
  /** The call goes through the provider's batch interface: see `batchDiscount`. */
  readonly batch?: boolean | undefined
  /**
   * How long the cache writes were asked to live. The default is the price of a write without a term (five minutes, at
   * Anthropic); a term without a price of its own costs the same.
   */
  readonly cacheWriteTtl?: "5m" | "1h" | undefined
}

/** The price of the usage is not known, so the usage is not free: nothing is charged or admitted by it. */
export class UnknownPrice extends Schema.TaggedError<UnknownPrice>("effect-budget/UnknownPrice")("UnknownPrice", {
  provider: Schema.optionalKey(Schema.String),
  model: Schema.String,
  /** What is missing: the model, the price of one class of tokens, or the batch discount. */
  missing: Schema.Literals(["model", "input", "cacheRead", "cacheWrite", "output", "reasoning", "batchDiscount"])
}) {
  override get message(): string {
    const model = this.provider === undefined ? `"${this.model}"` : `"${this.model}" of "${this.provider}"`
    return this.missing === "model"
      ? `No price is known for the model ${model}`
      : `The model ${model} has no known price for ${this.missing}`
  }
}

/**
 * Prices usage. To put prices of your own in its place, provide any `Pricing.of({ cost })`.
 */
export class Pricing extends Context.Service<
  Pricing,
  {
    /**
     * What the usage of **one** call costs: tiers and fees by the request go by the call. A sum of several calls is the sum of
     * their costs. At most 9,007,199.254740991 USD; a usage that is dearer costs that. A class that is not a whole number from
     * 0 to 2^53 - 1 is a defect.
     */
    readonly cost: (
      usage: TokenUsage.TokenUsage,
      model: ModelRef,
      options?: CostOptions | undefined
    ) => Effect.Effect<Usd.Usd, UnknownPrice>
  }
>()("effect-budget/ai/Pricing") {}

/**
 * Dollars for a million tokens, as a decimal: `"1.25"`, `0.125`. A tiered price goes by all input of the call (cached or not):
 * above `start` tokens of it, **every** token of the class costs the `price` of that tier.
 */
export type Price =
  | string
  | number
  | {
      readonly base: string | number
      readonly tiers: ReadonlyArray<{ readonly start: number; readonly price: string | number }>
    }

/** The prices of a model by class. A class that is left out costs what it is a part of. */
export interface ModelPrice {
  readonly input: Price
  /** Default: `input`. */
  readonly cacheRead?: Price | undefined
  /** Default: `input`. */
  readonly cacheWrite?: Price | undefined
  /** Writes that live five minutes. Default: `cacheWrite`. */
  readonly cacheWrite5m?: Price | undefined
  /** Writes that live an hour. Default: `cacheWrite`. */
  readonly cacheWrite1h?: Price | undefined
  readonly output: Price
  /** Default: `output`. */
  readonly reasoning?: Price | undefined
  /** Dollars for each thousand calls, whatever their tokens. Default: none. */
  readonly requestsPerThousand?: Price | undefined
}

/** Prices by name: `"model"`, or `"provider:model"`, which goes first. Names are matched as they are written. */
export type Table = Readonly<Record<string, ModelPrice>>

export interface TableOptions {
  /** What a model without a known price costs. Without it, such a model is refused with `UnknownPrice`. */
  readonly fallback?: ModelPrice | undefined
  /**
   * The part of the price that a batch call saves, from 0 to 1: 0.5 for half. The data has no batch prices, so without this
   * a batch call is refused with `UnknownPrice`.
   */
  readonly batchDiscount?: string | number | undefined
}

export interface Options extends TableOptions {
  /** Prices that go before those of the package: private models, negotiated prices. */
  readonly table?: Table | undefined
}

const BILLION = 1_000_000_000n
const MAX = BigInt(Number.MAX_SAFE_INTEGER)

/** A price that is ready for sums: nano-dollars for a million tokens, the highest tier first. */
interface Rate {
  readonly base: bigint
  readonly tiers: ReadonlyArray<{ readonly start: number; readonly price: bigint }>
}

interface Rates {
  readonly input: Rate | undefined
  readonly cacheRead: Rate | undefined
  readonly cacheWrite: Rate | undefined
  readonly cacheWrite5m: Rate | undefined
  readonly cacheWrite1h: Rate | undefined
  readonly output: Rate | undefined
  readonly reasoning: Rate | undefined
  /** Nano-dollars for a thousand requests. */
  readonly requests: Rate | undefined
}

const FINER_THAN_A_NANO = /^(\d+\.\d{9})\d*[1-9]0*$/

const nanos = (dollars: string | number): bigint => {
  const finer = FINER_THAN_A_NANO.exec(`${dollars}`)
  return finer === null ? BigInt(Usd.dollars(dollars)) : BigInt(Usd.dollars(finer[1]!)) + 1n
}

const rate = (price: Price): Rate => {
  if (typeof price !== "object") return { base: nanos(price), tiers: [] }
  for (const { start } of price.tiers) {
    if (!isAmount(start)) throw new RangeError(`Pricing: a tier from ${start} tokens, not a whole number from 0`)
  }
  return {
    base: nanos(price.base),
    tiers: price.tiers
      .map((tier) => ({ start: tier.start, price: nanos(tier.price) }))
      .sort((a, b) => b.start - a.start)
  }
}

const optional = (price: Price | undefined): Rate | undefined => (price === undefined ? undefined : rate(price))

/** A class without a price of its own costs what it is a part of: so count the package's sums, too. */
const rates = (prices: Partial<ModelPrice>): Rates => {
  const input = optional(prices.input)
  const output = optional(prices.output)
  const cacheWrite = optional(prices.cacheWrite) ?? input
  return {
    input,
    cacheRead: optional(prices.cacheRead) ?? input,
    cacheWrite,
    cacheWrite5m: optional(prices.cacheWrite5m) ?? cacheWrite,
    cacheWrite1h: optional(prices.cacheWrite1h) ?? cacheWrite,
    output,
    reasoning: optional(prices.reasoning) ?? output,
    requests: optional(prices.requestsPerThousand)
  }
}

const at = (rate: Rate, totalInput: number): bigint =>
  rate.tiers.find((tier) => totalInput > tier.start)?.price ?? rate.base

const CLASSES = ["input", "cacheRead", "cacheWrite", "output", "reasoning"] as const
type Class = (typeof CLASSES)[number]

/** The cost, or the first class that has tokens and no price. */
const sum = (
  rates: Rates,
  usage: TokenUsage.TokenUsage,
  ttl: "5m" | "1h" | undefined,
  kept: bigint
): Usd.Usd | Class => {
  const totalInput = TokenUsage.totalInput(usage)
  // In millionths of a nano-dollar. Prices are for a million tokens; that of requests is for a thousand, and this is one.
  let millionths = rates.requests === undefined ? 0n : at(rates.requests, totalInput) * 1_000n
  for (const name of CLASSES) {
    const count = usage[name]
    if (count === 0) continue
    const rate = name === "cacheWrite" && ttl !== undefined ? rates[`cacheWrite${ttl}`] : rates[name]
    if (rate === undefined) return name
    millionths += BigInt(count) * at(rate, totalInput)
  }
  const divisor = 1_000_000n * BILLION
  const cost = (millionths * kept + divisor - 1n) / divisor
  return Usd.nanos(cost > MAX ? Number.MAX_SAFE_INTEGER : Number(cost))
}

const fromTable = (table: Table): ((ref: ModelRef) => Rates | undefined) => {
  // a Map, since a model may be named like a member of Object
  const entries = new Map(Object.entries(table).map(([name, prices]) => [name, rates(prices)] as const))
  return ({ provider, model }) =>
    (provider === undefined ? undefined : entries.get(`${provider}:${model}`)) ?? entries.get(model)
}

/** How many names are remembered: about as many as the package has. */
const NAMES = 2_000

/**
 * Prices by the package's own matching, which takes tens of microseconds, and a request is priced some six times. So what was
 * found is remembered, as long as the package has the same data (it replaces all providers when it is updated), and where the
 * price goes by date or hour, for that time only.
 */
const fromPackage = ({
  calcPrice,
  findProvider
}: typeof Package): ((ref: ModelRef, now: Date) => Rates | undefined) => {
  const compiled = new WeakMap<Package.ModelPrice, Rates>()
  const found = new Map<
    string,
    { readonly provider: Package.Provider; readonly at: number | undefined; readonly rates: Rates }
  >()
  return ({ model, provider = "" }, now) => {
    const name = `${provider}\n${model}`
    const before = found.get(name)
    try {
      if (
        before !== undefined &&
        (before.at === undefined || before.at === now.getTime()) &&
        findProvider({ providerId: before.provider.id }) === before.provider
      ) {
        return before.rates
      }
      // With no usage, this only looks up which price holds at that time.
      const price = calcPrice({}, model, { timestamp: now, ...(provider === "" ? {} : { providerId: provider }) })
      if (price === null) return undefined
      const rates = compiled.get(price.model_price) ?? ratesOf(price.model_price)
      compiled.set(price.model_price, rates)
      if (found.size >= NAMES) found.clear()
      found.set(name, {
        provider: price.provider,
        at: Array.isArray(price.model.prices) ? now.getTime() : undefined,
        rates
      })
      return rates
    } catch {
      // The package's data can be replaced while the program runs. What it then cannot read has no known price.
      return undefined
    }
  }
}

const ratesOf = (prices: Package.ModelPrice): Rates =>
  rates({
    ...(prices["input_mtok"] !== undefined && { input: prices["input_mtok"] }),
    cacheRead: prices["cache_read_mtok"],
    cacheWrite: prices["cache_write_mtok"],
    cacheWrite5m: prices["cache_write_5m_mtok"],
    cacheWrite1h: prices["cache_write_1h_mtok"],
    ...(prices["output_mtok"] !== undefined && { output: prices["output_mtok"] }),
    reasoning: prices["output_reasoning_mtok"],
    requestsPerThousand: prices["requests_kcount"]
  })

const make = (
  lookup: (ref: ModelRef, now: Date) => Rates | undefined,
  options: TableOptions
): Context.Service.Shape<typeof Pricing> => {
  const fallback = options.fallback === undefined ? undefined : rates(options.fallback)
  const discount = options.batchDiscount === undefined ? undefined : nanos(options.batchDiscount)
  if (discount !== undefined && discount > BILLION)
    throw new RangeError(`Pricing: a batch discount of ${options.batchDiscount} is not a part from 0 to 1`)
  return Pricing.of({
    cost: (usage, ref, costOptions) =>
      Effect.flatMap(DateTime.nowAsDate, (now) => {
        for (const name of CLASSES) {
          if (!isAmount(usage[name]))
            return Effect.die(
              new RangeError(`Pricing: ${name} must be a whole number from 0 to 2^53 - 1, not ${usage[name]}`)
            )
        }
        const unknown = (missing: UnknownPrice["missing"]) =>
          Effect.fail(
            new UnknownPrice({
              ...(ref.provider !== undefined && { provider: ref.provider }),
              model: ref.model,
              missing
            })
          )
        const saved = costOptions?.batch === true ? discount : 0n
        if (saved === undefined) return unknown("batchDiscount")
        const price = (rates: Rates) => sum(rates, usage, costOptions?.cacheWriteTtl, BILLION - saved)
        const found = lookup(ref, now)
        const cost = found === undefined ? "model" : price(found)
        if (typeof cost === "number") return Effect.succeed(cost)
        // A fallback names input and output, and so has a price for every class.
        const instead = fallback === undefined ? cost : price(fallback)
        return typeof instead === "number" ? Effect.succeed(instead) : unknown(instead)
      })
  })
}

/**
 * The prices of the package, with a table that goes before them, a fallback behind them, or a batch discount. A price that
 * is not a decimal, 0 or above, dies with a `RangeError`; so does the layer where the package is not installed, with the
 * error of the import.
 */
export const layerWith = (options: Options): Layer.Layer<Pricing> =>
  Layer.effect(
    Pricing,
    // Imported here, so that tables and services of one's own need no such package.
    Effect.map(
      Effect.promise(() => import("@pydantic/genai-prices")),
      (prices) => {
        const own = fromTable(options.table ?? {})
        const known = fromPackage(prices)
        return make((ref, now) => own(ref) ?? known(ref, now), options)
      }
    )
  )

/**
 * The prices of `@pydantic/genai-prices`, by its own matching of providers and models, at the time of the `Clock`. An unknown
 * model is refused, and so is one that has tokens in a class that the data gives no price (some models are listed with none).
 * Where the package's `updatePrices` is in use, the latest prices are taken.
 */
export const layer: Layer.Layer<Pricing> = layerWith({})

/** The prices of a table alone, without the package. An unknown model is refused, unless there is a `fallback`. */
export const layerTable = (table: Table, options?: TableOptions | undefined): Layer.Layer<Pricing> =>
  Layer.effect(
    Pricing,
    Effect.sync(() => make(fromTable(table), options ?? {}))
  )
