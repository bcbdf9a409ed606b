/**
 * Who waits at one budget, in the order of their turn: priority (higher first), then ticket (lower first). Adding at the end,
 * removing anyone and reading the first are all O(1) in the number of waiters. A priority is found in O(log n) of those in use; only
 * the first and the last of a priority move the others.
 */
export interface Ranked {
  readonly priority: number
  readonly ticket: number
}

export interface Place<W extends Ranked> {
  readonly waiter: W
  readonly level: Level<W>
  previous: Place<W> | undefined
  next: Place<W> | undefined
}

interface Level<W extends Ranked> {
  readonly priority: number
  first: Place<W> | undefined
  last: Place<W> | undefined
}

export class WaitQueue<W extends Ranked> {
  size = 0
  private readonly levels: Array<Level<W>> = []

  /** A waiter that comes back keeps its ticket, and with it its turn. */
  add(waiter: W, priority = waiter.priority): Place<W> {
    const level = this.levelOf(priority)
    let previous = level.last
    while (previous !== undefined && previous.waiter.ticket > waiter.ticket) previous = previous.previous
    const next = previous === undefined ? level.first : previous.next
    const place: Place<W> = { waiter, level, previous, next }
    if (previous === undefined) level.first = place
    else previous.next = place
    if (next === undefined) level.last = place
    else next.previous = place
    this.size++
    return place
  }

  /** Expects a place that is in this queue. */
  remove(place: Place<W>): void {
    const { level, next, previous } = place
    if (previous === undefined) level.first = next
    else previous.next = next
    if (next === undefined) level.last = previous
    else next.previous = previous
    if (level.first === undefined) this.levels.splice(this.indexOf(level.priority), 1)
    this.size--
  }

  get first(): Place<W> | undefined {
    return this.levels[0]?.first
  }

  after(place: Place<W>): Place<W> | undefined {
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

  /** Where the level of this priority is, or would be. */
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
