import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Duration, Effect, Exit, Fiber, Layer, Option, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Budget, BudgetGuard, BudgetStore, Limit, Policy } from "../../src/index.ts"
import { LeasedAccount, LeasedHold, Share } from "../../src/internal/leased/account.ts"
import { lack, take } from "../../src/internal/leased/shares.ts"
import { leasedStore } from "../../src/internal/leased/store.ts"
import { sharedStore } from "../../src/internal/shared/store.ts"
import { forSeedsEffect, make as makeRandom } from "../utils/random.ts"
import { sweep } from "../utils/sweep.ts"
import * as ReferenceBooks from "./referenceBooks.ts"
import { adjust, booksOf, turns } from "./referenceBooks.ts"

class Tokens extends Budget.Service<Tokens>()("leases/Tokens") {}
class Slots extends Budget.Service<Slots>()("leases/Slots") {}
class Both extends Policy.Service<Both>()("leases/Both", { tokens: Tokens, slots: Slots }) {}
class Rows extends BudgetGuard.Service<Rows>()("leases/Rows") {}

/** A process that leases its shares of these books; several can share them. */
const leased = (books: ReferenceBooks.ReferenceBooks, options: BudgetStore.LeaseOptions = {}) =>
  Layer.effect(
    BudgetStore.BudgetStore,
    Effect.flatMap(sharedStore(books, {}), (store) => leasedStore(store, options))
  )

const processOver = (
  books: ReferenceBooks.ReferenceBooks,
  budget: Budget.Options = { limit: Limit.capacity(1_000) },
  options: BudgetStore.LeaseOptions = {}
) =>
  Effect.map(
    Layer.build(Layer.provide(Tokens.layerStore({ name: "tokens", ...budget }), leased(books, options))),
    (context) => Context.get(context, Tokens)
  )

const guardOver = (books: ReferenceBooks.ReferenceBooks, limit: Limit.Limit, options: BudgetStore.LeaseOptions = {}) =>
  Effect.map(
    Layer.build(Layer.provide(Rows.layerStore({ name: "tokens", limit }), leased(books, options))),
    (context) => Context.get(context, Rows)
  )

const times = (n: number, effect: Effect.Effect<unknown, unknown>) =>
  Effect.forEach(Array.from({ length: n }), () => effect, { discard: true })

