import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Scheduler, Scope, TxQueue, TxRef } from "effect"
import {
  Budget,
  BudgetPool,
  BudgetStore,
  Limit,
  Policy,
  Usd,
  type BudgetError,
  type Reservation
} from "../src/index.ts"
import { QuotaToken, type Quota } from "../src/quota/index.ts"
import { open as openQuota, resource } from "./utils/quotas.ts"
import { type Probe, sweep } from "./utils/sweep.ts"

type Failure = BudgetError.BudgetExceeded | BudgetError.FailedReservation

class Tokens extends Budget.Service<Tokens>()("test/Tokens") {}
class Dollars extends Budget.Service<Dollars>()("test/Dollars") {}
class Both extends Policy.Service<Both>()("test/Both", { tokens: Tokens, dollars: Dollars }) {}
class Pool extends BudgetPool.Service<Pool>()("test/Pool") {}

const open = (options: Budget.Options): Effect.Effect<Budget.Budget> =>
  Effect.scoped(Budget.make({ ...options, name: "swept" })).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))

/** All is given back or charged, nobody waits, and the books balance. */
const unbalanced = (snapshot: BudgetStore.Snapshot): string | undefined => {
  for (const { available, granted, held, spent } of snapshot.ledgers) {
    if (held !== 0) return `${held} of "${snapshot.budget}" still held`
    if (available + held + spent !== granted) return `"${snapshot.budget}" does not balance`
    if (available < 0) return `"${snapshot.budget}" is overspent`
  }
  return snapshot.waiters === 0 ? undefined : `${snapshot.waiters} still wait for "${snapshot.budget}"`
}

const booksOf = (...budgets: ReadonlyArray<Budget.Books>): Effect.Effect<string | undefined> =>
  Effect.map(
    Effect.forEach(budgets, (budget) => budget.snapshot),
    (snapshots) => snapshots.map(unbalanced).find((problem) => problem !== undefined)
  )

const use = Effect.andThen(Effect.yieldNow, Effect.yieldNow)

/** What it opens stays open after it. */
const leftOpen = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>): Effect.Effect<A, E> =>
  Effect.flatMap(Scope.make(), (scope) => Scope.provide(effect, scope))

const assertNone = (probe: Effect.Effect<Probe>) =>
  Effect.gen(function* () {
    const { interrupted, problems, runs } = yield* sweep(probe)
    assert.deepStrictEqual(problems, [])
    assert.isAbove(interrupted, 100, `only ${interrupted} of ${runs} runs were interrupted`)
  })

/** One budget with plenty of room. */
const alone = (program: (budget: Budget.Budget) => Effect.Effect<unknown, Failure>): Effect.Effect<Probe> =>
  Effect.map(open({ limit: [Limit.capacity(10), Limit.rate({ amount: 10, per: "1 hour" })] }), (budget) => ({
    program: program(budget),
    problem: booksOf(budget)
  }))

/** A budget that somebody else holds whole, and gives back while the program waits. */
const contended = (
  program: (budget: Budget.Budget) => Effect.Effect<unknown, Failure>,
  order: BudgetStore.Order = "fifo"
): Effect.Effect<Probe> =>
  Effect.gen(function* () {
    const budget = yield* open({ limit: Limit.concurrency(2), enforcement: "throttle", order })
    yield* holdFor(4, (scope) => Scope.provide(budget.reserve(2), scope))
    return { program: program(budget), problem: booksOf(budget) }
  })

/** Takes something, and gives it back after some yields. */
const holdFor = <A, E>(yields: number, take: (scope: Scope.Scope) => Effect.Effect<A, E>): Effect.Effect<void> =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    yield* Effect.orDie(take(scope))
    yield* Effect.forkDetach(
      Effect.andThen(Effect.yieldNow.pipe(Effect.repeat({ times: yields })), Scope.close(scope, Exit.fail("refund")))
    )
  })

const policyOver = (options: Budget.Options) =>
  Effect.gen(function* () {
    const services = yield* Effect.scoped(
      Layer.build(Both.layer.pipe(Layer.provideMerge([Tokens.layer(options), Dollars.layer(options)])))
    )
    return yield* Effect.provide(Effect.all({ policy: Both, tokens: Tokens, dollars: Dollars }), services)
  })

