/**
 * The store of one process. The books of each limit are a `TxRef<Ledger>`. Outside a transaction the store writes them
 * directly, in one synchronous step, with the same effect as a committed transaction (value, version, wake-ups); inside
 * `Effect.tx` it goes through the journal.
 *
 * Waiting is a queue of its own. Whoever frees capacity (a settlement, an adjustment, a timer) takes the hold for the next in
 * turn in the same synchronous step and wakes it afterwards, so a newcomer cannot slip in between. Someone who waits on
 * several accounts stands in the queue of each, and holds none. Tickets are global: whoever has the lowest stands first
 * everywhere, so two waiters never wait for each other.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as TxRef from "effect/TxRef"
import { BudgetExceeded, FailedReservation, QueueFull, TimedOut } from "../BudgetError.ts"
import type * as Store from "../BudgetStore.ts"
import * as Ledger from "../Ledger.ts"
import * as Limit from "../Limit.ts"
import { badAmount, isAmount } from "./amount.ts"
import { type Place, WaitQueue } from "./waitQueue.ts"

type AnyFiber = Fiber.Fiber<unknown, unknown>

/** How far `firstFit` looks past the first, and how often it may pass the same waiter. */
const LOOK_AHEAD = 64
const MAX_OVERTAKEN = 64

const MAX_TIMER_MILLIS = 2 ** 31 - 1

class MemoryAccount implements Store.Account {
  readonly name: string
  readonly definition: Store.Definition
  readonly cells: ReadonlyArray<TxRef.TxRef<Ledger.Ledger>>
  readonly queue = new WaitQueue<Waiter>()
  readonly listeners = new Set<() => void>()
  readonly settled: Record<Store.Cause, { count: number; refunded: number }> = {
    committed: { count: 0, refunded: 0 },
    released: { count: 0, refunded: 0 },
    succeeded: { count: 0, refunded: 0 },
    failed: { count: 0, refunded: 0 },
    interrupted: { count: 0, refunded: 0 }
  }
  charged = 0
  overage = 0
  changes = 0
  timed: boolean
  timer: { readonly at: number; readonly fiber: AnyFiber } | undefined = undefined
  /** The open holds, for an auditor that checks the books against them. */
  open: Set<MemoryHold> | undefined = undefined

  constructor(definition: Store.Definition, now: number) {
    this.name = definition.name
    this.definition = definition
    this.cells = definition.limits.map((limit) => TxRef.makeUnsafe(Ledger.make(limit, now)))
    this.timed = this.cells.some((cell) => Ledger.isTimed(cell.value))
  }
}

/** An amount of each account, and the epoch of each ledger that it was taken in. */
interface Part {
  readonly amounts: Array<number>
  readonly epochs: ReadonlyArray<number>
  readonly older: Part | undefined
}

class MemoryHold implements Store.Hold, Part {
  readonly accounts: ReadonlyArray<MemoryAccount>
  amounts: Array<number>
  epochs: ReadonlyArray<number>
  /** What was held before an extension in a later epoch. */
  older: Part | undefined = undefined
  outcome: Store.Outcome | undefined = undefined

  constructor(accounts: ReadonlyArray<MemoryAccount>, amounts: Array<number>, epochs: ReadonlyArray<number>) {
    this.accounts = accounts
    this.amounts = amounts
    this.epochs = epochs
  }

  get held(): ReadonlyArray<number> {
    let total: ReadonlyArray<number> = this.amounts
    for (let part = this.older; part !== undefined; part = part.older) {
      const { amounts } = part
      total = total.map((amount, i) => amount + amounts[i]!)
    }
    return total
  }
}

interface MemoryRequest extends Store.Request {
  readonly accounts: ReadonlyArray<MemoryAccount>
  readonly into: MemoryHold | undefined
}

const nowOf = (fiber: AnyFiber): number => fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()

/** The clock is only read where time matters. */
const nowFor = (fiber: AnyFiber, accounts: ReadonlyArray<MemoryAccount>): number => {
  for (let i = 0; i < accounts.length; i++) {
    if (accounts[i]!.timed) return nowOf(fiber)
  }
  return 0
}

// ---------------------------------------------------------------------------------------------------------------------
// The books
// ---------------------------------------------------------------------------------------------------------------------

/** Writes a `TxRef` as a transaction of one step would: value, version, wake-ups. */
export const writeDirect = <A>(fiber: AnyFiber, ref: TxRef.TxRef<A>, value: A): void => {
  if (Object.is(value, ref.value)) return
  ref.version++
  ref.value = value
  if (ref.pending.size > 0) {
    for (const wake of ref.pending.values()) fiber.currentDispatcher.scheduleTask(wake, 0)
    ref.pending.clear()
  }
}

