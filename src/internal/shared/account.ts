/** What a process keeps of a shared budget, and of its own holds. */
import type * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import type * as Store from "../../BudgetStore.ts"
import type { Limit } from "../../Limit.ts"
import { WaitQueue } from "../waitQueue.ts"
import type { Waiter } from "./waiting.ts"

export class SharedAccount implements Store.Account {
  readonly name: string
  readonly definition: Store.Definition
  readonly queue = new WaitQueue<Waiter>()
  /** Those who are told of a change. */
  readonly listeners = new Set<Signal>()
  /** Whether the books were told what is declared here. */
  opened = false
  /** How often who waits was told to ask again. */
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
}

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
  /** What is to be given back beside. */
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
