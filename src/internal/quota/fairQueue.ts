/**
 * The queue of a named quota, in the order of fair shares. The waiters of each share form a line, so that the cost of a choice
 * grows with the number of lines.
 *
 * The next of a line is the waiter with the highest credit relative to its amount: the smallest amount if the credit is above
 * zero, the largest if it is below, the eldest waiter at zero. Among the lines, the highest credit relative to the amount goes
 * first, and equal credits go by ticket.
 *
 * Credits alone do not bound overtaking: they all reach their maximum when less is granted than is earned, and sink together when
 * more is granted. Three rules bound it. Within a line, nobody is passed more than 64 times by later waiters. A line that has
 * been passed 64 times for each other line goes first, the longest passed before the others; so with `n` lines it is served after
 * at most 65 * (n - 1) others. Otherwise, if the grants of the chosen line relative to its expected use are ahead of other lines
 * by more than 8 of their requests, the line that is furthest behind goes instead. So the lines share the resource in proportion
 * to their expected uses.
 */
import type { Queue, Queued } from "../../BudgetStore.ts"
import { type Linked, type Ranked, WaitQueue } from "../admission/waitQueue.ts"
import { Heap } from "./heap.ts"
import { compare, Share, weight } from "./share.ts"

const MAX_PASSED = 64
const MAX_BEHIND = 8

class Line<W extends Queued> {
  readonly share: Share
  readonly byTicket = new WaitQueue<W>()
  readonly smallest = new Heap<W>((one, other) => earlier(one, other, one.amount - other.amount))
  readonly largest = new Heap<W>((one, other) => earlier(one, other, other.amount - one.amount))
  readonly places = new Map<W, Linked<W>>()
  /** How often the eldest was passed. The `overtaken` of a waiter is only how much more often it was passed than the next one. */
  passed = 0
  /** The number served by the whole queue when this line was served last. */
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

  /** Counts that all earlier waiters of the line were passed once more. */
  serve(waiter: W): void {
    const before = this.places.get(waiter)!.previous
    if (before === undefined) return
    before.waiter.overtaken++
    this.passed++
  }

  waitsLongerThan(other: Line<W>): boolean {
    return this.servedAt === other.servedAt ? this.eldest.ticket < other.eldest.ticket : this.servedAt < other.servedAt
  }

  /** By the credit relative to the amount; equal credits by ticket. */
  goesBefore(other: Line<W>): boolean {
    const order = compare(this.credit, this.next.amount, other.credit, other.next.amount)
    return order === 0 ? this.next.ticket < other.next.ticket : order > 0
  }

  /** Chooses the next waiter of the line by its credit at this time. */
  consider(now: number): void {
    this.credit = this.share.creditAt(now)
    this.next =
      this.credit === 0 || this.passed >= MAX_PASSED
        ? this.eldest
        : (this.credit > 0 ? this.smallest : this.largest).first!
  }
}

export class FairQueue<W extends Queued = Queued> extends WaitQueue<W> implements Queue<W> {
  private readonly stands = new Map<W, Linked<W>>()
  private readonly lines = new Map<Share, Line<W>>()
  private served = 0
  /** The grants relative to the expected use that every line has had. A line that comes back starts here, without arrears. */
  turn = 0
  /** The share of requests without a token. */
  private readonly nobody = new Share(0, 0)

  get strict(): boolean {
    return false
  }

  override add(waiter: W): Linked<W> {
    if (!ahead(waiter)) {
      const share = this.shareOf(waiter)
      let line = this.lines.get(share)
      if (line === undefined) {
        this.lines.set(share, (line = new Line(share, this.served)))
        share.turn = Math.max(share.turn, this.turn)
      }
      line.add(waiter)
    }
    const place = super.add(waiter)
    this.stands.set(waiter, place)
    return place
  }

  override remove(place: Linked<W>): void {
    super.remove(place)
    const { waiter } = place
    this.stands.delete(waiter)
    if (ahead(waiter)) return
    const line = this.lineOf(waiter)
    line.remove(waiter)
    if (line.byTicket.size === 0) this.lines.delete(line.share)
  }

  candidate(_previous: Linked<W> | undefined, seen: number, now: number): Linked<W> | undefined {
    return seen === 0 ? this.choose(now) : undefined
  }

  /** The waiter to serve next. */
  private choose(now: number): Linked<W> | undefined {
    const { first } = this
    if (first === undefined || ahead(first.waiter)) return first
    const passedFrom = this.served - MAX_PASSED * (this.lines.size - 1)
    let longest: Line<W> | undefined
    let best: Line<W> | undefined
    for (const line of this.lines.values()) {
      line.consider(now)
      if (line.servedAt <= passedFrom && (longest === undefined || line.waitsLongerThan(longest))) longest = line
      if (best === undefined || line.goesBefore(best)) best = line
    }
    return this.stands.get((longest ?? this.behind(best!)).next)
  }

  /** Expects a waiter of this queue, before it leaves. An extension passes nobody. */
  serve({ waiter }: Linked<W>): void {
    if (ahead(waiter)) return
    let least = Infinity
    for (const { share } of this.lines.values()) least = Math.min(least, share.turn)
    this.turn = Math.max(this.turn, least)
    const line = this.lineOf(waiter)
    line.serve(waiter)
    line.servedAt = ++this.served
    line.share.turn += waiter.amount / weight(line.share)
  }

  /** The line that is furthest behind this one by more than the bound, or else this one. */
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
    return this.lines.get(this.shareOf(waiter))!
  }

  private shareOf({ payer }: W): Share {
    return payer instanceof Share ? payer : this.nobody
  }
}

/** By an order, equal ones by ticket. */
const earlier = (one: Ranked, other: Ranked, order: number): boolean =>
  order === 0 ? one.ticket < other.ticket : order < 0

/** An extension goes before requests that hold nothing. */
const ahead = (waiter: Ranked): boolean => waiter.priority === Infinity
