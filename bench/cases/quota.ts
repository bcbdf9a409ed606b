import { Budget } from "effect-budget"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { effectCase, type Suite } from "../harness.ts"
import { Quota } from "./library.ts"
import { wide } from "./limits.ts"

/** A token of a named quota, and a plain budget with the same limit. */
export const quotaSuite = Effect.gen(function* () {
  const units = { limit: wide.capacity, enforcement: "reject", unit: "unit", units: "units" } as const
  const services = yield* Layer.build(Quota.layer({ environments: { bench: { units } } }))
  const token = yield* Context.get(services, Quota).acquire("units", { expectedUse: 1_000 })
  const budget = yield* Budget.make({ name: "units", limit: wide.capacity })
  const cases = (name: string, reserve: Budget.Budget["reserve"], bracket: () => Effect.Effect<void, unknown>) => ({
    reserve: effectCase(`reserve in a scope, ${name}`, () => Effect.scoped(reserve(1))),
    bracket: effectCase(`withReservation, ${name}`, bracket)
  })
  const one = cases("QuotaToken", token.reserve, () => token.withReservation(1, () => Effect.void))
  const other = cases("plain Budget", budget.reserve, () => budget.withReservation(1, () => Effect.void))
  const suite: Suite = {
    title: "Quota",
    cases: [...Object.values(one), ...Object.values(other)],
    comparisons: [
      { text: "reserve in a scope, QuotaToken / Budget", of: one.reserve, to: other.reserve },
      { text: "withReservation, QuotaToken / Budget", of: one.bracket, to: other.bracket }
    ]
  }
  return suite
})
