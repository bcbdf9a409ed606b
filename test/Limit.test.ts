import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { BudgetError, BudgetExceeded, FailedReservation, Limit } from "../src/index.ts"

const MAX = Number.MAX_SAFE_INTEGER

/** One of each kind, in words. */
const LIMITS: ReadonlyArray<readonly [limit: Limit.Limit, words: string, maximum: number]> = [
  [Limit.capacity(0), "capacity of 0", 0],
  [Limit.capacity(MAX), "capacity of 9007199254740991", MAX],
  [Limit.rate({ amount: 100, per: "1 minute" }), "rate of 100 per 1m", 100],
  [Limit.rate({ amount: 100, per: "1 minute", burst: 200 }), "rate of 100 per 1m (burst 200)", 200],
  [Limit.rate({ amount: 100, per: "1 minute", burst: 1 }), "rate of 100 per 1m (burst 1)", 1],
  [Limit.rate({ amount: 7, per: "300 micros" }), "rate of 7 per 300000ns", 7],
  [Limit.rate({ amount: 1, per: [1, 1] }), "rate of 1 per 1s 1ns", 1],
  [Limit.rate({ amount: 100, per: "1 minute", refill: "continuous" }), "rate of 100 per 1m", 100],
  [Limit.rate({ amount: 100, per: "1 minute", refill: "interval" }), "rate of 100 per whole 1m", 100],
  [Limit.rate({ amount: 1, per: "90 millis", burst: 2, refill: "interval" }), "rate of 1 per whole 90ms (burst 2)", 2],
  [Limit.window({ amount: 5_000, every: "1 day" }), "window of 5000 every 1d", 5_000],
  [Limit.window({ amount: 0, every: "90 minutes" }), "window of 0 every 1h 30m", 0],
  [Limit.concurrency(8), "concurrency of 8", 8],
  [Limit.unlimited, "unlimited", MAX]
]

const overJson = <S extends Schema.Codec<unknown, unknown>>(schema: S, value: S["Type"]): S["Type"] =>
  Schema.decodeUnknownSync(schema)(JSON.parse(JSON.stringify(Schema.encodeSync(schema)(value))))

