/**
 * Money as integer nano-dollars (1 USD = 10^9), so that sums are exact. The greatest amount is 9,007,199.254740991 USD.
 *
 * ```ts
 * import { Usd } from "effect-budget"
 *
 * const price = Usd.dollars("2.50")
 * console.log(Usd.format(Usd.cost(1_200, price))) // $0.003
 * console.log(Usd.format(Usd.sum([price, Usd.dollars("0.10")]))) // $2.60
 * ```
 */
import type * as Brand from "effect/Brand"
import { isAmount } from "./internal/amount.ts"

/** An amount of nano-dollars: a whole number from 0 to 2^53 - 1. It is a number, so it can be the amount of a budget. */
export type Usd = number & Brand.Brand<"effect-budget/Usd">

const NANOS = 1_000_000_000n
const DECIMAL = /^(\d+)(?:\.(\d{1,9})0*)?$/

/**
 * An amount from decimal dollars, exactly: `Usd.dollars("0.10")`, `Usd.dollars(5)`. A number is read in its shortest decimal
 * form, so `Usd.dollars(0.1)` is exactly 10 cents; from 8,388,608 USD on, only a string can express every nano-dollar. Throws a
 * `RangeError` when the amount is negative, not a decimal, finer than a nano-dollar or too large.
 */
export const dollars = (amount: string | number): Usd => {
  const text =
    typeof amount === "number" && amount < 1e-6 && amount >= 1e-9 ? amount.toFixed(20).replace(/0+$/, "") : `${amount}`
  const match = DECIMAL.exec(text)
  if (match === null) throw new RangeError(`Usd: ${text} is not a decimal of at most nine places, 0 or above`)
  return nanos(Number(BigInt(match[1]!) * NANOS + BigInt((match[2] ?? "").padEnd(9, "0"))))
}

/** An amount from nano-dollars. Throws a `RangeError` unless it is a whole number from 0 to 2^53 - 1. */
export const nanos = (amount: number): Usd => {
  if (!isAmount(amount)) throw new RangeError(`Usd: ${amount} nano-dollars is not a whole number from 0 to 2^53 - 1`)
  return amount as Usd
}

/** The exact sum of amounts. Throws a `RangeError` when it is too large. */
export const sum = (amounts: Iterable<Usd>): Usd => {
  let total = 0
  for (const amount of amounts) total = nanos(total + amount)
  return total as Usd
}

/**
 * The cost of `count` units, such as tokens, at a price per million, rounded up to a whole nano-dollar. Throws a `RangeError`
 * when it is too large.
 */
export const cost = (count: number, perMillion: Usd): Usd => {
  if (!isAmount(count)) throw new RangeError(`Usd: a count of ${count} is not a whole number from 0 to 2^53 - 1`)
  return nanos(Number((BigInt(count) * BigInt(perMillion) + 999_999n) / 1_000_000n))
}

/** Dollars to the nano-dollar, with at least two decimals: `$0.10`, `$1.000000001`. A debt has a minus sign. */
export const format = (amount: number): string => {
  const digits = `${Math.abs(amount)}`.padStart(10, "0")
  const fraction = digits.slice(-9).replace(/0{1,7}$/, "")
  return `${amount < 0 ? "-" : ""}$${digits.slice(0, -9)}.${fraction}`
}
