/**
 * What each operation on shared books does, as pure code over the records it needs. The SQLite books run it as it is; the scripts
 * of Redis and PostgreSQL do the same in their own language, and are checked against it.
 */
import * as Ledger from "../../Ledger.ts"
import type { Cause } from "../../BudgetStore.ts"
import type {
  Budget,
  Denied,
  Ended,
  Entry,
  Held,
  HoldRequest,
  Renewal,
  Settled,
  SettleRequest,
  Unopened
} from "./books.ts"

/** What a hold has set aside of one budget, the oldest part first. */
export interface HeldOf {
  readonly budget: string
  readonly parts: ReadonlyArray<{
    readonly amount: number
    /** Of each limit of the budget: the epoch it was taken in. */
    readonly epochs: ReadonlyArray<number>
  }>
}

export interface Hold {
  /** The last step, and the amounts it set aside. */
  readonly step: number
  readonly amounts: ReadonlyArray<number>
  readonly entries: ReadonlyArray<HeldOf>
  readonly onExpiry: "progress" | "hold"
  readonly progress: ReadonlyArray<number> | undefined
  /** How it ended; `undefined` while it is open. */
  readonly outcome: Outcome | undefined
  /** When it expires while it is open, and when it is forgotten afterwards. */
  readonly due: number
}

export interface Outcome {
  readonly cause: Cause
  readonly charges: ReadonlyArray<number>
  readonly overran: ReadonlyArray<string>
  readonly late: boolean
}

/** The records that a step may need. What it changes is written back. */
export interface Records {
  readonly budgets: Map<string, Budget>
  readonly holds: Map<string, Hold>
  /** How long the outcome of a hold is kept for those who ask again, in milliseconds. */
  readonly keepOutcomes: number
  /** The budgets that something came back to in this step. */
  readonly freed: Set<string>
}

const MAX = Number.MAX_SAFE_INTEGER

/** Ends those of these holds that have expired, and forgets those whose time is over: `holds` are the ones that are due. */
export const sweep = (records: Records, due: Iterable<string>, now: number): void => {
  for (const id of due) {
    const hold = records.holds.get(id)
    if (hold === undefined || hold.due > now) continue
    if (hold.outcome !== undefined) {
      records.holds.delete(id)
      continue
    }
    if (hold.entries.some(({ budget }) => !records.budgets.has(budget))) {
      // Its books were lost, and what it held with them.
      records.holds.delete(id)
      continue
    }
    const held = hold.entries.map(heldOf)
    const charges = hold.onExpiry === "hold" ? held : (hold.progress ?? held.map(() => 0))
    end(records, id, hold, "expired", charges, now)
  }
}

export const hold = (records: Records, request: HoldRequest, now: number): Held | Denied | Ended | Unopened => {
  const { entries, id, step } = request
  const before = records.holds.get(id)
  if (before === undefined ? step > 0 : before.outcome !== undefined) return { _tag: "Ended" }
  if (before !== undefined && step <= before.step) return { _tag: "Held", amounts: before.amounts }
  const ledgers = booksOf(records, entries, now)
  if (ledgers === undefined) return { _tag: "Unopened" }
  if (!admitted(ledgers, entries)) return denied(ledgers, before, now)
  const amounts = entries.map(({ amount, upTo }, i) =>
    upTo === undefined ? amount : Math.max(amount, Math.min(upTo, ...ledgers[i]!.map(Ledger.most)))
  )
  take(records, entries, ledgers, amounts)
  records.holds.set(id, {
    step,
    amounts,
    entries: entries.map(({ budget }, i) => ({
      budget,
      parts: withPart(before?.entries[i]?.parts ?? [], amounts[i]!, ledgers[i]!)
    })),
    onExpiry: request.onExpiry,
    progress: before?.progress,
    outcome: undefined,
    due: now + request.expiresAfter
  })
  return { _tag: "Held", amounts }
}

/** A denial consumes nothing, and is not remembered: the same request may be admitted later. */
export const charge = (
  records: Records,
  { entries, id }: { readonly id: string; readonly entries: ReadonlyArray<Entry> },
  now: number
): Settled | Denied | Unopened => {
  const before = records.holds.get(id)
  if (before?.outcome !== undefined) return { _tag: "Settled", ...before.outcome }
  const request: HoldRequest = { id, step: 0, entries, expiresAfter: 0, onExpiry: "hold" }
  const answer = hold(records, request, now)
  if (answer._tag === "Held")
    return { _tag: "Settled", ...end(records, id, records.holds.get(id)!, "committed", answer.amounts, now) }
  return answer as Denied | Unopened
}

