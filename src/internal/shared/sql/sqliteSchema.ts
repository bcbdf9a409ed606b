/** The tables of the books in SQLite. The records are JSON (see `records.ts`): the steps are run in JavaScript. */
export const statements: ReadonlyArray<string> = [
  `CREATE TABLE effect_budget_budgets (
  group_name TEXT NOT NULL,
  name TEXT NOT NULL,
  record TEXT NOT NULL,
  PRIMARY KEY (group_name, name)
) WITHOUT ROWID`,
  `CREATE TABLE effect_budget_holds (
  group_name TEXT NOT NULL,
  id TEXT NOT NULL,
  due INTEGER NOT NULL,
  record TEXT NOT NULL,
  PRIMARY KEY (group_name, id)
) WITHOUT ROWID`,
  `CREATE INDEX effect_budget_holds_due ON effect_budget_holds (group_name, due, id)`
]
