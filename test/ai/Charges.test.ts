import { assert, describe, it } from "@effect/vitest"
import {
  Channel,
  Context,
  Deferred,
  Duration,
  Effect,
  ExecutionPlan,
  Exit,
  Fiber,
  Layer,
  Option,
  Schedule,
  Scope,
  Stream
} from "effect"
import { AiError, Chat, LanguageModel, type Response, Telemetry, Tokenizer } from "effect/ai"
import { Budget, BudgetError, FailedReservation, Limit, type Reservation, TokenGuard, Usd } from "../../src/index.ts"
import { BudgetedLanguageModel, Estimator, MaxOutputTokens, Pricing } from "../../src/ai/index.ts"
import { defectOf } from "../utils/exits.ts"
import { make as makeRandom } from "../utils/random.ts"
import { aiError, ask, budgeted, cap, charged, delta, estimator, fake, finish, start, text } from "./utils.ts"

class Dollars extends Budget.Service<Dollars>()("test/Dollars") {}

const listen = LanguageModel.streamText({ prompt: "hi" })
const reasoning = (text: string): Response.StreamPartEncoded => ({ type: "reasoning-delta", id: "2", delta: text })
const usage = (
  inputTokens: Response.FinishPartEncoded["usage"]["inputTokens"],
  outputTokens: Response.FinishPartEncoded["usage"]["outputTokens"]
): Response.FinishPartEncoded => ({
  type: "finish",
  reason: "stop",
  response: undefined,
  usage: { inputTokens, outputTokens }
})

/** Charged, and why. */
const settled =
  (
    layer: (
      onCharge: BudgetedLanguageModel.Options<number, never>["onCharge"]
    ) => Layer.Layer<LanguageModel.LanguageModel | TokenGuard>
  ) =>
  <E>(use: Effect.Effect<unknown, E, LanguageModel.LanguageModel | TokenGuard>) =>
    Effect.gen(function* () {
      const sources: Array<BudgetedLanguageModel.Source | undefined> = []
      const onCharge = ({ source }: BudgetedLanguageModel.Charge<number>) =>
        Effect.sync(() => void sources.push(source))
      return yield* Effect.exit(use).pipe(
        Effect.andThen(charged),
        Effect.map((tokens) => [sources, tokens] as const),
        Effect.provide(layer(onCharge))
      )
    })

const ofStream = (parts: ReadonlyArray<Response.StreamPartEncoded>, then: Stream.Stream<never> = Stream.empty) =>
  settled((onCharge) =>
    budgeted({ stream: Stream.concat(Stream.rechunk(Stream.fromIterable(parts), 1), then) }, cap, { onCharge })
  )
const ofCall = (answer: Effect.Effect<Array<Response.PartEncoded>, AiError.AiError>) =>
  settled((onCharge) => budgeted({ answer }, cap, { onCharge }))

