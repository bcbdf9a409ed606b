/** Why a request is not admitted, and what that means for who asked: the same for every store. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { BudgetExceeded, FailedReservation, type FailedReservationReason, Rejected } from "../BudgetError.ts"
import type * as Store from "../BudgetStore.ts"
import * as Ledger from "../Ledger.ts"
import { badAmount, isAmount } from "./amount.ts"

/** A budget with what was declared of it. */
export interface Declared extends Store.Account {
  readonly definition: Store.Definition
}

export interface Denial<out A extends Declared = Declared> {
  readonly account: A
  readonly ledger: Ledger.Ledger
  readonly requested: number
  /** When time alone admits the whole request, in milliseconds from now. */
  readonly retryAfter: number | undefined
  /** Whether it can never be admitted, as the limits are. */
  readonly never: boolean
  /** Whether waiting is out of the question, for that reason or by the budget's enforcement. */
  readonly decided: boolean
  /** How long time alone takes until the budgets that throttle admit it (for ever: `Infinity`), if any of them denies. */
  readonly turnAfter: number | undefined
}

/**
 * Why a request is not admitted, `undefined` if it is. It names the first budget that rules out waiting, else (or `inOrder`)
 * the first that denies; of a budget's limits, one that can never be met, else the one that takes longest. `ownOf` is what the
 * request's own hold has in a ledger, by its place among all ledgers.
 */
export const denialAmong = <A extends Declared>(
  request: Store.Request & { readonly accounts: ReadonlyArray<A> },
  now: number,
  ledgersOf: (i: number) => ReadonlyArray<Ledger.Ledger>,
  ownOf: (i: number, k: number, ledger: Ledger.Ledger) => number,
  inOrder: boolean
): Denial<A> | undefined => {
  let found: Omit<Denial<A>, "retryAfter" | "turnAfter"> | undefined
  let turnAfter: number | undefined
  let longest = 0
  let k = 0
  for (let i = 0; i < request.accounts.length; i++) {
    const account = request.accounts[i]!
    const requested = request.amounts[i]!
    let denying: Ledger.Ledger | undefined
    let wait = -1
    let never = false
    for (const ledger of ledgersOf(i)) {
      const place = k++
      if (never || Ledger.admits(ledger, requested)) continue
      const own = request.extends === true ? ownOf(i, place, ledger) : 0
      never = !Ledger.fits(ledger, requested, own)
      const ledgerWait = never ? Infinity : (Ledger.retryAfter(ledger, requested, now) ?? Infinity)
      if (never || ledgerWait > wait) denying = ledger
      wait = Math.max(wait, ledgerWait)
    }
    if (denying === undefined) continue
    const decided = never || account.definition.enforcement !== "throttle"
    if (!decided) turnAfter = Math.max(turnAfter ?? 0, wait)
    longest = Math.max(longest, wait)
    if (found === undefined || (decided && !found.decided && !inOrder)) {
      found = { account, ledger: denying, requested, never, decided }
    }
  }
  return found && { ...found, turnAfter, retryAfter: longest === Infinity ? undefined : longest }
}

export const exceeded = ({ account, ledger, requested, retryAfter }: Denial): BudgetExceeded =>
  new BudgetExceeded({
    budget: account.name,
    limit: ledger.limit,
    requested,
    available: ledger.available,
    ...(retryAfter === undefined ? undefined : { retryAfter: Duration.millis(retryAfter) })
  })

export const refuse = (denial: Denial): Effect.Effect<never, BudgetExceeded | FailedReservation> => {
  const { account, never, requested, retryAfter } = denial
  if (account.definition.enforcement === "terminate") return Effect.die(exceeded(denial))
  // What can never fit is told apart, so that nobody tries again.
  if (account.definition.quota !== true || never) return Effect.fail(exceeded(denial))
  const reason = new Rejected(retryAfter === undefined ? {} : { estimatedWait: Duration.millis(retryAfter) })
  return Effect.fail(new FailedReservation({ budget: account.name, requested, reason }))
}

export const check = (
  accounts: ReadonlyArray<Store.Account>,
  amounts: ReadonlyArray<number>,
  into: Store.Hold | undefined
): void => {
  for (let i = 0; i < amounts.length; i++) {
    if (!isAmount(amounts[i]!)) throw badAmount(accounts[i]!.name, "the amount", amounts[i])
  }
  if (into?.outcome !== undefined) throw ended(accounts)
}

export const checkUpTo = (
  accounts: ReadonlyArray<Store.Account>,
  amounts: ReadonlyArray<number>,
  upTo: ReadonlyArray<number>
): void => {
  check(accounts, upTo, undefined)
  for (let i = 0; i < amounts.length; i++) {
    if (upTo[i]! >= amounts[i]!) continue
    throw new RangeError(
      `Budget "${accounts[i]!.name}": the wanted amount ${upTo[i]} is below the least one, ${amounts[i]}`
    )
  }
}

export const ended = (accounts: ReadonlyArray<Store.Account>): Error =>
  new Error(`Budget "${accounts[0]!.name}": a reservation that has been settled cannot be extended`)

/** How long the wait may take: as the request says, else the shortest of its budgets; `undefined` without a bound. */
export const patienceOf = (
  request: Store.Request & { readonly accounts: ReadonlyArray<Declared> }
): Duration.Duration | undefined => {
  if (request.timeout !== undefined) return request.timeout
  let least: Duration.Duration | undefined
  for (const { definition } of request.accounts) {
    if (definition.timeout !== undefined) {
      least = least === undefined ? definition.timeout : Duration.min(least, definition.timeout)
    }
  }
  return least
}

export const failed = (
  request: Store.Request,
  account: Store.Account,
  reason: FailedReservationReason
): FailedReservation =>
  new FailedReservation({
    budget: account.name,
    requested: request.amounts[request.accounts.indexOf(account)]!,
    reason
  })
