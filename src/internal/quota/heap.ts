/** A heap from which any item can be removed. Adding and removing are O(log n), reading the first is O(1). */
export class Heap<A> {
  private readonly before: (one: A, other: A) => boolean
  private readonly items: Array<A> = []
  private readonly places = new Map<A, number>()

  constructor(before: (one: A, other: A) => boolean) {
    this.before = before
  }

  get first(): A | undefined {
    return this.items[0]
  }

  add(item: A): void {
    this.settle(item, this.items.length)
  }

  /** Expects an item of this heap. */
  remove(item: A): void {
    const place = this.places.get(item)!
    this.places.delete(item)
    const last = this.items.pop()!
    if (last !== item) this.settle(last, place)
  }

  /** Puts an item into its right place, starting at a free one. */
  private settle(item: A, place: number): void {
    const { before, items } = this
    while (place > 0) {
      const parent = items[(place - 1) >> 1]!
      if (!before(item, parent)) break
      this.put(parent, place)
      place = (place - 1) >> 1
    }
    for (;;) {
      let child = 2 * place + 1
      if (child + 1 < items.length && before(items[child + 1]!, items[child]!)) child++
      if (child >= items.length || !before(items[child]!, item)) break
      this.put(items[child]!, place)
      place = child
    }
    this.put(item, place)
  }

  private put(item: A, place: number): void {
    this.items[place] = item
    this.places.set(item, place)
  }
}
