import { assert, describe, it } from "@effect/vitest"
import { runProgram, type Tally } from "../support/differential.ts"
import { EVERYTHING } from "../support/features.ts"
import { forSeeds } from "../utils/random.ts"

/** About 64 steps each. */
const PROGRAMS = 3_200

/** One core of a busy machine takes less than a minute; a run of many seeds takes as long as it takes. */
const TIMEOUT = process.env["EFFECT_BUDGET_SEEDS"] === undefined ? 300_000 : undefined

describe("random programs", () => {
  it(
    "do what the model of books and queues says, after every step",
    () => {
      const tally: Tally = { programs: 0, steps: 0, undefineds: new Map(), answers: new Map() }
      forSeeds(PROGRAMS, (seed) => {
        const difference = runProgram(seed, EVERYTHING, tally)
        if (difference !== undefined) throw new Error(difference)
      })
      // A program is about what waits: of many programs, none of these answers may be missing.
      if (tally.programs < 1_000) return
      for (const answer of ["Granted", "GrantedLater", "Exceeded", "TimedOut", "QueueFull", "Settled", "None"]) {
        assert.isAbove(tally.answers.get(answer) ?? 0, tally.steps / 2_000, answer)
      }
      const early = [...tally.undefineds.values()].reduce((sum, count) => sum + count, 0)
      assert.isBelow(early, tally.programs / 4, `programs that ended early: ${JSON.stringify([...tally.undefineds])}`)
    },
    TIMEOUT
  )
})
