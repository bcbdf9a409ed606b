/** Requests of stores whose answers take time: what is checked at once, and the effect that asks. */
import * as Effect from "effect/Effect"
import type { BudgetExceeded, FailedReservation } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { assertAmounts, assertUpTo, type Declared, LimitDenial, settledError } from "../admission/denial.ts"
import type { LedgerAdjustment } from "../books/adjustment.ts"
import { assertOutside } from "./transaction.ts"

/** Makes an effect as interruptible as its caller was. */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** A request that asks the store as soon as `wait` is run. Only waiting is interruptible, so no grant is lost. */
export class SharedPending implements Store.Pending {
  granted: Store.Hold | undefined = undefined
  private readonly ask: (restore: Restore) => Effect.Effect<Store.Hold | Store.Denial>

  constructor(ask: (restore: Restore) => Effect.Effect<Store.Hold | Store.Denial>) {
    this.ask = ask
  }

  get _tag(): "Pending" {
    return "Pending"
  }

  get wait(): Effect.Effect<Store.Hold | Store.Denial> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.map(this.ask(restore), (answer) => {
        if (answer._tag === "Hold") this.granted = answer
        return answer
      })
    )
  }

  /** An interrupted wait leaves its queues by itself. */
  abandon(): void {}
}

export const assertRequest = (
  fiber: Store.AnyFiber,
  accounts: ReadonlyArray<Store.Account>,
  amounts: ReadonlyArray<number>,
  options: Store.RequestOptions | undefined
): void => {
  assertAmounts(accounts, amounts)
  if (options?.into?.outcome !== undefined) throw settledError(accounts)
  if (options?.upTo !== undefined) assertUpTo(accounts, amounts, options.upTo.wanted)
  assertOutside(fiber, accounts)
}

/** The denial of a request that failed with this error. */
export const errorDenial = (error: BudgetExceeded | FailedReservation): Store.Denial => ({
  _tag: "Denial",
  refuse: () => Effect.fail(error)
})

/** The denial by the first budget of a request while its books are not known: nothing of it is available. */
export const unknownDenial = <A extends Declared>(
  { accounts, amounts, payer }: Store.Request & { readonly accounts: ReadonlyArray<A> },
  retryAfter: number | undefined
): LimitDenial<A> => {
  const account = accounts[0]!
  const ledger = { ...Ledger.make(account.definition.limits[0]!, 0), available: 0 }
  const denial = new LimitDenial(account, ledger, amounts[0]!, false, true, payer)
  denial.retryAfter = retryAfter
  return denial
}

const quotaError = (): Error => new Error("Named quotas need books in this process")

/** A queue of its own is that of a named quota. */
export const assertNoDiscipline = ({ discipline }: Store.Definition): void => {
  if (discipline !== undefined) throw quotaError()
}

type Change<A extends Store.Account, T extends Store.Adjustment> = readonly [account: A, adjustment: T]

/** Changes of ledgers: all but those of named quotas. */
export const assertLedgerChanges = <A extends Store.Account>(
  changes: ReadonlyArray<Change<Store.Account, Store.Adjustment>>
): ReadonlyArray<Change<A, LedgerAdjustment>> => {
  for (const [, { _tag }] of changes) if (_tag === "Close" || _tag === "Withdraw") throw quotaError()
  return changes as ReadonlyArray<Change<A, LedgerAdjustment>>
}
