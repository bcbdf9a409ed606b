/** Tokens of named quotas. The state of a token is kept outside of it, by its identity, so that a copy has no rights. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type * as Store from "../../BudgetStore.ts"
import { type Options, type QuotaToken, Used, type Value } from "../../quota/QuotaToken.ts"
import type * as Reservation from "../../Reservation.ts"
import { type Reservable, SingleLayout } from "../face/layout.ts"
import { reserve, withCharge } from "../face/reservable.ts"
import { nowOf } from "../runtime/clock.ts"
import { MAX_EXPECTED_USE, type Share } from "./share.ts"

/** A named resource, as far as its tokens know it. */
export interface Named {
  readonly name: string
  readonly store: Store.BudgetStore["Service"]
  readonly account: Store.Account
  /** The queues that the store has made for the resource. */
  readonly queues: Set<{ readonly turn: number }>
  tokens: number
  /** Counts a change of the number of tokens. */
  readonly changed: (fiber: Store.AnyFiber) => void
}

/** The state of a token. */
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
    throw new TypeError("This is not a QuotaToken: tokens come from Quota.acquire and split, and a copy is not a token")
  }
  return state
}

/** The prototype of tokens. It has the operations, so that a token has no properties that could be copied. */
const operations = Object.freeze({
  get resource(): string {
    return stateOf(this).of.name
  },
  get expectedUse(): Effect.Effect<number> {
    const { share } = stateOf(this)
    return Effect.sync(() => {
      share.assertOpen()
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
    ) =>
      Effect.map(
        withCharge(layout, amount, use, options, (answer) => (answer instanceof Used ? answer.used : undefined)),
        valueOf
      )
  },
  get split() {
    const state = stateOf(this)
    return (expectedUse: number) =>
      issue(state.of, (now) => {
        state.share.assertOpen()
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
    return (other: QuotaToken) =>
      Effect.uninterruptible(Effect.withFiber((fiber) => merge(fiber, state, stateOf(other))))
  },
  toJSON(): unknown {
    return { _id: "QuotaToken", resource: stateOf(this).of.name }
  }
})

/** The cast is needed since TypeScript does not narrow to a conditional type. */
const valueOf = <B>(answer: B): Value<B> => (answer instanceof Used ? answer.value : answer) as Value<B>

export const checkExpectedUse = (name: string, expectedUse: number): void => {
  if (Number.isSafeInteger(expectedUse) && expectedUse >= 0 && expectedUse <= MAX_EXPECTED_USE) return
  throw new RangeError(
    `Quota "${name}": the expected use must be a whole number from 0 to ${MAX_EXPECTED_USE}, not ${String(expectedUse)}`
  )
}

/** Makes a token for the current scope. */
export const issue = (
  of: Named,
  make: (now: number) => readonly [share: Share, parent: State | undefined]
): Effect.Effect<QuotaToken, never, Scope.Scope> =>
  Effect.uninterruptible(
    Effect.withFiber((fiber) => {
      const [share, parent] = make(nowOf(fiber))
      const layout = new SingleLayout(of.store, of.account, { payer: share })
      const state: State = { of, share, layout, parent, children: new Set() }
      parent?.children.add(state)
      of.tokens++
      of.changed(fiber)
      const token: QuotaToken = Object.freeze(Object.create(operations))
      states.set(token, state)
      return Effect.as(
        Scope.addFinalizer(
          Context.getUnsafe(fiber.context, Scope.Scope),
          Effect.withFiber((fiber) => end(fiber, state, parent, "has been closed with its scope"))
        ),
        token
      )
    })
  )

/** Ends a token, and gives its expected use and credit to `heir`. The tokens split from it end first and give theirs to it. */
const end = (fiber: Store.AnyFiber, state: State, heir: State | undefined, why: string): Effect.Effect<void> => {
  const { of } = state
  const ended: Array<Share> = []
  leave(fiber, state, heir, why, ended)
  if (ended.length === 0) return Effect.void
  of.changed(fiber)
  return of.store.adjust(
    ended.map((share) => [of.account, { _tag: "Withdraw", payer: share, defect: new Error(share.ended) }])
  )
}

const leave = (
  fiber: Store.AnyFiber,
  state: State,
  heir: State | undefined,
  why: string,
  ended: Array<Share>
): void => {
  const { children, of, parent, share } = state
  if (share.ended !== undefined) return
  for (const child of children) leave(fiber, child, state, "has been closed with the one it was split from", ended)
  share.ended = `Quota "${of.name}": the token ${why}`
  parent?.children.delete(state)
  of.tokens--
  let turn = 0
  for (const queue of of.queues) turn = Math.max(turn, queue.turn)
  heir?.share.absorb(share, nowOf(fiber), turn)
  ended.push(share)
}

const merge = (fiber: Store.AnyFiber, state: State, other: State): Effect.Effect<void> => {
  const refuse = (why: string): Error => new Error(`Quota "${state.of.name}": a token cannot be merged with ${why}`)
  state.share.assertOpen()
  if (other === state) throw refuse("itself")
  if (other.of.name !== state.of.name) throw refuse(`one of "${other.of.name}"`)
  if (other.of !== state.of) throw refuse("one of another Quota")
  other.share.assertOpen()
  for (let above = state.parent; above !== undefined; above = above.parent) {
    if (above === other) throw refuse("one that it was split from, since it would end with it")
  }
  return end(fiber, other, state, "has been merged into another")
}
