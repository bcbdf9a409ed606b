/**
 * The books of one limit, as pure data and pure functions. At every moment, in each epoch, `available + held + spent = granted`,
 * `held` is the sum of the open holds of the epoch, and `available` is negative exactly by the debt.
 *
 * ```ts
 * import { Ledger, Limit } from "effect-budget"
 *
 * const ledger = Ledger.hold(Ledger.make(Limit.capacity(10), 0), 4)
 * console.log(Ledger.settle(ledger, 4, ledger.epoch, 3).available) // 7
 * ```
 *
 * All arithmetic is on safe integers, with the remainder of a refill carried to the next, so nothing drifts. The caller gives the
 * time in whole milliseconds. A clock that steps back gives nothing and takes nothing. A step shorter than a window, or than the
 * time in which the bucket fills, is waited for: otherwise the same time would give twice. After any other step, refilling
 * continues at the new time: `refill` then moves the books back in time, so a caller has to keep its result even when it denies
 * a request.
 *
 * Each rule is written once, as a change in place (the functions named `...InPlace`). The other functions copy first.
 */
import {
  fillTo,
  isInterval,
  type Ledger,
  MAX,
  type Mutable,
  refillInPlace,
  toAmount,
  windowStart
} from "./internal/ledgerTime.ts"
import * as Limit from "./Limit.ts"

export type { Ledger, Mutable } from "./internal/ledgerTime.ts"

/** How `setLimit` changes the available amount. */
export type SetLimitStrategy = "additive" | "keepLevel" | "reset"

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

/** @internal */
export const copy = (self: Ledger): Mutable => ({ ...self })

/** Whether time alone changes these books. */
export const isTimed = ({ flow }: Ledger): boolean => flow !== undefined

/** Brings the books up to `now`. Returns the same object when nothing changed. */
export const refill = (self: Ledger, now: number): Ledger => {
  if (self.flow === undefined || now === self.at) return self
  const changed = copy(self)
  return refillInPlace(changed, now) ? changed : self
}

/** Whether `amount` can be held now. Nothing but 0 is admitted while there is debt. */
export const admits = (self: Ledger, amount: number): boolean =>
  amount <= self.available || amount === 0 || (self.limit._tag === "Unlimited" && amount <= most(self))

/** The most that can be held now. */
export const most = (self: Ledger): number =>
  self.limit._tag === "Unlimited" ? MAX - self.held : Math.max(0, self.available)

/** The most that can ever be admitted, while `own` of the held amount stays held, without a top-up, a reset or another limit. */
export const ceiling = (self: Ledger, own = 0): number => {
  switch (self.limit._tag) {
    case "Capacity":
      return self.granted - own
    case "Concurrency":
      return self.limit.amount - own
    case "Window":
      // A top-up makes room in this window only.
      return Math.max(self.limit.amount, self.available + self.held - own)
    default:
      return Limit.maximum(self.limit)
  }
}

/** Whether `amount` could ever be admitted while `own` of the held amount stays held. */
export const fits = (self: Ledger, amount: number, own = 0): boolean => amount <= ceiling(self, own)

/** Milliseconds until a top-up of this window is lost; `undefined` if the next window allows no less. */
export const losesRoomAfter = (self: Ledger, now: number): number | undefined =>
  self.limit._tag === "Window" && self.available + self.held > self.limit.amount
    ? self.at + self.flow!.millis - now
    : undefined

/**
 * Milliseconds until time alone admits `amount`; `undefined` when time alone cannot. Assumes that `returned` of the held amount
 * comes back now. Expects books brought up to `now`.
 */
