/** Timing: cases run interleaved, so that a disturbance of the machine meets all of them alike. */
import * as Effect from "effect/Effect"

export interface Case {
  readonly name: string
  /** How it is driven: by a loop of effects, by a loop of `await`, or by itself (one operation is the whole of it). */
  readonly kind: "effect" | "promise" | "whole"
  /** Answers how many nanoseconds `count` operations took. */
  readonly run: (count: number) => Promise<number>
}

/** How the time of one case compares with that of another. */
export interface Comparison {
  readonly text: string
  readonly of: Case
  readonly to: Case
  /** The goal; without one, the ratio is for information. */
  readonly atMost?: number
  readonly atLeast?: number
}

export interface Suite {
  readonly title: string
  readonly cases: ReadonlyArray<Case>
  readonly comparisons: ReadonlyArray<Comparison>
}

/** Nanoseconds per operation, one for each repeat. */
export type Samples = ReadonlyMap<Case, ReadonlyArray<number>>

/** CPU time of the process, collector included: on a shared machine, the clock on the wall would time the others too. */
export const nanosNow = (): number => {
  const { system, user } = process.cpuUsage()
  return (user + system) * 1e3
}

/** An operation that is an effect. Each turn of the loop builds it anew, as a program does. */
export const effectCase = (name: string, operation: () => Effect.Effect<unknown, unknown>): Case => ({
  name,
  kind: "effect",
  run: (count) => {
    let done = 0
    const loop = Effect.whileLoop({ while: () => done < count, body: operation, step: () => done++ })
    return timed(() => Effect.runPromise(loop))
  }
})

/** An operation that answers promises. */
export const promiseCase = (name: string, operation: () => Promise<unknown>): Case => ({
  name,
  kind: "promise",
  run: (count) =>
    timed(async () => {
      for (let done = 0; done < count; done++) await operation()
    })
})

const timed = async (run: () => Promise<unknown>): Promise<number> => {
  const start = nanosNow()
  await run()
  return nanosNow() - start
}

/** What the loop of the effect cases costs by itself. */
export const emptyLoop = effectCase("the loop by itself (Effect.void)", () => Effect.void)

export interface Settings {
  readonly repeats: number
  readonly warmUpMillis: number
  /** How long one sample of a loop takes, about. A case that is driven by itself takes as long as it does. */
  readonly sampleMillis: number
}

/** Runs every case once in each repeat, in rotated order. The first repeat is not counted. */
export const measure = async (cases: ReadonlyArray<Case>, settings: Settings): Promise<Samples> => {
  const counts = new Map<Case, number>()
  for (const one of cases) counts.set(one, await warmUp(one, settings))
  const samples = new Map<Case, Array<number>>(cases.map((one) => [one, []]))
  for (let repeat = 0; repeat <= settings.repeats; repeat++) {
    for (let i = 0; i < cases.length; i++) {
      const one = cases[(i + repeat) % cases.length]!
      const count = counts.get(one)!
      // What the case before left behind is not paid by this one.
      await globalThis.gc?.({ type: one.kind === "whole" ? "major" : "minor", execution: "async" })
      const nanos = await one.run(count)
      if (repeat > 0) samples.get(one)!.push(nanos / count)
    }
  }
  return samples
}

/** Runs a case until it is warm, and answers how many operations make a sample. */
const warmUp = async (one: Case, { sampleMillis, warmUpMillis }: Settings): Promise<number> => {
  let count = one.kind === "whole" ? 1 : 1_000
  for (let spent = 0, last = 0; spent < warmUpMillis * 1e6; spent += last) {
    last = await one.run(count)
    if (one.kind !== "whole") count = Math.ceil((count * sampleMillis * 1e6) / Math.max(last, 1e4))
  }
  return count
}

export interface Spread {
  readonly median: number
  /** A quarter of the repeats is below. */
  readonly low: number
  /** A quarter of the repeats is above. */
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
 * The ratio of two cases, taken within each repeat. Between two effects, the loop's own cost does not count: it would draw the
 * ratio to 1.
 */
export const ratio = (samples: Samples, { of, to }: Comparison): Spread | undefined => {
  const [over, under, loop] = [samples.get(of), samples.get(to), samples.get(emptyLoop)]
  if (over === undefined || under === undefined) return undefined
  const net = of.kind === "effect" && to.kind === "effect" ? loop : undefined
  return spread(over.map((nanos, k) => (nanos - (net?.[k] ?? 0)) / (under[k]! - (net?.[k] ?? 0))))
}
