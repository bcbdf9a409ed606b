/**
 * Budgets in PostgreSQL and SQLite. It rests on `effect/sql`, which Effect marks as unstable.
 */
export * as NodeSqlite from "./NodeSqlite.ts"
export * as SqlBudgetStore from "./SqlBudgetStore.ts"