describe("a share", () => {
  it.effect("is spent without a question to the store below, and reported at the renewal", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      yield* times(
        100,
        tokens.withReservation(2, (reservation) => reservation.commit(1))
      )
      // Twice as much each time.
      assert.isAtMost(books.calls.hold, 8)
      assert.strictEqual(books.calls.settle, 0)
      assert.strictEqual(yield* tokens.available, 900)
      yield* adjust("5 seconds")
      assert.strictEqual(booksOf(books).spent, 100)
      const asked = books.calls.hold
      yield* times(
        100,
        tokens.withReservation(2, (reservation) => reservation.commit(1))
      )
      assert.strictEqual(books.calls.hold, asked)
    })
  )

  it.effect("goes back when nothing is needed, and with the scope", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const scope = yield* Scope.make()
      const tokens = yield* Scope.provide(processOver(books), scope)
      yield* times(
        10,
        tokens.withReservation(10, () => Effect.void)
      )
      yield* adjust("5 seconds")
      assert.isAbove(booksOf(books).held, 0)
      yield* adjust("5 seconds")
      assert.deepStrictEqual(booksOf(books), { available: 900, held: 0, spent: 100 })
      yield* tokens.withReservation(10, () => Effect.void)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(booksOf(books), { available: 890, held: 0, spent: 110 })
    })
  )

  it.effect("gives back what is free while a reservation is out for long", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      yield* Effect.all(
        Array.from({ length: 20 }, () =>
          tokens.withReservation(10, (reservation) => Effect.andThen(Effect.yieldNow, reservation.commit(0)))
        ),
        { concurrency: "unbounded" }
      )
      assert.isAbove(booksOf(books).held, 10)
      const end = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(
        tokens.withReservation(10, (reservation) => Effect.andThen(Deferred.await(end), reservation.commit(4)))
      )
      yield* adjust("1 minute")
      assert.deepStrictEqual(booksOf(books), { available: 990, held: 10, spent: 0 })
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.join(fiber)
      yield* adjust("1 millis")
      assert.deepStrictEqual(booksOf(books), { available: 996, held: 0, spent: 4 })
    })
  )

  it.effect("that is closed gives back what its reservations give back, while others are out", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      const [short, long] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const until = (end: Deferred.Deferred<void>, amount: number) =>
        Effect.forkChild(
          tokens.withReservation(amount, (reservation) => Effect.andThen(Deferred.await(end), reservation.commit(4)))
        )
      yield* until(long, 10)
      yield* until(short, 50)
      yield* adjust("20 seconds")
      assert.strictEqual(booksOf(books).held, 60)
      const { reduce, settle } = books
      const gate = yield* Deferred.make<void>()
      const shown = Effect.map(tokens.snapshot, ({ ledgers: [{ available, held, spent }] }) => ({
        available,
        held,
        spent
      }))
      // What is on its way back is not held any more, whether it is told now or when it has come.
      books.reduce = (request) => Effect.andThen(Deferred.await(gate), reduce(request))
      yield* Deferred.succeed(short, undefined)
      yield* turns
      assert.strictEqual(booksOf(books).held, 60)
      const first = yield* Effect.forkChild(shown)
      yield* turns
      yield* Deferred.succeed(gate, undefined)
      assert.deepStrictEqual(yield* Fiber.join(first), { available: 986, held: 10, spent: 4 })
      yield* turns
      assert.strictEqual(booksOf(books).held, 14)
      const end = yield* Deferred.make<void>()
      books.settle = (request) => Effect.andThen(Deferred.await(end), settle(request))
      yield* Deferred.succeed(long, undefined)
      yield* turns
      assert.strictEqual(booksOf(books).held, 14)
      const second = yield* Effect.forkChild(shown)
      yield* turns
      yield* Deferred.succeed(end, undefined)
      assert.deepStrictEqual(yield* Fiber.join(second), { available: 992, held: 0, spent: 8 })
      yield* turns
      assert.deepStrictEqual(booksOf(books), { available: 992, held: 0, spent: 8 })
    })
  )

  it.effect("is not what stands in the way of its own process", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books, { limit: Limit.capacity(100) })
      yield* times(
        6,
        tokens.withReservation(10, () => Effect.void)
      )
      // All that is left, whatever part of it is in the share.
      yield* tokens.withReservation(40, () => Effect.void)
      const error = yield* Effect.flip(Effect.scoped(tokens.reserve(1)))
      assert.deepStrictEqual([error._tag, error.requested], ["BudgetExceeded", 1])
    })
  )

  it.effect("is not in the way of what is asked of the store below either", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books, { limit: Limit.capacity(100) })
      yield* times(
        3,
        tokens.withReservation(10, (reservation) => reservation.commit(1))
      )
      assert.strictEqual(yield* Effect.scoped(Effect.map(tokens.reserveUpTo(97, 100), ({ amount }) => amount)), 97)
    })
  )

  it.effect("wakes who waits in its own process at once", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make({ silent: true })
      const slots = yield* processOver(
        books,
        { limit: Limit.concurrency(10), enforcement: "throttle" },
        { renewEvery: "20 seconds", pollInterval: "1 hour" }
      )
      const end = yield* Deferred.make<void>()
      const holder = yield* Effect.forkChild(slots.withReservation(10, () => Deferred.await(end)))
      yield* adjust("1 second")
      const waiting = yield* Effect.forkChild(slots.withReservation(10, () => Effect.void))
      yield* adjust("1 second")
      yield* Deferred.succeed(end, undefined)
      yield* turns
      assert.isDefined(holder.pollUnsafe())
      assert.isDefined(waiting.pollUnsafe())
    })
  )

  it.effect("of somebody else is waited for", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const budget: Budget.Options = { limit: Limit.capacity(100), enforcement: "throttle" }
      const one = yield* processOver(books, budget)
      const other = yield* processOver(books, budget)
      yield* times(
        7,
        one.withReservation(10, (reservation) => reservation.commit(1))
      )
      const waiting = yield* Effect.forkChild(other.withReservation(93, () => Effect.void))
      yield* adjust("11 seconds")
      yield* Fiber.join(waiting)
    })
  )

  it.effect("that is spent beyond is a debt of the books at once", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books, { limit: Limit.capacity(100) })
      const other = yield* processOver(books, { limit: Limit.capacity(100) })
      const settlement = yield* tokens.withReservation(80, (reservation) => reservation.commit(130))
      assert.deepStrictEqual([settlement.overage, settlement.overran], [50, ["tokens"]])
      assert.isTrue(Option.isNone(yield* Effect.scoped(other.tryReserve(1))))
      assert.strictEqual(yield* other.available, -30)
    })
  )

  it.effect("of one budget is not kept by who waits for another", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const context = yield* Layer.build(
        Both.layer.pipe(
          Layer.provideMerge([
            Tokens.layerStore({ name: "tokens", limit: Limit.capacity(10), enforcement: "throttle" }),
            Slots.layerStore({ name: "slots", limit: Limit.concurrency(1), enforcement: "throttle" })
          ]),
          Layer.provide(leased(books))
        )
      )
      const slots = Context.get(context, Slots)
      const both = Context.get(context, Both)
      const other = yield* processOver(books, { limit: Limit.capacity(10), enforcement: "throttle" })
      const end = yield* Deferred.make<void>()
      yield* Effect.forkChild(slots.withReservation(1, () => Deferred.await(end)))
      yield* adjust("1 second")
      const waiting = yield* Effect.forkChild(
        both.withReservation({ tokens: 10, slots: 1 }, (reservation) => reservation.release)
      )
      yield* adjust("1 second")
      yield* other.withReservation(10, (reservation) => reservation.release)
      yield* adjust("10 seconds")
      yield* Deferred.succeed(end, undefined)
      yield* adjust("10 seconds")
      assert.isDefined(waiting.pollUnsafe())
    })
  )

  it.effect("of slots beside another limit does not keep the slots of what was spent", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books, { limit: [Limit.capacity(1_000), Limit.concurrency(2)] })
      yield* times(
        10,
        tokens.withReservation(2, () => Effect.void)
      )
      assert.strictEqual(yield* tokens.available, 2)
      assert.strictEqual((yield* tokens.snapshot).charged, 20)
    })
  )

  it.effect("goes by the kind of limit that there is now", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books, { limit: Limit.concurrency(10) })
      yield* tokens.withReservation(5, () => Effect.void)
      yield* tokens.setLimit(Limit.capacity(100))
      yield* tokens.withReservation(5, () => Effect.void)
      yield* adjust("10 seconds")
      assert.deepStrictEqual(booksOf(books), { available: 95, held: 0, spent: 5 })
    })
  )

  it.effect("that the store has lost is replaced at once", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      yield* times(
        3,
        tokens.withReservation(10, () => Effect.void)
      )
      books.lose()
      yield* tokens.withReservation(500, () => Effect.void)
      yield* adjust("10 seconds")
      assert.deepStrictEqual(booksOf(books), { available: 470, held: 0, spent: 530 })
    })
  )

  it.effect("is closed only when what is drawn for it has come", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      const end = yield* Deferred.make<void>()
      const long = yield* Effect.forkChild(tokens.withReservation(10, () => Deferred.await(end)))
      yield* adjust("1 second")
      const { hold } = books
      const slow = yield* Deferred.make<void>()
      books.hold = (request) => Effect.tap(hold(request), () => Deferred.await(slow))
      const short = yield* Effect.forkChild(tokens.withReservation(50, (reservation) => reservation.release))
      yield* turns
      const toppedUp = yield* Effect.forkChild(tokens.topUp(1))
      yield* turns
      yield* Deferred.succeed(slow, undefined)
      yield* Fiber.join(short)
      yield* Fiber.join(toppedUp)
      yield* adjust("20 seconds")
      // No more than is out.
      assert.deepStrictEqual(booksOf(books), { available: 991, held: 10, spent: 0 })
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.join(long)
    })
  )

  it.effect("that is spent beyond while the store is away is charged when it is back", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      // Of nothing held, there is no share to charge it to.
      yield* tokens.withReservation(0, (reservation) =>
        Effect.gen(function* () {
          books.fault = () => "away"
          yield* reservation.commit(7)
        })
      )
      books.fault = undefined
      yield* adjust("10 seconds")
      assert.strictEqual(booksOf(books).spent, 7)
      yield* tokens.withReservation(20, (reservation) =>
        Effect.gen(function* () {
          books.fault = () => "away"
          yield* reservation.commit(500)
        })
      )
      books.fault = undefined
      yield* adjust("10 seconds")
      assert.deepStrictEqual(booksOf(books), { available: 493, held: 0, spent: 507 })
    })
  )

  it.effect("goes on to be renewed when a renewal fails", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      const { hold } = books
      yield* tokens.withReservation(10, () => Effect.void)
      books.hold = () => Effect.die("broken")
      yield* adjust("6 seconds")
      books.hold = hold
      yield* tokens.withReservation(10, () => Effect.void)
      yield* adjust("15 seconds")
      assert.deepStrictEqual(booksOf(books), { available: 980, held: 0, spent: 20 })
    })
  )

  it.effect("of an epoch that somebody else has ended is not counted in the next", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const tokens = yield* processOver(books)
      const other = yield* processOver(books)
      yield* times(
        4,
        tokens.withReservation(10, () => Effect.void)
      )
      yield* other.reset
      const { available, granted, held, spent } = (yield* tokens.snapshot).ledgers[0]
      assert.deepStrictEqual([available, held, spent, granted], [1_000, 0, 0, 1_000])
    })
  )

  it.effect("is not taken from by a process that was paused for too long", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const slots = yield* processOver(books, { limit: Limit.concurrency(10) }, { renewEvery: "10 seconds" })
      yield* times(
        5,
        slots.withReservation(2, () => Effect.void)
      )
      // The process stands still: no timer fires, and then its clock is beyond all of them at once.
      const held = booksOf(books).held
      assert.isAbove(held, 0)
      books.fault = () => "away"
      yield* TestClock.setTime(61_000)
      books.fault = undefined
      const other = yield* processOver(books, { limit: Limit.concurrency(10) })
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* other.reserve(10)
          assert.isTrue(Option.isNone(yield* Effect.scoped(slots.tryReserve(1))))
        })
      )
    })
  )

  it.effect("is not longer than its hold lives", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const exit = yield* Effect.exit(processOver(books, undefined, { renewEvery: "30 seconds" }))
      assert.isTrue(Exit.isFailure(exit))
    })
  )
})

