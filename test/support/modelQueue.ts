/**
 * The queue of the model: who waits, who is served when, and what a denial says. Plain lists that are sorted again each time.
 */
import { Duration } from "effect"
import { Limit } from "../../src/index.ts"
import { admits, Books, fillMillis, MAX, Undefined } from "./model.ts"
import type { Account, Cause, Hold, Ledger, LimitChange, Outcome, Strategy } from "./model.ts"

const FIRST_FIT_LOOKS_AT = 64
const FIRST_FIT_PASSES = 64

export interface Request {
  readonly id: number
  readonly accounts: ReadonlyArray<Account>
  /** What it wants; for "up to", the most it wants. */
  readonly amounts: ReadonlyArray<number>
  /** For "up to": the least that it takes, and how long it waits for the whole as the first of its queues. */
  readonly upTo?: { readonly least: ReadonlyArray<number>; readonly patience: number | undefined } | undefined
  readonly priority: number
  readonly timeout: number | undefined
  /** An extension of this hold. */
  readonly extend?: Hold | undefined
  /** The hold that a guard's pair grows. */
  readonly pair?: Hold | undefined
  /** `reserveTx`: takes its hold by itself when its turn has come. */
  readonly tx?: boolean | undefined
  /** `tryReserve`: never waits, and its denial says nothing. */
  readonly soft?: boolean | undefined
  /** Makes amounts agree with each other once they are rounded down: the total of a pool. */
  readonly round?: ((amounts: ReadonlyArray<number>) => ReadonlyArray<number>) | undefined
}

interface Waiter {
  readonly request: Request
  readonly ticket: number
  readonly deadline: number
  /** Where it stands. */
  readonly queues: ReadonlyArray<Account>
  passed: number
  firstSince: number | undefined
}

export interface Denial {
  readonly budget: string
  readonly limit: Limit.Limit
  readonly requested: number
  readonly available: number | undefined
  readonly retryAfter: number | undefined
  readonly held: number | undefined
  /** Absent where several limits deny for different reasons: the design does not say which of them counts. */
  readonly kind: "later" | "held" | "exhausted" | "tooLarge" | undefined
  /** The budget ends the fiber. */
  readonly defect: boolean
}

interface Exceeded {
  readonly _tag: "Exceeded"
  /** Any of them may be named. */
  readonly oneOf: ReadonlyArray<Denial>
}

export type Answer =
  | { readonly _tag: "Granted"; readonly hold: Hold; readonly amounts: ReadonlyArray<number> }
  | Exceeded
  | {
      readonly _tag: "TimedOut"
      readonly after: number
      readonly request: Request
      readonly oneOf: ReadonlyArray<Denial>
    }
  | { readonly _tag: "QueueFull"; readonly budget: string; readonly requested: number; readonly maxQueued: number }
  | { readonly _tag: "None" }
  | { readonly _tag: "Settled" }

export class Model extends Books {
  /** Everybody who waits, in the order in which they are served. */
  waiters: Array<Waiter> = []
  /** Every answer, in order; the runner empties it after each step. */
  answers: Array<readonly [id: number, answer: Answer]> = []
  private readonly transactions = new Set<number>()
  private tickets = 0

  // ------------------------------------------------------------------------------------------------------------------- time

  /** Millisecond by millisecond while somebody waits: section 5, one timer serves the head of the queue. */
  advance(millis: number): void {
    const end = this.now + millis
    while (this.now < end && this.waiters.length > 0) {
      this.now++
      const before = this.refills
      const answered = this.answers.length
      this.look()
      const late = this.waiters.filter(({ deadline }) => deadline <= this.now)
      if (this.refills > before) this.serve()
      for (const waiter of late) {
        if (this.waiters.includes(waiter)) this.timeOut(waiter)
        // Its turn comes when a transaction has decided, which takes it beyond this millisecond.
        // Which of them ends first is nowhere said.
        else if (late.length > 1) throw new Undefined("served at its deadline, which is also that of others")
        else if (this.transacted(answered)) throw new Undefined("served at its deadline, behind a transaction")
        else if (!this.rules.servedAtDeadline) throw new Undefined("served in the millisecond of its deadline")
      }
    }
    this.now = end
    this.look()
  }

  /** Section 3: a clock that goes back. The books notice when they are next looked at. */
  setBack(to: number): void {
    if (this.waiters.length > 0) throw new Undefined("the clock goes back while somebody waits")
    this.now = to
  }

