import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Deferred, type Duration, Effect, Exit, Fiber, FileSystem, Layer, Option, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Budget, BudgetGuard, BudgetPool, BudgetStore, Limit, Usd } from "../../src/index.ts"
import { journalIn } from "../../src/internal/shared/journal.ts"
import type { SharedOptions } from "../../src/internal/shared/options.ts"
import { sharedStore } from "../../src/internal/shared/store.ts"
import { sweep } from "../utils/sweep.ts"
import { conformance } from "./conformance.ts"
import * as ReferenceBooks from "./referenceBooks.ts"

conformance({ name: "memory", layer: BudgetStore.BudgetStore.layerMemory })

conformance({
  name: "shared books in memory",
  layer: Layer.effect(
    BudgetStore.BudgetStore,
    Effect.flatMap(ReferenceBooks.make(), (books) => sharedStore(books, {}))
  )
})

conformance({
  name: "leases over shared books in memory",
  layer: BudgetStore.BudgetStore.layerLeased().pipe(
    Layer.provide(
      Layer.effect(
        BudgetStore.BudgetStore,
        Effect.flatMap(ReferenceBooks.make(), (books) => sharedStore(books, {}))
      )
    )
  )
})

/** Everybody comes as far as they can without the clock, which then goes on, and again. */
const adjust = (duration: Duration.Input) => Effect.andThen(turns, Effect.andThen(TestClock.adjust(duration), turns))

const turns = Effect.repeat(Effect.yieldNow, { times: 200 })

class Tokens extends Budget.Service<Tokens>()("shared/Tokens") {}
class Rows extends BudgetGuard.Service<Rows>()("shared/Rows") {}

/** A process over these books; several can share them. */
const processOver = (
  books: ReferenceBooks.ReferenceBooks,
  options: SharedOptions = {},
  budget: Budget.Options = { limit: Limit.capacity(100) }
) =>
  Effect.map(
    Layer.build(
      Tokens.layerStore({ name: "tokens", ...budget }).pipe(
        Layer.provideMerge(Layer.effect(BudgetStore.BudgetStore, sharedStore(books, options)))
      )
    ),
    (context) => Context.get(context, Tokens)
  )

const booksOf = (books: ReferenceBooks.ReferenceBooks) => {
  const { available, granted, held, spent } = books.records.budgets.get("tokens")!.ledgers[0]!
  assert.strictEqual(available + held + spent, granted)
  return { available, held, spent }
}

