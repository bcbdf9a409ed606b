import { assert, describe, it } from "@effect/vitest"
import { FairQueue } from "../src/internal/quota/fairQueue.ts"
import { compare, MAX_EXPECTED_USE, Share } from "../src/internal/quota/share.ts"
import type { Linked } from "../src/internal/admission/waitQueue.ts"
import { forSeeds, make as makeRandom } from "./utils/random.ts"

const MAX = Number.MAX_SAFE_INTEGER

/** A share of this expected use that has so much credit at 0, in tenths. */
const shareOf = (expectedUse: number, tenths: number): Share => new Share(expectedUse, 0, tenths)

describe("credit, in tenths of a unit", () => {
  const accrual: ReadonlyArray<readonly [expectedUse: number, ...after: ReadonlyArray<readonly [number, number]>]> = [
    [10, [0, 0], [1, 10], [2, 20], [999, 9_990], [1_000, 10_000], [1_001, 10_000], [1_000_000, 10_000]],
    [1, [1, 1], [9, 9], [1_000, 1_000], [5_000, 1_000]],
    [0, [1, 0], [5_000, 0]],
    [MAX_EXPECTED_USE, [1, MAX_EXPECTED_USE], [1_000, MAX_EXPECTED_USE * 1_000], [MAX, MAX_EXPECTED_USE * 1_000]]
  ]
  for (const [expectedUse, ...rows] of accrual) {
    it(`an expected use of ${expectedUse} earns a tenth of it per millisecond, and all it can in a second`, () => {
      for (const [now, tenths] of rows) assert.strictEqual(new Share(expectedUse, 0).creditAt(now), tenths, `at ${now}`)
      const share = new Share(expectedUse, 0)
      for (const [now, tenths] of rows) assert.strictEqual(share.creditAt(now), tenths, `on the way, at ${now}`)
    })
  }

  const steps: ReadonlyArray<
    readonly [
      name: string,
      share: Share,
      ...rows: ReadonlyArray<readonly ["debit" | "give back", amount: number, at: number, tenths: number]>
    ]
  > = [
    [
      "is debited by the amount, also below zero, and earns its way up",
      shareOf(10, 0),
      ["debit", 5, 0, -50],
      ["debit", 7, 3, -90],
      ["debit", 0, 9, -30],
      ["debit", 0, 12, 0],
      ["debit", 1, 2_000, 9_990]
    ],
    [
      "gets back what was held above what was charged, up to the most",
      shareOf(10, 9_990),
      ["debit", 100, 0, 8_990],
      ["give back", 40, 0, 9_390],
      ["give back", 100, 0, 10_000]
    ],
    ["pays for an overage", shareOf(10, 100), ["give back", -25, 0, -150]],
    [
      "stops at the least safe integer",
      shareOf(1, 0),
      ["debit", MAX, 0, -MAX],
      ["debit", MAX, 0, -MAX],
      ["give back", MAX, 0, 1_000]
    ],
    [
      "is exact beside amounts whose tenths are no safe integers",
      shareOf(MAX_EXPECTED_USE, MAX_EXPECTED_USE * 1_000),
      ["debit", 900_719_925_474_101, 0, MAX_EXPECTED_USE * 1_000 - 9_007_199_254_741_010]
    ],
    [
      "waits for a clock that went back, unless from far",
      shareOf(10, 0),
      ["debit", 0, 5_000, 10_000],
      ["debit", 1_000, 4_500, 0],
      ["debit", 0, 5_001, 10],
      ["debit", 0, 1_000, 10],
      ["debit", 0, 1_001, 20]
    ]
  ]
  for (const [name, share, ...rows] of steps) {
    it(name, () => {
      rows.forEach(([step, amount, at, tenths], i) => {
        if (step === "debit") share.debit(amount, at)
        else share.giveBack(amount, at)
        assert.strictEqual(share.creditAt(at), tenths, `after row ${i + 1}`)
      })
    })
  }

  const splits: ReadonlyArray<
    readonly [expectedUse: number, tenths: number, part: number, toChild: number, rest: number]
  > = [
    [10, 1_000, 4, 400, 600],
    [3, 100, 1, 33, 67],
    [3, 100, 2, 66, 34],
    [3, -100, 1, -33, -67],
    [3, -100, 2, -66, -34],
    [7, 6_999, 6, 5_999, 1_000],
    [10, 1_000, 0, 0, 1_000],
    [10, 1_000, 10, 1_000, 0],
    [10, -1_001, 10, -1_001, 0],
    [0, 0, 0, 0, 0],
    [0, -70, 0, 0, -70],
    [MAX_EXPECTED_USE, MAX_EXPECTED_USE * 1_000, MAX_EXPECTED_USE - 1, (MAX_EXPECTED_USE - 1) * 1_000, 1_000]
  ]
  for (const [expectedUse, tenths, part, toChild, rest] of splits) {
    it(`of ${tenths} for ${expectedUse}, a split of ${part} takes ${toChild} and leaves ${rest}; a merge undoes it`, () => {
      const parent = shareOf(expectedUse, tenths)
      const child = parent.split(part, 0)
      assert.deepStrictEqual([child.expectedUse, child.creditAt(0)], [part, toChild])
      assert.deepStrictEqual([parent.expectedUse, parent.creditAt(0)], [expectedUse - part, rest])
      parent.absorb(child, 0, 0)
      assert.deepStrictEqual([parent.expectedUse, parent.creditAt(0)], [expectedUse, tenths])
    })
  }

  it("a split never leaves more than the most of what is left", () =>
    forSeeds(2_000, (seed) => {
      const random = makeRandom(seed)
      const expectedUse = random.int(0, random.pick([3, 100, MAX_EXPECTED_USE]))
      const tenths = random.int(-1_000, 1_000 * expectedUse)
      const parent = shareOf(expectedUse, tenths)
      const child = parent.split(random.int(0, expectedUse), 0)
      assert.isAtMost(child.creditAt(0), child.expectedUse * 1_000)
      assert.isAtMost(parent.creditAt(0), parent.expectedUse * 1_000)
      assert.strictEqual(child.creditAt(0) + parent.creditAt(0), tenths)
    }))

  it("a merge sums, up to the most of both, and what comes back later comes to who took over", () => {
    const [one, other, third] = [shareOf(10, 10_000), shareOf(5, -300), shareOf(1, 0)]
    one.absorb(other, 0, 0)
    assert.deepStrictEqual([one.expectedUse, one.creditAt(0)], [15, 9_700])
    one.debit(100, 0)
    other.giveBack(50, 0)
    assert.strictEqual(one.creditAt(0), 9_200)
    third.absorb(one, 0, 0)
    other.giveBack(10, 0)
    one.giveBack(10, 0)
    assert.deepStrictEqual([third.expectedUse, third.creditAt(0)], [16, 9_400])
    assert.strictEqual(third.creditAt(1), 9_416)
    const most = shareOf(MAX_EXPECTED_USE, 5)
    most.absorb(third, 1, 0)
    assert.deepStrictEqual([most.expectedUse, most.creditAt(1)], [MAX_EXPECTED_USE, MAX_EXPECTED_USE + 9_421])
    const full = MAX_EXPECTED_USE * 1_000
    most.absorb(shareOf(MAX_EXPECTED_USE, full), 1, 0)
    assert.deepStrictEqual([most.expectedUse, most.creditAt(1)], [MAX_EXPECTED_USE, full])
  })

  it("a merge counts what both were served for what both expect, and what all were served while one was away", () => {
    const turnOf = (
      one: readonly [expectedUse: number, turn: number],
      other: readonly [expectedUse: number, turn: number],
      since: number
    ): number => {
      const shares = [one, other].map(([expectedUse, turn]) => Object.assign(new Share(expectedUse, 0), { turn }))
      shares[0]!.absorb(shares[1]!, 0, since)
      return shares[0]!.turn
    }
    assert.strictEqual(turnOf([3, 100], [1, 104], 100), 101)
    assert.strictEqual(turnOf([1, 104], [3, 100], 100), 101)
    assert.strictEqual(turnOf([3, 0], [1, 104], 100), 101)
    assert.strictEqual(turnOf([1, 104], [3, 0], 100), 101)
    // Nothing that is expected counts as 1, so that what is served to it does not come for free.
    assert.strictEqual(turnOf([0, 100], [0, 106], 100), 103)
    assert.strictEqual(turnOf([9, 100], [0, 1_100], 100), 200)
  })

  const order: ReadonlyArray<readonly [one: number, a: number, other: number, b: number, sign: number]> = [
    [1, 1, 0, 1, 1],
    [1, 2, 1, 1, -1],
    [-1, 2, -1, 1, 1],
    [2, 6, 1, 3, 0],
    [0, 5, 0, 9, 0],
    [MAX, MAX - 1, MAX - 1, MAX - 2, -1],
    [MAX - 1, MAX - 2, MAX, MAX - 1, 1],
    [-MAX, MAX, -(MAX - 1), MAX - 1, 0],
    [MAX, 3, MAX - 1, 3, 1]
  ]
  for (const [one, a, other, b, sign] of order) {
    it(`${one} / ${a} beside ${other} / ${b}`, () => {
      assert.strictEqual(Math.sign(compare(one, a, other, b)), sign)
      assert.strictEqual(Math.sign(compare(other, b, one, a)), sign === 0 ? 0 : -sign)
    })
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// The queue beside a naive one, which counts for each waiter how often it was passed
// ---------------------------------------------------------------------------------------------------------------------

interface Waiter {
  readonly priority: number
  readonly ticket: number
  readonly amount: number
  readonly share: Share
  readonly payer: Share
  overtaken: number
  passedBy: number
  /** Counted by the model: by who came later in the same line. */
  passed: number
}

class Model {
  readonly waiters: Array<Waiter> = []
  /** How many others were served since this one was, or came. */
  readonly passed = new Map<Share, number>()
  /** What each was served for its expected use, not less than what all who waited were served. */
  readonly turns = new Map<Share, number>()
  turn = 0

  add(waiter: Waiter): void {
    if (!this.waiters.some(({ share }) => share === waiter.share)) {
      this.passed.delete(waiter.share)
      this.passed.set(waiter.share, 0)
      this.turns.set(waiter.share, Math.max(this.turns.get(waiter.share) ?? 0, this.turn))
    }
    this.waiters.push(waiter)
    this.waiters.sort((one, other) => one.ticket - other.ticket)
  }

  remove(waiter: Waiter): void {
    this.waiters.splice(this.waiters.indexOf(waiter), 1)
  }

  serve(waiter: Waiter): void {
    for (const share of this.shares()) this.passed.set(share, share === waiter.share ? 0 : this.passed.get(share)! + 1)
    for (const other of this.waiters) {
      if (other.share === waiter.share && other.ticket < waiter.ticket) other.passed++
    }
    this.turn = Math.max(this.turn, Math.min(...this.shares().map((share) => this.turns.get(share)!)))
    this.turns.set(waiter.share, this.turns.get(waiter.share)! + waiter.amount / Math.max(1, waiter.share.expectedUse))
    this.remove(waiter)
  }

  shares(): ReadonlyArray<Share> {
    return [...new Set(this.waiters.map(({ share }) => share))]
  }

  choose(now: number): Waiter | undefined {
    const shares = this.shares()
    const late = shares
      .filter((share) => shares.length > 1 && this.passed.get(share)! >= 64 * (shares.length - 1))
      .sort((one, other) => this.passed.get(other)! - this.passed.get(one)!)
    const best = (waiters: ReadonlyArray<Waiter>): Waiter | undefined =>
      waiters.toSorted((one, other) => {
        const order = compare(other.share.creditAt(now), other.amount, one.share.creditAt(now), one.amount)
        return order === 0 ? one.ticket - other.ticket : order
      })[0]
    const next = (share: Share): Waiter => {
      const line = this.waiters.filter((waiter) => waiter.share === share)
      return line.find(({ passed }) => passed >= 64) ?? best(line)!
    }
    if (late[0] !== undefined) return next(late[0])
    const first = best(shares.map(next))
    if (first === undefined) return undefined
    const behind = (share: Share): number =>
      ((this.turns.get(first.share)! - this.turns.get(share)!) * Math.max(1, share.expectedUse)) / next(share).amount
    // Ties go by who came to wait first: the order of the map.
    const furthest = [...this.passed.keys()]
      .filter((share) => shares.includes(share))
      .sort((one, other) => behind(other) - behind(one))[0]!
    return behind(furthest) > 8 ? next(furthest) : first
  }
}

describe("the fair queue", () => {
  it("chooses as the naive model does, whatever comes and goes", () =>
    forSeeds(25, (seed) => {
      const random = makeRandom(seed)
      const queue = new FairQueue<Waiter>()
      const model = new Model()
      const shares = Array.from({ length: random.int(1, 4) }, () => new Share(random.pick([0, 1, 10, 1_000]), 0))
      const places = new Map<Waiter, Linked<Waiter>>()
      const leave = (waiter: Waiter) => {
        queue.remove(places.get(waiter)!)
        places.delete(waiter)
      }
      const few = random.chance(0.5)
      let now = 0
      let most = 0
      for (let ticket = 0; ticket < 1_000; ticket++) {
        const action = random.next()
        if (action < 0.5 || model.waiters.length < 8) {
          const share = random.pick(shares)
          const amount = few ? random.int(1, 3) : random.int(1, 1_000)
          const waiter: Waiter = {
            priority: 0,
            ticket,
            amount,
            share,
            payer: share,
            overtaken: 0,
            passedBy: -1,
            passed: 0
          }
          places.set(waiter, queue.add(waiter))
          model.add(waiter)
        } else if (action < 0.93) {
          const waiter = queue.candidate(undefined, 0, now)?.waiter
          assert.strictEqual(waiter, model.choose(now), `at ${now}`)
          if (waiter === undefined) continue
          queue.serve(places.get(waiter)!)
          leave(waiter)
          model.serve(waiter)
          waiter.share.debit(waiter.amount, now)
        } else if (action < 0.96) {
          const waiter = random.pick(model.waiters)
          leave(waiter)
          model.remove(waiter)
        } else {
          now += random.int(0, 50)
          random.pick(shares).giveBack(random.int(-100, 100), now)
        }
        assert.strictEqual(queue.size, model.waiters.length)
        for (const { passed } of model.waiters) most = Math.max(most, passed)
        assert.isAtMost(most, 64)
      }
    }))

  /** Serves a queue in which each share always has waiters, and answers the longest that each share was passed over. */
  const gaps = (expectedUses: ReadonlyArray<number>, served: number): ReadonlyArray<number> => {
    const queue = new FairQueue<Waiter>()
    const shares = expectedUses.map((expectedUse) => new Share(expectedUse, 0))
    const last = shares.map(() => 0)
    const longest = shares.map(() => 0)
    let ticket = 0
    const come = (share: Share): void => {
      const waiter: Waiter = {
        priority: 0,
        ticket: ticket++,
        amount: 1,
        share,
        payer: share,
        overtaken: 0,
        passedBy: -1,
        passed: 0
      }
      places.set(waiter, queue.add(waiter))
    }
    const places = new Map<Waiter, Linked<Waiter>>()
    for (const share of shares) for (let i = 0; i < 3; i++) come(share)
    for (let n = 1; n <= served; n++) {
      const { waiter } = queue.candidate(undefined, 0, 1_000 * n)!
      const i = shares.indexOf(waiter.share)
      queue.serve(places.get(waiter)!)
      queue.remove(places.get(waiter)!)
      waiter.share.debit(1, 1_000 * n)
      longest[i] = Math.max(longest[i]!, n - last[i]! - 1)
      last[i] = n
      come(waiter.share)
    }
    return longest.map((gap, i) => Math.max(gap, served - last[i]!))
  }

  it("costs much the same with 100,000 waiters of one share as with 10,000, each with an amount of its own", () => {
    /** How often an amount is looked at until all are served. */
    const drain = (waiters: number): number => {
      let looks = 0
      const queue = new FairQueue<Waiter>()
      const share = new Share(1, 0)
      const places = new Map<Waiter, Linked<Waiter>>()
      for (let ticket = 0; ticket < waiters; ticket++) {
        const amount = ((ticket * 7_919) % 999_983) + 1
        const waiter: Waiter = {
          priority: 0,
          ticket,
          get amount() {
            looks++
            return amount
          },
          share,
          payer: share,
          overtaken: 0,
          passedBy: -1,
          passed: 0
        }
        places.set(waiter, queue.add(waiter))
      }
      for (let now = 0; now < waiters; now++) {
        const waiter = queue.candidate(undefined, 0, now)!.waiter
        queue.serve(places.get(waiter)!)
        queue.remove(places.get(waiter)!)
        share.debit(waiter.amount, now)
      }
      assert.isUndefined(queue.candidate(undefined, 0, waiters))
      return looks
    }
    assert.isBelow(drain(100_000), 15 * drain(10_000))
  })

  it("serves each of n lines at the latest after 65 * (n - 1) others, whatever the credits", () => {
    for (const expectedUses of [
      [1, 1_000_000],
      [0, 5, 1_000_000],
      [0, 0, 0, 1, 100_000]
    ]) {
      const bound = 65 * (expectedUses.length - 1)
      const longest = gaps(expectedUses, 40 * bound)
      for (const gap of longest) assert.isAtMost(gap, bound, `${expectedUses.join()}: ${longest.join()}`)
      assert.isAtLeast(Math.max(...longest), 64 * (expectedUses.length - 1), "else there is nothing to see")
    }
  })
})