it("a share is good until its time, and not from then on", () => {
  const account = new LeasedAccount(
    {
      name: "tokens",
      limits: [Limit.concurrency(10)],
      enforcement: "reject",
      order: "fifo",
      maxQueued: undefined,
      timeout: undefined
    },
    { name: "tokens", books: {} }
  )
  account.share = new Share({ _tag: "Hold", held: [10], outcome: undefined }, 500, 1_000)
  account.share.free = 10
  assert.deepStrictEqual([lack(account, 4, 999), lack(account, 14, 999), lack(account, 4, 1_000)], [0, 4, 4])
  assert.isFalse(take(new LeasedHold([account]), [4], 1_000))
  assert.isTrue(take(new LeasedHold([account]), [4], 999))
  // A clock that was put back, or a store that has lost it.
  assert.isFalse(take(new LeasedHold([account]), [4], 499))
  account.share = new Share({ _tag: "Hold", held: [10], outcome: undefined, expired: true }, 500, 1_000)
  account.share.free = 10
  assert.isFalse(take(new LeasedHold([account]), [4], 999))
})

describe("a process that is killed", () => {
  const killed = (limit: Limit.Limit) =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const dead = yield* Scope.make()
      const tokens = yield* Scope.provide(processOver(books, { limit }), dead)
      yield* times(
        10,
        tokens.withReservation(10, (reservation) => reservation.commit(10))
      )
      yield* adjust("5 seconds")
      yield* tokens.withReservation(10, (reservation) => reservation.commit(3))
      const { held, spent } = booksOf(books)
      books.fault = () => "away"
      yield* adjust("2 minutes")
      books.fault = undefined
      const other = yield* processOver(books, { limit })
      const snapshot = yield* other.snapshot
      return { held, spent, snapshot }
    })

  it.effect("has spent its share of a capacity: no more than it needed for one renewal", () =>
    Effect.gen(function* () {
      const { held, snapshot, spent } = yield* killed(Limit.capacity(1_000))
      assert.isAtMost(held, 100)
      assert.strictEqual(snapshot.available, 1_000 - spent - held)
      assert.strictEqual(snapshot.ledgers[0].held, 0)
    })
  )

  it.effect("refills a rate, and gives slots back", () =>
    Effect.gen(function* () {
      const rate = yield* killed(Limit.rate({ amount: 1_000, per: "1 minute" }))
      assert.strictEqual(rate.snapshot.available, 1_000)
      const slots = yield* killed(Limit.concurrency(1_000))
      assert.strictEqual(slots.snapshot.available, 1_000)
    })
  )
})