describe("a usage", () => {
  const said = [start, delta("delta")]
  const drain = Stream.runDrain(listen)
  const cases: ReadonlyArray<
    readonly [
      string,
      ReadonlyArray<Response.FinishPartEncoded>,
      readonly [BudgetedLanguageModel.Source, number],
      ofCall?: number
    ]
  > = [
    ["told twice counts once", [finish(90, 10), finish(90, 10)], ["reported", 100]],
    ["that grows is the last one", [finish(90, 1), finish(90, 10)], ["reported", 100]],
    ["that shrinks is the first one", [finish(90, 10), finish(90, 0)], ["reported", 100]],
    ["in two parts is both", [finish(90, undefined), finish(undefined, 10)], ["reported", 100]],
    ["in two parts, of which one is nonsense", [finish(90, 10), finish(-1, -1)], ["reported", 100]],
    [
      "by classes in two parts is all of them",
      [
        usage(
          { total: 90, uncached: undefined, cacheRead: 80, cacheWrite: undefined },
          { total: 10, text: undefined, reasoning: undefined }
        ),
        usage(
          { total: undefined, uncached: undefined, cacheRead: undefined, cacheWrite: 5 },
          { total: 10, text: undefined, reasoning: 7 }
        )
      ],
      ["reported", 100]
    ],
    // Nothing goes in and something comes out: not a usage. But the side that tells more than what was counted, counts.
    ["of nothing is none", [finish(0, 0)], ["delivered", 105], 150],
    ["without input is none", [finish(0, 10)], ["delivered", 110], 150],
    ["without input, and more output than was held, is none", [finish(0, 70)], ["delivered", 170], 170],
    ["without output, of a stream that spoke, is none", [finish(400, 0)], ["delivered", 405], 450],
    ["that is negative is none", [finish(-5, -5)], ["delivered", 105], 150],
    ["that is enormous is charged", [finish(Number.MAX_SAFE_INTEGER, 10)], ["reported", Number.MAX_SAFE_INTEGER]]
  ]
  for (const [name, finishes, [source, tokens], ofCallTokens = tokens] of cases) {
    it.effect(name, () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* ofStream([...said, ...finishes])(drain), [[source], tokens])
      })
    )
    // The same of a call, of which is known what it held when its usage is none.
    it.effect(`${name}, of a call`, () =>
      Effect.gen(function* () {
        const answer = Effect.succeed<Array<Response.PartEncoded>>([{ type: "text", text: "x" }, ...finishes])
        assert.deepStrictEqual(yield* ofCall(answer)(ask), [
          [source === "reported" ? "reported" : "estimated"],
          ofCallTokens
        ])
      })
    )
  }

  it.effect("without output, of an answer that says nothing, is one", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* ofStream([finish(90, 0)])(drain), [["reported"], 90])
    })
  )

  it.effect("without output, of an answer of empty parts, is one too", () =>
    Effect.gen(function* () {
      const empty = [start, delta(""), finish(90, 0)]
      assert.deepStrictEqual(yield* ofStream(empty)(drain), [["reported"], 90])
      assert.deepStrictEqual(yield* ofCall(text("", 90, 0))(ask), [["reported"], 90])
    })
  )

  it.effect("above the safe integers is charged as what was held: the answer cannot be read", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* ofCall(text("x", 1e300, 10))(ask), [["estimated"], 150])
    })
  )

  it.effect("whose amount is none is charged as what was held", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(
        yield* settled((onCharge) =>
          budgeted({ answer: text("x", Number.MAX_SAFE_INTEGER, 1) }, cap, {
            onCharge,
            amounts: ({ tokens }) => 2 * tokens
          })
        )(ask),
        [["estimated"], 300]
      )
    })
  )
})