  /** Whether a transaction got its hold since so many answers. */
  private transacted(answered: number): boolean {
    return this.answers.slice(answered).some(([id, { _tag }]) => _tag === "Granted" && this.transactions.has(id))
  }

  private timeOut(waiter: Waiter): void {
    const { request } = waiter
    const after = this.timeoutOf(request)!
    this.leave(waiter, { _tag: "TimedOut", after, request, oneOf: this.denials(request, least(request)) })
    this.serve()
  }

  // ------------------------------------------------------------------------------------------------- books that others wait for

  override settle(hold: Hold, cause: Cause, charges: ReadonlyArray<number>): Outcome {
    if (hold.outcome !== undefined) return hold.outcome
    const outcome = super.settle(hold, cause, charges)
    // Nothing can be added to a hold that is settled: an extension of it that waits ends.
    for (const waiter of this.waiters.filter(({ request }) => request.extend === hold)) {
      this.leave(waiter, { _tag: "Settled" })
    }
    this.serve()
    return outcome
  }

  override give(pair: Hold, cost: number): boolean {
    const given = super.give(pair, cost)
    this.serve()
    return given
  }

  override topUp(account: Account, amount: number): void {
    super.topUp(account, amount)
    this.serve()
  }

  override reset(accounts: ReadonlyArray<Account>): void {
    super.reset(accounts)
    this.serve(accounts)
  }

  override setLimit(changes: ReadonlyArray<LimitChange>, strategy?: Strategy): void {
    super.setLimit(changes, strategy)
    this.serve(changes.map(([account]) => account))
  }

  /** Section 6: `record` is all or nothing, at once, whoever waits. */
  record(request: Request): void {
    this.look()
    if (!this.fits(request, request.amounts)) {
      const { oneOf } = this.exceeded(request)
      this.answers.push([
        request.id,
        { _tag: "Exceeded", oneOf: oneOf.map((denial) => ({ ...denial, defect: false })) }
      ])
      return
    }
    const hold = this.newHold(request.accounts)
    this.add(hold, request.amounts)
    this.settle(hold, "committed", request.amounts)
    this.answers.push([request.id, { _tag: "Granted", hold, amounts: request.amounts }])
  }

  // ---------------------------------------------------------------------------------------------------------------- denials

  /** Section 3, last column of the table; an extension cannot fit beside what its own reservation keeps. */
  private neverFits(request: Request, i: number, ledger: Ledger, amount: number): boolean {
    const { limit } = ledger
    if (limit._tag === "Unlimited" || amount === 0) return false
    if (limit._tag === "Rate") return amount > limit.burst
    // Section 3: a top-up makes room in its window only; what is spent of it never comes back.
    if (limit._tag === "Window") {
      return amount > Math.max(limit.amount, ledger.available + ledger.held - this.own(request, i, ledger))
    }
    const most = limit._tag === "Capacity" ? ledger.granted : limit.amount
    return amount > most - this.own(request, i, ledger)
  }

  /** What the reservation that is extended holds of these books. */
  private own({ accounts, extend }: Request, i: number, ledger: Ledger): number {
    if (extend === undefined) return 0
    const parts = extend.parts[i]![accounts[i]!.ledgers.indexOf(ledger)]!
    return sum(parts.filter(({ epoch }) => epoch === ledger.epoch).map(({ amount }) => amount))
  }

  /** Every limit that denies, in the order of the request; `retryAfter` is of the whole request (section 4). */
  private denials(request: Request, amounts: ReadonlyArray<number>, among = request.accounts): Array<Denial> {
    const found: Array<Denial> = []
    const waits: Array<number | undefined> = []
    this.forEachLedger(request, (account, ledger, i) => {
      const requested = amounts[i]!
      const never = this.neverFits(request, i, ledger, requested)
      waits.push(never ? undefined : this.timeUntil(ledger, requested))
      if (!among.includes(account) || (admits(ledger, requested) && !never)) return
      const { available, held, limit } = ledger
      const refunds = held - this.own(request, i, ledger)
      const kind = never ? "tooLarge" : available + refunds >= requested ? "held" : "exhausted"
      const defect = account.enforcement === "terminate"
      found.push({ budget: account.name, limit, requested, available, held, retryAfter: undefined, kind, defect })
    })
    if (waits.includes(undefined)) {
      const same = new Set(found.map(({ kind }) => kind)).size === 1
      return same
        ? found
        : found.map((denial) => (denial.kind === "tooLarge" ? denial : { ...denial, kind: undefined }))
    }
    const retryAfter = Math.min(MAX, Math.max(...waits.map((wait) => wait!)))
    return found.map((denial) => ({ ...denial, retryAfter, kind: "later" }))
  }

