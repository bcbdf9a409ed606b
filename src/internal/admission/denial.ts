/** Denials and their errors, for all stores. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { BudgetExceeded, FailedReservation, type FailedReservationReason, TimedOut } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { badAmount, isAmount } from "../amount.ts"

/** An account with the definition by which it was opened. */
export interface Declared extends Store.Account {
  readonly definition: Store.Definition
}

/** A request whose accounts carry their definitions. */
export interface DeclaredRequest<out A extends Declared = Declared> extends Store.Request {
  readonly accounts: ReadonlyArray<A>
}

/** A denial by the limits. */
export class LimitDenial<out A extends Declared = Declared> implements Store.Denial {
  readonly _tag = "Denial"
  readonly account: A
  readonly ledger: Ledger.Ledger
  readonly requested: number
  /** Whether the present limits can never admit it. */
  readonly never: boolean
  /** Whether it must not wait, because it can never be admitted or because the budget does not throttle. */
  readonly decided: boolean
  /** The time after which time alone admits the whole request, in milliseconds. */
  retryAfter: number | undefined = undefined
  /** The time after which time alone makes the throttling budgets admit it, if any of them denies (`Infinity`: never). */
  turnAfter: number | undefined = undefined
  readonly payer: Store.Payer | undefined

  constructor(
    account: A,
    ledger: Ledger.Ledger,
    requested: number,
    never: boolean,
    decided: boolean,
    payer: Store.Payer | undefined
  ) {
    this.account = account
    this.ledger = ledger
    this.requested = requested
    this.never = never
    this.decided = decided
    this.payer = payer
  }

  refuse(): Effect.Effect<never, BudgetExceeded | FailedReservation> {
    const error = exceeded(this)
    if (this.account.definition.enforcement === "terminate") return Effect.die(error)
    return Effect.fail(this.payer?.errorOf === undefined ? error : this.payer.errorOf(error, this.never))
  }
}

/** A denial for a reason other than the limits. */
export const failureDenial = (
  request: Store.Request,
  account: Store.Account,
  reason: FailedReservationReason
): Store.Denial => ({ _tag: "Denial", refuse: () => Effect.fail(failed(request, account, reason)) })

/** A denial of a request that has become a programming error while it waited. */
export const defectDenial = (defect: unknown): Store.Denial => ({ _tag: "Denial", refuse: () => Effect.die(defect) })

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

/**
 * The denial of a request, or `undefined` if it is admitted. It names the first budget that rules out waiting, or else the first
 * that denies; with `inOrder`, always the first that denies. Of the limits of that budget, it names one that can never admit the
 * request, or else the one that takes longest. `ownOf` is the amount that the hold of the request already has in a ledger, by its
 * place among all ledgers.
 */
export const denialAmong = <A extends Declared>(
  request: DeclaredRequest<A>,
  now: number,
  ledgersOf: (i: number) => ReadonlyArray<Ledger.Ledger>,
  ownOf: (i: number, k: number, ledger: Ledger.Ledger) => number,
  inOrder: boolean
): LimitDenial<A> | undefined => {
  let found: LimitDenial<A> | undefined
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
      found = new LimitDenial(account, denying, requested, never, decided, request.payer)
    }
  }
  if (found !== undefined) {
    found.turnAfter = turnAfter
    found.retryAfter = longest === Infinity ? undefined : longest
  }
  return found
}

/** Made without a stack, which would be most of its cost: the error is an expected value. */
export const exceeded = ({ account, ledger, requested, retryAfter }: LimitDenial): BudgetExceeded => {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return new BudgetExceeded({
      budget: account.name,
      limit: ledger.limit,
      requested,
      available: ledger.available,
      ...(retryAfter === undefined ? undefined : { retryAfter: Duration.millis(retryAfter) })
    })
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}

/** The error of a wait that ended without a grant, with the details of the denial. */
export const timedOut = (after: Duration.Duration, denial: LimitDenial | undefined): TimedOut =>
  new TimedOut({
    after,
    ...(denial === undefined ? undefined : { limit: denial.ledger.limit, available: denial.ledger.available }),
    ...(denial?.retryAfter === undefined ? undefined : { retryAfter: Duration.millis(denial.retryAfter) })
  })

export const assertAmounts = (accounts: ReadonlyArray<Store.Account>, amounts: ReadonlyArray<number>): void => {
  for (let i = 0; i < amounts.length; i++) {
    if (!isAmount(amounts[i]!)) throw badAmount(accounts[i]!.name, "the amount", amounts[i])
  }
}

export const assertUpTo = (
  accounts: ReadonlyArray<Store.Account>,
  least: ReadonlyArray<number>,
  wanted: ReadonlyArray<number>
): void => {
  assertAmounts(accounts, wanted)
  for (let i = 0; i < least.length; i++) {
    if (wanted[i]! >= least[i]!) continue
    throw new RangeError(
      `Budget "${accounts[i]!.name}": the wanted amount ${wanted[i]} is below the least one, ${least[i]}`
    )
  }
}

/** Extending a settled hold is a programming error. */
export const settledError = (accounts: ReadonlyArray<Store.Account>): Error =>
  new Error(`Budget "${accounts[0]!.name}": a reservation that has been settled cannot be extended`)

/** The timeout of the request, or else the shortest of the budgets that it waits for; `undefined` without a bound. */
export const timeoutOfRequest = (request: DeclaredRequest): Duration.Duration | undefined => {
  if (request.timeout !== undefined) return request.timeout
  let least: Duration.Duration | undefined
  for (let i = 0; i < request.accounts.length; i++) {
    const { timeout } = request.accounts[i]!.definition
    if (timeout !== undefined && throttles(request, i))
      least = least === undefined ? timeout : Duration.min(least, timeout)
  }
  return least
}

/**
 * Whether a request stands in the queue of its account at place `i`. It does so for the wanted amount, even if the least is 0.
 */
export const throttles = ({ accounts, amounts, upTo }: DeclaredRequest, i: number): boolean =>
  accounts[i]!.definition.enforcement === "throttle" && (upTo?.wanted ?? amounts)[i]! > 0