describe("a hold whose process is gone", () => {
  it.effect("stays while its scope lives, renewed to the same distance each time", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books, { expiresAfter: "60 seconds" })
      const fiber = yield* Effect.forkChild(tokens.withReservation(40, () => Effect.sleep("10 minutes")))
      for (let minute = 1; minute < 10; minute++) {
        yield* adjust("1 minute")
        assert.strictEqual(booksOf(books).held, 40)
        const now = yield* Clock.currentTimeMillis
        for (const { due } of books.records.holds.values()) assert.isAtMost(due, now + 60_000)
      }
      yield* adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(booksOf(books), { available: 60, held: 0, spent: 40 })
      const renewals = books.calls.renew
      yield* adjust("10 minutes")
      assert.strictEqual(books.calls.renew, renewals)
    })
  )

  it.effect("expires: the progress it had told is charged, the rest comes back, by whoever comes next", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const dead = yield* Scope.make()
      const one = yield* Scope.provide(processOver(books), dead)
      const other = yield* processOver(books)
      yield* Effect.forkIn(
        one.withReservation(70, (reservation) => Effect.andThen(reservation.progress(25), Effect.never)),
        dead
      )
      yield* adjust("30 seconds")
      // The process is killed: none of its finalizers runs.
      books.fault = () => "away"
      yield* adjust("59 seconds")
      books.fault = undefined
      assert.strictEqual(yield* other.available, 75)
      const { expired } = (yield* other.snapshot).settled
      assert.deepStrictEqual(expired, { count: 1, refunded: 45 })
    })
  )

  it.effect("is charged whole with onExpiry: hold", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const one = yield* processOver(books, { onExpiry: "hold" })
      yield* Effect.forkChild(one.withReservation(70, () => Effect.never))
      yield* adjust("1 second")
      books.fault = (operation) => (operation === "renew" ? "away" : undefined)
      yield* adjust("2 minutes")
      assert.deepStrictEqual((yield* one.snapshot).available, 30)
      assert.deepStrictEqual(booksOf(books), { available: 30, held: 0, spent: 70 })
    })
  )

  it.effect("settles late all the same: charged once, and marked", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const one = yield* processOver(books)
      const other = yield* processOver(books)
      const paused = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(
        one.withReservation(70, (reservation) =>
          Effect.gen(function* () {
            yield* reservation.progress(10)
            yield* Deferred.await(paused)
            const extension = yield* Effect.exit(reservation.extend(5))
            assert.isTrue(Exit.isFailure(extension))
            const first = yield* reservation.commit(50)
            assert.deepStrictEqual(yield* reservation.commit(60), first)
            return first
          })
        )
      )
      yield* adjust("21 seconds")
      books.fault = (operation) => (operation === "renew" ? "away" : undefined)
      yield* adjust("2 minutes")
      assert.strictEqual(yield* other.available, 90)
      yield* Deferred.succeed(paused, undefined)
      const settlement = yield* Fiber.join(fiber)
      assert.deepStrictEqual([settlement.late, settlement.charged], [true, 50])
      assert.deepStrictEqual(booksOf(books), { available: 50, held: 0, spent: 50 })
      assert.strictEqual((yield* other.snapshot).charged, 50)
    })
  )

  it.effect("is not charged less for a settlement that comes late with less", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const one = yield* processOver(books, { onExpiry: "hold" })
      const paused = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(
        one.withReservation(70, (reservation) => Effect.andThen(Deferred.await(paused), reservation.commit(50)))
      )
      yield* adjust("1 second")
      books.fault = (operation) => (operation === "renew" ? "away" : undefined)
      yield* adjust("2 minutes")
      assert.strictEqual(yield* one.available, 30)
      yield* Deferred.succeed(paused, undefined)
      assert.strictEqual((yield* Fiber.join(fiber)).charged, 70)
      assert.deepStrictEqual(booksOf(books), { available: 30, held: 0, spent: 70 })
      assert.strictEqual((yield* one.snapshot).charged, 70)
    })
  )

  it.effect("of a guard is charged, and the guard goes on with a new one", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const context = yield* Layer.build(
        Rows.layerStore({ name: "tokens", limit: Limit.capacity(100) }).pipe(
          Layer.provide(Layer.effect(BudgetStore.BudgetStore, sharedStore(books, {})))
        )
      )
      const rows = Context.get(context, Rows)
      assert.isTrue(yield* rows.tryReserve(30))
      books.fault = (operation) => (operation === "renew" ? "away" : undefined)
      yield* adjust("2 minutes")
      books.fault = undefined
      assert.strictEqual(yield* rows.available, 70)
      yield* adjust("1 minute")
      assert.isTrue(yield* rows.tryReserve(20))
      // What was charged meanwhile does not come back, and releasing it is no mistake.
      yield* rows.release(35)
      assert.strictEqual(yield* rows.available, 70)
      assert.isTrue(Exit.isFailure(yield* Effect.exit(rows.release(16))))
    })
  )
})