describe("several processes", () => {
  it.effect("never have more out than the limit, whatever they do", () =>
    forSeedsEffect(30, (seed) =>
      Effect.scoped(
        Effect.gen(function* () {
          const random = makeRandom(seed)
          const capacity = random.int(10, 300)
          const slots = random.chance(0.3)
          const limit = slots ? Limit.concurrency(capacity) : Limit.capacity(capacity)
          const books = yield* ReferenceBooks.make()
          const processes = yield* Effect.forEach([0, 1, 2], () =>
            processOver(
              books,
              { limit, enforcement: random.pick(["reject", "throttle"]) },
              { renewEvery: Duration.millis(random.int(10, 2_000)) }
            )
          )
          const rows = yield* guardOver(books, limit, { renewEvery: Duration.millis(random.int(10, 2_000)) })
          let [out, spent, most] = [0, 0, 0]
          const taken = (amount: number) => {
            out += amount
            most = Math.max(most, out + (slots ? 0 : spent))
          }
          /** Takes with the plain pair, and gives it back in two parts. */
          const pair = Effect.suspend(() => {
            const amount = random.int(0, 30)
            const first = random.int(0, amount)
            const pause = Effect.sleep(Duration.millis(random.int(0, 2_000)))
            const release = (part: number) =>
              Effect.suspend(() => {
                out -= part
                return rows.release(part)
              })
            return Effect.flatMap(rows.tryReserve(amount), (got) => {
              if (!got) return Effect.void
              taken(amount)
              return Effect.andThen(
                pause,
                Effect.andThen(release(first), Effect.andThen(pause, release(amount - first)))
              )
            })
          })
          const one = (budget: Budget.Budget) =>
            Effect.suspend(() => {
              const amount = random.int(0, 40)
              const actual = random.int(0, amount)
              const commits = random.chance(0.5)
              const extension = random.chance(0.3) ? random.int(0, 20) : undefined
              return Effect.exit(
                budget.withReservation(
                  amount,
                  (reservation) =>
                    Effect.gen(function* () {
                      let mine = amount
                      taken(amount)
                      if (
                        extension !== undefined &&
                        Exit.isSuccess(yield* Effect.exit(reservation.extend(extension)))
                      ) {
                        mine += extension
                        taken(extension)
                      }
                      yield* Effect.ensuring(
                        Effect.sleep(Duration.millis(random.int(0, 3_000))),
                        Effect.sync(() => {
                          out -= mine
                          if (commits) spent += actual
                        })
                      )
                      return yield* commits ? reservation.commit(actual) : Effect.fail("no")
                    }).pipe(Effect.uninterruptible),
                  { timeout: Duration.millis(random.int(0, 5_000)) }
                )
              )
            })
          const fibers = yield* Effect.forEach([...processes.map(one), pair], (work) =>
            Effect.forkChild(
              Effect.forEach(
                Array.from({ length: 30 }),
                () => Effect.andThen(Effect.sleep(Duration.millis(random.int(0, 200))), work),
                { concurrency: 4, discard: true }
              )
            )
          )
          // As long as anybody is at work: every wait ends by itself.
          while (fibers.some((fiber) => fiber.pollUnsafe() === undefined)) {
            yield* Effect.repeat(Effect.yieldNow, { times: 20 })
            yield* TestClock.adjust("500 millis")
          }
          yield* adjust("10 seconds")
          for (const fiber of fibers) {
            const exit = yield* Fiber.await(fiber)
            assert.isTrue(Exit.isSuccess(exit))
          }
          assert.isAtMost(most, capacity)
          const total = yield* processes[0]!.snapshot
          assert.deepStrictEqual(
            [total.ledgers[0].held, total.ledgers[0].spent, total.charged],
            [0, slots ? 0 : spent, slots ? total.charged : spent]
          )
        })
      )
    )
  )
})

