/** The data that the memory store keeps for a budget and for a hold. */
import { pipeArguments } from "effect/Pipeable"
import type * as TxRef from "effect/TxRef"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import type { DeclaredRequest } from "../admission/denial.ts"
import type { Room, RoomAccount, Waiter } from "../admission/waiter.ts"
import { queueOf } from "../admission/waitQueue.ts"
import { heldOf, noParts, type Part, type Parts } from "../books/parts.ts"
import type { Tally } from "../books/tally.ts"
import { nowOf } from "../runtime/clock.ts"
import { oweAll } from "../runtime/wakeUps.ts"

/**
 * A `TxRef` of a ledger that the store changes in place. A ledger that a transaction has read is copied before its next change,
 * so that the transaction keeps the value that it read.
 */
export class Cell implements TxRef.TxRef<Ledger.Ledger> {
  version = 0
  private ledger: Ledger.Mutable
  private seen = false
  private waiting: Map<unknown, () => void> | undefined = undefined

  constructor(ledger: Ledger.Ledger) {
    this.ledger = Ledger.copy(ledger)
  }

  get "~effect/TxRef"(): "~effect/TxRef" {
    return "~effect/TxRef"
  }

  /** Transactions that wait for a change. */
  get pending(): Map<unknown, () => void> {
    return (this.waiting ??= new Map())
  }

  /** For transactions. */
  get value(): Ledger.Ledger {
    this.seen = true
    return this.ledger
  }

  set value(ledger: Ledger.Ledger) {
    this.ledger = ledger
    this.seen = true
  }

  pipe() {
    // eslint-disable-next-line prefer-rest-params
    return pipeArguments(this, arguments)
  }

  /** For a caller that does not keep the ledger. */
  get current(): Ledger.Ledger {
    return this.ledger
  }

  /**
   * Brings the books up to `now`. This is not a change for transactions, which compute the same from the ledger that they read.
   */
  refill(now: number): Ledger.Ledger {
    if (this.ledger.at !== now) Ledger.refillInPlace(this.own(), now)
    return this.ledger
  }

  /** The ledger, for a change in place. */
  own(): Ledger.Mutable {
    if (this.seen) {
      this.seen = false
      this.ledger = Ledger.copy(this.ledger)
    }
    return this.ledger
  }

  /** Lets transactions know of a change, as the commit of another one does. */
  touch(): void {
    this.version++
    if (this.waiting !== undefined && this.waiting.size > 0) oweAll(this.waiting)
  }

  write(ledger: Ledger.Ledger): void {
    this.value = ledger
    this.touch()
  }
}

/** The books of one budget, shared by all accounts of its name. */
export class MemoryBooks implements Room<MemoryAccount> {
  declared: Store.Definition["limits"]
  /** As it was opened first: its queue has one order. */
  private readonly definition: Store.Definition
  readonly cells: ReadonlyArray<Cell>
  /** The cell of the only limit, where there is one. */
  readonly single: Cell | undefined
  /** Whether time alone changes the books. */
  timed: boolean
  queue: Store.Queue<Waiter<MemoryAccount>> | undefined = undefined
  head: Waiter<MemoryAccount> | undefined = undefined
  bystanders: Room<MemoryAccount>["bystanders"] = undefined
  timer: Room<MemoryAccount>["timer"] = undefined
  windowEnd: Store.AnyFiber | undefined = undefined
  closed: Room<MemoryAccount>["closed"] = undefined
  /** Made at the first settlement. */
  tally: Tally | undefined = undefined
  changes = 0
  listeners: Set<() => void> | undefined = undefined
  /** The latest snapshot that was emitted, shared by all listeners. */
  latest: { readonly changes: number; readonly now: number; readonly snapshot: Store.Snapshot } | undefined = undefined
  /** Whether books keep a list of their open holds, which an auditor compares with the books. */
  static audited = false
  readonly open: Set<MemoryHold> | undefined = MemoryBooks.audited ? new Set() : undefined

  constructor(definition: Store.Definition, now: number) {
    const { limits } = definition
    this.definition = definition
    this.declared = limits
    this.cells = limits.map((limit) => new Cell(Ledger.make(limit, now)))
    this.single = this.cells.length === 1 ? this.cells[0] : undefined
    this.timed = limits.some((limit) => limit._tag === "Rate" || limit._tag === "Window")
  }

  newQueue(): Store.Queue<Waiter<MemoryAccount>> {
    const { discipline, order } = this.definition
    return discipline === undefined ? queueOf(order) : discipline()
  }
}

/** One opening of a budget, with its own definition over shared books. */
export class MemoryAccount implements RoomAccount<MemoryAccount> {
  definition: Store.Definition
  readonly books: MemoryBooks

  constructor(definition: Store.Definition, books: MemoryBooks) {
    this.definition = definition
    this.books = books
  }

  get name(): string {
    return this.definition.name
  }
}

export class MemoryHold implements Store.Hold, Parts {
  readonly accounts: ReadonlyArray<MemoryAccount>
  amounts: Array<number>
  epochs: ReadonlyArray<number>
  older: ReadonlyArray<Part> = noParts
  outcome: Store.Outcome | undefined = undefined

  constructor(accounts: ReadonlyArray<MemoryAccount>, amounts: Array<number>, epochs: ReadonlyArray<number>) {
    this.accounts = accounts
    this.amounts = amounts
    this.epochs = epochs
  }

  get _tag(): "Hold" {
    return "Hold"
  }

  /** Not a field: most holds have none, and a million may be open. */
  get options(): Store.RequestOptions | undefined {
    return undefined
  }

  get held(): ReadonlyArray<number> {
    return this.older === noParts ? this.amounts : heldOf(this)
  }
}

/** A hold whose request said more than its amounts. */
export class OptionedHold extends MemoryHold {
  private readonly asked: Store.RequestOptions

  constructor(
    accounts: ReadonlyArray<MemoryAccount>,
    amounts: Array<number>,
    epochs: ReadonlyArray<number>,
    asked: Store.RequestOptions
  ) {
    super(accounts, amounts, epochs)
    this.asked = asked
  }

  override get options(): Store.RequestOptions {
    return this.asked
  }
}

/** A hold that keeps what its settlement needs to know of the request. */
export const makeHold = (
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: Array<number>,
  epochs: ReadonlyArray<number>,
  options: Store.RequestOptions | undefined
): MemoryHold =>
  options?.payer === undefined && options?.counted === undefined
    ? new MemoryHold(accounts, amounts, epochs)
    : new OptionedHold(accounts, amounts, epochs, options)

export type MemoryRequest = DeclaredRequest<MemoryAccount>

/** The clock is only read where time matters. */
export const nowFor = (fiber: Store.AnyFiber, accounts: ReadonlyArray<MemoryAccount>): number => {
  for (let i = 0; i < accounts.length; i++) {
    if (accounts[i]!.books.timed) return nowOf(fiber)
  }
  return 0
}
