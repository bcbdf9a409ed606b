/** Runs the steps of a program on the model: how faces lay their amounts out over accounts, and what the end of a scope charges. */
import { Limit } from "../../src/index.ts"
import { type Account, type Cause, type Hold, MAX, type Outcome, Undefined } from "./model.ts"
import { type Answer, Model } from "./modelQueue.ts"
import type { BudgetSetup, Features, RequestStep, Setup, State, Step, Target, Usage } from "./programs.ts"

/** How the amounts of a face are laid out over its accounts. */
export interface Layout {
  readonly accounts: ReadonlyArray<Account>
  readonly encode: (usage: Usage, more?: "more") => ReadonlyArray<number>
  readonly decode: (amounts: ReadonlyArray<number>) => Usage
}

export interface Settlement {
  readonly cause: Cause
  readonly held: Usage
  readonly charged: Usage
  readonly refunded: Usage
  readonly overage: Usage
  readonly overran: ReadonlyArray<string>
}

interface Reservation {
  readonly step: RequestStep
  readonly layout: Layout
  readonly hold: Hold
  usage: Usage
  progress: Usage | undefined
  ended: boolean
}

/** What a step answered by itself; `undefined` when it has nothing to do, because an earlier step was left out. */
export type Result = "done" | "died" | Settlement | undefined

export const POOL = ["input", "output", "total", "cost", "calls"] as const

const most = (one: Usage, other: Usage | undefined): Usage =>
  other === undefined ? one : one.map((amount, i) => Math.max(amount, other[i]!))

const saturated = (amount: number) => Math.min(MAX, amount)

export class ModelRun {
  readonly model: Model
  readonly layouts = new Map<Target, Layout>()
  readonly reservations = new Map<number, Reservation>()
  /** Requests and extensions without an answer yet. */
  readonly pending = new Map<
    number,
    { readonly layout: Layout; readonly step: RequestStep | undefined; readonly of: number }
  >()
  private readonly pair: Hold | undefined

  constructor({ budgets, guard, policy, pool }: Setup, features: Features, now: number) {
    this.model = new Model(features)
    this.model.now = now
    const accounts = budgets.map((budget) => this.model.open(budget, budget.limits))
    accounts.forEach((account, i) => this.layouts.set(i, single(account)))
    if (policy !== undefined) {
      this.layouts.set("policy", {
        accounts: policy.map((i) => accounts[i]!),
        encode: (usage) => usage,
        decode: (amounts) => amounts
      })
    }
    if (pool !== undefined) this.layouts.set("pool", this.openPool(pool))
    if (guard !== undefined) {
      const account = this.model.open(guard, guard.limits)
      this.layouts.set("guard", single(account))
      this.pair = this.model.openPair(account)
    }
  }

  private openPool(pool: BudgetSetup): Layout {
    const limits = [...pool.limits, Limit.unlimited]
    const accounts = POOL.map((kind, i) => this.model.open({ ...pool, name: `pool/${kind}` }, [limits[i]!]))
    return {
      accounts,
      encode: ([input, output, cost], more) => [
        input!,
        output!,
        saturated(input! + output!),
        cost!,
        more === undefined ? 1 : 0
      ],
      decode: ([input, output, , cost]) => [input!, output!, cost!]
    }
  }

  get state(): State {
    const reservations = [...this.reservations].map(([id, reservation]) => ({ id, reservation }))
    const of = (settled: boolean) =>
      reservations
        .filter(({ reservation }) => (reservation.hold.outcome !== undefined) === settled)
        .map(({ id, reservation }) => ({ id, target: reservation.step.target }))
    return {
      now: this.model.now,
      open: of(false),
      settled: of(true),
      waiting: [...this.pending.keys()],
      pairOut: this.pair?.amounts[0] ?? 0,
      limitsOf: (target) =>
        target === "pool"
          ? this.layouts
              .get("pool")!
              .accounts.slice(0, 4)
              .map(({ ledgers }) => ledgers[0]!.limit)
          : this.layouts.get(target)!.accounts.flatMap(({ ledgers }) => ledgers.map(({ limit }) => limit))
    }
  }

  /** Throws `Undefined` when the design does not say what the step does. */
  run(step: Step): { readonly result: Result; readonly answers: ReadonlyArray<readonly [number, Answer]> } {
    this.model.answers = []
    const result = this.apply(step)
    this.model.look()
    for (const [id, answer] of this.model.answers) this.note(id, answer)
    this.check()
    return { result, answers: this.model.answers }
  }

  private note(id: number, answer: Answer): void {
    const asked = this.pending.get(id)
    this.pending.delete(id)
    if (asked === undefined || answer._tag !== "Granted") return
    const usage = asked.layout.decode(answer.amounts)
    if (asked.step === undefined) {
      const extended = this.reservations.get(asked.of)!
      extended.usage = extended.usage.map((amount, i) => amount + usage[i]!)
    } else {
      const { hold } = answer
      const { layout, step } = asked
      this.reservations.set(id, { step, layout, hold, usage, progress: undefined, ended: false })
    }
  }

  /** Amounts that the books cannot count are left to other tests. */
  private check(): void {
    const counted = this.model.accounts.flatMap(({ charged, ledgers, overage, settled }) => [
      charged,
      overage,
      ...Object.values(settled).map(({ refunded }) => refunded),
      ...ledgers.flatMap(({ available, granted, held, limit, spent }) => [
        granted,
        held,
        spent,
        limit._tag === "Unlimited" ? available : Math.abs(available)
      ])
    ])
    if (counted.some((amount) => amount < 0 || amount > MAX)) throw new Undefined("beyond what books can count")
    // Section 2.1, of the model itself.
    for (const { available, granted, held, spent } of this.model.accounts.flatMap(({ ledgers }) => ledgers)) {
      if (available + held + spent !== granted || held < 0) throw new Error("the books of the model do not balance")
    }
  }