const notify = (fiber: AnyFiber, account: MemoryAccount): void => {
  account.changes++
  if (account.listeners.size === 0) return
  for (const listener of account.listeners) fiber.currentDispatcher.scheduleTask(listener, 0)
  account.listeners.clear()
}

const current = (account: MemoryAccount, cell: TxRef.TxRef<Ledger.Ledger>, now: number): Ledger.Ledger =>
  account.timed ? Ledger.refill(cell.value, now) : cell.value

const scratch: Array<Ledger.Ledger> = []

/** Takes all of the request or nothing; answers the epochs it was taken in. */
const take = (
  fiber: AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>,
  now: number
): ReadonlyArray<number> | undefined => {
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    for (let j = 0; j < account.cells.length; j++) {
      const ledger = current(account, account.cells[j]!, now)
      if (!Ledger.admits(ledger, amounts[i]!)) return undefined
      scratch[k++] = ledger
    }
  }
  const epochs = epochsOf(k)
  k = 0
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    const amount = amounts[i]!
    for (let j = 0; j < account.cells.length; j++) {
      const ledger = scratch[k++]!
      if (amount > 0) writeDirect(fiber, account.cells[j]!, Ledger.hold(ledger, amount))
    }
    notify(fiber, account)
  }
  return epochs
}

let latestEpochs: ReadonlyArray<number> = []

/** Holds that were taken in the same epochs share one array. */
const epochsOf = (count: number): ReadonlyArray<number> => {
  let same = latestEpochs.length === count
  for (let k = 0; same && k < count; k++) same = latestEpochs[k] === scratch[k]!.epoch
  if (!same) latestEpochs = scratch.slice(0, count).map((ledger) => ledger.epoch)
  return latestEpochs
}

const enter = (
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: Array<number>,
  epochs: ReadonlyArray<number>,
  into: MemoryHold | undefined
): MemoryHold => {
  if (into === undefined) {
    const hold = new MemoryHold(accounts, amounts, epochs)
    track(hold)
    return hold
  }
  if (into.epochs === epochs || into.epochs.every((epoch, k) => epoch === epochs[k])) {
    for (let i = 0; i < amounts.length; i++) into.amounts[i]! += amounts[i]!
  } else {
    into.older = { amounts: into.amounts, epochs: into.epochs, older: into.older }
    into.amounts = amounts
    into.epochs = epochs
  }
  return into
}

const track = (hold: MemoryHold): void => {
  for (let i = 0; i < hold.accounts.length; i++) hold.accounts[i]!.open?.add(hold)
}

/** Gives `amounts` of a part back to the books, of which `charges` are charged. */
const giveBack = (
  fiber: AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  epochs: ReadonlyArray<number>,
  amounts: ReadonlyArray<number>,
  charges: ReadonlyArray<number>,
  now: number
): void => {
  let k = 0
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    for (let j = 0; j < account.cells.length; j++) {
      const cell = account.cells[j]!
      writeDirect(fiber, cell, Ledger.settle(current(account, cell, now), amounts[i]!, epochs[k++]!, charges[i]!))
    }
  }
}

/** Splits what is charged over the parts of an extended hold: the older ones first, what is left to the last. */
const settleParts = (
  fiber: AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  part: Part,
  charges: ReadonlyArray<number>,
  now: number
): ReadonlyArray<number> => {
  if (part.older === undefined) return charges
  const rest = settleParts(fiber, accounts, part.older, charges, now)
  const older = part.older.amounts
  giveBack(
    fiber,
    accounts,
    part.older.epochs,
    older,
    rest.map((charge, i) => Math.min(charge, older[i]!)),
    now
  )
  return rest.map((charge, i) => Math.max(0, charge - older[i]!))
}

const nobody: ReadonlyArray<string> = []

