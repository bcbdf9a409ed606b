import { Budget } from "effect-budget"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as TxRef from "effect/TxRef"
import { effectCase, type Suite } from "../harness.ts"
import { spends } from "./checks.ts"
import { wide } from "./limits.ts"
import type { Yardsticks } from "./yardsticks.ts"

const scoped = (name: string, reserve: (budget: Budget.Budget) => Effect.Effect<unknown, unknown, Scope.Scope>) =>
  Effect.map(Budget.make({ name: `transaction, ${name}`, limit: wide.capacity }), (budget) =>
    effectCase(`${name} in a scope`, () => Effect.scoped(reserve(budget)), spends(1, budget))
  )

export const transactionSuite = ({ txRef }: Yardsticks) =>
  Effect.gen(function* () {
    const jobs = yield* TxRef.make(0)
    const cases = yield* Effect.all([
      scoped("reserve outside a transaction", (budget) => budget.reserve(1)),
      scoped("reserveTx with nothing alongside", (budget) => budget.reserveTx(1, Effect.void)),
      scoped("reserveTx with TxRef.update alongside", (budget) =>
        budget.reserveTx(
          1,
          TxRef.update(jobs, (n) => n + 1)
        )
      )
    ])
    const suite: Suite = {
      title: "Transactions",
      cases,
      comparisons: cases.map((of) => ({ text: `${of.name} / ${txRef.name}`, of, to: txRef }))
    }
    return suite
  })
