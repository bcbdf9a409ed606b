/**
 * Runs a program again and again and interrupts it at every point where it can be interrupted: for each number of operations
 * between two yields of the scheduler, after each number of yields, until the program comes through uninterrupted.
 */
import { Effect, Exit, Fiber, Scheduler } from "effect"

export interface Probe {
  readonly program: Effect.Effect<unknown, unknown>
  /** What is wrong once the program has ended and all others are done; `undefined` when nothing is. */
  readonly problem: Effect.Effect<string | undefined>
}

export interface SweepResult {
  readonly runs: number
  readonly interrupted: number
  readonly problems: ReadonlyArray<string>
}

const FEWEST_OPERATIONS = 3
const MOST_OPERATIONS = 80
const MOST_YIELDS = 400

export const sweep = (
  probe: Effect.Effect<Probe>,
  { mostOperations = MOST_OPERATIONS }: { readonly mostOperations?: number } = {}
): Effect.Effect<SweepResult> =>
  Effect.gen(function* () {
    let runs = 0
    let interrupted = 0
    const problems: Array<string> = []
    for (let operations = FEWEST_OPERATIONS; operations <= mostOperations; operations++) {
      for (let yields = 0; yields < MOST_YIELDS; yields++) {
        const { problem, program } = yield* probe
        const fiber = yield* Effect.forkDetach(Effect.provideService(program, Scheduler.MaxOpsBeforeYield, operations))
        for (let i = 0; i < yields; i++) yield* Effect.yieldNow
        const ended = fiber.pollUnsafe() !== undefined
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        // Whoever was woken meanwhile comes to its end.
        for (let i = 0; i < 20; i++) yield* Effect.yieldNow
        runs++
        if (Exit.hasInterrupts(exit)) interrupted++
        const found = yield* problem
        if (found !== undefined) problems.push(`after ${yields} yields with ${operations} operations between: ${found}`)
        if (ended) break
      }
    }
    return { runs, interrupted, problems }
  })
