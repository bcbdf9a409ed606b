import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as TxRef from "effect/TxRef"
import {
  Budget,
  BudgetExceeded,
  BudgetGuard,
  BudgetPool,
  BudgetStore,
  Limit,
  Policy,
  type Reservation,
  TokenBudget,
  Usd
} from "../src/index.ts"

const MAX = Number.MAX_SAFE_INTEGER

class Calls extends Budget.Service<Calls>()("test/Calls") {}
class Slots extends BudgetGuard.Service<Slots>()("test/Slots") {}
class Tokens extends TokenBudget.Service<Tokens>()("test/Tokens") {}
class Agents extends BudgetPool.Service<Agents>()("test/Agents") {}
class Work extends Policy.Service<Work>()("test/Work", { calls: Calls, tokens: Tokens, agents: Agents }) {}

/** No amounts: negative, a fraction, not a number, above the safe integers, no number at all. */
const BAD = [-1, 1.5, NaN, 2 ** 53, Infinity]

/** The defect of a programming error: a `RangeError` with all of these in its message. */
const dies = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  ...words: ReadonlyArray<string>
): Effect.Effect<void, never, R> =>
  Effect.map(Effect.exit(effect), (exit) => {
    const defect = Exit.isFailure(exit) ? Result.getOrUndefined(Cause.findDefect(exit.cause)) : undefined
    if (!(defect instanceof RangeError)) {
      return assert.fail(`expected a RangeError, got ${Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "a success"}`)
    }
    for (const word of words) assert.include(defect.message, word)
  })

