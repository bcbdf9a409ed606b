/**
 * Leases in front of a store that many processes share: each takes a share of a budget in bulk, as a hold in the store below,
 * and spends from it at memory speed. What it has spent is reported with each renewal, which gives the rest back and takes a
 * new share by what was needed lately. Since all shares are holds, their sum never passes the limit.
 *
 * A process that dies loses its shares by expiry, and all of a share that is not known to be free counts as spent: it was sized
 * for one renewal, so that is how much is uncertain.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { BudgetExceeded, type FailedReservation } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { defectDenial, LimitDenial, settledError } from "../admission/denial.ts"
import { snapshotOf } from "../books/snapshot.ts"
import { nowOf } from "../runtime/clock.ts"
import { type SharedRequest, Signal } from "../shared/account.ts"
import { millisOf } from "../shared/options.ts"
import {
  assertLedgerChanges,
  assertNoDiscipline,
  assertRequest,
  errorDenial,
  type Restore,
  SharedPending,
  unknownDenial
} from "../shared/requests.ts"
import { localBooksError, outside } from "../shared/transaction.ts"
import { admit, blocked, postponed, type Reply, wake } from "../shared/waiting.ts"
import { DirectHold, LeasedAccount, LeasedHold, Share } from "./account.ts"
import { end, giveBack, lack, take } from "./shares.ts"

export interface LeaseOptions {
  /**
   * How often what was spent is reported, and the share is sized anew: how much is uncertain when the process dies. From 1
   * millisecond; at most a third of the time that holds of the store below stay. Default 5 seconds. A limit that another process
   * lowers or resets reaches the shares that are out by their next renewal.
   */
  readonly renewEvery?: Duration.Input | undefined
  /** How often who is first in turn asks the store below again, from 1 millisecond. Default 1 second. */
  readonly pollInterval?: Duration.Input | undefined
}

interface LeasedRequest extends SharedRequest {
  readonly accounts: ReadonlyArray<LeasedAccount>
}

const mine = (accounts: ReadonlyArray<Store.Account>) => accounts as ReadonlyArray<LeasedAccount>

const upstreamOf = (accounts: ReadonlyArray<LeasedAccount>): ReadonlyArray<Store.Account> =>
  accounts.map(({ upstream }) => upstream)

/** How many shares with reservations out may be closed beside the open one. Beyond that, it is renewed in place. */
const MOST_CLOSED = 8

/** How often a reservation may find that others took what was drawn for it, before it is asked for by itself. */
const MOST_DRAWS = 4

