/** Holds that a transaction takes through its journal. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as TxRef from "effect/TxRef"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { assertAmounts, failureDenial, type LimitDenial } from "../admission/denial.ts"
import type { Waiter } from "../admission/waiter.ts"
import { nowOf } from "../runtime/clock.ts"
import { inTransaction, nestedError } from "../runtime/transaction.ts"
import { flush } from "../runtime/wakeUps.ts"
import { makeHold, type MemoryAccount, type MemoryHold, type MemoryRequest, nowFor } from "./account.ts"
import { bringUp, track } from "./books.ts"
import { denialOf, queuedDenial, room } from "./waiting.ts"

/** The error that rolls a transaction back because its hold is denied. */
class Denied {
  readonly denial: LimitDenial<MemoryAccount> | undefined
  constructor(denial: LimitDenial<MemoryAccount> | undefined) {
    this.denial = denial
  }
}

/** Takes the hold as a part of the caller's transaction. `waiter` is its wait, if it has waited. */
const holdInJournal = (
  request: MemoryRequest,
  waiter: Waiter<MemoryAccount> | undefined
): Effect.Effect<MemoryHold, Denied> =>
  Effect.withFiber((fiber) => {
    if (passes(request, waiter) || closedAmong(request) !== undefined) return Effect.fail(new Denied(undefined))
    const cells = request.accounts.flatMap(({ books }) => books.cells)
    const amounts = request.accounts.flatMap(({ books }, i) => books.cells.map(() => request.amounts[i]!))
    return Effect.flatMap(
      Effect.forEach(cells, (cell) => TxRef.get(cell)),
      (before) => {
        // The clock is read after the books, even if they were not timed before: the limit may have changed in between.
        const now = nowOf(fiber)
        const ledgers = before.map((ledger) => Ledger.refill(ledger, now))
        const denial = denialOf(request, now, ledgers)
        if (denial !== undefined) return Effect.fail(new Denied(denial))
        const epochs = ledgers.map((ledger) => ledger.epoch)
        return Effect.as(
          Effect.forEach(cells, (cell, k) => {
            const after = Ledger.hold(ledgers[k]!, amounts[k]!)
            return after === before[k] ? Effect.void : TxRef.set(cell, after)
          }),
          makeHold(request.accounts, [...request.amounts], epochs, request)
        )
      }
    )
  })

/** Whether this request would pass an earlier one. A transaction whose turn has come passes nobody. */
const passes = (request: MemoryRequest, waiter: Waiter<MemoryAccount> | undefined): boolean =>
  waiter?.deciding !== true &&
  request.accounts.some(({ books }, i) => {
    const first = books.queue?.first?.waiter
    if (first === undefined || request.amounts[i] === 0) return false
    const priority = request.priority ?? 0
    return first.priority > priority || (first.priority === priority && first.ticket < (waiter?.ticket ?? Infinity))
  })

/** A hold and the value of the transaction that took it. */
type Taken<A> = readonly [hold: MemoryHold, value: A]

/**
 * One transaction that runs `alongside` and takes the hold. Its own `TxRef` decides whether it has committed, not the exit of the
 * effect: an interruption right after the commit finds the hold owned.
 */
class PendingTransaction<A, E, R> implements Store.Pending<Taken<A>, E, Exclude<R, Effect.Transaction>> {
  readonly _tag = "Pending"
  private readonly fiber: Store.AnyFiber
  private readonly request: MemoryRequest
  private readonly alongside: Effect.Effect<A, E, R>
  private committed = TxRef.makeUnsafe<Taken<A> | undefined>(undefined)
  private waiter: Waiter<MemoryAccount> | undefined

  constructor(fiber: Store.AnyFiber, request: MemoryRequest, alongside: Effect.Effect<A, E, R>) {
    this.fiber = fiber
    this.request = request
    this.alongside = alongside
  }

  get wait(): Effect.Effect<Taken<A> | Store.Denial, E, Exclude<R, Effect.Transaction>> {
    return Effect.suspend(() => {
      const closed = closedAmong(this.request)
      if (closed !== undefined) return Effect.succeed(closed)
      const denial = denialOf(this.request, nowFor(this.fiber, this.request.accounts))
      return denial?.never === true ? Effect.succeed(denial) : this.attempt
    })
  }

  get granted(): Taken<A> | undefined {
    return this.committed.value
  }