const settleNow = (
  fiber: AnyFiber,
  hold: MemoryHold,
  cause: Store.Cause,
  charges: ReadonlyArray<number> | undefined
): Store.Outcome => {
  if (hold.outcome !== undefined) return hold.outcome
  const { accounts } = hold
  const now = nowFor(fiber, accounts)
  const { held } = hold
  const charged = charges ?? held
  giveBack(fiber, accounts, hold.epochs, hold.amounts, settleParts(fiber, accounts, hold, charged, now), now)
  let overran = nobody
  for (let i = 0; i < accounts.length; i++) {
    const account = accounts[i]!
    const difference = held[i]! - charged[i]!
    const tally = account.settled[cause]
    tally.count++
    account.charged = Math.min(account.charged + charged[i]!, Number.MAX_SAFE_INTEGER)
    if (difference > 0) tally.refunded = Math.min(tally.refunded + difference, Number.MAX_SAFE_INTEGER)
    else if (difference < 0) {
      account.overage = Math.min(account.overage - difference, Number.MAX_SAFE_INTEGER)
      if (account.cells.some((cell) => Ledger.debt(cell.value) > 0)) overran = [...overran, account.name]
    }
    account.open?.delete(hold)
  }
  hold.outcome = { cause, charges: charged, overran }
  for (let i = 0; i < accounts.length; i++) freed(fiber, accounts[i]!)
  return hold.outcome
}

const freed = (fiber: AnyFiber, account: MemoryAccount): void => {
  if (account.queue.size > 0) pump(account)
  notify(fiber, account)
}

// ---------------------------------------------------------------------------------------------------------------------
// Denials
// ---------------------------------------------------------------------------------------------------------------------

interface Denial {
  readonly account: MemoryAccount
  readonly ledger: Ledger.Ledger
  readonly requested: number
  /** When time alone admits the whole request, in milliseconds from now. */
  readonly retryAfter: number | undefined
  /** Whether waiting is out of the question, for this request or by the budget's enforcement. */
  readonly decided: boolean
  readonly terminate: boolean
}

/**
 * Why a request is not admitted, `undefined` if it is. It names the first budget that rules out waiting, else the first that
 * denies; of a budget's limits, one that can never be met, else the one that takes longest.
 */
const denialOf = (request: MemoryRequest, now: number, ledgers?: ReadonlyArray<Ledger.Ledger>): Denial | undefined => {
  let found: Omit<Denial, "retryAfter"> | undefined
  let longest = 0
  let k = 0
  for (let i = 0; i < request.accounts.length; i++) {
    const account = request.accounts[i]!
    const requested = request.amounts[i]!
    let denying: Ledger.Ledger | undefined
    let wait = -1
    let never = false
    for (const cell of account.cells) {
      const ledger = ledgers === undefined ? current(account, cell, now) : ledgers[k++]!
      if (never || Ledger.admits(ledger, requested)) continue
      never = !Ledger.fits(ledger, requested, request.own?.[i])
      const ledgerWait = never ? Infinity : (Ledger.retryAfter(ledger, requested, now) ?? Infinity)
      if (never || ledgerWait > wait) denying = ledger
      wait = Math.max(wait, ledgerWait)
    }
    if (denying === undefined) continue
    const decided = never || !request.wait || !queues(account)
    longest = Math.max(longest, wait)
    if (found === undefined || (decided && !found.decided)) {
      const terminate = request.wait && account.definition.enforcement === "terminate"
      found = { account, ledger: denying, requested, decided, terminate }
    }
  }
  return found && { ...found, retryAfter: longest === Infinity ? undefined : longest }
}

const exceeded = ({ account, ledger, requested, retryAfter }: Denial): BudgetExceeded =>
  new BudgetExceeded({
    budget: account.name,
    limit: ledger.limit,
    requested,
    available: ledger.available,
    ...(retryAfter === undefined ? undefined : { retryAfter: Duration.millis(retryAfter) })
  })

const refuse = (denial: Denial): Effect.Effect<never, BudgetExceeded> =>
  denial.terminate ? Effect.die(exceeded(denial)) : Effect.fail(exceeded(denial))

const check = (
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>,
  into: MemoryHold | undefined
): void => {
  for (let i = 0; i < amounts.length; i++) {
    if (!isAmount(amounts[i]!)) throw badAmount(accounts[i]!.name, "the amount", amounts[i])
  }
  if (into?.outcome !== undefined) throw ended(accounts)
}

const ended = (accounts: ReadonlyArray<MemoryAccount>): Error =>
  new Error(`Budget "${accounts[0]!.name}": a reservation that has been settled cannot be extended`)

// ---------------------------------------------------------------------------------------------------------------------
// Waiting
// ---------------------------------------------------------------------------------------------------------------------