export const leasedStore = (
  store: Store.BudgetStore["Service"],
  options: LeaseOptions
): Effect.Effect<Store.BudgetStore["Service"], never, Scope.Scope> =>
  Effect.gen(function* () {
    const renewEvery = millisOf("renewEvery", options.renewEvery ?? "5 seconds", 1)
    const pollInterval = millisOf("pollInterval", options.pollInterval ?? "1 second", 1)
    if (store.expiresAfter !== undefined && renewEvery * 3 > store.expiresAfter) {
      throw new RangeError(
        `BudgetStore: renewEvery is at most a third of the ${store.expiresAfter} ms that holds stay, not ${renewEvery} ms`
      )
    }
    const accounts = new Set<LeasedAccount>()

    // -- the store below ----------------------------------------------------------------------------------------------

    const work: Array<Effect.Effect<unknown>> = []
    const signal = new Signal()
    const later = (effect: Effect.Effect<unknown>): void => {
      work.push(effect)
      signal.raise()
    }
    const worker: Effect.Effect<never> = Effect.suspend(() => {
      const next = work.shift()
      return Effect.flatMap(next === undefined ? signal.wait : lasting(next), () => worker)
    })

    /** Draws and closes follow each other, so nothing is added to a share that is closed meanwhile. */
    const inTurn = <A, E>(account: LeasedAccount, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
      Effect.uninterruptible(account.turn.withPermit(effect))

    /** Nothing is taken from it any more. What is not out goes back, and all of it once nothing is out. */
    const close = (account: LeasedAccount): Effect.Effect<void> => inTurn(account, closeNow(account))

    const closeNow = (account: LeasedAccount): Effect.Effect<void> =>
      Effect.suspend(() => {
        const { share } = account
        if (share === undefined) return Effect.void
        account.share = undefined
        if (share.used === 0) return finish(account, share)
        account.closed.add(share)
        return trim(share, 0)
      })

    /** Keeps no more than this free. */
    const trim = (share: Share, free: number): Effect.Effect<void> =>
      Effect.suspend(() => {
        const rest = share.free - free
        if (rest <= 0) return Effect.void
        share.free = free
        return reduceBelow(share.hold, [rest])
      })

    const finish = (account: LeasedAccount, share: Share): Effect.Effect<void> => {
      account.ending.add(share)
      return Effect.suspend(() => {
        const { owed } = account
        account.owed = 0
        return Effect.map(settleBelow(share.hold, "committed", [share.spent + owed]), () => {
          account.ending.delete(share)
        })
      })
    }

    const finished = (account: LeasedAccount): void => {
      for (const share of account.closed) {
        if (share.used === 0) {
          account.closed.delete(share)
          later(inTurn(account, finish(account, share)))
        } else if (share.free > 0) {
          later(inTurn(account, trim(share, 0)))
        }
      }
    }

    const below = (request: Store.Request): Effect.Effect<Store.Hold, BudgetExceeded | FailedReservation> =>
      Effect.withFiber((fiber) => {
        const granted = (answer: Store.Hold | Store.Denial) =>
          answer._tag === "Hold" ? Effect.succeed(answer) : answer.refuse()
        const answer = store.hold(fiber, request.accounts, [...request.amounts], request)
        return answer._tag === "Pending" ? Effect.flatMap(answer.wait, granted) : granted(answer)
      })

    const reduceBelow = (hold: Store.Hold, amounts: ReadonlyArray<number>): Effect.Effect<void> =>
      Effect.withFiber((fiber) => store.reduce(fiber, hold, amounts) ?? Effect.void)

    const settleBelow = (
      hold: Store.Hold,
      cause: Store.Cause,
      charges: ReadonlyArray<number> | undefined
    ): Effect.Effect<Store.Outcome> =>
      Effect.withFiber((fiber) => {
        const outcome = store.settle(fiber, hold, cause, charges)
        return Effect.isEffect(outcome) ? outcome : Effect.succeed(outcome)
      })

    /** Takes more for a share: what is missing at least, and as much as was needed lately. Not interruptible. */
    const draw = (
      account: LeasedAccount,
      amount: number,
      wanted: number
    ): Effect.Effect<void, BudgetExceeded | FailedReservation> =>
      inTurn(
        account,
        Effect.flatMap(Clock.currentTimeMillis, (now) => {
          const missing = lack(account, amount, now)
          if (missing === 0 && amount > 0) return Effect.void
          const current = account.share
          const request = (missing: number) => ({
            accounts: [account.upstream],
            amounts: [missing],
            upTo: { wanted: [Math.max(missing, wanted)], normalize: (amounts: Array<number>) => amounts }
          })
          const anew = (missing: number) =>
            Effect.flatMap(below({ ...request(missing), onExpiry: "hold" }), (hold) =>
              Effect.map(closeNow(account), () => {
                account.share = new Share(hold, now, now + renewEvery * 2)
                account.share.free = hold.held[0]!
              })
            )
          if (current?.isGood(now) !== true) return anew(missing)
          const before = current.hold.held[0]!
          const more = Effect.map(below({ ...request(missing), into: current.hold, extends: true }), (hold) => {
            current.free += hold.held[0]! - before
            // Slots that were granted without the store may have come back to it.
            if (account.comesBack) return
            current.goodFrom = now
            current.goodUntil = now + renewEvery * 2
          })
          // The store has lost it.
          return Effect.catch(more, (error) => (current.isGood(now) ? Effect.fail(error) : anew(amount)))
        })
      )

    // -- holding ------------------------------------------------------------------------------------------------------

    type Asked = Effect.Effect<Store.Hold, BudgetExceeded | FailedReservation>

    /** Asks once, not interruptibly: the shares, then for more of them, then by itself. */
    const ask = (request: LeasedRequest, draws = 0): Asked =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const { accounts, amounts, into, upTo } = request
        if (into instanceof DirectHold || upTo !== undefined || !accounts.every(({ leasable }) => leasable)) {
          return through(request)
        }
        const hold = (into as LeasedHold | undefined) ?? new LeasedHold(accounts)
        if (take(hold, amounts, now)) return Effect.succeed(hold)
        if (draws === MOST_DRAWS) return into === undefined ? through(request) : Effect.fail(crowded(request))
        const short = accounts.flatMap((account, i) => (lack(account, amounts[i]!, now) > 0 ? [i] : []))
        const drawn: Array<LeasedAccount> = []
        const drawAll = Effect.forEach(
          short,
          (i) => Effect.map(draw(accounts[i]!, amounts[i]!, accounts[i]!.taken), () => drawn.push(accounts[i]!)),
          { discard: true }
        )
        return Effect.andThen(
          // A request that is denied by one budget, or waits for it, keeps nothing of another.
          Effect.tapError(drawAll, () => Effect.forEach(drawn, close, { discard: true })),
          ask(request, draws + 1)
        )
      })

    /** A reservation of the store below. */
    const through = (request: LeasedRequest): Asked => {
      const { accounts, into } = request
      const asked = Effect.map(
        below({
          ...request,
          accounts: upstreamOf(accounts),
          into: into instanceof DirectHold ? into.upstream : undefined
        }),
        (hold) => (into instanceof DirectHold ? into : new DirectHold(accounts, hold))
      )
      return sparing(accounts, asked)
    }

    /** What this process has left of its shares may be just what is missing. */
    const sparing = <A, E extends BudgetExceeded | FailedReservation>(
      accounts: ReadonlyArray<LeasedAccount>,
      asked: Effect.Effect<A, E>
    ): Effect.Effect<A, E> =>
      Effect.catch(asked, (error) =>
        error._tag === "BudgetExceeded" && accounts.some(({ share }) => share !== undefined)
          ? Effect.andThen(Effect.forEach(accounts, close, { discard: true }), asked)
          : Effect.fail(error)
      )

    /** In the terms of the request: a share is asked for by its own amounts. */
    const denialOf = (request: LeasedRequest, error: BudgetExceeded): LimitDenial<LeasedAccount> => {
      const i = request.accounts.findIndex(({ name }) => name === error.budget)
      const account = request.accounts[i]!
      const available = error.available + (account.share?.free ?? 0)
      const ledger = { ...Ledger.make(error.limit, 0), available }
      const denial = new LimitDenial(account, ledger, request.amounts[i]!, false, true, request.payer)
      denial.retryAfter = error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)
      return denial
    }

    const refusalOf = (request: LeasedRequest, error: BudgetExceeded | FailedReservation): Store.Denial =>
      error._tag === "BudgetExceeded" ? denialOf(request, error) : errorDenial(error)

    const crowded = ({ accounts, amounts }: LeasedRequest): BudgetExceeded =>
      new BudgetExceeded({
        budget: accounts[0]!.name,
        limit: accounts[0]!.definition.limits[0]!,
        requested: amounts[0]!,
        available: 0,
        retryAfter: Duration.millis(1)
      })

    /** A denial ends the request, or says how long it waits. */
    const replyOf = (request: LeasedRequest, error: BudgetExceeded | FailedReservation): Effect.Effect<Reply> => {
      if (error._tag === "FailedReservation") return Effect.succeed(errorDenial(error))
      const denial = denialOf(request, error)
      const { account, requested, retryAfter } = denial
      if (account.definition.enforcement !== "throttle") return Effect.succeed(denial)
      const own = request.extends === true ? request.into!.held[request.accounts.indexOf(account)]! : 0
      // Whether it could ever fit, or anything could come back but by time, is said by the books.
      const known = Effect.map(store.read([account.upstream]), ([snapshot]): Reply => {
        const { ledgers } = snapshot!
        if (ledgers.some((ledger) => !Ledger.fits({ ...Ledger.make(ledger.limit, 0), ...ledger }, requested, own))) {
          return denial
        }
        const onlyTime = request.accounts.length === 1 && ledgers.every(({ held }) => held === own)
        return postponed(retryAfter ?? Infinity, onlyTime ? retryAfter : 0, denial)
      })
      return Effect.catchDefect(known, () => Effect.succeed(postponed(retryAfter ?? Infinity, 0, denial)))
    }

    const replied = (request: LeasedRequest): Effect.Effect<Reply> =>
      Effect.suspend(() => {
        if (request.into?.outcome !== undefined) {
          return Effect.succeed<Reply>(defectDenial(settledError(request.accounts)))
        }
        return Effect.catch(ask(request), (error): Effect.Effect<Reply> => replyOf(request, error))
      })

    const hold = (request: LeasedRequest, restore: Restore): Effect.Effect<Store.Hold | Store.Denial> =>
      admit(request, replied(request), replied(request), pollInterval, restore)

    const tryHold = (request: LeasedRequest): Effect.Effect<Store.Hold | Store.Denial> =>
      Effect.suspend(() => {
        if (blocked(request)) return Effect.succeed(unknownDenial(request, undefined))
        return Effect.catch(ask(request), (error) =>
          Effect.succeed<Store.Hold | Store.Denial>(refusalOf(request, error))
        )
      })

    /** Out of the shares at once, where they have enough and nobody waits. */
    const takeNow = (
      fiber: Store.AnyFiber,
      { accounts, amounts, into, upTo }: LeasedRequest
    ): Store.Hold | undefined => {
      if (into instanceof DirectHold || upTo !== undefined) return undefined
      for (const { leasable, queue } of accounts) if (queue.size > 0 || !leasable) return undefined
      const hold = (into as LeasedHold | undefined) ?? new LeasedHold(accounts)
      return take(hold, amounts, nowOf(fiber)) ? hold : undefined
    }

    // -- settling -----------------------------------------------------------------------------------------------------

    /** In memory, unless more was spent than the shares have. */
    const settleNow = (
      hold: LeasedHold,
      cause: Store.Cause,
      charges: ReadonlyArray<number>
    ): ReadonlyArray<number> | undefined => {
      hold.outcome = { cause, charges, overran: [] }
      let over: Array<number> | undefined
      for (let i = 0; i < hold.accounts.length; i++) {
        const more = end(hold, i, charges[i]!)
        if (more > 0) (over ??= charges.map(() => 0))[i] = more
        const account = hold.accounts[i]!
        if (account.closed.size > 0) finished(account)
        if (account.queue.size > 0) wake(account)
      }
      return over
    }

    /** What was spent beyond the shares is charged at once, so that nobody is admitted before it is paid. */
    const chargeOver = (hold: LeasedHold, over: ReadonlyArray<number>): Effect.Effect<Store.Outcome> => {
      return Effect.match(charging(hold.accounts, over), {
        onSuccess: ({ overran }) => (hold.outcome = { ...hold.outcome!, overran }),
        // With the share then, when the store is back.
        onFailure: () => {
          hold.accounts.forEach((account, i) => {
            account.owed += over[i]!
            if (over[i]! > 0) later(close(account))
          })
          return hold.outcome!
        }
      })
    }

    /** Charges what was not held, whatever the limits say. */
    const charging = (
      accounts: ReadonlyArray<LeasedAccount>,
      charges: ReadonlyArray<number>
    ): Effect.Effect<Store.Outcome, BudgetExceeded | FailedReservation> =>
      Effect.flatMap(below({ accounts: upstreamOf(accounts), amounts: charges.map(() => 0) }), (empty) =>
        settleBelow(empty, "committed", charges)
      )

    /** What no share has taken along. */
    const chargeOwed = (account: LeasedAccount): Effect.Effect<void> =>
      Effect.suspend(() => {
        const { owed } = account
        if (owed === 0) return Effect.void
        account.owed = 0
        return Effect.match(charging([account], [owed]), {
          onSuccess: () => {},
          onFailure: () => {
            account.owed += owed
          }
        })
      })

    const settle = (
      hold: Store.Hold,
      cause: Store.Cause,
      charges: ReadonlyArray<number> | undefined
    ): Store.Outcome | Effect.Effect<Store.Outcome> => {
      if (hold.outcome !== undefined) return hold.outcome
      if (hold instanceof DirectHold) {
        return Effect.uninterruptible(
          Effect.tap(settleBelow(hold.upstream, cause, charges), () => Effect.sync(() => hold.accounts.forEach(wake)))
        )
      }
      const leased = hold as LeasedHold
      const all = charges ?? leased.held
      if (!overruns(leased, all)) {
        settleNow(leased, cause, all)
        return leased.outcome!
      }
      return Effect.uninterruptible(
        Effect.suspend(() => {
          if (leased.outcome !== undefined) return Effect.succeed(leased.outcome)
          const over = settleNow(leased, cause, all)
          return over === undefined ? Effect.succeed(leased.outcome!) : chargeOver(leased, over)
        })
      )
    }

    const reduce = (hold: Store.Hold, amounts: ReadonlyArray<number>): Effect.Effect<void> | undefined => {
      if (hold instanceof DirectHold) return reduceBelow(hold.upstream, amounts)
      const leased = hold as LeasedHold
      leased.accounts.forEach((account, i) => {
        giveBack(leased, i, amounts[i]!)
        finished(account)
        wake(account)
      })
      return undefined
    }

    // -- renewing -----------------------------------------------------------------------------------------------------

    const renew = (account: LeasedAccount): Effect.Effect<void> =>
      lasting(
        Effect.suspend(() => {
          const { share, taken } = account
          account.taken = account.comesBack ? (share?.used ?? 0) : 0
          if (share !== undefined && share.used > 0 && account.closed.size >= MOST_CLOSED) {
            const more = Effect.suspend(() => draw(account, 0, Math.max(0, taken - share.free)))
            return Effect.andThen(inTurn(account, trim(share, taken)), more)
          }
          const closed = Effect.andThen(close(account), chargeOwed(account))
          // Who needed nothing keeps nothing.
          return taken === 0 ? closed : Effect.andThen(closed, draw(account, 0, taken))
        })
      )

    /** Whatever happens to it, the others go on. */
    const lasting = (effect: Effect.Effect<unknown, unknown>): Effect.Effect<void> =>
      Effect.uninterruptible(
        Effect.catchCause(Effect.asVoid(effect), (cause) =>
          Cause.hasDies(cause) ? Effect.logError("BudgetStore: a share could not be renewed", cause) : Effect.void
        )
      )

    const renewing: Effect.Effect<never> = Effect.flatMap(
      Effect.andThen(
        Effect.sleep(Duration.millis(renewEvery)),
        Effect.suspend(() => Effect.forEach([...accounts], renew, { concurrency: "unbounded", discard: true }))
      ),
      () => renewing
    )

    // By then, the budgets have ended and with them their shares.
    yield* Effect.addFinalizer(() => Effect.forEach(work.splice(0), lasting, { discard: true }))
    yield* Effect.forkScoped(worker)
    yield* Effect.forkScoped(renewing)

    /** Read while none of these shares is drawn or closed, so that what is known here fits what the store below says. */
    const steady = (all: ReadonlyArray<LeasedAccount>): Effect.Effect<ReadonlyArray<Store.Snapshot>> => {
      const read = Effect.map(store.read(upstreamOf(all)), (snapshots) =>
        snapshots.map((snapshot, i) => overlay(all[i]!, snapshot))
      )
      // Always in the same order, so that two of these do not wait for each other.
      return [...accounts]
        .filter((account) => all.includes(account))
        .reduce((inner, account) => account.turn.withPermit(inner), read)
    }

    const overlay = (account: LeasedAccount, snapshot: Store.Snapshot): Store.Snapshot => {
      account.learn(snapshot.ledgers.map(({ limit }) => limit))
      let [ownFree, ownSpent] = [0, 0]
      for (const shares of [account.share === undefined ? [] : [account.share], account.closed, account.ending]) {
        for (const { free, spent } of shares) {
          ownFree += free
          ownSpent += spent
        }
      }
      const ledgers = snapshot.ledgers.map((ledger): Store.LedgerSnapshot => {
        // After a reset, shares from before are not held in these books.
        const free = Math.min(ownFree, ledger.held)
        const spent = Math.min(ownSpent, ledger.held - free)
        const returns = ledger.limit._tag === "Concurrency"
        return {
          ...ledger,
          available: ledger.available + (returns ? free + spent : free),
          held: ledger.held - free - spent,
          spent: ledger.spent + (returns ? 0 : spent)
        }
      })
      return snapshotOf(snapshot.budget, ledgers, {
        ...snapshot,
        waiters: account.queue.size,
        charged: snapshot.charged + ownSpent
      })
    }

    const record = (
      accounts: ReadonlyArray<LeasedAccount>,
      amounts: ReadonlyArray<number>
    ): Effect.Effect<Store.Outcome, BudgetExceeded> => sparing(accounts, store.record(upstreamOf(accounts), amounts))

    return {
      group: {},
      open: (definition) =>
        Effect.gen(function* () {
          assertNoDiscipline(definition)
          const upstream = yield* store.open({ ...definition, enforcement: "reject" })
          const account = new LeasedAccount(definition, upstream)
          accounts.add(account)
          yield* Effect.addFinalizer(() => {
            accounts.delete(account)
            return Effect.andThen(close(account), chargeOwed(account))
          })
          if (definition.enforcement === "throttle") {
            // What comes back to the store below shows in its changes.
            yield* Effect.forkScoped(
              Stream.runForEach(store.changes([upstream]), () => Effect.sync(() => wake(account)))
            )
          }
          return account
        }),
      hold: (fiber, accounts, amounts, options) => {
        assertRequest(fiber, accounts, amounts, options)
        const request: LeasedRequest = { ...options, accounts: mine(accounts), amounts }
        return (
          takeNow(fiber, request) ??
          new SharedPending((restore) => (request.wait === false ? tryHold(request) : hold(request, restore)))
        )
      },
      holdWith: (_fiber, { accounts }) => {
        throw localBooksError(accounts)
      },
      record: (accounts, amounts) => outside(accounts, record(mine(accounts), amounts)),
      charge: (accounts, amounts) => {
        const all = mine(accounts)
        const charged = Effect.catch(record(all, amounts), () => store.charge(upstreamOf(all), amounts))
        return outside(accounts, Effect.uninterruptible(charged))
      },
      reduce: (_fiber, hold, amounts) => reduce(hold, amounts),
      settle: (_fiber, hold, cause, charges) => settle(hold, cause, charges),
      report: (hold, progress) => {
        if (hold instanceof DirectHold) store.report(hold.upstream, progress)
      },
      // The shares go back first, so that the change finds them in the books.
      adjust: (changes) =>
        Effect.suspend(() => {
          const all = assertLedgerChanges<LeasedAccount>(changes)
          // The budget below always rejects.
          const below = all.map(
            ([{ upstream }, change]) =>
              [upstream, change._tag === "SetLimit" ? { ...change, enforcement: undefined } : change] as const
          )
          return Effect.andThen(
            Effect.forEach(all, ([account]) => close(account), { discard: true }),
            Effect.map(store.adjust(below), () => {
              for (const [account, change] of all) {
                account.follow(change)
                wake(account)
              }
            })
          )
        }),
      read: (accounts) => steady(mine(accounts)),
      // Read again, at a moment when no share is on its way.
      changes: (accounts) => Stream.mapEffect(store.changes(upstreamOf(mine(accounts))), () => steady(mine(accounts)))
    }
  })

const overruns = (hold: LeasedHold, charges: ReadonlyArray<number>): boolean => {
  for (let i = 0; i < charges.length; i++) {
    let held = 0
    for (const part of hold.parts[i]!) held += part.amount
    if (charges[i]! > held && !hold.accounts[i]!.comesBack) return true
  }
  return false
}
