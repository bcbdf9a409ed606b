/** The demo's own count of what it spent, and the check of the budgets' books against it. */
import { Console, Data, Effect, Runtime } from "effect"
import { type BudgetStore, Usd } from "effect-budget"

/** What a file may cost, and what it did cost. */
export interface Amounts {
  readonly rows: number
  readonly tokens: number
  readonly dollars: Usd.Usd
}

type Key = keyof Amounts
export const KEYS = ["rows", "tokens", "dollars"] as const

/** The books of each budget at one moment, as the snapshot of the policy tells them. */
export type Books = { readonly [K in Key]: readonly [BudgetStore.Snapshot, ...Array<BudgetStore.Snapshot>] }

// ---------------------------------------------------------------------------------------------------------------------
// The tally
// ---------------------------------------------------------------------------------------------------------------------

/** How a file ended. */
export interface Outcome {
  readonly status: "done" | "timed out" | "failed" | "denied"
  readonly detail: string
}

export const outcome =
  (status: Outcome["status"]) =>
  (detail: string): Outcome => ({ status, detail })

/** Why a file was charged what it was: see `BudgetedLanguageModel`. */
export type Source = "reported" | "delivered" | "estimated"

/** What the demo counts for itself. */
export interface Tally {
  readonly charged: Readonly<Record<Key, number>>
  readonly charges: Readonly<Record<Source, number>>
  readonly outcomes: Readonly<Record<Outcome["status"], number>>
}

export const emptyTally: Tally = {
  charged: { rows: 0, tokens: 0, dollars: 0 },
  charges: { reported: 0, delivered: 0, estimated: 0 },
  outcomes: { done: 0, "timed out": 0, failed: 0, denied: 0 }
}

export const charge =
  (source: Source, { dollars, rows, tokens }: Readonly<Record<Key, number>>) =>
  ({ charged, charges, outcomes }: Tally): Tally => ({
    charged: { rows: charged.rows + rows, tokens: charged.tokens + tokens, dollars: charged.dollars + dollars },
    charges: { ...charges, [source]: charges[source] + 1 },
    outcomes
  })

export const count =
  ({ status }: Outcome) =>
  (tally: Tally): Tally => ({ ...tally, outcomes: { ...tally.outcomes, [status]: tally.outcomes[status] + 1 } })

// ---------------------------------------------------------------------------------------------------------------------
// The audit
// ---------------------------------------------------------------------------------------------------------------------

/** What is wrong with the books when nothing is in flight any more; nothing, if they balance. */
export const audit = (books: Books, tally: Tally): ReadonlyArray<string> =>
  KEYS.flatMap((key) => {
    const [{ charged, ledgers, overage, settled, waiters }] = books[key]
    const problems: Array<string> = []
    const check = (holds: boolean, problem: string) => {
      if (!holds) problems.push(`${key}: ${problem}`)
    }
    for (const { available, granted, held, spent } of ledgers) {
      check(
        available + held + spent === granted,
        `${available} available + ${held} held + ${spent} spent is not ${granted} granted`
      )
      check(held === 0, `${held} held still`)
      check(available >= -overage, `${-available} overspent, of which ${overage} are known as overage`)
      check(spent === tally.charged[key], `${spent} spent, but the files were charged ${tally.charged[key]}`)
    }
    check(charged === tally.charged[key], `${charged} charged, but the files were charged ${tally.charged[key]}`)
    const charges = Object.values(tally.charges).reduce((sum, count) => sum + count, 0)
    check(settled.committed.count === charges, `${settled.committed.count} commits for ${charges} charges`)
    check(waiters === 0, `${waiters} waiting still`)
    return problems
  })

export class Unbalanced extends Data.TaggedError("Unbalanced")<{ readonly problems: ReadonlyArray<string> }> {
  // `close` has told it.
  override readonly [Runtime.errorReported] = false
}

/** Prints the ledger, and fails if it does not balance. */
export const close = Effect.fnUntraced(function* (books: Books, tally: Tally, files: number) {
  yield* Console.log(`\n${ledger(books, tally, files)}\n`)
  const problems = audit(books, tally)
  if (problems.length === 0) return yield* Console.log("The books balance.")
  yield* Console.error(["The books do not balance:", ...problems].join("\n  "))
  return yield* new Unbalanced({ problems })
})

const ledger = (books: Books, tally: Tally, files: number): string => {
  const balances = KEYS.flatMap((key) =>
    books[key][0].ledgers.map(({ available, granted, held, spent }) => [
      key,
      ...[granted, available, held, spent].map((amount) => format(key, amount)),
      format(key, Math.max(0, spent - granted))
    ])
  )
  const causes = ["committed", "released", "succeeded", "failed", "interrupted"] as const
  const refunds = causes.map((cause) => [
    cause,
    `${books.rows[0].settled[cause].count}`,
    ...KEYS.map((key) => format(key, books[key][0].settled[cause].refunded))
  ])
  return [
    ...table([["budget", "granted", "= available", "+ held", "+ spent", "overspend"], ...balances]),
    "",
    ...table([["refunds", "files", ...KEYS], ...refunds]),
    "",
    `files: ${outcomesOf(tally, files)}`,
    `charged by what was ${Object.entries(tally.charges)
      .map(([source, count]) => `${source}: ${count}`)
      .join(", ")}`
  ].join("\n")
}

const table = (rows: ReadonlyArray<ReadonlyArray<string>>): ReadonlyArray<string> => {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows.map((row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ")
  )
}

/** How many files ended how. */
export const outcomesOf = ({ outcomes }: Tally, files: number): string => {
  const unfinished = Object.values(outcomes).reduce((left, count) => left - count, files)
  const counts = Object.entries({ ...outcomes, unfinished }).map(([status, count]) => `${count} ${status}`)
  return `${files} in all: ${counts.join(", ")}`
}

/** An amount for a person to read. */
export const format = (budget: string, amount: number): string =>
  budget === "dollars" ? Usd.format(amount) : amount.toLocaleString("en-US")
