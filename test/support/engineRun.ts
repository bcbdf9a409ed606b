/** Runs the steps of a program on the library, each until nobody can go on, on a scheduler that runs at once and a `TestClock`. */
import { Cause, Context, Duration, Effect, Exit, type Fiber, Layer, Option, Scheduler, Scope, TxRef } from "effect"
import { TestClock } from "effect/testing"
import {
  Budget,
  BudgetExceeded,
  BudgetGuard,
  BudgetPool,
  type BudgetStore,
  FailedReservation,
  type Limit,
  MemoryBudgetStore,
  Policy,
  type Reservation,
  Usd
} from "../../src/index.ts"
import type { Strategy } from "./model.ts"
import { POOL, type Result, type Settlement } from "./modelRun.ts"
import type { BudgetSetup, RequestStep, Setup, Step, Target, Usage } from "./programs.ts"

/** The only place that names the store under test: a new one each time the layer is built. */
const storeLayer: Layer.Layer<BudgetStore.BudgetStore> = MemoryBudgetStore.layer

class B0 extends Budget.Service<B0>()("b0") {}
class B1 extends Budget.Service<B1>()("b1") {}
class B2 extends Budget.Service<B2>()("b2") {}
const KEYS = [B0, B1, B2] as const

/** What every face has in common, whatever it counts in. */
interface Face extends Reservation.Reservable<unknown> {
  readonly tryReserve: (
    amount: unknown,
    options?: Reservation.Options
  ) => Effect.Effect<Option.Option<Reservation.Reservation<unknown>>, never, Scope.Scope>
}

interface Options extends Reservation.Options {
  readonly patience?: number | undefined
}

type Handle = Reservation.Reservation<unknown>

/** Where the library of today lacks an operation of the design, a program that uses it is not made. */
interface Adjustable {
  readonly topUp: (amount: number) => Effect.Effect<void>
  readonly reset: Effect.Effect<void>
  readonly setLimit: (
    limits: ReadonlyArray<Limit.Limit>,
    options?: { readonly strategy: Strategy }
  ) => Effect.Effect<void>
}

interface Charging {
  readonly charge: (usage: BudgetPool.Usage) => Effect.Effect<void>
}

/** How a face counts, as the plain numbers of a program. */
interface Counting {
  readonly face: Face
  readonly encode: (usage: Usage) => unknown
  readonly decode: (amount: unknown) => Usage
}

export type Raw =
  | { readonly _tag: "Granted"; readonly amounts: Usage }
  | { readonly _tag: "None" }
  | { readonly _tag: "Exceeded"; readonly error: BudgetExceeded; readonly defect: boolean }
  | { readonly _tag: "Failed"; readonly error: FailedReservation }
  | { readonly _tag: "Died"; readonly defect: unknown }
  | { readonly _tag: "Interrupted" }

type Snapshot = BudgetStore.Snapshot

const MOST_TASKS = 100_000

/** Tasks in the order of the usual scheduler, run when told. */
export class Turns {
  private tasks: Array<() => void> = []
  readonly scheduler = new Scheduler.MixedScheduler("async", (task) => {
    this.tasks.push(task)
    return () => void (this.tasks = this.tasks.filter((other) => other !== task))
  })

  untilQuiet(): void {
    for (let i = 0; this.tasks.length > 0; i++) {
      if (i > MOST_TASKS) throw new Error("does not come to an end")
      this.tasks.shift()!()
    }
  }
}

export class EngineRun {
  private readonly turns = new Turns()
  private readonly scope = Scope.makeUnsafe()
  private context: Context.Context<never> = Context.make(Scheduler.Scheduler, this.turns.scheduler)
  private readonly counting = new Map<Target, Counting>()
  private readonly adjustable = new Map<Target, Adjustable>()
  private readonly handles = new Map<number, readonly [Handle, Counting]>()
  private readonly fibers = new Map<number, Fiber.Fiber<unknown, unknown>>()
  private readonly ends = new Map<number, (how: "succeeded" | "failed") => void>()
  private answers: Array<readonly [id: number, answer: Raw]> = []
  private readonly guard: BudgetGuard.BudgetGuard | undefined
  private readonly pool: BudgetPool.BudgetPool | undefined
  private readonly counter = TxRef.makeUnsafe(0)
  /** All snapshots, in the order in which the model opens its accounts. */
  private readonly look: Effect.Effect<ReadonlyArray<Snapshot>>

