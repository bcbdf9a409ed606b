import { Budget, BudgetGuard, Limit } from "effect-budget"
import * as Effect from "effect/Effect"
import { effectCase, type Suite } from "../harness.ts"
import { wide } from "./limits.ts"

export const denialSuite = Effect.gen(function* () {
  const open = yield* Budget.make({ name: "open", limit: wide.capacity })
  const shut = yield* Budget.make({ name: "shut", limit: Limit.capacity(0) })
  const openGuard = yield* BudgetGuard.make({ name: "open guard", limit: wide.capacity })
  const shutGuard = yield* BudgetGuard.make({ name: "shut guard", limit: Limit.capacity(0) })
  const granted = effectCase("Budget.tryReserve in a scope, granted", () => Effect.scoped(open.tryReserve(1)))
  const denied = effectCase("Budget.tryReserve in a scope, denied", () => Effect.scoped(shut.tryReserve(1)))
  const guardGranted = effectCase("BudgetGuard.tryReserve, granted", () => openGuard.tryReserve(1))
  const guardDenied = effectCase("BudgetGuard.tryReserve, denied", () => shutGuard.tryReserve(1))
  const reserved = effectCase("Budget.reserve in a scope, granted", () => Effect.scoped(open.reserve(1)))
  const refused = effectCase("Budget.reserve in a scope, denied", () => Effect.exit(Effect.scoped(shut.reserve(1))))
  const suite: Suite = {
    title: "Denials",
    cases: [granted, denied, guardGranted, guardDenied, reserved, refused],
    comparisons: [
      { text: "Budget.tryReserve, denied / granted", of: denied, to: granted, atMost: 1 },
      { text: "BudgetGuard.tryReserve, denied / granted", of: guardDenied, to: guardGranted, atMost: 1 },
      { text: "Budget.reserve, denied with a typed error / granted", of: refused, to: reserved }
    ]
  }
  return suite
})