  abandon(): void {
    this.decide()
  }

  private readonly attempt: Effect.Effect<Taken<A> | Store.Denial, E, Exclude<R, Effect.Transaction>> = Effect.suspend(
    () => {
      const committed = (this.committed = TxRef.makeUnsafe<Taken<A> | undefined>(undefined))
      // A transaction that waits for something else (`txRetry`) does not block the other waiters.
      const yielding = Effect.onInterrupt(this.alongside, () => Effect.sync(() => this.letPass()))
      const body = Effect.flatMap(yielding, (value) =>
        Effect.flatMap(holdInJournal(this.request, this.waiter), (hold) => TxRef.set(committed, [hold, value] as const))
      )
      return Effect.flatMap(Effect.exit(Effect.tx(body)), (exit) => this.decided(exit))
    }
  )

  private decided(
    exit: Exit.Exit<void, E | Denied>
  ): Effect.Effect<Taken<A> | Store.Denial, E, Exclude<R, Effect.Transaction>> {
    const { fiber, request } = this
    const taken = this.committed.value
    if (taken !== undefined) {
      track(taken[0])
      this.decide()
      // The books were brought up to now, which may be enough for a waiter whose timer is about to fire.
      for (const account of request.accounts) room.freed(account)
      flush(fiber)
      return Effect.succeed(taken)
    }
    const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined
    if (!(error instanceof Denied)) {
      this.decide()
      return exit as Exit.Exit<never, E>
    }
    // The transaction has brought its copies up to now, but has not written them.
    bringUp(request.accounts, nowFor(fiber, request.accounts))
    if (error.denial?.decided === true) {
      this.decide()
      return Effect.succeed(error.denial)
    }
    return this.waitForTurn()
  }

  private waitForTurn(): Effect.Effect<Taken<A> | Store.Denial, E, Exclude<R, Effect.Transaction>> {
    const { fiber, request } = this
    let { waiter } = this
    if (waiter === undefined) {
      const denial = denialOf(request, nowFor(fiber, request.accounts))
      if (denial?.decided === true) return Effect.succeed(denial)
      const closed = closedAmong(request)
      if (closed !== undefined) return Effect.succeed(closed)
      waiter = this.waiter = room.waiter(request, fiber, true)
      // No budget of it throttles, and others wait for just that.
      if (waiter.accounts.length === 0) return Effect.succeed(queuedDenial(request, nowFor(fiber, request.accounts)))
      room.queueUp(waiter)
    } else if (waiter.answer === undefined) {
      waiter.deciding = false
      if (waiter.places.length === 0) room.stand(waiter)
      room.pump(waiter.accounts)
    }
    const waiting = waiter
    const isOver = () => waiting.deciding === true || waiting.answer !== undefined
    const answered = () => {
      const { answer } = waiting
      if (answer?._tag !== "Denial") return this.attempt
      this.decide()
      return Effect.succeed(answer)
    }
    if (isOver()) return answered()
    return Effect.flatMap(
      Effect.callback<void>((resume) => {
        waiting.resume = () => resume(Effect.void)
        if (isOver()) waiting.resume()
      }),
      answered
    )
  }

  /** Leaves its places and keeps its ticket. */
  private letPass(): void {
    if (this.waiter === undefined || this.waiter.places.length === 0) return
    this.waiter.deciding = false
    room.stepAside(this.waiter)
  }

  private decide(): void {
    const { waiter } = this
    if (waiter === undefined) return
    waiter.deciding = false
    room.giveUp(waiter)
  }
}

/** The denial of a request to a budget that is closed. */
export const closedAmong = (request: Store.Request & { readonly accounts: ReadonlyArray<MemoryAccount> }) => {
  for (const account of request.accounts) {
    if (account.books.closed !== undefined) return failureDenial(request, account, account.books.closed)
  }
  return undefined
}

export const holdWith = <A, E, R>(
  fiber: Store.AnyFiber,
  request: MemoryRequest,
  alongside: Effect.Effect<A, E, R>
): Store.Pending<Taken<A>, E, Exclude<R, Effect.Transaction>> => {
  assertAmounts(request.accounts, request.amounts)
  if (inTransaction(fiber)) throw nestedError(request.accounts[0]!.name, "reserveTx")
  return new PendingTransaction(fiber, request, alongside)
}
