/**
 * Random programs over a few budgets, a policy, a pool and a guard, as plain data: so they can be printed, run again, and
 * shortened.
 */
import { Limit } from "../../src/index.ts"
import { MAX, type Rules, type Strategy } from "./model.ts"
import type { Random } from "../utils/random.ts"

/** The operations in the programs, what is compared after each, and the rules of the model. */
export interface Features extends Rules {
  readonly rates: boolean
  readonly intervals: boolean
  readonly windows: boolean
  readonly severalLimits: boolean
  readonly policies: boolean
  readonly pools: boolean
  readonly guards: boolean
  readonly mixedEnforcement: boolean
  readonly mixedOrders: boolean
  readonly firstFit: boolean
  readonly firstFitPolicies: boolean
  /** Many small requests that pass a large one. */
  readonly crowds: boolean
  readonly terminate: boolean
  readonly timeouts: boolean
  readonly maxQueued: boolean
  readonly priorities: boolean
  readonly extensions: boolean
  readonly transactions: boolean
  readonly upTo: boolean
  readonly upToThrottled: boolean
  readonly upToSeveral: boolean
  readonly topUps: boolean
  readonly windowTopUps: boolean
  readonly resets: boolean
  readonly setLimit: boolean
  readonly strategies: boolean
  /** From one of a capacity, a rate and a window to another of them. */
  readonly kinds: boolean
  readonly poolCharge: boolean
  readonly poolProgress: boolean
  readonly clockBack: boolean
  readonly huge: boolean
  /** Whether the epochs of windows are compared. */
  readonly windowEpochs: boolean
  /** Whether what a denial by timeout says is compared. */
  readonly timeoutReasons: boolean
}

export interface BudgetSetup {
  readonly name: string
  readonly limits: ReadonlyArray<Limit.Limit>
  readonly enforcement: "reject" | "throttle" | "terminate"
  readonly order: "fifo" | "firstFit"
  readonly maxQueued: number | undefined
  readonly timeout: number | undefined
}

export interface Setup {
  readonly budgets: ReadonlyArray<BudgetSetup>
  /** The budgets of the policy, by index, in its order. */
  readonly policy: ReadonlyArray<number> | undefined
  /** Its limits are the caps on input, output, total and cost. */
  readonly pool: BudgetSetup | undefined
  readonly guard: BudgetSetup | undefined
}

/** A budget by index, or one of the others. */
export type Target = number | "policy" | "pool" | "guard"

/** One number for a budget; for a policy, one for each member; for a pool: input, output, cost. */
export type Usage = ReadonlyArray<number>

export interface RequestStep {
  readonly _tag: "Request"
  readonly id: number
  readonly via: "reserve" | "withReservation" | "tryReserve" | "reserveUpTo" | "reserveTx"
  readonly target: Target
  readonly amounts: Usage
  readonly wanted?: Usage
  readonly priority?: number
  readonly timeout?: number
  readonly patience?: number
  readonly onSuccess?: "release"
}

export type Step =
  | RequestStep
  | { readonly _tag: "Extend"; readonly id: number; readonly of: number; readonly amounts: Usage }
  | { readonly _tag: "Commit"; readonly of: number; readonly amounts: Usage }
  | { readonly _tag: "Progress"; readonly of: number; readonly amounts: Usage }
  | { readonly _tag: "Release"; readonly of: number }
  | { readonly _tag: "End"; readonly of: number; readonly how: "succeeded" | "failed" | "interrupted" }
  | { readonly _tag: "StopWaiting"; readonly of: number }
  | { readonly _tag: "Take"; readonly id: number; readonly cost: number }
  | { readonly _tag: "Give"; readonly cost: number }
  | { readonly _tag: "Record"; readonly id: number; readonly amounts: Usage }
  | { readonly _tag: "Charge"; readonly amounts: Usage }
  | { readonly _tag: "TopUp"; readonly target: Target; readonly amount: number }
  | { readonly _tag: "Reset"; readonly target: Target }
  | {
      readonly _tag: "SetLimit"
      readonly target: Target
      readonly limits: ReadonlyArray<Limit.Limit>
      readonly strategy?: Strategy
    }
  | { readonly _tag: "Advance"; readonly millis: number }
  | { readonly _tag: "SetBack"; readonly millis: number }

/** What a generator looks at to choose a step that means something. */
export interface State {
  readonly now: number
  readonly open: ReadonlyArray<{ readonly id: number; readonly target: Target }>
  readonly waiting: ReadonlyArray<number>
  readonly settled: ReadonlyArray<{ readonly id: number; readonly target: Target }>
  readonly pairOut: number
  readonly limitsOf: (target: Target) => ReadonlyArray<Limit.Limit>
}