class Waiter {
  readonly request: MemoryRequest
  readonly fiber: AnyFiber
  readonly priority: number
  readonly ticket = tickets++
  readonly accounts: ReadonlyArray<MemoryAccount>
  /** Where it stands; empty when it does not. */
  places: ReadonlyArray<Place<Waiter>> = []
  overtaken = 0
  hold: MemoryHold | undefined = undefined
  /** What the wait ends with; `undefined` while it goes on. */
  verdict: Effect.Effect<void, BudgetExceeded | FailedReservation> | undefined = undefined
  resume: (() => void) | undefined = undefined
  deadline: AnyFiber | undefined = undefined
  /** Set when the deadline has passed. */
  late: Effect.Effect<never, FailedReservation> | undefined = undefined
  /**
   * For a transaction, which takes what it wants by itself: `true` once it has been told that it is its turn. It keeps its
   * place until it has decided, so that nobody passes meanwhile.
   */
  deciding: boolean | undefined

  constructor(request: MemoryRequest, fiber: AnyFiber, transaction: boolean) {
    this.request = request
    this.fiber = fiber
    this.priority = request.priority
    this.deciding = transaction ? false : undefined
    this.accounts = request.accounts.filter((account, i) => queues(account) && request.amounts[i]! > 0)
  }
}

let tickets = 0

const queues = (account: MemoryAccount): boolean => account.definition.enforcement === "throttle"

/** Whether somebody waits who was there before. */
const blocked = (accounts: ReadonlyArray<MemoryAccount>, amounts: ReadonlyArray<number>): boolean => {
  for (let i = 0; i < accounts.length; i++) {
    if (accounts[i]!.queue.size > 0 && amounts[i]! > 0) return true
  }
  return false
}

const stand = (waiter: Waiter): void => {
  waiter.places = waiter.accounts.map((account) => account.queue.add(waiter))
  for (const account of waiter.accounts) notify(waiter.fiber, account)
}

const leave = (waiter: Waiter): void => {
  waiter.places.forEach((place, i) => {
    waiter.accounts[i]!.queue.remove(place)
    notify(waiter.fiber, waiter.accounts[i]!)
  })
  waiter.places = []
}

/** Leaves and lets the others move up. */
const giveUp = (waiter: Waiter): void => {
  leave(waiter)
  for (const account of waiter.accounts) pump(account)
}

const end = (waiter: Waiter, verdict: Effect.Effect<void, BudgetExceeded | FailedReservation>): void => {
  waiter.verdict = verdict
  if (waiter.deciding !== true) {
    leave(waiter)
    waiter.deadline?.interruptUnsafe()
  }
  if (waiter.resume !== undefined) waiter.fiber.currentDispatcher.scheduleTask(waiter.resume, 0)
}

/** Grants to those whose turn it is, as long as there is room. */
const pump = (account: MemoryAccount): void => {
  const accounts = new Set([account])
  for (const next of accounts) {
    accounts.delete(next)
    serve(next, accounts)
  }
}

const serve = (account: MemoryAccount, others: Set<MemoryAccount>): void => {
  const lookAhead = account.definition.order === "fifo" ? 1 : LOOK_AHEAD
  let soonest: Waiter | undefined
  let wait = Infinity
  let place = account.queue.first
  for (let seen = 0; place !== undefined && seen < lookAhead; seen++) {
    const { waiter } = place
    const waiterWait = consider(waiter)
    if (waiterWait === undefined) {
      for (const other of waiter.accounts) if (other !== account) others.add(other)
      // Everyone moves up: start again from the first.
      soonest = undefined
      wait = Infinity
      place = account.queue.first
      seen = -1
      continue
    }
    if (waiterWait < wait) {
      wait = waiterWait
      soonest = waiter
    }
    if (waiter.overtaken >= MAX_OVERTAKEN) break
    place = account.queue.after(place)
  }
  setTimer(account, soonest, wait)
}

/** Ends the wait if that can be done now (`undefined`), or answers how long time alone will take. */
const consider = (waiter: Waiter): number | undefined => {
  const { fiber, request } = waiter
  if (waiter.deciding === true) return Infinity
  for (let i = 0; i < waiter.accounts.length; i++) {
    if (!isTurn(waiter.accounts[i]!, waiter.places[i]!)) return Infinity
  }
  if (request.into?.outcome !== undefined) {
    end(waiter, Effect.die(ended(request.accounts)))
    return undefined
  }
  const now = nowFor(fiber, request.accounts)
  const denial = denialOf(request, now)
  if (denial?.decided) {
    end(waiter, refuse(denial))
    return undefined
  }
  if (denial !== undefined) return denial.retryAfter ?? Infinity
  overtake(waiter)
  if (waiter.deciding === false) {
    waiter.deciding = true
    end(waiter, Effect.void)
    return Infinity
  }
  const epochs = take(fiber, request.accounts, request.amounts, now)!
  waiter.hold = enter(request.accounts, [...request.amounts], epochs, request.into)
  end(waiter, Effect.void)
  return undefined
}

