/**
 * Who waits at one budget, in the order of their turn: priority (higher first), then ticket (lower first). Adding at the end,
 * removing anyone and reading the first are all O(1) in the number of waiters (and linear in the number of priorities in use).
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
  add(waiter: W): Place<W> {
    const level = this.levelOf(waiter.priority)
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
    if (level.first === undefined) this.levels.splice(this.levels.indexOf(level), 1)
    this.size--
  }

  get first(): Place<W> | undefined {
    return this.levels[0]?.first
  }

  after(place: Place<W>): Place<W> | undefined {
    return place.next ?? this.levels[this.levels.indexOf(place.level) + 1]?.first
  }

  private levelOf(priority: number): Level<W> {
    let i = 0
    for (; i < this.levels.length; i++) {
      const level = this.levels[i]!
      if (level.priority === priority) return level
      if (level.priority < priority) break
    }
    const level: Level<W> = { priority, first: undefined, last: undefined }
    this.levels.splice(i, 0, level)
    return level
  }
}
