/**
 * Settlements on their way to the store. They never fail for who settles: what the store does not answer is kept, and sent
 * again in order until it does.
 */
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
  /** Does this too when the store is back, again until it succeeds. */
  readonly retry: (work: Effect.Effect<void, StoreUnavailable>) => void
}

const LEAST_BACKOFF_MILLIS = 50

/** How many are on their way at the same time. */
const MOST_TOGETHER = 64

/** Gives the store its time for one step, and no more. */
export const within = <A>(
  step: Effect.Effect<A, StoreUnavailable>,
  { requestTimeout }: Settings
): Effect.Effect<A, StoreUnavailable> =>
  Effect.timeoutOrElse(step, {
    duration: Duration.millis(requestTimeout),
    orElse: () => Effect.fail(new StoreUnavailable({ message: `the store did not answer within ${requestTimeout} ms` }))
  })

export const settlements = (
  books: SharedBooks,
  settings: Settings,
  journal: Journal | undefined,
  reopen: (budgets: ReadonlyArray<string>) => Effect.Effect<void, StoreUnavailable>,
  acknowledged: (id: string) => void
): Effect.Effect<Settlements, never, Scope.Scope> =>
  Effect.gen(function* () {
    let backlog: Array<Effect.Effect<void, StoreUnavailable>> = []
    let away: StoreUnavailable | undefined
    const signal = new Signal()

    const send = (request: SettleRequest): Effect.Effect<Settled, StoreUnavailable> => {
      const step = within<Settled | Unopened>(books.settle(request), settings).pipe(
        // What was spent is kept, whatever is wrong with the store.
        Effect.catchDefect((cause) =>
          Effect.andThen(
            Effect.logError(`BudgetStore: a settlement failed, and will be sent again`, cause),
            Effect.fail(new StoreUnavailable({ message: "the settlement failed", cause }))
          )
        )
      )
      const answered = Effect.flatMap(step, (answer) =>
        answer._tag === "Settled"
          ? Effect.succeed(answer)
          : // The books were lost. What was spent is charged to new ones.
            Effect.andThen(
              reopen(request.entries.map(({ budget }) => budget)),
              Effect.flatMap(step, (again) =>
                again._tag === "Settled"
                  ? Effect.succeed(again)
                  : Effect.fail(new StoreUnavailable({ message: "the books are not there" }))
              )
            )
      )
      return Effect.tap(answered, () => {
        acknowledged(request.id)
        return journal === undefined ? Effect.void : journal.remove(request)
      })
    }

    const keep = (work: Effect.Effect<void, StoreUnavailable>): void => {
      backlog.push(work)
      signal.raise()
    }

    /** Until all is sent, the first ones first. What fails stays where it is. */
    const flush: Effect.Effect<void, StoreUnavailable> = Effect.suspend(() => {
      const first = backlog.slice(0, MOST_TOGETHER)
      if (first.length === 0) return Effect.void
      return Effect.flatMap(Effect.forEach(first, Effect.exit, { concurrency: MOST_TOGETHER }), (exits) => {
        backlog = [...first.filter((_, i) => Exit.isFailure(exits[i]!)), ...backlog.slice(first.length)]
        return exits.find(Exit.isFailure) ?? flush
      })
    })

    const sender = (backoff: number): Effect.Effect<never> =>
      Effect.andThen(
        backlog.length === 0 ? signal.wait : Effect.sleep(Duration.millis(backoff)),
        Effect.matchEffect(flush, {
          onSuccess: () => {
            away = undefined
            return sender(LEAST_BACKOFF_MILLIS)
          },
          onFailure: (unavailable) => {
            away = unavailable
            return sender(Math.min(backoff * 2, settings.pollInterval))
          }
        })
      )

    if (journal !== undefined) for (const request of journal.left) backlog.push(Effect.asVoid(send(request)))
    // What is left when the store ends gets one more chance.
    yield* Effect.addFinalizer(() => Effect.ignore(flush))
    yield* Effect.forkScoped(Effect.suspend(() => sender(LEAST_BACKOFF_MILLIS)))

    const settle = (request: SettleRequest): Effect.Effect<Store.Outcome> => {
      if (away !== undefined) return Effect.sync(() => (keep(Effect.asVoid(send(request))), assumed(request)))
      return Effect.matchEffect(send(request), {
        onSuccess: ({ cause, charges, late, overran }) =>
          Effect.succeed<Store.Outcome>({ cause, charges, overran, ...(late && { late }) }),
        onFailure: () => Effect.sync(() => (keep(Effect.asVoid(send(request))), assumed(request)))
      })
    }
    return {
      settle: (request) =>
        journal === undefined
          ? Effect.suspend(() => settle(request))
          : Effect.andThen(
              journal.write(request),
              Effect.suspend(() => settle(request))
            ),
      later: (request) =>
        Effect.andThen(
          journal === undefined ? Effect.void : journal.write(request),
          Effect.sync(() => keep(Effect.asVoid(send(request))))
        ),
      reachable: (step) => Effect.suspend(() => (away === undefined ? step : Effect.fail(away))),
      retry: keep
    }
  })

/** The outcome as far as it is known without the store. */
const assumed = ({ cause, charges, entries }: SettleRequest): Store.Outcome => ({
  cause,
  charges: charges ?? entries.map(({ amount }) => amount),
  overran: []
})
