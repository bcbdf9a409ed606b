/**
 * Replays calls of language models in virtual time against one budget of tokens, under different ways to decide what a call
 * may spend.
 */
import { Limit, TokenGuard } from "effect-budget"
import { Estimator } from "effect-budget/ai"
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { Prompt } from "effect/ai"
import * as TestClock from "effect/testing/TestClock"

/** One call of a trace. */
export interface Call {
  /** Milliseconds from the first call. */
  readonly at: number
  readonly input: number
  readonly output: number
}

export interface Settings {
  /** What the budget allows: a token bucket. */
  readonly tokensPerMinute: number
  readonly burst: number
  /** `throttle` waits, up to `timeout`; `reject` does not. */
  readonly enforcement: "throttle" | "reject"
  readonly timeout: Duration.Input
  /** The most that a call may answer, as the provider would be told. No call of the trace may answer more. */
  readonly maxOutputTokens: number
  /** How much a bound by bytes is above the tokens of the input: bytes per token of the texts. */
  readonly bytesPerToken: number
  readonly latency: Latency
}

/** How long a call takes: milliseconds to begin, and for each token. */
export interface Latency {
  readonly start: number
  readonly perInput: number
  readonly perOutput: number
}

/** What came of a replay. */
export interface Outcome {
  readonly policy: string
  readonly enforcement: Settings["enforcement"]
  readonly calls: number
  readonly admitted: number
  readonly denied: number
  /** What was charged by the time of the last call, as a part of all that the limit gave until then. */
  readonly utilisation: number
  /** The greatest debt at any moment: how far what was spent and held was above what the limit had given. */
  readonly overshoot: number
  /** What bounds it: the sum of max(actual - held, 0) over the calls in flight, at its greatest. */
  readonly overshootBound: number
  /** What was held for each token that was used. */
  readonly heldPerUsed: number
  /** How long admitted calls waited. */
  readonly waitMillis: { readonly p50: number; readonly p99: number }
}

/** How a policy decides: what it holds for a call, or nothing at all. */
export interface Policy {
  readonly name: string
  /** `undefined`: look whether anything is left, run, and charge when the usage is known. */
  readonly estimator: Layer.Layer<Estimator.Estimator> | undefined
}

/** The trace knows counts but no texts, so a prompt of the replay has one character for each token. */
const counting = (settings: Settings, factor: number): Layer.Layer<Estimator.Estimator> =>
  Layer.succeed(Estimator.Estimator, {
    estimate: ({ prompt }) =>
      Effect.sync(() => ({ input: Math.ceil(tokensOf(prompt) * factor), output: settings.maxOutputTokens })),
    observe: () => Effect.void
  })

const promptOf = (tokens: number): Prompt.Prompt => Prompt.make([{ role: "system", content: "t".repeat(tokens) }])

const tokensOf = (prompt: Prompt.Prompt): number => {
  const [message] = prompt.content
  return typeof message?.content === "string" ? message.content.length : 0
}

export const policies = (settings: Settings): ReadonlyArray<Policy> => {
  const known = counting(settings, 1)
  return [
    { name: "record after the fact", estimator: undefined },
    {
      name: `worst case: input x ${settings.bytesPerToken} + ceiling`,
      estimator: counting(settings, settings.bytesPerToken)
    },
    { name: "tokenizer: input + ceiling", estimator: known },
    { name: "learned: input + p95", estimator: Estimator.layerLearned({ base: known }) }
  ]
}

/** Replays the calls, which are in the order of time, under one policy. */
export const replay = (calls: ReadonlyArray<Call>, policy: Policy, settings: Settings): Effect.Effect<Outcome> =>
  replayed(calls, policy, settings).pipe(
    Effect.provide([
      TokenGuard.layer({
        limit: Limit.rate({ amount: settings.tokensPerMinute, per: "1 minute", burst: settings.burst }),
        enforcement: settings.enforcement,
        timeout: settings.timeout
      }),
      policy.estimator ?? counting(settings, 0)
    ]),
    Effect.provide(TestClock.layer())
  )

