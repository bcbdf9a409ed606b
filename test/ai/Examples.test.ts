import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestConsole } from "effect/testing"
import * as Degrade from "../../examples/degrade.ts"

describe("examples", () => {
  it.effect("degrade.ts warns, goes on with the cheaper model, and stops when that is used up too", () =>
    Effect.gen(function* () {
      yield* Degrade.program
      const lines = (yield* TestConsole.logLines).map(String)
      const of = (text: string) => lines.filter((line) => line.includes(text)).length
      assert.isAbove(of("an answer of the large model"), 1)
      assert.isAbove(of("an answer of the small model"), 1)
      assert.strictEqual(of("80 % of app/LargeModelDollars is used"), 1)
      assert.match(lines.at(-1)!, /^stopped: Budget "app\/SmallModelDollars" exceeded/)
      const large = lines.findLastIndex((line) => line.includes("large model"))
      assert.isBelow(
        large,
        lines.findIndex((line) => line.includes("small model"))
      )
    })
  )
})