  private exceeded(request: Request, among = request.accounts): Exceeded {
    const all = this.denials(request, least(request), among)
    const either = this.rules.eitherDenialNamed && all.some(({ kind }) => kind === "tooLarge")
    // Section 4 names the first budget that denies, and does not say which of its limits, if several do.
    return { _tag: "Exceeded", oneOf: either ? all : all.filter(({ budget }) => budget === all[0]!.budget) }
  }

  private everyLedger(
    { accounts }: Request,
    holds: (ledger: Ledger, i: number, account: Account) => boolean,
    among = accounts
  ): boolean {
    return accounts.every(
      (account, i) => !among.includes(account) || account.ledgers.every((ledger) => holds(ledger, i, account))
    )
  }

  private fits(request: Request, amounts: ReadonlyArray<number>, among = request.accounts): boolean {
    return this.everyLedger(request, (ledger, i) => admits(ledger, amounts[i]!), among)
  }

  private isTooLarge(request: Request): boolean {
    return !this.everyLedger(request, (ledger, i) => !this.neverFits(request, i, ledger, least(request)[i]!))
  }

  /**
   * Section 5: a wait that nothing but time could end, and time cannot end within its timeout, even if all that others hold came
   * back. Where time gives nothing, the wait is for a top-up.
   */
  private isHopeless(request: Request, timeout: number): boolean {
    let hopeless = false
    this.forEachLedger(request, (_, ledger, i) => {
      const amount = least(request)[i]!
      const wait = this.timeUntil(ledger, amount)
      if (admits(ledger, amount) || wait === undefined || wait <= timeout) return
      const lacking = amount - (ledger.available + ledger.held - this.own(request, i, ledger))
      const earned = ledger.limit._tag === "Rate" && lacking > 0 ? this.earns(ledger, timeout) : 0
      hopeless ||= lacking > earned
    })
    return hopeless
  }

  private earns(ledger: Ledger, millis: number): number {
    const later = { ...ledger, available: 0, granted: 0 }
    const before = this.now
    this.now += millis
    this.refill(later)
    this.now = before
    return later.available
  }

  // ------------------------------------------------------------------------------------------------------------------ queue

  private forEachLedger({ accounts }: Request, visit: (account: Account, ledger: Ledger, i: number) => void): void {
    accounts.forEach((account, i) => account.ledgers.forEach((ledger) => visit(account, ledger, i)))
  }

  /** Section 5: it stands in the queue of each throttled budget of which it wants something, and holds nothing. */
  private queuesOf(request: Request): ReadonlyArray<Account> {
    return request.accounts.filter(({ enforcement }, i) => enforcement === "throttle" && request.amounts[i]! > 0)
  }

  /** Section 4: extensions in order of arrival; section 5: then priority, then arrival. */
  private before(one: Waiter, other: Waiter): boolean {
    const [a, b] = [one.request, other.request]
    if ((a.extend === undefined) !== (b.extend === undefined)) return a.extend !== undefined
    if (a.extend === undefined && a.priority !== b.priority) return a.priority > b.priority
    return one.ticket < other.ticket
  }

  queueOf(account: Account): ReadonlyArray<Waiter> {
    return this.waiters.filter(({ queues }) => queues.includes(account))
  }

  /** Section 5: the option of throttled budgets. The option of the request goes before it. */
  private timeoutOf(request: Request): number | undefined {
    if (request.timeout !== undefined) return request.timeout
    const bounding = this.rules.timeoutsOfAllMembers ? request.accounts : this.queuesOf(request)
    const shortest = Math.min(...bounding.map(({ timeout }) => timeout ?? Infinity))
    return shortest === Infinity ? undefined : shortest
  }