describe("Limit", () => {
  it("constructors", () => {
    assert.deepStrictEqual(Limit.capacity(10), { _tag: "Capacity", amount: 10 })
    assert.deepStrictEqual(Limit.concurrency(10), { _tag: "Concurrency", amount: 10 })
    assert.deepStrictEqual(Limit.unlimited, { _tag: "Unlimited" })
    const minute = Duration.minutes(1)
    assert.deepStrictEqual(Limit.rate({ amount: 10, per: "1 minute" }), {
      _tag: "Rate",
      amount: 10,
      per: minute,
      burst: 10
    })
    assert.strictEqual(Limit.rate({ amount: 10, per: minute, burst: 3 }).burst, 3)
    assert.strictEqual(Limit.rate({ amount: 10, per: minute, burst: undefined }).burst, 10)
    assert.deepStrictEqual(Limit.window({ amount: 10, every: 60_000 }), { _tag: "Window", amount: 10, every: minute })
  })

  for (const [limit, words, maximum] of LIMITS) {
    it(words, () => {
      assert.strictEqual(Limit.format(limit), words)
      assert.strictEqual(Limit.maximum(limit), maximum)
      assert.isUndefined(Limit.problem(limit))
    })

    it(`${words}, over JSON`, () => {
      const decoded = overJson(Limit.Limit, limit)
      assert.strictEqual(Limit.format(decoded), words)
      assert.deepStrictEqual(Limit.flow(decoded), Limit.flow(limit))
      assert.isUndefined(Limit.problem(decoded))
      assert.deepStrictEqual(overJson(Limit.Limit, decoded), decoded)
    })
  }

  it("what JSON it reads and writes", () => {
    assert.deepStrictEqual(Schema.encodeSync(Limit.Limit)(Limit.rate({ amount: 7, per: "3 seconds", burst: 9 })), {
      _tag: "Rate",
      amount: 7,
      per: 3_000,
      burst: 9
    })
    assert.deepStrictEqual(Schema.encodeSync(Limit.Limit)(Limit.rate({ amount: 7, per: 3, refill: "interval" })), {
      _tag: "Rate",
      amount: 7,
      per: 3,
      burst: 7,
      refill: "interval"
    })
    assert.deepStrictEqual(Schema.encodeSync(Limit.Limit)(Limit.window({ amount: 7, every: "1 hour" })), {
      _tag: "Window",
      amount: 7,
      every: 3_600_000
    })
    assert.deepStrictEqual(Schema.encodeSync(Limit.Limit)(Limit.unlimited), { _tag: "Unlimited" })
  })

  const refused: ReadonlyArray<readonly [json: unknown, words: string]> = [
    [{ _tag: "Capacity", amount: -1 }, "amount"],
    [{ _tag: "Capacity", amount: 1.5 }, "amount"],
    [{ _tag: "Concurrency", amount: 2 ** 53 }, "amount"],
    [{ _tag: "Capacity", amount: "10" }, "amount"],
    [{ _tag: "Capacity" }, "amount"],
    [{ _tag: "Window", amount: 1 }, "every"],
    [{ _tag: "Rate", amount: 1, per: 1 }, "burst"],
    [{ _tag: "Rate", amount: 1, per: null, burst: 1 }, "per"],
    [{ _tag: "Rate", amount: 1, per: 1, burst: 1, refill: "sometimes" }, "refill"],
    [{ _tag: "Infinite" }, "_tag"]
  ]
  for (const [json, words] of refused) {
    it(`is not read from ${JSON.stringify(json)}`, () => {
      assert.throws(() => Schema.decodeUnknownSync(Limit.Limit)(json), words)
    })
  }

  describe("what is wrong with it", () => {
    const wrong: ReadonlyArray<readonly [limit: Limit.Limit, problem: string]> = [
      ...[-1, 1.5, NaN, 2 ** 53, Infinity].flatMap((amount): ReadonlyArray<readonly [Limit.Limit, string]> => [
        [Limit.capacity(amount), `the capacity amount ${amount} is not a whole number from 0 to 2^53 - 1`],
        [Limit.concurrency(amount), `the concurrency amount ${amount} is not a whole number from 0 to 2^53 - 1`],
        [Limit.rate({ amount, per: "1 second" }), `the rate amount ${amount} is not a whole number from 0 to 2^53 - 1`],
        [
          Limit.window({ amount, every: "1 second" }),
          `the window amount ${amount} is not a whole number from 0 to 2^53 - 1`
        ],
        [
          Limit.rate({ amount: 1, per: "1 second", burst: amount }),
          `the burst ${amount} is not a whole number from 1 to 2^53 - 1, so no request could ever fit`
        ]
      ]),
      [Limit.rate({ amount: 0, per: "1 second" }), "a rate of 0 would never refill"],
      ...(["300 micros", [1, 1]] as const).map((per): readonly [Limit.Limit, string] => [
        Limit.rate({ amount: 1, per, refill: "interval" }),
        `the "per" of a rate that refills by interval must be whole milliseconds, not ${Duration.format(Duration.fromInputUnsafe(per))}`
      ]),
      [
        Limit.rate({ amount: 1, per: "1 second", burst: 0 }),
        "the burst 0 is not a whole number from 1 to 2^53 - 1, so no request could ever fit"
      ],
      ...(
        [
          [0, "0"],
          [NaN, "0"],
          [-1, "-1ms"],
          ["Infinity", "Infinity"],
          ["-Infinity", "-Infinity"],
          // below a nanosecond
          [1e-7, "0"]
        ] as const
      ).map(([per, words]): readonly [Limit.Limit, string] => [
        Limit.rate({ amount: 1, per }),
        `the "per" of a rate must be above 0 and finite, not ${words}`
      ]),
      [
        Limit.rate({ amount: MAX, per: [1, 100] }),
        "the rate of 9007199254740991 per 1s 100ns cannot be counted exactly in whole milliseconds"
      ],
      ...(
        [
          [0, "0"],
          [-60_000, "-1m"],
          ["Infinity", "Infinity"],
          [0.5, "500000ns"],
          ["1500 micros", "1ms 500000ns"],
          [2 ** 53, "104249991d 8h 59m 992ms"]
        ] as const
      ).map(([every, words]): readonly [Limit.Limit, string] => [
        Limit.window({ amount: 1, every }),
        `the "every" of a window must be a whole number of milliseconds, at least 1, not ${words}`
      ])
    ]
    for (const [limit, problem] of wrong) {
      it(problem, () => assert.strictEqual(Limit.problem(limit), problem))
    }

    it("nothing, for a window of whole milliseconds however it is written", () => {
      for (const every of ["1000 micros", [1, 0], 1, "1 week"] as const) {
        assert.isUndefined(Limit.problem(Limit.window({ amount: 1, every })))
      }
    })
  })

  it("how time gives, as a reduced fraction", () => {
    const flow = (amount: number, per: Duration.Input) => Limit.flow(Limit.rate({ amount, per }))
    assert.deepStrictEqual(flow(7, "3 seconds"), { units: 7, millis: 3_000 })
    assert.deepStrictEqual(flow(60_000, "1 minute"), { units: 1, millis: 1 })
    assert.deepStrictEqual(flow(7, "300 micros"), { units: 70, millis: 3 })
    assert.deepStrictEqual(flow(1, "1 nanos"), { units: 1_000_000, millis: 1 })
    assert.deepStrictEqual(flow(1, [1, 1]), { units: 1_000_000, millis: 1_000_000_001 })
    assert.deepStrictEqual(Limit.flow(Limit.window({ amount: 5, every: "1 second" })), { units: 5, millis: 1_000 })
    for (const limit of [Limit.capacity(1), Limit.concurrency(1), Limit.unlimited]) {
      assert.isUndefined(Limit.flow(limit))
    }
  })
})

