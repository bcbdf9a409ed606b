/** Rules about limits that change and amounts that are too large. Each was broken once. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, FileSystem, Layer, Queue, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Budget, BudgetPool, BudgetStore, Limit, Policy, TokenBudget, Usd } from "../src/index.ts"
import { Quota, QuotaToken } from "../src/quota/index.ts"
import { faces, openPool, usage } from "./support/faces.ts"
import { exceededBy } from "./utils/exits.ts"
import { open as openQuotas, resource } from "./utils/quotas.ts"
import { forSeeds, make as makeRandom } from "./utils/random.ts"

const MOST = Number.MAX_SAFE_INTEGER

const open = (limit: Budget.Options["limit"], options: Partial<Budget.Options> = {}) =>
  Budget.make({ ...options, limit, name: "test/Budget" }).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))

/** Each kind of limit that counts spending, with 100 units (per day). */
const spent: ReadonlyArray<Limit.Limit> = [
  Limit.capacity(100),
  Limit.rate({ amount: 100, per: "1 day" }),
  Limit.rate({ amount: 100, per: "1 day", refill: "interval" }),
  Limit.window({ amount: 100, every: "1 day" })
]

const others: ReadonlyArray<Limit.Limit> = [
  ...spent,
  Limit.concurrency(100),
  Limit.concurrency(7),
  Limit.unlimited,
  Limit.capacity(1_000),
  Limit.rate({ amount: 7, per: "1 day" })
]

