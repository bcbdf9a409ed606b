import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock, TestConsole } from "effect/testing"
import * as Example from "../examples/quota.ts"
import { QuotaManifest } from "../src/quota/index.ts"

describe("examples/quota.ts", () => {
  it.effect("splits, uses, merges, and leaves nothing held", () =>
    Effect.gen(function* () {
      // The parser is loaded with the first manifest, in a time that the clock of the test does not know.
      yield* QuotaManifest.parse("environments: {}")
      const fiber = yield* Effect.forkChild(Example.program)
      // The parser of its manifest is loaded when it is first needed, in a time that is not the clock's.
      while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust("100 millis")
      yield* Fiber.join(fiber)
      const lines = (yield* TestConsole.logLines).map(String)
      const summaries = lines.slice(0, 6)
      for (const worker of [1, 2, 3]) {
        assert.strictEqual(summaries.filter((line) => line.endsWith(`(worker ${worker})`)).length, 2)
      }
      assert.include(lines, "herons.txt: A heron waits. (worker 3)")
      assert.deepStrictEqual(lines.slice(6), [
        "1782 tokens used, 0 held, 0 wait",
        "1 token left, with an expected use of 1000"
      ])
    })
  )
})
