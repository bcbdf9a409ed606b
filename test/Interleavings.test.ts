import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Duration, Effect, Exit, Fiber, Layer, Option, Scheduler, type Scope, TxRef } from "effect"
import { TestClock } from "effect/testing"
import { Budget, BudgetGuard, Limit, Policy, type Reservation } from "../src/index.ts"
import { QuotaToken } from "../src/quota/index.ts"
import { audit, audited } from "./utils/auditor.ts"
import { accountOf, open as openQuota, resource } from "./utils/quotas.ts"
import { forSeeds, make as makeRandom, type Random } from "./utils/random.ts"
import { SeededScheduler } from "./utils/seededScheduler.ts"

const FIBERS = 50
const STEPS_PER_FIBER = 6
/** Far more than any run takes: a run that does not come to an end is a failure. */
const MOST_TASKS = 2_000_000

class Tokens extends Budget.Service<Tokens>()("model/Tokens") {}
class Slots extends Budget.Service<Slots>()("model/Slots") {}
class Dollars extends Budget.Service<Dollars>()("model/Dollars") {}
class Rows extends BudgetGuard.Service<Rows>()("model/Rows") {}
class All extends Policy.Service<All>()("model/All", { tokens: Tokens, slots: Slots, dollars: Dollars }) {}

class Failed {
  readonly _tag = "Failed"
}

const randomLimit = (random: Random): Limit.Limit => {
  switch (random.int(0, 4)) {
    case 0:
      return Limit.capacity(random.int(20, 400))
    case 1:
      return Limit.rate({
        amount: random.int(1, 60),
        per: Duration.millis(random.int(1, 3_000)),
        burst: random.int(10, 60)
      })
    case 2:
      return Limit.window({ amount: random.int(10, 60), every: Duration.millis(random.int(1, 2_000)) })
    case 3:
      return Limit.concurrency(random.int(10, 40))
    default:
      return Limit.unlimited
  }
}

const randomOptions = (random: Random): Budget.Options => ({
  limit: Array.from({ length: random.int(1, 2) }, () => randomLimit(random)),
  enforcement: random.pick(["reject", "throttle", "throttle", "terminate"] as const),
  order: random.pick(["fifo", "firstFit"] as const),
  maxQueued: random.chance(0.2) ? random.int(0, 10) : undefined,
  timeout: random.chance(0.5) ? Duration.millis(random.int(1, 5_000)) : undefined
})

