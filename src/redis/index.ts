/**
 * Budgets in Redis. It rests on `effect/persistence`, which Effect marks as unstable.
 */
export * as RedisBudgetStore from "./RedisBudgetStore.ts"
