/**
 * The credit account of a token of a named quota. Credits order those who wait, and never gate admission.
 *
 * A share earns a tenth of its expected use per millisecond, up to a hundred times it, so it is full after a second. What is
 * granted is taken off, also below zero; what a settlement gives back of it comes back. All is counted in whole tenths of a unit.
 */
const MAX = Number.MAX_SAFE_INTEGER

/** How long it takes from 0 to the most, in milliseconds. */
const FULL_AFTER = 1_000

/** The most of which all credits are safe integers. */
export const MAX_EXPECTED_USE = Math.floor(MAX / FULL_AFTER)

export class Share {
  expectedUse: number
  /** Who takes over what comes back after the end. */
  heir: Share | undefined = undefined
  /** What it was served while others waited, for its expected use. */
  turn = 0
  /** Why nothing can be asked any more. */
  ended: string | undefined = undefined
  private tenths: number
  private at: number

  constructor(expectedUse: number, now: number, tenths = 0) {
    this.expectedUse = expectedUse
    this.at = now
    this.tenths = tenths
  }

  /** In tenths of a unit. */
  creditAt(now: number): number {
    const elapsed = now - this.at
    // As with the books, a clock that went back is waited for, unless from further back than it takes to earn all.
    if (elapsed > 0) this.add(this.expectedUse, Math.min(elapsed, FULL_AFTER))
    if (elapsed > 0 || elapsed < -FULL_AFTER) this.at = now
    return this.tenths
  }

  debit(amount: number, now: number): void {
    const share = living(this)
    share.creditAt(now)
    share.add(amount, -10)
  }

  /** What was held above what was charged; below zero for an overage. */
  giveBack(amount: number, now: number): void {
    const share = living(this)
    share.creditAt(now)
    share.add(amount, 10)
  }

  /** A share of a part of what is expected, with the same part of the credit, rounded towards zero. */
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
   * Takes over what another share has, up to the most, and what comes back to it later. `turn` is what every share was served
   * that was there all the time.
   */
  absorb(other: Share, now: number, turn: number): void {
    const credit = this.creditAt(now) + other.creditAt(now)
    // What both were served, for what both expect: a part that is split off, used and merged costs what it used.
    const [mine, its] = [Math.max(this.turn, turn), Math.max(other.turn, turn)]
    this.turn = mine + ((its - mine) * weight(other)) / (weight(this) + weight(other))
    this.expectedUse = Math.min(this.expectedUse + other.expectedUse, MAX_EXPECTED_USE)
    this.tenths = 0
    this.add(credit, 1)
    other.expectedUse = 0
    other.tenths = 0
    other.heir = this
  }

  /** Dies when the token is no more. */
  check(): void {
    if (this.ended !== undefined) throw new Error(this.ended)
  }

  private add(amount: number, times: number): void {
    const change = amount * times
    const sum = Number.isSafeInteger(change)
      ? this.tenths + change
      : Number(BigInt(this.tenths) + BigInt(amount) * BigInt(times))
    this.tenths = Math.max(Math.min(sum, this.expectedUse * FULL_AFTER), -MAX)
  }
}

/** What it is served is counted for this: who expects nothing has its turn too. */
export const weight = ({ expectedUse }: Share): number => Math.max(1, expectedUse)

const living = (share: Share): Share => {
  let last = share
  while (last.heir !== undefined) last = last.heir
  return last
}

/** Whether a credit of `one` for an amount of `a` goes before one of `other` for `b`, exactly; 0 when they are level. */
export const compare = (one: number, a: number, other: number, b: number): number => {
  if (a === b) return one - other
  const left = one * b
  const right = other * a
  if (Number.isSafeInteger(left) && Number.isSafeInteger(right)) return left - right
  const exact = BigInt(one) * BigInt(b) - BigInt(other) * BigInt(a)
  return exact === 0n ? 0 : exact > 0n ? 1 : -1
}
