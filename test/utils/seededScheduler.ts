/** A scheduler that picks the next task at random, by a seed, and lets fibers yield at random points. */
import type { Scheduler } from "effect"
import type { Random } from "./random.ts"

export class SeededScheduler implements Scheduler.Scheduler {
  readonly executionMode = "async"
  readonly random: Random
  private readonly tasks: Array<() => void> = []

  constructor(random: Random) {
    this.random = random
  }

  shouldYield(): boolean {
    return this.random.chance(0.05)
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return {
      scheduleTask: (task) => {
        this.tasks.push(task)
      },
      flush: () => {
        while (this.step());
      }
    }
  }

  /** Runs one of the tasks; `false` when there is none. */
  step(): boolean {
    if (this.tasks.length === 0) return false
    const i = this.random.int(0, this.tasks.length - 1)
    const task = this.tasks[i]!
    this.tasks[i] = this.tasks[this.tasks.length - 1]!
    this.tasks.pop()
    task()
    return true
  }
}