describe("interrupted at any point, nothing stays held", () => {
  it.effect("reserve", () => assertNone(alone((budget) => Effect.scoped(Effect.andThen(budget.reserve(3), use)))))

  it.effect("withReservation", () => assertNone(alone((budget) => budget.withReservation(3, () => use))))

  it.effect("withReservation that commits", () =>
    assertNone(alone((budget) => budget.withReservation(3, (r) => Effect.andThen(use, r.commit(2)))))
  )

  it.effect("tryReserve", () => assertNone(alone((budget) => Effect.scoped(Effect.andThen(budget.tryReserve(3), use)))))

  it.effect("extend", () =>
    assertNone(alone((budget) => budget.withReservation(3, (r) => Effect.andThen(r.extend(2), use))))
  )

  it.effect("a wait that is granted", () =>
    assertNone(contended((budget) => Effect.scoped(Effect.andThen(budget.reserve(2), use))))
  )

  it.effect("a wait that is granted, in a bracket, by first fit", () =>
    assertNone(contended((budget) => budget.withReservation(1, () => use), "firstFit"))
  )

  it.effect("a wait with a timeout", () =>
    assertNone(contended((budget) => budget.withReservation(1, () => use, { timeout: "1 hour" })))
  )

  it.effect("an extension that waits", () =>
    assertNone(
      Effect.gen(function* () {
        const budget = yield* open({ limit: Limit.concurrency(3), enforcement: "throttle" })
        yield* holdFor(6, (scope) => Scope.provide(budget.reserve(2), scope))
        return {
          program: budget.withReservation(1, (r) => Effect.andThen(r.extend(2), use)),
          problem: booksOf(budget)
        }
      })
    )
  )

  it.effect("a policy", () =>
    assertNone(
      Effect.map(policyOver({ limit: Limit.capacity(10) }), ({ dollars, policy, tokens }) => ({
        program: policy.withReservation({ tokens: 2, dollars: 3 }, (r) =>
          Effect.andThen(use, r.commit({ tokens: 1, dollars: 1 }))
        ),
        problem: booksOf(tokens, dollars)
      }))
    )
  )

  it.effect("a policy that waits for both of its budgets", () =>
    assertNone(
      Effect.gen(function* () {
        const { dollars, policy, tokens } = yield* policyOver({ limit: Limit.concurrency(2), enforcement: "throttle" })
        yield* holdFor(3, (scope) => Scope.provide(tokens.reserve(2), scope))
        yield* holdFor(6, (scope) => Scope.provide(dollars.reserve(1), scope))
        return {
          program: Effect.scoped(Effect.andThen(policy.reserve({ tokens: 1, dollars: 2 }), use)),
          problem: booksOf(tokens, dollars)
        }
      })
    )
  )

  it.effect("a pool", () =>
    assertNone(
      Effect.gen(function* () {
        const pool = yield* Effect.scoped(Layer.build(Pool.layer({ caps: { input: 10, total: 10 } }))).pipe(
          Effect.flatMap((services) => Effect.provide(Pool, services))
        )
        const usage = { input: 2, output: 3, cost: Usd.nanos(5) }
        return {
          program: Effect.andThen(
            pool.withReservation(usage, (r) => Effect.andThen(use, r.commit({ ...usage, output: 1 }))),
            pool.record(usage)
          ),
          problem: Effect.map(pool.snapshot, (snapshot) => {
            const { calls, input, output, total } = snapshot
            const spent = (of: BudgetStore.Snapshot) => of.ledgers[0]!.spent
            if (spent(input) + spent(output) !== spent(total)) return "the caps were charged apart from each other"
            if (spent(calls) * 2 !== spent(input)) return "a call was not counted"
            return Object.values(snapshot)
              .map(unbalanced)
              .find((problem) => problem !== undefined)
          })
        }
      })
    )
  )
})

