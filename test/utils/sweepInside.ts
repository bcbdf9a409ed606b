/**
 * A sweep from inside: runs a program again and again and interrupts a fiber from within a hook that its own runtime calls (the
 * scheduler's or the tracer's), at the first call of the hook, at the second, and so on, until the program comes through with
 * fewer calls. The sweep of `sweep.ts` interrupts from outside, where a fiber has yielded; this one also reaches the steps between.
 *
 * Every run is synchronous: all fibers share one queue of tasks, which the sweep works off. So a run is the same each time.
 */
import { Cause, Context, Effect, Exit, Fiber, Layer, Option, Scheduler, Scope, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { MemoryBudgetStore } from "../../src/index.ts"
import { Quota, QuotaToken, type QuotaManifest } from "../../src/quota/index.ts"

// The names of the store and of the quotas, in one place: all that the sweep knows beyond the faces.

const memoryStore = MemoryBudgetStore.layer

export { QuotaToken, type QuotaManifest }

/** Makes the books of a scene in a store of its own. */
export const inMemory = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Layer.fresh(memoryStore))

/** Opens quotas, with books of their own, for the current scope. */
export const openQuota = (resources: QuotaManifest.Resources) =>
  Effect.map(Layer.build(Layer.fresh(Quota.layer({ environments: { test: resources } }))), Context.get(Quota))

type AnyFiber = Fiber.Fiber<unknown, unknown>

/** One run: fresh books, and the programs over them. */
export interface Scene {
  /** The construct under test. It has to succeed when nothing interrupts it. */
  readonly program: Effect.Effect<unknown, unknown>
  /** Whether the program, when nothing interrupts it, waits for `wake` or does without. Default: either. */
  readonly waits?: boolean | undefined
  /** Runs once the program has done all that it can: grants what it waits for. */
  readonly wake?: Effect.Effect<unknown, unknown> | undefined
  /** A second program, started by `arrive`. If there is one, it is the waiter; else the program is. */
  readonly bystander?: Effect.Effect<unknown, unknown> | undefined
  /** Runs when everything else has ended. */
  readonly after?: Effect.Effect<unknown> | undefined
  /** What is wrong in the end; `undefined` when nothing is. */
  readonly problem: Effect.Effect<string | undefined>
}

/** Makes the scene of one run. `arrive` starts the bystander, wherever the scene says. */
export type Probe = (arrive: Effect.Effect<void>) => Effect.Effect<Scene, never, Scope.Scope>

export interface Mode {
  /**
   * `shouldYield`: the scheduler is asked before each step of a fiber. `scheduleTask`: a fiber hands the scheduler a task, also in
   * the middle of a step. `tracer`: the tracer is called around each step, and when a span begins and ends.
   */
  readonly hook: "shouldYield" | "scheduleTask" | "tracer"
  /**
   * `itself`: the program is interrupted by its own hooks. `waiter`: whoever waits is interrupted by the hooks of the other
   * fibers, such as the one that is granting.
   */
  readonly victim: "itself" | "waiter"
}

export interface SweepResult {
  readonly runs: number
  readonly interrupted: number
  readonly problems: ReadonlyArray<string>
}

/** More hooks than any program here reaches: a sweep that goes on beyond them would not end. */
const MOST_HOOKS = 2_000
const MOST_TASKS = 100_000

/** The tasks of all fibers of a run, first in, first out. */
class Tasks {
  private tasks: Array<() => void> = []

  readonly dispatcher: Scheduler.SchedulerDispatcher = {
    scheduleTask: (task) => {
      this.tasks.push(task)
    },
    flush: () => this.run()
  }

  run(): void {
    let done = 0
    for (let task = this.tasks.shift(); task !== undefined; task = this.tasks.shift()) {
      if (++done > MOST_TASKS) throw new Error("the fibers of a run do not come to rest")
      task()
    }
  }

  /** A scheduler over these tasks that calls the hooks. */
  scheduler(asked: (fiber: AnyFiber) => void, given: () => void): Scheduler.Scheduler {
    const { dispatcher } = this
    return {
      executionMode: "sync",
      shouldYield: (fiber) => {
        asked(fiber)
        return false
      },
      makeDispatcher: () => ({
        scheduleTask: (task, priority) => {
          given()
          dispatcher.scheduleTask(task, priority)
        },
        flush: () => dispatcher.flush()
      })
    }
  }
}

/** Counts the calls of a hook, and interrupts at the n-th. */
class Hooks {
  calls = 0
  /** The first fiber that reaches a hook is the program's. */
  program: AnyFiber | undefined
  bystander: AnyFiber | undefined
  /** What the bystander will run. */
  waiting: Effect.Effect<unknown, unknown> | undefined

  readonly mode: Mode
  readonly at: number

  constructor(mode: Mode, at: number) {
    this.mode = mode
    this.at = at
  }

  get victim(): AnyFiber | undefined {
    return this.mode.victim === "waiter" && this.waiting !== undefined ? this.bystander : this.program
  }

  readonly look = (fiber: AnyFiber | undefined): void => {
    if (fiber === undefined) return
    this.program ??= fiber
    const { victim } = this
    if (victim === undefined || (fiber === victim) !== (this.mode.victim === "itself")) return
    if (++this.calls === this.at) victim.interruptUnsafe()
  }