export const reduce = (
  records: Records,
  { amounts, id, step }: { readonly id: string; readonly step: number; readonly amounts: ReadonlyArray<number> },
  now: number
): void => {
  const hold = records.holds.get(id)
  if (hold === undefined || hold.outcome !== undefined || step <= hold.step) return
  // Its books were lost, and what it held with them.
  if (hold.entries.some(({ budget }) => !records.budgets.has(budget))) return
  const entries = hold.entries.map((entry, i): HeldOf => {
    const left: Array<HeldOf["parts"][number]> = []
    let rest = amounts[i]!
    entry.parts.forEach(({ amount, epochs }, n) => {
      const given = Math.min(rest, amount)
      rest -= given
      settleLedgers(records, entry.budget, given, epochs, 0, now)
      // The latest part stays, for what may be charged to it.
      if (amount > given || n === entry.parts.length - 1) left.push({ amount: amount - given, epochs })
    })
    if (amounts[i]! > 0) records.freed.add(entry.budget)
    return { budget: entry.budget, parts: left }
  })
  records.holds.set(id, { ...hold, step, entries })
}

export const settle = (records: Records, request: SettleRequest, now: number): Settled | Unopened => {
  const { cause, id } = request
  const known = records.holds.get(id)
  if (known?.outcome !== undefined && (known.outcome.cause !== "expired" || known.outcome.late)) {
    return { _tag: "Settled", ...known.outcome }
  }
  const budgets = (known?.entries ?? request.entries).map(({ budget }) => budget)
  if (budgets.some((budget) => !records.budgets.has(budget))) return { _tag: "Unopened" }
  if (known !== undefined && known.outcome === undefined) {
    return { _tag: "Settled", ...end(records, id, known, cause, request.charges ?? known.entries.map(heldOf), now) }
  }
  // It comes late: what was not charged when it expired is charged now, to the epochs that it was held in as far as they go on.
  const hold: Hold = known ?? {
    step: 0,
    amounts: request.entries.map(({ amount }) => amount),
    entries: request.entries.map(({ amount, budget }) => ({
      budget,
      parts: withPart([], amount, refilled(records, budget, now))
    })),
    onExpiry: "hold",
    progress: undefined,
    outcome: undefined,
    due: now
  }
  const expected = request.charges ?? hold.entries.map(heldOf)
  const before = hold.outcome?.charges ?? expected.map(() => 0)
  const charges = expected.map((amount, i) => Math.max(amount, before[i]!))
  const overran: Array<string> = []
  hold.entries.forEach(({ budget, parts }, i) => {
    const more = charges[i]! - before[i]!
    const ledgers = settleLedgers(records, budget, 0, parts.at(-1)?.epochs ?? [], more, now)
    const books = records.budgets.get(budget)!
    const tally = books.settled[cause]
    records.budgets.set(budget, {
      ...books,
      ledgers,
      charged: plus(books.charged, more),
      overage: plus(books.overage, more),
      // One that expired was counted then.
      settled: known === undefined ? { ...books.settled, [cause]: { ...tally, count: tally.count + 1 } } : books.settled
    })
    if (more > 0 && ledgers.some((ledger) => Ledger.debt(ledger) > 0)) overran.push(budget)
  })
  const outcome: Outcome = { cause, charges, overran, late: true }
  records.holds.set(id, { ...hold, outcome, due: now + records.keepOutcomes })
  return { _tag: "Settled", ...outcome }
}

export const renew = (
  records: Records,
  holds: ReadonlyArray<Renewal>,
  expiresAfter: number,
  now: number
): ReadonlyArray<string> =>
  holds.flatMap(({ id, progress }) => {
    const hold = records.holds.get(id)
    if (hold === undefined || hold.outcome !== undefined) return [id]
    records.holds.set(id, { ...hold, progress: progress ?? hold.progress, due: now + expiresAfter })
    return []
  })

export const read = (
  records: Records,
  budgets: ReadonlyArray<string>,
  now: number
): ReadonlyArray<Budget | undefined> =>
  budgets.map((budget) => {
    const books = records.budgets.get(budget)
    return books && { ...books, ledgers: refilled(records, budget, now) }
  })

// ---------------------------------------------------------------------------------------------------------------------

export const heldOf = ({ parts }: HeldOf): number => parts.reduce((sum, { amount }) => sum + amount, 0)

const plus = (one: number, other: number): number => Math.min(one + other, MAX)

const refilled = (records: Records, budget: string, now: number): ReadonlyArray<Ledger.Ledger> =>
  records.budgets.get(budget)!.ledgers.map((ledger) => Ledger.refill(ledger, now))

