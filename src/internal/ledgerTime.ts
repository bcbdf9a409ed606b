/** The books of one limit, and what time makes of them. */
import * as Limit from "../Limit.ts"

/** The books of one limit. */
export interface Ledger {
  readonly limit: Limit.Limit
  /** The sum of all grants in this epoch: the start, refills, top-ups. */
  readonly granted: number
  /** The amount that can be held now. Negative while there is debt. */
  readonly available: number
  /** The sum of the open holds of this epoch. */
  readonly held: number
  /**
   * The sum of all charges in this epoch. Under a concurrency limit, it is the amount still owed to the limit before: it does not
   * count against the slots, and is owed again under the next limit of another kind.
   */
  readonly spent: number
  /** Counts the windows of a window limit since it was opened, and the resets of any limit that can be spent. */
  readonly epoch: number
  /** The last refill of a rate, or the start of the current window (or period of a rate by interval), in milliseconds. */
  readonly at: number
  /**
   * What a rate has earned beyond whole units, in units of `1 / flow.millis`. Under a concurrency limit, the part of `held` that was
   * taken under the limit before it. Without a limit, the debt under the limit before, which `keepLevel` keeps.
   */
  readonly carry: number
  /** How time refills a rate or a window. */
  readonly flow: Limit.Flow | undefined
}

export type Mutable = { -readonly [K in keyof Ledger]: Ledger[K] }

/** The greatest amount that books can count. */
export const MAX = Number.MAX_SAFE_INTEGER

/** Brings the books up to `now`. Returns whether anything changed. */
export const refillInPlace = (self: Mutable, now: number): boolean => {
  const { flow, limit } = self
  if (flow === undefined || now === self.at) return false
  if (now < self.at) return moveBack(self, flow, now)
  if (limit._tag !== "Rate") return turn(self, flow, now)
  if (limit.refill === "interval") return dropIn(self, flow, now)
  flowIn(self, flow, now)
  return true
}

/** Handles a clock that stepped back: a short step is waited for, and after a longer one the books go on at the new time. */
const moveBack = (self: Mutable, flow: Limit.Flow, now: number): boolean => {
  if (catchesUp(self, flow, now)) return false
  if (self.limit._tag !== "Rate") self.at = windowStart(flow, now)
  else if (isInterval(self.limit)) self.at -= Math.ceil((self.at - now) / flow.millis) * flow.millis
  else self.at = now
  return true
}

const catchesUp = (self: Ledger, flow: Limit.Flow, now: number): boolean => {
  if (self.limit._tag !== "Rate") return self.at - now < flow.millis
  return BigInt(self.at - now) * BigInt(flow.units) < BigInt(self.limit.burst) * BigInt(flow.millis)
}

/** Opens the window of `now` when the books are of an earlier one. Windows in between count as epochs of their own. */
const turn = (self: Mutable, flow: Limit.Flow, now: number): boolean => {
  const windows = Math.floor((now - self.at) / flow.millis)
  if (windows < 1) return false
  const amount = Limit.maximum(self.limit)
  self.granted = amount
  self.available = amount
  self.held = 0
  self.spent = 0
  self.epoch += windows
  self.at += windows * flow.millis
  return true
}

const flowIn = (self: Mutable, flow: Limit.Flow, now: number): void => {
  const elapsed = now - self.at
  self.at = now
  // A full bucket earns nothing, not even a part of a unit.
  if (self.available >= Limit.maximum(self.limit)) {
    self.carry = 0
    return
  }
  const product = elapsed * flow.units + self.carry
  if (product <= MAX) {
    const gained = Math.floor(product / flow.millis)
    self.carry = product - gained * flow.millis
    // Most looks at a bucket come sooner than its next unit.
    if (gained > 0) fillTo(self, self.available + gained)
    return
  }
  const exact = BigInt(elapsed) * BigInt(flow.units) + BigInt(self.carry)
  self.carry = Number(exact % BigInt(flow.millis))
  fillTo(self, toAmount(BigInt(self.available) + exact / BigInt(flow.millis)))
}

/** Adds the amounts of the whole periods that have passed, also while the bucket is full. */
const dropIn = (self: Mutable, { millis, units }: Limit.Flow, now: number): boolean => {
  const periods = Math.floor((now - self.at) / millis)
  if (periods === 0) return false
  const gained = periods * units
  self.at += periods * millis
  self.carry = 0
  fillTo(
    self,
    gained <= MAX ? self.available + gained : toAmount(BigInt(self.available) + BigInt(periods) * BigInt(units))
  )
  return true
}

export const isInterval = (limit: Limit.Limit): boolean => limit._tag === "Rate" && limit.refill === "interval"

/**
 * Fills a bucket to this level, as far as it has room. A full bucket earns nothing, not even a part of a unit. The spent amount
 * does not affect what a rate admits: when the counts would leave the safe integers, it is dropped.
 */
export const fillTo = (self: Mutable, level: number): void => {
  const burst = Limit.maximum(self.limit)
  const available = Math.max(Math.min(level, burst, MAX - self.held), -MAX)
  if (self.spent > MAX - self.held - available) self.spent = Math.max(0, -(available + self.held))
  self.available = available
  self.granted = available + self.held + self.spent
  if (available === burst) self.carry = 0
}

export const windowStart = (flow: Limit.Flow, now: number): number => Math.floor(now / flow.millis) * flow.millis

export const toAmount = (n: bigint): number => (n > BigInt(MAX) ? MAX : Number(n))
