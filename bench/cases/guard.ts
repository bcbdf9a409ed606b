import { BudgetGuard, type Limit } from "effect-budget"
import * as Effect from "effect/Effect"
import { effectCase, type Suite } from "../harness.ts"
import { wide } from "./limits.ts"
import type { Yardsticks } from "./yardsticks.ts"

const pair = (name: string, limit: Limit.Limit) =>
  Effect.map(BudgetGuard.make({ name, limit }), (guard) =>
    effectCase(`tryReserve + release, ${name}`, () => Effect.flatMap(guard.tryReserve(1), () => guard.release(1)))
  )

export const guardSuite = (yardsticks: Yardsticks) =>
  Effect.gen(function* () {
    const cases = yield* Effect.all([
      pair("capacity", wide.capacity),
      pair("concurrency", wide.concurrency),
      pair("rate", wide.rate)
    ])
    const suite: Suite = {
      title: "BudgetGuard",
      cases,
      comparisons: cases.map((of) => ({
        text: `${of.name} / ${yardsticks.flexible.name}`,
        of,
        to: yardsticks.flexible,
        atMost: 1
      }))
    }
    return suite
  })
