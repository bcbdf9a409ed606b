/**
 * Money as integer nano-dollars (1 USD = 10^9), so that sums are exact. The greatest amount is 9,007,199.254740991 USD.
 */
import type * as Brand from "effect/Brand"
import { isAmount } from "./internal/amount.ts"

/** An amount of nano-dollars: a whole number from 0 to 2^53 - 1. It is a number, and so the amount of a budget. */
export type Usd = number & Brand.Brand<"effect-budget/Usd">

const NANOS = 1_000_000_000n
const DECIMAL = /^(\d+)(?:\.(\d{1,9})0*)?$/

/**
 * Dollars as a decimal, exactly: `Usd.dollars("0.10")`, `Usd.dollars(5)`. A number is taken by its shortest decimal form, so
 * `Usd.dollars(0.1)` is 10 cents to the nano-dollar; from 8,388,608 USD on, only a string can name each of them. Throws a `RangeError` for what is negative, not a decimal, finer than a
 * nano-dollar or too large.
 */
export const dollars = (amount: string | number): Usd => {
  const text =
    typeof amount === "number" && amount < 1e-6 && amount >= 1e-9 ? amount.toFixed(20).replace(/0+$/, "") : `${amount}`
  const match = DECIMAL.exec(text)
  if (match === null) throw new RangeError(`Usd: ${text} is not a decimal of at most nine places, 0 or above`)
  return nanos(Number(BigInt(match[1]!) * NANOS + BigInt((match[2] ?? "").padEnd(9, "0"))))
}

/** So many nano-dollars. Throws a `RangeError` for what is not a whole number from 0 to 2^53 - 1. */
export const nanos = (amount: number): Usd => {
  if (!isAmount(amount)) throw new RangeError(`Usd: ${amount} nano-dollars is not a whole number from 0 to 2^53 - 1`)
  return amount as Usd
}

/** The exact sum. Throws a `RangeError` when it is too large. */
export const sum = (amounts: Iterable<Usd>): Usd => {
  let total = 0
  for (const amount of amounts) total = nanos(total + amount)
  return total as Usd
}

/**
 * What `count` units (tokens, say) cost at a price for a million of them, rounded up to a whole nano-dollar. Throws a
 * `RangeError` when it is too large.
 */
export const cost = (count: number, perMillion: Usd): Usd => {
  if (!isAmount(count)) throw new RangeError(`Usd: a count of ${count} is not a whole number from 0 to 2^53 - 1`)
  return nanos(Number((BigInt(count) * BigInt(perMillion) + 999_999n) / 1_000_000n))
}

/** Dollars to the nano-dollar, at least to the cent: `$0.10`, `$1.000000001`. A debt is written with a minus. */
export const format = (amount: number): string => {
  const digits = `${Math.abs(amount)}`.padStart(10, "0")
  const fraction = digits.slice(-9).replace(/0{1,7}$/, "")
  return `${amount < 0 ? "-" : ""}$${digits.slice(0, -9)}.${fraction}`
}