describe("a store that is away", () => {
  it.effect(
    "fail: reservations fail with a typed reason, tryReserve says no, settlements are kept and sent in order",
    () =>
      Effect.gen(function* () {
        const books = yield* ReferenceBooks.make()
        const tokens = yield* processOver(books)
        const settled: Array<number> = []
        const { settle } = books
        books.settle = (request) =>
          Effect.tap(settle(request), () =>
            Effect.sync(() => settled.push(...request.charges!.filter((amount) => amount > 0)))
          )
        const scope = yield* Scope.make()
        const first = yield* Scope.provide(tokens.reserve(10), scope)
        const second = yield* Scope.provide(tokens.reserve(10), scope)
        books.fault = () => "away"
        const error = yield* Effect.flip(Effect.scoped(tokens.reserve(5)))
        assert.strictEqual(error._tag === "FailedReservation" && error.reason._tag, "StoreUnavailable")
        assert.isTrue(Option.isNone(yield* Effect.scoped(tokens.tryReserve(5))))
        const settlement = yield* first.commit(8)
        assert.deepStrictEqual([settlement.cause, settlement.charged, settlement.refunded], ["committed", 8, 2])
        yield* second.commit(15)
        yield* Scope.close(scope, Exit.void)
        books.fault = undefined
        yield* adjust("5 seconds")
        assert.deepStrictEqual(settled, [8, 15])
        assert.deepStrictEqual(booksOf(books), { available: 77, held: 0, spent: 23 })
        yield* Effect.scoped(tokens.reserve(5))
      })
  )

  it.effect("is not asked while it is known to be away, and nothing piles up", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books, { pollInterval: "1 second" })
      books.fault = () => "away"
      yield* Effect.exit(Effect.scoped(tokens.reserve(5)))
      yield* adjust("10 seconds")
      const asked = books.calls.hold
      for (let i = 0; i < 1_000; i++) yield* Effect.exit(Effect.scoped(tokens.reserve(5)))
      assert.strictEqual(books.calls.hold, asked)
      const settles = books.calls.settle
      yield* adjust("10 seconds")
      assert.isAtMost(books.calls.settle - settles, 11)
      books.fault = undefined
      yield* adjust("2 seconds")
      yield* Effect.scoped(tokens.reserve(100))
    })
  )

  it.effect("deny: as if the limits said no", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books, { onUnavailable: "deny" })
      const patient = yield* processOver(
        books,
        { onUnavailable: "deny" },
        { limit: Limit.capacity(100), enforcement: "throttle" }
      )
      books.fault = () => "away"
      const error = yield* Effect.flip(Effect.scoped(tokens.reserve(5)))
      assert.deepStrictEqual([error._tag, error._tag === "BudgetExceeded" && error.available], ["BudgetExceeded", 0])
      const waiting = yield* Effect.forkChild(Effect.scoped(patient.reserve(5)))
      yield* adjust("10 seconds")
      assert.isUndefined(waiting.pollUnsafe())
      books.fault = undefined
      yield* adjust("5 seconds")
      yield* Fiber.join(waiting)
    })
  )

  it.effect("allow-within: goes on up to the allowance, which is charged when the store is back", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books, { onUnavailable: { allowWithin: 30 } })
      yield* tokens.withReservation(95, () => Effect.void)
      books.fault = () => "away"
      yield* tokens.withReservation(20, (reservation) => reservation.commit(12))
      // What was granted counts until it is reported, whatever it was settled with.
      const error = yield* Effect.flip(Effect.scoped(tokens.reserve(11)))
      assert.strictEqual(error._tag, "FailedReservation")
      assert.isTrue(Option.isSome(yield* Effect.scoped(tokens.tryReserve(10))))
      books.fault = undefined
      yield* adjust("5 seconds")
      assert.deepStrictEqual(booksOf(books), { available: -17, held: 0, spent: 117 })
      assert.strictEqual((yield* Effect.flip(Effect.scoped(tokens.reserve(1))))._tag, "BudgetExceeded")
      books.fault = () => "away"
      yield* Effect.exit(Effect.scoped(tokens.reserve(30)))
      books.fault = undefined
    })
  )

  it.effect("does not keep a program from starting", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      books.fault = () => "away"
      const tokens = yield* processOver(books)
      assert.strictEqual((yield* Effect.flip(Effect.scoped(tokens.reserve(5))))._tag, "FailedReservation")
      books.fault = undefined
      yield* adjust("2 seconds")
      yield* tokens.withReservation(5, () => Effect.void)
      assert.deepStrictEqual(booksOf(books), { available: 95, held: 0, spent: 5 })
    })
  )

  it.effect("loses nothing when it hangs: a step that takes too long counts as lost", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const hanging = { ...books, hold: () => Effect.never }
      const tokens = yield* processOver(hanging, { requestTimeout: "2 seconds" })
      const fiber = yield* Effect.forkChild(Effect.flip(Effect.scoped(tokens.reserve(5))))
      yield* adjust("2 seconds")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "FailedReservation")
    })
  )
})

