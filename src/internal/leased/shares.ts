/** What is done with the shares of this process, each in one synchronous step. */
import type { LeasedAccount, LeasedHold, Part } from "./account.ts"

/** Takes all of it from the shares of the accounts, or nothing. */
export const take = (hold: LeasedHold, amounts: ReadonlyArray<number>, now: number): boolean => {
  const { accounts, parts } = hold
  for (let i = 0; i < accounts.length; i++) if (lack(accounts[i]!, amounts[i]!, now) > 0) return false
  for (let i = 0; i < accounts.length; i++) {
    const amount = amounts[i]!
    const account = accounts[i]!
    const { share } = account
    if (amount === 0 || share === undefined) continue
    share.free -= amount
    share.used += amount
    account.taken = account.comesBack ? Math.max(account.taken, share.used) : account.taken + amount
    const last = parts[i]!.at(-1)
    if (last?.share === share) last.amount += amount
    else parts[i]!.push({ share, amount })
  }
  return true
}

/** How much more the account's share would have to have. */
export const lack = ({ share }: LeasedAccount, amount: number, now: number): number => {
  if (amount === 0) return 0
  return share?.isGood(now) === true ? Math.max(0, amount - share.free) : amount
}

/** Gives some of a reservation back, of what was taken first. */
export const giveBack = (hold: LeasedHold, i: number, amount: number): void => {
  const parts = hold.parts[i]!
  let rest = amount
  for (const part of parts) {
    if (rest === 0) break
    const given = Math.min(rest, part.amount)
    rest -= given
    part.amount -= given
    part.share.used -= given
    part.share.free += given
  }
  const first = parts.findIndex((part) => part.amount > 0)
  parts.splice(0, first === -1 ? parts.length : first)
}

/** What is charged to each part: what was taken first is charged first, what is left goes to the latest. */
const chargesOf = (parts: ReadonlyArray<Part>, charge: number): ReadonlyArray<number> => {
  let rest = charge
  return parts.map(({ amount }, n) => {
    const part = n === parts.length - 1 ? rest : Math.min(rest, amount)
    rest -= part
    return part
  })
}

/** Ends what a reservation has of one account; answers what was spent above what the shares have. */
export const end = (hold: LeasedHold, i: number, charge: number): number => {
  const account = hold.accounts[i]!
  const parts = hold.parts[i]!
  if (parts.length === 0) return account.comesBack ? 0 : charge
  const charges = chargesOf(parts, charge)
  let over = 0
  parts.forEach(({ amount, share }, n) => {
    const spent = account.comesBack ? 0 : charges[n]!
    share.used -= amount
    share.free += amount
    // What is spent beyond the reservation may still be in the share.
    const covered = Math.min(spent, share.free)
    share.free -= covered
    share.spent += covered
    over += spent - covered
  })
  return over
}
