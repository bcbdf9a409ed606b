/**
 * A model of books and queues, written from the design and not from an engine: plain data, plain loops, nothing clever. It is
 * slow and obvious on purpose. "Section" means a section of `design.md`.
 */
import { Duration, Equal } from "effect"
import { Limit } from "../../src/index.ts"

/** What is modelled, and which of two readings of the design holds. A test switches off what an engine does not do yet. */
export interface Rules {
  /** Of two limits or budgets that deny, one for ever: either may be named. Otherwise the first in order. */
  readonly eitherDenialNamed: boolean
  /** A waiter whose deadline is the millisecond in which time serves it: it is served, or the program ends there. */
  readonly servedAtDeadline: boolean
  /** A wait that nothing can end within its timeout fails at once; otherwise its timeout passes first. */
  readonly hopelessFailsAtOnce: boolean
  /** `firstFit`: an earlier waiter that all its budgets admit is not passed, though it is not its turn in another queue. */
  readonly waiterThatFitsIsNotPassed: boolean
  /** A member that rejects is asked when a waiter is in turn and its throttled budgets admit it; otherwise as soon as in turn. */
  readonly rejectsWhenServed: boolean
  /** Extensions among themselves go in order of arrival. Otherwise every program with two of them that wait ends there. */
  readonly extensionsInOrder: boolean
  /** A policy that waits ends at once when a limit is changed so that it can never fit. Otherwise the program ends. */
  readonly hopelessPolicyFails: boolean
  /** The timeout of a member of a policy counts also where that member does not throttle, or nothing is wanted of it. */
  readonly timeoutsOfAllMembers: boolean
  /** A change of a limit keeps the fraction of a unit that a rate has earned. */
  readonly fractionKept: boolean
}

/** The design does not say what happens next: the program ends before this step. */
export class Undefined extends Error {}

export const MAX = Number.MAX_SAFE_INTEGER

/** Section 1: the state of one limit. `at` and `fraction` say how far time has been counted. */
export interface Ledger {
  limit: Limit.Limit
  granted: number
  available: number
  held: number
  spent: number
  epoch: number
  /** A rate: the time up to which it is refilled. A window: where it began. */
  at: number
  /** What a continuous rate has earned of the next unit, in `1 / flow.millis`. */
  fraction: bigint
}

export const CAUSES = ["committed", "released", "succeeded", "failed", "interrupted", "expired"] as const
export type Cause = (typeof CAUSES)[number]

export interface Account {
  readonly name: string
  readonly enforcement: "reject" | "throttle" | "terminate"
  readonly order: "fifo" | "firstFit"
  readonly maxQueued: number | undefined
  readonly timeout: number | undefined
  readonly ledgers: Array<Ledger>
  readonly settled: Record<Cause, { count: number; refunded: number }>
  charged: number
  overage: number
}

/** The limits that a budget gets, one for each ledger. */
export type LimitChange = readonly [account: Account, limits: ReadonlyArray<Limit.Limit>]

export type Strategy = "additive" | "keepLevel" | "reset"

/** Section 1: an amount set aside; of each account and ledger it remembers the epochs, oldest first. */
export interface Hold {
  readonly accounts: ReadonlyArray<Account>
  readonly amounts: Array<number>
  readonly parts: ReadonlyArray<ReadonlyArray<Array<{ readonly epoch: number; amount: number }>>>
  outcome: Outcome | undefined
}

export interface Outcome {
  readonly cause: Cause
  readonly held: ReadonlyArray<number>
  readonly charges: ReadonlyArray<number>
  readonly overran: ReadonlyArray<string>
}

/** All ledgers and holds. What waits is in `modelQueue.ts`. */
export class Books {
  now = 0
  readonly rules: Rules
  readonly accounts: Array<Account> = []
  /** How often time has added to any ledger. Without such an addition, the passage of time serves no waiter. */
  protected refills = 0

  constructor(rules: Rules) {
    this.rules = rules
  }

  // ---------------------------------------------------------------------------------------------------------------- ledgers