describe("BudgetError", () => {
  describe("BudgetExceeded", () => {
    const table: ReadonlyArray<readonly [error: BudgetExceeded, message: string]> = [
      [
        new BudgetExceeded({ budget: "app/Rows", limit: Limit.capacity(10), requested: 11, available: 10 }),
        'Budget "app/Rows" exceeded: 11 requested, 10 available of its capacity of 10'
      ],
      [
        new BudgetExceeded({
          budget: "app/Tokens",
          limit: Limit.rate({ amount: 7, per: "300 micros", burst: 14 }),
          requested: 5,
          available: -9,
          retryAfter: Duration.millis(90_001)
        }),
        'Budget "app/Tokens" exceeded: 5 requested, -9 available of its rate of 7 per 300000ns (burst 14), ' +
          "retry after 1m 30s 1ms"
      ],
      [
        new BudgetExceeded({
          budget: "day",
          limit: Limit.window({ amount: 1, every: "1 day" }),
          requested: MAX,
          available: -MAX,
          retryAfter: Duration.hours(2)
        }),
        'Budget "day" exceeded: 9007199254740991 requested, -9007199254740991 available of its window of 1 every 1d, ' +
          "retry after 2h"
      ]
    ]
    for (const [error, message] of table) {
      it(message, () => {
        assert.strictEqual(error.message, message)
        const decoded = overJson(BudgetExceeded, error)
        assert.instanceOf(decoded, BudgetExceeded)
        assert.strictEqual(decoded._tag, "BudgetExceeded")
        assert.strictEqual(decoded.message, message)
        assert.strictEqual(decoded.requested, error.requested)
        assert.strictEqual(decoded.available, error.available)
        assert.strictEqual("retryAfter" in decoded, "retryAfter" in error)
        assert.deepStrictEqual(Schema.encodeSync(BudgetExceeded)(decoded), Schema.encodeSync(BudgetExceeded)(error))
      })
    }
  })

  describe("FailedReservation", () => {
    const { QueueFull, Rejected, StoreUnavailable, TimedOut, UnknownResource } = BudgetError
    const table: ReadonlyArray<readonly [reason: BudgetError.FailedReservationReason, message: string]> = [
      [new TimedOut({ after: Duration.millis(1_500) }), "no room within 1s 500ms"],
      [new QueueFull({ maxQueued: 32 }), "32 are waiting already"],
      [new Rejected({}), "rejected"],
      [new Rejected({ estimatedWait: Duration.seconds(3) }), "rejected, estimated wait 3s"],
      [new StoreUnavailable({ message: "connection refused" }), "connection refused"],
      [new StoreUnavailable({ message: "gone", cause: new Error("ECONNRESET") }), "gone"],
      [new UnknownResource({ resource: "gpu" }), 'no resource "gpu" is defined']
    ]
    for (const [reason, message] of table) {
      it(`${reason._tag}: ${message}`, () => {
        const error = new FailedReservation({ budget: "app/Rows", requested: 4, reason })
        assert.strictEqual(error.message, `Budget "app/Rows": 4 requested, ${message}`)
        const decoded = overJson(FailedReservation, error)
        assert.instanceOf(decoded, FailedReservation)
        assert.strictEqual(decoded.message, error.message)
        assert.strictEqual(decoded.reason._tag, reason._tag)
        assert.strictEqual(decoded.reason.constructor, reason.constructor)
        assert.deepStrictEqual(
          Schema.encodeSync(FailedReservation)(decoded),
          Schema.encodeSync(FailedReservation)(error)
        )
      })
    }

    it("keeps the cause of an unreachable store", () => {
      const reason = new StoreUnavailable({ message: "gone", cause: new Error("ECONNRESET") })
      const decoded = overJson(FailedReservation, new FailedReservation({ budget: "b", requested: 1, reason }))
      assert.strictEqual(decoded.reason._tag, "StoreUnavailable")
      if (decoded.reason._tag === "StoreUnavailable") {
        assert.strictEqual((decoded.reason.cause as Error).message, "ECONNRESET")
      }
    })

    it.effect("is recovered from by its reason", () =>
      Effect.gen(function* () {
        const fail = (reason: BudgetError.FailedReservationReason) =>
          Effect.fail(new FailedReservation({ budget: "b", requested: 1, reason })).pipe(
            Effect.catchReason("FailedReservation", "TimedOut", ({ after }) => Effect.succeed(Duration.toMillis(after)))
          )
        assert.strictEqual(yield* fail(new TimedOut({ after: Duration.millis(70) })), 70)
        const other = yield* Effect.flip(fail(new QueueFull({ maxQueued: 2 })))
        assert.strictEqual(other.reason._tag, "QueueFull")
      })
    )
  })
})
