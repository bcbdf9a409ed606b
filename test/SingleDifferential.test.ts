/**
 * Runs the same random steps on two budgets: one with a limit, and one with the same limit and a second that never denies. The
 * store has a shorter path for the first (`memory/single.ts`), which must do the same as the general one.
 */
import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Context,
  Duration,
  Effect,
  Exit,
  type Fiber,
  Layer,
  Option,
  Scheduler,
  Scope,
  Stream,
  TxRef
} from "effect"
import { TestClock } from "effect/testing"
import {
  Budget,
  BudgetError,
  type BudgetStore,
  type Ledger,
  Limit,
  MemoryBudgetStore,
  type Reservation
} from "../src/index.ts"
import { Turns } from "./support/engineRun.ts"
import { audit, audited } from "./utils/auditor.ts"
import { forSeeds, make as makeRandom, type Random } from "./utils/random.ts"

const PROGRAMS = 120
const STEPS = 60
const MAX = Number.MAX_SAFE_INTEGER

// --------------------------------------------------------------------------------------------------------------- the programs

const limits = {
  capacity: (random) => Limit.capacity(random.int(0, 20)),
  rate: (random) =>
    Limit.rate({
      amount: random.int(1, 20),
      per: Duration.millis(random.pick([1, 333, 1_000])),
      burst: random.int(1, 20)
    }),
  "rate by interval": (random) =>
    Limit.rate({
      amount: random.int(1, 20),
      per: Duration.millis(random.pick([100, 333, 1_000])),
      burst: random.int(1, 20),
      refill: "interval"
    }),
  window: (random) =>
    Limit.window({ amount: random.int(0, 20), every: Duration.millis(random.pick([100, 333, 1_000])) }),
  concurrency: (random) => Limit.concurrency(random.int(0, 20)),
  unlimited: () => Limit.unlimited
} satisfies Record<string, (random: Random) => Limit.Limit>

type Kind = keyof typeof limits
const kinds = Object.keys(limits) as ReadonlyArray<Kind>

interface Setup {
  readonly limit: Limit.Limit
  readonly start: number
  readonly watched: boolean
  readonly enforcement: BudgetStore.Enforcement
  readonly order: BudgetStore.Order
  readonly maxQueued: number | undefined
}

const setupOf = (random: Random, kind: Kind): Setup => ({
  limit: limits[kind](random),
  start: random.int(0, 2_000),
  watched: random.chance(0.5),
  enforcement: random.pick(["reject", "throttle", "throttle", "terminate"]),
  order: random.pick(["fifo", "firstFit"]),
  maxQueued: random.chance(0.5) ? random.int(1, 2) : undefined
})

type Step =
  | {
      readonly _tag: "Request"
      readonly id: number
      readonly how: "reserve" | "tryReserve" | "withReservation" | "reserveUpTo"
      readonly amount: number
      readonly wanted: number
      readonly options: Reservation.Options | undefined
    }
  | { readonly _tag: "Commit"; readonly of: number; readonly amount: number }
  | { readonly _tag: "Release"; readonly of: number }
  | { readonly _tag: "Progress"; readonly of: number; readonly amount: number }
  | { readonly _tag: "Extend"; readonly of: number; readonly amount: number }
  | { readonly _tag: "End"; readonly of: number; readonly how: "succeeded" | "failed" | "interrupted" }
  | { readonly _tag: "StopWaiting"; readonly of: number }
  | { readonly _tag: "Adjust"; readonly millis: number }
  | { readonly _tag: "StepBack"; readonly millis: number }
  | { readonly _tag: "TopUp"; readonly amount: number }
  | { readonly _tag: "Reset" }
  | { readonly _tag: "SetLimit"; readonly limit: Limit.Limit; readonly strategy: Ledger.SetLimitStrategy | undefined }

/** Small: an unlimited budget denies what it cannot count, and the second limit must never deny. */
const amountOf = (random: Random): number => (random.chance(0.1) ? 0 : random.int(1, 12))

const optionsOf = (random: Random): Reservation.Options | undefined =>
  random.chance(0.7)
    ? undefined
    : {
        priority: random.pick([undefined, 0, 1]),
        timeout: random.pick([undefined, 0, 50, 500]),
        onSuccess: random.pick([undefined, "charge", "release"])
      }