const isTurn = (account: MemoryAccount, place: Place<Waiter>): boolean => {
  let ahead = account.queue.first
  if (account.definition.order === "fifo") return ahead === place
  for (let seen = 0; ahead !== undefined && seen < LOOK_AHEAD; seen++) {
    if (ahead === place) return true
    if (ahead.waiter.overtaken >= MAX_OVERTAKEN) return false
    ahead = account.queue.after(ahead)
  }
  return false
}

const overtake = (waiter: Waiter): void => {
  waiter.accounts.forEach((account, i) => {
    for (let ahead = account.queue.first!; ahead !== waiter.places[i]; ahead = account.queue.after(ahead)!) {
      ahead.waiter.overtaken++
    }
  })
}

/** One timer an account, for the waiter that time will serve first. Firing too early is harmless, so it is seldom moved. */
const setTimer = (account: MemoryAccount, waiter: Waiter | undefined, wait: number): void => {
  if (waiter === undefined || wait === Infinity) {
    account.timer?.fiber.interruptUnsafe()
    account.timer = undefined
    return
  }
  const at = nowOf(waiter.fiber) + Math.min(wait, MAX_TIMER_MILLIS)
  if (account.timer !== undefined && account.timer.at <= at) return
  account.timer?.fiber.interruptUnsafe()
  account.timer = {
    at,
    fiber: later(waiter.fiber, Math.min(wait, MAX_TIMER_MILLIS), () => {
      account.timer = undefined
      pump(account)
    })
  }
}

const later = (fiber: AnyFiber, millis: number, run: () => void): AnyFiber =>
  Effect.runForkWith(fiber.context)(Effect.andThen(Effect.sleep(Duration.millis(millis)), Effect.sync(run)))

const setDeadline = (waiter: Waiter): void => {
  const timeout = timeoutOf(waiter.request)
  if (timeout === undefined) return
  waiter.deadline = later(waiter.fiber, Duration.toMillis(timeout), () => {
    waiter.deadline = undefined
    waiter.late = Effect.fail(failed(waiter.request, waiter.accounts[0]!, new TimedOut({ after: timeout })))
    if (waiter.verdict !== undefined) return
    end(waiter, waiter.late)
    for (const account of waiter.accounts) pump(account)
  })
}

const timeoutOf = (request: MemoryRequest): Duration.Duration | undefined => {
  if (request.timeout !== undefined) return request.timeout
  let least: Duration.Duration | undefined
  for (const { definition } of request.accounts) {
    if (definition.timeout !== undefined) {
      least = least === undefined ? definition.timeout : Duration.min(least, definition.timeout)
    }
  }
  return least
}

const failed = (request: MemoryRequest, account: MemoryAccount, reason: TimedOut | QueueFull): FailedReservation =>
  new FailedReservation({
    budget: account.name,
    requested: request.amounts[request.accounts.indexOf(account)]!,
    reason
  })

/** Who stands where too many wait already. */
const crowded = (waiter: Waiter): FailedReservation | undefined => {
  for (const account of waiter.accounts) {
    const { maxQueued } = account.definition
    if (maxQueued !== undefined && account.queue.size > maxQueued) {
      return failed(waiter.request, account, new QueueFull({ maxQueued }))
    }
  }
  return undefined
}

/**
 * Waits for the verdict. Only this is interruptible, and nothing is decided here: when an interruption comes together with a
 * grant, the grant stands. The caller installs its finalizer, and the interruption then runs it.
 */
const wait = (waiter: Waiter, restore: Store.Restore): Effect.Effect<void, BudgetExceeded | FailedReservation> =>
  Effect.flatMap(
    Effect.exit(
      restore(
        Effect.callback<void>((resume) => {
          waiter.resume = () => resume(Effect.void)
          if (waiter.verdict !== undefined) waiter.resume()
        })
      )
    ),
    (exit) => {
      if (waiter.verdict !== undefined) return waiter.verdict
      waiter.deadline?.interruptUnsafe()
      giveUp(waiter)
      return exit
    }
  )