export class Generator {
  readonly setup: Setup
  private readonly random: Random
  private readonly on: Features
  private readonly huge: boolean
  private readonly crowd: boolean
  private readonly turnover: number
  private readonly targets: ReadonlyArray<Target>
  private ids = 0

  constructor(random: Random, features: Features) {
    this.random = random
    this.on = features
    this.huge = features.huge && random.chance(0.04)
    this.crowd = features.crowds && !this.huge && random.chance(0.02)
    this.turnover = random.pick([0.08, 0.42])
    this.setup = this.randomSetup()
    const { budgets, guard, policy, pool } = this.setup
    this.targets = [
      ...budgets.map((_, i) => i),
      ...(policy === undefined ? [] : (["policy", "policy"] as const)),
      ...(pool === undefined ? [] : (["pool"] as const)),
      ...(guard === undefined ? [] : (["guard"] as const))
    ]
  }

  private randomSetup(): Setup {
    const { on, random } = this
    if (this.crowd) {
      const limits = [Limit.concurrency(random.int(60, 90))]
      const crowded = { name: "b0", limits, enforcement: "throttle", order: "firstFit" } as const
      const budgets = [{ ...crowded, maxQueued: undefined, timeout: undefined }]
      return { budgets, policy: undefined, pool: undefined, guard: undefined }
    }
    const several = on.policies && random.chance(0.5)
    const common = random.chance(0.5) ? "throttle" : undefined
    const order = on.firstFit && random.chance(0.4) ? "firstFit" : "fifo"
    const enforcement = this.enforcement()
    const budgets = Array.from({ length: several ? random.int(2, 3) : 1 }, (_, i) =>
      this.randomBudget(`b${i}`, {
        ...(several && !on.mixedEnforcement ? { enforcement: common ?? enforcement } : {}),
        ...(several && !on.mixedOrders ? { order } : {}),
        ...(several && !on.firstFitPolicies ? { order: "fifo" } : {})
      })
    )
    return {
      budgets,
      policy: several ? random.shuffle(budgets.map((_, i) => i)).slice(0, random.int(2, budgets.length)) : undefined,
      pool: on.pools && random.chance(0.25) ? this.randomPool() : undefined,
      guard: on.guards && random.chance(0.3) ? this.randomBudget("guard") : undefined
    }
  }

  private enforcement(): BudgetSetup["enforcement"] {
    if (this.on.terminate && this.random.chance(0.08)) return "terminate"
    return this.random.chance(0.65) ? "throttle" : "reject"
  }

  private randomBudget(name: string, fixed: Partial<BudgetSetup> = {}): BudgetSetup {
    const { on, random } = this
    const count = on.severalLimits && random.chance(0.3) ? 2 : 1
    return {
      name,
      limits: Array.from({ length: count }, () => this.randomLimit()),
      enforcement: this.enforcement(),
      order: on.firstFit && random.chance(0.4) ? "firstFit" : "fifo",
      maxQueued: on.maxQueued && random.chance(0.2) ? random.int(0, 3) : undefined,
      timeout: on.timeouts && random.chance(0.25) ? random.int(0, 120) : undefined,
      ...fixed
    }
  }

  private randomPool(): BudgetSetup {
    const caps = Array.from({ length: 4 }, () =>
      this.random.chance(0.3) ? Limit.unlimited : Limit.capacity(this.size())
    )
    const order = this.on.firstFitPolicies ? {} : ({ order: "fifo" } as const)
    return { ...this.randomBudget("pool", order), limits: caps }
  }

  private randomLimit(): Limit.Limit {
    const { on, random } = this
    const kinds = [
      "capacity",
      "concurrency",
      "unlimited",
      ...(on.rates ? ["rate", "rate"] : []),
      ...(on.intervals ? ["interval"] : []),
      ...(on.windows ? ["window", "window"] : [])
    ]
    return this.limitOf(random.pick(kinds))
  }

  private limitOf(kind: string): Limit.Limit {
    const { random } = this
    switch (kind) {
      case "capacity":
        return Limit.capacity(this.size() * random.int(1, 3))
      case "concurrency":
        return Limit.concurrency(this.size())
      case "window":
        return Limit.window({ amount: this.size(), every: random.pick([7, 20, 50, 100, 350]) })
      case "rate":
      case "interval":
        return Limit.rate({
          amount: random.int(1, 20),
          per: random.pick([1, 3, 10, 40, 100, 270]),
          burst: Math.max(1, this.size()),
          ...(kind === "interval" ? { refill: "interval" } : {})
        })
      default:
        return Limit.unlimited
    }
  }

