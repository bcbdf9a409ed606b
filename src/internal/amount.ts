/** Whether `n` is an amount: a whole number from 0 to 2^53 - 1. */
export const isAmount = (n: number): boolean => Number.isSafeInteger(n) && n >= 0

/** A wrong amount is a programming error: the defect names the budget and the value. */
export const badAmount = (budget: string, what: string, value: unknown): RangeError =>
  new RangeError(`Budget "${budget}": ${what} must be a whole number from 0 to 2^53 - 1, not ${String(value)}`)

/**
 * A number reported from outside, never trusted: fractions are rounded up, negative numbers count as 0, what is above the
 * safe integers counts as the greatest one. What is not a number is unknown, and unknown is never zero.
 */
export const saturate = (reported: unknown): number | undefined => {
  if (typeof reported !== "number" || Number.isNaN(reported)) return undefined
  return Math.min(Math.max(Math.ceil(reported), 0), Number.MAX_SAFE_INTEGER)
}
