/**
 * The credit account of a token of a named quota. Credits order the waiters and never decide whether a request is admitted.
 *
 * A share earns a tenth of its expected use per millisecond, up to a hundred times its expected use, so it is full after a
 * second. Grants are subtracted, also below zero, and refunds are added again. Credits are counted in whole tenths of a unit.
 */
import { type BudgetExceeded, FailedReservation, Rejected } from "../../BudgetError.ts"
import type { Payer } from "../../BudgetStore.ts"

const MAX = Number.MAX_SAFE_INTEGER

/** The time in which an empty share earns its maximum, in milliseconds. */
const FULL_AFTER = 1_000

/** The greatest expected use for which all credits are safe integers. */
export const MAX_EXPECTED_USE = Math.floor(MAX / FULL_AFTER)

export class Share implements Payer {
  expectedUse: number
  /** The share that receives refunds after the end of this one. */
  heir: Share | undefined = undefined
  /** The grants that it had while others waited, relative to its expected use. */
  turn = 0
  /** Why the token has ended. */
  ended: string | undefined = undefined
  private tenths: number
  private at: number

  constructor(expectedUse: number, now: number, tenths = 0) {
    this.expectedUse = expectedUse
    this.at = now
    this.tenths = tenths
  }

  /** The credit in tenths of a unit. */
  creditAt(now: number): number {
    const elapsed = now - this.at
    // As with the books, a clock that stepped back is waited for, unless the step is longer than the time to earn all credit.
    if (elapsed > 0) this.add(this.expectedUse, Math.min(elapsed, FULL_AFTER))
    if (elapsed > 0 || elapsed < -FULL_AFTER) this.at = now
    return this.tenths
  }

  debit(amount: number, now: number): void {
    const share = living(this)
    share.creditAt(now)
    share.add(amount, -10)
  }

  /** Adds the part of a grant that was not charged; below zero for an overage. */
  giveBack(amount: number, now: number): void {
    const share = living(this)
    share.creditAt(now)
    share.add(amount, 10)
  }

  /** Splits off a share with a part of the expected use and the same part of the credit, rounded towards zero. */
  split(expectedUse: number, now: number): Share {
    const credit = this.creditAt(now)
    const part = this.expectedUse === 0 ? 0 : Number((BigInt(credit) * BigInt(expectedUse)) / BigInt(this.expectedUse))
    this.tenths -= part
    this.expectedUse -= expectedUse
    const share = new Share(expectedUse, this.at, part)
    share.turn = this.turn
    return share
  }

  /**
   * Takes over the expected use and the credit of another share, up to their maxima, and its later refunds. `turn` is the grants
   * relative to the expected use that every share with waiters has had.
   */
  absorb(other: Share, now: number, turn: number): void {
    const credit = this.creditAt(now) + other.creditAt(now)
    // The grants of both relative to the expected use of both: a part that is split off, used and merged costs what it used.
    const [mine, its] = [Math.max(this.turn, turn), Math.max(other.turn, turn)]
    this.turn = mine + ((its - mine) * weight(other)) / (weight(this) + weight(other))
    this.expectedUse = Math.min(this.expectedUse + other.expectedUse, MAX_EXPECTED_USE)
    this.tenths = 0
    this.add(credit, 1)
    other.expectedUse = 0
    other.tenths = 0
    other.heir = this
  }

  assertOpen(): void {
    if (this.ended !== undefined) throw new Error(this.ended)
  }

  /** A denial is a rejection by the resource, except that an amount that can never fit stays `BudgetExceeded`. */
  errorOf(exceeded: BudgetExceeded, neverFits: boolean): BudgetExceeded | FailedReservation {
    if (neverFits) return exceeded
    const { budget, requested, retryAfter } = exceeded
    const reason = new Rejected(retryAfter === undefined ? {} : { estimatedWait: retryAfter })
    return new FailedReservation({ budget, requested, reason })
  }

  private add(amount: number, times: number): void {
    const change = amount * times
    const sum = Number.isSafeInteger(change)
      ? this.tenths + change
      : Number(BigInt(this.tenths) + BigInt(amount) * BigInt(times))
    this.tenths = Math.max(Math.min(sum, this.expectedUse * FULL_AFTER), -MAX)
  }
}

/** The divisor of the grants of a share. At least 1, so that a share that expects nothing is served too. */
export const weight = ({ expectedUse }: Share): number => Math.max(1, expectedUse)

const living = (share: Share): Share => {
  let last = share
  while (last.heir !== undefined) last = last.heir
  return last
}

/**
 * Compares a credit of `one` for an amount of `a` with one of `other` for `b`, exactly. Above 0: the first goes before the
 * second.
 */
export const compare = (one: number, a: number, other: number, b: number): number => {
  if (a === b) return one - other
  const left = one * b
  const right = other * a
  if (Number.isSafeInteger(left) && Number.isSafeInteger(right)) return left - right
  const exact = BigInt(one) * BigInt(b) - BigInt(other) * BigInt(a)
  return exact === 0n ? 0 : exact > 0n ? 1 : -1
}
