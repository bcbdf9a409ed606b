/**
 * The books of one limit, as pure data and pure functions. What always holds, at every moment and per epoch:
 *
 * - `available + held + spent = granted`
 * - `held` is the sum of the open holds of the epoch
 * - `available` is negative exactly by the debt
 *
 * All arithmetic is on safe integers, with the remainder of a refill carried to the next, so nothing drifts. Time is given in
 * whole milliseconds by the caller. A clock that goes back gives nothing and takes nothing.
 */
import * as Limit from "./Limit.ts"

/** The books of one limit. */
export interface Ledger {
  readonly limit: Limit.Limit
  /** All that was given in this epoch: the start, refills, top-ups. */
  readonly granted: number
  /** What can be held now. Negative while there is debt. */
  readonly available: number
  /** The sum of the open holds of this epoch. */
  readonly held: number
  /** What was settled in this epoch. */
  readonly spent: number
  /** Counts the windows of a window limit, and the resets of any limit that can be spent. */
  readonly epoch: number
  /** When a rate was last refilled, or when the current window (or period of a rate by interval) began, in milliseconds. */
  readonly at: number
  /** What a rate has earned beyond whole units, in units of `1 / flow.millis`. */
  readonly carry: number
  /** How time gives, for a rate or a window. */
  readonly flow: Limit.Flow | undefined
}

const MAX = Number.MAX_SAFE_INTEGER

/** Opens the books of a valid limit (see `Limit.problem`). All limits start full. */
export const make = (limit: Limit.Limit, now: number): Ledger => {
  const amount = Limit.maximum(limit)
  const flow = Limit.flow(limit)
  return {
    limit,
    granted: amount,
    available: amount,
    held: 0,
    spent: 0,
    epoch: 0,
    at: limit._tag === "Window" ? windowStart(flow!, now) : now,
    carry: 0,
    flow
  }
}

/** Whether time alone changes these books. */
export const isTimed = (self: Ledger): boolean => self.flow !== undefined

/** Brings the books up to `now`. Answers the same object when nothing changed. */
export const refill = (self: Ledger, now: number): Ledger => {
  if (self.flow === undefined || now === self.at) return self
  const isRate = self.limit._tag === "Rate"
  if (now < self.at) {
    if (catchesUp(self, self.flow, now)) return self
    if (isInterval(self.limit)) {
      const { millis } = self.flow
      return move(self, { at: self.at - Math.ceil((self.at - now) / millis) * millis })
    }
    return move(self, { at: isRate ? now : windowStart(self.flow, now) })
  }
  if (isInterval(self.limit)) return dropIn(self, self.flow, now)
  if (isRate) return flowIn(self, self.flow, now)
  return now - self.at < self.flow.millis ? self : { ...make(self.limit, now), epoch: self.epoch + 1 }
}

/**
 * Whether a clock that went back is near enough to wait for: within a window, or the time in which a bucket fills. Otherwise
 * the same time would give twice. From further back, refilling goes on at the new time, rather than not for long.
 */
const catchesUp = (self: Ledger, flow: Limit.Flow, now: number): boolean => {
  if (self.limit._tag !== "Rate") return self.at - now <= flow.millis
  return BigInt(self.at - now) * BigInt(flow.units) <= BigInt(self.limit.burst) * BigInt(flow.millis)
}

const flowIn = (self: Ledger, flow: Limit.Flow, now: number): Ledger => {
  const burst = Limit.maximum(self.limit)
  // A full bucket earns nothing, not even a part of a unit.
  if (self.available >= burst) return move(self, { at: now, carry: 0 })
  const product = (now - self.at) * flow.units + self.carry
  if (product <= MAX) {
    const gained = Math.floor(product / flow.millis)
    return fillTo(self, self.available + gained, now, product - gained * flow.millis)
  }
  const exact = BigInt(now - self.at) * BigInt(flow.units) + BigInt(self.carry)
  const available = toAmount(BigInt(self.available) + exact / BigInt(flow.millis))
  return fillTo(self, available, now, Number(exact % BigInt(flow.millis)))
}

/** The whole periods that have passed, also while the bucket is full. */
const dropIn = (self: Ledger, { millis, units }: Limit.Flow, now: number): Ledger => {
  const periods = Math.floor((now - self.at) / millis)
  if (periods === 0) return self
  const gained = periods * units
  const level =
    gained <= MAX ? self.available + gained : toAmount(BigInt(self.available) + BigInt(periods) * BigInt(units))
  return fillTo(self, level, self.at + periods * millis, 0)
}

const isInterval = (limit: Limit.Limit): boolean => limit._tag === "Rate" && limit.refill === "interval"