  /** Every request comes through here; it is answered at once, or it waits. */
  request(request: Request): void {
    this.look()
    if (request.tx === true) this.transactions.add(request.id)
    const answer = (answer: Answer) => void this.answers.push([request.id, answer])
    if (request.extend?.outcome !== undefined) return answer({ _tag: "Settled" })
    const queues = this.queuesOf(request)
    const rejecting = this.rejecting(request)
    const denied = !this.fits(request, least(request), rejecting)
    if (request.soft !== true) {
      // Section 3: what can never fit fails at once, also where others would wait.
      if (this.isTooLarge(request)) return answer(this.exceeded(request))
      if (denied) return answer(this.exceeded(request, rejecting))
    }
    if (!this.rules.extensionsInOrder && request.extend !== undefined && this.waiters.some((w) => w.request.extend)) {
      throw new Undefined("a second extension")
    }
    const timeout = this.timeoutOf(request)
    const deadline = timeout === undefined ? Infinity : this.now + timeout
    const waiter: Waiter = { request, ticket: this.tickets++, deadline, queues, passed: 0, firstSince: undefined }
    this.waiters.push(waiter)
    this.waiters.sort((one, other) => (this.before(one, other) ? -1 : 1))
    this.serve()
    if (!this.waiters.includes(waiter)) return
    if (request.soft === true) return this.leave(waiter, { _tag: "None" })
    const full = queues.find((queue) => this.queueOf(queue).length > (queue.maxQueued ?? Infinity))
    if (full !== undefined) {
      const requested = least(request)[request.accounts.indexOf(full)]!
      return this.leave(waiter, { _tag: "QueueFull", budget: full.name, requested, maxQueued: full.maxQueued! })
    }
    if (timeout === undefined) return
    if (timeout === 0 || (this.rules.hopelessFailsAtOnce && this.isHopeless(request, timeout))) this.timeOut(waiter)
  }

  /** An interruption while waiting consumes nothing (section 2.4). */
  interrupt(id: number): void {
    this.waiters = this.waiters.filter(({ request }) => request.id !== id)
    this.look()
    this.serve()
  }

  private leave(waiter: Waiter, answer: Answer): void {
    this.waiters = this.waiters.filter((other) => other !== waiter)
    this.answers.push([waiter.request.id, answer])
  }

  /**
   * Section 3: what can never fit any more fails at once: after a change of limits or a reset, at the end of a window that was
   * topped up, after another extension of the same reservation. Section 5: so does what time alone could serve before the change,
   * and now not before its deadline.
   */
  private failHopeless(changed?: ReadonlyArray<Account>): void {
    for (const waiter of [...this.waiters]) {
      const { request } = waiter
      const concerned = changed?.some((account) => request.accounts.includes(account)) === true
      if (concerned && request.soft !== true && !this.isTooLarge(request)) {
        if (waiter.deadline !== Infinity && this.isHopeless(request, waiter.deadline - this.now)) this.timeOut(waiter)
        continue
      }
      if (request.soft === true || !this.isTooLarge(request)) continue
      if (!this.rules.hopelessPolicyFails && request.accounts.length > 1) {
        throw new Undefined("a policy cannot fit any more")
      }
      // Whether others were served before or after is not said, so what was left to this one is not either.
      const oneOf = this.exceeded(request).oneOf.map((denial) => ({ ...denial, available: undefined, held: undefined }))
      this.leave(waiter, { _tag: "Exceeded", oneOf })
    }
  }

  /** Serves whoever can be served, the first in order first, until nobody can. */
  private serve(changed?: ReadonlyArray<Account>): void {
    this.failHopeless(changed)
    do {
      for (const waiter of this.waiters) {
        // A request that never waits takes nobody's first place.
        const first = waiter.queues.every(
          (queue) => this.queueOf(queue).find(({ request }) => request.soft !== true) === waiter
        )
        waiter.firstSince = first ? (waiter.firstSince ?? this.now) : undefined
      }
    } while (this.waiters.some((waiter) => this.decide(waiter)))
    // An extension may have taken what another one of the same reservation waits for.
    if (this.waiters.some(({ request }) => request.soft !== true && this.isTooLarge(request))) this.serve()
  }

  private rejecting({ accounts }: Request): ReadonlyArray<Account> {
    return accounts.filter(({ enforcement }) => enforcement !== "throttle")
  }

  private grant(waiter: Waiter, amounts: ReadonlyArray<number>): void {
    const { extend, pair } = waiter.request
    const earlier = this.waiters.slice(0, this.waiters.indexOf(waiter))
    const passed = earlier.filter(({ queues }) => queues.some((queue) => waiter.queues.includes(queue)))
    for (const other of passed) other.passed++
    const hold = extend ?? pair ?? this.newHold(waiter.request.accounts)
    this.add(hold, amounts)
    this.leave(waiter, { _tag: "Granted", hold, amounts })
  }

