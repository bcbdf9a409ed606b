/** Why a request is not admitted, and what that means for who asked. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { BudgetExceeded } from "../../BudgetError.ts"
import * as Ledger from "../../Ledger.ts"
import { badAmount, isAmount } from "../amount.ts"
import { type MemoryAccount, type MemoryHold, type MemoryRequest, queues } from "./account.ts"
import { current } from "./books.ts"

export interface Denial {
  readonly account: MemoryAccount
  readonly ledger: Ledger.Ledger
  readonly requested: number
  /** When time alone admits the whole request, in milliseconds from now. */
  readonly retryAfter: number | undefined
  /** Whether waiting is out of the question, for this request or by the budget's enforcement. */
  readonly decided: boolean
  readonly terminate: boolean
}

/**
 * Why a request is not admitted, `undefined` if it is. It names the first budget that rules out waiting, else the first that
 * denies; of a budget's limits, one that can never be met, else the one that takes longest.
 */
export const denialOf = (
  request: MemoryRequest,
  now: number,
  ledgers?: ReadonlyArray<Ledger.Ledger>
): Denial | undefined => {
  let found: Omit<Denial, "retryAfter"> | undefined
  let longest = 0
  let k = 0
  for (let i = 0; i < request.accounts.length; i++) {
    const account = request.accounts[i]!
    const requested = request.amounts[i]!
    let denying: Ledger.Ledger | undefined
    let wait = -1
    let never = false
    for (const cell of account.cells) {
      const ledger = ledgers === undefined ? current(account, cell, now) : ledgers[k++]!
      if (never || Ledger.admits(ledger, requested)) continue
      never = !Ledger.fits(ledger, requested, request.own?.[i])
      const ledgerWait = never ? Infinity : (Ledger.retryAfter(ledger, requested, now) ?? Infinity)
      if (never || ledgerWait > wait) denying = ledger
      wait = Math.max(wait, ledgerWait)
    }
    if (denying === undefined) continue
    const decided = never || !request.wait || !queues(account)
    longest = Math.max(longest, wait)
    if (found === undefined || (decided && !found.decided)) {
      const terminate = request.wait && account.definition.enforcement === "terminate"
      found = { account, ledger: denying, requested, decided, terminate }
    }
  }
  return found && { ...found, retryAfter: longest === Infinity ? undefined : longest }
}

export const exceeded = ({ account, ledger, requested, retryAfter }: Denial): BudgetExceeded =>
  new BudgetExceeded({
    budget: account.name,
    limit: ledger.limit,
    requested,
    available: ledger.available,
    ...(retryAfter === undefined ? undefined : { retryAfter: Duration.millis(retryAfter) })
  })

export const refuse = (denial: Denial): Effect.Effect<never, BudgetExceeded> =>
  denial.terminate ? Effect.die(exceeded(denial)) : Effect.fail(exceeded(denial))

export const check = (
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>,
  into: MemoryHold | undefined
): void => {
  for (let i = 0; i < amounts.length; i++) {
    if (!isAmount(amounts[i]!)) throw badAmount(accounts[i]!.name, "the amount", amounts[i])
  }
  if (into?.outcome !== undefined) throw ended(accounts)
}

export const ended = (accounts: ReadonlyArray<MemoryAccount>): Error =>
  new Error(`Budget "${accounts[0]!.name}": a reservation that has been settled cannot be extended`)
