import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Option, TxQueue, TxRef } from "effect"
import { TestClock } from "effect/testing"
import { Budget, BudgetStore, Ledger, Limit } from "../src/index.ts"
import { audited } from "./utils/auditor.ts"

const open = (options: Budget.Options) =>
  Budget.make({ ...options, name: "test/Budget" }).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))

const cellOf = (budget: Budget.Budget): TxRef.TxRef<Ledger.Ledger> => audited(budget)[0]!.books.cells[0]!

const messageOf = <A, E>(exit: Exit.Exit<A, E>): string =>
  Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "it succeeded"

describe("the direct path and the journal agree", () => {
  /** The same change of the books, written by the store and by a transaction. */
  const both = Effect.gen(function* () {
    const budget = yield* open({ limit: Limit.capacity(10) })
    const direct = cellOf(budget)
    const journal = yield* TxRef.make(Ledger.make(Limit.capacity(10), 0))
    return { budget, direct, journal }
  })

  it.effect("on the value and the version", () =>
    Effect.gen(function* () {
      const { budget, direct, journal } = yield* both
      yield* budget.withReservation(4, (reservation) =>
        Effect.gen(function* () {
          yield* TxRef.update(journal, (ledger) => Ledger.hold(ledger, 4))
          assert.deepStrictEqual(direct.value, journal.value)
          assert.strictEqual(direct.version, journal.version)
          yield* reservation.commit(3)
          yield* TxRef.update(journal, (ledger) => Ledger.settle(ledger, 4, 0, 3))
        })
      )
      assert.deepStrictEqual(direct.value, journal.value)
      assert.strictEqual(direct.version, journal.version)
      // What changes nothing is no new version, either way.
      yield* budget.withReservation(0, () => Effect.void)
      yield* TxRef.update(journal, (ledger) => Ledger.hold(ledger, 0))
      assert.strictEqual(direct.version, journal.version)
    })
  )

  it.effect("on a hold taken by reserveTx", () =>
    Effect.gen(function* () {
      const one = yield* both
      const two = yield* both
      yield* one.budget.reserve(4)
      yield* two.budget.reserveTx(4, Effect.void)
      assert.deepStrictEqual(one.direct.value, two.direct.value)
      assert.strictEqual(one.direct.version, two.direct.version)
    })
  )

  it.effect("on who is woken", () =>
    Effect.gen(function* () {
      const { budget, direct, journal } = yield* both
      const attempts = { direct: 0, journal: 0 }
      const waitFor = (which: "direct" | "journal", ref: TxRef.TxRef<Ledger.Ledger>) =>
        Effect.forkChild(
          Effect.tx(
            Effect.flatMap(TxRef.get(ref), ({ available }) => {
              attempts[which]++
              return available < 8 ? Effect.void : Effect.txRetry
            })
          ),
          { startImmediately: true }
        )
      const fibers = [yield* waitFor("direct", direct), yield* waitFor("journal", journal)]
      const change = (amount: number) =>
        Effect.andThen(
          budget.reserve(amount),
          TxRef.update(journal, (ledger) => Ledger.hold(ledger, amount))
        )
      yield* change(1)
      for (let i = 0; i < 5; i++) yield* Effect.yieldNow
      assert.deepStrictEqual(attempts, { direct: 2, journal: 2 })
      assert.strictEqual(direct.pending.size, 1)
      yield* change(2)
      yield* Fiber.joinAll(fibers)
      assert.deepStrictEqual(attempts, { direct: 3, journal: 3 })
      assert.strictEqual(direct.pending.size, 0)
    })
  )

  it.effect("on conflicts", () =>
    Effect.gen(function* () {
      const { budget, direct, journal } = yield* both
      const attemptsOf = (ref: TxRef.TxRef<Ledger.Ledger>, change: Effect.Effect<unknown, unknown>) =>
        Effect.gen(function* () {
          let attempts = 0
          const fiber = yield* Effect.forkChild(
            Effect.tx(
              Effect.gen(function* () {
                attempts++
                const { available } = yield* TxRef.get(ref)
                yield* Effect.yieldNow
                return available
              })
            ),
            { startImmediately: true }
          )
          yield* change
          return [yield* Fiber.join(fiber), attempts]
        })
      const reserved = Effect.scoped(Effect.andThen(budget.reserve(4), Effect.void))
      assert.deepStrictEqual(yield* attemptsOf(direct, reserved), [6, 2])
      const updated = TxRef.update(journal, (ledger) => Ledger.settle(Ledger.hold(ledger, 4), 4, 0, 4))
      assert.deepStrictEqual(yield* attemptsOf(journal, updated), [6, 2])
    })
  )
})