/** A charge that is less than the hold, all of it, more, or nothing; seldom near the most that books can count. */
const chargeOf = (random: Random, held: number): number => {
  switch (random.int(0, 4)) {
    case 0:
      return 0
    case 1:
      return held
    case 2:
      return Math.min(MAX, held + random.int(1, 10))
    case 3:
      return random.chance(0.1) ? MAX - random.int(0, 2) : amountOf(random)
    default:
      return random.int(0, held)
  }
}

const stepOf = (random: Random, kind: Kind, id: number, { handles, waiting }: Side): Step => {
  const held = [...handles.keys()]
  const waits = waiting()
  const choice = random.int(0, 99)
  if (held.length > 0 && choice < 50) {
    const of = random.pick(held)
    if (choice < 18) return { _tag: "Commit", of, amount: chargeOf(random, handles.get(of)!.amount) }
    if (choice < 23) return { _tag: "Release", of }
    if (choice < 27) return { _tag: "Progress", of, amount: chargeOf(random, handles.get(of)!.amount) }
    if (choice < 33) return { _tag: "Extend", of, amount: amountOf(random) }
    return { _tag: "End", of, how: random.pick(["succeeded", "failed", "interrupted"]) }
  }
  if (waits.length > 0 && choice < 54) return { _tag: "StopWaiting", of: random.pick(waits) }
  if (choice < 68) return { _tag: "Adjust", millis: random.pick([0, 1, 20, 100, 333, 1_000, 5_000]) }
  if (choice < 70) return { _tag: "StepBack", millis: random.pick([1, 100, 5_000]) }
  if (choice < 72) return { _tag: "TopUp", amount: random.chance(0.1) ? MAX - random.int(0, 2) : amountOf(random) }
  if (choice < 74) return { _tag: "Reset" }
  if (choice < 76) {
    const limit = limits[random.chance(0.7) ? kind : random.pick(kinds)](random)
    return { _tag: "SetLimit", limit, strategy: random.pick([undefined, "additive", "keepLevel", "reset"]) }
  }
  const amount = amountOf(random)
  return {
    _tag: "Request",
    id,
    how: random.pick(["reserve", "tryReserve", "withReservation", "withReservation", "reserveUpTo"]),
    amount,
    wanted: amount + random.int(0, 5),
    options: optionsOf(random)
  }
}

// ------------------------------------------------------------------------------------------------------------------ the sides

/** One of the two budgets, in a store of its own. */
class Side {
  readonly handles = new Map<number, Reservation.Reservation<number>>()
  private readonly turns = new Turns()
  private readonly scope = Scope.makeUnsafe()
  private readonly context: Context.Context<never>
  private readonly budget: Budget.Budget
  private readonly second: ReadonlyArray<Limit.Limit>
  private readonly requests = new Map<number, Fiber.Fiber<unknown, unknown>>()
  private readonly ends = new Map<number, (effect: Effect.Effect<void, string>) => void>()
  private lines: Array<string> = []
  private time: number

  /** `second`: the limits after the one under test. */
  constructor({ enforcement, limit, maxQueued, order, start, watched }: Setup, second: ReadonlyArray<Limit.Limit>) {
    this.second = second
    this.time = start
    const plain = Context.make(Scheduler.Scheduler, this.turns.scheduler) as Context.Context<never>
    this.context = plain
    this.context = Context.merge(plain, this.now(Layer.buildWithScope(TestClock.layer(), this.scope)))
    this.now(TestClock.setTime(start))
    const store = this.now(Layer.buildWithScope(Layer.fresh(MemoryBudgetStore.layer), this.scope))
    const options = { name: "budget", limit: this.limits(limit), enforcement, order, maxQueued }
    this.budget = this.now(Effect.provide(Budget.make(options), Context.add(store, Scope.Scope, this.scope)))
    if (watched) {
      this.now(
        Effect.forkIn(
          Stream.runForEach(this.budget.changes, (snapshot) =>
            Effect.sync(() => this.note("emitted", books(snapshot)))
          ),
          this.scope
        )
      )
      this.now(Effect.forkIn(Effect.suspend(this.readInTransaction), this.scope))
    }
  }