describe("an abandoned stream", () => {
  const parts = [start, delta("delta one "), delta("two"), finish(90, 10)]

  it.effect("that told its usage on the way is charged what came after it too", () =>
    Effect.gen(function* () {
      const early = [start, finish(90, 1), delta("delta one "), delta("two")]
      assert.deepStrictEqual(yield* ofStream(early)(Stream.runDrain(Stream.take(listen, 4))), [
        ["delivered"],
        100 + "delta one two".length
      ])
      assert.deepStrictEqual(yield* ofStream([...early, finish(90, 4)])(Stream.runDrain(listen)), [["reported"], 94])
    })
  )

  it.effect("that delivered a file is charged what was held: what a file takes is not known", () =>
    Effect.gen(function* () {
      const file: Response.StreamPartEncoded = { type: "file", mediaType: "image/png", data: "AA==" }
      assert.deepStrictEqual(yield* ofStream([start, delta("delta"), file])(Stream.runDrain(listen)), [
        ["estimated"],
        150
      ])
    })
  )

  it.effect("whose scope was closed while it waited for its turn is not sent, and costs nothing", () =>
    Effect.gen(function* () {
      for (const end of [Exit.void, Exit.fail("closed")]) {
        let sent = 0
        const layer = budgeted({ stream: Stream.suspend(() => (sent++, Stream.fromIterable(parts))) }, cap)
        const [exit, tokens] = yield* Effect.gen(function* () {
          const scope = yield* Scope.make()
          const pull = yield* Channel.toPullScoped(Stream.toChannel(listen), scope)
          yield* Scope.close(scope, end)
          return [yield* Effect.exit(pull), yield* charged] as const
        }).pipe(Effect.provide(layer))
        assert.isTrue(Exit.isFailure(exit))
        assert.deepStrictEqual([sent, tokens], [0, 0])
      }
    })
  )

  it.effect("that was never run reserves nothing", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* ofStream(parts)(Effect.sync(() => LanguageModel.streamText({ prompt: "hi" }))), [
        [],
        0
      ])
      assert.deepStrictEqual(yield* ofStream(parts)(Stream.runDrain(Stream.take(listen, 0))), [[], 0])
    })
  )

  it.effect("each run is a request of its own", () =>
    Effect.gen(function* () {
      const twice = Effect.andThen(Stream.runDrain(listen), Stream.runDrain(listen))
      assert.deepStrictEqual(yield* ofStream(parts)(twice), [["reported", "reported"], 200])
    })
  )

  it.effect("whose reader fails, dies, or breaks a loop is charged its input and what was delivered", () =>
    Effect.gen(function* () {
      const onDelta = (then: () => Effect.Effect<void, string>) =>
        Stream.runForEach(listen, (part) => (part.type === "text-delta" ? then() : Effect.void))
      const broken = Effect.flatMap(Stream.toAsyncIterableEffect(listen), (iterable) =>
        Effect.promise(async () => {
          for await (const part of iterable) if (part.type === "text-delta") break
        })
      )
      for (const reader of [onDelta(() => Effect.fail("no")), onDelta(() => Effect.die("no")), broken]) {
        assert.deepStrictEqual(yield* ofStream(parts)(reader), [["delivered"], 100 + "delta one ".length])
      }
    })
  )

  it.effect("is charged what has come, though its reader has not read all of it", () =>
    Effect.gen(function* () {
      const taken = Stream.runDrain(Stream.take(listen, 1))
      const whole = settled((onCharge) => budgeted({ stream: Stream.fromIterable(parts) }, cap, { onCharge }))
      assert.deepStrictEqual(yield* whole(taken), [["reported"], 100])
    })
  )

  it.effect("is charged no more output than was asked for", () =>
    Effect.gen(function* () {
      const long = [start, delta("delta" + "x".repeat(1_000))]
      assert.deepStrictEqual(yield* ofStream(long)(Stream.runDrain(listen)), [["delivered"], 150])
    })
  )

  it.effect("is charged all that a tokenizer counts, also above the ceiling: then it was not kept", () =>
    Effect.gen(function* () {
      const said = "x".repeat(1_000)
      const letters = Tokenizer.make({ tokenize: () => Effect.succeed(Array.from(said, () => 0)) })
      const drain = Effect.provideService(Stream.runDrain(listen), Tokenizer.Tokenizer, letters)
      assert.deepStrictEqual(yield* ofStream([start, delta(said)])(drain), [["delivered"], 1_100])
    })
  )
})