const replayed = Effect.fnUntraced(function* (calls: ReadonlyArray<Call>, policy: Policy, settings: Settings) {
  const tokens = yield* TokenGuard
  const estimator = yield* Estimator.Estimator
  const waits: Array<number> = []
  const total = { denied: 0, held: 0, used: 0 }
  const excess = { inFlight: 0, peak: 0, debt: 0 }

  const admitted = Effect.fnUntraced(function* (call: Call, held: number) {
    waits.push((yield* Clock.currentTimeMillis) - call.at)
    total.held += held
    total.used += call.input + call.output
    excess.inFlight += excessOf(call, held)
    excess.peak = Math.max(excess.peak, excess.inFlight)
    const { perInput, perOutput, start } = settings.latency
    yield* Effect.sleep(Math.round(start + perInput * call.input + perOutput * call.output))
  })
  // Time only ever adds to the bucket: right after a charge, the debt is as great as it gets.
  const charged = (call: Call, held: number) =>
    Effect.map(tokens.available, (available) => {
      excess.inFlight -= excessOf(call, held)
      excess.debt = Math.max(excess.debt, -available)
    })

  const recordAfterwards = Effect.fnUntraced(function* (call: Call) {
    // Is a token left? It is given back at once: this policy holds nothing.
    yield* tokens.withReservation(1, (reservation) => reservation.release)
    yield* admitted(call, 0)
    yield* tokens.withReservation(0, (reservation) => reservation.commit(call.input + call.output))
    yield* charged(call, 0)
  })

  const reserveFirst = Effect.fnUntraced(function* (call: Call) {
    const request = { prompt: promptOf(call.input) }
    const estimate = yield* estimator.estimate(request)
    const held = estimate.input + estimate.output
    yield* tokens.withReservation(held, (reservation) =>
      Effect.gen(function* () {
        yield* admitted(call, held)
        yield* reservation.commit(call.input + call.output)
        yield* charged(call, held)
        yield* estimator.observe(request, call)
      })
    )
  })

  const one = policy.estimator === undefined ? recordAfterwards : reserveFirst
  const traffic = Effect.gen(function* () {
    const fibers: Array<Fiber.Fiber<void>> = []
    for (const call of calls) {
      yield* Effect.sleep(call.at - (yield* Clock.currentTimeMillis))
      fibers.push(
        yield* Effect.forkChild(
          Effect.catchTag(one(call), ["BudgetExceeded", "FailedReservation"], () =>
            Effect.sync(() => {
              total.denied++
            })
          )
        )
      )
    }
    const spent = yield* tokens.tokensConsumed
    yield* Fiber.awaitAll(fibers)
    return spent
  })

  const horizon = calls.at(-1)!.at
  const running = yield* Effect.forkChild(traffic)
  while (running.pollUnsafe() === undefined) yield* TestClock.adjust("1 hour")
  const spent = yield* Fiber.join(running)
  waits.sort((a, b) => a - b)
  const outcome: Outcome = {
    policy: policy.name,
    enforcement: settings.enforcement,
    calls: calls.length,
    admitted: waits.length,
    denied: total.denied,
    utilisation: spent / (settings.burst + (settings.tokensPerMinute * horizon) / 60_000),
    overshoot: excess.debt,
    overshootBound: excess.peak,
    heldPerUsed: total.held / total.used,
    waitMillis: { p50: quantile(waits, 0.5), p99: quantile(waits, 0.99) }
  }
  return outcome
})

const excessOf = (call: Call, held: number): number => Math.max(call.input + call.output - held, 0)

/** Nearest rank. */
const quantile = (sorted: ReadonlyArray<number>, part: number): number =>
  sorted[Math.max(Math.ceil(part * sorted.length) - 1, 0)] ?? 0

/** Reads a trace. The order of time is not taken for granted. */
export const parse = (csv: string): ReadonlyArray<Call> => {
  const rows = csv
    .split("\n")
    .slice(1)
    .filter((line) => line.trim() !== "")
    .map((line, i) => {
      const [timestamp = "", input, output] = line.trim().split(",")
      // Fractions of a second have seven digits.
      const row = {
        at: Date.parse(`${timestamp.replace(" ", "T").slice(0, 23)}Z`),
        input: Number(input),
        output: Number(output)
      }
      if (!Object.values(row).every((n) => Number.isSafeInteger(n) && n >= 0)) {
        throw new RangeError(`line ${i + 2} is not TIMESTAMP,ContextTokens,GeneratedTokens: ${line}`)
      }
      return row
    })
    .toSorted((a, b) => a.at - b.at)
  if (rows.length === 0) throw new RangeError("the trace has no calls")
  return rows.map((row) => ({ ...row, at: row.at - rows[0]!.at }))
}