/** Joins the queue; the verdict may be there at once. */
const queueUp = (waiter: Waiter): Effect.Effect<void, BudgetExceeded | FailedReservation> | undefined => {
  stand(waiter)
  for (const account of waiter.accounts) pump(account)
  if (waiter.verdict !== undefined) return waiter.verdict
  const full = crowded(waiter)
  if (full !== undefined) {
    giveUp(waiter)
    return Effect.fail(full)
  }
  setDeadline(waiter)
  return undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Transactions
// ---------------------------------------------------------------------------------------------------------------------

/** A finished transaction stays in the context of fibers and finalizers made inside it: only an open one is joined. */
const inTransaction = (fiber: AnyFiber): boolean => {
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

/** The hold as one part of the caller's transaction. `turn` is the ticket of who has waited for it. */
const holdInJournal = (request: MemoryRequest, turn: Waiter | undefined): Effect.Effect<MemoryHold, Denied> =>
  Effect.withFiber((fiber) => {
    if (passes(request, turn)) return Effect.fail(new Denied(undefined))
    const now = nowFor(fiber, request.accounts)
    const cells = request.accounts.flatMap((account) => account.cells)
    const amounts = request.accounts.flatMap((account, i) => account.cells.map(() => request.amounts[i]!))
    return Effect.flatMap(
      Effect.forEach(cells, (cell) => Effect.map(TxRef.get(cell), (ledger) => Ledger.refill(ledger, now))),
      (ledgers) => {
        const denial = denialOf(request, now, ledgers)
        if (denial !== undefined) return Effect.fail(new Denied(denial))
        const epochs = ledgers.map((ledger) => ledger.epoch)
        return Effect.as(
          Effect.forEach(cells, (cell, k) =>
            amounts[k] === 0 ? Effect.void : TxRef.set(cell, Ledger.hold(ledgers[k]!, amounts[k]!))
          ),
          new MemoryHold(request.accounts, [...request.amounts], epochs)
        )
      }
    )
  })

/** Whether this would pass somebody who was there before. */
const passes = (request: MemoryRequest, turn: Waiter | undefined): boolean =>
  request.accounts.some((account, i) => {
    const first = account.queue.first?.waiter
    if (first === undefined || first === turn || request.amounts[i] === 0) return false
    return (
      first.priority > request.priority ||
      (first.priority === request.priority && first.ticket < (turn?.ticket ?? Infinity))
    )
  })

/**
 * One transaction that runs `alongside` and takes the hold. Whether it committed is told by a `TxRef` of its own, not by how
 * the effect ended: an interruption that lands right after the commit finds the hold owned.
 */
const holdWith = <A, E, R>(
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
    if (inTransaction(fiber)) return Effect.die(nested(request, "reserveTx"))
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
          for (const account of request.accounts) notify(fiber, account)
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
      for (const account of waiter.accounts) pump(account)
      return wait(waiter, restore)
    }
    return attempt
  })

const letPass = (waiter: Waiter | undefined): void => {
  if (waiter !== undefined && waiter.places.length > 0) giveUp(waiter)
}

const decide = (waiter: Waiter | undefined): void => {
  waiter?.deadline?.interruptUnsafe()
  letPass(waiter)
}

const nested = (request: MemoryRequest, what: string): Error =>
  new Error(
    `Budget "${request.accounts[0]!.name}": ${what} inside Effect.tx is refused, since a transaction may run more than once. ` +
      `Use reserveTx outside of it and pass the transaction as its "alongside".`
  )

// ---------------------------------------------------------------------------------------------------------------------
// The store
// ---------------------------------------------------------------------------------------------------------------------

/** Accounts and holds are opaque to the faces, which hand each back to the store it came from. */
const mine = (request: Store.Request): MemoryRequest => request as MemoryRequest

/** Takes a hold if that can be done now and nobody waits who was there before. */
const holdNow = (
  fiber: AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  amounts: ReadonlyArray<number>,
  into: MemoryHold | undefined
): MemoryHold | undefined => {
  check(accounts, amounts, into)
  if (blocked(accounts, amounts) || inTransaction(fiber)) return undefined
  const epochs = take(fiber, accounts, amounts, nowFor(fiber, accounts))
  return epochs && enter(accounts, amounts as Array<number>, epochs, into)
}

const hold = (
  request: MemoryRequest,
  restore: Store.Restore
): Effect.Effect<Store.Hold, BudgetExceeded | FailedReservation> =>
  Effect.withFiber((fiber) => {
    const { accounts, amounts, into } = request
    check(accounts, amounts, into)
    if (inTransaction(fiber)) return Effect.die(nested(request, into === undefined ? "reserve" : "extend"))
    const now = nowFor(fiber, accounts)
    if (!request.wait || !blocked(accounts, amounts)) {
      const epochs = take(fiber, accounts, amounts, now)
      if (epochs !== undefined) return Effect.succeed(enter(accounts, [...amounts], epochs, into))
    }
    const denial = denialOf(request, now)
    if (denial?.decided) return refuse(denial)
    const waiter = new Waiter(request, fiber, false)
    return Effect.map(queueUp(waiter) ?? wait(waiter, restore), () => waiter.hold!)
  })