  private apply(step: Step): Result {
    const { model } = this
    switch (step._tag) {
      case "Request":
        return this.request(step)
      case "Extend":
        return this.extend(step.id, step.of, step.amounts)
      case "Commit":
      case "Progress":
      case "Release":
      case "End":
        return this.onReservation(step)
      case "StopWaiting":
        if (!this.pending.delete(step.of)) return undefined
        model.interrupt(step.of)
        return "done"
      case "Take":
        if (this.pair === undefined) return undefined
        model.request({ ...single(this.pair.accounts[0]!), ...once(step.id, [step.cost]), soft: true, pair: this.pair })
        return "done"
      case "Give":
        return this.pair === undefined ? undefined : model.give(this.pair, step.cost) ? "done" : "died"
      case "Record":
        model.record({ ...this.layouts.get("pool")!, ...once(step.id, this.encode("pool", step.amounts)) })
        return "done"
      case "Charge":
        model.chargeAnyway(this.layouts.get("pool")!.accounts, this.layouts.get("pool")!.encode(step.amounts))
        return "done"
      case "TopUp":
        model.topUp(this.layouts.get(step.target)!.accounts[0]!, step.amount)
        return "done"
      case "Reset":
        model.reset(this.layouts.get(step.target)!.accounts)
        return "done"
      case "SetLimit":
        model.setLimit(this.changes(step.target, step.limits), step.strategy)
        return "done"
      case "Advance":
        model.advance(step.millis)
        return "done"
      case "SetBack":
        model.setBack(Math.max(0, model.now - step.millis))
        return "done"
    }
  }

  private changes(target: Target, limits: ReadonlyArray<Limit.Limit>) {
    const { accounts } = this.layouts.get(target)!
    return target === "pool"
      ? accounts.map((account, i) => [account, [limits[i] ?? Limit.unlimited]] as const)
      : [[accounts[0]!, limits] as const]
  }

  /** A request of more than the books can count is a programming error, which other tests are about. */
  private encode(target: Target, usage: Usage, more?: "more"): ReadonlyArray<number> {
    if (usage.reduce((sum, amount) => sum + amount, 0) > MAX) throw new Undefined("a request beyond 2^53 - 1")
    return this.layouts.get(target)!.encode(usage, more)
  }

  private request(step: RequestStep): Result {
    const { id, target } = step
    const layout = this.layouts.get(target)!
    const amounts = this.encode(target, step.amounts)
    this.pending.set(id, { layout, step, of: id })
    this.model.request({
      ...once(id, step.wanted === undefined ? amounts : this.encode(target, step.wanted)),
      accounts: layout.accounts,
      priority: step.priority ?? 0,
      timeout: step.timeout,
      soft: step.via === "tryReserve",
      tx: step.via === "reserveTx",
      upTo: step.wanted === undefined ? undefined : { least: amounts, patience: step.patience },
      round: (amounts) => layout.encode(layout.decode(amounts))
    })
    return "done"
  }

  private extend(id: number, of: number, usage: Usage): Result {
    const reservation = this.reservations.get(of)
    if (reservation === undefined) return undefined
    const { hold, layout, step } = reservation
    const amounts = this.encode(step.target, usage, "more")
    this.pending.set(id, { layout, step: undefined, of })
    this.model.request({ ...once(id, amounts), accounts: layout.accounts, timeout: step.timeout, extend: hold })
    return "done"
  }

  private onReservation(step: Step & { readonly _tag: "Commit" | "Progress" | "Release" | "End" }): Result {
    const reservation = this.reservations.get(step.of)
    if (reservation === undefined) return undefined
    const { hold, layout } = reservation
    const nothing = hold.amounts.map(() => 0)
    switch (step._tag) {
      case "Commit":
        return this.settlement(layout, this.model.settle(hold, "committed", layout.encode(step.amounts)))
      case "Release":
        return this.settlement(layout, this.model.settle(hold, "released", nothing))
      case "Progress":
        // Section 4: how much is known to be spent so far; it never goes down.
        if (hold.outcome === undefined) reservation.progress = most(step.amounts, reservation.progress)
        return "done"
      case "End":
        if (reservation.ended) return undefined
        reservation.ended = true
        return this.settlement(layout, this.model.settle(hold, step.how, this.chargeAtEnd(reservation, step.how)))
    }
  }

  /** Section 4: success charges the hold, failure or interruption charges the progress so far. */
  private chargeAtEnd({ hold, layout, progress, step, usage }: Reservation, how: Cause): ReadonlyArray<number> {
    if (how === "succeeded" && step.onSuccess !== "release") {
      return progress === undefined ? hold.amounts.slice() : layout.encode(most(usage, progress))
    }
    return progress === undefined ? hold.amounts.map(() => 0) : layout.encode(progress)
  }

  private settlement({ decode }: Layout, { cause, charges, held, overran }: Outcome): Settlement {
    return {
      cause,
      held: decode(held),
      charged: decode(charges),
      refunded: decode(held.map((amount, i) => Math.max(0, amount - charges[i]!))),
      overage: decode(held.map((amount, i) => Math.max(0, charges[i]! - amount))),
      overran
    }
  }
}

const single = (account: Account): Layout => ({
  accounts: [account],
  encode: (usage) => usage,
  decode: (amounts) => amounts
})

const once = (id: number, amounts: ReadonlyArray<number>) => ({ id, amounts, priority: 0, timeout: undefined })