/** One run: many fibers, each with a random program over the same budgets, in a random order of steps. */
const model = (random: Random, watch: (accounts: ReturnType<typeof audited>) => void) =>
  Effect.gen(function* () {
    const tokens = yield* Tokens
    const slots = yield* Slots
    const dollars = yield* Dollars
    const rows = yield* Rows
    const all = yield* All
    const singles = [tokens, slots, dollars]
    watch([...singles, rows].flatMap(audited))

    // The clock's warning that nobody moves it is set aside before anyone sleeps: it does not stand random interruptions.
    yield* TestClock.adjust(0)

    const seen: Array<Reservation.Reservation<unknown>> = []
    const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
    const counter = yield* TxRef.make(0)
    let rowsTaken = 0

    const amount = () => random.int(0, 12)
    const amounts = () => ({ tokens: amount(), slots: amount(), dollars: amount() })
    const pause = Effect.suspend(() =>
      random.chance(0.5) ? Effect.yieldNow : Effect.sleep(Duration.millis(random.int(0, 500)))
    )
    const options = (): Reservation.Options => ({
      priority: random.chance(0.3) ? random.int(-2, 2) : undefined,
      timeout: random.chance(0.3) ? Duration.millis(random.int(0, 800)) : undefined,
      onSuccess: random.chance(0.2) ? "release" : undefined
    })

    /** What is done with a reservation until its scope ends. */
    const use = <A>(reservation: Reservation.Reservation<A>, anAmount: () => A) => {
      seen.push(reservation as Reservation.Reservation<unknown>)
      return Effect.gen(function* () {
        for (let i = random.int(0, 3); i > 0; i--) {
          yield* pause
          const action = random.next()
          if (action < 0.25) yield* reservation.progress(anAmount())
          else if (action < 0.45) yield* reservation.extend(anAmount())
          else if (action < 0.65) yield* reservation.commit(anAmount())
          else if (action < 0.75) yield* reservation.release
          else if (action < 0.85) return yield* Effect.fail(new Failed())
          else if (action < 0.87) return yield* Effect.die(new Error("on purpose"))
        }
      })
    }

    const reserveSomewhere = Effect.suspend(() => {
      const budget = random.pick(singles)
      switch (random.int(0, 3)) {
        case 0:
          return budget.withReservation(amount(), (r) => use(r, amount), options())
        case 1:
          return Effect.scoped(Effect.flatMap(budget.reserve(amount(), options()), (r) => use(r, amount)))
        case 2:
          return Effect.scoped(
            Effect.flatMap(
              budget.tryReserve(amount(), options()),
              Option.match({ onNone: () => Effect.void, onSome: (r) => use(r, amount) })
            )
          )
        default:
          return Effect.scoped(
            Effect.flatMap(
              budget
                .reserveTx(
                  amount(),
                  Effect.gen(function* () {
                    const n = yield* TxRef.get(counter)
                    if (n > 1_000) return yield* Effect.txRetry
                    yield* TxRef.set(counter, n + 1)
                    return n
                  }),
                  options()
                )
                .pipe(
                  // The auditor learns of the hold right after the commit: nobody else may run in between.
                  Effect.provideService(Scheduler.PreventSchedulerYield, true)
                ),
              ({ reservation }) => use(reservation, amount)
            )
          )
      }
    })

    const reserveAll = Effect.suspend(() =>
      random.chance(0.5)
        ? all.withReservation(amounts(), (r) => use(r, amounts), options())
        : Effect.scoped(Effect.flatMap(all.reserve(amounts(), options()), (r) => use(r, amounts)))
    )

    // The pair has no scope: who is interrupted before it knows the answer has taken or given back nonetheless.
    const pair = Effect.uninterruptible(
      Effect.suspend(() => {
        const cost = amount()
        if (random.chance(0.4) && rowsTaken >= cost) {
          rowsTaken -= cost
          return rows.release(cost)
        }
        return Effect.map(rows.tryReserve(cost), (taken) => {
          if (taken) rowsTaken += cost
        })
      })
    )

    const adjust = Effect.suspend((): Effect.Effect<void> => {
      const budget = random.pick([...singles, rows])
      switch (random.int(0, 4)) {
        case 0:
        case 1:
          return budget.topUp(amount())
        case 2:
          return budget.reset
        case 3:
          return rows.refill
        default:
          return Effect.flatMap(budget.snapshot, ({ ledgers }) =>
            budget.setLimit(ledgers.map(() => randomLimit(random)))
          )
      }
    })

    const step = Effect.suspend((): Effect.Effect<unknown, unknown> => {
      const action = random.next()
      if (action < 0.45) return reserveSomewhere
      if (action < 0.7) return reserveAll
      if (action < 0.85) return pair
      if (action < 0.9) return adjust
      if (action < 0.95) return Effect.sync(() => random.pick(fibers).interruptUnsafe())
      return pause
    })

    for (let i = 0; i < FIBERS; i++) {
      fibers.push(
        yield* Effect.forkChild(
          Effect.exit(step).pipe(Effect.andThen(pause), Effect.repeat({ times: STEPS_PER_FIBER - 1 }))
        )
      )
    }
    // Time goes on until all are done. Who waits for what nobody gives back is interrupted in the end.
    for (let i = 0; fibers.some((fiber) => fiber.pollUnsafe() === undefined); i++) {
      if (i === 300) for (const fiber of fibers) fiber.interruptUnsafe()
      yield* TestClock.adjust(Duration.millis(random.int(1, 400)))
    }
    for (const fiber of fibers) yield* Fiber.await(fiber)

    // Every reservation is settled, and answers the same again.
    for (const reservation of seen) {
      const first = yield* reservation.release
      assert.deepStrictEqual(yield* reservation.release, first)
    }
    yield* rows.release(rowsTaken)
    for (const budget of [...singles, rows]) {
      const { ledgers, waiters } = yield* budget.snapshot
      assert.strictEqual(waiters, 0, "nobody waits")
      for (const { held } of ledgers) assert.strictEqual(held, 0, `nothing is held of ${budget.name}`)
    }
  })

type Watch = (accounts: ReturnType<typeof audited>) => void

/** Runs a model step by step, and audits what it watches after each. */
const runModel = <E>(
  random: Random,
  model: (random: Random, watch: Watch) => Effect.Effect<void, E, Scope.Scope>
): void => {
  const scheduler = new SeededScheduler(random.fork())
  let accounts: ReturnType<typeof audited> = []
  const program = Effect.scoped(model(random.fork(), (watched) => (accounts = watched)))
  const fiber = Effect.runForkWith(Context.make(Scheduler.Scheduler, scheduler))(program)
  let tasks = 0
  while (fiber.pollUnsafe() === undefined) {
    if (!scheduler.step()) throw new Error(`after ${tasks} steps nobody can go on`)
    if (++tasks > MOST_TASKS) throw new Error("does not come to an end")
    const problem = audit(accounts)
    if (problem !== undefined) throw new Error(`after ${tasks} steps: ${problem}`)
  }
  const exit = fiber.pollUnsafe()!
  if (Exit.isFailure(exit)) throw Cause.squash(exit.cause)
}

