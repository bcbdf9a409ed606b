import { Context, Effect, Layer, type Scope } from "effect"
import { type BudgetStore, type Limit } from "../../src/index.ts"
import { Quota, type QuotaManifest } from "../../src/quota/index.ts"
import type { MemoryAccount } from "../../src/internal/memory/account.ts"
import { stateOf } from "../../src/internal/quota/token.ts"

export const resource = (
  limit: Limit.Limit,
  enforcement: BudgetStore.Enforcement = "reject"
): QuotaManifest.Resource => ({ limit, enforcement, unit: "unit", units: "units" })

/** Opens quotas for the current scope. */
export const open = (
  resources: QuotaManifest.Resources
): Effect.Effect<Quota["Service"], QuotaManifest.ManifestError, Scope.Scope> =>
  Effect.map(Layer.build(Layer.fresh(Quota.layer({ environments: { test: resources } }))), Context.get(Quota))

/** In tenths of a unit. */
export const creditOf = (token: object): Effect.Effect<number> =>
  Effect.clockWith((clock) => Effect.sync(() => stateOf(token).share.creditAt(clock.currentTimeMillisUnsafe())))

export const accountOf = (token: object): MemoryAccount => stateOf(token).of.account as MemoryAccount
