import { Budget } from "effect-budget"
import * as Effect from "effect/Effect"
import * as TxRef from "effect/TxRef"
import { effectCase, type Suite } from "../harness.ts"
import { wide } from "./limits.ts"
import type { Yardsticks } from "./yardsticks.ts"

export const transactionSuite = ({ txRef }: Yardsticks) =>
  Effect.gen(function* () {
    const budget = yield* Budget.make({ name: "transaction", limit: wide.capacity })
    const jobs = yield* TxRef.make(0)
    const direct = effectCase("reserve in a scope, outside a transaction", () => Effect.scoped(budget.reserve(1)))
    const alone = effectCase("reserveTx in a scope, nothing alongside", () =>
      Effect.scoped(budget.reserveTx(1, Effect.void))
    )
    const alongside = effectCase("reserveTx in a scope, TxRef.update alongside", () =>
      Effect.scoped(
        budget.reserveTx(
          1,
          TxRef.update(jobs, (n) => n + 1)
        )
      )
    )
    const suite: Suite = {
      title: "Transactions",
      cases: [direct, alone, alongside],
      comparisons: [direct, alone, alongside].map((of) => ({ text: `${of.name} / ${txRef.name}`, of, to: txRef }))
    }
    return suite
  })