describe("reserveTx", () => {
  it.effect("takes both or neither", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(5) })
      const mine = yield* TxRef.make(0)
      const increment = TxRef.modify(mine, (n): [number, number] => [n + 1, n + 1])
      const { reservation, value } = yield* budget.reserveTx(3, increment)
      assert.strictEqual(value, 1)
      assert.strictEqual(reservation.amount, 3)
      // The budget denies: what ran alongside is undone.
      const denied = yield* Effect.flip(budget.reserveTx(3, increment))
      assert.strictEqual(denied._tag, "BudgetExceeded")
      assert.strictEqual(yield* TxRef.get(mine), 1)
      // What runs alongside fails: the budget is whole.
      const failed = yield* Effect.flip(budget.reserveTx(1, Effect.andThen(increment, Effect.fail("no" as const))))
      assert.strictEqual(failed, "no")
      assert.strictEqual(yield* TxRef.get(mine), 1)
      assert.strictEqual(yield* budget.available, 2)
    })
  )

  it.effect("waits for what runs alongside and holds nothing meanwhile", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(5) })
      const queue = yield* TxQueue.unbounded<string>()
      const fiber = yield* Effect.forkChild(
        Effect.scoped(Effect.andThen(budget.reserveTx(3, TxQueue.take(queue)), Effect.void)),
        {
          startImmediately: true
        }
      )
      assert.strictEqual(yield* budget.available, 5)
      yield* TxQueue.offer(queue, "job")
      yield* Fiber.join(fiber)
      assert.strictEqual(yield* budget.available, 2)
    })
  )

  it.effect("undoes what ran alongside when its scope ends in failure", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(5) })
      const queue = yield* TxQueue.unbounded<string>()
      yield* TxQueue.offer(queue, "job")
      const take = budget.reserveTx(3, TxQueue.take(queue), {
        undo: (job) => TxQueue.offer(queue, job)
      })
      yield* Effect.exit(Effect.scoped(Effect.andThen(take, Effect.fail("later"))))
      assert.strictEqual(yield* TxQueue.size(queue), 1)
      assert.strictEqual(yield* budget.available, 5)
      yield* Effect.scoped(Effect.andThen(take, Effect.void))
      assert.strictEqual(yield* TxQueue.size(queue), 0)
      assert.strictEqual(yield* budget.available, 2)
    })
  )

  it.effect("waits for its turn among all who wait, and keeps it", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.concurrency(1), enforcement: "throttle" })
      const order: Array<string> = []
      const say = (name: string) => Effect.sync(() => order.push(name))
      const waiter = (name: string) =>
        Effect.forkChild(
          budget.withReservation(1, () => say(name)),
          { startImmediately: true }
        )
      const holder = yield* Effect.scoped(
        Effect.gen(function* () {
          yield* budget.reserve(1)
          const fibers = [
            yield* waiter("first"),
            yield* Effect.forkChild(
              Effect.scoped(Effect.andThen(budget.reserveTx(1, Effect.void), say("transaction"))),
              {
                startImmediately: true
              }
            ),
            yield* waiter("last")
          ]
          assert.strictEqual((yield* budget.snapshot).waiters, 3)
          return fibers
        })
      )
      yield* Fiber.joinAll(holder)
      assert.deepStrictEqual(order, ["first", "transaction", "last"])
    })
  )

  it.effect("passes a large one that is blocked, by first fit", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.concurrency(4), enforcement: "throttle", order: "firstFit" })
      yield* budget.reserve(2)
      const large = yield* Effect.forkChild(
        budget.withReservation(4, () => Effect.void),
        { startImmediately: true }
      )
      yield* Effect.scoped(Effect.andThen(budget.reserveTx(1, Effect.void), Effect.void))
      assert.strictEqual(large.pollUnsafe(), undefined)
      yield* Fiber.interrupt(large)
    })
  )

  it.effect("lets the others pass while it waits for something else", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.concurrency(1), enforcement: "throttle" })
      const queue = yield* TxQueue.unbounded<string>()
      const first = yield* Effect.scoped(
        Effect.andThen(
          budget.reserve(1),
          Effect.forkDetach(Effect.scoped(budget.reserveTx(1, TxQueue.take(queue))), { startImmediately: true })
        )
      )
      yield* TxQueue.offer(queue, "gone at once")
      yield* TxQueue.take(queue)
      yield* budget.withReservation(1, () => Effect.void)
      assert.strictEqual(first.pollUnsafe(), undefined)
      yield* TxQueue.offer(queue, "job")
      yield* Fiber.join(first)
      assert.strictEqual(yield* budget.available, 1)
    })
  )

  it.effect("times out while it waits for its turn, and consumes nothing", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(1), enforcement: "throttle" })
      const mine = yield* TxRef.make(0)
      yield* budget.reserve(1)
      const fiber = yield* Effect.forkChild(
        Effect.flip(
          Effect.scoped(
            budget.reserveTx(
              1,
              TxRef.update(mine, (n) => n + 1),
              { timeout: "3 seconds" }
            )
          )
        ),
        { startImmediately: true }
      )
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* budget.snapshot).waiters, 1)
      yield* TestClock.adjust("1 second")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error._tag === "FailedReservation" && error.reason._tag, "TimedOut")
      assert.strictEqual((yield* budget.snapshot).waiters, 0)
      assert.strictEqual(yield* TxRef.get(mine), 0)
    })
  )

  it.effect("gives each of many jobs to one, as far as the budget goes", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(30) })
      const queue = yield* TxQueue.unbounded<number>()
      yield* TxQueue.offerAll(
        queue,
        Array.from({ length: 50 }, (_, i) => i)
      )
      const taken = yield* Effect.forEach(
        Array.from({ length: 100 }),
        () => Effect.option(Effect.scoped(Effect.map(budget.reserveTx(1, TxQueue.take(queue)), ({ value }) => value))),
        { concurrency: "unbounded" }
      )
      const jobs = taken.flatMap(Option.toArray)
      assert.strictEqual(new Set(jobs).size, 30)
      assert.strictEqual(jobs.length, 30)
      assert.strictEqual(yield* TxQueue.size(queue), 20)
    })
  )
})

