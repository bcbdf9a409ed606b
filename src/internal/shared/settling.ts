/**
 * Settlements on their way to the store. They never fail for who settles: what the store does not answer is kept, and sent
 * again in order until it does.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import { StoreUnavailable } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import { Signal } from "./account.ts"
import type { Settled, SettleRequest, SharedBooks, Unopened } from "./books.ts"
import type { Journal } from "./journal.ts"
import type { Settings } from "./options.ts"

export interface Settlements {
  /** Answers what the store says, or what is known here while it is away. */
  readonly settle: (request: SettleRequest) => Effect.Effect<Store.Outcome>
  /** Sends it when the store is back, behind those that wait already. */
  readonly later: (request: SettleRequest) => Effect.Effect<void>
  /** Does not even try while the store is known to be away. */
  readonly reachable: <A>(step: Effect.Effect<A, StoreUnavailable>) => Effect.Effect<A, StoreUnavailable>
  /** Does this too when the store is back, again until it succeeds; once for a `key`, however often it is asked for. */
  readonly retry: (key: object, work: Effect.Effect<void, StoreUnavailable>) => void
  /** Books were created: retry the settlements that were parked because their budget did not exist. */
  readonly opened: () => void
}

/** Answers whether it is done; what is not, though the store is there, is put aside. It has no defects. */
type Work = Effect.Effect<boolean, StoreUnavailable>

const LEAST_BACKOFF_MILLIS = 50

/** How many are on their way at the same time. */
const MOST_TOGETHER = 64

/** How long it takes until what was put aside is tried again. */
const ASIDE_MILLIS = 60_000

/** Gives the store its time for one step, and no more. */
export const within = <A>(
  step: Effect.Effect<A, StoreUnavailable>,
  { requestTimeout }: Pick<Settings, "requestTimeout">
): Effect.Effect<A, StoreUnavailable> =>
  Effect.timeoutOrElse(step, {
    duration: Duration.millis(requestTimeout),
    orElse: () => Effect.fail(new StoreUnavailable({ message: `the store did not answer within ${requestTimeout} ms` }))
  })

/** What was spent is kept, whatever is wrong with the store; and one that cannot be sent does not hold up the others. */
const guarded = <A>(work: Effect.Effect<A, StoreUnavailable>): Effect.Effect<A | undefined, StoreUnavailable> =>
  Effect.catchDefect(work, (cause) =>
    Effect.as(
      Effect.logError("BudgetStore: what is owed to the store failed, and will be sent again", cause),
      undefined
    )
  )