describe("tokens of a quota, interrupted at any point", () => {
  /** A parent token with an expected use of 10, all of which has to be its own again in the end. */
  const quotaOf = (
    limit: Limit.Limit,
    program: (token: QuotaToken.QuotaToken, quota: Quota["Service"]) => Effect.Effect<unknown, Failure>,
    contended = false
  ): Effect.Effect<Probe> =>
    Effect.gen(function* () {
      const quota = yield* openQuota({ units: resource(limit, "throttle") })
      const token = yield* quota.acquire("units", { expectedUse: 10 })
      if (contended) yield* holdFor(4, (scope) => Scope.provide(token.reserve(2, { onSuccess: "release" }), scope))
      return {
        program: program(token, quota),
        problem: Effect.gen(function* () {
          const expected = yield* token.expectedUse
          if (expected !== 10) return `an expected use of ${expected} is left`
          const { available, granted, held, spent, tokens, waiters } = (yield* quota.usage)["units"]!
          if (tokens !== 1) return `${tokens} tokens are left`
          if (held !== 0) return `${held} still held`
          if (available + spent !== granted) return "does not balance"
          return waiters === 0 ? undefined : `${waiters} still wait`
        })
      }
    }).pipe(Effect.orDie, leftOpen)

  it.effect("a reservation that says what it used", () =>
    assertNone(
      quotaOf(Limit.capacity(10), (token) =>
        token.withReservation(3, () => Effect.as(use, QuotaToken.used(2, undefined)))
      )
    )
  )

  it.effect("a reservation that waits", () =>
    assertNone(quotaOf(Limit.concurrency(2), (token) => Effect.scoped(Effect.andThen(token.reserve(2), use)), true))
  )

  it.effect("a split", () =>
    assertNone(
      quotaOf(Limit.concurrency(2), (token) =>
        Effect.scoped(
          Effect.flatMap(token.split(4), (child) =>
            child.withReservation(2, () => Effect.andThen(use, Effect.scoped(child.split(1))))
          )
        )
      )
    )
  )

  it.effect("a child that is closed while it holds and while it waits", () =>
    assertNone(
      quotaOf(
        Limit.concurrency(3),
        (token) =>
          Effect.gen(function* () {
            const scope = yield* Scope.make()
            yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
            const child = yield* Scope.provide(token.split(4), scope)
            yield* child.reserve(1, { onSuccess: "release" })
            yield* Effect.forkScoped(child.reserve(3))
            yield* Effect.yieldNow
            yield* Scope.close(scope, Exit.void)
          }).pipe(Effect.scoped),
        true
      )
    )
  )

  it.effect("a token that ends while somebody starts to wait with it", () =>
    Effect.gen(function* () {
      for (let operations = 3; operations <= 40; operations++) {
        for (let yields = 0; yields < 20; yields++) {
          const quota = yield* openQuota({ units: resource(Limit.concurrency(2), "throttle") })
          const token = yield* quota.acquire("units", { expectedUse: 10 })
          yield* token.reserve(1)
          const scope = yield* Scope.make()
          const child = yield* Scope.provide(token.split(4), scope)
          const fiber = yield* Effect.forkDetach(
            Effect.provideService(
              child.withReservation(1, (reservation) =>
                Effect.andThen(
                  reservation.extend(1),
                  child.withReservation(2, () => Effect.void)
                )
              ),
              Scheduler.MaxOpsBeforeYield,
              operations
            )
          )
          for (let i = 0; i < yields; i++) yield* Effect.yieldNow
          yield* Scope.close(scope, Exit.void)
          for (let i = 0; i < 60; i++) yield* Effect.yieldNow
          const exit = fiber.pollUnsafe()
          assert.isTrue(exit !== undefined && Exit.hasDies(exit), `${yields} yields, ${operations} operations`)
          assert.strictEqual((yield* quota.usage)["units"]!.waiters, 0)
        }
      }
    }).pipe(Effect.scoped, Effect.orDie)
  )

  it.effect("a merge", () =>
    assertNone(
      quotaOf(Limit.concurrency(2), (token) =>
        Effect.gen(function* () {
          const child = yield* token.split(4)
          const other = yield* token.split(5)
          yield* other.reserve(1, { onSuccess: "release" })
          yield* child.merge(other)
          yield* child.withReservation(1, () => use)
        }).pipe(Effect.scoped)
      )
    )
  )

  it.effect("a wait while the definition changes and goes", () =>
    assertNone(
      quotaOf(
        Limit.concurrency(2),
        (token, quota) =>
          Effect.gen(function* () {
            yield* Effect.forkScoped(
              Effect.gen(function* () {
                yield* quota.update("units", resource(Limit.concurrency(3), "throttle"))
                yield* quota.update("units", resource(Limit.concurrency(2)))
                yield* quota.remove("units")
                yield* quota.define("units", resource(Limit.concurrency(2), "throttle"))
              })
            )
            yield* Effect.exit(token.withReservation(2, () => use))
          }).pipe(
            Effect.scoped,
            // However it ended, it is there for who asks.
            Effect.ensuring(Effect.orDie(quota.define("units", resource(Limit.concurrency(2), "throttle"))))
          ),
        true
      )
    )
  )
})

