/**
 * Who waits for a named quota, in the order of fair shares. Those of one share stand in a line of their own, so that a choice
 * costs as much as there are lines.
 *
 * Each line sends first who has the highest credit for its amount: the smallest while there is credit, the largest below zero,
 * the eldest at zero. Among the lines, the highest credit for the amount goes first, ties by ticket.
 *
 * Three bounds hold whatever the credits are, which stand at their most when less is granted than all earn, and sink together
 * when more is. Within a line, nobody is passed more than 64 times by who came later. A line that has been passed 64 times for
 * each other line there is goes first, the longest passed before the others; so with `n` lines it is served at the latest after
 * 65 * (n - 1) others. Else, if whose turn it is by the credits is ahead of others by more than 8 of their requests, of what each
 * was served for its expected use, the one furthest behind goes: so the lines share what there is as their expected uses are to
 * each other.
 */
import { type Place, type Ranked, WaitQueue } from "../waitQueue.ts"
import { Heap } from "./heap.ts"
import { compare, Share, weight } from "./share.ts"

const MAX_PASSED = 64
const MAX_BEHIND = 8

export interface Fair extends Ranked {
  readonly amount: number
  readonly share: Share | undefined
  /** How often it was passed by who came later, more than the next of its line was. */
  overtaken: number
}

class Line<W extends Fair> {
  readonly share: Share
  readonly byTicket = new WaitQueue<W>()
  readonly smallest = new Heap<W>((one, other) => earlier(one, other, one.amount - other.amount))
  readonly largest = new Heap<W>((one, other) => earlier(one, other, other.amount - one.amount))
  readonly places = new Map<W, Place<W>>()
  /** How often the eldest was passed: the sum of what all were passed more than the next. */
  passed = 0
  /** How many had been served in all when this line was last. */
  servedAt: number
  declare next: W
  credit = 0

  constructor(share: Share, served: number) {
    this.share = share
    this.servedAt = served
  }

  add(waiter: W): void {
    this.places.set(waiter, this.byTicket.add(waiter, 0))
    this.smallest.add(waiter)
    this.largest.add(waiter)
  }

  remove(waiter: W): void {
    const place = this.places.get(waiter)!
    if (place.previous === undefined) this.passed -= waiter.overtaken
    else place.previous.waiter.overtaken += waiter.overtaken
    waiter.overtaken = 0
    this.places.delete(waiter)
    this.byTicket.remove(place)
    this.smallest.remove(waiter)
    this.largest.remove(waiter)
  }

  get eldest(): W {
    return this.byTicket.first!.waiter
  }

  /** All who came before have been passed once more. */
  serve(waiter: W): void {
    const before = this.places.get(waiter)!.previous
    if (before === undefined) return
    before.waiter.overtaken++
    this.passed++
  }

  waitsLongerThan(other: Line<W>): boolean {
    return this.servedAt === other.servedAt ? this.eldest.ticket < other.eldest.ticket : this.servedAt < other.servedAt
  }

  /** By the credit for the amount, ties by ticket. */
  goesBefore(other: Line<W>): boolean {
    const order = compare(this.credit, this.next.amount, other.credit, other.next.amount)
    return order === 0 ? this.next.ticket < other.next.ticket : order > 0
  }

  /** Whom it sends next, by its credit now. */
  consider(now: number): void {
    this.credit = this.share.creditAt(now)
    this.next =
      this.credit === 0 || this.passed >= MAX_PASSED
        ? this.eldest
        : (this.credit > 0 ? this.smallest : this.largest).first!
  }
}

export class FairQueue<W extends Fair> extends WaitQueue<W> {
  /** Who was chosen last, while it waits. */
  chosen: W | undefined = undefined
  private readonly lines = new Map<Share, Line<W>>()
  private served = 0
  /** What every line that waited was served for its expected use: who comes back does not make up for its absence. */
  turn = 0
  /** Of requests without a token. */
  private readonly nobody = new Share(0, 0)

  override add(waiter: W): Place<W> {
    if (!ahead(waiter)) {
      const share = waiter.share ?? this.nobody
      let line = this.lines.get(share)
      if (line === undefined) {
        this.lines.set(share, (line = new Line(share, this.served)))
        share.turn = Math.max(share.turn, this.turn)
      }
      line.add(waiter)
    }
    return super.add(waiter)
  }

  override remove(place: Place<W>): void {
    super.remove(place)
    const { waiter } = place
    if (this.chosen === waiter) this.chosen = undefined
    if (ahead(waiter)) return
    const line = this.lineOf(waiter)
    line.remove(waiter)
    if (line.byTicket.size === 0) this.lines.delete(line.share)
  }

  /** Those who wait for a share. */
  of(share: Share): ReadonlyArray<W> {
    const waiters = [...(this.lines.get(share)?.byTicket ?? [])]
    for (const waiter of this) {
      if (!ahead(waiter)) break
      if (waiter.share === share) waiters.push(waiter)
    }
    return waiters
  }

  /** Whose turn it is now. */
  choose(now: number): W | undefined {
    const first = this.first?.waiter
    if (first === undefined || ahead(first)) return (this.chosen = first)
    const passedFrom = this.served - MAX_PASSED * (this.lines.size - 1)
    let longest: Line<W> | undefined
    let best: Line<W> | undefined
    for (const line of this.lines.values()) {
      line.consider(now)
      if (line.servedAt <= passedFrom && (longest === undefined || line.waitsLongerThan(longest))) longest = line
      if (best === undefined || line.goesBefore(best)) best = line
    }
    return (this.chosen = (longest ?? this.behind(best!)).next)
  }

  /** Expects a waiter of this queue, before it leaves. An extension passes nobody. */
  serve(waiter: W): void {
    if (ahead(waiter)) return
    let least = Infinity
    for (const { share } of this.lines.values()) least = Math.min(least, share.turn)
    this.turn = Math.max(this.turn, least)
    const line = this.lineOf(waiter)
    line.serve(waiter)
    line.servedAt = ++this.served
    line.share.turn += waiter.amount / weight(line.share)
  }

  /** The line that is furthest behind this one, if any is too far. */
  private behind(line: Line<W>): Line<W> {
    let furthest = line
    let most = MAX_BEHIND
    for (const other of this.lines.values()) {
      const requests = ((line.share.turn - other.share.turn) * weight(other.share)) / other.next.amount
      if (requests <= most) continue
      most = requests
      furthest = other
    }
    return furthest
  }

  private lineOf(waiter: W): Line<W> {
    return this.lines.get(waiter.share ?? this.nobody)!
  }
}

/** By an order, ties by ticket. */
const earlier = (one: Ranked, other: Ranked, order: number): boolean =>
  order === 0 ? one.ticket < other.ticket : order < 0

/** An extension goes before all who hold nothing. */
const ahead = (waiter: Ranked): boolean => waiter.priority === Infinity
