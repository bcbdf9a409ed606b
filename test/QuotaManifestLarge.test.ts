import { assert, describe, it } from "@effect/vitest"
import { Effect, Equal, Exit, Fiber } from "effect"
import { once } from "node:events"
import type { Worker } from "node:worker_threads"
import { vi } from "vitest"
import { QuotaManifest } from "../src/quota/index.ts"
import { inSlices } from "../src/internal/quota/large.ts"
import { cut, join } from "../src/internal/quota/pieces.ts"
import { forSeeds, forSeedsEffect, make, type Random } from "./utils/random.ts"

/** Longer than every text that is parsed synchronously. */
const PADDING = `# ${"x".repeat(1_000_000)}\n`

const flow = (i: number) => `    resource-${i}: { limit: { type: capacity, value: 10 }, unit: page, units: pages }\n`
const block = (i: number) =>
  `    resource-${i}:\n      limit:\n        type: capacity\n        value: 10\n      unit: page\n`
const many = <A>(make: (i: number) => A): Array<A> => Array.from({ length: 13_000 }, (_, i) => make(i))
const production = (resource: (i: number) => string) => `environments:\n  production:\n${many(resource).join("")}`
const resources = Object.fromEntries(many((i) => [`resource-${i}`, { limit: { type: "capacity", value: 10 } }]))

const lines = (text: string) => text.split("\n").length
const problemsOf = (text: string) =>
  Effect.map(Effect.flip(QuotaManifest.parse(text, { file: "quotas.yaml" })), ({ problems }) => problems)

describe("a large manifest", () => {
  const json = JSON.stringify({ environments: { production: resources } }, null, 2)
  const texts: ReadonlyArray<readonly [what: string, text: string]> = [
    ["flow style", `${production(flow)}    last: "no end`],
    ["block style", `${production(block)}    last: { limit: 1`],
    ["JSON", json.slice(0, -1).trimEnd()]
  ]
  for (const [what, text] of texts) {
    it.live(`in ${what} names the last line for an error at its end`, () =>
      Effect.gen(function* () {
        assert.isAbove(text.length, 1_000_000)
        const [problem, ...others] = yield* problemsOf(text)
        assert.deepStrictEqual(others, [])
        assert.strictEqual(problem?.line, lines(text))
        assert.match(problem?.message ?? "", /still open/)
      })
    )
  }

  it.live("names the line of a key that is there twice", () =>
    Effect.gen(function* () {
      const text = `${production(flow)}${flow(7)}`
      assert.deepStrictEqual(yield* problemsOf(text), [
        { path: [], line: lines(text) - 1, message: 'the key "resource-7" is there twice' }
      ])
    })
  )

  it.live("has all its resources, in their order", () =>
    Effect.gen(function* () {
      const manifest = yield* QuotaManifest.parse(production(flow))
      const declared = manifest.environments["production"] ?? {}
      assert.deepStrictEqual(Object.keys(declared), Object.keys(resources))
      assert.isTrue(Equal.equals(manifest, yield* QuotaManifest.parse(production(block))))
    })
  )

  it.live("reports the problems of all its fields, and shows the first 1,000", () =>
    Effect.gen(function* () {
      const text = production((i) => flow(i).replace("value: 10", "value: 0"))
      const error = yield* Effect.flip(QuotaManifest.parse(text))
      assert.strictEqual(error.problems.length, 13_000)
      assert.deepStrictEqual(error.problems.at(-1)?.path, [
        ...["environments", "production", "resource-12999", "limit", "value"]
      ])
      const shown = error.message.split("\n")
      assert.strictEqual(shown.length, 1_001)
      assert.strictEqual(shown.at(-1), "and 12000 more")
      assert.instanceOf(error, Error)
      assert.instanceOf(error, QuotaManifest.ManifestError)
    })
  )
})

/** A manifest as JSON: mostly right, some fields wrong, some names that are special to JavaScript. */
const anyText = (random: Random): string => {
  const name = () => random.pick(["a", "b", "api-tokens", "007", "42", "__proto__", "constructor"])
  const some = <A>(most: number, make: () => A): { readonly [name: string]: A } =>
    Object.fromEntries(
      Array.from({ length: random.int(0, most) }, (_, i) => [random.chance(0.2) ? name() : `${name()}-${i}`, make()])
    )
  const limit = () => ({
    type: random.pick(["rate", "window", "capacity", "Concurrency", "unlimited", "bucket"]),
    value: random.int(0, 20),
    period: random.pick(["day", "2 hours", "fortnight"])
  })
  const resource = () => ({ limit: limit(), ...(random.chance(0.2) ? some(80, name) : undefined) })
  return JSON.stringify({
    [random.pick(["environments", "environments", "resourceDefaults"])]: some(4, () => some(40, resource)),
    ...(random.chance(0.1) ? some(3, () => random.pick([null, [], 1])) : undefined)
  })
}

