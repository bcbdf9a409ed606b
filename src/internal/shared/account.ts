/** What a process keeps of a shared budget, and of its own holds. */
import type * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import type * as Store from "../../BudgetStore.ts"
import type { Limit } from "../../Limit.ts"
import { type Declared, type DeclaredRequest, throttles } from "../admission/denial.ts"
import { type Linked, type Ranked, WaitQueue } from "../admission/waitQueue.ts"
import { priorityOf } from "../admission/waiter.ts"

export class SharedAccount implements Declared {
  readonly name: string
  definition: Store.Definition
  /** All accounts of this budget in its store, once it is open. */
  books: object = new Set([this])
  readonly queue = new WaitQueue<Waiter>()
  /** Raised at every change. */
  readonly listeners = new Set<Signal>()
  /** Whether the books have the limits that are declared here. */
  opened = false
  /** Number of wake-ups so far. */
  wakes = 0
  /** Whether what is settled comes back whole. */
  comesBack = false

  constructor(definition: Store.Definition) {
    this.name = definition.name
    this.definition = definition
    this.learn(definition.limits)
  }

  /** The limits as they are now, as far as this process knows. */
  learn(limits: ReadonlyArray<Limit>): void {
    this.comesBack = limits.every(({ _tag }) => _tag === "Concurrency")
  }

  /** After a change of the books. */
  follow(change: Store.Adjustment): void {
    if (change._tag !== "SetLimit") return
    this.learn(change.limits)
    if (change.enforcement !== undefined) this.definition = { ...this.definition, enforcement: change.enforcement }
  }
}

export type SharedRequest = DeclaredRequest<SharedAccount>

export class Waiter implements Ranked {
  readonly priority: number
  readonly ticket = tickets++
  readonly signal = new Signal()
  readonly accounts: ReadonlyArray<SharedAccount>
  places: ReadonlyArray<Linked<Waiter>> = []

  constructor(request: SharedRequest) {
    this.priority = priorityOf(request)
    this.accounts = request.accounts.filter((_, i) => throttles(request, i))
  }

  get isFirst(): boolean {
    return this.places.every((place, i) => this.accounts[i]!.queue.first === place)
  }
}

let tickets = 0

export class SharedHold implements Store.Hold {
  readonly id: string
  readonly accounts: ReadonlyArray<SharedAccount>
  readonly held: Array<number>
  readonly onExpiry: "progress" | "hold"
  /** What of it was granted while the store was away, which does not know of that. */
  readonly beyond: Array<number>
  /** Whether the store knows of the rest. */
  known: boolean
  outcome: Store.Outcome | undefined = undefined
  expired: true | undefined = undefined
  settling: Deferred.Deferred<Store.Outcome> | undefined = undefined
  progress: ReadonlyArray<number> | undefined = undefined
  /** Steps are sent one after the other: the books take them in order. */
  readonly turn = Semaphore.makeUnsafe(1)
  step = 0
  /** A step whose answer was lost. It is sent again before any other. */
  unanswered: Unanswered | undefined = undefined
  /** Refund still to be sent with the next step. */
  owed: ReadonlyArray<number> | undefined = undefined

  constructor(
    id: string,
    accounts: ReadonlyArray<SharedAccount>,
    amounts: ReadonlyArray<number>,
    onExpiry: "progress" | "hold",
    known: boolean
  ) {
    this.id = id
    this.accounts = accounts
    this.held = [...amounts]
    this.onExpiry = onExpiry
    this.beyond = amounts.map(() => 0)
    this.known = known
  }

  get _tag(): "Hold" {
    return "Hold"
  }
}

export interface Unanswered {
  readonly _tag: "Extension" | "Reduction"
  readonly step: number
  readonly amounts: ReadonlyArray<number>
}

/** Wakes one fiber, also when it is raised before the fiber waits. */
export class Signal {
  private raised = false
  private resume: (() => void) | undefined = undefined

  raise(): void {
    this.raised = true
    this.resume?.()
  }

  readonly wait: Effect.Effect<void> = Effect.callback<void>((resume) => {
    const done = () => {
      this.raised = false
      this.resume = undefined
      resume(Effect.void)
    }
    if (this.raised) return done()
    this.resume = done
    return Effect.sync(() => {
      this.resume = undefined
    })
  })
}