  /** Runs a step until nobody can go on. Returns what happened and, with `read`, the books. */
  run(step: Step, read: boolean): string {
    this.lines = []
    this.apply(step)
    this.turns.untilQuiet()
    if (read) this.note(books(this.now(this.budget.snapshot)))
    this.note(audit(audited(this.budget)) ?? "balances")
    return this.lines.join("\n    ")
  }

  close(): void {
    for (const fiber of this.requests.values()) fiber.interruptUnsafe()
    this.turns.untilQuiet()
    this.now(Scope.close(this.scope, Exit.void))
  }

  /** Reads the ledger under test in a transaction, now and whenever the store says that it changed. */
  private readonly readInTransaction = (): Effect.Effect<never> => {
    let before: { readonly ledger: Ledger.Ledger; readonly text: string } | undefined
    return Effect.tx(
      Effect.flatMap(TxRef.get(audited(this.budget)[0]!.books.cells[0]!), (ledger) => {
        if (before !== undefined && JSON.stringify(before.ledger) !== before.text) {
          this.note("a ledger that a transaction had read was changed in place")
        }
        before = { ledger, text: JSON.stringify(ledger) }
        this.note("transaction reads", before.text)
        return Effect.txRetry
      })
    )
  }

  /** The requests that have no answer yet. */
  readonly waiting = (): ReadonlyArray<number> => [...this.requests.keys()].filter((id) => !this.handles.has(id))

  private limits(limit: Limit.Limit): ReadonlyArray<Limit.Limit> {
    return [limit, ...this.second]
  }

  private note(...words: ReadonlyArray<unknown>): void {
    this.lines.push(words.join(" "))
  }

  private fork<A, E, R>(effect: Effect.Effect<A, E, R>): Fiber.Fiber<A, E> {
    return Effect.runForkWith(this.context as Context.Context<R>)(effect)
  }

  private exitNow<A, E, R>(effect: Effect.Effect<A, E, R>): Exit.Exit<A, E> {
    const fiber = this.fork(effect)
    this.turns.untilQuiet()
    return fiber.pollUnsafe() ?? assert.fail("an effect that has nothing to wait for waits")
  }

  private now<A, E, R>(effect: Effect.Effect<A, E, R>): A {
    const exit = this.exitNow(effect)
    if (Exit.isSuccess(exit)) return exit.value
    throw Cause.squash(exit.cause)
  }

  /** Runs an effect that has nothing to wait for, and notes its exit. */
  private noteNow<A, E, R>(effect: Effect.Effect<A, E, R>): void {
    this.note(exitOf(this.exitNow(effect)))
  }

  private apply(step: Step): void {
    const { budget } = this
    switch (step._tag) {
      case "Request":
        return this.request(step)
      case "Commit":
        return this.noteNow(this.handles.get(step.of)!.commit(step.amount))
      case "Release":
        return this.noteNow(this.handles.get(step.of)!.release)
      case "Progress":
        return this.noteNow(this.handles.get(step.of)!.progress(step.amount))
      case "Extend": {
        const { extend } = this.handles.get(step.of)!
        this.fork(extend(step.amount)).addObserver((exit) => this.note("extension of", step.of, exitOf(exit)))
        return
      }
      case "End":
        if (step.how === "interrupted") return this.requests.get(step.of)!.interruptUnsafe()
        return this.ends.get(step.of)!(step.how === "failed" ? Effect.fail("failed") : Effect.void)
      case "StopWaiting":
        return this.requests.get(step.of)!.interruptUnsafe()
      case "Adjust":
        this.time += step.millis
        return this.now(TestClock.setTime(this.time))
      case "StepBack":
        this.time -= step.millis
        return this.now(TestClock.setTime(this.time))
      case "TopUp":
        return this.noteNow(budget.topUp(step.amount))
      case "Reset":
        return this.noteNow(budget.reset)
      case "SetLimit":
        return this.noteNow(budget.setLimit(this.limits(step.limit), { strategy: step.strategy }))
    }
  }