describe("inside somebody's transaction", () => {
  it.effect("a reservation is refused by name, and takes nothing", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(5) })
      const inTx: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        Effect.scoped(budget.reserve(1)),
        Effect.scoped(budget.tryReserve(1)),
        Effect.scoped(budget.reserveTx(1, Effect.void)),
        budget.withReservation(1, () => Effect.void),
        budget.topUp(1),
        budget.reset
      ]
      for (const effect of inTx) {
        const message = messageOf(yield* Effect.exit(Effect.tx(effect)))
        assert.include(message, "test/Budget")
        assert.include(message, "reserveTx")
      }
      const exit = yield* Effect.exit(budget.withReservation(1, (reservation) => Effect.tx(reservation.extend(1))))
      assert.include(messageOf(exit), "extend inside Effect.tx")
      assert.strictEqual(yield* budget.available, 5)
    })
  )

  it.effect("the snapshot is read through the journal", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(5) })
      const fiber = yield* Effect.forkChild(
        Effect.tx(
          Effect.flatMap(budget.available, (available) => (available > 2 ? Effect.txRetry : Effect.succeed(available)))
        ),
        { startImmediately: true }
      )
      yield* budget.reserve(1)
      assert.strictEqual(fiber.pollUnsafe(), undefined)
      yield* budget.reserve(2)
      assert.strictEqual(yield* Fiber.join(fiber), 2)
    })
  )

  it.effect("a fiber that was made there goes on after its end", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(5) })
      const fiber = yield* Effect.tx(
        Effect.forkDetach(
          Effect.andThen(
            Effect.yieldNow,
            budget.withReservation(1, () => Effect.void)
          )
        )
      )
      yield* Fiber.join(fiber)
      assert.strictEqual(yield* budget.available, 4)
    })
  )
})