  open(
    options: Pick<Account, "name" | "enforcement" | "order" | "maxQueued" | "timeout">,
    limits: ReadonlyArray<Limit.Limit>
  ): Account {
    const settled = Object.fromEntries(CAUSES.map((cause) => [cause, { count: 0, refunded: 0 }])) as Account["settled"]
    const ledgers = limits.map((limit): Ledger => {
      const amount = Limit.maximum(limit)
      const at = limit._tag === "Window" ? this.windowStart(limit) : this.now
      return { limit, granted: amount, available: amount, held: 0, spent: 0, epoch: 0, at, fraction: 0n }
    })
    const account: Account = { ...options, ledgers, settled, charged: 0, overage: 0 }
    this.accounts.push(account)
    return account
  }

  protected windowStart(limit: Limit.Window): number {
    const every = Duration.toMillis(limit.every)
    return Math.floor(this.now / every) * every
  }

  /** Section 3: refills are computed on access. */
  look(): void {
    for (const account of this.accounts) for (const ledger of account.ledgers) this.refill(ledger)
  }

  protected refill(ledger: Ledger): void {
    const { limit } = ledger
    if (limit._tag === "Window") {
      const every = Duration.toMillis(limit.every)
      const start = this.windowStart(limit)
      if (start > ledger.at) {
        // Section 3: to `amount` at each boundary. Section 1: the epoch numbers the windows, skipped ones included.
        ledger.epoch += (start - ledger.at) / every
        ledger.granted = ledger.available = limit.amount
        ledger.held = ledger.spent = 0
        ledger.at = start
        this.refills++
      } else if (this.now <= ledger.at - every) {
        // Section 3: a clock that was set back by more than a window goes on at the new time; nothing is given or taken.
        ledger.at = start
      }
    } else if (limit._tag === "Rate") {
      // Section 3: likewise for a bucket. The periods of a rate by interval stay where they are.
      const flow = Limit.flow(limit)!
      if (
        this.now < ledger.at &&
        BigInt(ledger.at - this.now) * BigInt(flow.units) >= BigInt(limit.burst) * BigInt(flow.millis)
      ) {
        const { millis } = flow
        ledger.at =
          limit.refill === "interval" ? ledger.at - Math.ceil((ledger.at - this.now) / millis) * millis : this.now
      }
      if (this.now <= ledger.at) return
      const { millis, units } = Limit.flow(limit)!
      let earned: bigint
      if (limit.refill === "interval") {
        // Section 3: all at once per whole `per`, also while the bucket is full.
        const ticks = Math.floor((this.now - ledger.at) / millis)
        ledger.at += ticks * millis
        earned = BigInt(ticks) * BigInt(units)
      } else {
        const total = BigInt(this.now - ledger.at) * BigInt(units) + ledger.fraction
        earned = total / BigInt(millis)
        ledger.fraction = total % BigInt(millis)
        ledger.at = this.now
      }
      this.fill(ledger, limit, earned)
    }
  }

  /** Adds to a bucket as far as it has room. A full bucket has no fraction of a next unit. */
  protected fill(ledger: Ledger, limit: Limit.Rate, amount: bigint): void {
    const room = limit.burst - ledger.available
    const added = amount >= BigInt(room) ? Math.max(0, room) : Number(amount)
    if (added >= room) ledger.fraction = 0n
    ledger.available += added
    ledger.granted += added
    if (added > 0) this.refills++
  }

  /** How long until time alone admits this amount; 0 when it is admitted now, `undefined` when time cannot do it. */
  protected timeUntil(ledger: Ledger, amount: number): number | undefined {
    const { limit } = ledger
    if (admits(ledger, amount)) return 0
    if (amount > Limit.maximum(limit)) return undefined
    if (limit._tag === "Window") return ledger.at + Duration.toMillis(limit.every) - this.now
    if (limit._tag !== "Rate") return undefined
    const { millis, units } = Limit.flow(limit)!
    const lacking = BigInt(amount) - BigInt(ledger.available)
    const wait =
      limit.refill === "interval"
        ? ceilDiv(lacking, BigInt(units)) * millis
        : ceilDiv(lacking * BigInt(millis) - ledger.fraction, BigInt(units))
    return ledger.at + wait - this.now
  }

  // ------------------------------------------------------------------------------------------------------------------ holds

  protected newHold(accounts: ReadonlyArray<Account>): Hold {
    const parts = accounts.map(({ ledgers }) => ledgers.map(() => []))
    return { accounts, amounts: accounts.map(() => 0), parts, outcome: undefined }
  }