describe("a lost answer", () => {
  const lostOnce = (operation: ReferenceBooks.Operation) => {
    let lost = false
    return (asked: ReferenceBooks.Operation) => {
      if (asked !== operation || lost) return undefined
      lost = true
      return "answerLost" as const
    }
  }

  it.effect("of a hold: what was taken comes back", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      books.fault = lostOnce("hold")
      assert.strictEqual((yield* Effect.flip(Effect.scoped(tokens.reserve(60))))._tag, "FailedReservation")
      yield* adjust("1 second")
      assert.deepStrictEqual(booksOf(books), { available: 100, held: 0, spent: 0 })
    })
  )

  it.effect("of a settlement: it is sent again, and charged once", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      books.fault = lostOnce("settle")
      yield* tokens.withReservation(60, (reservation) => reservation.commit(40))
      yield* adjust("1 second")
      assert.deepStrictEqual(booksOf(books), { available: 60, held: 0, spent: 40 })
      assert.strictEqual(books.calls.settle, 2)
    })
  )

  it.effect("of an extension: what was added comes back, and the reservation goes on", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      yield* tokens.withReservation(10, (reservation) =>
        Effect.gen(function* () {
          books.fault = lostOnce("hold")
          assert.strictEqual((yield* Effect.flip(reservation.extend(30)))._tag, "FailedReservation")
          yield* adjust("1 second")
          assert.strictEqual(booksOf(books).held, 10)
          yield* reservation.extend(5)
          assert.strictEqual(booksOf(books).held, 15)
        })
      )
      assert.deepStrictEqual(booksOf(books), { available: 85, held: 0, spent: 15 })
    })
  )

  it.effect("of a guard's release: it is given back once", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const context = yield* Layer.build(
        Rows.layerStore({ name: "tokens", limit: Limit.capacity(100) }).pipe(
          Layer.provide(Layer.effect(BudgetStore.BudgetStore, sharedStore(books, {})))
        )
      )
      const rows = Context.get(context, Rows)
      yield* rows.tryReserve(50)
      books.fault = lostOnce("reduce")
      yield* rows.release(20)
      yield* rows.release(10)
      yield* adjust("1 second")
      assert.strictEqual(booksOf(books).held, 20)
    })
  )

  it.effect("of a pool's record: it is charged once", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const pool = yield* BudgetPool.make({ name: "pool", caps: { total: 100 } }).pipe(
        Effect.provide(Layer.effect(BudgetStore.BudgetStore, sharedStore(books, {})))
      )
      books.fault = lostOnce("charge")
      yield* pool.record({ input: 10, output: 10, cost: Usd.nanos(0) })
      yield* adjust("1 second")
      assert.strictEqual((yield* pool.totals).total, 20)
    })
  )
})

describe("waiting for shared books", () => {
  const throttled: Budget.Options = { limit: Limit.concurrency(1), enforcement: "throttle" }

  it.effect("one asks for a process and budget, however many wait", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make({ silent: true })
      const holder = yield* processOver(books, {}, throttled)
      const tokens = yield* processOver(books, { pollInterval: "1 second" }, throttled)
      const scope = yield* Scope.make()
      yield* Scope.provide(holder.reserve(1), scope)
      const waiters = yield* Effect.forEach(Array.from({ length: 100 }), () =>
        Effect.forkChild(tokens.withReservation(1, () => Effect.void))
      )
      yield* adjust("1 millis")
      const asked = books.calls.hold
      yield* adjust("10 seconds")
      assert.isAtMost(books.calls.hold - asked, 11)
      yield* Scope.close(scope, Exit.void)
      // Nothing tells this process but its own polls and settlements.
      yield* adjust("1 second")
      yield* Effect.forEach(waiters, Fiber.join)
      assert.deepStrictEqual(booksOf(books), { available: 1, held: 0, spent: 0 })
    })
  )

  it.effect("who leaves the queue lets the next one ask at once", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make({ silent: true })
      const tokens = yield* processOver(
        books,
        { pollInterval: "1 hour" },
        { limit: Limit.concurrency(10), enforcement: "throttle" }
      )
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* tokens.reserve(5)
          const first = yield* Effect.forkChild(Effect.flip(Effect.scoped(tokens.reserve(10, { timeout: "1 minute" }))))
          yield* adjust("1 second")
          const second = yield* Effect.forkChild(tokens.withReservation(5, () => Effect.void))
          yield* adjust("1 minute")
          assert.isDefined(first.pollUnsafe())
          assert.isDefined(second.pollUnsafe())
        })
      )
    })
  )

  it.effect("a notification wakes the first at once", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const holder = yield* processOver(books, {}, throttled)
      const tokens = yield* processOver(books, { pollInterval: "1 hour" }, throttled)
      const scope = yield* Scope.make()
      yield* Scope.provide(holder.reserve(1), scope)
      const waiting = yield* Effect.forkChild(tokens.withReservation(1, () => Effect.void))
      yield* adjust("1 minute")
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(waiting)
    })
  )

  it.effect("asks when time has freed enough, by the hint of the books", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make({ silent: true })
      const tokens = yield* processOver(
        books,
        { pollInterval: "1 minute" },
        { limit: Limit.rate({ amount: 10, per: "10 seconds" }), enforcement: "throttle" }
      )
      yield* tokens.withReservation(10, () => Effect.void)
      const waiting = yield* Effect.forkChild(tokens.withReservation(3, () => Clock.currentTimeMillis))
      yield* adjust("3 seconds")
      assert.strictEqual(yield* Fiber.join(waiting), 3_000)
      assert.strictEqual(books.calls.hold, 3)
    })
  )
})