/** Dies where the text is not parsed synchronously. */
const parsedAtOnce = (text: string) => Effect.runSync(Effect.result(QuotaManifest.parse(text)))

describe("the path of large texts", () => {
  it.live("reads the same manifests and problems as the synchronous path", () =>
    forSeedsEffect(15, (seed) =>
      Effect.gen(function* () {
        const text = anyText(make(seed))
        const small = yield* Effect.exit(Effect.sync(() => parsedAtOnce(text)))
        const large = yield* Effect.exit(Effect.result(QuotaManifest.parse(`${text}\n${PADDING}`)))
        assert.isTrue(Exit.isSuccess(large))
        assert.isTrue(Equal.equals(small, large), JSON.stringify({ small, large }))
      })
    )
  )

  it.live("is the same where there are no threads", () =>
    Effect.gen(function* () {
      const spy = vi.spyOn(process, "getBuiltinModule").mockReturnValue(undefined as never)
      const text = `environments: { e: { r: { limit: { type: unlimited } } } }\n${PADDING}`
      const manifest = yield* Effect.ensuring(
        QuotaManifest.parse(text),
        Effect.sync(() => spy.mockRestore())
      )
      assert.deepStrictEqual(Object.keys(manifest.environments), ["e"])
    })
  )

  it.live("ends its thread when it is done, and when it is interrupted", () =>
    Effect.gen(function* () {
      const parsing = Effect.gen(function* () {
        const started = Effect.promise(async (): Promise<Worker> => (await once(process, "worker"))[0])
        const fiber = yield* Effect.forkChild(QuotaManifest.parse(production(flow)))
        return { fiber, worker: yield* started }
      })
      const first = yield* parsing
      const exited = once(first.worker, "exit")
      yield* Fiber.join(first.fiber)
      yield* Effect.promise(() => exited)
      const second = yield* parsing
      let ended = false
      second.worker.on("exit", () => {
        ended = true
      })
      yield* Fiber.interrupt(second.fiber)
      assert.isTrue(ended)
    })
  )

  it.live("lets timers run between its steps", () =>
    Effect.gen(function* () {
      let fired = false
      setTimeout(() => {
        fired = true
      })
      const steps = yield* inSlices(function* () {
        let steps = 0
        for (; !fired; steps++) yield
        return steps
      })
      assert.isAbove(steps, 0)
    })
  )
})

describe("the pieces of a value", () => {
  const joined = (value: unknown): unknown => {
    const joining = join()
    for (const batch of cut(value)) joining.add(structuredClone(batch))
    return joining.end().value
  }

  it("are joined to an equal value", () => {
    const value = (random: Random, depth: number): unknown => {
      if (depth === 0) return random.pick([null, true, 1, Number.NaN, -Infinity, "", "text", [], {}])
      const entries = Array.from({ length: random.int(0, 40) }, () => value(random, depth - 1))
      return random.chance(0.3)
        ? entries
        : Object.fromEntries(entries.map((entry, i) => [random.chance(0.05) ? "__proto__" : `key-${i}`, entry]))
    }
    forSeeds(30, (seed) => {
      const whole = value(make(seed), 3)
      assert.deepStrictEqual(joined(whole), whole)
      assert.strictEqual(JSON.stringify(joined(whole)), JSON.stringify(whole))
    })
  })

  it("hold what is named a billion times only once", () => {
    let laughs: unknown = Array.from({ length: 100 }, (_, i) => `lol-${i}`)
    for (let level = 0; level < 9; level++) laughs = Array.from({ length: 10 }, () => laughs)
    let batches = 0
    for (const _ of cut(laughs)) batches++
    assert.isBelow(batches, 10)
    const levels = joined(laughs) as ReadonlyArray<ReadonlyArray<unknown>>
    assert.strictEqual(levels[0], levels[9])
  })
})

describe("without js-yaml", () => {
  it.live("a manifest cannot be read, and the error says what to install", () =>
    Effect.gen(function* () {
      vi.resetModules()
      vi.doMock("js-yaml", () => {
        throw new Error("Cannot find package 'js-yaml'")
      })
      const fresh = yield* Effect.promise(() => import("../src/quota/QuotaManifest.ts"))
      const error = yield* Effect.flip(fresh.parse("environments: {}", { file: "quotas.yaml" }))
      assert.match(error.message, /^quotas\.yaml: install js-yaml 5 to read manifests \(npm install js-yaml@5\): /)
      vi.doUnmock("js-yaml")
    })
  )
})