describe("prices", () => {
  const priced = (
    script: Parameters<typeof fake>[0],
    prices: Pricing.ModelPrice,
    options: Partial<BudgetedLanguageModel.PricedOptions<number>> = {},
    tableOptions?: Pricing.TableOptions
  ) =>
    BudgetedLanguageModel.layerPriced(Dollars, {
      model: "m",
      maxOutputTokens: 50,
      amounts: ({ cost }) => cost,
      ...options
    }).pipe(
      Layer.provide([fake(script), estimator, Pricing.layerTable({ m: prices }, tableOptions)]),
      Layer.provideMerge(Layer.fresh(Dollars.layer({ limit: Limit.capacity(Usd.dollars(1)) })))
    )
  const spent = Effect.gen(function* () {
    const { charged, ledgers } = yield* (yield* Dollars).snapshot
    assert.strictEqual(ledgers[0].held, 0)
    return charged
  })

  it.effect("reasoning that was delivered before a cut costs what reasoning costs", () =>
    Effect.gen(function* () {
      yield* Stream.runDrain(listen)
      // 100 of input at 1,000 nano-dollars, 10 letters of text at 2,000 and 6 of reasoning at 3,000.
      assert.strictEqual(yield* spent, 100 * 1_000 + 10 * 2_000 + 6 * 3_000)
    }).pipe(
      Effect.provide(
        priced(
          { stream: Stream.fromIterable([reasoning("delta!"), start, delta("delta text")]) },
          { input: 1, output: 2, reasoning: 3 }
        )
      )
    )
  )

  it.effect("what is too much of both is cut of both", () =>
    Effect.gen(function* () {
      yield* Stream.runDrain(listen)
      assert.strictEqual(yield* spent, 100 * 1_000 + 40 * 2_000 + 10 * 3_000)
    }).pipe(
      Effect.provide(
        priced(
          {
            stream: Stream.fromIterable([reasoning("delta" + "x".repeat(95)), start, delta("delta" + "x".repeat(395))])
          },
          { input: 1, output: 2, reasoning: 3 }
        )
      )
    )
  )

  it.effect("the parameters of a tool are output", () =>
    Effect.gen(function* () {
      yield* Stream.runDrain(listen)
      assert.strictEqual(yield* spent, 100 * 1_000 + 9 * 2_000)
    }).pipe(
      Effect.provide(
        priced(
          {
            stream: Stream.fromIterable([
              { type: "tool-params-start", id: "1", name: "Search" },
              { type: "tool-params-delta", id: "1", delta: 'delta"a":' }
            ])
          },
          { input: 1, output: 2, reasoning: 3 }
        )
      )
    )
  )

  for (const [name, prices, held] of [
    ["writing to a cache", { input: 1, cacheWrite: 4, output: 10, reasoning: 5 }, 100 * 4 + 50 * 10],
    ["thinking", { input: 4, cacheWrite: 1, output: 5, reasoning: 10 }, 100 * 4 + 50 * 10],
    ["both", { input: 1, cacheWrite: 4, output: 5, reasoning: 10 }, 100 * 4 + 50 * 10],
    ["neither", { input: 4, cacheWrite: 1, output: 10, reasoning: 5 }, 100 * 4 + 50 * 10]
  ] as const) {
    it.effect(`what is held is the dearest reading: ${name}`, () =>
      Effect.gen(function* () {
        const gate = yield* Deferred.make<void>()
        yield* Effect.gen(function* () {
          const call = yield* Effect.forkChild(ask, { startImmediately: true })
          const { ledgers } = yield* (yield* Dollars).snapshot
          assert.strictEqual(ledgers[0].held, held * 1_000)
          yield* Deferred.succeed(gate, undefined)
          yield* Fiber.join(call)
        }).pipe(Effect.provide(priced({ answer: Effect.andThen(Deferred.await(gate), text("x", 1, 1)) }, prices)))
      })
    )
  }

  it.effect("a batch costs less, and is refused without a discount", () =>
    Effect.gen(function* () {
      const prices = { input: 1, output: 2 }
      const half = priced({}, prices, { batch: true }, { batchDiscount: "0.5" })
      assert.strictEqual(yield* Effect.andThen(ask, spent).pipe(Effect.provide(half)), (80 * 1_000 + 20 * 2_000) / 2)
      const error = yield* Effect.flip(ask).pipe(Effect.provide(priced({}, prices, { batch: true })))
      const denial = Option.getOrThrow(BudgetedLanguageModel.denialOf(error))
      assert.strictEqual(denial._tag === "UnknownPrice" && denial.missing, "batchDiscount")
    })
  )

  it.effect("cache writes cost by how long they live", () =>
    Effect.gen(function* () {
      const answer = Effect.succeed<Array<Response.PartEncoded>>([
        usage({ total: 100, uncached: 0, cacheRead: 0, cacheWrite: 100 }, { total: 1, text: 1, reasoning: 0 })
      ])
      const prices = { input: 1, cacheWrite5m: 2, cacheWrite1h: 4, output: 1 }
      const layer = priced({ answer }, prices, { cacheWriteTtl: "1h" })
      assert.strictEqual(yield* Effect.andThen(ask, spent).pipe(Effect.provide(layer)), 401 * 1_000)
    })
  )
})

