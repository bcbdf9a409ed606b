/** Tokens of named quotas. What a token may do is kept apart from it, by its identity, so that no copy may do the same. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type * as Store from "../../BudgetStore.ts"
import { type Options, type QuotaToken, Used, type Value } from "../../QuotaToken.ts"
import type * as Reservation from "../../Reservation.ts"
import { type AnyFiber, nowOf } from "../memory/account.ts"
import { type Reservable, reserve, withReservation } from "../reservable.ts"
import { MAX_EXPECTED_USE, type Share } from "./share.ts"

/** A named resource, as far as its tokens know it. */
export interface Named {
  readonly name: string
  readonly store: Store.BudgetStore["Service"]
  readonly account: Store.Account
  tokens: number
  /** Tells that there are more tokens, or fewer. */
  readonly changed: (fiber: AnyFiber) => void
}

/** What a token stands for. */
export interface State {
  readonly of: Named
  readonly share: Share
  readonly layout: Reservable<number>
  readonly parent: State | undefined
  readonly children: Set<State>
}

const states = new WeakMap<object, State>()

export const stateOf = (token: unknown): State => {
  const state = typeof token === "object" && token !== null ? states.get(token) : undefined
  if (state === undefined) {
    throw new TypeError("This is not a QuotaToken: they come from Quota.acquire and split, and a copy of one is none")
  }
  return state
}

/** The operations are got from here, so that a token has nothing of its own that could be copied. */
const operations = Object.freeze({
  get resource(): string {
    return stateOf(this).of.name
  },
  get expectedUse(): Effect.Effect<number> {
    const { share } = stateOf(this)
    return Effect.sync(() => {
      share.check()
      return share.expectedUse
    })
  },
  get reserve() {
    const { layout } = stateOf(this)
    return (amount: number, options?: Options) => reserve(layout, amount, options)
  },
  get withReservation() {
    const { layout } = stateOf(this)
    return <B, E, R>(
      amount: number,
      use: (reservation: Reservation.Reservation<number>) => Effect.Effect<B, E, R>,
      options?: Options
    ) => withReservation(layout, amount, use, options, settleUsed)
  },
  get split() {
    const state = stateOf(this)
    return (expectedUse: number) =>
      issue(state.of, (now) => {
        state.share.check()
        checkExpectedUse(state.of.name, expectedUse)
        const has = state.share.expectedUse
        if (expectedUse > has) {
          throw new RangeError(
            `Quota "${state.of.name}": ${expectedUse} cannot be split from an expected use of ${has}`
          )
        }
        return [state.share.split(expectedUse, now), state]
      })
  },
  get merge() {
    const state = stateOf(this)
    return (other: QuotaToken) => Effect.withFiberSucceed((fiber) => merge(fiber, state, stateOf(other)))
  },
  toJSON(): unknown {
    return { _id: "QuotaToken", resource: stateOf(this).of.name }
  }
})

const settleUsed = <B>(reservation: Reservation.Reservation<number>, answer: B): Effect.Effect<Value<B>> => {
  // A conditional type cannot be narrowed to, but it says what the class is asked here.
  const value = (value: unknown) => value as Value<B>
  return answer instanceof Used
    ? Effect.as(reservation.commit(answer.used), value(answer.value))
    : Effect.succeed(value(answer))
}

export const checkExpectedUse = (name: string, expectedUse: number): void => {
  if (Number.isSafeInteger(expectedUse) && expectedUse >= 0 && expectedUse <= MAX_EXPECTED_USE) return
  throw new RangeError(
    `Quota "${name}": the expected use must be a whole number from 0 to ${MAX_EXPECTED_USE}, not ${String(expectedUse)}`
  )
}

/** A new token of the current scope. */
export const issue = (
  of: Named,
  make: (now: number) => readonly [share: Share, parent: State | undefined]
): Effect.Effect<QuotaToken, never, Scope.Scope> =>
  Effect.uninterruptible(
    Effect.withFiber((fiber) => {
      const [share, parent] = make(nowOf(fiber))
      const { account, store } = of
      const layout: Reservable<number> = {
        store,
        accounts: [account],
        share,
        encode: (amount, into, at) => {
          into[at] = amount
        },
        decode: (amounts, at) => amounts[at]!
      }
      const state: State = { of, share, layout, parent, children: new Set() }
      parent?.children.add(state)
      of.tokens++
      of.changed(fiber)
      const token: QuotaToken = Object.freeze(Object.create(operations))
      states.set(token, state)
      return Effect.as(
        Scope.addFinalizer(
          Context.getUnsafe(fiber.context, Scope.Scope),
          Effect.withFiberSucceed((fiber) => end(fiber, state, parent, "has been closed with its scope"))
        ),
        token
      )
    })
  )

/** What it has goes to `heir`. Those split from it come to an end first, and leave to it what they have. */
const end = (fiber: AnyFiber, state: State, heir: State | undefined, why: string): void => {
  const { children, of, parent, share } = state
  if (share.ended !== undefined) return
  for (const child of children) end(fiber, child, state, "has been closed with the one it was split from")
  share.ended = `Quota "${of.name}": the token ${why}`
  parent?.children.delete(state)
  of.tokens--
  of.store.quotas!.withdraw(fiber, of.account, share, heir?.share, new Error(share.ended))
  of.changed(fiber)
}

const merge = (fiber: AnyFiber, state: State, other: State): void => {
  const refuse = (why: string): Error => new Error(`Quota "${state.of.name}": a token cannot be merged with ${why}`)
  state.share.check()
  if (other === state) throw refuse("itself")
  if (other.of.name !== state.of.name) throw refuse(`one of "${other.of.name}"`)
  if (other.of !== state.of) throw refuse("one of another Quota")
  other.share.check()
  for (let above = state.parent; above !== undefined; above = above.parent) {
    if (above === other) throw refuse("one that it was split from, since it would end with it")
  }
  end(fiber, other, state, "has been merged into another")
}
