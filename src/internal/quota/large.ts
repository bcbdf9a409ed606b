/**
 * Work on large texts that leaves the event loop free for others.
 */
import * as Effect from "effect/Effect"
import type * as Threads from "node:worker_threads"
import { join } from "./pieces.ts"
import type { Answer } from "./worker.ts"
import type { Parsed } from "./yaml.ts"

/** How long one slice blocks the event loop. */
const SLICE_MILLIS = 8

/** Runs the steps of a generator in slices of a few milliseconds. */
export const inSlices = <A>(steps: () => Generator<unknown, A>): Effect.Effect<A> =>
  Effect.suspend(() => {
    const running = steps()
    const slice: Effect.Effect<A> = Effect.suspend(() => {
      const end = performance.now() + SLICE_MILLIS
      do {
        const step = running.next()
        if (step.done === true) return Effect.succeed(step.value)
      } while (performance.now() < end)
      return Effect.andThen(Effect.yieldNow, slice)
    })
    return slice
  })

/** The parser creates many objects that live until its end. With the default, the collector copies them again and again. */
const YOUNG_MEGABYTES = 64

/** Not an import, which bundlers for browsers would try to resolve. */
const threads = (): typeof Threads | undefined =>
  typeof process === "undefined" ? undefined : process.getBuiltinModule?.("node:worker_threads")

const file = new URL(import.meta.url.endsWith(".ts") ? "./worker.ts" : "./worker.js", import.meta.url)

/** Parses in a worker thread; in this thread where no worker can be started, such as in a browser or a bundle. */
export const parseLarge = (text: string, parse: (text: string) => Parsed): Effect.Effect<Parsed> =>
  Effect.callback<Parsed>((resume) => {
    const here = Effect.sync((): Parsed => ({ keysOf: Object.keys, ...parse(text) }))
    let worker: Threads.Worker
    try {
      const { Worker } = threads() ?? {}
      if (Worker === undefined) return resume(here)
      worker = new Worker(file, { resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MEGABYTES } })
    } catch {
      return resume(here)
    }
    const joined = join()
    let ready = false
    const settle = (effect: Effect.Effect<Parsed>) => {
      void worker.terminate()
      resume(effect)
    }
    worker.on("message", (answer: Answer) => {
      if ("problem" in answer) return settle(Effect.succeed(answer))
      if ("end" in answer) return settle(Effect.succeed(joined.end()))
      if ("pieces" in answer) joined.add(answer.pieces)
      worker.postMessage(ready ? "next" : text)
      ready = true
    })
    worker.on("error", (error) => settle(ready ? Effect.die(error) : here))
    worker.on("exit", () => settle(Effect.die(new Error("the thread that parses a manifest was stopped"))))
    return Effect.promise(() => worker.terminate())
  })