export const settlements = (
  books: SharedBooks,
  settings: Settings,
  journal: Journal | undefined,
  reopen: (budgets: ReadonlyArray<string>) => Effect.Effect<void, StoreUnavailable>,
  acknowledged: (id: string) => void
): Effect.Effect<Settlements, never, Scope.Scope> =>
  Effect.gen(function* () {
    let backlog: Array<Work> = []
    const aside: Array<Work> = []
    const keys = new Set<object>()
    let away: StoreUnavailable | undefined
    const signal = new Signal()

    /** `undefined` where the books are not there, and nobody here can make them. */
    const send = (request: SettleRequest): Effect.Effect<Settled | undefined, StoreUnavailable> => {
      const step = within<Settled | Unopened>(books.settle(request), settings)
      const answered = Effect.flatMap(step, (answer) =>
        answer._tag === "Settled"
          ? Effect.succeed(answer)
          : // The books were lost. What was spent is charged to new ones.
            Effect.andThen(reopen(request.entries.map(({ budget }) => budget)), step)
      )
      return guarded(
        Effect.flatMap(answered, (answer) => {
          if (answer._tag === "Unopened") {
            const names = request.entries.map(({ budget }) => `"${budget}"`).join(", ")
            return Effect.as(Effect.logWarning(`BudgetStore: a settlement waits for the books of ${names}`), undefined)
          }
          acknowledged(request.id)
          return Effect.as(journal === undefined ? Effect.void : journal.remove(request), answer)
        })
      )
    }

    const sending = (request: SettleRequest): Work => Effect.map(send(request), (answer) => answer !== undefined)

    const keep = (work: Work): void => {
      backlog.push(work)
      signal.raise()
    }

    const recall = (): void => {
      backlog.push(...aside.splice(0))
    }

    /** Until all is sent, the first ones first, or the store does not answer. What is not sent stays where it is. */
    const flush = (together: number): Effect.Effect<StoreUnavailable | undefined> =>
      Effect.suspend(() => {
        const first = backlog.slice(0, together)
        if (first.length === 0) return Effect.undefined
        return Effect.flatMap(Effect.forEach(first, Effect.exit, { concurrency: together }), (exits) => {
          backlog = [...first.filter((_, i) => Exit.isFailure(exits[i]!)), ...backlog.slice(first.length)]
          aside.push(...first.filter((_, i) => Exit.isSuccess(exits[i]!) && !exits[i].value))
          const failure = exits.find(Exit.isFailure)
          return failure === undefined ? flush(MOST_TOGETHER) : Effect.succeed(unavailableOf(failure.cause))
        })
      })

    const sender = (backoff: number): Effect.Effect<never> =>
      Effect.suspend(() => {
        const wait =
          backlog.length > 0
            ? Effect.sleep(Duration.millis(backoff))
            : aside.length > 0
              ? Effect.timeoutOption(signal.wait, Duration.millis(ASIDE_MILLIS))
              : signal.wait
        const work = Effect.suspend(() => {
          if (backlog.length === 0) recall()
          // While the store is away, one asks for all.
          return flush(away === undefined ? MOST_TOGETHER : 1)
        })
        return Effect.flatMap(Effect.andThen(wait, work), (unavailable) => {
          away = unavailable
          return sender(unavailable === undefined ? LEAST_BACKOFF_MILLIS : Math.min(backoff * 2, settings.pollInterval))
        })
      })

    if (journal !== undefined) for (const request of journal.left) backlog.push(sending(request))
    // What is left when the store ends gets one more chance.
    yield* Effect.addFinalizer(() => {
      recall()
      return flush(MOST_TOGETHER)
    })
    yield* Effect.forkScoped(sender(LEAST_BACKOFF_MILLIS))

    const settle = (request: SettleRequest): Effect.Effect<Store.Outcome> =>
      Effect.suspend(() => {
        const kept = (to: (work: Work) => void) =>
          Effect.sync(() => {
            to(sending(request))
            return assumed(request)
          })
        if (away !== undefined) return kept(keep)
        return Effect.matchEffect(send(request), {
          onSuccess: (answer) =>
            answer === undefined ? kept((work) => aside.push(work)) : Effect.succeed(outcomeOf(answer)),
          onFailure: () => kept(keep)
        })
      })
    const written = (request: SettleRequest): Effect.Effect<void> =>
      journal === undefined ? Effect.void : journal.write(request)
    return {
      settle: journal === undefined ? settle : (request) => Effect.andThen(written(request), settle(request)),
      later: (request) =>
        Effect.andThen(
          written(request),
          Effect.sync(() => keep(sending(request)))
        ),
      reachable: (step) => Effect.suspend(() => (away === undefined ? step : Effect.fail(away))),
      retry: (key, work) => {
        if (keys.has(key)) return
        keys.add(key)
        // From its beginning on, it may miss what is new.
        const again = Effect.suspend(() => {
          keys.delete(key)
          return Effect.tapCause(work, () => Effect.sync(() => keys.add(key)))
        })
        keep(guarded(Effect.as(again, true)).pipe(Effect.map((done) => done === true)))
      },
      opened: () => {
        if (aside.length === 0) return
        recall()
        signal.raise()
      }
    }
  })

const unavailableOf = (cause: Cause.Cause<StoreUnavailable>): StoreUnavailable => {
  const error = Cause.squash(cause)
  return error instanceof StoreUnavailable
    ? error
    : new StoreUnavailable({ message: "a step was cut off", cause: error })
}

export const outcomeOf = ({ cause, charges, late, overran }: Settled): Store.Outcome => ({
  cause,
  charges,
  overran,
  ...(late && { late })
})

/** The outcome as far as it is known without the store. */
export const assumed = ({ cause, charges, entries }: SettleRequest): Store.Outcome => ({
  cause,
  charges: charges ?? entries.map(({ amount }) => amount),
  overran: []
})