  constructor({ budgets, guard, policy, pool }: Setup, start: number) {
    const clock = this.now(Layer.buildWithScope(TestClock.layer(), this.scope))
    this.context = Context.merge(this.context, clock) as Context.Context<never>
    this.now(TestClock.setTime(start))
    const store = this.now(Layer.buildWithScope(Layer.fresh(storeLayer), this.scope))
    const open = <A>(make: Effect.Effect<A, never, BudgetStore.BudgetStore | Scope.Scope>): A =>
      this.now(Effect.provide(make, Context.add(store, Scope.Scope, this.scope)))

    const opened = budgets.map((setup) => open(Budget.make(optionsOf(setup))))
    opened.forEach((budget, i) => {
      this.counting.set(i, countingOne(budget))
      this.adjustable.set(i, budget as unknown as Adjustable)
    })
    const looks: Array<Effect.Effect<ReadonlyArray<Snapshot>>> = opened.map((budget) =>
      Effect.map(budget.snapshot, (snapshot) => [snapshot])
    )
    if (policy !== undefined) {
      const services = Context.empty().pipe(
        Context.add(B0, opened[0]!),
        Context.add(B1, opened[1]!),
        Context.add(B2, opened[2] ?? opened[0]!)
      )
      const members = Object.fromEntries(policy.map((i) => [`m${i}`, KEYS[i]!]))
      const made = this.now(Effect.provide(Policy.make("policy", members), services))
      this.counting.set("policy", countingPolicy(made as unknown as Face, Object.keys(members)))
    }
    if (pool !== undefined) {
      const [input, output, total, cost] = pool.limits
      this.pool = open(BudgetPool.make({ ...optionsOf(pool), caps: capsOf([input!, output!, total!, cost!]) }))
      const made = this.pool
      this.counting.set("pool", countingPool(made))
      this.adjustable.set("pool", {
        topUp: () => Effect.die("a pool is not topped up"),
        reset: made.reset,
        setLimit: (limits) => made.setCaps(capsOf(limits))
      })
      looks.push(Effect.map(made.snapshot, (snapshot) => POOL.map((kind) => snapshot[kind])))
    }
    if (guard !== undefined) {
      this.guard = open(BudgetGuard.make(optionsOf(guard)))
      this.counting.set("guard", countingOne(this.guard))
      this.adjustable.set("guard", this.guard as unknown as Adjustable)
      looks.push(Effect.map(this.guard.snapshot, (snapshot) => [snapshot]))
    }
    this.look = Effect.map(Effect.all(looks), (snapshots) => snapshots.flat())
  }

  snapshots(): ReadonlyArray<Snapshot> {
    return this.now(this.look)
  }

  run(step: Step): { readonly result: Result; readonly answers: ReadonlyArray<readonly [number, Raw]> } {
    this.answers = []
    const result = this.apply(step)
    this.turns.untilQuiet()
    return { result, answers: this.answers }
  }

  /** Ends all fibers, so that a timer that is left does not keep the process. */
  close(): void {
    for (const fiber of this.fibers.values()) fiber.interruptUnsafe()
    this.turns.untilQuiet()
    this.now(Scope.close(this.scope, Exit.void))
  }

  /** Runs an effect that has nothing to wait for. */
  private now<A, E, R>(effect: Effect.Effect<A, E, R>): A {
    const exit = this.exitNow(effect)
    if (Exit.isSuccess(exit)) return exit.value
    throw Cause.squash(exit.cause)
  }

  private exitNow<A, E, R>(effect: Effect.Effect<A, E, R>): Exit.Exit<A, E> {
    const fiber = this.fork(effect)
    this.turns.untilQuiet()
    const exit = fiber.pollUnsafe()
    if (exit === undefined) throw new Error("what has nothing to wait for waits")
    return exit
  }