export const retryAfter = (self: Ledger, amount: number, now: number, returned = 0): number | undefined => {
  const available = self.available + returned
  if (amount <= available || admits(self, amount)) return 0
  if (self.flow === undefined || amount > ceiling(self)) return undefined
  if (self.limit._tag === "Window") {
    return amount <= self.limit.amount ? self.at + self.flow.millis - now : undefined
  }
  const { millis, units } = self.flow
  const missing = amount - available
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

/** Milliseconds until an empty bucket has earned `amount`, or the length of a window; `undefined` if time refills nothing. */
export const earnsIn = ({ flow, limit }: Ledger, amount: number): number | undefined => {
  if (flow === undefined) return undefined
  if (limit._tag === "Window") return flow.millis
  const { millis, units } = flow
  return isInterval(limit) ? Math.ceil(amount / units) * millis : Math.ceil((amount * millis) / units)
}

/** Holds `amount`. Expects that `admits` allows it. */
export const hold = (self: Ledger, amount: number): Ledger => {
  if (amount === 0) return self
  const changed = copy(self)
  holdInPlace(changed, amount)
  return changed
}

/** @internal */
export const holdInPlace = (self: Mutable, amount: number): void => {
  if (amount === 0) return
  // No limit, and the counts would leave the safe integers: the spent amount is dropped.
  if (amount > self.available) self.spent = 0
  self.held += amount
  self.available = self.granted - self.held - self.spent
}

/**
 * Ends a hold of `amount` made in `epoch`: charges `actual` and gives the rest back. Overage is charged in full and carried as
 * debt. A hold of an earlier epoch neither refunds into nor charges this one. A slot of a concurrency limit comes back whole.
 */
export const settle = (self: Ledger, amount: number, epoch: number, actual: number): Ledger => {
  if (epoch !== self.epoch || (amount === 0 && actual === 0)) return self
  const changed = copy(self)
  settleInPlace(changed, amount, epoch, actual)
  return changed
}

/**
 * Settles in place. Returns whether anything changed.
 *
 * @internal
 */
export const settleInPlace = (self: Mutable, amount: number, epoch: number, actual: number): boolean => {
  if (epoch !== self.epoch || (amount === 0 && actual === 0)) return false
  const { limit } = self
  self.held -= amount
  if (limit._tag === "Concurrency") {
    self.available += amount
    if (self.carry > 0 && amount > 0) settleEarlier(self, amount, actual)
    return amount !== 0
  }
  if (actual > MAX - self.spent - self.held) forget(self)
  self.spent += Math.min(actual, MAX - self.spent - self.held + Math.min(0, self.granted))
  self.available = self.granted - self.held - self.spent
  if (limit._tag === "Rate" && actual < amount) fillTo(self, self.available)
  return true
}

/** Spending under a hold from before the slots is owed to the limit before them. Earlier holds count as settled first. */
const settleEarlier = (self: Mutable, amount: number, actual: number): void => {
  const part = Math.min(amount, self.carry)
  self.carry -= part
  const owed = Math.min(part === amount ? actual : Math.min(actual, part), MAX - self.granted)
  self.spent += owed
  self.granted += owed
}

/**
 * Adds `amount` to the granted amount. A rate takes it as far as the bucket has room. A concurrency limit and an unlimited budget
 * do not change. Returns `undefined` when the books cannot count that much.
 */
export const topUp = (self: Ledger, amount: number): Ledger | undefined => {
  const { _tag } = self.limit
  if (_tag === "Concurrency" || _tag === "Unlimited") return self
  const changed = copy(self)
  if (_tag === "Rate") {
    fillTo(changed, self.available + Math.min(amount, self.limit.burst - self.available))
    return changed
  }
  if (amount > MAX - self.granted) return undefined
  changed.granted += amount
  changed.available += amount
  return changed
}

/** Makes the whole limit available again, except for the held amount. Forgives a debt, and never lowers the available amount. */
export const replenish = (self: Ledger): Ledger => {
  const available = Math.max(self.available, Limit.maximum(self.limit) - self.held)
  const spent = Math.min(self.spent, MAX - self.held - available)
  const carry = self.limit._tag === "Unlimited" ? 0 : self.carry
  return { ...self, granted: available + self.held + spent, available, spent, carry }
}

/** Starts a new epoch with fresh books. The slots of a concurrency limit that are in use stay in use. */
export const reset = (self: Ledger, now: number): Ledger => setLimit(self, self.limit, now, "reset")

/** The time of the books, while a clock that stepped back is waited for. */
const latest = (self: Ledger, now: number): number => (self.flow === undefined ? now : Math.max(now, self.at))

/**
 * Changes the limit. Under the first two strategies, open holds stay on the books and a debt is never forgiven:
 *
 * - `additive` (default): the difference of the maxima is added to the available amount or taken from it. So a change of the kind
 *   of limit grants nothing by itself, and changing the limit back takes what the change gave.
 * - `keepLevel`: the available amount stays, up to the new maximum.
 * - `reset`: a new epoch, full.
 *
 * Slots in use stay in use under each strategy. A rate by interval keeps the elapsed part of its period, in proportion to the new
 * period; a change between whole periods and a continuous flow discards it. Expects books brought up to `now`.
 */
export const setLimit = (
  self: Ledger,
  limit: Limit.Limit,
  now: number,
  strategy: SetLimitStrategy = "additive"
): Ledger => {
  const fresh: Mutable = make(limit, strategy === "reset" ? now : latest(self, now))
  if (strategy === "reset") {
    if (limit._tag !== "Concurrency") return { ...fresh, epoch: self.epoch + 1 }
    return { ...fresh, epoch: self.epoch, held: self.held, available: limit.amount - self.held }
  }
  fresh.epoch = self.epoch
  fresh.held = self.held
  const before = Limit.maximum(self.limit)
  const after = Limit.maximum(limit)
  // The amount owed to the limit before this concurrency limit is owed again.
  const had =
    self.limit._tag === "Concurrency"
      ? Math.max(self.available - self.spent, -MAX)
      : self.limit._tag === "Unlimited" && self.carry > 0 && strategy === "keepLevel"
        ? -self.carry
        : self.available
  if (limit._tag === "Concurrency") {
    fresh.carry = self.limit._tag === "Concurrency" ? self.carry : self.held
    fresh.available = limit.amount - self.held
    fresh.spent = Math.min(Math.max(0, before - self.held - had), MAX - limit.amount)
    fresh.granted = limit.amount + fresh.spent
    return fresh
  }
  const moved = had + (after - before)
  const kept = self.limit._tag === "Concurrency" ? Math.min(self.available, moved) : had
  const target = strategy === "additive" ? moved : Math.min(kept, after)
  const level = Math.max(Math.min(target, MAX - self.held), -MAX)
  if (limit._tag === "Rate") {
    fresh.spent = self.spent
    keepPosition(fresh, self, now)
    fillTo(fresh, level)
    return fresh
  }
  // A bucket refills while its holds are out: they count in full against a limit that does not.
  fresh.available = self.limit._tag === "Rate" ? Math.min(level, after - self.held) : level
  const outside = fresh.available + self.held
  // A bucket refills what was spent, and under slots `spent` is the amount owed to an earlier limit: neither is carried over.
  const counts = self.limit._tag !== "Rate" && self.limit._tag !== "Concurrency"
  fresh.spent = Math.min(counts ? self.spent : Math.max(0, after - outside), MAX - Math.max(0, outside))
  if (limit._tag === "Unlimited") {
    fresh.available = MAX - self.held - fresh.spent
    fresh.carry = self.limit._tag === "Unlimited" ? self.carry : Math.max(0, -had)
  }
  fresh.granted = fresh.available + self.held + fresh.spent
  return fresh
}

/** Keeps the part of the next unit or period that a rate has earned, in terms of the new rate. */
const keepPosition = (fresh: Mutable, self: Ledger, now: number): void => {
  if (self.limit._tag !== "Rate" || isInterval(fresh.limit) !== isInterval(self.limit)) return
  fresh.at = isInterval(fresh.limit) ? periodStart(self, fresh.flow!, now) : self.at
  fresh.carry = Number((BigInt(self.carry) * BigInt(fresh.flow!.millis)) / BigInt(self.flow!.millis))
}

/** The start of a period of the new length of which the same part has passed now. */
const periodStart = (self: Ledger, { millis }: Limit.Flow, now: number): number =>
  now <= self.at ? self.at : now - Number((BigInt(now - self.at) * BigInt(millis)) / BigInt(self.flow!.millis))

/** The amount that must be paid before anything but 0 is admitted again. */
export const debt = (self: Ledger): number => Math.max(0, -self.available)

/** Drops the spent amount, as far as that does not affect what is admitted next. */
const forget = (self: Mutable): void => {
  const { _tag } = self.limit
  if (_tag === "Unlimited") self.spent = 0
  if (_tag !== "Rate") return
  const amount = Math.max(0, Math.min(self.spent, self.granted))
  self.granted -= amount
  self.spent -= amount
}

/** @internal */
export { refillInPlace } from "./internal/ledgerTime.ts"