const booksOf = (
  records: Records,
  entries: ReadonlyArray<Entry>,
  now: number
): ReadonlyArray<ReadonlyArray<Ledger.Ledger>> | undefined =>
  entries.every(({ budget }) => records.budgets.has(budget))
    ? entries.map(({ budget }) => refilled(records, budget, now))
    : undefined

const admitted = (ledgers: ReadonlyArray<ReadonlyArray<Ledger.Ledger>>, entries: ReadonlyArray<Entry>): boolean =>
  ledgers.every((of, i) => of.every((ledger) => Ledger.admits(ledger, entries[i]!.amount)))

const denied = (ledgers: ReadonlyArray<ReadonlyArray<Ledger.Ledger>>, hold: Hold | undefined, now: number): Denied => ({
  _tag: "Denied",
  now,
  ledgers,
  own: ledgers.map((of, i) =>
    of.map((ledger, j) =>
      (hold?.entries[i]?.parts ?? []).reduce(
        (sum, part) => (part.epochs[j] === ledger.epoch ? sum + part.amount : sum),
        0
      )
    )
  )
})

const take = (
  records: Records,
  entries: ReadonlyArray<Entry>,
  ledgers: ReadonlyArray<ReadonlyArray<Ledger.Ledger>>,
  amounts: ReadonlyArray<number>
): void =>
  entries.forEach(({ budget }, i) =>
    records.budgets.set(budget, {
      ...records.budgets.get(budget)!,
      ledgers: ledgers[i]!.map((ledger) => Ledger.hold(ledger, amounts[i]!))
    })
  )

/** Parts of the same epochs are one. Epochs that are over are all the same, so their parts do not pile up. */
const withPart = (parts: HeldOf["parts"], amount: number, ledgers: ReadonlyArray<Ledger.Ledger>): HeldOf["parts"] => {
  const now = ledgers.map(({ epoch }) => epoch)
  const merged: Array<HeldOf["parts"][number]> = []
  for (const part of [...parts, { amount, epochs: now }]) {
    const epochs = part.epochs.map((epoch, j) => (epoch === now[j] ? epoch : OVER))
    const last = merged.at(-1)
    if (last !== undefined && epochs.every((epoch, j) => epoch === last.epochs[j])) {
      merged[merged.length - 1] = { amount: last.amount + part.amount, epochs }
    } else {
      merged.push({ amount: part.amount, epochs })
    }
  }
  return merged
}

const OVER = -1

/** Ends an open hold. What was held first is charged first; what is left of the charge goes to the latest part. */
const end = (
  records: Records,
  id: string,
  hold: Hold,
  cause: Cause,
  charges: ReadonlyArray<number>,
  now: number
): Outcome => {
  const overran: Array<string> = []
  hold.entries.forEach((entry, i) => {
    const { budget, parts } = entry
    let rest = charges[i]!
    parts.forEach(({ amount, epochs }, n) => {
      const part = n === parts.length - 1 ? rest : Math.min(rest, amount)
      rest -= part
      settleLedgers(records, budget, amount, epochs, part, now)
    })
    const held = heldOf(entry)
    const books = records.budgets.get(budget)!
    const over = Math.max(0, charges[i]! - held)
    const tally = books.settled[cause]
    records.budgets.set(budget, {
      ...books,
      settled: {
        ...books.settled,
        [cause]: { count: tally.count + 1, refunded: plus(tally.refunded, Math.max(0, held - charges[i]!)) }
      },
      charged: plus(books.charged, charges[i]!),
      overage: plus(books.overage, over)
    })
    if (over > 0 && books.ledgers.some((ledger) => Ledger.debt(ledger) > 0)) overran.push(budget)
    if (held > 0) records.freed.add(budget)
  })
  const outcome: Outcome = { cause, charges, overran, late: false }
  records.holds.set(id, { ...hold, outcome, due: now + records.keepOutcomes })
  return outcome
}

/** Gives `amount` back to each ledger of a budget, of which `actual` is charged. */
const settleLedgers = (
  records: Records,
  budget: string,
  amount: number,
  epochs: ReadonlyArray<number>,
  actual: number,
  now: number
): ReadonlyArray<Ledger.Ledger> => {
  const books = records.budgets.get(budget)!
  const ledgers = books.ledgers.map((ledger, j) =>
    Ledger.settle(Ledger.refill(ledger, now), amount, epochs[j] ?? ledger.epoch, actual)
  )
  records.budgets.set(budget, { ...books, ledgers })
  return ledgers
}
