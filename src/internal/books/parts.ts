/**
 * The parts of a hold: its amounts by epoch. A hold that is extended in a later epoch has several parts. The oldest part is
 * charged first.
 */

import { sameNumbers } from "../amount.ts"

/** An amount from each account, and the epoch of each ledger in which it was taken. */
export interface Part {
  readonly amounts: ReadonlyArray<number>
  readonly epochs: ReadonlyArray<number>
}

/** All parts of a hold: the latest one, and the older ones, the oldest first. */
export interface Parts extends Part {
  readonly older: ReadonlyArray<Part>
}

export const noParts: ReadonlyArray<Part> = []

/** The amount from each account, the sum of all parts. */
export const heldOf = (parts: Parts): ReadonlyArray<number> =>
  parts.older.length === 0
    ? parts.amounts
    : parts.older.reduce<ReadonlyArray<number>>((total, part) => sum(total, part.amounts), parts.amounts)

/** The amount of account `i` that is held in this epoch of the ledger at place `k` among all ledgers. */
export const heldIn = (parts: Parts, i: number, k: number, epoch: number): number => {
  let held = parts.epochs[k] === epoch ? parts.amounts[i]! : 0
  for (const part of parts.older) if (part.epochs[k] === epoch) held += part.amounts[i]!
  return held
}

/**
 * The older parts of a hold that is extended in these epochs. Epochs that are over are alike, so that their parts can be joined.
 */
export const olderParts = (parts: Parts, epochs: ReadonlyArray<number>): ReadonlyArray<Part> => {
  const older: Array<Part> = []
  for (const part of [...parts.older, parts]) {
    if (part.amounts.every((amount) => amount === 0)) continue
    const going = part.epochs.map((epoch, k) => (epoch === epochs[k] ? epoch : OVER))
    const same = older.findIndex((other) => sameNumbers(other.epochs, going))
    if (same < 0) older.push({ amounts: part.amounts, epochs: going })
    else older[same] = { amounts: sum(older[same]!.amounts, part.amounts), epochs: going }
  }
  return older
}

const OVER = -1

/** Calls `use` for each part with its charges, in the order in which they are charged. The rest is charged to the latest part. */
export const forEachCharged = (
  parts: Parts,
  charges: ReadonlyArray<number>,
  use: (part: Part, charges: ReadonlyArray<number>) => void
): void => {
  let rest = charges
  for (const part of parts.older) {
    const charged = least(rest, part.amounts)
    use(part, charged)
    rest = difference(rest, charged)
  }
  use(parts, rest)
}

/** The older parts after these amounts are taken from them, the oldest first; `rest` is the amounts that they do not have. */
export const withoutOlder = (
  parts: ReadonlyArray<Part>,
  amounts: ReadonlyArray<number>,
  use: (part: Part, given: ReadonlyArray<number>) => void
): { readonly older: ReadonlyArray<Part>; readonly rest: ReadonlyArray<number> } => {
  let rest = amounts
  const older: Array<Part> = []
  for (const part of parts) {
    const given = least(rest, part.amounts)
    use(part, given)
    rest = difference(rest, given)
    const left = difference(part.amounts, given)
    if (left.some((amount) => amount > 0)) older.push({ amounts: left, epochs: part.epochs })
  }
  return { older, rest }
}

const sum = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): Array<number> =>
  one.map((amount, i) => amount + other[i]!)

const least = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): ReadonlyArray<number> =>
  one.map((amount, i) => Math.min(amount, other[i]!))

const difference = (one: ReadonlyArray<number>, other: ReadonlyArray<number>): ReadonlyArray<number> =>
  one.map((amount, i) => amount - other[i]!)
