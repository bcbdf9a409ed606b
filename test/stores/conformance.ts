/** What every store must do, as one suite: the programs are the same, only the layer differs. Runs on the real clock. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Duration, Effect, Exit, Fiber, Layer, Option, Stream } from "effect"
import {
  Budget,
  BudgetError,
  BudgetExceeded,
  BudgetGuard,
  BudgetPool,
  BudgetStore,
  Limit,
  Policy,
  TokenBudget,
  Usd
} from "../../src/index.ts"
import { forSeedsEffect, make as makeRandom } from "../utils/random.ts"

class Tokens extends TokenBudget.Service<Tokens>()("conformance/Tokens") {}
class Rows extends BudgetGuard.Service<Rows>()("conformance/Rows") {}
class Dollars extends Budget.Service<Dollars>()("conformance/Dollars") {}
class Slots extends Budget.Service<Slots>()("conformance/Slots") {}
class Pool extends BudgetPool.Service<Pool>()("conformance/Pool") {}
class Both extends Policy.Service<Both>()("conformance/Both", { tokens: Tokens, dollars: Dollars }) {}
class All extends Policy.Service<All>()("conformance/All", { tokens: Tokens, dollars: Dollars, slots: Slots }) {}

let suites = 0

export interface StoreUnderTest {
  readonly name: string
  /** One store for the whole suite. */
  readonly layer: Layer.Layer<BudgetStore.BudgetStore, unknown>
}