  /** Section 2.3: the first of two changes of the books. What is added later may be of another epoch. */
  protected add(hold: Hold, amounts: ReadonlyArray<number>): void {
    hold.accounts.forEach((account, i) => {
      hold.amounts[i]! += amounts[i]!
      account.ledgers.forEach((ledger, j) => {
        ledger.available -= amounts[i]!
        ledger.held += amounts[i]!
        const parts = hold.parts[i]![j]!
        const last = parts[parts.length - 1]
        if (last?.epoch === ledger.epoch) last.amount += amounts[i]!
        else parts.push({ epoch: ledger.epoch, amount: amounts[i]! })
      })
    })
  }

  /** Ends `amount` of a part, of which `charge` was used. Books of an older epoch are gone. */
  protected end(ledger: Ledger, epoch: number, amount: number, charge: number): void {
    if (epoch !== ledger.epoch) return
    ledger.held -= amount
    // Section 3: slots come back whole, whatever was used.
    ledger.available += ledger.limit._tag === "Concurrency" ? amount : amount - charge
    if (ledger.limit._tag !== "Concurrency") ledger.spent += charge
    // Section 2.1: what a full bucket cannot take back leaves `granted`.
    if (ledger.limit._tag === "Rate" && ledger.available > ledger.limit.burst) {
      ledger.granted -= ledger.available - ledger.limit.burst
      ledger.available = ledger.limit.burst
    }
    if (ledger.limit._tag === "Rate" && ledger.available === ledger.limit.burst) ledger.fraction = 0n
  }

  /** Section 2.3: settling again changes nothing and returns the first settlement. */
  settle(hold: Hold, cause: Cause, charges: ReadonlyArray<number>): Outcome {
    if (hold.outcome !== undefined) return hold.outcome
    this.look()
    this.charge(hold, charges)
    hold.accounts.forEach((account, i) => {
      account.settled[cause].count++
      account.settled[cause].refunded += Math.max(0, hold.amounts[i]! - charges[i]!)
      account.charged += charges[i]!
      account.overage += Math.max(0, charges[i]! - hold.amounts[i]!)
    })
    const overran = hold.accounts.filter(
      ({ ledgers }, i) => charges[i]! > hold.amounts[i]! && ledgers.some(({ available }) => available < 0)
    )
    hold.outcome = { cause, held: [...hold.amounts], charges, overran: overran.map(({ name }) => name) }
    return hold.outcome
  }

  /** The oldest part of a hold is charged first, and what is left is charged to the latest. */
  protected charge(hold: Hold, charges: ReadonlyArray<number>): void {
    hold.accounts.forEach(({ ledgers }, i) =>
      ledgers.forEach((ledger, j) => {
        const parts = hold.parts[i]![j]!
        let left = charges[i]!
        parts.forEach(({ amount, epoch }, k) => {
          const charge = k === parts.length - 1 ? left : Math.min(amount, left)
          left -= charge
          this.end(ledger, epoch, amount, charge)
        })
      })
    )
  }

  /** Section 6: the guard's pair gives back the oldest first, and counts no reservation. `false` when it is more than is out. */
  give(pair: Hold, cost: number): boolean {
    if (cost > pair.amounts[0]!) return false
    this.look()
    pair.accounts.forEach(({ ledgers }, i) =>
      ledgers.forEach((ledger, j) => {
        let left = cost
        for (const part of pair.parts[i]![j]!) {
          const back = Math.min(part.amount, left)
          left -= back
          part.amount -= back
          this.end(ledger, part.epoch, back, 0)
        }
      })
    )
    pair.amounts[0]! -= cost
    return true
  }

  openPair(account: Account): Hold {
    const pair = this.newHold([account])
    this.add(pair, [0])
    return pair
  }

  /** Section 6: `charge` always records. What is not available is overage, and leaves debt. */
  chargeAnyway(accounts: ReadonlyArray<Account>, amounts: ReadonlyArray<number>): void {
    this.look()
    const hold = this.newHold(accounts)
    const room = accounts.map(({ ledgers }) => Math.max(0, Math.min(...ledgers.map(({ available }) => available))))
    this.add(
      hold,
      amounts.map((amount, i) => Math.min(amount, room[i]!))
    )
    this.settle(hold, "committed", amounts)
  }

  // ------------------------------------------------------------------------------------------------------------ adjustments

  topUp(account: Account, amount: number): void {
    this.look()
    for (const ledger of account.ledgers) {
      if (ledger.limit._tag === "Capacity" || ledger.limit._tag === "Window") {
        ledger.granted += amount
        ledger.available += amount
      } else if (ledger.limit._tag === "Rate") this.fill(ledger, ledger.limit, BigInt(amount))
    }
  }