  private size(): number {
    if (this.huge) return Math.floor(MAX / this.random.pick([3, 4, 7])) - this.random.int(0, 3)
    return this.random.int(1, 25)
  }

  private amount(): number {
    const { random } = this
    if (this.huge && random.chance(0.7)) return Math.floor(MAX / random.int(4, 30)) - random.int(0, 3)
    if (random.chance(0.1)) return 0
    return random.chance(0.85) ? random.int(1, 9) : random.int(1, 24)
  }

  private usage(target: Target): Usage {
    const { policy } = this.setup
    const length = target === "policy" ? policy!.length : target === "pool" ? 3 : 1
    return Array.from({ length }, () => this.amount())
  }

  /** The same or more of each. */
  private more(usage: Usage): Usage {
    return usage.map((amount) => amount + (this.random.chance(0.2) ? 0 : this.amount()))
  }

  /** A random step, and in the end whatever gives back all that is held; `undefined` when there is nothing left to do. */
  next(state: State, steps: number): Step | undefined {
    if (steps < (this.crowd ? 220 : 55)) return this.any(state)
    if (state.waiting.length > 0) return { _tag: "StopWaiting", of: state.waiting[0]! }
    if (state.open.length > 0) return { _tag: "End", of: state.open[0]!.id, how: "interrupted" }
    return state.pairOut > 0 ? { _tag: "Give", cost: state.pairOut } : undefined
  }

  private any(state: State): Step {
    const { random } = this
    if (this.crowd) return this.nextOfCrowd(state)
    const dice = random.next()
    if (state.waiting.length > 0 && dice < 0.03) return { _tag: "StopWaiting", of: random.pick(state.waiting) }
    if (dice < 0.38) return this.request()
    if (dice < 0.62 && state.open.length > 0) return this.onReservation(random.pick(state.open))
    if (dice < 0.64 && state.settled.length > 0) return this.onReservation(random.pick(state.settled))
    if (dice < 0.85) return this.time(state)
    return this.others(state) ?? this.request()
  }

  private request(): RequestStep {
    const { on, random } = this
    const target = random.pick(this.targets)
    const via = random.pick([
      "reserve",
      "withReservation",
      ...(target === "guard" ? [] : (["tryReserve"] as const)),
      ...(this.canGoUpTo(target) ? (["reserveUpTo"] as const) : []),
      ...(on.transactions ? (["reserveTx"] as const) : [])
    ] as const)
    const amounts = this.usage(target)
    return {
      _tag: "Request",
      id: this.ids++,
      via,
      target,
      amounts,
      ...(via === "reserveUpTo" ? { wanted: this.more(amounts) } : {}),
      ...(via === "reserveUpTo" && random.chance(0.3) ? { patience: random.int(0, 60) } : {}),
      ...(on.priorities && random.chance(0.2) ? { priority: random.int(-1, 2) } : {}),
      ...(on.timeouts && random.chance(0.25) ? { timeout: random.int(0, 100) } : {}),
      ...(random.chance(0.15) ? { onSuccess: "release" } : {})
    }
  }

  private canGoUpTo(target: Target): boolean {
    const { on, setup } = this
    if (!on.upTo || ((target === "policy" || target === "pool") && !on.upToSeveral)) return false
    const of = (i: number) => setup.budgets[i]!
    const budgets =
      target === "policy" ? setup.policy!.map(of) : [typeof target === "number" ? of(target) : setup[target]!]
    // Where some throttle and some reject, the design does not say who decides how much it is.
    if (new Set(budgets.map(({ enforcement }) => enforcement === "throttle")).size > 1) return false
    return on.upToThrottled || budgets.every(({ enforcement }) => enforcement !== "throttle")
  }

  private onReservation({ id: of, target }: { readonly id: number; readonly target: Target }): Step {
    const { on, random } = this
    const dice = random.next()
    if (dice < 0.25) return { _tag: "Commit", of, amounts: this.usage(target) }
    if (dice < 0.4) return { _tag: "Release", of }
    if (dice < 0.55 && (target !== "pool" || on.poolProgress)) {
      return { _tag: "Progress", of, amounts: this.usage(target) }
    }
    if (dice < 0.75 && on.extensions) return { _tag: "Extend", id: this.ids++, of, amounts: this.usage(target) }
    return { _tag: "End", of, how: random.pick(["succeeded", "failed", "interrupted"] as const) }
  }

