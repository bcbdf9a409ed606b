/**
 * The seam between the shared store, which waits, renews and retries for its process, and whoever keeps the books of many
 * processes: a script in Redis, a function in PostgreSQL, a transaction in SQLite.
 *
 * Every operation is one atomic step at the clock of the books, and may be sent again after a lost answer: a hold is known by
 * its `id`, what is done to it by its `step`. Before anything else, each step ends the holds that have expired, and forgets
 * what ended long ago.
 */
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type { StoreUnavailable } from "../../BudgetError.ts"
import type { Cause } from "../../BudgetStore.ts"
import type * as Ledger from "../../Ledger.ts"
import type { Limit } from "../../Limit.ts"

/** What is known of a budget that many processes share. */
export interface Budget {
  /** One for each limit. */
  readonly ledgers: ReadonlyArray<Ledger.Ledger>
  /** What was declared by whoever opened it last; the limits of the ledgers may have been changed since. */
  readonly declared: ReadonlyArray<Limit>
  readonly settled: Readonly<Record<Cause, { readonly count: number; readonly refunded: number }>>
  readonly charged: number
  readonly overage: number
}

/** An amount of one budget. */
export interface Entry {
  readonly budget: string
  readonly amount: number
}

export interface HoldRequest {
  readonly id: string
  /** 0 for a new hold, and one more for each extension or reduction of it. */
  readonly step: number
  /** In the order of the hold; no budget twice. An extension names the same budgets as the hold. */
  readonly entries: ReadonlyArray<Entry & { readonly upTo?: number | undefined }>
  /** How long the hold stays without being renewed, in milliseconds. */
  readonly expiresAfter: number
  /** What an expired hold is charged: its progress, or all of it. */
  readonly onExpiry: "progress" | "hold"
}

/** The amounts that this step set aside. */
export interface Held {
  readonly _tag: "Held"
  readonly amounts: ReadonlyArray<number>
}

/** Nothing was set aside. What the limits have is told as it is now, so that the client can say why, and for how long. */
export interface Denied {
  readonly _tag: "Denied"
  readonly now: number
  /** Of each entry. */
  readonly ledgers: ReadonlyArray<ReadonlyArray<Ledger.Ledger>>
  /** What this hold has already, in the current epoch of each of these. */
  readonly own: ReadonlyArray<ReadonlyArray<number>>
}

/** The hold has ended, or is not known any more. */
export interface Ended {
  readonly _tag: "Ended"
}

/** A budget is not there: never opened, or the books were lost. */
export interface Unopened {
  readonly _tag: "Unopened"
}

export interface SettleRequest {
  readonly id: string
  readonly cause: Cause
  /** In the order of the hold; `undefined` charges all that is held. */
  readonly charges: ReadonlyArray<number> | undefined
  /** What is held as far as the client knows: for a hold that the books have never seen, or have forgotten. */
  readonly entries: ReadonlyArray<Entry>
}

export interface Settled {
  readonly _tag: "Settled"
  readonly cause: Cause
  readonly charges: ReadonlyArray<number>
  readonly overran: ReadonlyArray<string>
  readonly late: boolean
}

export interface Renewal {
  readonly id: string
  readonly progress: ReadonlyArray<number> | undefined
}

/** The books of many processes. */
export interface SharedBooks {
  readonly hold: (request: HoldRequest) => Effect.Effect<Held | Denied | Ended | Unopened, StoreUnavailable>
  /** Gives some of an open hold back, of what was held first. A hold that has ended has nothing to give back. */
  readonly reduce: (request: {
    readonly id: string
    readonly step: number
    readonly amounts: ReadonlyArray<number>
  }) => Effect.Effect<void, StoreUnavailable>
  readonly settle: (request: SettleRequest) => Effect.Effect<Settled | Unopened, StoreUnavailable>
  /** Holds and commits in one step, or denies. */
  readonly charge: (request: {
    readonly id: string
    readonly entries: ReadonlyArray<Entry>
  }) => Effect.Effect<Settled | Denied | Unopened, StoreUnavailable>
  /** Lets open holds stay for as long from now; answers the ids of those that are not open. */
  readonly renew: (
    holds: ReadonlyArray<Renewal>,
    expiresAfter: number
  ) => Effect.Effect<ReadonlyArray<string>, StoreUnavailable>
  /** Each budget at the same moment, refilled up to it; `undefined` where it is not there. */
  readonly read: (budgets: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Budget | undefined>, StoreUnavailable>
  /**
   * Changes budgets in one step: `change` gets them refilled up to `now`, and may be run several times. What it throws leaves
   * the books as they are and is a defect.
   */
  readonly update: (
    budgets: ReadonlyArray<string>,
    change: (budgets: ReadonlyArray<Budget | undefined>, now: number) => ReadonlyArray<Budget>
  ) => Effect.Effect<void, StoreUnavailable>
  /**
   * The names of the budgets that something came back to (a settlement, a reduction, an expiry, a change), in this process or
   * another. Names may be missed while a connection is lost: whoever waits asks again from time to time. Never ends or fails.
   */
  readonly freed: Stream.Stream<ReadonlyArray<string>>
}