  /** Section 3: fresh full books in a new epoch; slots in use stay in use. */
  reset(accounts: ReadonlyArray<Account>): void {
    this.look()
    for (const { ledgers } of accounts) for (const ledger of ledgers) this.renew(ledger)
  }

  protected renew(ledger: Ledger): void {
    if (ledger.limit._tag === "Concurrency") {
      ledger.granted = ledger.limit.amount
      ledger.available = ledger.limit.amount - ledger.held
      return
    }
    ledger.epoch++
    ledger.granted = ledger.available = Limit.maximum(ledger.limit)
    ledger.held = ledger.spent = 0
    ledger.at = ledger.limit._tag === "Window" ? this.windowStart(ledger.limit) : this.now
    ledger.fraction = 0n
  }

  /** Section 3, "Changing limits". */
  setLimit(changes: ReadonlyArray<LimitChange>, strategy: Strategy = "additive"): void {
    this.look()
    for (const [account, limits] of changes) {
      account.ledgers.forEach((ledger, j) => this.changeLimit(ledger, limits[j]!, strategy))
    }
  }

  private changeLimit(ledger: Ledger, after: Limit.Limit, strategy: Strategy): void {
    const before = ledger.limit
    if (before._tag !== after._tag) this.changeKind(ledger, after, strategy)
    if (before._tag === "Rate" && after._tag === "Rate") {
      if (before.refill !== after.refill) throw new Undefined("a rate that refills in another way")
      const scaled = (ledger.fraction * BigInt(Limit.flow(after)!.millis)) / BigInt(Limit.flow(before)!.millis)
      ledger.fraction = this.rules.fractionKept ? scaled : 0n
    }
    if (before._tag === "Window" && after._tag === "Window" && !Equal.equals(before.every, after.every)) {
      throw new Undefined("a window of another length")
    }
    ledger.limit = after
    if (strategy === "reset") return this.renew(ledger)
    const most = Limit.maximum(after)
    const caps = [Infinity]
    if (strategy === "keepLevel" || after._tag === "Rate") caps.push(most)
    // A rate has refilled what was spent of it; another kind has not.
    if (before._tag === "Rate" && after._tag !== "Rate") caps.push(most - ledger.held)
    const change = strategy === "additive" ? most - Limit.maximum(before) : 0
    const available = Math.min(ledger.available + change, ...caps)
    ledger.granted += available - ledger.available
    // A bucket refills what was spent, so its spending is not owed to a limit that does not refill.
    if (before._tag === "Rate" && after._tag !== "Rate") {
      ledger.spent = Math.max(0, most - ledger.held - available)
      ledger.granted = available + ledger.held + ledger.spent
    }
    ledger.available = available
    if (after._tag === "Rate" && available === most) ledger.fraction = 0n
  }

  /** Time begins to count for the new kind. What is owed across a change to or from slots is tested elsewhere. */
  private changeKind(ledger: Ledger, after: Limit.Limit, strategy: Strategy): void {
    const kinds = [ledger.limit._tag, after._tag]
    if (strategy !== "additive" || kinds.includes("Concurrency") || kinds.includes("Unlimited")) {
      throw new Undefined("a limit of another kind")
    }
    if (ledger.at > this.now) throw new Undefined("a limit of another kind, while a clock that went back is waited for")
    ledger.at = after._tag === "Window" ? this.windowStart(after) : this.now
    ledger.fraction = 0n
  }
}

/** Section 1: in debt, only an amount of 0 is admitted. */
export const admits = ({ available, limit }: Ledger, amount: number): boolean => {
  if (amount === 0 || available >= amount) return true
  if (limit._tag === "Unlimited") throw new Undefined("beyond what books can count")
  return false
}

/** How long a rate takes to earn this amount, or to fill its bucket from nothing. */
export const fillMillis = (limit: Limit.Rate, amount = limit.burst): number => {
  const { millis, units } = Limit.flow(limit)!
  return limit.refill === "interval"
    ? Math.ceil(amount / units) * millis
    : ceilDiv(BigInt(amount) * BigInt(millis), BigInt(units))
}

const ceilDiv = (a: bigint, b: bigint): number => Number(a <= 0n ? 0n : (a + b - 1n) / b)