describe("a change of the limit to another kind and back", () => {
  for (const limit of spent) {
    for (const other of others) {
      const words = `from a ${Limit.format(limit)} to ${Limit.format(other)} and back`

      for (const [name, face] of faces) {
        it.effect(`${words} keeps the debt of ${name}`, () =>
          Effect.gen(function* () {
            const { books, reserve, setLimit, tries } = yield* face(limit)
            yield* Effect.scoped(Effect.flatMap(reserve(10), (reservation) => reservation.commit(150)))
            assert.strictEqual((yield* books).available, -50)
            for (let i = 0; i < 3; i++) {
              yield* setLimit(other)
              yield* setLimit(limit)
            }
            assert.strictEqual((yield* books).available, -50)
            assert.isFalse(yield* tries(1))
          })
        )
      }

      it.effect(`${words} keeps a debt together with a hold, which settles as usual`, () =>
        Effect.gen(function* () {
          const budget = yield* open(limit)
          const hold = yield* budget.reserve(30)
          yield* budget.withReservation(10, (reservation) => reservation.commit(120))
          assert.strictEqual(yield* budget.available, -50)
          yield* budget.setLimit(other)
          yield* budget.setLimit(limit)
          assert.strictEqual(yield* budget.available, -50)
          yield* hold.commit(25)
          const [{ available, granted, held, spent }] = (yield* budget.snapshot).ledgers
          assert.deepStrictEqual({ available, held }, { available: -45, held: 0 })
          assert.strictEqual(available + held + spent, granted)
        })
      )

      it.effect(`${words} ten times grants what the first of them grants, and no more`, () =>
        Effect.gen(function* () {
          const budget = yield* open(limit)
          let granted = 0
          for (let i = 0; i < 10; i++) {
            const reservation = yield* Effect.scoped(budget.reserveUpTo(0, 1_000))
            granted += reservation.amount
            yield* budget.setLimit(other)
            yield* budget.setLimit(limit)
          }
          assert.strictEqual(granted, 100)
        })
      )
    }
  }

  it.effect("spending and overage under slots leave no debt for the limit after them", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.capacity(100))
      yield* budget.withReservation(40, () => Effect.void)
      yield* budget.setLimit(Limit.concurrency(10))
      yield* budget.withReservation(10, (reservation) => reservation.commit(1_000))
      assert.strictEqual(yield* budget.available, 10)
      yield* budget.setLimit(Limit.capacity(100))
      assert.strictEqual(yield* budget.available, 60)
    })
  )

  it("in any order, at any size, with refunds in between, grants no more than the largest of the limits", () =>
    forSeeds(200, (seed) => {
      const random = makeRandom(seed)
      const size = () => random.int(1, 100)
      const kinds = [
        () => Limit.capacity(size()),
        () => Limit.rate({ amount: random.int(1, 20), per: "1 day", burst: size() }),
        () => Limit.rate({ amount: random.int(1, 20), per: "1 day", burst: size(), refill: "interval" }),
        () => Limit.window({ amount: size(), every: "1 day" }),
        () => Limit.concurrency(size())
      ]
      const program = Effect.gen(function* () {
        let limit = random.pick(kinds.slice(0, 4))()
        let largest = Limit.maximum(limit)
        const budget = yield* open(limit)
        let charged = 0
        for (let i = 0; i < 50; i++) {
          if (random.chance(0.4)) {
            limit = random.pick(kinds)()
            yield* budget.setLimit(limit)
            if (limit._tag !== "Concurrency") largest = Math.max(largest, Limit.maximum(limit))
          }
          if (limit._tag === "Concurrency") continue
          const scope = yield* Scope.make()
          const reservation = yield* Scope.provide(budget.reserveUpTo(0, size()), scope)
          const actual = random.int(0, reservation.amount)
          charged += actual
          yield* reservation.commit(actual)
          yield* Scope.close(scope, Exit.void)
          assert.isAtMost(charged, largest)
        }
      })
      Effect.runSync(Effect.scoped(Effect.provide(program, TestClock.layer())))
    }))

  for (const strategy of ["additive", "keepLevel"] as const) {
    it.effect(`of the same size, by ${strategy}, keeps the debt`, () =>
      Effect.gen(function* () {
        for (const limit of spent) {
          for (const other of [...spent, Limit.concurrency(100)]) {
            const budget = yield* open(limit)
            yield* budget.withReservation(10, (reservation) => reservation.commit(150))
            yield* budget.setLimit(other, { strategy })
            yield* budget.setLimit(limit, { strategy })
            assert.strictEqual(yield* budget.available, -50, Limit.format(other))
          }
        }
      })
    )
  }

  it.effect("by keepLevel to more slots than the limit had units, and back, keeps the debt", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.capacity(10))
      yield* budget.withReservation(10, ({ commit }) => commit(60))
      yield* budget.setLimit(Limit.concurrency(100), { strategy: "keepLevel" })
      yield* budget.setLimit(Limit.capacity(10), { strategy: "keepLevel" })
      assert.strictEqual(yield* budget.available, -50)
    })
  )

  it.effect(
    "by keepLevel to fewer slots than the limit had units, and back, adds no debt for spending within the limit",
    () =>
      Effect.gen(function* () {
        const budget = yield* open(Limit.capacity(1_000))
        yield* budget.withReservation(950, () => Effect.void)
        yield* budget.setLimit(Limit.concurrency(100), { strategy: "keepLevel" })
        yield* budget.setLimit(Limit.capacity(1_000), { strategy: "keepLevel" })
        assert.strictEqual(yield* budget.available, 50)
      })
  )

  const resources = (limit: string) =>
    `environments:\n  local:\n    pages: { limit: ${limit}, enforcement: reject, unit: page, units: pages }\n`

  it.effect("by a manifest that is watched keeps what was spent and what is owed", () =>
    Effect.gen(function* () {
      const file = { text: resources("{ type: capacity, value: 100 }") }
      const events = yield* Queue.unbounded<FileSystem.WatchEvent>()
      const fs = FileSystem.makeNoop({
        readFileString: () => Effect.sync(() => file.text),
        realPath: (path) => Effect.succeed(path),
        watch: (_, options) =>
          Stream.unwrap(
            Effect.sync(() => {
              options?.onReady?.()
              return Stream.fromQueue(events)
            })
          )
      })
      const layer = Layer.provide(Quota.layerFile("q.yaml", { watch: true }), Layer.succeed(FileSystem.FileSystem, fs))
      yield* Effect.gen(function* () {
        const quota = yield* Quota
        const token = yield* quota.acquire("pages", { expectedUse: 1 })
        yield* token.withReservation(10, () => Effect.succeed(QuotaToken.used(150, undefined)))
        const pages = Effect.map(quota.usage, ({ pages }) => pages!)
        const change = (limit: string, tag: string) =>
          Effect.gen(function* () {
            file.text = resources(limit)
            yield* Queue.offer(events, { _tag: "Update", path: "q.yaml" })
            for (let i = 0; i < 100 && (yield* pages).limit._tag !== tag; i++) yield* TestClock.adjust("100 millis")
            assert.strictEqual((yield* pages).limit._tag, tag)
          })
        assert.strictEqual((yield* pages).available, -50)
        yield* change("{ type: concurrency, value: 3 }", "Concurrency")
        yield* change("{ type: capacity, value: 100 }", "Capacity")
        assert.strictEqual((yield* pages).available, -50)
        yield* change("{ type: rate, value: 100, period: day }", "Rate")
        yield* change("{ type: capacity, value: 100 }", "Capacity")
        assert.isAtMost((yield* pages).available, -49)
      }).pipe(Effect.scoped, Effect.provide(layer))
    })
  )

  it.effect("by keepLevel to unlimited and back keeps the debt", () =>
    Effect.gen(function* () {
      const budget = yield* open(Limit.capacity(100))
      yield* budget.withReservation(10, ({ commit }) => commit(150))
      yield* budget.setLimit(Limit.unlimited, { strategy: "keepLevel" })
      yield* budget.setLimit(Limit.capacity(100), { strategy: "keepLevel" })
      assert.strictEqual(yield* budget.available, -50)
    })
  )
})

