/** Timing: all cases run interleaved, so that a disturbance of the machine affects them alike. */
import * as Effect from "effect/Effect"
import { setFlagsFromString } from "node:v8"

export interface Case {
  readonly name: string
  /** The driver: a loop of effects, a loop of `await`, or the case itself (all of it is one operation). */
  readonly kind: "effect" | "promise" | "whole"
  /** Runs `count` operations. Returns the nanoseconds that they took. */
  readonly run: (count: number) => Promise<number>
  /** Runs after all samples. Fails unless the state is the result of exactly `operations` operations. */
  readonly check?: Check | undefined
}

export type Check = (operations: number) => Effect.Effect<void>

/** How the time of one case compares with the time of another. */
export interface Comparison {
  readonly text: string
  readonly of: Case
  readonly to: Case
  /** `x` (default): the ratio of the times. `us`: their difference in microseconds. */
  readonly unit?: "x" | "us" | undefined
  /** The goal. A comparison without one is for information. */
  readonly atMost?: number | undefined
  readonly atLeast?: number | undefined
}

export interface Suite {
  readonly title: string
  readonly cases: ReadonlyArray<Case>
  readonly comparisons: ReadonlyArray<Comparison>
}

/** Nanoseconds per operation, one entry for each repeat. */
export type Samples = ReadonlyMap<Case, ReadonlyArray<number>>

/** CPU time of the process, garbage collection included. Wall-clock time would include other processes of a shared machine. */
export const nanosNow = (): number => {
  const { system, user } = process.cpuUsage()
  return (user + system) * 1e3
}

export const collectGarbage = async (type: "major" | "minor"): Promise<void> =>
  globalThis.gc?.({ type, execution: "async" })

/** An operation that is an effect. Each iteration of the loop builds the effect, as a program does. */
export const effectCase = (
  name: string,
  operation: () => Effect.Effect<unknown, unknown>,
  check?: Check | undefined
): Case => ({
  name,
  kind: "effect",
  run: (count) => {
    let done = 0
    const loop = Effect.whileLoop({ while: () => done < count, body: operation, step: () => done++ })
    return timed(() => Effect.runPromise(loop))
  },
  check
})

/** An operation that returns a promise. */
export const promiseCase = (name: string, operation: () => Promise<unknown>, check?: Check | undefined): Case => ({
  name,
  kind: "promise",
  run: (count) =>
    timed(async () => {
      for (let done = 0; done < count; done++) await operation()
    }),
  check
})

const timed = async (run: () => Promise<unknown>): Promise<number> => {
  const start = nanosNow()
  await run()
  return nanosNow() - start
}

/** The cost of the loop that drives the effect cases. */
export const emptyLoop = effectCase("the loop by itself (Effect.void)", () => Effect.void)

export interface Settings {
  readonly repeats: number
  readonly warmUpMillis: number
  /** Approximate duration of one sample of a loop. A case that drives itself has its own duration. */
  readonly sampleMillis: number
}

/** Runs every case once per repeat, in rotated order, and then checks each of them. The first repeat is not counted. */
export const measure = async (cases: ReadonlyArray<Case>, settings: Settings): Promise<Samples> => {
  // Each forced collection ages the functions of the cases that do not run. V8 would discard their code.
  setFlagsFromString("--no-flush-bytecode")
  const operations = new Map<Case, number>()
  const run = async (one: Case, count: number): Promise<number> => {
    operations.set(one, (operations.get(one) ?? 0) + count)
    return one.run(count)
  }
  const counts = new Map<Case, number>()
  for (const one of cases) counts.set(one, await warmUp(one.kind, (count) => run(one, count), settings))
  const samples = new Map<Case, Array<number>>(cases.map((one) => [one, []]))
  for (let repeat = 0; repeat <= settings.repeats; repeat++) {
    for (let i = 0; i < cases.length; i++) {
      const one = cases[(i + repeat) % cases.length]!
      const count = counts.get(one)!
      // Otherwise a case would pay for the garbage of the case before it.
      await collectGarbage(one.kind === "whole" ? "major" : "minor")
      const nanos = await run(one, count)
      if (repeat > 0) samples.get(one)!.push(nanos / count)
    }
  }
  for (const one of cases) await checkCase(one, operations.get(one)!)
  return samples
}

const checkCase = async ({ check, name }: Case, operations: number): Promise<void> => {
  if (check === undefined) return
  try {
    await Effect.runPromise(check(operations))
  } catch (cause) {
    throw new Error(`the result of "${name}" is wrong after ${operations} operations`, { cause })
  }
}

/** Runs a case until it is warm. Returns the number of operations that make one sample. */
const warmUp = async (
  kind: Case["kind"],
  run: Case["run"],
  { sampleMillis, warmUpMillis }: Settings
): Promise<number> => {
  let count = kind === "whole" ? 1 : 1_000
  for (let spent = 0, last = 0; spent < warmUpMillis * 1e6; spent += last) {
    last = await run(count)
    if (kind !== "whole") count = Math.ceil((count * sampleMillis * 1e6) / Math.max(last, 1e4))
  }
  return count
}

export interface Spread {
  readonly median: number
  /** The lower quartile of the repeats. */
  readonly low: number
  /** The upper quartile of the repeats. */
  readonly high: number
}

export const spread = (samples: ReadonlyArray<number>): Spread => {
  const sorted = [...samples].sort((a, b) => a - b)
  const at = (part: number) => {
    const index = part * (sorted.length - 1)
    const [below, above] = [sorted[Math.floor(index)]!, sorted[Math.ceil(index)]!]
    return below + (above - below) * (index % 1)
  }
  return { median: at(0.5), low: at(0.25), high: at(0.75) }
}

/**
 * Compares two cases within each repeat. Between two effects, the cost of the loop is subtracted first: it would draw the ratio
 * towards 1.
 */
export const compare = (samples: Samples, { of, to, unit }: Comparison): Spread | undefined => {
  const [over, under, loop] = [samples.get(of), samples.get(to), samples.get(emptyLoop)]
  if (over === undefined || under === undefined) return undefined
  if (unit === "us") return spread(over.map((nanos, k) => (nanos - under[k]!) / 1e3))
  const net = of.kind === "effect" && to.kind === "effect" ? loop : undefined
  return spread(over.map((nanos, k) => (nanos - (net?.[k] ?? 0)) / (under[k]! - (net?.[k] ?? 0))))
}
