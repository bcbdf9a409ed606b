/**
 * The store of a process whose books others share: it knows the holds of this process, keeps them alive, waits for room, and
 * goes on while the books cannot be reached. The books themselves are behind `SharedBooks`.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { SecureRandom } from "effect/crypto"
import { type BudgetExceeded, StoreUnavailable } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import {
  assertAmounts,
  defectDenial,
  denialAmong,
  exceeded,
  failureDenial,
  type LimitDenial,
  settledError
} from "../admission/denial.ts"
import { amountsWithin } from "../admission/upTo.ts"
import { adjustedLedgers } from "../books/adjustment.ts"
import { ledgerSnapshot, snapshotOf } from "../books/snapshot.ts"
import { byCause } from "../books/tally.ts"
import { type SharedRequest, SharedAccount, SharedHold, Signal, type Unanswered } from "./account.ts"
import type { Budget, Denied, Ended, Held, SettleRequest, SharedBooks } from "./books.ts"
import type { Journal } from "./journal.ts"
import { settingsOf, type SharedOptions } from "./options.ts"
import {
  assertLedgerChanges,
  assertNoDiscipline,
  assertRequest,
  type Restore,
  SharedPending,
  unknownDenial
} from "./requests.ts"
import { assumed, outcomeOf, type Settlements, settlements, within } from "./settling.ts"
import { localBooksError, outside } from "./transaction.ts"
import { admit, blocked, postponed, type Postponed, type Reply, wake } from "./waiting.ts"

/** Accounts and holds are opaque to the faces, which hand each back to the store it came from. */
const mine = (accounts: ReadonlyArray<Store.Account>) => accounts as ReadonlyArray<SharedAccount>

/** How often a hold is renewed before it would expire. */
const RENEWALS = 3

/** Renewals in one step. */
const MOST_RENEWALS = 1_000