describe("reserveTx, interrupted at any point, loses neither the job nor the budget", () => {
  /** Each job is in the queue, or was done; never both, never neither. */
  const jobs = (options: {
    readonly budget: Budget.Options
    readonly contended: boolean
    readonly offered: "before" | "later"
  }): Effect.Effect<Probe> =>
    Effect.gen(function* () {
      const budget = yield* open(options.budget)
      const queue = yield* TxQueue.unbounded<string>()
      if (options.contended) yield* holdFor(5, (scope) => Scope.provide(budget.reserve(2), scope))
      if (options.offered === "before") yield* TxQueue.offer(queue, "job")
      else {
        yield* Effect.forkDetach(
          Effect.andThen(Effect.yieldNow.pipe(Effect.repeat({ times: 6 })), TxQueue.offer(queue, "job"))
        )
      }
      let done = 0
      const program = Effect.scoped(
        Effect.gen(function* () {
          // The scope decides, for the job as for the budget: done if it ends in success.
          yield* Effect.addFinalizer((exit) => Effect.sync(() => Exit.isSuccess(exit) && done++))
          yield* budget.reserveTx(2, TxQueue.take(queue), {
            undo: (job) => TxQueue.offer(queue, job)
          })
          yield* use
        })
      )
      return {
        program,
        problem: Effect.gen(function* () {
          const waiting = yield* TxQueue.size(queue)
          if (waiting + done !== 1) return `the job is ${waiting} times in the queue and was done ${done} times`
          return yield* booksOf(budget)
        })
      }
    })

  it.effect("with a job that is there", () =>
    assertNone(jobs({ budget: { limit: Limit.capacity(5) }, contended: false, offered: "before" }))
  )

  it.effect("with a job that comes later", () =>
    assertNone(jobs({ budget: { limit: Limit.capacity(5) }, contended: false, offered: "later" }))
  )

  it.effect("with a budget that has to be waited for", () =>
    assertNone(
      jobs({ budget: { limit: Limit.concurrency(3), enforcement: "throttle" }, contended: true, offered: "before" })
    )
  )

  it.effect("with both to be waited for", () =>
    assertNone(
      jobs({ budget: { limit: Limit.concurrency(3), enforcement: "throttle" }, contended: true, offered: "later" })
    )
  )
})

describe("the sweep finds what it looks for", () => {
  /** The same hold, by a construct that does not take it and install its finalizer in one uninterruptible region. */
  const broken = (
    construct: (
      hold: Effect.Effect<BudgetStore.Hold, Failure>,
      settle: (hold: BudgetStore.Hold) => Effect.Effect<unknown>
    ) => Effect.Effect<unknown, Failure>
  ) =>
    Effect.gen(function* () {
      const store = yield* BudgetStore.BudgetStore
      const account = yield* Effect.scoped(
        store.open({
          name: "swept",
          limits: [Limit.concurrency(2)],
          enforcement: "throttle",
          order: "fifo",
          maxQueued: undefined,
          timeout: undefined
        })
      )
      return {
        program: construct(
          Effect.withFiber((fiber) => {
            const answer = store.hold(fiber, [account], [2])
            assert.strictEqual(answer._tag, "Hold")
            return Effect.succeed(answer as BudgetStore.Hold)
          }),
          (hold) =>
            Effect.withFiber((fiber) => {
              store.settle(fiber, hold, "released", [0])
              return Effect.void
            })
        ),
        problem: Effect.map(store.read([account]), ([snapshot]) => unbalanced(snapshot!))
      }
    }).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))

  const assertSome = (probe: Effect.Effect<Probe>) =>
    Effect.map(sweep(probe), ({ problems }) => {
      assert.isNotEmpty(problems)
      assert.include(problems[0], "still held")
    })

  it.effect("a hold and a finalizer that are two steps", () =>
    assertSome(broken((hold, settle) => Effect.flatMap(hold, (held) => Effect.ensuring(use, settle(held)))))
  )

  it.effect("a hold that is taken under restore", () =>
    assertSome(
      broken((hold, settle) =>
        Effect.uninterruptibleMask((restore) =>
          Effect.flatMap(restore(hold), (held) => Effect.ensuring(restore(use), settle(held)))
        )
      )
    )
  )

  it.effect("and not what is right", () =>
    assertNone(broken((hold, settle) => Effect.acquireUseRelease(hold, () => use, settle)))
  )
})

describe("an interruption", () => {
  it.effect("of everyone who waits, at once, leaves the budget whole", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.concurrency(1), enforcement: "throttle" })
      const gate = yield* Deferred.make<void>()
      const holder = yield* Effect.forkChild(
        budget.withReservation(1, () => Deferred.await(gate)),
        { startImmediately: true }
      )
      const waiters = yield* Effect.forEach(Array.from({ length: 500 }), () =>
        Effect.forkChild(
          budget.withReservation(1, (_: Reservation.Reservation<number>) => use),
          { startImmediately: true }
        )
      )
      assert.strictEqual((yield* budget.snapshot).waiters, 500)
      yield* Fiber.interruptAll(waiters)
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(holder)
      assert.strictEqual(yield* booksOf(budget), undefined)
      assert.strictEqual(yield* budget.available, 1)
    })
  )

  it.effect("inside a transaction of one's own is not mistaken for the budget's", () =>
    Effect.gen(function* () {
      const budget = yield* open({ limit: Limit.capacity(3) })
      const mine = yield* TxRef.make(0)
      const fiber = yield* Effect.forkChild(
        Effect.scoped(
          budget.reserveTx(
            1,
            Effect.andThen(
              TxRef.update(mine, (n) => n + 1),
              Effect.interrupt
            )
          )
        ),
        { startImmediately: true }
      )
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
      assert.strictEqual(yield* TxRef.get(mine), 0)
      assert.strictEqual(yield* booksOf(budget), undefined)
    })
  )
})