  readonly lookNow = (): void => this.look(Fiber.getCurrent())

  /** The context of the fibers that are looked at. */
  install(context: Context.Context<never>, tasks: Tasks): Context.Context<never> {
    const { look, lookNow } = this
    const nothing = (): void => undefined
    switch (this.mode.hook) {
      case "shouldYield":
        return Context.add(context, Scheduler.Scheduler, tasks.scheduler(look, nothing))
      case "scheduleTask":
        return Context.add(
          context,
          Scheduler.Scheduler,
          // The first fiber is the program's, also when another is the first to hand over a task.
          tasks.scheduler((fiber) => void (this.program ??= fiber), lookNow)
        )
      case "tracer":
        return Context.add(context, Tracer.Tracer, interruptingTracer(look, lookNow))
    }
  }
}

const interruptingTracer = (look: (fiber: AnyFiber) => void, lookNow: () => void): Tracer.Tracer => {
  class LookingSpan extends Tracer.NativeSpan {
    override end(endTime: bigint, exit: Exit.Exit<unknown, unknown>): void {
      lookNow()
      super.end(endTime, exit)
    }
  }
  return Tracer.make({
    span: (options) => {
      lookNow()
      return new LookingSpan(options)
    },
    context: (primitive, fiber) => {
      look(fiber)
      const next = primitive["~effect/Effect/evaluate"](fiber)
      look(fiber)
      return next
    }
  })
}

interface Outcome {
  /** Whether the n-th call came. */
  readonly reached: boolean
  readonly interrupted: boolean
  readonly problem: string | undefined
}

/** One run, with an interruption at the n-th call of the hook. */
const runOnce = (context: Context.Context<never>, probe: Probe, mode: Mode, at: number): Outcome => {
  const tasks = new Tasks()
  const unseen = () => undefined
  const plain = Context.add(context, Scheduler.Scheduler, tasks.scheduler(unseen, unseen))
  const fork = <A, E>(effect: Effect.Effect<A, E>, where: Context.Context<never>): Fiber.Fiber<A, E> => {
    const fiber = Effect.runForkWith(where)(effect)
    tasks.run()
    return fiber
  }
  const done = <A, E>(effect: Effect.Effect<A, E>, where = plain): A => {
    const exit = fork(effect, where).pollUnsafe()
    if (exit !== undefined && Exit.isSuccess(exit)) return exit.value
    throw exit === undefined ? new Error("a part of the scene does not end") : Cause.squash(exit.cause)
  }

  const scope = Scope.makeUnsafe()
  const hooks = new Hooks(mode, at)
  let unexpected: string | undefined
  const arrive = Effect.suspend(() =>
    hooks.waiting === undefined
      ? Effect.void
      : Effect.map(Effect.forkDetach(hooks.waiting, { startImmediately: true }), (fiber) => {
          hooks.bystander = fiber
          if (fiber.pollUnsafe() !== undefined) unexpected = "the bystander does not wait"
        })
  )
  const scene = done(Scope.provide(probe(arrive), scope))
  hooks.waiting = scene.bystander
  const hooked = hooks.install(plain, tasks)

  const program = fork(scene.program, hooked)
  if (hooks.calls < at && scene.waits !== undefined && scene.waits !== (program.pollUnsafe() === undefined)) {
    unexpected = scene.waits ? "the program does not wait" : "the program waits"
  }
  if (scene.wake !== undefined) done(scene.wake, hooked)
  if (scene.after !== undefined) done(scene.after)
  const problem =
    unexpected ??
    unfinished("the program", program) ??
    unfinished("the bystander", hooks.bystander) ??
    done(scene.problem)
  done(Scope.close(scope, Exit.void))
  const exit = hooks.victim?.pollUnsafe()
  return { reached: hooks.calls >= at, interrupted: exit !== undefined && Exit.hasInterrupts(exit), problem }
}

/** Whoever is not interrupted succeeds, and nobody is left behind. */
const unfinished = (who: string, fiber: AnyFiber | undefined): string | undefined => {
  if (fiber === undefined) return undefined
  const exit = fiber.pollUnsafe()
  if (exit === undefined) return `${who} never ends`
  if (Exit.isSuccess(exit) || Exit.hasInterrupts(exit)) return undefined
  const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
  return `${who} ended with ${String(error ?? Cause.squash(exit.cause))}`
}

/** Interrupts at the first call of the hook, at the second, and so on, until the n-th call does not come any more. */
export const sweepInside = (probe: Probe, mode: Mode): Effect.Effect<SweepResult> =>
  Effect.gen(function* () {
    // The clock would warn that nobody advances it.
    yield* TestClock.adjust(0)
    const context = yield* Effect.context<never>()
    const problems: Array<string> = []
    let interrupted = 0
    for (let at = 1; at < MOST_HOOKS; at++) {
      const outcome = runOnce(context, probe, mode, at)
      if (outcome.interrupted) interrupted++
      if (outcome.problem !== undefined) {
        problems.push(
          outcome.reached
            ? `interrupted at call ${at} of ${mode.hook} (${mode.victim}): ${outcome.problem}`
            : `not interrupted: ${outcome.problem}`
        )
      }
      if (!outcome.reached) return { runs: at, interrupted, problems }
    }
    return yield* Effect.die(new Error(`${MOST_HOOKS} calls of ${mode.hook} do not end the program`))
  })
