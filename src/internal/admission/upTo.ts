/** The amounts of `reserveUpTo`. */
import type { UpTo } from "../../BudgetStore.ts"

/**
 * The largest amounts between the least and the wanted ones that have room in all accounts. The fraction of the way is the same
 * for all accounts, so that no account is granted more than the others can pay for. `undefined` when the least amounts have no
 * room.
 */
export const amountsWithin = (
  least: ReadonlyArray<number>,
  { normalize, wanted }: UpTo,
  room: ReadonlyArray<number>
): Array<number> | undefined => {
  let part = 1n
  let whole = 1n
  for (let i = 0; i < least.length; i++) {
    if (room[i]! < least[i]! && least[i]! > 0) return undefined
    if (wanted[i]! <= room[i]!) continue
    const [itsPart, itsWhole] = [BigInt(Math.max(0, room[i]! - least[i]!)), BigInt(wanted[i]! - least[i]!)]
    if (itsPart * whole < part * itsWhole) [part, whole] = [itsPart, itsWhole]
  }
  if (part === whole) return [...wanted]
  return normalize(least.map((amount, i) => amount + Number((BigInt(wanted[i]! - amount) * part) / whole)))
}