  private fork<A, E, R>(effect: Effect.Effect<A, E, R>): Fiber.Fiber<A, E> {
    return Effect.runForkWith(this.context as Context.Context<R>)(effect)
  }

  private apply(step: Step): Result {
    switch (step._tag) {
      case "Request":
        return this.start(step.id, this.request(step))
      case "Extend":
        return this.extend(step.id, step.of, step.amounts)
      case "StopWaiting":
        this.fibers.get(step.of)!.interruptUnsafe()
        return "done"
      case "Commit": {
        const [handle, { encode }] = this.handles.get(step.of)!
        return this.settlement(step.of, handle.commit(encode(step.amounts)))
      }
      case "Release":
        return this.settlement(step.of, this.handles.get(step.of)![0].release)
      case "Progress": {
        const [handle, { encode }] = this.handles.get(step.of)!
        this.now(handle.progress(encode(step.amounts)))
        return "done"
      }
      case "End":
        if (step.how === "interrupted") this.fibers.get(step.of)!.interruptUnsafe()
        else this.ends.get(step.of)!(step.how)
        this.turns.untilQuiet()
        return this.settlement(step.of, this.handles.get(step.of)![0].release)
      case "Advance":
        return this.done(TestClock.adjust(step.millis))
      case "SetBack":
        return this.done(
          TestClock.testClockWith((clock) => clock.setTime(Math.max(0, clock.currentTimeMillisUnsafe() - step.millis)))
        )
      default:
        return this.others(step)
    }
  }

  private others(step: Step): Result {
    switch (step._tag) {
      case "Take":
        return this.start(
          step.id,
          Effect.map(this.guard!.tryReserve(step.cost), (taken) =>
            this.answer(step.id, taken ? { _tag: "Granted", amounts: [step.cost] } : { _tag: "None" })
          )
        )
      case "Give":
        return Exit.isSuccess(this.exitNow(this.guard!.release(step.cost))) ? "done" : "died"
      case "Record":
        return this.start(
          step.id,
          Effect.map(this.pool!.record(usageOf(step.amounts)), () =>
            this.answer(step.id, { _tag: "Granted", amounts: step.amounts })
          )
        )
      case "Charge":
        return this.done((this.pool as unknown as Charging).charge(usageOf(step.amounts)))
      case "TopUp":
        return this.done(this.adjustable.get(step.target)!.topUp(step.amount))
      case "Reset":
        return this.done(this.adjustable.get(step.target)!.reset)
      case "SetLimit": {
        const { setLimit } = this.adjustable.get(step.target)!
        return this.done(
          step.strategy === undefined ? setLimit(step.limits) : setLimit(step.limits, { strategy: step.strategy })
        )
      }
      default:
        throw new Error(`no step of an engine: ${step._tag}`)
    }
  }

  private done(effect: Effect.Effect<void>): Result {
    this.now(effect)
    return "done"
  }

  private answer(id: number, answer: Raw): void {
    this.answers.push([id, answer])
  }

  /** Forks what may wait. Whatever it fails with is its answer. */
  private start<A, E, R>(id: number, effect: Effect.Effect<A, E, R>): Result {
    const fiber = this.fork(effect)
    this.fibers.set(id, fiber)
    fiber.addObserver((exit) => {
      if (Exit.isFailure(exit)) this.failed(id, exit.cause)
    })
    return "done"
  }

  private failed(id: number, cause: Cause.Cause<unknown>): void {
    if (Cause.hasInterrupts(cause)) return this.answer(id, { _tag: "Interrupted" })
    const error = Cause.squash(cause)
    const defect = Cause.hasDies(cause)
    if (error instanceof BudgetExceeded) return this.answer(id, { _tag: "Exceeded", error, defect })
    if (error instanceof FailedReservation && !defect) return this.answer(id, { _tag: "Failed", error })
    if (error !== "on purpose") this.answer(id, { _tag: "Died", defect: error })
  }