  private time(state: State): Step {
    const { on, random } = this
    // What a timer does that was set before the clock went back is not said.
    if (on.clockBack && state.waiting.length === 0 && random.chance(0.08))
      return { _tag: "SetBack", millis: random.int(1, random.pick([30, 1_000])) }
    return { _tag: "Advance", millis: random.int(1, random.pick([5, 30, 30, 150])) }
  }

  private others(state: State): Step | undefined {
    const { on, random, setup } = this
    const dice = random.next()
    if (setup.guard !== undefined && dice < 0.45) {
      const give = state.pairOut > 0 && random.chance(0.5)
      if (give) return { _tag: "Give", cost: random.int(0, state.pairOut + (random.chance(0.1) ? 1 : 0)) }
      return { _tag: "Take", id: this.ids++, cost: this.amount() }
    }
    if (setup.pool !== undefined && dice < 0.65) {
      if (on.poolCharge && random.chance(0.3)) return { _tag: "Charge", amounts: this.usage("pool") }
      return { _tag: "Record", id: this.ids++, amounts: this.usage("pool") }
    }
    const target = random.pick(this.targets.filter((target) => target !== "policy"))
    const change = random.next()
    if (on.topUps && change < 0.45 && target !== "pool") {
      const windows = state.limitsOf(target).some((limit) => limit._tag === "Window")
      if (on.windowTopUps || !windows) return { _tag: "TopUp", target, amount: this.amount() }
    }
    if (on.resets && change < 0.65) return { _tag: "Reset", target }
    if (!on.setLimit) return undefined
    const before = state.limitsOf(target)
    const limits = before.map((limit) =>
      target === "pool" ? this.limitOf(limit._tag.toLowerCase()) : this.changed(limit)
    )
    const strategy = target === "pool" || !on.strategies ? undefined : this.strategyFor(limits, before)
    return { _tag: "SetLimit", target, limits, ...(strategy === undefined ? {} : { strategy }) }
  }

  /** A slot in use cannot be kept at a level: what is free follows from the limit. */
  private strategyFor(limits: ReadonlyArray<Limit.Limit>, before: ReadonlyArray<Limit.Limit>): Strategy | undefined {
    if (limits.some(({ _tag }, i) => _tag !== before[i]!._tag)) return undefined
    const levels = limits.every((limit) => limit._tag !== "Concurrency" && limit._tag !== "Unlimited")
    return this.random.pick([undefined, "additive", "reset", ...(levels ? (["keepLevel"] as const) : [])])
  }

  /** Another limit, mostly of the same kind; of a window, with the same boundaries. */
  private changed(limit: Limit.Limit): Limit.Limit {
    const isOfThree = limit._tag === "Capacity" || limit._tag === "Rate" || limit._tag === "Window"
    if (this.on.kinds && isOfThree && this.random.chance(0.2)) {
      const other = this.limitOf(this.random.pick(["capacity", "rate", "interval", "window"]))
      if (other._tag !== limit._tag) return other
    }
    if (limit._tag === "Window") return { ...limit, amount: this.size() }
    if (limit._tag !== "Rate") return this.limitOf(limit._tag.toLowerCase())
    if (limit.refill !== "interval") return this.limitOf("rate")
    return Limit.rate({ ...limit, amount: this.random.int(1, 20), burst: this.size() })
  }

  private nextOfCrowd(state: State): Step {
    const { random } = this
    if (this.ids === 0) return { _tag: "Request", id: this.ids++, via: "reserve", target: 0, amounts: [40] }
    if (this.ids === 1) return { _tag: "Request", id: this.ids++, via: "reserve", target: 0, amounts: [59] }
    // Where many end, small ones pass the large one again and again; where few do, the queue becomes long.
    const others = state.open.filter(({ id }) => id > 1 || random.chance(0.05))
    if (others.length > 10 && random.chance(this.turnover)) {
      return { _tag: "End", of: random.pick(others).id, how: "succeeded" }
    }
    const amounts = [random.chance(0.97) ? random.int(1, 2) : random.int(20, 60)]
    const via = random.chance(0.9) ? "reserve" : "tryReserve"
    const request = { _tag: "Request", id: this.ids++, via, target: 0, amounts } as const
    return random.chance(0.05) ? { ...request, priority: random.int(-1, 1) } : request
  }
}