describe("a reported amount that is too large", () => {
  for (const limit of [...spent, Limit.concurrency(100), Limit.unlimited]) {
    for (const [name, face] of faces) {
      it.effect(`is charged by ${name} over a ${Limit.format(limit)}, also twice, and the books balance`, () =>
        Effect.gen(function* () {
          const { books, reserve } = yield* face(limit)
          const first = yield* reserve(10)
          const second = yield* reserve(10)
          yield* first.commit(MOST)
          yield* second.commit(MOST)
          const { available, granted, held, spent } = yield* books
          assert.strictEqual(available + held + spent, granted)
          for (const amount of [available, granted, held, spent]) assert.isTrue(Number.isSafeInteger(amount))
          assert.strictEqual(held, 0)
          const counted = limit._tag !== "Concurrency" && limit._tag !== "Unlimited"
          if (counted) assert.isBelow(available, -1e15)
        })
      )

      it.effect(`is charged by ${name} over a ${Limit.format(limit)} as progress, when its scope fails`, () =>
        Effect.gen(function* () {
          const { books, reserve } = yield* face(limit)
          const run = Effect.flatMap(reserve(10), (reservation) =>
            Effect.andThen(reservation.progress(MOST), Effect.fail("failed"))
          )
          yield* Effect.exit(Effect.scoped(run))
          const { available, granted, held, spent } = yield* books
          assert.strictEqual(available + held + spent, granted)
          assert.strictEqual(held, 0)
        })
      )
    }
  }

  it.effect("is capped by TokenBudget.recordUsage, also as a sum", () =>
    Effect.gen(function* () {
      const tokens = yield* TokenBudget.make({ name: "tokens", limit: Limit.unlimited }).pipe(
        Effect.provide(BudgetStore.BudgetStore.layerMemory)
      )
      for (const [prompt, completion] of [
        [1e300, 5],
        [MOST, 1],
        [Infinity, Infinity]
      ] as const) {
        const reservation = yield* tokens.reserve(1)
        assert.strictEqual((yield* tokens.recordUsage(reservation, { prompt, completion })).charged, MOST)
      }
      assert.strictEqual(yield* tokens.tokensConsumed, MOST)
    })
  )

  it.effect("that QuotaToken.used reports becomes debt", () =>
    Effect.gen(function* () {
      const quota = yield* openQuotas({ units: resource(Limit.capacity(100)) })
      const token = yield* quota.acquire("units", { expectedUse: 1 })
      yield* token.withReservation(10, () => Effect.succeed(QuotaToken.used(MOST, undefined)))
      assert.strictEqual((yield* quota.usage)["units"]!.available, 100 - MOST)
    })
  )

  const whole = (pool: BudgetPool.BudgetPool) =>
    Effect.gen(function* () {
      for (const { ledgers } of Object.values(yield* pool.snapshot)) {
        const [{ available, granted, held, spent }] = ledgers
        assert.strictEqual(available + held + spent, granted)
        assert.strictEqual(held, 0)
      }
      const { calls, input, output, total } = yield* pool.totals
      return { calls, input, output, total }
    })

  const ways: ReadonlyArray<
    readonly [words: string, run: (pool: BudgetPool.BudgetPool) => Effect.Effect<unknown, unknown, Scope.Scope>]
  > = [
    ["commit", (pool) => pool.withReservation(usage(5, 5), (reservation) => reservation.commit(usage(MOST, 1)))],
    [
      "commit of an extended hold",
      (pool) =>
        pool.withReservation(usage(5, 5), (reservation) =>
          Effect.andThen(reservation.extend(usage(1, 0)), reservation.commit(usage(MOST, 1)))
        )
    ],
    ["charge", (pool) => pool.charge(usage(MOST, 1))],
    [
      "progress, by a failure",
      (pool) =>
        pool.withReservation(usage(5, 5), (reservation) =>
          Effect.andThen(reservation.progress(usage(MOST, 1)), Effect.fail("failed"))
        )
    ],
    [
      "progress in two parts, by a failure",
      (pool) =>
        pool.withReservation(usage(5, 5), (reservation) =>
          Effect.andThen(
            Effect.andThen(reservation.progress(usage(MOST, 0)), reservation.progress(usage(0, 1))),
            Effect.fail("failed")
          )
        )
    ],
    [
      "progress, by a success",
      (pool) => pool.withReservation(usage(1, 1), (reservation) => reservation.progress(usage(MOST, 1)))
    ],
    [
      "progress, by a success that releases",
      (pool) =>
        pool.withReservation(usage(5, 5), (reservation) => reservation.progress(usage(MOST, 1)), {
          onSuccess: "release"
        })
    ]
  ]
  for (const [words, run] of ways) {
    for (const [cap, caps] of [
      ["without caps", {}],
      ["with caps", { input: 100, output: 100, total: 100, cost: Usd.nanos(100) }]
    ] as const) {
      it.effect(`is recorded by a pool ${cap}, as ${words}, with the total at its most`, () =>
        Effect.gen(function* () {
          const pool = yield* openPool(caps)
          const exit = yield* Effect.exit(Effect.scoped(run(pool)))
          assert.isFalse(Exit.hasDies(exit))
          assert.deepStrictEqual(yield* whole(pool), { calls: 1, input: MOST, output: 1, total: MOST })
        })
      )
    }
  }

  it.effect(
    "is recorded by BudgetPool.record where nothing caps it, and denied by the first cap that it does not fit",
    () =>
      Effect.gen(function* () {
        const free = yield* openPool({})
        yield* free.record(usage(MOST, 1))
        assert.deepStrictEqual(yield* whole(free), { calls: 1, input: MOST, output: 1, total: MOST })
        const capped = yield* openPool({ total: 100 })
        assert.strictEqual(exceededBy(yield* Effect.exit(capped.record(usage(MOST, 1)))).budget, "faces/Pool/total")
        assert.deepStrictEqual(yield* whole(capped), { calls: 0, input: 0, output: 0, total: 0 })
      })
  )

  it.effect("is recorded by a policy over a pool, and by a policy over that policy", () =>
    Effect.gen(function* () {
      class Pool extends BudgetPool.Service<Pool>()("test/Pool") {}
      class Rows extends Budget.Service<Rows>()("test/Rows") {}
      class Inner extends Policy.Service<Inner>()("test/Inner", { pool: Pool, rows: Rows }) {}
      class Outer extends Policy.Service<Outer>()("test/Outer", { inner: Inner }) {}
      const program = Effect.gen(function* () {
        const [inner, outer, pool] = [yield* Inner, yield* Outer, yield* Pool]
        const amounts = { pool: usage(5, 5), rows: 1 }
        yield* inner.withReservation(amounts, ({ commit }) => commit({ pool: usage(MOST, 1), rows: 1 }))
        assert.deepStrictEqual(yield* whole(pool), { calls: 1, input: MOST, output: 1, total: MOST })
        yield* pool.reset
        const reporting = outer.withReservation({ inner: amounts }, ({ progress }) =>
          Effect.andThen(
            Effect.andThen(
              progress({ inner: { pool: usage(MOST, 0), rows: 1 } }),
              progress({ inner: { pool: usage(0, 1), rows: 0 } })
            ),
            Effect.fail("failed")
          )
        )
        yield* Effect.ignore(reporting)
        assert.deepStrictEqual(yield* whole(pool), { calls: 1, input: MOST, output: 1, total: MOST })
      })
      const budgets = Layer.mergeAll(
        Pool.layer({ caps: { total: 50 } }),
        Rows.layer({ limit: Limit.rate({ amount: 10, per: "1 second" }) })
      )
      yield* Effect.provide(program, Outer.layer.pipe(Layer.provideMerge(Inner.layer), Layer.provideMerge(budgets)))
    })
  )
})

