/**
 * Wake-ups that a step owes to others. They are collected, and scheduled when the step is done: a scheduler may run another fiber
 * from within `scheduleTask`, and nothing may be half done then.
 */
import type * as Fiber from "effect/Fiber"

let owed: Array<() => void> = []

export const owe = (task: () => void): void => {
  owed.push(task)
}

/** Owes all tasks of a collection, and empties it. */
export const oweAll = (tasks: { readonly values: () => Iterable<() => void>; readonly clear: () => void }): void => {
  for (const task of tasks.values()) owed.push(task)
  tasks.clear()
}

/** Schedules what is owed. The last act of every step that changes books or queues. */
export const flush = (fiber: Fiber.Fiber<unknown, unknown>): void => {
  if (owed.length === 0) return
  const tasks = owed
  owed = []
  for (const task of tasks) fiber.currentDispatcher.scheduleTask(task, 0)
}