it.effect("an extension that can never fit beside its reservation fails at once", () =>
  Effect.gen(function* () {
    const books = yield* ReferenceBooks.make()
    const tokens = yield* processOver(books, { limit: Limit.capacity(10), enforcement: "throttle" })
    yield* tokens.withReservation(6, (reservation) =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(reservation.extend(5))
        assert.deepStrictEqual([error._tag, error.requested], ["BudgetExceeded", 5])
        yield* reservation.extend(4)
      })
    )
  })
)

it.effect("is refused inside of a transaction, which may run more than once", () =>
  Effect.gen(function* () {
    const books = yield* ReferenceBooks.make()
    const tokens = yield* processOver(books)
    yield* tokens.withReservation(10, (reservation) => reservation.release)
    const exit = yield* Effect.exit(Effect.scoped(Effect.tx(tokens.reserve(5))))
    assert.match(`${Exit.isFailure(exit) ? Cause.squash(exit.cause) : ""}`, /"tokens".*inside Effect\.tx/)
  })
)

describe("interruption at every point of a lease", () => {
  const cases: ReadonlyArray<readonly [string, (tokens: Budget.Budget) => Effect.Effect<unknown, unknown>]> = [
    ["withReservation", (tokens) => tokens.withReservation(10, () => Effect.yieldNow)],
    ["overage", (tokens) => tokens.withReservation(10, (reservation) => reservation.commit(50))],
    ["extend", (tokens) => tokens.withReservation(10, (reservation) => reservation.extend(5))],
    [
      "topUp",
      (tokens) =>
        Effect.andThen(
          tokens.withReservation(10, () => Effect.void),
          tokens.topUp(0)
        )
    ],
    ["reserveUpTo", (tokens) => Effect.scoped(Effect.andThen(tokens.reserveUpTo(5, 20), Effect.yieldNow))],
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
        const { interrupted, problems } = yield* sweep(
          Effect.gen(function* () {
            const books = yield* ReferenceBooks.make()
            const scope = yield* Scope.make()
            const tokens = yield* Scope.provide(
              processOver(books, { limit: Limit.capacity(100), enforcement: "throttle" }),
              scope
            )
            return {
              program: program(tokens),
              problem: Effect.gen(function* () {
                for (let i = 0; i < 50; i++) yield* Effect.yieldNow
                yield* Scope.close(scope, Exit.void)
                const { held, spent } = booksOf(books)
                return held === 0 && spent <= 60 ? undefined : `held ${held}, spent ${spent}`
              })
            }
          }),
          { mostOperations: 20 }
        )
        assert.deepStrictEqual(problems, [])
        assert.isAbove(interrupted, 20)
      })
    )
  }
})