  private request({ amount, how, id, options, wanted }: Step & { readonly _tag: "Request" }): void {
    const { budget } = this
    const use = (reservation: Reservation.Reservation<number>) =>
      Effect.callback<void, string>((resume) => {
        this.note("granted", id, reservation.amount)
        this.handles.set(id, reservation)
        this.ends.set(id, resume)
      })
    const run = (): Effect.Effect<void, unknown> => {
      switch (how) {
        case "reserve":
          return Effect.scoped(Effect.flatMap(budget.reserve(amount, options), use))
        case "tryReserve":
          return Effect.scoped(
            Effect.flatMap(
              budget.tryReserve(amount, options),
              Option.match({ onNone: () => Effect.fail("none"), onSome: use })
            )
          )
        case "withReservation":
          return budget.withReservation(amount, use, options)
        case "reserveUpTo":
          return Effect.scoped(Effect.flatMap(budget.reserveUpTo(amount, wanted, options), use))
      }
    }
    const fiber = this.fork(run())
    this.requests.set(id, fiber)
    fiber.addObserver((exit) => {
      this.note("end of", id, exitOf(exit))
      this.handles.delete(id)
      this.requests.delete(id)
    })
  }
}

/** The books of the limit under test. */
const books = ({ charged, ledgers, overage, settled, waiters }: BudgetStore.Snapshot): string =>
  JSON.stringify({ ledger: ledgers[0], waiters, charged, overage, settled })

const exitOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return `succeeded ${JSON.stringify(exit.value)}`
  if (Cause.hasInterrupts(exit.cause)) return "interrupted"
  const error = Cause.squash(exit.cause)
  if (error instanceof BudgetError.BudgetExceeded) {
    const { available, budget, limit, requested, retryAfter } = error
    const after = retryAfter === undefined ? undefined : Duration.toMillis(retryAfter)
    return `exceeded ${JSON.stringify({ budget, limit, requested, available, after })}`
  }
  return String(error instanceof Error ? `${error.name} ${error.message}` : error)
}

// ------------------------------------------------------------------------------------------------------------------ the tests

/** Runs one program on both sides. Returns how they differ, with all steps up to there. */
const compare = (seed: number, kind: Kind, seen: Set<string>): string | undefined => {
  const random = makeRandom(seed)
  const setup = setupOf(random, kind)
  const one = new Side(setup, [])
  const two = new Side(setup, [Limit.unlimited])
  const steps: Array<string> = []
  try {
    for (let id = 0; id < STEPS; id++) {
      const step = stepOf(random, kind, id, one)
      // A read brings the books up to now. Steps that do so themselves are only tested where no read came before them.
      const read = random.chance(0.5)
      steps.push(`${JSON.stringify(step)}${read ? ", read" : ""}`)
      const [single, general] = [one.run(step, read), two.run(step, read)]
      for (const word of SEEN) if (single.includes(word)) seen.add(word)
      if (single !== general) {
        const difference = `one limit:\n    ${single}\n  two limits:\n    ${general}`
        return `${JSON.stringify(setup)}\n${steps.join("\n")}\n  ${difference}`
      }
    }
  } finally {
    one.close()
    two.close()
  }
  return undefined
}

/** Of many programs, each of these happens in at least one. */
const SEEN = [
  "granted",
  "exceeded",
  "no room within",
  "waiting already",
  "emitted",
  "transaction reads",
  `"overran":["budget"]`,
  "none"
]

/** An unlimited budget denies next to nothing. */
const seenOf = (kind: Kind): ReadonlyArray<string> => (kind === "unlimited" ? ["granted", "emitted"] : SEEN)

describe("a budget with one limit", () => {
  for (const kind of kinds) {
    it(`of the kind ${kind} does the same as one with a second limit that never denies`, () => {
      const seen = new Set<string>()
      let programs = 0
      forSeeds(PROGRAMS, (seed) => {
        programs++
        const difference = compare(seed, kind, seen)
        if (difference !== undefined) throw new Error(`a difference of the kind ${kind}\n${difference}`)
      })
      if (programs < PROGRAMS) return
      assert.deepStrictEqual(
        seenOf(kind).filter((word) => !seen.has(word)),
        []
      )
    })
  }
})
