/** The layout of the amounts of a face over accounts. */
import type * as Store from "../../BudgetStore.ts"
import { zeros } from "../amount.ts"

export const TypeId = "~effect-budget/Reservable"

export interface Layout {
  readonly store: Store.BudgetStore["Service"]
  readonly accounts: ReadonlyArray<Store.Account>
  /** Makes amounts of the accounts consistent with each other, from `at` on. Absent where they are independent. */
  readonly normalize?: ((amounts: Array<number>, at: number) => void) | undefined
}

export interface Reservable<in out A> extends Layout {
  /** Writes the amount of each account from `at` on. */
  readonly encode: (amount: A, into: Array<number>, at: number, purpose: Purpose) => void
  readonly decode: (amounts: ReadonlyArray<number>, at: number) => A
  /** The options of every request, such as the token that pays for it. */
  readonly defaults?: Store.RequestOptions | undefined
}

/** The purpose of amounts: an extension does not count as another call, and the sums of a charge are saturated. */
export type Purpose = "hold" | "extension" | "charge"

/** The amount of each account. */
export const encode = <A>(of: Reservable<A>, amount: A, purpose: Purpose = "hold"): Array<number> => {
  const { length } = of.accounts
  // A copy of a short array is cheaper than a new one that is filled.
  const amounts: Array<number> = length === 1 ? [0] : zeros(length).slice()
  of.encode(amount, amounts, 0, purpose)
  return amounts
}

/** The layout of one budget. */
export class SingleLayout implements Reservable<number> {
  readonly store: Store.BudgetStore["Service"]
  readonly accounts: readonly [Store.Account]
  readonly defaults: Reservable<number>["defaults"]

  constructor(store: Store.BudgetStore["Service"], account: Store.Account, defaults?: Reservable<number>["defaults"]) {
    this.store = store
    this.accounts = [account]
    this.defaults = defaults
  }

  encode(amount: number, into: Array<number>, at: number): void {
    into[at] = amount
  }

  decode(amounts: ReadonlyArray<number>, at: number): number {
    return amounts[at]!
  }
}