describe("a guard over leases", () => {
  it.effect("has a bounded number of shares, however long nothing is released", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const rows = yield* guardOver(books, Limit.capacity(1_000))
      const open = () => [...books.records.holds.values()].filter(({ outcome }) => outcome === undefined).length
      for (let i = 0; i < 100; i++) {
        assert.isTrue(yield* rows.tryReserve(3))
        yield* adjust("5 seconds")
      }
      assert.isAtMost(open(), 9)
      assert.strictEqual(yield* rows.available, 700)
      // What is free of the last share goes back too.
      yield* adjust("10 seconds")
      assert.strictEqual(booksOf(books).held, 300)
      yield* rows.release(299)
      yield* adjust("10 seconds")
      assert.deepStrictEqual([booksOf(books).held, open()], [1, 1])
    })
  )

  it.effect("that is interrupted, or ends, leaves nothing that nobody owns", () =>
    Effect.gen(function* () {
      for (const limit of [Limit.capacity(100), Limit.window({ amount: 100, every: "1 hour" })]) {
        const { interrupted, problems } = yield* sweep(
          Effect.gen(function* () {
            const books = yield* ReferenceBooks.make()
            const store = yield* Scope.make()
            const context = yield* Scope.provide(Layer.build(leased(books)), store)
            return {
              program: Effect.scoped(
                Effect.flatMap(BudgetGuard.make({ name: "tokens", limit }), (rows) => rows.tryReserve(10))
              ).pipe(Effect.provide(context)),
              problem: Effect.gen(function* () {
                for (let i = 0; i < 50; i++) yield* Effect.yieldNow
                const open = [...books.records.holds.values()].filter(({ outcome }) => outcome === undefined)
                yield* Scope.close(store, Exit.void)
                return open.length === 0 ? undefined : `${open.length} open`
              })
            }
          }),
          { mostOperations: 20 }
        )
        assert.deepStrictEqual(problems, [])
        assert.isAbove(interrupted, 20)
      }
    })
  )

  it.effect("takes and gives back in memory", () =>
    Effect.gen(function* () {
      const books = yield* ReferenceBooks.make()
      const context = yield* Layer.build(
        Layer.provide(Rows.layerStore({ name: "tokens", limit: Limit.capacity(100) }), leased(books))
      )
      const rows = Context.get(context, Rows)
      for (let i = 0; i < 10; i++) assert.isTrue(yield* rows.tryReserve(10))
      assert.isFalse(yield* rows.tryReserve(1))
      yield* adjust("12 seconds")
      yield* rows.release(45)
      assert.strictEqual(yield* rows.available, 45)
      assert.isTrue(yield* rows.tryReserve(45))
    })
  )
})
