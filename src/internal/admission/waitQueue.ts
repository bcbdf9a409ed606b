/**
 * The queues of budgets: priority (higher first), then ticket (lower first). Adding at the end, removing anyone and reading the
 * first are all O(1) in the number of waiters. A priority is found in O(log n) of those in use; only the first and the last of a
 * priority move the others.
 */
import type { Order, Place, Queue, Queued } from "../../BudgetStore.ts"

/** The order of a waiter. */
export interface Ranked {
  readonly priority: number
  readonly ticket: number
}

export interface Linked<W extends Ranked> extends Place<W> {
  readonly level: Level<W>
  previous: Linked<W> | undefined
  next: Linked<W> | undefined
}

interface Level<W extends Ranked> {
  readonly priority: number
  first: Linked<W> | undefined
  last: Linked<W> | undefined
}

/** Waiters in order. The subclasses choose the one to serve. */
export class WaitQueue<W extends Ranked> {
  size = 0
  private readonly levels: Array<Level<W>> = []

  /** A waiter that comes back keeps its ticket, and with it its place. */
  add(waiter: W, priority = waiter.priority): Linked<W> {
    const level = this.levelOf(priority)
    let previous = level.last
    while (previous !== undefined && previous.waiter.ticket > waiter.ticket) previous = previous.previous
    const next = previous === undefined ? level.first : previous.next
    const place: Linked<W> = { waiter, level, previous, next }
    if (previous === undefined) level.first = place
    else previous.next = place
    if (next === undefined) level.last = place
    else next.previous = place
    this.size++
    return place
  }

  /** Expects a place that is in this queue. */
  remove(place: Linked<W>): void {
    const { level, next, previous } = place
    if (previous === undefined) level.first = next
    else previous.next = next
    if (next === undefined) level.last = previous
    else next.previous = previous
    if (level.first === undefined) this.levels.splice(this.indexOf(level.priority), 1)
    this.size--
  }

  get first(): Linked<W> | undefined {
    return this.levels[0]?.first
  }

  after(place: Linked<W>): Linked<W> | undefined {
    return place.next ?? this.levels[this.indexOf(place.level.priority) + 1]?.first
  }

  *[Symbol.iterator](): Iterator<W> {
    for (let place = this.first; place !== undefined; place = this.after(place)) yield place.waiter
  }

  private levelOf(priority: number): Level<W> {
    const i = this.indexOf(priority)
    const found = this.levels[i]
    if (found?.priority === priority) return found
    const level: Level<W> = { priority, first: undefined, last: undefined }
    this.levels.splice(i, 0, level)
    return level
  }

  /** The index of the level of this priority, or the index at which to insert it. */
  private indexOf(priority: number): number {
    let from = 0
    let to = this.levels.length
    while (from < to) {
      const middle = (from + to) >> 1
      if (this.levels[middle]!.priority > priority) from = middle + 1
      else to = middle
    }
    return from
  }
}

/** Serves strictly in order. */
class Fifo<W extends Queued> extends WaitQueue<W> implements Queue<W> {
  get strict(): boolean {
    return true
  }

  candidate(_previous: Linked<W> | undefined, seen: number): Linked<W> | undefined {
    return seen === 0 ? this.first : undefined
  }

  serve(): void {}
}

// The number of waiters that `firstFit` looks at, and how often it may pass the same waiter.
const LOOK_AHEAD = 64
const MAX_OVERTAKEN = 64

/** Serves the first that fits, within bounds. */
class FirstFit<W extends Queued> extends WaitQueue<W> implements Queue<W> {
  get strict(): boolean {
    return false
  }

  candidate(previous: Linked<W> | undefined, seen: number): Linked<W> | undefined {
    if (previous === undefined) return this.first
    return seen < LOOK_AHEAD && previous.waiter.overtaken < MAX_OVERTAKEN ? this.after(previous) : undefined
  }

  serve(place: Linked<W>): void {
    const { ticket } = place.waiter
    for (let ahead = this.first!; ahead !== place; ahead = this.after(ahead)!) {
      if (ahead.waiter.passedBy === ticket) continue
      ahead.waiter.passedBy = ticket
      ahead.waiter.overtaken++
    }
  }
}

export const queueOf = <W extends Queued>(order: Order): Queue<W> =>
  order === "fifo" ? new Fifo<W>() : new FirstFit<W>()
