/** Whether `n` is an amount: a whole number from 0 to 2^53 - 1. */
export const isAmount = (n: number): boolean => Number.isSafeInteger(n) && n >= 0

/** A wrong amount is a programming error: the defect names the budget and the value. */
export const badAmount = (budget: string, what: string, value: unknown): RangeError =>
  new RangeError(`Budget "${budget}": ${what} must be a whole number from 0 to 2^53 - 1, not ${String(value)}`)

/**
 * A number reported from outside, never trusted: fractions are rounded up, what is above the safe integers counts as the
 * greatest one. What is negative (some report -1) or not a number is unknown, and unknown is never zero.
 */
export const saturate = (reported: unknown): number | undefined => {
  if (typeof reported !== "number" || !(reported >= 0)) return undefined
  return Math.min(Math.ceil(reported), Number.MAX_SAFE_INTEGER)
}

/** No amount for each of `count` accounts. Shared by all callers. */
export const zeros = (count: number): ReadonlyArray<number> =>
  (allZeros[count] ??= Array.from({ length: count }, () => 0))

const allZeros: Array<ReadonlyArray<number>> = []

/** Whether two lists of the same length have the same numbers. */
export const sameNumbers = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): boolean => {
  if (one === other) return true
  for (let i = 0; i < one.length; i++) if (one[i] !== other[i]) return false
  return true
}