export const sharedStore = (
  books: SharedBooks,
  options: SharedOptions,
  journal?: Journal | undefined
): Effect.Effect<Store.BudgetStore["Service"], never, Scope.Scope> =>
  Effect.gen(function* () {
    const settings = settingsOf(options)
    const { expiresAfter, pollInterval } = settings
    const accounts = new Map<string, Set<SharedAccount>>()
    const open = new Set<SharedHold>()
    // No two stores have the same, whatever processes and machines they are in.
    const store = SecureRandom.uuidV4Unsafe()
    let ids = 0
    const newId = () => `${store}:${(ids++).toString(36)}`
    /** What was granted here while the store was away and is not in its books, of each budget. */
    const allowed = new Map<string, number>()
    /** Holds whose settlement is to bring some of that into the books. */
    const unreported = new Map<string, SharedHold>()

    // -- opening ------------------------------------------------------------------------------------------------------

    /** Makes the books where there are none; what is declared anew changes them, what others changed since stays. */
    const declare = (account: SharedAccount): Effect.Effect<void, StoreUnavailable> => {
      const { limits } = account.definition
      const step = books.update([account.name], ([budget], now) => {
        if (budget === undefined) return [fresh(account.definition, now)]
        if (Equal.equals(budget.declared, limits)) return [budget]
        return [
          {
            ...budget,
            ledgers: adjustedLedgers(account.name, budget.ledgers, { _tag: "SetLimit", limits }, now),
            declared: limits
          }
        ]
      })
      return Effect.tap(within(step, settings), () =>
        Effect.sync(() => {
          account.opened = true
          settling.opened()
        })
      )
    }

    /** When the store is there, unless the budget has ended by then. */
    const declareLater = (account: SharedAccount): void =>
      settling.retry(
        account,
        Effect.suspend(() =>
          account.opened || accounts.get(account.name)?.has(account) !== true ? Effect.void : declare(account)
        )
      )

    const ready = (of: ReadonlyArray<SharedAccount>): Effect.Effect<void, StoreUnavailable> => {
      const unopened = of.filter(({ opened }) => !opened)
      return Effect.tapError(Effect.forEach(unopened, declare, { discard: true }), () =>
        Effect.sync(() => unopened.forEach(declareLater))
      )
    }

    /** Does a step over books that may have been lost: then they are made anew, and it is done once more. */
    const reopening = <A extends { readonly _tag: string }>(
      of: ReadonlyArray<SharedAccount>,
      step: Effect.Effect<A, StoreUnavailable>,
      reach: Reach = settling.reachable
    ): Effect.Effect<Exclude<A, { readonly _tag: "Unopened" }>, StoreUnavailable> => {
      const isThere = (answer: A): answer is Exclude<A, { readonly _tag: "Unopened" }> => answer._tag !== "Unopened"
      const once = reach(
        Effect.suspend(() => {
          const sent = within(step, settings)
          return of.every(({ opened }) => opened) ? sent : Effect.andThen(ready(of), sent)
        })
      )
      return Effect.flatMap(once, (answer) => {
        if (isThere(answer)) return Effect.succeed(answer)
        for (const account of of) account.opened = false
        return Effect.flatMap(once, (again) =>
          isThere(again)
            ? Effect.succeed(again)
            : Effect.fail(new StoreUnavailable({ message: "the books were lost while they were used" }))
        )
      })
    }

    // -- settling -----------------------------------------------------------------------------------------------------

    const settling: Settlements = yield* settlements(
      books,
      settings,
      journal,
      (budgets) =>
        Effect.forEach(
          budgets.flatMap((budget) => [...(accounts.get(budget) ?? [])].slice(0, 1)),
          declare,
          { discard: true }
        ),
      (id) => {
        const hold = unreported.get(id)
        if (hold === undefined) return
        unreported.delete(id)
        giveUp(hold, hold.beyond)
      }
    )

    const requestOf = (hold: SharedHold, cause: Store.Cause, charges: ReadonlyArray<number>) => ({
      id: hold.id,
      cause,
      charges,
      entries: hold.accounts.map(({ name }, i) => ({ budget: name, amount: hold.held[i]! }))
    })

    /** Not interruptible: who settles again waits for the same answer. */
    const settle = (
      hold: SharedHold,
      cause: Store.Cause,
      charges: ReadonlyArray<number> | undefined
    ): Effect.Effect<Store.Outcome> =>
      Effect.uninterruptible(
        Effect.suspend(() => {
          if (hold.outcome !== undefined) return Effect.succeed(hold.outcome)
          if (hold.settling !== undefined) return Deferred.await(hold.settling)
          const deferred = (hold.settling = Deferred.makeUnsafe<Store.Outcome>())
          open.delete(hold)
          const all = charges ?? [...hold.held]
          const settled: Effect.Effect<Store.Outcome> = keepsAllowance(hold, all)
            ? settling.settle(requestOf(hold, cause, all))
            : Effect.succeed({ cause, charges: all, overran: [] })
          return Effect.tap(settled, (outcome) => {
            hold.outcome = outcome
            for (const account of hold.accounts) wake(account)
            return Deferred.succeed(deferred, outcome)
          })
        })
      )

    // -- going on without the store -----------------------------------------------------------------------------------

    /** Takes it out of the allowance, all or nothing. */
    const allow = ({ accounts, amounts, into, ...request }: SharedRequest): SharedHold | undefined => {
      const outOf = ({ name }: SharedAccount) => allowed.get(name) ?? 0
      if (accounts.some((account, i) => outOf(account) + amounts[i]! > settings.allowWithin)) return undefined
      const none = amounts.map(() => 0)
      const hold =
        (into as SharedHold | undefined) ??
        new SharedHold(newId(), accounts, none, request.onExpiry ?? settings.onExpiry, false)
      // It may have been settled meanwhile.
      if (hold.settling !== undefined) return undefined
      accounts.forEach((account, i) => {
        allowed.set(account.name, outOf(account) + amounts[i]!)
        hold.beyond[i]! += amounts[i]!
        hold.held[i]! += amounts[i]!
      })
      return hold
    }

    /** Gives some of what is beyond the books back to the allowance. */
    const giveUp = (hold: SharedHold, amounts: ReadonlyArray<number>): void =>
      hold.accounts.forEach(({ name }, i) => {
        const amount = Math.min(hold.beyond[i]!, amounts[i]!)
        if (amount === 0) return
        hold.beyond[i]! -= amount
        const left = allowed.get(name)! - amount
        if (left === 0) allowed.delete(name)
        else allowed.set(name, left)
      })

    /** What is charged beyond the books stays out of the allowance until they know. Answers whether there is anything to tell. */
    const keepsAllowance = (hold: SharedHold, charges: ReadonlyArray<number>): boolean => {
      const { accounts, beyond, held } = hold
      const spent = charges.map((charge, i) => (accounts[i]!.comesBack ? 0 : charge))
      giveUp(
        hold,
        spent.map((charge, i) => beyond[i]! - Math.min(beyond[i]!, Math.max(0, charge - (held[i]! - beyond[i]!))))
      )
      if (beyond.some((amount) => amount > 0)) unreported.set(hold.id, hold)
      return hold.known || hold.unanswered !== undefined || spent.some((charge) => charge > 0)
    }

    // -- holding ------------------------------------------------------------------------------------------------------

    type Asked = SharedHold | Refused | StoreUnavailable | "ended"

    /** Asks the books once. Not interruptible. */
    const ask = (request: SharedRequest): Effect.Effect<Asked> =>
      request.into === undefined ? askNew(request) : askMore(request, request.into as SharedHold)

    const askNew = (request: SharedRequest): Effect.Effect<Asked> => {
      const hold = new SharedHold(
        newId(),
        request.accounts,
        request.amounts,
        request.onExpiry ?? settings.onExpiry,
        true
      )
      let sent = false
      const step = Effect.suspend(() => {
        sent = true
        return books.hold({ id: hold.id, step: 0, entries: entriesOf(request), expiresAfter, onExpiry: hold.onExpiry })
      })
      return Effect.matchEffect(reopening(request.accounts, step), {
        onSuccess: (answer): Effect.Effect<Asked> =>
          Effect.suspend((): Effect.Effect<Asked> => {
            if (answer._tag === "Denied") return Effect.succeed(refusedIn(request, answer))
            if (answer._tag === "Ended") return Effect.succeed("ended")
            answer.amounts.forEach((amount, i) => {
              hold.held[i] = amount
            })
            open.add(hold)
            const rest = beyondConsistent(request, answer.amounts)
            return rest === undefined ? Effect.succeed(hold) : Effect.as(reduce(hold, rest), hold)
          }),
        onFailure: (unavailable): Effect.Effect<Asked> => {
          if (!sent) return Effect.succeed(unavailable)
          // It may have been taken all the same.
          const nothing = request.amounts.map(() => 0)
          return Effect.as(settling.later(requestOf(hold, "released", nothing)), unavailable)
        }
      })
    }

    /** More up to an amount is only requested of one account, by leases, so it is consistent as it is. */
    const askMore = (request: SharedRequest, hold: SharedHold): Effect.Effect<Asked> =>
      hold.turn.withPermit(
        Effect.suspend(() => {
          const extension = Effect.andThen(
            answered(hold, settling.reachable),
            Effect.suspend(() => extend(hold, hold.known ? hold.step + 1 : 0, request, settling.reachable))
          )
          return Effect.match(extension, {
            onFailure: (unavailable): Asked => {
              if (hold.unanswered !== undefined) settling.retry(hold, clear(hold))
              return unavailable
            },
            onSuccess: (answer): Asked => {
              if (answer._tag === "Denied") return refusedIn(request, answer)
              if (answer._tag === "Ended") return "ended"
              answer.amounts.forEach((amount, i) => {
                hold.held[i]! += amount
              })
              return hold
            }
          })
        })
      )

    /** What has expired stays so; its settlement will come late. */
    const lose = (hold: SharedHold): void => {
      open.delete(hold)
      if (hold.settling === undefined) hold.expired = true
    }

    /** The first step of a hold that the store does not know of makes it. Runs in the turn of the hold. */
    const extend = (hold: SharedHold, step: number, request: SharedRequest, reach: Reach) => {
      const sent = Effect.suspend(() => {
        hold.step = step
        hold.unanswered = { _tag: "Extension", step, amounts: request.amounts }
        return books.hold({ id: hold.id, step, entries: entriesOf(request), expiresAfter, onExpiry: hold.onExpiry })
      })
      return Effect.map(reopening(hold.accounts, sent, reach), (answer): Held | Denied | Ended => {
        hold.unanswered = undefined
        if (answer._tag === "Ended") lose(hold)
        if (answer._tag === "Held") {
          hold.known = true
          if (hold.settling === undefined) open.add(hold)
        }
        return answer
      })
    }

    /** Finds out about a step whose answer was lost, and gives back what is owed. Runs in the turn of the hold. */
    const answered = (hold: SharedHold, reach: Reach): Effect.Effect<void, StoreUnavailable> =>
      Effect.suspend(() => {
        const { owed, unanswered } = hold
        if (hold.settling !== undefined) return Effect.void
        if (unanswered !== undefined) return Effect.andThen(again(hold, unanswered, reach), answered(hold, reach))
        if (owed === undefined) return Effect.void
        hold.owed = undefined
        hold.unanswered = { _tag: "Reduction", step: ++hold.step, amounts: owed }
        return answered(hold, reach)
      })

    const again = (
      hold: SharedHold,
      { _tag, amounts, step }: Unanswered,
      reach: Reach
    ): Effect.Effect<void, StoreUnavailable> =>
      _tag === "Reduction"
        ? Effect.map(reach(within(books.reduce({ id: hold.id, step, amounts }), settings)), () => {
            hold.unanswered = undefined
          })
        : Effect.map(extend(hold, step, { accounts: hold.accounts, amounts }, reach), (answer) => {
            // Nobody waits for this extension any more.
            if (answer._tag === "Held") owe(hold, answer.amounts)
          })

    const owe = (hold: SharedHold, amounts: ReadonlyArray<number>): void => {
      hold.owed = amounts.map((amount, i) => amount + (hold.owed?.[i] ?? 0))
    }

    /** In the background, which finds out by this whether the store is back. */
    const clear = (hold: SharedHold): Effect.Effect<void, StoreUnavailable> =>
      hold.turn.withPermit(answered(hold, (step) => step))

    const reduce = (hold: SharedHold, amounts: ReadonlyArray<number>): Effect.Effect<void> =>
      Effect.uninterruptible(
        Effect.suspend(() => {
          if (hold.settling !== undefined) return Effect.void
          // What the store does not know of first.
          const stored = amounts.map((amount, i) => Math.max(0, amount - hold.beyond[i]!))
          giveUp(hold, amounts)
          amounts.forEach((amount, i) => {
            hold.held[i]! -= amount
          })
          const wakeAll = () => hold.accounts.forEach(wake)
          if (stored.every((amount) => amount === 0)) return Effect.sync(wakeAll)
          owe(hold, stored)
          return Effect.match(hold.turn.withPermit(answered(hold, settling.reachable)), {
            onFailure: () => settling.retry(hold, clear(hold)),
            onSuccess: wakeAll
          })
        })
      )

    const refusedIn = (request: SharedRequest, { ledgers, now, own }: Denied): Refused => {
      const ownOf = (i: number, ledger: Ledger.Ledger) => own[i]![ledgers[i]!.indexOf(ledger)]!
      const denial = denialAmong(
        request,
        now,
        (i) => ledgers[i]!,
        (i, _, ledger) => ownOf(i, ledger),
        false
      )!
      let earliest = 0
      ledgers.forEach((of, i) => {
        for (const ledger of of) {
          const returned = ledger.held - ownOf(i, ledger)
          earliest = Math.max(earliest, Ledger.retryAfter(ledger, request.amounts[i]!, now, returned) ?? 0)
        }
      })
      return { ...postponed(denial.turnAfter ?? Infinity, earliest), denial }
    }

    /** While the store is away: out of the allowance, if there is enough. */
    const fromAllowance = (request: SharedRequest): SharedHold | undefined =>
      settings.allowWithin > 0 ? allow(request) : undefined

    const replyWithout = (request: SharedRequest, reason: StoreUnavailable): Reply => {
      const local = fromAllowance(request)
      if (local !== undefined) return local
      const account = request.accounts[0]!
      if (settings.onUnavailable === "fail") return failureDenial(request, account, reason)
      return account.definition.enforcement === "throttle" ? postponed(Infinity) : unknownDenial(request, pollInterval)
    }

    const replyOf = (request: SharedRequest, asked: Asked): Reply => {
      if (asked instanceof SharedHold) return asked
      if (asked instanceof StoreUnavailable) return replyWithout(request, asked)
      if (asked === "ended") return expiredDenial(request)
      // A waiter asks when it is first. Only then does a budget that rejects reject it.
      const { denial } = asked
      return denial.never || (denial.decided && denial.turnAfter === undefined) ? denial : asked
    }

    const expiredDenial = (request: SharedRequest): Store.Denial =>
      (request.into as SharedHold | undefined)?.settling !== undefined
        ? defectDenial(settledError(request.accounts))
        : failureDenial(
            request,
            request.accounts[0]!,
            new StoreUnavailable({ message: "the reservation expired while the store could not be reached" })
          )

    /**
     * Two options are ignored here. `patience`: a request for as much as fits takes that as soon as its least amounts fit.
     * `counted`: the tallies count every hold.
     */
    const hold = (request: SharedRequest, restore: Restore): Effect.Effect<Store.Hold | Store.Denial> => {
      const asked = Effect.suspend(() => ask(request))
      const first = Effect.map(asked, (asked) =>
        // At once, a budget that rejects does so.
        isRefused(asked) && asked.denial.decided ? asked.denial : replyOf(request, asked)
      )
      const again = Effect.map(asked, (asked) => replyOf(request, asked))
      return admit(request, first, again, pollInterval, restore)
    }

    const tryHold = (request: SharedRequest): Effect.Effect<Store.Hold | Store.Denial> =>
      Effect.suspend(() => {
        if (blocked(request)) return Effect.succeed(unknownDenial(request, undefined))
        return Effect.map(ask(request), (asked) => {
          if (asked instanceof SharedHold) return asked
          if (asked === "ended") return expiredDenial(request)
          if (isRefused(asked)) return asked.denial
          return fromAllowance(request) ?? failureDenial(request, request.accounts[0]!, asked)
        })
      })

    const settlementOf = (accounts: ReadonlyArray<SharedAccount>, amounts: ReadonlyArray<number>): SettleRequest => ({
      id: newId(),
      cause: "committed",
      charges: amounts,
      entries: accounts.map(({ name }, i) => ({ budget: name, amount: amounts[i]! }))
    })

    /** Charges amounts at once that were not held. They were spent, whatever happens to the store meanwhile. */
    const chargeNow = <E>(
      accounts: ReadonlyArray<SharedAccount>,
      amounts: ReadonlyArray<number>,
      onDenied: (denied: Denied, settlement: SettleRequest) => Effect.Effect<Store.Outcome, E>
    ): Effect.Effect<Store.Outcome, E> =>
      Effect.uninterruptible(
        Effect.suspend(() => {
          assertAmounts(accounts, amounts)
          const settlement = settlementOf(accounts, amounts)
          return Effect.matchEffect(reopening(accounts, books.charge(settlement)), {
            onSuccess: (answer): Effect.Effect<Store.Outcome, E> =>
              answer._tag === "Settled" ? Effect.succeed(outcomeOf(answer)) : onDenied(answer, settlement),
            onFailure: () => Effect.as(settling.later(settlement), assumed(settlement))
          })
        })
      )

    const record = (
      accounts: ReadonlyArray<SharedAccount>,
      amounts: ReadonlyArray<number>
    ): Effect.Effect<Store.Outcome, BudgetExceeded> =>
      chargeNow(accounts, amounts, ({ ledgers, now }) => {
        const denial = denialAmong(
          { accounts, amounts },
          now,
          (i) => ledgers[i]!,
          () => 0,
          true
        )
        return Effect.fail(exceeded(denial!))
      })

    /** What does not fit is charged as the settlement of a hold that the books do not know: it leaves debt. */
    const charge = (
      accounts: ReadonlyArray<SharedAccount>,
      amounts: ReadonlyArray<number>
    ): Effect.Effect<Store.Outcome> =>
      chargeNow(accounts, amounts, (_, settlement) =>
        Effect.map(settling.settle(settlement), ({ cause, charges, overran }) => ({ cause, charges, overran }))
      )

    // -- reading and changing -----------------------------------------------------------------------------------------

    /** There is no number to answer, and none is made up. */
    const orDie = <A>(effect: Effect.Effect<A, StoreUnavailable>): Effect.Effect<A> => Effect.orDie(effect)

    const readAll = (
      of: ReadonlyArray<SharedAccount>
    ): Effect.Effect<ReadonlyArray<Store.Snapshot>, StoreUnavailable> => {
      const names = of.map(({ name }) => name)
      const step = Effect.map(books.read(names), (found) =>
        found.every((budget) => budget !== undefined)
          ? { _tag: "Found" as const, found }
          : { _tag: "Unopened" as const }
      )
      return Effect.map(reopening(of, step), ({ found }) =>
        of.map((account, i) => {
          account.learn(found[i]!.ledgers.map(({ limit }) => limit))
          return snapshot(account, found[i]!)
        })
      )
    }

    const changes = (of: ReadonlyArray<SharedAccount>): Stream.Stream<ReadonlyArray<Store.Snapshot>> =>
      Stream.suspend(() => {
        const signal = new Signal()
        let latest: ReadonlyArray<Store.Snapshot> | undefined
        for (const { listeners } of of) listeners.add(signal)
        const next: Effect.Effect<ReadonlyArray<Store.Snapshot>> = Effect.suspend(() => {
          const wait =
            latest === undefined
              ? Effect.void
              : Effect.asVoid(Effect.timeoutOption(signal.wait, Duration.millis(pollInterval)))
          // While the store is away, nothing is emitted.
          const read = Effect.catch(readAll(of), () =>
            Effect.as(Effect.sleep(Duration.millis(pollInterval)), undefined)
          )
          return Effect.flatMap(Effect.andThen(wait, read), (snapshots) => {
            if (snapshots === undefined || Equal.equals(snapshots, latest)) return next
            latest = snapshots
            return Effect.succeed(snapshots)
          })
        })
        return Stream.ensuring(
          Stream.fromEffectRepeat(next),
          Effect.sync(() => {
            for (const { listeners } of of) listeners.delete(signal)
          })
        )
      })

    // -- in the background --------------------------------------------------------------------------------------------

    const renewing = Effect.suspend(() => {
      const holds = [...open]
      const chunks: Array<ReadonlyArray<SharedHold>> = []
      for (let i = 0; i < holds.length; i += MOST_RENEWALS) chunks.push(holds.slice(i, i + MOST_RENEWALS))
      return Effect.forEach(
        chunks,
        (chunk) =>
          Effect.map(
            within(
              books.renew(
                chunk.map(({ id, progress }) => ({ id, progress })),
                expiresAfter
              ),
              // One that hangs leaves time for another.
              { requestTimeout: Math.min(settings.requestTimeout, Math.ceil(expiresAfter / RENEWALS)) }
            ),
            (gone) => {
              const ids = new Set(gone)
              for (const hold of chunk) if (ids.has(hold.id)) lose(hold)
            }
          ),
        { discard: true }
      )
    })
    const heartbeat = (parts: number): Effect.Effect<never> =>
      Effect.andThen(
        Effect.sleep(Duration.millis(expiresAfter / parts)),
        Effect.matchCauseEffect(renewing, {
          onSuccess: () => heartbeat(RENEWALS),
          onFailure: () => heartbeat(RENEWALS * 4)
        })
      )
    yield* Effect.forkScoped(heartbeat(RENEWALS))
    yield* Effect.forkScoped(
      Stream.runForEach(books.freed, (names) =>
        Effect.sync(() => {
          for (const name of names) for (const account of accounts.get(name) ?? []) wake(account)
        })
      )
    )

    return {
      group: {},
      expiresAfter,
      open: (definition) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            assertNoDiscipline(definition)
            const account = new SharedAccount(definition)
            const add = Effect.sync(() => {
              const same = accounts.get(account.name) ?? new Set()
              accounts.set(account.name, same.add(account))
              account.books = same
              if (!account.opened) declareLater(account)
              return account
            })
            // A program starts without the store too; what it asks for then is answered by `onUnavailable`.
            return Effect.andThen(
              Effect.catch(settling.reachable(declare(account)), (cause) =>
                Effect.logWarning(`BudgetStore: the budget "${account.name}" is opened when the store is there`, cause)
              ),
              add
            )
          }),
          (account) =>
            Effect.sync(() => {
              const same = accounts.get(account.name)
              same?.delete(account)
              if (same?.size === 0) accounts.delete(account.name)
            })
        ),
      hold: (fiber, accounts, amounts, options) => {
        assertRequest(fiber, accounts, amounts, options)
        const request: SharedRequest = { ...options, accounts: mine(accounts), amounts }
        return new SharedPending((restore) => (request.wait === false ? tryHold(request) : hold(request, restore)))
      },
      holdWith: (_fiber, { accounts }) => {
        throw localBooksError(accounts)
      },
      record: (accounts, amounts) => outside(accounts, record(mine(accounts), amounts)),
      charge: (accounts, amounts) => outside(accounts, charge(mine(accounts), amounts)),
      reduce: (_fiber, hold, amounts) => reduce(hold as SharedHold, amounts),
      settle: (_fiber, hold, cause, charges) => hold.outcome ?? settle(hold as SharedHold, cause, charges),
      report: (hold, progress) => {
        const shared = hold as SharedHold
        shared.progress = progress
      },
      adjust: (changes) =>
        orDie(
          Effect.suspend(() => {
            const all = assertLedgerChanges<SharedAccount>(changes)
            const of = all.map(([account]) => account)
            const step = books.update(
              of.map(({ name }) => name),
              (budgets, now) =>
                budgets.map((budget, i) => {
                  const [{ definition, name }, change] = all[i]!
                  const before = budget ?? fresh(definition, now)
                  return { ...before, ledgers: adjustedLedgers(name, before.ledgers, change, now) }
                })
            )
            return Effect.map(Effect.andThen(ready(of), within(step, settings)), () => {
              for (const [account, change] of all) {
                account.follow(change)
                wake(account)
              }
            })
          })
        ),
      read: (accounts) => orDie(readAll(mine(accounts))),
      changes: (accounts) => changes(mine(accounts))
    }
  })