export const conformance = (store: StoreUnderTest): void => {
  describe(`${store.name}: conformance`, () => {
    const layer = Layer.orDie(store.layer)
    it.layer(layer, { timeout: "30 seconds", excludeTestServices: true })((it) => {
      /** Budgets of a name of their own in each test. */
      const named = (name: string) => `${name}-${suites++}`

      it.effect("a reservation is held, settled once, and the rest comes back", () =>
        Effect.gen(function* () {
          const tokens = yield* Tokens
          const settlement = yield* tokens.withReservation(40, (reservation) =>
            Effect.gen(function* () {
              assert.strictEqual((yield* tokens.snapshot).ledgers[0].held, 40)
              yield* reservation.extend(10)
              const first = yield* reservation.commit(30)
              assert.deepStrictEqual(yield* reservation.commit(7), first)
              assert.deepStrictEqual(yield* reservation.release, first)
              return first
            })
          )
          assert.deepStrictEqual(
            { held: settlement.held, charged: settlement.charged, refunded: settlement.refunded },
            { held: 50, charged: 30, refunded: 20 }
          )
          assert.strictEqual(yield* tokens.available, 70)
        }).pipe(Effect.provide(Tokens.layerStore({ name: named("tokens"), limit: Limit.capacity(100) })))
      )

      it.effect("success charges the hold, failure and interruption the progress, overage is debt", () =>
        Effect.gen(function* () {
          const budget = yield* Dollars
          yield* budget.withReservation(10, () => Effect.void)
          yield* Effect.exit(
            budget.withReservation(10, (reservation) => Effect.andThen(reservation.progress(3), Effect.fail("no")))
          )
          const started = yield* Deferred.make<void>()
          const fiber = yield* Effect.forkChild(
            budget.withReservation(10, (reservation) =>
              Effect.andThen(
                reservation.progress(2),
                Effect.andThen(Deferred.succeed(started, undefined), Effect.never)
              )
            )
          )
          yield* Deferred.await(started)
          yield* Fiber.interrupt(fiber)
          assert.strictEqual(yield* budget.available, 100 - 15)
          const { overage, overran } = yield* budget.withReservation(80, (reservation) => reservation.commit(90))
          assert.deepStrictEqual([overage, overran.length], [10, 1])
          const snapshot = yield* budget.snapshot
          assert.deepStrictEqual([snapshot.available, snapshot.charged, snapshot.overage], [-5, 105, 10])
          assert.instanceOf(yield* Effect.flip(Effect.scoped(budget.reserve(1))), BudgetExceeded)
          yield* budget.topUp(6)
          assert.isTrue(Option.isSome(yield* Effect.scoped(budget.tryReserve(1))))
        }).pipe(Effect.provide(Dollars.layerStore({ name: named("dollars"), limit: Limit.capacity(100) })))
      )

      it.effect("a denial says which limit, what was asked and what was left; nothing is taken", () =>
        Effect.gen(function* () {
          const name = yield* Effect.map(Dollars, (budget) => budget.name)
          const budget = yield* Dollars
          const error = yield* Effect.flip(Effect.scoped(budget.reserve(101)))
          assert.instanceOf(error, BudgetExceeded)
          assert.deepStrictEqual(
            [error.budget, error.limit._tag, error.requested, error.available, error.retryAfter],
            [name, "Capacity", 101, 100, undefined]
          )
          assert.isTrue(Option.isNone(yield* Effect.scoped(budget.tryReserve(101))))
          const { settled } = yield* budget.snapshot
          assert.strictEqual((yield* budget.snapshot).ledgers[0].held, 0)
          assert.strictEqual(settled.succeeded.count, 0)
        }).pipe(Effect.provide(Dollars.layerStore({ name: named("dollars"), limit: Limit.capacity(100) })))
      )

      it.effect("several limits and several budgets are held together or not at all", () =>
        Effect.gen(function* () {
          const tokens = yield* Tokens
          const both = yield* Both
          const denied = yield* Effect.flip(Effect.scoped(both.reserve({ tokens: 50, dollars: 31 })))
          assert.instanceOf(denied, BudgetExceeded)
          assert.strictEqual(denied.limit._tag, "Window")
          assert.strictEqual(yield* tokens.available, 100)
          const settlement = yield* both.withReservation({ tokens: 50, dollars: 20 }, (reservation) =>
            reservation.commit({ tokens: 40, dollars: 25 })
          )
          assert.deepStrictEqual(settlement.charged, { tokens: 40, dollars: 25 })
          const { dollars, tokens: tokenBooks } = yield* both.snapshot
          assert.strictEqual(tokenBooks[0].available, 60)
          assert.deepStrictEqual(
            dollars[0].ledgers.map(({ available, granted, held, spent }) => available + held + spent === granted),
            [true, true]
          )
          assert.deepStrictEqual(
            dollars[0].ledgers.map(({ available }) => available),
            [75, 5]
          )
        }).pipe(
          Effect.provide(
            Both.layer.pipe(
              Layer.provideMerge([
                Tokens.layerStore({ name: named("tokens"), limit: Limit.capacity(100) }),
                Dollars.layerStore({
                  name: named("dollars"),
                  limit: [Limit.capacity(100), Limit.window({ amount: 30, every: "365 days" })]
                })
              ])
            )
          )
        )
      )

      it.effect("concurrent reservations never overspend: exactly so many run", () =>
        Effect.gen(function* () {
          const budget = yield* Dollars
          const exits = yield* Effect.forEach(
            Array.from({ length: 100 }),
            () => Effect.exit(budget.withReservation(7, () => Effect.void)),
            { concurrency: "unbounded" }
          )
          assert.strictEqual(exits.filter(Exit.isSuccess).length, 14)
          const { available, ledgers } = yield* budget.snapshot
          assert.deepStrictEqual([available, ledgers[0].held, ledgers[0].spent], [2, 0, 98])
        }).pipe(Effect.provide(Dollars.layerStore({ name: named("dollars"), limit: Limit.capacity(100) })))
      )

      it.effect("who waits is served in order when something comes back", () =>
        Effect.gen(function* () {
          const slots = yield* Slots
          const order: Array<number> = []
          const release = yield* Deferred.make<void>()
          const held = yield* Deferred.make<void>()
          const holder = yield* Effect.forkChild(
            slots.withReservation(2, () => Effect.andThen(Deferred.succeed(held, undefined), Deferred.await(release)))
          )
          yield* Deferred.await(held)
          const waiters: Array<Fiber.Fiber<unknown, unknown>> = []
          for (let i = 0; i < 5; i++) {
            waiters.push(
              yield* Effect.forkChild(
                slots.withReservation(2, () => Effect.sync(() => order.push(i)), i === 4 ? { priority: 1 } : {})
              )
            )
            yield* Effect.repeat(slots.snapshot, { until: ({ waiters }) => waiters === i + 1 })
          }
          yield* Deferred.succeed(release, undefined)
          yield* Fiber.join(holder)
          for (const waiter of waiters) yield* Fiber.join(waiter)
          assert.deepStrictEqual(order, [4, 0, 1, 2, 3])
          assert.strictEqual((yield* slots.snapshot).available, 2)
        }).pipe(
          Effect.provide(
            Slots.layerStore({ name: named("slots"), limit: Limit.concurrency(2), enforcement: "throttle" })
          )
        )
      )

      it.effect("a wait can time out, be interrupted, or find the queue full; none of them takes anything", () =>
        Effect.gen(function* () {
          const slots = yield* Slots
          yield* Effect.scoped(
            Effect.gen(function* () {
              yield* slots.reserve(1)
              const waiting = yield* Effect.forkChild(Effect.scoped(slots.reserve(1)))
              yield* Effect.repeat(slots.snapshot, { until: ({ waiters }) => waiters === 1 })
              const full = yield* Effect.flip(Effect.scoped(slots.reserve(1)))
              assert.strictEqual(full._tag === "FailedReservation" && full.reason._tag, "QueueFull")
              yield* Fiber.interrupt(waiting)
              const late = yield* Effect.flip(Effect.scoped(slots.reserve(1, { timeout: "20 millis" })))
              assert.strictEqual(late._tag === "FailedReservation" && late.reason._tag, "TimedOut")
              const never = yield* Effect.flip(Effect.scoped(slots.reserve(2)))
              assert.instanceOf(never, BudgetExceeded)
              assert.strictEqual((yield* slots.snapshot).waiters, 0)
            })
          )
          assert.strictEqual((yield* slots.snapshot).available, 1)
        }).pipe(
          Effect.provide(
            Slots.layerStore({
              name: named("slots"),
              limit: Limit.concurrency(1),
              enforcement: "throttle",
              maxQueued: 1
            })
          )
        )
      )

      it.effect("a rate lets who waits in when time has refilled it", () =>
        Effect.gen(function* () {
          const budget = yield* Dollars
          yield* Effect.scoped(budget.reserve(10))
          const error = yield* Effect.flip(Effect.scoped(budget.reserve(10, { timeout: 0 })))
          assert.strictEqual(error._tag, "FailedReservation")
          yield* Effect.scoped(budget.reserve(5))
          const { granted, spent } = (yield* budget.snapshot).ledgers[0]
          assert.isTrue(granted >= 15 && spent === 15, `${granted} granted`)
        }).pipe(
          Effect.provide(
            Dollars.layerStore({
              name: named("dollars"),
              limit: Limit.rate({ amount: 10, per: "100 millis" }),
              enforcement: "throttle"
            })
          )
        )
      )

      it.effect("a guard's pair never gives back more than was taken", () =>
        Effect.gen(function* () {
          const rows = yield* Rows
          assert.isTrue(yield* rows.tryReserve(80))
          assert.isFalse(yield* rows.tryReserve(30))
          yield* rows.release(50)
          assert.isTrue(yield* rows.tryReserve(30))
          assert.strictEqual(yield* rows.available, 40)
          const exit = yield* Effect.exit(rows.release(61))
          assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
          assert.strictEqual(yield* rows.available, 40)
        }).pipe(Effect.provide(Rows.layerStore({ name: named("rows"), limit: Limit.capacity(100) })))
      )

      it.effect("a pool records all of a usage or nothing, and names the first cap", () =>
        Effect.gen(function* () {
          const pool = yield* Pool
          yield* pool.record({ input: 60, output: 20, cost: Usd.nanos(5) })
          const error = yield* Effect.flip(pool.record({ input: 30, output: 30, cost: Usd.nanos(5) }))
          assert.match(error.message, /output/)
          const { calls, input, output, total } = yield* pool.totals
          assert.deepStrictEqual([calls, input, output, total], [1, 60, 20, 80])
        }).pipe(Effect.provide(Pool.layerStore({ name: named("pool"), caps: { input: 100, output: 40, total: 200 } })))
      )

      it.effect("what fits is granted, between the least and what is wanted", () =>
        Effect.gen(function* () {
          const budget = yield* Dollars
          yield* budget.withReservation(70, () => Effect.void)
          const amount = yield* Effect.scoped(Effect.map(budget.reserveUpTo(10, 50), ({ amount }) => amount))
          assert.strictEqual(amount, 30)
          assert.instanceOf(yield* Effect.flip(Effect.scoped(budget.reserveUpTo(1, 5))), BudgetExceeded)
        }).pipe(Effect.provide(Dollars.layerStore({ name: named("dollars"), limit: Limit.capacity(100) })))
      )

      it.effect("what fits of several caps is one consistent amount, and the rest of each cap stays free", () =>
        Effect.gen(function* () {
          const pool = yield* Pool
          const wanted = { input: 80, output: 80, cost: Usd.nanos(5) }
          yield* Effect.scoped(
            Effect.gen(function* () {
              const { amount } = yield* pool.reserveUpTo({ input: 0, output: 0, cost: Usd.nanos(0) }, wanted)
              assert.deepStrictEqual(amount, { input: 40, output: 40, cost: Usd.nanos(2) })
              const { input, output, total } = yield* pool.snapshot
              assert.deepStrictEqual(
                [input, output, total].map(({ available, ledgers }) => [available, ledgers[0].held]),
                [
                  [60, 40],
                  [0, 40],
                  [20, 80]
                ]
              )
            })
          )
        }).pipe(Effect.provide(Pool.layerStore({ name: named("pool"), caps: { input: 100, output: 40, total: 100 } })))
      )

      it.effect("a charge is taken in any case, and leaves debt where it does not fit", () =>
        Effect.gen(function* () {
          const pool = yield* Pool
          const fits = yield* pool.charge({ input: 60, output: 20, cost: Usd.nanos(5) })
          assert.deepStrictEqual(fits.overran, [])
          const { overran } = yield* pool.charge({ input: 10, output: 30, cost: Usd.nanos(5) })
          assert.strictEqual(overran.length, 1)
          const { output, total } = yield* pool.snapshot
          assert.deepStrictEqual([output.available, output.charged, total.available], [-10, 50, 80])
          assert.strictEqual((yield* pool.totals).calls, 2)
        }).pipe(Effect.provide(Pool.layerStore({ name: named("pool"), caps: { input: 100, output: 40, total: 200 } })))
      )

      it.effect("a wait that times out says what denied it, and one that time cannot end in time fails at once", () =>
        Effect.gen(function* () {
          const budget = yield* Dollars
          yield* Effect.scoped(budget.reserve(10))
          const timeout = "20 millis"
          const error = yield* Effect.flip(Effect.scoped(budget.reserve(4, { timeout })))
          const reason = error._tag === "FailedReservation" ? error.reason : undefined
          assert.instanceOf(reason, BudgetError.TimedOut)
          assert.deepStrictEqual([reason.available, reason.limit?._tag], [0, "Rate"])
          assert.isAbove(Duration.toMillis(reason.retryAfter!), 1_000_000)
          const hours = Effect.flip(Effect.scoped(budget.reserve(4, { timeout: "2 hours" })))
          const late = yield* Effect.timeout(hours, "10 seconds")
          assert.strictEqual(late._tag === "FailedReservation" && late.reason._tag, "TimedOut")
        }).pipe(
          Effect.provide(
            Dollars.layerStore({
              name: named("dollars"),
              limit: Limit.rate({ amount: 10, per: "10 hours" }),
              enforcement: "throttle"
            })
          )
        )
      )

      it.effect("changes of several budgets come together", () =>
        Effect.gen(function* () {
          const store = yield* BudgetStore.BudgetStore
          const open = (name: string) =>
            store.open({
              name: named(name),
              limits: [Limit.capacity(100)],
              enforcement: "reject",
              order: "fifo",
              maxQueued: undefined,
              timeout: undefined
            })
          const accounts = [yield* open("one"), yield* open("other")]
          const snapshots = yield* Effect.forkChild(
            Stream.runHead(
              Stream.filter(store.changes(accounts), ([one, other]) => one!.charged === 3 && other!.charged === 4)
            )
          )
          yield* Effect.yieldNow
          yield* store.record(accounts, [3, 4])
          const [one, other] = Option.getOrThrow(yield* Fiber.join(snapshots))
          assert.deepStrictEqual([one!.available, other!.available], [97, 96])
          assert.deepStrictEqual(yield* store.read(accounts), [one!, other!])
        })
      )

      it.effect("all accounts of one budget have the same books", () =>
        Effect.gen(function* () {
          const store = yield* BudgetStore.BudgetStore
          const definition: BudgetStore.Definition = {
            name: named("tokens"),
            limits: [Limit.capacity(100)],
            enforcement: "reject",
            order: "fifo",
            maxQueued: undefined,
            timeout: undefined
          }
          const [one, other] = [yield* store.open(definition), yield* store.open(definition)]
          assert.strictEqual(one.books, other.books)
          assert.notStrictEqual((yield* store.open({ ...definition, name: named("tokens") })).books, one.books)
        })
      )

      it.effect("limits change while the program runs: what is spent stays, and who waits is let in", () =>
        Effect.gen(function* () {
          const budget = yield* Dollars
          yield* budget.withReservation(90, () => Effect.void)
          const waiting = yield* Effect.forkChild(Effect.scoped(budget.reserve(20)))
          yield* Effect.repeat(budget.snapshot, { until: ({ waiters }) => waiters === 1 })
          yield* budget.setLimit(Limit.capacity(120))
          yield* Fiber.join(waiting)
          assert.strictEqual(yield* budget.available, 10)
          yield* budget.reset
          const { epoch, spent } = (yield* budget.snapshot).ledgers[0]
          assert.deepStrictEqual([yield* budget.available, epoch, spent], [120, 1, 0])
        }).pipe(
          Effect.provide(
            Dollars.layerStore({ name: named("dollars"), limit: Limit.capacity(100), enforcement: "throttle" })
          )
        )
      )

      it.effect("a wrong amount is a defect that names the budget, with the books untouched", () =>
        Effect.gen(function* () {
          const budget = yield* Dollars
          for (const amount of [-1, 0.5, Number.NaN, 2 ** 53]) {
            const exit = yield* Effect.exit(Effect.scoped(budget.reserve(amount)))
            assert.isTrue(Exit.isFailure(exit) && Cause.pretty(exit.cause).includes(budget.name), `${amount}`)
          }
          assert.strictEqual(yield* budget.available, 100)
        }).pipe(Effect.provide(Dollars.layerStore({ name: named("dollars"), limit: Limit.capacity(100) })))
      )

      it.effect("a great amount is counted to the unit", () =>
        Effect.gen(function* () {
          const budget = yield* Dollars
          const most = Number.MAX_SAFE_INTEGER
          yield* budget.withReservation(most - 2, (reservation) => reservation.commit(most - 4))
          assert.strictEqual(yield* budget.available, 4)
          yield* budget.withReservation(3, () => Effect.void)
          assert.deepStrictEqual([yield* budget.available, (yield* budget.snapshot).charged], [1, most - 1])
        }).pipe(
          Effect.provide(Dollars.layerStore({ name: named("dollars"), limit: Limit.capacity(Number.MAX_SAFE_INTEGER) }))
        )
      )

      it.effect("random programs of many fibers: the books balance, and nothing stays held", () =>
        forSeedsEffect(20, (seed) =>
          Effect.gen(function* () {
            const random = makeRandom(seed)
            const tokens = yield* Tokens
            const dollars = yield* Dollars
            const slots = yield* Slots
            const all = yield* All
            let committed = 0
            const one = Effect.suspend(() => {
              const amounts = { tokens: random.int(0, 20), dollars: random.int(0, 20), slots: random.int(0, 3) }
              const actual = { tokens: random.int(0, 20), dollars: random.int(0, 20), slots: 0 }
              const end = random.next()
              const patience = random.int(0, 30)
              const reserved = all.withReservation(
                amounts,
                (reservation) =>
                  Effect.gen(function* () {
                    if (random.chance(0.3))
                      yield* Effect.ignore(reservation.extend({ tokens: 1, dollars: 1, slots: 0 }))
                    if (random.chance(0.3)) yield* Effect.sleep(Duration.millis(random.int(0, 5)))
                    if (end < 0.5) {
                      yield* Effect.uninterruptible(
                        Effect.tap(reservation.commit(actual), () => {
                          committed += actual.tokens
                          return Effect.void
                        })
                      )
                    } else if (end < 0.7) {
                      yield* reservation.release
                    } else {
                      return yield* Effect.fail("failed")
                    }
                  }),
                { timeout: Duration.millis(random.int(1, 200)) }
              )
              return end > 0.9 ? Effect.timeoutOption(reserved, Duration.millis(patience)) : reserved
            })
            yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.exit(one), {
              concurrency: "unbounded",
              discard: true
            })
            for (const budget of [tokens, dollars, slots]) {
              const { available, granted, held, spent } = (yield* budget.snapshot).ledgers[0]
              assert.strictEqual(available + held + spent, granted)
              assert.strictEqual(held, 0)
            }
            assert.strictEqual((yield* tokens.snapshot).charged, committed)
          }).pipe(
            Effect.provide(
              All.layer.pipe(
                Layer.provideMerge([
                  Tokens.layerStore({ name: named("tokens"), limit: Limit.capacity(1_000), enforcement: "throttle" }),
                  Dollars.layerStore({
                    name: named("dollars"),
                    limit: Limit.rate({ amount: 400, per: "100 millis" }),
                    enforcement: "throttle"
                  }),
                  Slots.layerStore({ name: named("slots"), limit: Limit.concurrency(6), enforcement: "throttle" })
                ])
              )
            )
          )
        )
      )
    })
  })
}
