/** What a process keeps of a budget that it leases shares of. */
import * as Semaphore from "effect/Semaphore"
import type * as Store from "../../BudgetStore.ts"
import type { Limit } from "../../Limit.ts"
import { SharedAccount } from "../shared/account.ts"

export class LeasedAccount extends SharedAccount {
  readonly upstream: Store.Account
  /**
   * A window belongs to the clock of the store, which a share does not know; and of a share of slots beside something else, what
   * is spent stays and what is used comes back. Such a budget is asked for each time.
   */
  leasable = false
  /** Draws, closes and reads of the shares follow each other. */
  readonly turn = Semaphore.makeUnsafe(1)
  /** What reservations are taken from now. */
  share: Share | undefined = undefined
  /** Shares that nothing is taken from any more, with reservations still out. */
  readonly closed = new Set<Share>()
  /** Shares with nothing out, on their way back to the store below. */
  readonly ending = new Set<Share>()
  /** What was taken since the last renewal; of slots, the most at one time. */
  taken = 0
  /** Spent beyond the shares while the store was away, and not charged yet. */
  owed = 0

  constructor(definition: Store.Definition, upstream: Store.Account) {
    super(definition)
    this.upstream = upstream
    this.books = upstream.books
    this.learn(definition.limits)
  }

  override learn(limits: ReadonlyArray<Limit>): void {
    super.learn(limits)
    this.leasable = this.comesBack || limits.every(({ _tag }) => _tag !== "Window" && _tag !== "Concurrency")
  }
}

/** A hold in the store below, which this process spends from: `free + used + spent` is what is held there. */
export class Share {
  readonly hold: Store.Hold
  /** By the clock of this process. Later the share may have expired, so nothing is taken from it. */
  goodFrom: number
  goodUntil: number
  free = 0
  used = 0
  spent = 0

  constructor(hold: Store.Hold, goodFrom: number, goodUntil: number) {
    this.hold = hold
    this.goodFrom = goodFrom
    this.goodUntil = goodUntil
  }

  /** A clock that was put back says nothing about how old it is. */
  isGood(now: number): boolean {
    return now < this.goodUntil && now >= this.goodFrom && this.hold.expired === undefined
  }
}

/** What a reservation has from one share. */
export interface Part {
  readonly share: Share
  amount: number
}

/** A reservation out of shares. */
export class LeasedHold implements Store.Hold {
  readonly accounts: ReadonlyArray<LeasedAccount>
  /** Of each account, the oldest first. */
  readonly parts: ReadonlyArray<Array<Part>>
  outcome: Store.Outcome | undefined = undefined

  constructor(accounts: ReadonlyArray<LeasedAccount>) {
    this.accounts = accounts
    this.parts = accounts.map(() => [])
  }

  get _tag(): "Hold" {
    return "Hold"
  }

  get held(): ReadonlyArray<number> {
    return this.parts.map((parts) => parts.reduce((sum, { amount }) => sum + amount, 0))
  }
}

/** A reservation that the store below has taken itself. */
export class DirectHold implements Store.Hold {
  readonly accounts: ReadonlyArray<LeasedAccount>
  readonly upstream: Store.Hold

  constructor(accounts: ReadonlyArray<LeasedAccount>, upstream: Store.Hold) {
    this.accounts = accounts
    this.upstream = upstream
  }

  get _tag(): "Hold" {
    return "Hold"
  }

  get held(): ReadonlyArray<number> {
    return this.upstream.held
  }

  get outcome(): Store.Outcome | undefined {
    return this.upstream.outcome
  }

  get expired(): true | undefined {
    return this.upstream.expired
  }
}