describe("the ceiling", () => {
  const seeing = (seen: Array<number | undefined>) =>
    Effect.andThen(
      Effect.flatMap(MaxOutputTokens, (tokens) => Effect.sync(() => seen.push(tokens))),
      text("hello", 80, 20)
    )

  it.effect("a call may have a lower one, which is held and told, but no higher one", () =>
    Effect.gen(function* () {
      const seen: Array<number | undefined> = []
      yield* Effect.gen(function* () {
        const tokens = yield* TokenGuard
        yield* tokens.reserve(1_000 - 130)
        yield* Effect.flip(ask)
        yield* Effect.provideService(ask, MaxOutputTokens, 30)
        yield* Effect.flip(Effect.provideService(ask, MaxOutputTokens, 1_000))
        assert.deepStrictEqual(seen, [30])
      }).pipe(Effect.provide(budgeted({ answer: seeing(seen) }, cap)))
    }).pipe(Effect.scoped)
  )

  it.effect("of a budget around another one holds for both", () =>
    Effect.gen(function* () {
      const seen: Array<number | undefined> = []
      const inner = budgeted({ answer: seeing(seen) }, cap)
      const outer = BudgetedLanguageModel.layer(Dollars, {
        amounts: ({ tokens }) => tokens,
        maxOutputTokens: 50,
        minOutputTokens: 1
      }).pipe(Layer.provide([inner, estimator]), Layer.provideMerge(Dollars.layer({ limit: Limit.capacity(120) })))
      yield* Effect.gen(function* () {
        yield* ask
        assert.deepStrictEqual(seen, [20])
        assert.strictEqual(yield* (yield* Dollars).available, 20)
      }).pipe(Effect.provide(outer))
    })
  )

  it.effect("must be a number of tokens", () =>
    Effect.gen(function* () {
      for (const [options, name] of [
        [{ maxOutputTokens: 0 }, "maxOutputTokens"],
        [{ maxOutputTokens: Number.NaN }, "maxOutputTokens"],
        [{ maxOutputTokens: 1.5 }, "maxOutputTokens"],
        [{ minOutputTokens: 0 }, "minOutputTokens"]
      ] as const) {
        const error = defectOf(yield* Effect.exit(Effect.provide(ask, budgeted({}, cap, options))))
        assert.match(error.message, new RegExp(`^BudgetedLanguageModel: ${name} must be`))
      }
    })
  )

  it.effect("is the most that fits into what is left, however amounts grow with the output", () =>
    Effect.gen(function* () {
      const random = makeRandom(7)
      const shapes: ReadonlyArray<(output: number) => number> = [
        (output) => output,
        (output) => Math.ceil(output / 7),
        (output) => output * output,
        (output) => Math.floor(Math.sqrt(output)),
        (output) => (output > 30_000 ? 900_000 : 3 * output),
        (output) => 10 ** Math.floor(output / 10_000)
      ]
      for (const shape of shapes) {
        for (let i = 0; i < 10; i++) {
          const amounts = ({ usage }: BudgetedLanguageModel.Use) => 1 + shape(usage.output)
          const left = 1 + random.int(shape(1), shape(64_000) + 1)
          let most = 64_000
          if (1 + shape(most) > left) {
            let low = 1
            while (most - low > 1) {
              const middle = Math.floor((low + most) / 2)
              if (1 + shape(middle) <= left) low = middle
              else most = middle
            }
            most = low
          }
          const seen: Array<number | undefined> = []
          let priced = 0
          yield* Effect.provide(
            ask,
            BudgetedLanguageModel.layer(TokenGuard, {
              amounts: (use) => {
                priced++
                return amounts(use)
              },
              maxOutputTokens: 64_000,
              minOutputTokens: 1
            }).pipe(
              Layer.provide([
                fake({ answer: seeing(seen) }),
                Estimator.layerBytes({ maxOutputTokens: 64_000 }),
                Layer.fresh(TokenGuard.layer({ limit: Limit.capacity(left) }))
              ])
            )
          )
          assert.deepStrictEqual(seen, [most], `left ${left} of ${shape}`)
          // Two of them to reserve, one to charge; in proportion, a few more find it.
          assert.isAtMost(priced, shapes.indexOf(shape) < 2 ? 3 + 6 : 3 + 18)
        }
      }
    })
  )
})

describe("an estimate of nothing", () => {
  it.effect("holds something all the same: not everybody is let in at once", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const layer = BudgetedLanguageModel.layer(TokenGuard, {
        amounts: ({ tokens }) => tokens,
        maxOutputTokens: 50
      }).pipe(
        Layer.provide([
          fake({ answer: Effect.andThen(Deferred.await(gate), text("hello", 80, 20)) }),
          Layer.succeed(Estimator.Estimator, {
            estimate: () => Effect.succeed({ input: 0, output: 0 }),
            observe: () => Effect.void
          })
        ]),
        Layer.provideMerge(Layer.fresh(TokenGuard.layer({ limit: Limit.capacity(10) })))
      )
      yield* Effect.gen(function* () {
        const calls = yield* Effect.forEach(Array.from({ length: 50 }), () =>
          Effect.forkChild(Effect.exit(ask), { startImmediately: true })
        )
        yield* Deferred.succeed(gate, undefined)
        const exits = yield* Effect.forEach(calls, Fiber.join)
        assert.strictEqual(exits.filter(Exit.isSuccess).length, 5)
        assert.isTrue(Exit.isFailure(yield* Effect.exit(ask)))
      }).pipe(Effect.provide(layer))
    })
  )
})