  /** Answers a waiter if it can be answered now. */
  private decide(waiter: Waiter): boolean {
    const { request } = waiter
    if (!waiter.queues.every((queue) => this.isInTurn(waiter, queue))) return false
    const rejecting = this.rejecting(request)
    const throttled = request.accounts.filter((account) => !rejecting.includes(account))
    const amounts = request.upTo === undefined ? request.amounts : this.upTo(waiter)
    const admitted = amounts !== undefined && this.fits(request, amounts, throttled)
    if (!this.fits(request, least(request), rejecting)) {
      if (request.soft === true || (!admitted && this.rules.rejectsWhenServed)) return this.endLate(waiter)
      this.leave(waiter, this.exceeded(request, rejecting))
      return true
    }
    if (!admitted) return this.endLate(waiter)
    this.grant(waiter, amounts)
    return true
  }

  /** Section 5: what was spent can leave a wait that only time can end, and not within the timeout. It is seen at its turn. */
  private endLate(waiter: Waiter): boolean {
    const { deadline, request } = waiter
    if (request.soft === true || deadline === Infinity || deadline <= this.now) return false
    if (!this.isHopeless(request, deadline - this.now)) return false
    this.timeOut(waiter)
    return true
  }

  /** Section 5: strictly the first, or the first that fits, which passes only those that do not, a bounded number of times. */
  private isInTurn(waiter: Waiter, account: Account): boolean {
    const queue = this.queueOf(account)
    const place = queue.indexOf(waiter)
    if (account.order === "fifo") return place === 0
    if (place >= FIRST_FIT_LOOKS_AT) return false
    return queue.slice(0, place).every((other) => {
      if (other.passed >= FIRST_FIT_PASSES) return false
      return !this.rules.waiterThatFitsIsNotPassed || !this.fits(other.request, this.whole(other.request))
    })
  }

  // ------------------------------------------------------------------------------------------------------------------ up to

  /** What it takes now, or `undefined`: the head waits for the whole as long as time brings it within its patience. */
  private upTo(waiter: Waiter): ReadonlyArray<number> | undefined {
    const { request } = waiter
    const whole = this.whole(request)
    if (this.fits(request, whole)) return whole
    if (waiter.firstSince === undefined) return undefined
    const waits: Array<number | undefined> = []
    const earning: Array<number> = []
    this.forEachLedger(request, (_, ledger, i) => {
      waits.push(this.timeUntil(ledger, whole[i]!))
      earning.push(earningMillis(ledger.limit, whole[i]!))
    })
    const patience = request.upTo!.patience ?? Math.max(...earning)
    const until = Math.min(waiter.firstSince + patience, waiter.deadline)
    const throttled = waiter.queues.length > 0
    if (throttled && waits.every((wait) => wait !== undefined && this.now + wait <= until)) return undefined
    if (!this.fits(request, least(request))) return undefined
    return this.share(request, (_, ledger) => Math.max(0, ledger.available))
  }

  /** What it wants, at most what can ever fit. */
  private whole(request: Request): ReadonlyArray<number> {
    if (request.upTo === undefined) return request.amounts
    return this.share(request, (i, ledger) => this.most(request, i, ledger))
  }

  private most(request: Request, i: number, ledger: Ledger): number {
    const { limit } = ledger
    if (limit._tag === "Capacity") return ledger.granted - this.own(request, i, ledger)
    if (limit._tag === "Window")
      return Math.max(limit.amount, ledger.available + ledger.held - this.own(request, i, ledger))
    return Limit.maximum(limit)
  }

  /** Section 2.11: one consistent fraction of the way from least to wanted, as much as there is room for, rounded down. */
  private share(request: Request, room: (i: number, ledger: Ledger) => number): ReadonlyArray<number> {
    const { amounts, round } = request
    const from = least(request)
    let [part, of] = [1n, 1n]
    this.forEachLedger(request, (_, ledger, i) => {
      const way = BigInt(amounts[i]! - from[i]!)
      const fits = BigInt(room(i, ledger)) - BigInt(from[i]!)
      if (way > 0n && fits * of < part * way) [part, of] = [fits < 0n ? 0n : fits, way]
    })
    const shared = from.map((least, i) => least + Number((BigInt(amounts[i]! - least) * part) / of))
    return round === undefined ? shared : round(shared)
  }
}

const least = (request: Request): ReadonlyArray<number> => request.upTo?.least ?? request.amounts

const sum = (amounts: ReadonlyArray<number>) => amounts.reduce((a, b) => a + b, 0)

/** How long a limit takes to earn this amount from nothing. */
const earningMillis = (limit: Limit.Limit, amount: number): number => {
  if (amount === 0) return 0
  if (limit._tag === "Window") return Duration.toMillis(limit.every)
  if (limit._tag !== "Rate") return 0
  return fillMillis(limit, amount)
}