const tryHold = (request: MemoryRequest): Effect.Effect<Store.Hold | undefined> =>
  Effect.withFiber((fiber) => {
    const { accounts, amounts, into } = request
    if (inTransaction(fiber)) return Effect.die(nested(request, "tryReserve"))
    const hold = holdNow(fiber, accounts, [...amounts], into)
    if (hold !== undefined || !blocked(accounts, amounts)) return Effect.succeed(hold)
    // The queue decides whether this one may pass, by its priority or by first fit.
    if (denialOf(request, nowFor(fiber, accounts)) !== undefined) return Effect.succeed(undefined)
    const waiter = new Waiter(request, fiber, false)
    stand(waiter)
    for (const account of waiter.accounts) pump(account)
    if (waiter.verdict === undefined) giveUp(waiter)
    return Effect.succeed(waiter.hold)
  })

/** Gives back from the oldest part first. */
const reduce = (fiber: AnyFiber, hold: MemoryHold, amounts: ReadonlyArray<number>): void => {
  const { accounts } = hold
  const now = nowFor(fiber, accounts)
  let rest = amounts
  if (hold.older !== undefined) {
    rest = reduceOlder(fiber, accounts, hold.older, amounts, now)
    if (hold.older.amounts.every((amount) => amount === 0)) hold.older = undefined
  }
  giveBack(fiber, accounts, hold.epochs, rest, zeros(rest.length), now)
  for (let i = 0; i < accounts.length; i++) {
    hold.amounts[i]! -= rest[i]!
    freed(fiber, accounts[i]!)
  }
}

/** Answers what is left for the newer parts. */
const reduceOlder = (
  fiber: AnyFiber,
  accounts: ReadonlyArray<MemoryAccount>,
  part: Part,
  amounts: ReadonlyArray<number>,
  now: number
): ReadonlyArray<number> => {
  const asked = part.older === undefined ? amounts : reduceOlder(fiber, accounts, part.older, amounts, now)
  const given = asked.map((amount, i) => Math.min(amount, part.amounts[i]!))
  giveBack(fiber, accounts, part.epochs, given, zeros(given.length), now)
  given.forEach((amount, i) => (part.amounts[i]! -= amount))
  return asked.map((amount, i) => amount - given[i]!)
}

const zeros = (count: number): ReadonlyArray<number> => (noCharges[count] ??= new Array<number>(count).fill(0))

const noCharges: Array<ReadonlyArray<number>> = []

const adjust = (changes: ReadonlyArray<readonly [MemoryAccount, Store.Adjustment]>): Effect.Effect<void> =>
  Effect.withFiber((fiber) => {
    const now = nowOf(fiber)
    const adjustedAll = changes.map(([account, adjustment]) => adjusted(account, adjustment, now))
    changes.forEach(([account], i) => {
      account.cells.forEach((cell, j) => writeDirect(fiber, cell, adjustedAll[i]![j]!))
      account.timed = adjustedAll[i]!.some(Ledger.isTimed)
    })
    for (const [account] of changes) {
      endHopeless(account, now)
      freed(fiber, account)
    }
    return Effect.void
  })

/** What can never fit any more fails at once, wherever it stands. */
const endHopeless = (account: MemoryAccount, now: number): void => {
  const waiters: Array<Waiter> = []
  for (let place = account.queue.first; place !== undefined; place = account.queue.after(place))
    waiters.push(place.waiter)
  for (const waiter of waiters) {
    if (waiter.verdict !== undefined) continue
    const denial = denialOf(waiter.request, now)
    if (!denial?.decided) continue
    end(waiter, refuse(denial))
    for (const other of waiter.accounts) if (other !== account) pump(other)
  }
}

const adjusted = (account: MemoryAccount, adjustment: Store.Adjustment, now: number): ReadonlyArray<Ledger.Ledger> => {
  const ledgers = account.cells.map((cell) => Ledger.refill(cell.value, now))
  switch (adjustment._tag) {
    case "TopUp":
    case "Refill":
      return ledgers.map((ledger) => {
        const amount =
          adjustment._tag === "TopUp"
            ? adjustment.amount
            : Math.max(0, Limit.maximum(ledger.limit) - ledger.held - ledger.available)
        const changed = isAmount(amount) ? Ledger.topUp(ledger, amount) : undefined
        if (changed === undefined)
          throw badAmount(account.name, "the top-up, and the sum of all that was granted,", amount)
        return changed
      })
    case "Reset":
      return ledgers.map((ledger) => Ledger.reset(ledger, now))
    case "SetLimit": {
      const { limits } = adjustment
      checkLimits(account.name, limits)
      if (limits.length !== ledgers.length) {
        throw new RangeError(
          `Budget "${account.name}" has ${ledgers.length} limits, so setLimit takes as many, not ${limits.length}; ` +
            `Limit.unlimited takes one out of force`
        )
      }
      return ledgers.map((ledger, j) => Ledger.setLimit(ledger, limits[j]!, now))
    }
  }
}

