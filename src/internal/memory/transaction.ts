/** The memory store inside `Effect.tx`: through the journal. */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as TxRef from "effect/TxRef"
import type { BudgetExceeded, FailedReservation } from "../../BudgetError.ts"
import type * as Store from "../../BudgetStore.ts"
import * as Ledger from "../../Ledger.ts"
import { type AnyFiber, type MemoryAccount, MemoryHold, type MemoryRequest, nowOf } from "./account.ts"
import { track } from "./books.ts"
import { check, type Denial, refuse } from "../denial.ts"
import { denialOf } from "./denial.ts"
import { freed, giveUp, pump, queueUp, stand, wait, Waiter } from "./waiting.ts"

/** A finished transaction stays in the context of fibers and finalizers made inside it: only an open one is joined. */
export const inTransaction = (fiber: AnyFiber): boolean => {
  const inherited = Context.getOrUndefined(fiber.context, Effect.Transaction)
  if (inherited === undefined) return false
  return (
    Effect.runSync(Effect.provideService(Effect.tx(Effect.Transaction), Effect.Transaction, inherited)) === inherited
  )
}

/** Fails a transaction so that nothing of it is kept. */
class Denied {
  readonly denial: Denial | undefined
  constructor(denial: Denial | undefined) {
    this.denial = denial
  }
}

/** The hold as one part of the caller's transaction. `turn` is who has waited for it. */
const holdInJournal = (request: MemoryRequest, turn: Waiter | undefined): Effect.Effect<MemoryHold, Denied> =>
  Effect.withFiber((fiber) => {
    if (passes(request, turn)) return Effect.fail(new Denied(undefined))
    const cells = request.accounts.flatMap((account) => account.cells)
    const amounts = request.accounts.flatMap((account, i) => account.cells.map(() => request.amounts[i]!))
    return Effect.flatMap(
      Effect.forEach(cells, (cell) => TxRef.get(cell)),
      (before) => {
        // Read after the books, and whether they were timed then or not: a change of the limit may have come in between.
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
          new MemoryHold(request.accounts, [...request.amounts], epochs)
        )
      }
    )
  })

/** Whether this would pass somebody who was there before. Who has been told that it is its turn passes nobody. */
const passes = (request: MemoryRequest, turn: Waiter | undefined): boolean =>
  turn?.deciding !== true &&
  request.accounts.some((account, i) => {
    const first = account.queue.first?.waiter
    if (first === undefined || request.amounts[i] === 0) return false
    const priority = request.priority ?? 0
    return first.priority > priority || (first.priority === priority && first.ticket < (turn?.ticket ?? Infinity))
  })

/**
 * One transaction that runs `alongside` and takes the hold. Whether it committed is told by a `TxRef` of its own, not by how
 * the effect ended: an interruption that lands right after the commit finds the hold owned.
 */
export const holdWith = <A, E, R>(
  request: MemoryRequest,
  alongside: Effect.Effect<A, E, R>,
  restore: Store.Restore
): Effect.Effect<
  readonly [hold: Store.Hold, value: A],
  E | BudgetExceeded | FailedReservation,
  Exclude<R, Effect.Transaction>
> =>
  Effect.withFiber((fiber) => {
    check(request.accounts, request.amounts, undefined)
    if (inTransaction(fiber)) return Effect.die(nested(request.accounts[0]!, "reserveTx"))
    let waiter: Waiter | undefined
    const attempt: Effect.Effect<
      readonly [hold: Store.Hold, value: A],
      E | BudgetExceeded | FailedReservation,
      Exclude<R, Effect.Transaction>
    > = Effect.suspend(() => {
      const committed = TxRef.makeUnsafe<readonly [hold: MemoryHold, value: A] | undefined>(undefined)
      // A transaction that waits for something else (`txRetry`) does not keep the others waiting.
      const yielding = Effect.onInterrupt(alongside, () => Effect.sync(() => letPass(waiter)))
      const body = Effect.flatMap(yielding, (value) =>
        Effect.flatMap(holdInJournal(request, waiter), (hold) => TxRef.set(committed, [hold, value] as const))
      )
      return Effect.flatMap(Effect.exit(restore(Effect.tx(body))), (exit) => {
        if (committed.value !== undefined) {
          const [hold] = committed.value
          track(hold)
          decide(waiter)
          // The books were brought up to now: that may be enough for somebody whose timer is about to fire.
          for (const account of request.accounts) freed(fiber, account)
          return Effect.succeed(committed.value)
        }
        const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined
        if (!(error instanceof Denied)) {
          decide(waiter)
          return exit as Exit.Exit<never, E>
        }
        if (error.denial?.decided) {
          decide(waiter)
          return refuse(error.denial)
        }
        return Effect.andThen(waitForTurn(), attempt)
      })
    })
    const waitForTurn = () => {
      if (waiter === undefined) {
        waiter = new Waiter(request, fiber, true)
        return queueUp(waiter) ?? wait(waiter, restore)
      }
      if (waiter.late !== undefined) {
        decide(waiter)
        return waiter.late
      }
      waiter.deciding = false
      waiter.verdict = undefined
      if (waiter.places.length === 0) stand(waiter)
      pump(waiter.accounts)
      return wait(waiter, restore)
    }
    return attempt
  })

const letPass = (waiter: Waiter | undefined): void => {
  if (waiter === undefined || waiter.places.length === 0) return
  waiter.deciding = false
  giveUp(waiter)
}

const decide = (waiter: Waiter | undefined): void => {
  waiter?.deadline?.interruptUnsafe()
  letPass(waiter)
}

export const nested = (account: MemoryAccount, what: string): Error =>
  new Error(
    `Budget "${account.name}": ${what} inside Effect.tx is refused, since a transaction may run more than once. ` +
      `Use reserveTx outside of it and pass the transaction as its "alongside".`
  )