const runSeed = (seed: number) => {
  const random = makeRandom(seed)
  const layer = All.layer.pipe(
    Layer.provideMerge([
      Tokens.layer(randomOptions(random)),
      Slots.layer(randomOptions(random)),
      Dollars.layer(randomOptions(random)),
      Rows.layer({ limit: randomLimit(random) })
    ]),
    Layer.provideMerge(TestClock.layer())
  )
  runModel(random, (random, watch) => Effect.provide(model(random, watch), layer))
}

describe("random programs in random interleavings", () => {
  it("keep the books after every step", () => forSeeds(300, runSeed))
})

/** One run with tokens of one resource, which are split, merged and closed while its definition changes, goes and comes back. */
const quotaModel = (random: Random, watch: (accounts: ReturnType<typeof audited>) => void) =>
  Effect.gen(function* () {
    const randomResource = () => ({
      ...resource(
        randomLimit(random),
        random.pick(["reject", "throttle", "throttle", "throttle", "terminate"] as const)
      )
    })
    const quota = yield* openQuota({ units: randomResource() })
    const root = yield* quota.acquire("units", { expectedUse: 100 })
    watch([accountOf(root)])
    yield* TestClock.adjust(0)

    const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
    /** Closed ones too: what is asked of them is refused, whatever it is. */
    const tokens: Array<QuotaToken.QuotaToken> = [root]
    const amount = () => random.int(0, 12)
    const pause = Effect.suspend(() =>
      random.chance(0.5) ? Effect.yieldNow : Effect.sleep(Duration.millis(random.int(0, 500)))
    )

    const step = Effect.suspend((): Effect.Effect<unknown, unknown> => {
      const token = random.pick(tokens)
      const action = random.next()
      if (action < 0.5) {
        return token.withReservation(
          amount(),
          (reservation) =>
            Effect.gen(function* () {
              yield* pause
              if (random.chance(0.2)) yield* reservation.extend(amount())
              if (random.chance(0.2)) yield* reservation.progress(amount())
              yield* pause
              if (random.chance(0.1)) return yield* Effect.fail(new Failed())
              return random.chance(0.5) ? QuotaToken.used(amount(), undefined) : undefined
            }),
          { timeout: random.chance(0.3) ? Duration.millis(random.int(0, 800)) : undefined }
        )
      }
      if (action < 0.7) {
        return Effect.scoped(
          Effect.flatMap(token.split(random.int(0, 30)), (child) => {
            tokens.push(child)
            return Effect.andThen(Effect.exit(child.reserve(amount())), pause)
          })
        )
      }
      if (action < 0.8) return Effect.suspend(() => token.merge(random.pick(tokens)))
      if (action < 0.9) return quota.define("units", randomResource())
      if (action < 0.92) return quota.remove("units")
      if (action < 0.96) return Effect.sync(() => random.pick(fibers).interruptUnsafe())
      return pause
    })

    for (let i = 0; i < FIBERS; i++) {
      fibers.push(
        yield* Effect.forkChild(
          Effect.exit(step).pipe(Effect.andThen(pause), Effect.repeat({ times: STEPS_PER_FIBER - 1 }))
        )
      )
    }
    for (let i = 0; fibers.some((fiber) => fiber.pollUnsafe() === undefined); i++) {
      if (i === 300) for (const fiber of fibers) fiber.interruptUnsafe()
      yield* TestClock.adjust(Duration.millis(random.int(1, 400)))
    }
    for (const fiber of fibers) yield* Fiber.await(fiber)

    yield* quota.define("units", resource(Limit.concurrency(5)))
    const { held, tokens: left, waiters } = (yield* quota.usage)["units"]!
    assert.deepStrictEqual({ held, waiters }, { held: 0, waiters: 0 })
    // The root was merged into a token of its own only if that is refused; so it is the last one, with all that was split.
    assert.strictEqual(left, 1)
    assert.strictEqual(yield* root.expectedUse, 100)
  })

describe("random programs with tokens of a quota in random interleavings", () => {
  it("keep the books, and what is expected, after every step", () =>
    forSeeds(300, (seed) => {
      const random = makeRandom(seed)
      runModel(random, (random, watch) => Effect.provide(quotaModel(random, watch), TestClock.layer()))
    }))
})