/**
 * A bucket with this much in it, as far as it has room; a full one earns nothing, not even a part of a unit. What was spent
 * has no bearing on what a rate admits: when the counts would leave the safe integers, it leaves the books.
 */
const fillTo = (self: Ledger, level: number, at: number, carry: number): Ledger => {
  const burst = Limit.maximum(self.limit)
  const available = Math.max(Math.min(level, burst, MAX - self.held), -MAX)
  const spent = self.spent <= MAX - self.held - available ? self.spent : Math.max(0, -(available + self.held))
  const granted = available + self.held + spent
  return build(self, granted, available, self.held, spent, at, available === burst ? 0 : carry)
}

/** Whether `amount` can be held now. Nothing but 0 is admitted while there is debt. */
export const admits = (self: Ledger, amount: number): boolean =>
  amount <= self.available || amount === 0 || (self.limit._tag === "Unlimited" && amount <= most(self))

/** The most that can be held now. */
export const most = (self: Ledger): number =>
  self.limit._tag === "Unlimited" ? MAX - self.held : Math.max(0, self.available)

/**
 * Whether `amount` could ever be admitted while `own` of what is held stays held. What cannot is only helped by another
 * limit, a top-up or a reset.
 */
export const fits = (self: Ledger, amount: number, own = 0): boolean => {
  switch (self.limit._tag) {
    case "Capacity":
    case "Concurrency":
      return amount <= self.granted - own
    case "Window":
      // A top-up makes room in this window only.
      return amount <= Math.max(self.limit.amount, self.available + self.held - own)
    default:
      return amount <= Limit.maximum(self.limit)
  }
}

/** Milliseconds until time alone admits `amount`; `undefined` when time alone cannot. Expects books brought up to `now`. */
export const retryAfter = (self: Ledger, amount: number, now: number): number | undefined => {
  if (admits(self, amount)) return 0
  if (self.flow === undefined || !fits(self, amount)) return undefined
  if (self.limit._tag === "Window") {
    return amount <= self.limit.amount ? self.at + self.flow.millis - now : undefined
  }
  const { millis, units } = self.flow
  const missing = amount - self.available
  if (isInterval(self.limit)) {
    const periods = Math.ceil(missing / units)
    const wait = periods * millis
    return wait <= MAX ? self.at - now + wait : toAmount(BigInt(self.at - now) + BigInt(periods) * BigInt(millis))
  }
  const behind = Math.max(0, self.at - now)
  const product = missing * millis - self.carry
  if (product <= MAX) return behind + Math.ceil(product / units)
  const exact = BigInt(missing) * BigInt(millis) - BigInt(self.carry)
  return toAmount(BigInt(behind) + (exact + BigInt(units) - 1n) / BigInt(units))
}

/** Sets `amount` aside. The caller has asked `admits`. */
export const hold = (self: Ledger, amount: number): Ledger => {
  if (amount === 0) return self
  const held = self.held + amount
  // No limit, and the counts would leave the safe integers: what was spent leaves the books.
  const spent = amount <= self.available ? self.spent : 0
  return change(self, self.granted, self.granted - held - spent, held, spent)
}

/**
 * Ends a hold of `amount` made in `epoch`: charges `actual` and gives the rest back. Overage is charged in full and carried as
 * debt. A hold of an earlier epoch neither refunds into nor charges this one. A slot of a concurrency limit comes back whole.
 */
export const settle = (self: Ledger, amount: number, epoch: number, actual: number): Ledger => {
  if (epoch !== self.epoch || (amount === 0 && actual === 0)) return self
  const held = self.held - amount
  if (self.limit._tag === "Concurrency") {
    return change(self, self.granted, self.available + amount, held, self.spent)
  }
  const before = actual > MAX - self.spent - held ? forget(self) : self
  const charged = Math.min(actual, MAX - before.spent - held + Math.min(0, before.granted))
  const spent = before.spent + charged
  const granted = before.granted
  const settled = change(self, granted, granted - held - spent, held, spent)
  return self.limit._tag === "Rate" && charged < amount
    ? fillTo(settled, settled.available, self.at, self.carry)
    : settled
}

/**
 * Adds `amount` to what is granted. A rate takes it as far as the bucket has room. A concurrency limit and no limit at all
 * have nothing to top up. Answers `undefined` when the books cannot count that much.
 */
export const topUp = (self: Ledger, amount: number): Ledger | undefined => {
  switch (self.limit._tag) {
    case "Concurrency":
    case "Unlimited":
      return self
    case "Rate":
      return fillTo(self, self.available + Math.min(amount, self.limit.burst - self.available), self.at, self.carry)
    default:
      return amount > MAX - self.granted
        ? undefined
        : change(self, self.granted + amount, self.available + amount, self.held, self.spent)
  }
}