/** The books have denied a request. */
interface Refused extends Postponed {
  readonly denial: LimitDenial<SharedAccount>
}

const isRefused = (asked: object | string): asked is Refused =>
  typeof asked === "object" && "_tag" in asked && asked._tag === "Postponed"

/** What was granted beyond one consistent amount: the books grant as much as fits of each budget by itself. */
const beyondConsistent = (
  { amounts, upTo }: SharedRequest,
  granted: ReadonlyArray<number>
): ReadonlyArray<number> | undefined => {
  if (upTo === undefined || granted.every((amount, i) => amount === upTo.wanted[i])) return undefined
  const consistent = amountsWithin(amounts, upTo, granted)!
  return granted.some((amount, i) => amount > consistent[i]!)
    ? granted.map((amount, i) => amount - consistent[i]!)
    : undefined
}

/** Whether a step is tried at all. */
type Reach = Settlements["reachable"]

const entriesOf = ({ accounts, amounts, upTo }: SharedRequest) =>
  accounts.map(({ name }, i) => ({
    budget: name,
    amount: amounts[i]!,
    ...(upTo !== undefined && { upTo: upTo.wanted[i]! })
  }))

const fresh = ({ limits }: Store.Definition, now: number): Budget => ({
  ledgers: limits.map((limit) => Ledger.make(limit, now)),
  declared: limits,
  settled: byCause(() => ({ count: 0, refunded: 0 })),
  charged: 0,
  overage: 0
})

const snapshot = ({ name, queue }: SharedAccount, budget: Budget): Store.Snapshot =>
  snapshotOf(name, budget.ledgers.map(ledgerSnapshot), { ...budget, waiters: queue.size })