/** Whatever `effect` does, the books are the same before and after. */
const untouched = <A, E, R>(books: Effect.Effect<unknown>, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.gen(function* () {
    const before = yield* books
    const answer = yield* effect
    assert.deepStrictEqual(yield* books, before)
    return answer
  })

const nameOf = (limit: Limit.Limit | ReadonlyArray<Limit.Limit>): string =>
  "_tag" in limit ? Limit.format(limit) : `[${limit.map(Limit.format).join(", ")}]`

const spentOf = (snapshot: BudgetStore.Snapshot) => {
  for (const { available, granted, held, spent } of snapshot.ledgers) {
    assert.strictEqual(available + held + spent, granted)
    assert.strictEqual(held, 0)
  }
  return snapshot.ledgers[0]!.spent
}

// ---------------------------------------------------------------------------------------------------------------------
// Amounts, for every face
// ---------------------------------------------------------------------------------------------------------------------

type Enforcement = BudgetStore.Enforcement

interface Subject<A> {
  readonly name: string
  readonly open: (
    enforcement: Enforcement
  ) => Effect.Effect<
    { readonly face: Reservation.Reservable<A>; readonly books: Effect.Effect<ReadonlyArray<BudgetStore.Snapshot>> },
    never,
    Scope.Scope
  >
  /** 4 of each budget. */
  readonly four: A
  /** What `four` charges of each of the books. */
  readonly charged: ReadonlyArray<number>
  /** An amount with a bad part, and the name of the budget that it is bad for. */
  readonly bad: ReadonlyArray<readonly [part: string, budget: string, amount: (value: number) => A]>
}

const limit = Limit.capacity(10)
const caps: BudgetPool.Caps = { input: 10, output: 10, total: 20, cost: Usd.nanos(10) }
const usage: BudgetPool.Usage = { input: 4, output: 4, cost: Usd.nanos(4) }

const badUsage: Subject<BudgetPool.Usage>["bad"] = [
  ["input", "test/Agents/input", (input) => ({ ...usage, input })],
  ["output", "test/Agents/output", (output) => ({ ...usage, output })],
  ["cost", "test/Agents/cost", (cost) => ({ ...usage, cost: cost as Usd.Usd })]
]

const subject = <A>(self: Subject<A>): Subject<A> => self

const budget = subject<number>({
  name: "Budget",
  open: (enforcement) =>
    Effect.map(Effect.provide(Calls, Calls.layer({ limit, enforcement })), (face) => ({
      face,
      books: Effect.map(face.snapshot, (snapshot) => [snapshot])
    })),
  four: 4,
  charged: [4],
  bad: [["", "test/Calls", (value) => value]]
})

const guard = subject<number>({
  name: "BudgetGuard",
  open: (enforcement) =>
    Effect.map(Effect.provide(Slots, Slots.layer({ limit, enforcement })), (face) => ({
      face,
      books: Effect.map(face.snapshot, (snapshot) => [snapshot])
    })),
  four: 4,
  charged: [4],
  bad: [["", "test/Slots", (value) => value]]
})

const tokenBudget = subject<number>({
  name: "TokenBudget",
  open: (enforcement) =>
    Effect.map(Effect.provide(Tokens, Tokens.layer({ limit, enforcement })), (face) => ({
      face,
      books: Effect.map(face.snapshot, (snapshot) => [snapshot])
    })),
  four: 4,
  charged: [4],
  bad: [["", "test/Tokens", (value) => value]]
})

const pool = subject<BudgetPool.Usage>({
  name: "BudgetPool",
  open: (enforcement) =>
    Effect.map(Effect.provide(Agents, Agents.layer({ caps, enforcement })), (face) => ({
      face,
      books: Effect.map(face.snapshot, ({ cost, input, output, total }) => [input, output, total, cost])
    })),
  four: usage,
  charged: [4, 4, 8, 4],
  bad: badUsage
})

const policy = subject<Policy.Amounts<{ calls: typeof Calls; tokens: typeof Tokens; agents: typeof Agents }>>({
  name: "Policy",
  open: (enforcement) =>
    Effect.map(
      Effect.provide(
        Work,
        Work.layer.pipe(
          Layer.provide([
            Calls.layer({ limit, enforcement }),
            Tokens.layer({ limit, enforcement }),
            Agents.layer({ caps, enforcement })
          ])
        )
      ),
      (face) => ({
        face,
        books: Effect.map(face.snapshot, ({ agents, calls, tokens }) => [
          ...calls,
          ...tokens,
          ...agents.filter(({ budget }) => !budget.endsWith("/calls"))
        ])
      })
    ),
  four: { calls: 4, tokens: 4, agents: usage },
  charged: [4, 4, 4, 4, 8, 4],
  bad: [
    ["calls", "test/Calls", (calls) => ({ calls, tokens: 4, agents: usage })],
    ["tokens", "test/Tokens", (tokens) => ({ calls: 4, tokens, agents: usage })],
    ...badUsage.map(
      ([part, budget, bad]) =>
        [`agents ${part}`, budget, (value: number) => ({ calls: 4, tokens: 4, agents: bad(value) })] as const
    )
  ]
})

/** For each bad value; a failure names it. */
const each = (values: ReadonlyArray<number>, body: (value: number) => Effect.Effect<void, unknown>) =>
  Effect.forEach(
    values,
    (value) =>
      Effect.catchCause(body(value), (cause) =>
        Effect.die(new Error(`with ${value}:`, { cause: Cause.squash(cause) }))
      ),
    { discard: true }
  )

const amounts = <A>({ bad, charged, four, name, open }: Subject<A>) =>
  describe(name, () => {
    /** How often `four` was charged, after all has ended: of each of the books as often. */
    const charges = (books: Effect.Effect<ReadonlyArray<BudgetStore.Snapshot>>) =>
      Effect.map(books, (snapshots) => {
        const times = snapshots.map((snapshot, i) => spentOf(snapshot) / charged[i]!)
        for (const time of times) assert.strictEqual(time, times[0])
        return times[0]
      })

    for (const [part, budget, amountOf] of bad) {
      const test = (
        title: string,
        body: (amount: A, words: ReadonlyArray<string>) => Effect.Effect<void, unknown, Scope.Scope>
      ) =>
        it.effect(`${part} ${title}`.trim(), () =>
          each(BAD, (value) =>
            Effect.scoped(body(amountOf(value), [`"${budget}"`, String(value), "a whole number from 0 to 2^53 - 1"]))
          )
        )

      for (const enforcement of ["reject", "throttle", "terminate"] as const) {
        test(`is not reserved, nor waited for, ${enforcement}`, (amount, words) =>
          Effect.gen(function* () {
            const { books, face } = yield* open(enforcement)
            // With `throttle` somebody waits already: a bad amount does not stand behind him.
            yield* Effect.scoped(
              Effect.gen(function* () {
                yield* face.reserve(four)
                yield* face.reserve(four)
                if (enforcement === "throttle") {
                  yield* Effect.forkScoped(Effect.scoped(face.reserve(four)), { startImmediately: true })
                  for (const { waiters } of yield* books) assert.strictEqual(waiters, 1)
                }
                const ref = yield* TxRef.make(0)
                let used = false
                yield* untouched(
                  books,
                  Effect.gen(function* () {
                    yield* dies(Effect.scoped(face.reserve(amount)), ...words)
                    yield* dies(
                      face.withReservation(amount, () => Effect.sync(() => (used = true))),
                      ...words
                    )
                    yield* dies(Effect.scoped(face.reserveTx(amount, TxRef.set(ref, 1))), ...words)
                  })
                )
                assert.isFalse(used)
                assert.strictEqual(yield* TxRef.get(ref), 0)
              })
            )
            for (const { waiters } of yield* books) assert.strictEqual(waiters, 0)
            assert.isAtLeast((yield* charges(books))!, 2)
          }))
      }

      test("does not extend a reservation, which goes on", (amount, words) =>
        Effect.gen(function* () {
          const { books, face } = yield* open("reject")
          yield* face.withReservation(four, (reservation) =>
            Effect.gen(function* () {
              yield* untouched(books, dies(reservation.extend(amount), ...words))
              assert.deepStrictEqual(reservation.amount, four)
              yield* reservation.extend(four)
            })
          )
          assert.strictEqual(yield* charges(books), 2)
        }))

      test("as a commit does not make the call free: the hold is charged", (amount, words) =>
        Effect.gen(function* () {
          const { books, face } = yield* open("reject")
          yield* dies(
            face.withReservation(four, (reservation) => untouched(books, reservation.commit(amount))),
            ...words
          )
          assert.strictEqual(yield* charges(books), 1)
          for (const { settled } of yield* books) assert.deepStrictEqual(settled.failed, { count: 1, refunded: 0 })
        }))

      test("as a commit charges the hold also when the scope goes on and succeeds", (amount, words) =>
        Effect.gen(function* () {
          for (const onSuccess of ["charge", "release"] as const) {
            const { books, face } = yield* open("reject")
            yield* face.withReservation(
              four,
              (reservation) => untouched(books, dies(reservation.commit(amount), ...words)),
              { onSuccess }
            )
            assert.strictEqual(yield* charges(books), 1)
            for (const { settled } of yield* books) assert.deepStrictEqual(settled.succeeded, { count: 1, refunded: 0 })
          }
        }))

      test("as a commit leaves the reservation open for a good one", (amount, words) =>
        Effect.gen(function* () {
          const { books, face } = yield* open("reject")
          yield* face.withReservation(four, (reservation) =>
            Effect.gen(function* () {
              yield* reservation.extend(four)
              yield* dies(reservation.commit(amount), ...words)
              const settlement = yield* reservation.commit(four)
              assert.strictEqual(settlement.cause, "committed")
              assert.deepStrictEqual(settlement.charged, four)
            })
          )
          assert.strictEqual(yield* charges(books), 1)
        }))

      test("as progress does not count, what was said before does", (amount, words) =>
        Effect.gen(function* () {
          const { books, face } = yield* open("reject")
          yield* dies(
            face.withReservation(four, (reservation) => untouched(books, reservation.progress(amount))),
            ...words
          )
          assert.strictEqual(yield* charges(books), 0)
          yield* dies(
            face.withReservation(four, (reservation) =>
              Effect.andThen(reservation.progress(four), reservation.progress(amount))
            ),
            ...words
          )
          assert.strictEqual(yield* charges(books), 1)
        }))
    }
  })

describe("bad amounts", () => {
  amounts(budget)
  amounts(guard)
  amounts(tokenBudget)
  amounts(pool)
  amounts(policy)

  const saying = (value: number) => [String(value), "a whole number from 0 to 2^53 - 1"]

  it.effect("tryReserve of every face", () =>
    each(BAD, (value) =>
      Effect.gen(function* () {
        const calls = yield* Calls
        const tokens = yield* Tokens
        const agents = yield* Agents
        const work = yield* Work
        yield* untouched(
          Effect.all([calls.snapshot, tokens.snapshot, agents.snapshot]),
          Effect.gen(function* () {
            yield* dies(Effect.scoped(calls.tryReserve(value)), '"test/Calls"', ...saying(value))
            yield* dies(Effect.scoped(tokens.tryReserve(value)), '"test/Tokens"', ...saying(value))
            for (const [, budget, bad] of pool.bad) {
              yield* dies(Effect.scoped(agents.tryReserve(bad(value))), `"${budget}"`, ...saying(value))
            }
            for (const [, budget, bad] of policy.bad) {
              yield* dies(Effect.scoped(work.tryReserve(bad(value))), `"${budget}"`, ...saying(value))
            }
          })
        )
      }).pipe(
        Effect.provide(
          Work.layer.pipe(
            Layer.provideMerge(Layer.mergeAll(Calls.layer({ limit }), Tokens.layer({ limit }), Agents.layer({ caps })))
          )
        )
      )
    )
  )

  it.effect("the plain pair of a guard", () =>
    each(BAD, (value) =>
      Effect.gen(function* () {
        const slots = yield* Slots
        yield* slots.tryReserve(3)
        yield* untouched(slots.snapshot, dies(slots.tryReserve(value), '"test/Slots"', ...saying(value)))
        yield* untouched(slots.snapshot, dies(slots.release(value), '"test/Slots"', ...saying(value)))
        yield* slots.release(3)
        assert.strictEqual(yield* slots.available, 10)
      }).pipe(Effect.provide(Slots.layer({ limit })))
    )
  )

  it.effect("record of a pool", () =>
    each(BAD, (value) =>
      Effect.gen(function* () {
        const agents = yield* Agents
        yield* agents.record(usage)
        for (const [, budget, bad] of pool.bad) {
          yield* untouched(agents.snapshot, dies(agents.record(bad(value)), `"${budget}"`, ...saying(value)))
        }
        assert.strictEqual((yield* agents.totals).calls, 1)
      }).pipe(Effect.provide(Agents.layer({ caps })))
    )
  )

  for (const limit of [
    Limit.capacity(10),
    Limit.rate({ amount: 10, per: "1 second" }),
    Limit.window({ amount: 10, every: "1 second" }),
    Limit.concurrency(10),
    Limit.unlimited,
    [Limit.capacity(10), Limit.concurrency(3)]
  ]) {
    it.effect(`topUp of ${nameOf(limit)}`, () =>
      each(BAD, (value) =>
        Effect.gen(function* () {
          const calls = yield* Calls
          yield* Effect.scoped(calls.reserve(2))
          yield* untouched(calls.snapshot, dies(calls.topUp(value), '"test/Calls"', ...saying(value)))
        }).pipe(Effect.provide(Calls.layer({ limit })))
      )
    )
  }

  it.effect("input and output to reserve that are only too much together", () =>
    Effect.gen(function* () {
      const agents = yield* Agents
      const most = { input: MAX, output: 1, cost: Usd.nanos(0) }
      yield* untouched(agents.snapshot, dies(Effect.scoped(agents.reserve(most)), '"test/Agents/total"', "2^53 - 1"))
    }).pipe(Effect.provide(Agents.layer({ caps: {} })))
  )

  it.effect("a top-up beyond what the books can count, of one limit among several", () =>
    Effect.gen(function* () {
      const calls = yield* Calls
      yield* calls.topUp(5)
      yield* untouched(calls.snapshot, dies(calls.topUp(MAX - 14), '"test/Calls"', String(MAX - 14), "2^53 - 1"))
      yield* calls.topUp(MAX - 15)
      const [, capacity] = (yield* calls.snapshot).ledgers
      assert.strictEqual(capacity!.granted, MAX)
    }).pipe(
      Effect.provide(
        Calls.layer({ limit: [Limit.rate({ amount: 1, per: "1 second", burst: 20 }), Limit.capacity(10)] })
      )
    )
  )

  it.effect("giving back more than was taken", () =>
    Effect.gen(function* () {
      const slots = yield* Slots
      yield* slots.tryReserve(3)
      yield* untouched(slots.snapshot, dies(slots.release(4), '"test/Slots"', "4 released", "3 taken"))
      yield* slots.release(3)
      yield* untouched(slots.snapshot, dies(slots.release(), '"test/Slots"', "1 released", "0 taken"))
    }).pipe(Effect.provide(Slots.layer({ limit })))
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Limits
// ---------------------------------------------------------------------------------------------------------------------

const BAD_LIMITS: ReadonlyArray<readonly [limit: Limit.Limit | ReadonlyArray<Limit.Limit>, ...words: Array<string>]> = [
  ...BAD.flatMap((amount): ReadonlyArray<readonly [Limit.Limit, ...Array<string>]> => [
    [Limit.capacity(amount), "capacity amount", String(amount)],
    [Limit.concurrency(amount), "concurrency amount", String(amount)],
    [Limit.rate({ amount, per: "1 second" }), "rate amount", String(amount)],
    [Limit.window({ amount, every: "1 second" }), "window amount", String(amount)],
    [Limit.rate({ amount: 1, per: "1 second", burst: amount }), "burst", String(amount)]
  ]),
  [Limit.rate({ amount: 0, per: "1 second" }), "a rate of 0 would never refill"],
  [Limit.rate({ amount: 1, per: "1 second", burst: 0 }), "the burst 0"],
  [Limit.rate({ amount: 1, per: 0 }), '"per"', "not 0"],
  [Limit.rate({ amount: 1, per: -1 }), '"per"', "not -1ms"],
  [Limit.rate({ amount: 1, per: NaN }), '"per"', "not 0"],
  [Limit.rate({ amount: 1, per: Infinity }), '"per"', "not Infinity"],
  [Limit.rate({ amount: MAX, per: [1, 100] }), "cannot be counted exactly", String(MAX)],
  [Limit.window({ amount: 1, every: 0 }), '"every"', "not 0"],
  [Limit.window({ amount: 1, every: 0.5 }), '"every"', "not 500000ns"],
  [Limit.window({ amount: 1, every: -1 }), '"every"', "not -1ms"],
  [Limit.window({ amount: 1, every: Infinity }), '"every"', "not Infinity"],
  [[], "has no limit", "Limit.unlimited"],
  [[Limit.capacity(1), Limit.rate({ amount: 0, per: "1 second" })], "a rate of 0 would never refill"]
]

describe("bad limits", () => {
  const ten = Limit.capacity(10)

  for (const [limit, ...words] of BAD_LIMITS) {
    it.effect(`${nameOf(limit)} opens no budget`, () =>
      Effect.gen(function* () {
        yield* dies(Effect.provide(Calls, Calls.layer({ limit })), '"test/Calls"', ...words)
        yield* dies(Effect.provide(Slots, Slots.layer({ limit })), '"test/Slots"', ...words)
        yield* dies(Effect.provide(Tokens, Tokens.layer({ limit })), '"test/Tokens"', ...words)
        yield* dies(Effect.provide(Calls, Calls.layer({ limit, name: "tenant 7" })), '"tenant 7"', ...words)
      })
    )

    it.effect(`${nameOf(limit)} does not replace another`, () =>
      Effect.gen(function* () {
        const calls = yield* Calls
        yield* Effect.scoped(calls.reserve(6))
        yield* untouched(calls.snapshot, dies(calls.setLimit(limit), '"test/Calls"', ...words))
      }).pipe(
        Effect.provide(
          // As many limits as are tried: another number is refused for that alone.
          Calls.layer({ limit: "_tag" in limit || limit.length === 0 ? ten : limit.map(() => ten) })
        )
      )
    )
  }

  it.effect("another number of limits", () =>
    Effect.gen(function* () {
      const calls = yield* Calls
      yield* Effect.scoped(calls.reserve(2))
      for (const limits of [[Limit.capacity(5)], [Limit.capacity(5), Limit.concurrency(5), Limit.unlimited]]) {
        yield* untouched(
          calls.snapshot,
          dies(calls.setLimit(limits), '"test/Calls" has 2 limits', `not ${limits.length}`, "Limit.unlimited")
        )
      }
      yield* untouched(calls.snapshot, dies(calls.setLimit(Limit.capacity(5)), '"test/Calls" has 2 limits', "not 1"))
    }).pipe(Effect.provide(Calls.layer({ limit: [Limit.capacity(10), Limit.concurrency(3)] })))
  )

  it.effect("from configuration", () =>
    dies(
      Effect.provide(
        Calls,
        Calls.layerConfig({ limit: Config.map(Config.Int("CALLS"), (amount) => Limit.capacity(amount)) })
      ).pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: { CALLS: "-4" } })))),
      '"test/Calls"',
      "-4"
    )
  )

  for (const value of BAD) {
    it.effect(`a cap of ${value}`, () =>
      Effect.gen(function* () {
        for (const cap of ["input", "output", "total", "cost"] as const) {
          const words = [`"test/Agents/${cap}"`, "capacity amount", String(value)]
          yield* dies(Effect.provide(Agents, Agents.layer({ caps: { [cap]: value } })), ...words)
          yield* Effect.gen(function* () {
            const agents = yield* Agents
            yield* Effect.scoped(agents.reserve(usage))
            const change = agents.setCaps({ input: 5, output: 5, total: 5, cost: Usd.nanos(5), [cap]: value })
            yield* untouched(agents.snapshot, dies(change, ...words))
          }).pipe(Effect.provide(Agents.layer({ caps })))
        }
      })
    )
  }

  it.effect("a queue for no number of waiters, a timeout below 0", () =>
    Effect.gen(function* () {
      const limit = Limit.capacity(1)
      for (const maxQueued of [-1, 1.5, NaN]) {
        const words = ["maxQueued", String(maxQueued)]
        yield* dies(Effect.provide(Calls, Calls.layer({ limit, maxQueued })), '"test/Calls"', ...words)
        yield* dies(Effect.provide(Agents, Agents.layer({ caps, maxQueued })), '"test/Agents/input"', ...words)
      }
      const words = ["timeout", "-5ms"]
      yield* dies(Effect.provide(Calls, Calls.layer({ limit, timeout: -5 })), '"test/Calls"', ...words)
      yield* Effect.gen(function* () {
        const calls = yield* Calls
        yield* Effect.scoped(calls.reserve(1))
        yield* untouched(
          calls.snapshot,
          dies(Effect.scoped(calls.reserve(1, { timeout: -5 })), '"test/Calls"', ...words)
        )
      }).pipe(Effect.provide(Calls.layer({ limit, enforcement: "throttle" })))
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Policies
// ---------------------------------------------------------------------------------------------------------------------

describe("bad policies", () => {
  class Nobody extends Policy.Service<Nobody>()("test/Nobody", {}) {}
  class Twice extends Policy.Service<Twice>()("test/Twice", { one: Calls, two: Calls }) {}
  class Inner extends Policy.Service<Inner>()("test/Inner", { calls: Calls, tokens: Tokens }) {}
  class Nested extends Policy.Service<Nested>()("test/Nested", { inner: Inner, tokens: Tokens }) {}
  class Apart extends Policy.Service<Apart>()("test/Apart", { calls: Calls, tokens: Tokens }) {}

  it.effect("without members", () =>
    dies(Effect.provide(Nobody, Nobody.layer), '"test/Nobody"', "no members", "at least one")
  )

  it.effect("with the same budget twice", () =>
    dies(
      Effect.provide(Twice, Twice.layer.pipe(Layer.provide(Calls.layer({ limit })))),
      '"test/Twice"',
      '"test/Calls" twice'
    )
  )

  it.effect("with the same budget twice, by way of another policy", () =>
    dies(
      Effect.provide(
        Nested,
        Nested.layer.pipe(Layer.provide(Inner.layer), Layer.provide([Calls.layer({ limit }), Tokens.layer({ limit })]))
      ),
      '"test/Nested"',
      '"test/Tokens" twice'
    )
  )

  it.effect("with budgets of different stores", () =>
    Effect.gen(function* () {
      const { layerMemory } = BudgetStore.BudgetStore
      const another = Layer.effect(
        BudgetStore.BudgetStore,
        Effect.map(BudgetStore.BudgetStore, (store) => ({ ...store, group: {} }))
      ).pipe(Layer.provide(layerMemory))
      const members = (store: Layer.Layer<BudgetStore.BudgetStore>) =>
        Layer.mergeAll(
          Calls.layerStore({ limit }).pipe(Layer.provide(layerMemory)),
          Tokens.layerStore({ limit }).pipe(Layer.provide(store))
        )
      yield* dies(
        Effect.provide(Apart, Apart.layer.pipe(Layer.provide(members(another)))),
        '"test/Apart"',
        "different stores"
      )
      yield* Effect.provide(Apart, Apart.layer.pipe(Layer.provide(members(layerMemory))))
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// A limit below one request: no programming error, but no reason to wait either
// ---------------------------------------------------------------------------------------------------------------------

describe("a limit below one request", () => {
  for (const limit of [
    Limit.capacity(3),
    Limit.capacity(0),
    Limit.rate({ amount: 1_000, per: "1 second", burst: 3 }),
    Limit.window({ amount: 3, every: "1 millis" }),
    Limit.window({ amount: 0, every: "1 millis" }),
    Limit.concurrency(3)
  ]) {
    for (const enforcement of ["reject", "throttle", "terminate"] as const) {
      it.effect(`${Limit.format(limit)}, ${enforcement}: the answer is there at once`, () =>
        Effect.gen(function* () {
          const calls = yield* Calls
          const is = (exit: Exit.Exit<unknown, unknown>) => {
            assert.isTrue(Exit.isFailure(exit))
            if (!Exit.isFailure(exit)) return
            const error =
              enforcement === "terminate"
                ? Result.getOrUndefined(Cause.findDefect(exit.cause))
                : Option.getOrUndefined(Cause.findErrorOption(exit.cause))
            if (!(error instanceof BudgetExceeded)) return assert.fail(String(exit))
            assert.strictEqual(error.budget, "test/Calls")
            assert.strictEqual(error.requested, 4)
            assert.strictEqual(error.available, Limit.maximum(limit))
            assert.deepStrictEqual(error.limit, limit)
            assert.isUndefined(error.retryAfter)
            assert.include(error.message, `"test/Calls" exceeded: 4 requested, ${Limit.maximum(limit)} available`)
            assert.include(error.message, Limit.format(limit))
          }
          yield* untouched(
            calls.snapshot,
            Effect.gen(function* () {
              // The clock of the test stands still: a wait would never end.
              is(yield* Effect.exit(Effect.scoped(calls.reserve(4))))
              is(yield* Effect.exit(Effect.scoped(calls.reserve(4, { timeout: "1 hour" }))))
              is(yield* Effect.exit(calls.withReservation(4, () => Effect.void)))
              is(yield* Effect.exit(Effect.scoped(calls.reserveTx(4, Effect.void))))
              assert.isTrue(Option.isNone(yield* Effect.scoped(calls.tryReserve(4))))
            })
          )
        }).pipe(Effect.provide(Calls.layer({ limit, enforcement })))
      )
    }
  }

  it.effect("a throttled policy does not wait for a member that can never have it", () =>
    Effect.gen(function* () {
      const { books, face } = yield* policy.open("throttle")
      // The first member is busy, so waiting would start there.
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* face.reserve({ calls: 10, tokens: 0, agents: { input: 0, output: 0, cost: Usd.nanos(0) } })
          const exit = yield* untouched(books, Effect.exit(Effect.scoped(face.reserve({ ...policy.four, tokens: 11 }))))
          const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined
          if (!(error instanceof BudgetExceeded)) return assert.fail(String(exit))
          assert.strictEqual(error.budget, "test/Tokens")
          assert.strictEqual(error.requested, 11)
        })
      )
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// What a provider reports
// ---------------------------------------------------------------------------------------------------------------------

describe("reported usage is saturated, never trusted", () => {
  const HELD = 100
  const table: ReadonlyArray<readonly [prompt: unknown, completion: unknown, charged: number]> = [
    [30, 20, 50],
    [0, 0, 0],
    [100, 0, 100],
    [150, 20, 170],
    // fractions count up
    [0.2, 0.2, 2],
    [30.000001, 20, 51],
    [Number.MIN_VALUE, 0, 1],
    // negative numbers count as nothing
    [-5, 20, 100],
    [-0.5, 20, 100],
    [-0, 20, 20],
    [-Infinity, 20, 100],
    // too much is the most
    [Infinity, 0, MAX],
    [MAX, MAX, MAX],
    [2 ** 53, 0, MAX],
    [1e300, -1e300, MAX],
    // what is missing is unknown, and unknown is never zero: what is known, but at least the hold
    [undefined, undefined, HELD],
    [undefined, 20, HELD],
    [20, undefined, HELD],
    [NaN, NaN, HELD],
    [NaN, 20, HELD],
    [undefined, 150, 150],
    [150, NaN, 150],
    [undefined, -7, HELD],
    [undefined, Infinity, MAX],
    // what JSON has in the place of a number
    [null, null, HELD],
    [null, 150, 150],
    ["30", 20, HELD],
    ["many", "few", HELD],
    [{}, [], HELD],
    [true, false, HELD]
  ]
  for (const [prompt, completion, charged] of table) {
    const name = [prompt, completion].map((part) => (typeof part === "number" ? String(part) : JSON.stringify(part)))
    it.effect(`prompt ${name[0]}, completion ${name[1]}: ${charged} charged`, () =>
      Effect.gen(function* () {
        const tokens = yield* Tokens
        const settlement = yield* tokens.withReservation(HELD, (reservation) =>
          tokens.recordUsage(reservation, { prompt, completion } as TokenBudget.Usage)
        )
        assert.strictEqual(settlement.cause, "committed")
        assert.strictEqual(settlement.charged, charged)
        assert.strictEqual(settlement.refunded, Math.max(0, HELD - charged))
        assert.strictEqual(settlement.overage, Math.max(0, charged - HELD))
        assert.strictEqual(yield* tokens.tokensConsumed, charged)
        assert.strictEqual(spentOf(yield* tokens.snapshot), charged)
        assert.strictEqual(yield* tokens.available, 1_000 - charged)
      }).pipe(Effect.provide(Tokens.layer({ limit: Limit.capacity(1_000) })))
    )
  }

  it.effect("no usage at all keeps the hold as the charge", () =>
    Effect.gen(function* () {
      const tokens = yield* Tokens
      for (const usage of [undefined, null, {}, "", 7]) {
        const settlement = yield* tokens.withReservation(HELD, (reservation) =>
          tokens.recordUsage(reservation, usage as unknown as TokenBudget.Usage)
        )
        assert.strictEqual(settlement.charged, HELD)
      }
      assert.strictEqual(yield* tokens.tokensConsumed, 5 * HELD)
    }).pipe(Effect.provide(Tokens.layer({ limit: Limit.capacity(1_000) })))
  )

  it.effect("what was held by an extension counts as held", () =>
    Effect.gen(function* () {
      const tokens = yield* Tokens
      yield* tokens.withReservation(HELD, (reservation) =>
        Effect.andThen(reservation.extend(50), tokens.recordUsage(reservation, { prompt: undefined, completion: 1 }))
      )
      assert.strictEqual(yield* tokens.tokensConsumed, 150)
    }).pipe(Effect.provide(Tokens.layer({ limit: Limit.capacity(1_000) })))
  )

  it.effect("the most there is leaves a debt, and a limit that still works when it is paid", () =>
    Effect.gen(function* () {
      const tokens = yield* Tokens
      yield* tokens.withReservation(HELD, (reservation) =>
        tokens.recordUsage(reservation, { prompt: Infinity, completion: Infinity })
      )
      assert.strictEqual(yield* tokens.available, 1_000 - MAX)
      assert.isTrue(Option.isNone(yield* Effect.scoped(tokens.tryReserve(1))))
      const error = yield* Effect.flip(Effect.scoped(tokens.reserve(1)))
      if (error._tag !== "BudgetExceeded") return assert.fail(String(error))
      assert.isTrue(error.retryAfter !== undefined && Duration.isFinite(error.retryAfter))
      yield* tokens.reset
      assert.isTrue(Option.isSome(yield* Effect.scoped(tokens.tryReserve(1))))
    }).pipe(Effect.provide(Tokens.layer({ limit: Limit.rate({ amount: 1_000, per: "1 minute" }) })))
  )

  it.effect("the most there is does not close a budget without a limit", () =>
    Effect.gen(function* () {
      const tokens = yield* Tokens
      yield* tokens.withReservation(HELD, (reservation) =>
        tokens.recordUsage(reservation, { prompt: Infinity, completion: 0 })
      )
      assert.isTrue(Option.isSome(yield* Effect.scoped(tokens.tryReserve(HELD))))
      yield* Effect.scoped(tokens.reserve(HELD))
    }).pipe(Effect.provide(Tokens.layer({ limit: Limit.unlimited })))
  )
})