const checkLimits = (name: string, limits: ReadonlyArray<Limit.Limit>): void => {
  if (limits.length === 0)
    throw new RangeError(`Budget "${name}" has no limit; Limit.unlimited says that there is none`)
  for (const limit of limits) {
    const problem = Limit.problem(limit)
    if (problem !== undefined) throw new RangeError(`Budget "${name}": ${problem}`)
  }
}

const read = (accounts: ReadonlyArray<MemoryAccount>): Effect.Effect<ReadonlyArray<Store.Snapshot>> =>
  Effect.withFiber((fiber) => {
    const now = nowOf(fiber)
    return inTransaction(fiber)
      ? Effect.forEach(accounts, (account) =>
          Effect.map(Effect.tx(Effect.forEach(account.cells, TxRef.get)), (ledgers) => snapshot(account, ledgers, now))
        )
      : Effect.succeed(
          accounts.map((account) =>
            snapshot(
              account,
              account.cells.map((cell) => cell.value),
              now
            )
          )
        )
  })

const snapshot = (account: MemoryAccount, books: ReadonlyArray<Ledger.Ledger>, now: number): Store.Snapshot => {
  const ledgers = books.map((book): Store.LedgerSnapshot => {
    const { available, epoch, granted, held, limit, spent } = Ledger.refill(book, now)
    return { limit, granted, available, held, spent, epoch }
  })
  const { charged, name, overage, queue, settled } = account
  return {
    budget: name,
    ledgers,
    available: Math.min(...ledgers.map((ledger) => ledger.available)),
    waiters: queue.size,
    settled: {
      committed: { ...settled.committed },
      released: { ...settled.released },
      succeeded: { ...settled.succeeded },
      failed: { ...settled.failed },
      interrupted: { ...settled.interrupted }
    },
    charged,
    overage
  }
}

const changes = (account: MemoryAccount): Stream.Stream<Store.Snapshot> =>
  Stream.suspend(() => {
    let told: number | undefined
    const changed = Effect.callback<void>((resume) => {
      if (told !== account.changes) return resume(Effect.void)
      const listener = () => resume(Effect.void)
      account.listeners.add(listener)
      return Effect.sync(() => account.listeners.delete(listener))
    })
    return Stream.fromEffectRepeat(
      Effect.andThen(
        changed,
        Effect.suspend(() => {
          told = account.changes
          return Effect.map(read([account]), ([snapshot]) => snapshot!)
        })
      )
    )
  })

export const memory: Store.BudgetStore["Service"] = {
  open: (definition) =>
    Effect.clockWith((clock) => {
      checkLimits(definition.name, definition.limits)
      return Effect.succeed(new MemoryAccount(definition, clock.currentTimeMillisUnsafe()))
    }),
  hold: (request, restore) => hold(mine(request), restore),
  tryHold: (request) => tryHold(mine(request)),
  holdWith: (request, alongside, restore) => holdWith(mine(request), alongside, restore),
  reduce: (hold, amounts) =>
    Effect.withFiber((fiber) => {
      reduce(fiber, hold as MemoryHold, amounts)
      return Effect.void
    }),
  settle: (hold, cause, charges) =>
    Effect.withFiber((fiber) => Effect.succeed(settleNow(fiber, hold as MemoryHold, cause, charges))),
  adjust: (changes) => adjust(changes as ReadonlyArray<readonly [MemoryAccount, Store.Adjustment]>),
  read: (accounts) => read(accounts as ReadonlyArray<MemoryAccount>),
  changes: (account) => changes(account as MemoryAccount),
  direct: {
    hold: (fiber, accounts, amounts, into) =>
      holdNow(fiber, accounts as ReadonlyArray<MemoryAccount>, amounts, into as MemoryHold | undefined),
    reduce: (fiber, hold, amounts) => reduce(fiber, hold as MemoryHold, amounts),
    settle: (fiber, hold, cause, charges) => settleNow(fiber, hold as MemoryHold, cause, charges)
  }
}
