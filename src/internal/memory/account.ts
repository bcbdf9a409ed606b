/** What the memory store keeps of a budget, and of a hold. */
import * as Clock from "effect/Clock"
import type * as Fiber from "effect/Fiber"
import * as TxRef from "effect/TxRef"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { byCause } from "../tallies.ts"
import { FairQueue } from "../quota/fairQueue.ts"
import type { Share } from "../quota/share.ts"
import { WaitQueue } from "../waitQueue.ts"
import type { Waiter } from "./waiting.ts"

export type AnyFiber = Fiber.Fiber<unknown, unknown>

export class MemoryAccount implements Store.Account {
  readonly name: string
  definition: Store.Definition
  readonly cells: ReadonlyArray<TxRef.TxRef<Ledger.Ledger>>
  readonly queue: WaitQueue<Waiter>
  /** The same, of a named quota. */
  readonly fair: FairQueue<Waiter> | undefined
  /** A named quota that is no more. */
  closed = false
  readonly listeners = new Set<() => void>()
  readonly settled = byCause(() => ({ count: 0, refunded: 0 }))
  charged = 0
  overage = 0
  changes = 0
  timed: boolean
  timer: { readonly at: number; readonly fiber: AnyFiber } | undefined = undefined
  /** Whether accounts keep a list of their open holds, for an auditor that checks the books against it. */
  static audited = false
  readonly open: Set<MemoryHold> | undefined = MemoryAccount.audited ? new Set() : undefined

  constructor(definition: Store.Definition, now: number) {
    this.name = definition.name
    this.definition = definition
    this.fair = definition.quota === true ? new FairQueue() : undefined
    this.queue = this.fair ?? new WaitQueue()
    this.cells = definition.limits.map((limit) => TxRef.makeUnsafe(Ledger.make(limit, now)))
    this.timed = this.cells.some((cell) => Ledger.isTimed(cell.value))
  }
}

/** An amount of each account, and the epoch of each ledger that it was taken in. */
export interface Part {
  readonly amounts: ReadonlyArray<number>
  readonly epochs: ReadonlyArray<number>
}

export class MemoryHold implements Store.Hold {
  readonly accounts: ReadonlyArray<MemoryAccount>
  /** What was held in the latest epochs. */
  amounts: Array<number>
  epochs: ReadonlyArray<number>
  /** What was held before an extension in later epochs, the oldest first. */
  older: ReadonlyArray<Part> = nothingOlder
  outcome: Store.Outcome | undefined = undefined
  share: Share | undefined = undefined

  constructor(accounts: ReadonlyArray<MemoryAccount>, amounts: Array<number>, epochs: ReadonlyArray<number>) {
    this.accounts = accounts
    this.amounts = amounts
    this.epochs = epochs
  }

  get held(): ReadonlyArray<number> {
    if (this.older.length === 0) return this.amounts
    return this.older.reduce<ReadonlyArray<number>>((total, part) => sum(total, part.amounts), this.amounts)
  }
}

export const nothingOlder: ReadonlyArray<Part> = []

export const sum = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): Array<number> =>
  one.map((amount, i) => amount + other[i]!)

export interface MemoryRequest extends Store.Request {
  readonly accounts: ReadonlyArray<MemoryAccount>
  readonly into?: MemoryHold | undefined
}

export const nowOf = (fiber: AnyFiber): number => wholeMillis(fiber.getRef(Clock.Clock).currentTimeMillisUnsafe())

/** Whatever a clock says, the books only see a time that they can count with. */
export const wholeMillis = (millis: number): number =>
  Number.isNaN(millis) ? 0 : Math.floor(Math.min(Math.max(millis, -MOST_MILLIS), MOST_MILLIS))

/** The greatest time of a `Date`. */
const MOST_MILLIS = 8.64e15

/** The clock is only read where time matters. */
export const nowFor = (fiber: AnyFiber, accounts: ReadonlyArray<MemoryAccount>): number => {
  for (let i = 0; i < accounts.length; i++) {
    if (accounts[i]!.timed) return nowOf(fiber)
  }
  return 0
}

export const queues = (account: MemoryAccount): boolean => account.definition.enforcement === "throttle"

/** Tells those who listen that something has changed. */
export const notify = (fiber: AnyFiber, source: Pick<MemoryAccount, "changes" | "listeners">): void => {
  source.changes++
  if (source.listeners.size === 0) return
  for (const listener of source.listeners) fiber.currentDispatcher.scheduleTask(listener, 0)
  source.listeners.clear()
}
