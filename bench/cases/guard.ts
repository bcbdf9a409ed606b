import { BudgetGuard, type Limit } from "effect-budget"
import * as Effect from "effect/Effect"
import { effectCase, type Suite } from "../harness.ts"
import { spends } from "./checks.ts"
import { wide } from "./limits.ts"
import type { Yardsticks } from "./yardsticks.ts"

/** `RowGuard` is a `BudgetGuard`. A denial would fail the case: nothing could be released. */
const pair = (name: string, limit: Limit.Limit) =>
  Effect.map(BudgetGuard.make({ name: `guard, ${name}`, limit }), (guard) =>
    effectCase(
      `RowGuard.tryReserve + release, ${name}`,
      () => Effect.flatMap(guard.tryReserve(1), () => guard.release(1)),
      spends(0, guard)
    )
  )

export const guardSuite = ({ flexible }: Yardsticks) =>
  Effect.gen(function* () {
    const capacity = yield* pair("capacity", wide.capacity)
    const rate = yield* pair("rate", wide.rate)
    const concurrency = yield* pair("concurrency", wide.concurrency)
    const suite: Suite = {
      title: "RowGuard",
      cases: [capacity, rate, concurrency],
      comparisons: [{ of: capacity, atMost: 0.65 }, { of: rate, atMost: 0.8 }, { of: concurrency }].map((one) => ({
        ...one,
        text: `${one.of.name} / ${flexible.name}`,
        to: flexible
      }))
    }
    return suite
  })