describe("around a call", () => {
  const boom = aiError(new AiError.InternalProviderError({ description: "boom" }))

  it.effect("each attempt of an execution plan, and of a retry, reserves and settles on its own", () =>
    Effect.gen(function* () {
      const counts = [0, 0]
      const failing = (i: number) =>
        Effect.suspend(() => (counts[i]!++ < 2 ? Effect.fail(boom) : text("hello", 80, 20)))
      const held = yield* Layer.build(Layer.fresh(TokenGuard.layer({ limit: Limit.capacity(10_000) })))
      const model = (answer: ReturnType<typeof failing>) =>
        BudgetedLanguageModel.layer(TokenGuard, { amounts: ({ tokens }) => tokens, maxOutputTokens: 50 }).pipe(
          Layer.provide([fake({ answer }), estimator, Layer.succeedContext(held)])
        )
      const plan = ExecutionPlan.make(
        { provide: model(Effect.fail(boom)), attempts: 2 },
        { provide: model(failing(0)), attempts: 3 }
      )
      yield* ask.pipe(Effect.withExecutionPlan(plan))
      // Four attempts that failed on the way, at what was held, and the last one.
      assert.strictEqual(yield* Effect.provide(charged, held), 4 * 150 + 100)
      yield* Effect.retry(ask, Schedule.recurs(2)).pipe(Effect.provide(model(failing(1))))
      assert.strictEqual(yield* Effect.provide(charged, held), 6 * 150 + 2 * 100)
    })
  )

  it.effect("what a client repeats inside one call is one request: what it reports is all that is seen", () =>
    Effect.gen(function* () {
      let times = 0
      const answer = Effect.retry(
        Effect.suspend(() => (times++ < 2 ? Effect.fail(boom) : text("hello", 80, 20))),
        Schedule.recurs(2)
      )
      assert.deepStrictEqual(yield* ofCall(answer)(ask), [["reported"], 100])
      assert.strictEqual(times, 3)
    })
  )

  it.effect("a chat streams under the budget too", () =>
    Effect.gen(function* () {
      const chat = yield* Chat.empty
      yield* Stream.runDrain(chat.streamText({ prompt: "one" }))
      yield* Stream.runDrain(chat.streamText({ prompt: "two" }))
      assert.strictEqual(yield* charged, 200)
    }).pipe(Effect.provide(budgeted({ stream: Stream.fromIterable([start, delta("delta"), finish(80, 20)]) }, cap)))
  )

  it.effect("telemetry of the call goes before that of the layer, and each is told once", () =>
    Effect.gen(function* () {
      const told: Array<string> = []
      const tell =
        (name: string): Telemetry.SpanTransformer =>
        () => {
          told.push(name)
        }
      const layer = Layer.provide(budgeted({}, cap), Layer.succeed(Telemetry.CurrentSpanTransformer, tell("layer")))
      yield* Effect.gen(function* () {
        yield* ask
        yield* Effect.provideService(ask, Telemetry.CurrentSpanTransformer, tell("call"))
        assert.strictEqual(yield* charged, 200)
      }).pipe(Effect.provide(layer))
      assert.deepStrictEqual(told, ["layer", "call"])
    })
  )

  it.effect("a quota that tells its estimated wait is a rate limit", () =>
    Effect.gen(function* () {
      class Quota extends Context.Service<Quota, Reservation.Reservable<number>>()("test/Quota") {}
      const tokens = yield* Layer.build(Layer.fresh(TokenGuard.layer({ limit: cap })))
      const rejecting = (reason: BudgetError.Rejected) =>
        Layer.succeed(Quota, {
          ...Context.get(tokens, TokenGuard),
          reserve: (requested) => Effect.fail(new FailedReservation({ budget: "q", requested, reason }))
        })
      const denied = (reason: BudgetError.Rejected) =>
        Effect.flip(ask).pipe(
          Effect.provide(
            BudgetedLanguageModel.layer(Quota, { amounts: ({ tokens }) => tokens, maxOutputTokens: 50 }).pipe(
              Layer.provide([fake({}), estimator, rejecting(reason)])
            )
          )
        )
      const later = yield* denied(new BudgetError.Rejected({ estimatedWait: Duration.seconds(3) }))
      assert.strictEqual(Duration.toSeconds(later.retryAfter!), 3)
      assert.strictEqual((yield* denied(new BudgetError.Rejected({}))).reason._tag, "QuotaExhaustedError")
    })
  )
})