/** Makes all available again that the limit allows beside what is held; a debt is forgiven, what is available is never less. */
export const replenish = (self: Ledger): Ledger => {
  const available = Math.max(self.available, Limit.maximum(self.limit) - self.held)
  const spent = Math.min(self.spent, MAX - self.held - available)
  return change(self, available + self.held + spent, available, self.held, spent)
}

/** Starts a new epoch with fresh books. A concurrency limit has nothing to forget: its slots are in use or free. */
export const reset = (self: Ledger, now: number): Ledger =>
  self.limit._tag === "Concurrency" ? self : { ...make(self.limit, latest(self, now)), epoch: self.epoch + 1 }

/** The books' own time, while a clock that went back is waited for. */
const latest = (self: Ledger, now: number): number => (self.flow === undefined ? now : Math.max(now, self.at))

/**
 * Changes the limit and keeps what was spent and what is held. Within one kind of limit, the difference is added to or taken
 * from what is available at once (so a rate that is lowered owes what was spent above the new burst, and raising it again gives
 * nothing for free). A rate by interval keeps the part of its period that has passed, as the same part of the new one; by
 * going over from whole periods to a continuous flow or back, a rate starts anew to earn. After a change of kind, what was spent counts only against a limit that never refills.
 * Expects books brought up to `now`.
 */
export const setLimit = (self: Ledger, limit: Limit.Limit, now: number): Ledger => {
  const { epoch, held } = self
  const fresh: Ledger = { ...make(limit, latest(self, now)), epoch, held }
  if (limit._tag !== self.limit._tag) {
    if (limit._tag === "Rate" || limit._tag === "Window") {
      const available = fresh.available - held
      const spent = Math.min(self.spent, MAX - Math.max(fresh.available, held))
      return { ...fresh, granted: available + held + spent, available, spent }
    }
    const spent = limit._tag === "Concurrency" ? 0 : self.spent
    return { ...fresh, available: fresh.available - held - spent, spent }
  }
  const difference = Limit.maximum(limit) - Limit.maximum(self.limit)
  if (limit._tag === "Rate") {
    const earned = { ...fresh, spent: self.spent }
    if (isInterval(limit) !== isInterval(self.limit)) return fillTo(earned, self.available + difference, fresh.at, 0)
    if (isInterval(limit)) return fillTo(earned, self.available + difference, periodStart(self, fresh.flow!, now), 0)
    const carry = Number((BigInt(self.carry) * BigInt(fresh.flow!.millis)) / BigInt(self.flow!.millis))
    return fillTo(earned, self.available + difference, self.at, carry)
  }
  const granted = Math.min(self.granted + difference, MAX)
  return { ...fresh, granted, available: granted - held - self.spent, spent: self.spent }
}

/** When a period of this length would have begun that is over by the same part now. */
const periodStart = (self: Ledger, { millis }: Limit.Flow, now: number): number =>
  now <= self.at ? self.at : now - Number((BigInt(now - self.at) * BigInt(millis)) / BigInt(self.flow!.millis))

/** What is owed before anything but 0 is admitted again. */
export const debt = (self: Ledger): number => Math.max(0, -self.available)

/** The books without what was spent, as far as that has no bearing on what is admitted next. */
const forget = (self: Ledger): { readonly granted: number; readonly spent: number } => {
  if (self.limit._tag === "Unlimited") return { granted: self.granted, spent: 0 }
  const amount = self.limit._tag === "Rate" ? Math.max(0, Math.min(self.spent, self.granted)) : 0
  return { granted: self.granted - amount, spent: self.spent - amount }
}

const windowStart = (flow: Limit.Flow, now: number): number => Math.floor(now / flow.millis) * flow.millis

const toAmount = (n: bigint): number => (n > BigInt(MAX) ? MAX : Number(n))

const change = (self: Ledger, granted: number, available: number, held: number, spent: number): Ledger =>
  build(self, granted, available, held, spent, self.at, self.carry)

const move = (self: Ledger, to: { readonly at: number; readonly carry?: number }): Ledger =>
  build(self, self.granted, self.available, self.held, self.spent, to.at, to.carry ?? self.carry)

/** One place builds the changed books, so that all share one shape. */
const build = (
  self: Ledger,
  granted: number,
  available: number,
  held: number,
  spent: number,
  at: number,
  carry: number
): Ledger => ({ limit: self.limit, granted, available, held, spent, epoch: self.epoch, at, carry, flow: self.flow })
