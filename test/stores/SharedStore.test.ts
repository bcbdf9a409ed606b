import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  FileSystem,
  Layer,
  Option,
  Scope
} from "effect"
import { Budget, BudgetError, BudgetGuard, BudgetPool, BudgetStore, Limit, Usd } from "../../src/index.ts"
import { journalIn } from "../../src/internal/shared/journal.ts"
import { keepOutcomesOf, settingsOf, type SharedOptions } from "../../src/internal/shared/options.ts"
import { settlements } from "../../src/internal/shared/settling.ts"
import { sharedStore } from "../../src/internal/shared/store.ts"
import { sweep } from "../utils/sweep.ts"
import { conformance } from "./conformance.ts"
import * as ReferenceBooks from "./referenceBooks.ts"
import { adjust, booksOf, turns } from "./referenceBooks.ts"

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

class Tokens extends Budget.Service<Tokens>()("shared/Tokens") {}
class Rows extends BudgetGuard.Service<Rows>()("shared/Rows") {}

/** A guard of 100 over these books. */
const guardOver = (books: ReferenceBooks.ReferenceBooks) =>
  Effect.map(
    Layer.build(
      Rows.layerStore({ name: "tokens", limit: Limit.capacity(100) }).pipe(
        Layer.provide(Layer.effect(BudgetStore.BudgetStore, sharedStore(books, {})))
      )
    ),
    Context.get(Rows)
  )

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

  it.effect("stays when a renewal hangs: there is time for another", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const { renew } = books
      let hangs = true
      books.renew = (holds, expiresAfter) =>
        Effect.suspend(() => {
          if (!hangs) return renew(holds, expiresAfter)
          hangs = false
          return Effect.never
        })
      const tokens = yield* processOver(books, { expiresAfter: "6 seconds", requestTimeout: "5 seconds" })
      yield* tokens.reserve(40)
      // In steps: whoever comes sweeps what has expired.
      for (let i = 0; i < 20; i++) yield* adjust("1 second")
      assert.strictEqual((yield* tokens.snapshot).settled.expired.count, 0)
      assert.strictEqual(booksOf(books).held, 40)
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
      const rows = yield* guardOver(books)
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

  it.effect("of a guard that several fibers use is replaced once, and none of them is denied", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const rows = yield* guardOver(books)
      assert.isTrue(yield* rows.tryReserve(30))
      books.fault = (operation) => (operation === "renew" ? "away" : undefined)
      yield* adjust("2 minutes")
      books.fault = undefined
      const taken = yield* Effect.all([rows.tryReserve(5), rows.tryReserve(6), rows.tryReserve(7)], {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(taken, [true, true, true])
      assert.deepStrictEqual(booksOf(books), { available: 52, held: 18, spent: 30 })
      yield* rows.release(48)
      assert.deepStrictEqual(booksOf(books), { available: 70, held: 0, spent: 30 })
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
      const tokens = yield* processOver(books, { pollInterval: "1 second" }, { limit: Limit.capacity(500) })
      const open = yield* Effect.forEach(Array.from({ length: 200 }), () => tokens.reserve(2))
      books.fault = () => "away"
      yield* Effect.exit(Effect.scoped(tokens.reserve(5)))
      yield* adjust("10 seconds")
      const asked = books.calls.hold
      for (let i = 0; i < 1_000; i++) yield* Effect.exit(Effect.scoped(tokens.reserve(5)))
      assert.strictEqual(books.calls.hold, asked)
      yield* Effect.forEach(open, (reservation) => reservation.commit(1))
      const settles = books.calls.settle
      // One asks for all whether it is back.
      yield* adjust("10 seconds")
      assert.isAtMost(books.calls.settle - settles, 11)
      books.fault = undefined
      yield* adjust("2 seconds")
      // What is told then is what was committed, and that the one reservation that was asked for is not wanted.
      assert.isAtMost(books.calls.settle - settles, 11 + 201)
      assert.deepStrictEqual(booksOf(books), { available: 300, held: 0, spent: 200 })
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
      // What was spent counts until it is reported; what was given back does not, however often.
      for (let i = 0; i < 10; i++) yield* tokens.withReservation(18, (reservation) => reservation.release)
      const error = yield* Effect.flip(Effect.scoped(tokens.reserve(19)))
      assert.strictEqual(error._tag, "FailedReservation")
      const late = yield* tokens.withReservation(8, (reservation) =>
        Effect.gen(function* () {
          assert.strictEqual((yield* Effect.flip(reservation.extend(11)))._tag, "FailedReservation")
          yield* reservation.extend(10)
          assert.isTrue(Option.isNone(yield* Effect.scoped(tokens.tryReserve(1))))
          return yield* reservation.commit(10)
        })
      )
      assert.deepStrictEqual([late.held, late.charged, late.refunded], [18, 10, 8])
      const settles = books.calls.settle
      books.fault = undefined
      yield* adjust("5 seconds")
      // Only what was spent is told.
      assert.isAtMost(books.calls.settle - settles, 3)
      assert.deepStrictEqual(booksOf(books), { available: -17, held: 0, spent: 117 })
      assert.strictEqual((yield* Effect.flip(Effect.scoped(tokens.reserve(1))))._tag, "BudgetExceeded")
      books.fault = () => "away"
      yield* Effect.exit(Effect.scoped(tokens.reserve(30)))
      books.fault = undefined
    })
  )

  it.effect("allow-within: is one allowance for a budget, however often it is opened", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const context = yield* Layer.build(
        Layer.effect(BudgetStore.BudgetStore, sharedStore(books, { onUnavailable: { allowWithin: 30 } }))
      )
      const make = Effect.provide(Budget.make({ name: "tokens", limit: Limit.capacity(100) }), context)
      const [one, other] = [yield* make, yield* make]
      books.fault = () => "away"
      yield* one.withReservation(20, () => Effect.void)
      assert.isTrue(Option.isNone(yield* Effect.scoped(other.tryReserve(11))))
      yield* other.withReservation(10, () => Effect.void)
      books.fault = undefined
      yield* adjust("5 seconds")
      assert.strictEqual(yield* other.available, 70)
    })
  )

  it.effect("allow-within: slots are out for as long as they are used", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const slots = yield* processOver(books, { onUnavailable: { allowWithin: 2 } }, { limit: Limit.concurrency(5) })
      books.fault = () => "away"
      for (let i = 0; i < 10; i++) yield* slots.withReservation(2, () => Effect.void)
      yield* slots.withReservation(2, () =>
        Effect.gen(function* () {
          assert.isTrue(Option.isNone(yield* Effect.scoped(slots.tryReserve(1))))
        })
      )
      books.fault = undefined
      yield* adjust("5 seconds")
      assert.deepStrictEqual(booksOf(books), { available: 5, held: 0, spent: 0 })
    })
  )

  it.effect("allow-within: a reservation begun without the store goes on with it, and the other way round", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books, { onUnavailable: { allowWithin: 30 } })
      yield* tokens.withReservation(10, (before) =>
        Effect.gen(function* () {
          books.fault = () => "away"
          yield* before.extend(20)
          yield* tokens.withReservation(5, (meanwhile) =>
            Effect.gen(function* () {
              books.fault = undefined
              yield* adjust("5 seconds")
              assert.strictEqual(booksOf(books).held, 10)
              yield* meanwhile.extend(40)
              yield* before.extend(1)
              assert.strictEqual(booksOf(books).held, 51)
              // Held in the books from here on, and renewed.
              yield* adjust("10 minutes")
              assert.strictEqual(booksOf(books).held, 51)
              assert.deepStrictEqual([before.amount, meanwhile.amount], [31, 45])
              const settlement = yield* meanwhile.commit(45)
              assert.deepStrictEqual([settlement.charged, settlement.refunded, settlement.overage], [45, 0, 0])
            })
          )
          yield* before.commit(11)
        })
      )
      assert.deepStrictEqual(booksOf(books), { available: 44, held: 0, spent: 56 })
      // All of the allowance is there again.
      books.fault = () => "away"
      yield* Effect.scoped(tokens.reserve(30))
    })
  )

  for (const [when, first] of [
    ["before", undefined],
    ["meanwhile", () => "away" as const]
  ] as const) {
    it.effect(`allow-within: a guard opened ${when} goes on too, and then with the store again`, () =>
      Effect.gen(function* () {
        const books = yield* ReferenceBooks.make()
        books.fault = first
        const context = yield* Layer.build(
          Rows.layerStore({ name: "tokens", limit: Limit.capacity(100) }).pipe(
            Layer.provide(
              Layer.effect(BudgetStore.BudgetStore, sharedStore(books, { onUnavailable: { allowWithin: 30 } }))
            )
          )
        )
        const rows = Context.get(context, Rows)
        books.fault = () => "away"
        assert.isTrue(yield* rows.tryReserve(20))
        assert.isFalse(yield* rows.tryReserve(11))
        yield* rows.release(5)
        assert.isTrue(yield* rows.tryReserve(15))
        books.fault = undefined
        yield* adjust("5 seconds")
        assert.isTrue(yield* rows.tryReserve(60))
        assert.strictEqual(booksOf(books).held, 60)
        // What the store does not know of comes back first.
        yield* rows.release(40)
        assert.strictEqual(booksOf(books).held, 50)
        yield* rows.release(50)
        assert.strictEqual(booksOf(books).held, 0)
        assert.isTrue(Exit.isFailure(yield* Effect.exit(rows.release(1))))
      })
    )
  }

  it.effect("is found out to be back, whatever was asked of it last", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      yield* tokens.withReservation(10, (reservation) =>
        Effect.gen(function* () {
          books.fault = () => "away"
          for (let i = 0; i < 3; i++) {
            yield* Effect.exit(reservation.extend(5))
            yield* adjust("5 seconds")
          }
          books.fault = undefined
          yield* adjust("5 seconds")
          assert.strictEqual(booksOf(books).held, 10)
          yield* Effect.scoped(tokens.reserve(90))
        })
      )
    })
  )

  it.effect("is told of what a guard gave back, in one step", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const context = yield* Layer.build(
        Rows.layerStore({ name: "tokens", limit: Limit.capacity(1_000) }).pipe(
          Layer.provide(Layer.effect(BudgetStore.BudgetStore, sharedStore(books, {})))
        )
      )
      const rows = Context.get(context, Rows)
      yield* rows.tryReserve(1_000)
      books.fault = () => "away"
      yield* rows.release(1)
      yield* adjust("1 second")
      const reductions = books.calls.reduce
      for (let i = 0; i < 500; i++) yield* rows.release(1)
      assert.strictEqual(books.calls.reduce, reductions)
      books.fault = undefined
      yield* adjust("5 seconds")
      assert.isAtMost(books.calls.reduce - reductions, 3)
      assert.strictEqual(booksOf(books).held, 499)
    })
  )

  it.effect("is not kept away by what it cannot do", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const context = yield* Layer.build(Layer.effect(BudgetStore.BudgetStore, sharedStore(books, {})))
      const make = (name: string) => Effect.provide(Budget.make({ name, limit: Limit.capacity(100) }), context)
      const tokens = yield* make("tokens")
      const scope = yield* Scope.make()
      const gone = yield* Scope.provide(make("gone"), scope)
      const first = yield* gone.reserve(40)
      const second = yield* tokens.reserve(30)
      const { settle } = books
      let broken = true
      books.settle = (request) =>
        Effect.suspend(() =>
          broken && request.entries.some(({ amount }) => amount === 30) ? Effect.die("broken") : settle(request)
        )
      books.fault = () => "away"
      yield* first.commit(35)
      yield* second.commit(25)
      // When the store is back, it has lost its books, nobody makes those of one budget, and fails at a settlement of another.
      yield* Scope.close(scope, Exit.void)
      books.lose()
      books.fault = undefined
      yield* adjust("5 seconds")
      yield* tokens.withReservation(10, () => Effect.void)
      assert.strictEqual(yield* tokens.available, 90)
      broken = false
      yield* adjust("1 minute")
      assert.strictEqual(yield* tokens.available, 65)
      // What was spent of the other is charged once it has books again.
      const again = yield* make("gone")
      yield* adjust("1 millis")
      assert.strictEqual(yield* again.available, 65)
    })
  )

  it.effect("does not keep a program from starting", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      books.fault = () => "away"
      const tokens = yield* processOver(books)
      assert.strictEqual((yield* Effect.flip(Effect.scoped(tokens.reserve(5))))._tag, "FailedReservation")
      yield* adjust("1 second")
      const asked = books.calls.update
      for (let i = 0; i < 100; i++) yield* Effect.exit(Effect.scoped(tokens.reserve(5)))
      assert.strictEqual(books.calls.update, asked)
      books.fault = undefined
      yield* adjust("2 seconds")
      assert.strictEqual(booksOf(books).available, 100)
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

it.effect("what is tried again is kept once, however often it is asked for", () =>
  Effect.gen(function* () {
    const books = yield* ReferenceBooks.make()
    const { retry } = yield* settlements(
      books,
      settingsOf({}),
      undefined,
      () => Effect.void,
      () => {}
    )
    let [runs, answers] = [0, false]
    const key = {}
    const work = Effect.suspend(() => {
      runs++
      return answers ? Effect.void : Effect.fail(new BudgetError.StoreUnavailable({ message: "away" }))
    })
    for (let i = 0; i < 100; i++) {
      retry(key, work)
      yield* adjust("100 millis")
    }
    yield* adjust("10 seconds")
    const before = runs
    answers = true
    yield* adjust("1 second")
    assert.isAtMost(runs - before, 2)
    // Once it is done, it can be asked for again.
    const done = runs
    retry(key, work)
    yield* adjust("1 second")
    assert.strictEqual(runs, done + 1)
  })
)

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
      // Settling again answered the first settlement, and is no other.
      assert.deepStrictEqual(
        [...books.records.holds.values()].map(({ outcome }) => outcome),
        [{ cause: "committed", charges: [40], overran: [], late: false }]
      )
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
      const rows = yield* guardOver(books)
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

  it.effect("what comes back while somebody is told no is not waited for", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const holder = yield* processOver(books, {}, throttled)
      const slow = yield* Deferred.make<void>()
      const late = {
        ...books,
        hold: (request: Parameters<typeof books.hold>[0]) => Effect.tap(books.hold(request), () => Deferred.await(slow))
      }
      const tokens = yield* processOver(late, { pollInterval: "1 hour", requestTimeout: "1 minute" }, throttled)
      const scope = yield* Scope.make()
      yield* Scope.provide(holder.reserve(1), scope)
      const waiting = yield* Effect.forkChild(tokens.withReservation(1, () => Effect.void))
      yield* adjust("1 millis")
      yield* Scope.close(scope, Exit.void)
      yield* turns
      yield* Deferred.succeed(slow, undefined)
      yield* Fiber.join(waiting)
    })
  )

  it.effect("is refused inside of a transaction, which may run more than once", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      const exit = yield* Effect.exit(Effect.scoped(Effect.tx(tokens.reserve(10))))
      assert.match(`${Exit.isFailure(exit) ? Cause.squash(exit.cause) : ""}`, /"tokens".*inside Effect\.tx/)
      assert.strictEqual(books.calls.hold, 0)
    })
  )

  it.effect("no transaction can join the books", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      const exit = yield* Effect.exit(Effect.scoped(tokens.reserveTx(10, Effect.void)))
      assert.match(`${Exit.isFailure(exit) ? Cause.squash(exit.cause) : ""}`, /"tokens": reserveTx needs books in this/)
    })
  )

  it.effect("what named quotas ask of a store is refused, and changes nothing", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const store = yield* sharedStore(books, {})
      const definition: BudgetStore.Definition = {
        name: "tokens",
        limits: [Limit.capacity(10)],
        enforcement: "throttle",
        order: "fifo",
        maxQueued: undefined,
        timeout: undefined
      }
      const account = yield* store.open(definition)
      const reason = new BudgetError.UnknownResource({ resource: "tokens" })
      const requests: ReadonlyArray<Effect.Effect<unknown, never, Scope.Scope>> = [
        store.open({ ...definition, discipline: () => assert.fail() }),
        store.adjust([
          [account, { _tag: "TopUp", amount: 1 }],
          [account, { _tag: "Close", reason }]
        ])
      ]
      for (const refused of requests) {
        const exit = yield* Effect.exit(refused)
        assert.match(
          `${Exit.isFailure(exit) ? Cause.squash(exit.cause) : ""}`,
          /Named quotas need books in this process/
        )
      }
      assert.strictEqual(booksOf(books).available, 10)
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

it.effect("a wrong option is a programming error that names it and the value", () =>
  Effect.gen(function* () {
    const books = yield* ReferenceBooks.make()
    const wrong: ReadonlyArray<readonly [SharedOptions, RegExp]> = [
      [{ expiresAfter: "999 millis" }, /expiresAfter .* from 1000, not 999/],
      [{ expiresAfter: Duration.infinity }, /expiresAfter .* not Infinity/],
      [{ requestTimeout: 0 }, /requestTimeout .* from 1, not 0/],
      [{ pollInterval: 0.5 }, /pollInterval .* not 0.5/],
      [{ pollInterval: "soon" as Duration.Input }, /pollInterval .* not "soon"/],
      [{ onUnavailable: { allowWithin: -1 } }, /allowWithin .* not -1/]
    ]
    for (const [options, message] of wrong) {
      const exit = yield* Effect.exit(Effect.scoped(sharedStore(books, options)))
      const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert.instanceOf(error, RangeError)
      assert.match(error.message, message)
    }
    assert.throws(() => keepOutcomesOf({ keepOutcomes: 1 }), /keepOutcomes .* from 1000, not 1/)
  })
)

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

  it.effect("what a guard had out of books that were lost is charged to the new ones", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const rows = yield* guardOver(books)
      yield* rows.tryReserve(30)
      books.lose()
      assert.isTrue(yield* rows.tryReserve(20))
      yield* rows.release(15)
      assert.deepStrictEqual(booksOf(books), { available: 65, held: 5, spent: 30 })
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
  it.effect("of a guard's tryReserve leaves nothing that release cannot give back", () =>
    Effect.gen(function* () {
      const { interrupted, problems } = yield* sweep(
        Effect.gen(function* () {
          const books = yield* ReferenceBooks.make()
          const scope = yield* Scope.make()
          const context = yield* Scope.provide(
            Layer.build(Layer.effect(BudgetStore.BudgetStore, sharedStore(books, {}))),
            scope
          )
          const rows = yield* BudgetGuard.make({ name: "tokens", limit: Limit.capacity(100) }).pipe(
            Effect.provide(context),
            Scope.provide(scope)
          )
          return {
            program: Effect.andThen(rows.tryReserve(10), Effect.yieldNow),
            problem: Effect.gen(function* () {
              for (let i = 0; i < 30; i++) yield* Effect.yieldNow
              const { held } = booksOf(books)
              const exit = yield* Effect.exit(rows.release(held))
              const left = booksOf(books).held
              yield* Scope.close(scope, Exit.void)
              return Exit.isSuccess(exit) && left === 0 ? undefined : `held ${held}, left ${left}`
            })
          }
        }),
        { mostOperations: 20 }
      )
      assert.deepStrictEqual(problems, [])
      assert.isAbove(interrupted, 20)
    })
  )

  const cases: ReadonlyArray<readonly [string, (tokens: Budget.Budget) => Effect.Effect<unknown, unknown>]> = [
    ["withReservation", (tokens) => tokens.withReservation(10, () => Effect.yieldNow)],
    [
      "commit",
      (tokens) => tokens.withReservation(10, (reservation) => Effect.andThen(reservation.commit(4), Effect.yieldNow))
    ],
    ["reserve", (tokens) => Effect.scoped(Effect.andThen(tokens.reserve(10), Effect.yieldNow))],
    ["tryReserve", (tokens) => Effect.scoped(Effect.andThen(tokens.tryReserve(10), Effect.yieldNow))],
    ["extend", (tokens) => tokens.withReservation(10, (reservation) => reservation.extend(5))],
    ["the end of a scope", (tokens) => Effect.scoped(tokens.reserveUpTo(10, 20))],
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