  private request(step: RequestStep): Effect.Effect<unknown, unknown> {
    const counting = this.counting.get(step.target)!
    const { encode, face } = counting
    const amount = encode(step.amounts)
    const use = (reservation: Handle) => this.use(step.id, reservation, counting)
    const options = requestOptions(step)
    switch (step.via) {
      case "reserve":
        return Effect.scoped(Effect.flatMap(face.reserve(amount, options), use))
      case "withReservation":
        return face.withReservation(amount, use, options)
      case "reserveUpTo":
        return Effect.scoped(Effect.flatMap(face.reserveUpTo(amount, encode(step.wanted!), options), use))
      case "reserveTx": {
        const alongside = TxRef.update(this.counter, (count) => count + 1)
        return Effect.scoped(
          Effect.flatMap(face.reserveTx(amount, alongside, options), ({ reservation }) => use(reservation))
        )
      }
      case "tryReserve":
        return Effect.scoped(
          Effect.flatMap(face.tryReserve(amount, options), (reservation) =>
            Option.isSome(reservation)
              ? use(reservation.value)
              : Effect.sync(() => this.answer(step.id, { _tag: "None" }))
          )
        )
    }
  }

  /** Keeps what it has got until it is told how to end. */
  private use(id: number, reservation: Handle, counting: Counting): Effect.Effect<void, string> {
    return Effect.suspend(() => {
      this.handles.set(id, [reservation, counting])
      this.answer(id, { _tag: "Granted", amounts: counting.decode(reservation.amount) })
      return Effect.callback<void, string>((resume) => {
        this.ends.set(id, (how) => resume(how === "succeeded" ? Effect.void : Effect.fail("on purpose")))
      })
    })
  }

  private extend(id: number, of: number, usage: Usage): Result {
    const [reservation, { encode }] = this.handles.get(of)!
    const extend = Effect.map(reservation.extend(encode(usage)), () => {
      this.answer(id, { _tag: "Granted", amounts: usage })
    })
    return this.start(id, extend)
  }

  private settlement(of: number, settle: Effect.Effect<Reservation.Settlement<unknown>>): Settlement {
    const { cause, charged, held, overage, overran, refunded } = this.now(settle)
    const [, { decode }] = this.handles.get(of)!
    return {
      cause,
      held: decode(held),
      charged: decode(charged),
      refunded: decode(refunded),
      overage: decode(overage),
      overran
    }
  }
}

const optionsOf = ({ enforcement, limits, maxQueued, name, order, timeout }: BudgetSetup) => ({
  name,
  limit: limits,
  enforcement,
  order,
  maxQueued,
  timeout: timeout === undefined ? undefined : Duration.millis(timeout)
})

const requestOptions = ({ onSuccess, patience, priority, timeout }: RequestStep): Options => ({
  ...(priority === undefined ? {} : { priority }),
  ...(timeout === undefined ? {} : { timeout: Duration.millis(timeout) }),
  ...(patience === undefined ? {} : { patience }),
  ...(onSuccess === undefined ? {} : { onSuccess })
})

const capsOf = (limits: ReadonlyArray<Limit.Limit>): BudgetPool.Caps => {
  const [input, output, total, cost] = limits.map((limit) => ("amount" in limit ? limit.amount : undefined))
  return { input, output, total, cost: cost === undefined ? undefined : Usd.nanos(cost) }
}

const countingOne = (face: Reservation.Reservable<number>): Counting => ({
  face: face as unknown as Face,
  encode: ([amount]) => amount,
  decode: (amount) => [amount as number]
})

const countingPolicy = (face: Face, keys: ReadonlyArray<string>): Counting => ({
  face,
  encode: (usage) => Object.fromEntries(keys.map((key, i) => [key, usage[i]])),
  decode: (amounts) => keys.map((key) => (amounts as Record<string, number>)[key]!)
})

const usageOf = ([input, output, cost]: Usage): BudgetPool.Usage => ({
  input: input!,
  output: output!,
  cost: Usd.nanos(cost!)
})

const countingPool = (face: BudgetPool.BudgetPool): Counting => ({
  face: face as unknown as Face,
  encode: usageOf,
  decode: (amount) => {
    const { cost, input, output } = amount as BudgetPool.Usage
    return [input, output, cost]
  }
})