describe("opening", () => {
  it.effect("keeps the books; a limit that is declared anew changes them, one that was set stays", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const first = yield* processOver(books)
      yield* first.withReservation(30, () => Effect.void)
      yield* first.setLimit(Limit.capacity(200))
      const second = yield* processOver(books)
      assert.strictEqual(yield* second.available, 170)
      const third = yield* processOver(books, {}, { limit: Limit.capacity(50) })
      assert.strictEqual(yield* third.available, 20)
    })
  )

  it.effect("books that were lost are made anew, and what was spent is charged to them", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      yield* tokens.withReservation(30, (reservation) =>
        Effect.gen(function* () {
          books.lose()
          yield* Effect.scoped(tokens.reserve(10))
          yield* reservation.commit(25)
        })
      )
      assert.deepStrictEqual(booksOf(books), { available: 65, held: 0, spent: 35 })
      books.lose()
      assert.strictEqual(yield* tokens.available, 100)
    })
  )
})

describe("a journal", () => {
  it.effect("sends what a process could not, once, in order", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* fs.makeTempDirectoryScoped()
      const books = yield* ReferenceBooks.make()
      const dead = yield* Scope.make()
      const journaled = Effect.gen(function* () {
        const journal = yield* journalIn(directory)
        const store = yield* sharedStore(books, {}, journal)
        return yield* Budget.make({ name: "tokens", limit: Limit.capacity(100) }).pipe(
          Effect.provideService(BudgetStore.BudgetStore, store)
        )
      })
      const tokens = yield* Scope.provide(journaled, dead)
      const reservation = yield* Scope.provide(tokens.reserve(40), dead)
      const other = yield* Scope.provide(tokens.reserve(10), dead)
      books.fault = () => "away"
      yield* reservation.commit(30)
      yield* other.commit(10)
      yield* Scope.close(dead, Exit.void)
      assert.strictEqual((yield* fs.readDirectory(directory)).length, 2)
      yield* fs.writeFileString(`${directory}/torn`, "{")
      books.fault = undefined
      const again = yield* journaled
      yield* adjust("1 second")
      assert.strictEqual(yield* again.available, 60)
      yield* again.withReservation(5, () => Effect.void)
      const left = yield* Effect.repeat(fs.readDirectory(directory), { until: (names) => names.length <= 1 })
      assert.deepStrictEqual(left, ["torn"])
    }).pipe(Effect.provide(NodeServices.layer))
  )
})

describe("interruption at every point", () => {
  const cases: ReadonlyArray<readonly [string, (tokens: Budget.Budget) => Effect.Effect<unknown, unknown>]> = [
    ["withReservation", (tokens) => tokens.withReservation(10, () => Effect.yieldNow)],
    [
      "commit",
      (tokens) => tokens.withReservation(10, (reservation) => Effect.andThen(reservation.commit(4), Effect.yieldNow))
    ],
    ["reserve", (tokens) => Effect.scoped(Effect.andThen(tokens.reserve(10), Effect.yieldNow))],
    ["tryReserve", (tokens) => Effect.scoped(Effect.andThen(tokens.tryReserve(10), Effect.yieldNow))],
    ["extend", (tokens) => tokens.withReservation(10, (reservation) => reservation.extend(5))],
    [
      "a wait",
      (tokens) =>
        tokens.withReservation(60, () =>
          Effect.andThen(Effect.forkChild(tokens.withReservation(60, () => Effect.void)), (fiber) =>
            Effect.andThen(Effect.yieldNow, Fiber.interrupt(fiber))
          )
        )
    ]
  ]
  for (const [name, program] of cases) {
    it.effect(`${name} leaves no hold`, () =>
      Effect.gen(function* () {
        const { interrupted, problems, runs } = yield* sweep(
          Effect.gen(function* () {
            const books = yield* ReferenceBooks.make()
            const scope = yield* Scope.make()
            const tokens = yield* Scope.provide(
              processOver(books, {}, { limit: Limit.capacity(100), enforcement: "throttle" }),
              scope
            )
            return {
              program: program(tokens),
              problem: Effect.gen(function* () {
                for (let i = 0; i < 30; i++) yield* Effect.yieldNow
                const { held, spent } = booksOf(books)
                yield* Scope.close(scope, Exit.void)
                return held === 0 && spent <= 60 ? undefined : `held ${held}, spent ${spent}`
              })
            }
          }),
          { mostOperations: 20 }
        )
        assert.deepStrictEqual(problems, [])
        assert.isAbove(interrupted, 20)
        assert.isAbove(runs, interrupted)
      })
    )
  }
})
