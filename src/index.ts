/**
 * Budgets as services: reserve an estimate, run, settle the actual cost, get the rest back.
 */
export * as Budget from "./Budget.ts"
export { BudgetExceeded, FailedReservation } from "./BudgetError.ts"
export * as BudgetError from "./BudgetError.ts"
export * as BudgetGuard from "./BudgetGuard.ts"
export { RowGuard } from "./BudgetGuard.ts"
export * as BudgetPool from "./BudgetPool.ts"
export * as BudgetStore from "./internal/entry/budgetStore.ts"
export * as Ledger from "./Ledger.ts"
export * as Limit from "./Limit.ts"
export * as MemoryBudgetStore from "./MemoryBudgetStore.ts"
export * as Policy from "./Policy.ts"
export * as QuotaManifest from "./internal/entry/quotaManifest.ts"
export * as Reservation from "./Reservation.ts"
export * as TokenBudget from "./TokenBudget.ts"
export { TokenGuard } from "./TokenBudget.ts"
export * as Usd from "./Usd.ts"