describe("the progress of a pool", () => {
  const parts = [usage(80, 0, 3), usage(0, 80, 1), usage(10, 90, 5)]
  const wanted = { input: 80, output: 90, total: 170, cost: 5, calls: 1 }

  const ends: ReadonlyArray<readonly [words: string, end: Effect.Effect<unknown, string>]> = [
    ["a failure", Effect.fail("failed")],
    ["an interruption", Effect.interrupt],
    ["a defect", Effect.die("on purpose")]
  ]
  for (const [words, end] of ends) {
    it.effect(`charges on ${words} a total that is input + output`, () =>
      Effect.gen(function* () {
        const pool = yield* openPool({ total: 1_000 })
        const run = pool.withReservation(usage(100, 100, 10), ({ progress }) =>
          Effect.andThen(Effect.forEach(parts, progress), end)
        )
        yield* Effect.exit(run)
        const { cost, ...totals } = yield* pool.totals
        assert.deepStrictEqual({ ...totals, cost: Number(cost) }, wanted)
      })
    )
  }

  it.effect("charges on success a total that is input + output, of the larger of hold and progress", () =>
    Effect.gen(function* () {
      const pool = yield* openPool({})
      yield* pool.withReservation(usage(50, 100), ({ progress }) => Effect.forEach(parts, progress))
      const { input, output, total } = yield* pool.totals
      assert.deepStrictEqual({ input, output, total }, { input: 80, output: 100, total: 180 })
    })
  )
})
