import { Budget, BudgetGuard, type BudgetExceeded, type FailedReservation, Limit } from "effect-budget"
import * as Effect from "effect/Effect"
import { type Case, effectCase, type Suite } from "../harness.ts"
import { assertBooks, counter } from "./checks.ts"
import { wide } from "./limits.ts"
import type { Yardsticks } from "./yardsticks.ts"

type Denied = Effect.Effect<unknown, BudgetExceeded | FailedReservation>

/** Denials with a typed error, which is caught. The whole limit of the budget is held until the bench ends. */
const typedDenials = (kind: string, limit: Limit.Limit) =>
  Effect.gen(function* () {
    const full = yield* Budget.make({ name: `full, ${kind}`, limit })
    yield* full.reserve(1)
    const caught = (name: string, operation: () => Denied): Case => {
      const denials = counter()
      const increment = () => Effect.sync(denials.increment)
      return effectCase(
        `${name}, denied, ${kind}`,
        () => Effect.catchTag(operation(), "BudgetExceeded", increment),
        (operations) => Effect.andThen(denials.check(operations), assertBooks(full, { held: 1, spent: 0 }))
      )
    }
    return {
      bracket: caught("withReservation", () => full.withReservation(1, () => Effect.void)),
      scoped: caught("reserve in a scope", () => Effect.scoped(full.reserve(1)))
    }
  })

/** Operations that return a denial as a value, denied and granted. */
const softDenials = Effect.gen(function* () {
  const open = yield* Budget.make({ name: "open", limit: wide.capacity })
  const shut = yield* Budget.make({ name: "shut", limit: Limit.capacity(0) })
  const openGuard = yield* BudgetGuard.make({ name: "open guard", limit: wide.capacity })
  const shutGuard = yield* BudgetGuard.make({ name: "shut guard", limit: Limit.capacity(0) })
  return {
    granted: effectCase("Budget.tryReserve in a scope, granted", () => Effect.scoped(open.tryReserve(1))),
    denied: effectCase("Budget.tryReserve in a scope, denied", () => Effect.scoped(shut.tryReserve(1))),
    guardGranted: effectCase("RowGuard.tryReserve, granted", () => openGuard.tryReserve(1)),
    guardDenied: effectCase("RowGuard.tryReserve, denied", () => shutGuard.tryReserve(1))
  }
})

export const denialSuite = ({ flexibleReject }: Yardsticks) =>
  Effect.gen(function* () {
    const capacity = yield* typedDenials("capacity", Limit.capacity(1))
    const rate = yield* typedDenials("rate", Limit.rate({ amount: 1, per: "1 day" }))
    const soft = yield* softDenials
    const typed = (of: Case, atMost?: number) => ({
      text: `${of.name} / ${flexibleReject.name}`,
      of,
      to: flexibleReject,
      atMost
    })
    const suite: Suite = {
      title: "Denials",
      cases: [capacity, rate, soft].flatMap((cases) => Object.values(cases)),
      comparisons: [
        typed(capacity.bracket, 5),
        typed(capacity.scoped),
        typed(rate.bracket),
        typed(rate.scoped),
        { text: "Budget.tryReserve, denied / granted", of: soft.denied, to: soft.granted },
        { text: "RowGuard.tryReserve, denied / granted", of: soft.guardDenied, to: soft.guardGranted }
      ]
    }
    return suite
  })
