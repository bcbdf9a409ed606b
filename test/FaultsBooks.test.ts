/** Rules about which budgets share their books, and about snapshots, guards and partial grants. Each was broken once. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, LayerMap, ManagedRuntime, Option, Scope } from "effect"
import { LanguageModel } from "effect/ai"
import { TestClock } from "effect/testing"
import { BudgetedLanguageModel, MaxOutputTokens } from "../src/ai/index.ts"
import {
  Budget,
  BudgetGuard,
  BudgetPool,
  type BudgetStore,
  Limit,
  MemoryBudgetStore,
  Policy,
  TokenBudget,
  TokenGuard
} from "../src/index.ts"
import { estimator, fake, text } from "./ai/utils.ts"
import { openPool, usage } from "./support/faces.ts"
import { defectOf, exceededBy } from "./utils/exits.ts"

class One extends Budget.Service<One>()("test/One") {}
class Guard extends BudgetGuard.Service<Guard>()("test/Guard") {}
class Tokens extends TokenBudget.Service<Tokens>()("test/Tokens") {}
class Pool extends BudgetPool.Service<Pool>()("test/Pool") {}
class OtherPool extends BudgetPool.Service<OtherPool>()("test/OtherPool") {}

const fork = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

describe("two budgets of one name in one memory store are one budget", () => {
  const limit = Limit.capacity(10)
  const options = { name: "same", limit }
  const inStore = <A, E>(effect: Effect.Effect<A, E, Scope.Scope | BudgetStore.BudgetStore>) =>
    Effect.provide(effect, MemoryBudgetStore.layer)

  it.effect("whatever their faces are", () =>
    inStore(
      Effect.gen(function* () {
        const budget = yield* Budget.make(options)
        const guard = yield* BudgetGuard.make(options)
        const tokens = yield* TokenBudget.make(options)
        yield* budget.withReservation(2, () => Effect.void)
        assert.isTrue(yield* guard.tryReserve(3))
        yield* tokens.withReservation(1, (reservation) => tokens.recordUsage(reservation, { prompt: 1, completion: 0 }))
        for (const face of [budget, guard, tokens]) {
          assert.strictEqual(yield* face.available, 4)
          const { charged, ledgers } = yield* face.snapshot
          assert.deepStrictEqual([charged, ledgers[0].held, ledgers[0].spent], [3, 3, 3])
        }
        assert.isFalse(yield* guard.tryReserve(5))
        assert.isTrue(Option.isNone(yield* budget.tryReserve(5)))
      })
    )
  )

  it.effect("as services of two layers", () =>
    Effect.gen(function* () {
      const budgets = Layer.mergeAll(One.layerStore(options), Guard.layerStore(options), Tokens.layerStore(options))
      const services = yield* Layer.build(Layer.provide(budgets, MemoryBudgetStore.layer))
      yield* Context.get(services, One).withReservation(6, () => Effect.void)
      assert.strictEqual(yield* Context.get(services, Guard).available, 4)
      assert.strictEqual(yield* Context.get(services, Tokens).available, 4)
    })
  )

  it.effect("pools too, and a cap of a pool is a budget of its name", () =>
    Effect.gen(function* () {
      const pools = { name: "pool", caps: { total: 10 } }
      const services = yield* Layer.build(
        Layer.provide(
          Layer.mergeAll(
            Pool.layerStore(pools),
            OtherPool.layerStore(pools),
            One.layerStore({ name: "pool/total", limit: Limit.capacity(10) })
          ),
          MemoryBudgetStore.layer
        )
      )
      yield* Context.get(services, Pool).record(usage(3, 3))
      assert.strictEqual((yield* Context.get(services, OtherPool).totals).total, 6)
      assert.strictEqual(yield* Context.get(services, One).available, 4)
      exceededBy(yield* Effect.exit(Context.get(services, OtherPool).record(usage(5, 0))))
    })
  )

  it.effect("they have one queue, and a change of the limit reaches both", () =>
    inStore(
      Effect.gen(function* () {
        const one = yield* Budget.make({ ...options, enforcement: "throttle" })
        const two = yield* Budget.make({ ...options, enforcement: "throttle" })
        const holder = yield* one.reserve(10)
        const first = yield* fork(two.reserve(6))
        const second = yield* fork(one.reserve(6))
        assert.strictEqual((yield* one.snapshot).waiters, 2)
        yield* holder.release
        yield* Fiber.join(first)
        assert.isUndefined(second.pollUnsafe())
        yield* two.setLimit(Limit.capacity(12))
        yield* Fiber.join(second)
        assert.strictEqual((yield* one.snapshot).ledgers[0].held, 12)
      })
    )
  )

  it.effect("the second keeps the spent amount: the same limit changes nothing, another one is set once", () =>
    inStore(
      Effect.gen(function* () {
        const one = yield* Budget.make(options)
        yield* one.withReservation(6, () => Effect.void)
        yield* one.setLimit(Limit.capacity(100))
        const same = yield* Budget.make(options)
        assert.strictEqual(yield* same.available, 94)
        const more = yield* Budget.make({ ...options, limit: Limit.capacity(20) })
        assert.strictEqual(yield* more.available, 14)
        yield* one.setLimit(Limit.capacity(50))
        yield* Budget.make({ ...options, limit: Limit.capacity(20) })
        assert.strictEqual(yield* one.available, 44)
      })
    )
  )

  it.effect("in another store they are two, and the private stores of layers are two", () =>
    Effect.gen(function* () {
      const one = yield* inStore(Budget.make(options))
      const other = yield* inStore(Budget.make(options))
      yield* one.withReservation(6, () => Effect.void)
      assert.strictEqual(yield* other.available, 10)
      const services = yield* Layer.build(Layer.mergeAll(One.layer(options), Guard.layer(options)))
      yield* Context.get(services, One).withReservation(6, () => Effect.void)
      assert.strictEqual(yield* Context.get(services, Guard).available, 10)
    })
  )

  it.effect("when a layer is released, its store keeps the spent, held and owed amounts", () =>
    inStore(
      Effect.gen(function* () {
        const open = Effect.scoped(Budget.make(options))
        const one = yield* open
        yield* one.withReservation(1, ({ commit }) => commit(15))
        assert.strictEqual(yield* (yield* open).available, -5)
        const guard = yield* Effect.scoped(BudgetGuard.make({ name: "guard", limit }))
        assert.strictEqual(yield* guard.available, 10)
        const scope = yield* Scope.make()
        const pair = yield* Scope.provide(BudgetGuard.make({ name: "guard", limit }), scope)
        yield* pair.tryReserve(3)
        yield* Scope.close(scope, Exit.void)
        const [{ available, held, spent }] = (yield* (yield* BudgetGuard.make({ name: "guard", limit })).snapshot)
          .ledgers
        assert.deepStrictEqual({ available, held, spent }, { available: 7, held: 0, spent: 3 })
      })
    )
  )
})

describe("a policy for each key", () => {
  class User extends Budget.Service<User>()("test/User") {}
  class Team extends Budget.Service<Team>()("test/Team") {}
  class Both extends Policy.Service<Both>()("test/Both", { user: User, team: Team }) {}
  class Outer extends Policy.Service<Outer>()("test/Outer", { both: Both }) {}
  class PerUser extends LayerMap.Service<PerUser>()("test/PerUser", {
    lookup: (id: string) =>
      Outer.layer.pipe(
        Layer.provideMerge(Both.layer),
        Layer.provideMerge(User.layer({ name: `user/${id}`, limit: Limit.capacity(100) }))
      ),
    idleTimeToLive: "1 hour"
  }) {}

  it.effect("charges the budgets of that key, as a policy and as one of a policy", () =>
    Effect.gen(function* () {
      const spend = (id: string, amount: number) =>
        Effect.gen(function* () {
          yield* (yield* Both).withReservation({ user: amount, team: amount }, () => Effect.void)
          yield* (yield* Outer).withReservation({ both: { user: amount, team: amount } }, () => Effect.void)
          return yield* (yield* User).available
        }).pipe(Effect.provide(PerUser.get(id)))
      const program = Effect.gen(function* () {
        assert.deepStrictEqual(
          yield* Effect.all([spend("alice", 30), spend("bob", 15), spend("alice", 5)]),
          [40, 70, 30]
        )
        assert.strictEqual(yield* (yield* Team).available, 900)
      })
      const layer = Layer.provideMerge(PerUser.layer, Team.layer({ limit: Limit.capacity(1_000) }))
      yield* Effect.provide(program, layer)
    })
  )

  it.effect("in one store finds the earlier spending after its layer was released", () =>
    Effect.gen(function* () {
      class PerKey extends LayerMap.Service<PerKey>()("test/PerKey", {
        lookup: (id: string) =>
          Layer.provideMerge(Both.layer, User.layerStore({ name: `user/${id}`, limit: Limit.capacity(100) }))
      }) {}
      const spend = (id: string) =>
        Effect.gen(function* () {
          yield* (yield* Both).withReservation({ user: 60, team: 60 }, () => Effect.void)
        }).pipe(Effect.provide(PerKey.get(id)), Effect.exit)
      const layer = PerKey.layer.pipe(
        Layer.provide(Team.layerStore({ name: "team", limit: Limit.capacity(1_000) })),
        Layer.provide(MemoryBudgetStore.layer)
      )
      const [first, second, other] = yield* Effect.provide(
        Effect.all([spend("bob"), spend("bob"), spend("amy")]),
        layer
      )
      assert.isTrue(Exit.isSuccess(first))
      assert.strictEqual(exceededBy(second).budget, "user/bob")
      assert.isTrue(Exit.isSuccess(other))
    })
  )
})

describe("a snapshot", () => {
  const limits = [
    Limit.capacity(10),
    Limit.rate({ amount: 10, per: "1 second" }),
    Limit.window({ amount: 10, every: "1 second" }),
    Limit.concurrency(10)
  ]
  const tamper = (value: unknown): void => {
    if (typeof value !== "object" || value === null) return
    for (const key of Object.keys(value)) {
      tamper(Reflect.get(value, key))
      try {
        Reflect.set(value, key, 1_000_000)
      } catch {
        // It is frozen, as it should be.
      }
    }
  }

  it.effect("is separate from its budget: writing to any part of it changes nothing", () =>
    Effect.gen(function* () {
      for (const limit of limits) {
        const budget = yield* Budget.make({ name: "test/Budget", limit }).pipe(Effect.provide(MemoryBudgetStore.layer))
        tamper(yield* budget.snapshot)
        yield* budget.withReservation(10, () => Effect.void)
        tamper(yield* budget.snapshot)
        yield* budget.reset
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* budget.available, 10)
        const { charged, settled } = yield* budget.snapshot
        assert.strictEqual(charged, 10)
        assert.deepStrictEqual(settled.succeeded, { count: 1, refunded: 0 })
      }
    })
  )

  it.effect("does not change later: neither its amounts, nor its limit, nor its counts", () =>
    Effect.gen(function* () {
      const budget = yield* Budget.make({ name: "test/Budget", limit: Limit.capacity(10) }).pipe(
        Effect.provide(MemoryBudgetStore.layer)
      )
      yield* budget.withReservation(3, ({ commit }) => commit(1))
      const before = yield* budget.snapshot
      const written = JSON.stringify(before)
      yield* budget.withReservation(3, ({ commit }) => commit(2))
      yield* Effect.exit(budget.withReservation(3, () => Effect.fail("failed")))
      yield* budget.setLimit(Limit.concurrency(4))
      yield* budget.reset
      assert.strictEqual(JSON.stringify(before), written)
      assert.deepStrictEqual(before.settled.committed, { count: 1, refunded: 2 })
      assert.deepStrictEqual((yield* budget.snapshot).settled.committed, { count: 2, refunded: 3 })
    })
  )

  it.effect("of a pool is separate from it: writing to it changes no cap and no total", () =>
    Effect.gen(function* () {
      const pool = yield* openPool({ total: 10 })
      yield* pool.record(usage(1, 1))
      tamper(yield* pool.snapshot)
      tamper(yield* pool.totals)
      tamper(yield* pool.caps)
      assert.strictEqual((yield* pool.totals).total, 2)
      assert.strictEqual((yield* pool.caps).total, 10)
    })
  )

  it.effect("shows the limit as it was when opened or set, also after the given object is written to", () =>
    Effect.gen(function* () {
      const limit = { ...Limit.capacity(10) }
      const budget = yield* Budget.make({ name: "test/Budget", limit }).pipe(Effect.provide(MemoryBudgetStore.layer))
      Object.assign(limit, { amount: 1_000 })
      assert.deepStrictEqual((yield* budget.snapshot).ledgers[0].limit, Limit.capacity(10))
      const other = { ...Limit.capacity(20) }
      yield* budget.setLimit(other)
      Object.assign(other, { amount: 1_000 })
      yield* budget.reset
      assert.strictEqual(yield* budget.available, 20)
    })
  )
})

describe("a guard", () => {
  it.effect("counts no reservation for its pair, whether it was used or not, and however it ends", () =>
    Effect.gen(function* () {
      const open = BudgetGuard.make({ name: "guard", limit: Limit.capacity(10) })
      const counted = Effect.map(
        Effect.flatMap(open, ({ snapshot }) => snapshot),
        ({ settled }) => Object.values(settled).reduce((sum, { count, refunded }) => sum + count + refunded, 0)
      )
      yield* Effect.gen(function* () {
        yield* Effect.scoped(open)
        assert.strictEqual(yield* counted, 0)
        yield* Effect.scoped(
          Effect.flatMap(open, (guard) =>
            Effect.andThen(guard.tryReserve(5), Effect.andThen(guard.release(3), guard.tryReserve(0)))
          )
        )
        assert.strictEqual(yield* counted, 0)
        yield* Effect.exit(
          Effect.scoped(Effect.flatMap(open, (guard) => Effect.andThen(guard.tryReserve(1), Effect.die(""))))
        )
        assert.strictEqual(yield* counted, 0)
        const guard = yield* open
        assert.strictEqual(yield* guard.available, 7)
        yield* guard.withReservation(1, () => Effect.void)
        assert.strictEqual(yield* counted, 1)
      }).pipe(Effect.provide(MemoryBudgetStore.layer))
    })
  )

  for (const [words, limit, available] of [
    ["a capacity", Limit.capacity(10), 7],
    ["a rate", Limit.rate({ amount: 10, per: "1 hour" }), 7],
    ["a window", Limit.window({ amount: 10, every: "1 hour" }), 7],
    ["slots", Limit.concurrency(10), 10]
  ] as const) {
    it.live(`over ${words} dies and changes nothing after its layer has closed`, () =>
      Effect.promise(async () => {
        const runtime = ManagedRuntime.make(Guard.layer({ limit }))
        const guard = await runtime.runPromise(Guard)
        await Effect.runPromise(guard.tryReserve(3))
        await runtime.dispose()
        for (const after of [guard.release(1), guard.release(0), guard.tryReserve(1), guard.tryReserve(0)]) {
          assert.include(defectOf(await Effect.runPromiseExit(after)).message, "closed")
        }
        const [books] = Effect.runSync(guard.snapshot).ledgers
        assert.deepStrictEqual([books.available, books.held], [available, 0])
      })
    )
  }
})

describe("a partial grant", () => {
  it.effect("by a pool fits all its caps together", () =>
    Effect.gen(function* () {
      const caps: ReadonlyArray<BudgetPool.Caps> = [
        { total: 50 },
        { total: 51 },
        { total: 50, input: 40 },
        { total: 50, output: 10 },
        { input: 30, output: 20, total: 45 },
        { total: 3 }
      ]
      for (const of of caps) {
        for (const enforcement of ["reject", "throttle"] as const) {
          const pool = yield* openPool(of, { enforcement })
          const { amount } = yield* pool.reserveUpTo(usage(1, 1, 0), usage(100, 100, 7))
          const { input, output, total } = yield* pool.snapshot
          assert.isAtLeast(amount.input, 1)
          assert.isAtLeast(amount.output, 1)
          assert.strictEqual(total.ledgers[0].held, amount.input + amount.output)
          assert.deepStrictEqual([input.ledgers[0].held, output.ledgers[0].held], [amount.input, amount.output])
          for (const { available } of [input, output, total]) assert.isAtLeast(available, 0)
          // Amounts are rounded down, so up to one unit of each may stay free, but no more.
          assert.isAtLeast(amount.input + amount.output + 2, Math.min(of.total ?? Infinity, 2 * (of.output ?? 100)))
        }
      }
    })
  )

  it.effect("by a policy over a pool is one part of the way for all, and its total is input + output", () =>
    Effect.gen(function* () {
      class Both extends Policy.Service<Both>()("test/Both", { pool: Pool, one: One }) {}
      class Outer extends Policy.Service<Outer>()("test/Outer", { both: Both }) {}
      const layer = Outer.layer.pipe(
        Layer.provideMerge(Both.layer),
        Layer.provideMerge(
          Layer.mergeAll(Pool.layer({ caps: { total: 51 } }), One.layer({ limit: Limit.capacity(60) }))
        )
      )
      yield* Effect.gen(function* () {
        const least = { pool: usage(1, 0), one: 0 }
        const wanted = { pool: usage(101, 100), one: 100 }
        yield* Effect.gen(function* () {
          const odd = yield* (yield* Both).reserveUpTo({ pool: usage(1, 1), one: 0 }, { pool: usage(100, 100), one: 0 })
          assert.deepStrictEqual(odd.amount.pool, usage(25, 25))
          assert.strictEqual((yield* (yield* Pool).snapshot).total.ledgers[0].held, 50)
        }).pipe(Effect.scoped)
        yield* (yield* Pool).reset
        for (const ask of [
          (yield* Both).reserveUpTo(least, wanted),
          Effect.map((yield* Outer).reserveUpTo({ both: least }, { both: wanted }), ({ amount }) => ({
            amount: amount.both
          }))
        ]) {
          yield* Effect.gen(function* () {
            const { amount } = yield* ask
            const { total } = yield* (yield* Pool).snapshot
            assert.strictEqual(total.ledgers[0].held, amount.pool.input + amount.pool.output)
            assert.deepStrictEqual(amount, { pool: usage(26, 25), one: 25 })
          }).pipe(Effect.scoped)
          yield* (yield* Pool).reset
          yield* (yield* One).reset
        }
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("an extension of a policy over a pool is no call of its own, and its total is input + output", () =>
    Effect.gen(function* () {
      class Both extends Policy.Service<Both>()("test/Both", { pool: Pool, one: One }) {}
      class Outer extends Policy.Service<Outer>()("test/Outer", { both: Both }) {}
      const layer = Outer.layer.pipe(
        Layer.provideMerge(Both.layer),
        Layer.provideMerge(Layer.mergeAll(Pool.layer({ caps: {} }), One.layer({ limit: Limit.capacity(60) })))
      )
      yield* Effect.gen(function* () {
        const one = { pool: usage(5, 5), one: 1 }
        yield* (yield* Both).withReservation(one, ({ extend }) => Effect.andThen(extend(one), extend(one)))
        const { calls, input, output, total } = yield* (yield* Pool).totals
        assert.deepStrictEqual({ calls, input, output, total }, { calls: 1, input: 15, output: 15, total: 30 })
        yield* (yield* Outer).withReservation({ both: one }, ({ extend }) => extend({ both: one }))
        assert.strictEqual((yield* (yield* Pool).totals).calls, 2)
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("of a language model with minOutputTokens over a pool is an output that all its caps can pay for", () =>
    Effect.gen(function* () {
      let seen: number | undefined
      const answer = Effect.gen(function* () {
        seen = yield* MaxOutputTokens
        return yield* text("hello", 100, seen ?? 0)
      })
      const modelOver = (caps: BudgetPool.Caps) =>
        BudgetedLanguageModel.layer(Pool, {
          amounts: ({ usage: { input, output } }) => usage(input, output),
          maxOutputTokens: 50,
          minOutputTokens: 5
        }).pipe(Layer.provide([fake({ answer }), estimator]), Layer.provideMerge(Layer.fresh(Pool.layer({ caps }))))
      const cases: ReadonlyArray<readonly [caps: BudgetPool.Caps, output: number | undefined]> = [
        [{}, 50],
        [{ total: 1_000 }, 50],
        [{ total: 130 }, 30],
        [{ total: 130, output: 12 }, 12],
        [{ total: 105, output: 40 }, 5],
        [{ total: 104 }, undefined]
      ]
      for (const [caps, output] of cases) {
        seen = undefined
        yield* Effect.gen(function* () {
          const exit = yield* Effect.exit(LanguageModel.generateText({ prompt: "hi" }))
          assert.strictEqual(Exit.isSuccess(exit), output !== undefined)
          assert.strictEqual(seen, output)
          const { input, output: put, total } = yield* (yield* Pool).totals
          assert.strictEqual(total, input + put)
          for (const { available } of Object.values(yield* (yield* Pool).snapshot)) assert.isAtLeast(available, 0)
        }).pipe(Effect.provide(modelOver(caps)))
      }
    })
  )

  it.effect("under throttle at twice the rate, is whole for most of the admitted requests", () =>
    Effect.gen(function* () {
      const tokens = yield* TokenGuard
      const seen = { admitted: 0, cut: 0 }
      const call = Effect.gen(function* () {
        const hold = yield* tokens.reserveUpTo(1_128, 2_024)
        const output = Math.min(400, hold.amount - 1_000)
        seen.admitted++
        if (output < 400) seen.cut++
        yield* Effect.sleep(400 + 25 * output)
        yield* hold.commit(1_000 + output)
      })
      for (let i = 0; i < 300; i++) {
        yield* Effect.forkChild(Effect.ignore(Effect.scoped(call)))
        yield* TestClock.adjust("100 millis")
      }
      yield* TestClock.adjust("5 minutes")
      assert.isAbove(seen.admitted, 100)
      assert.isBelow(seen.cut / seen.admitted, 0.5)
    }).pipe(
      Effect.provide(
        TokenGuard.layer({
          limit: Limit.rate({ amount: 420_000, per: "1 minute", burst: 40_000 }),
          enforcement: "throttle",
          timeout: "30 seconds"
        })
      )
    )
  )
})
