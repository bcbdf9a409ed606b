import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import { Ledger, Limit } from "../src/index.ts"
import { forSeeds, make as makeRandom, type Random } from "./utils/random.ts"

const MAX = Number.MAX_SAFE_INTEGER
const MAX_EXACT = BigInt(MAX)
const HOUR = 3_600_000
const DAY = 24 * HOUR

// ---------------------------------------------------------------------------------------------------------------------
// The naive model: exact fractions of any size, a list of the holds, and no cleverness.
// ---------------------------------------------------------------------------------------------------------------------

/** `n / d`, with `d > 0`. Not reduced: nobody counts the digits. */
interface Fraction {
  readonly n: bigint
  readonly d: bigint
}

const whole = (n: number | bigint): Fraction => ({ n: BigInt(n), d: 1n })
const plus = (a: Fraction, b: Fraction): Fraction => reduce({ n: a.n * b.d + b.n * a.d, d: a.d * b.d })
const negative = ({ d, n }: Fraction): Fraction => ({ n: -n, d })
const times = (a: Fraction, b: Fraction): Fraction => reduce({ n: a.n * b.n, d: a.d * b.d })
const least = (a: Fraction, b: Fraction): Fraction => (a.n * b.d <= b.n * a.d ? a : b)
const floor = ({ d, n }: Fraction): bigint => (n >= 0n || n % d === 0n ? n / d : n / d - 1n)
const gcd = (a: bigint, b: bigint): bigint => (b === 0n ? (a < 0n ? -a : a) : gcd(b, a % b))
const reduce = ({ d, n }: Fraction): Fraction => {
  const by = gcd(n, d)
  return by === 0n ? whole(0) : { n: n / by, d: d / by }
}
const show = ({ d, n }: Fraction): string => `${n}/${d}`

interface Hold {
  readonly amount: number
  readonly epoch: number
  /** Made since the last reset or window. */
  current: boolean
}

const most = (limit: Limit.Limit): bigint => {
  switch (limit._tag) {
    case "Rate":
      return BigInt(limit.burst)
    case "Unlimited":
      return MAX_EXACT
    default:
      return BigInt(limit.amount)
  }
}

/** What a rate earns in one millisecond. */
const earning = (limit: Limit.Rate): Fraction =>
  reduce({ n: BigInt(limit.amount) * 1_000_000n, d: Duration.toNanosUnsafe(limit.per) })

const byInterval = (limit: Limit.Limit): boolean => limit._tag === "Rate" && limit.refill === "interval"

class Model {
  limit: Limit.Limit
  now: number
  /** What can be held, to the exact fraction. */
  level: Fraction
  spent = 0n
  /** Under a limit on slots: held since before it. */
  earlier = 0n
  readonly holds: Array<Hold> = []
  /** The windows that have passed, and the resets. */
  epochs = 0
  /** Any moment at which a period of a rate by interval begins. */
  anchor: number

  constructor(limit: Limit.Limit, now: number) {
    this.limit = limit
    this.now = now
    this.anchor = now
    this.level = whole(most(limit))
  }

  get held(): bigint {
    return this.holds.reduce((sum, hold) => sum + (hold.current ? BigInt(hold.amount) : 0n), 0n)
  }

  get available(): bigint {
    return this.limit._tag === "Unlimited" ? MAX_EXACT - this.held - this.spent : floor(this.level)
  }

  private afresh(epochs: number): void {
    this.level = whole(most(this.limit))
    this.spent = 0n
    for (const hold of this.holds) hold.current = false
    this.epochs += epochs
    this.anchor = this.now
  }

  /** The beginning of the period, of a rate by interval. */
  private period(now: number, { per }: Limit.Rate): number {
    const millis = Duration.toMillis(per)
    return this.anchor + Math.floor((now - this.anchor) / millis) * millis
  }

  private change(by: bigint): void {
    this.level = plus(this.level, whole(by))
    if (this.limit._tag === "Rate") this.level = least(this.level, whole(this.limit.burst))
  }

  /** A clock that went back by no more than a window, or than it takes to fill the bucket, is waited for. */
  private waitsFor(now: number): boolean {
    if (this.limit._tag === "Rate") {
      const latest = byInterval(this.limit) ? this.period(this.now, this.limit) : this.now
      const missed = times(whole(latest - now), earning(this.limit))
      return now < latest && plus(whole(this.limit.burst), negative(missed)).n > 0n
    }
    if (this.limit._tag !== "Window") return false
    const every = Duration.toMillis(this.limit.every)
    const start = Math.floor(this.now / every) * every
    return now < start && start - now < every
  }

  at(now: number): void {
    if (this.waitsFor(now)) return
    const elapsed = now - this.now
    if (this.limit._tag === "Rate" && elapsed > 0) {
      const earningTime = byInterval(this.limit)
        ? this.period(now, this.limit) - this.period(this.now, this.limit)
        : elapsed
      const earned = times(whole(earningTime), earning(this.limit))
      this.level = least(plus(this.level, earned), whole(this.limit.burst))
    }
    if (this.limit._tag === "Window") {
      const every = Duration.toMillis(this.limit.every)
      const windows = Math.floor(now / every) - Math.floor(this.now / every)
      if (windows > 0) this.afresh(windows)
    }
    this.now = now
  }

  /** With no limit, what was spent leaves the books before it is in the way. */
  admits(amount: number): boolean {
    if (this.limit._tag === "Unlimited") return BigInt(amount) <= MAX_EXACT - this.held
    return amount === 0 || BigInt(amount) <= this.available
  }

  hold(amount: number, epoch: number): void {
    this.level = plus(this.level, whole(-BigInt(amount)))
    this.holds.push({ amount, epoch, current: true })
  }

  settle(hold: Hold, actual: number): void {
    this.holds.splice(this.holds.indexOf(hold), 1)
    if (!hold.current) return
    if (this.limit._tag === "Concurrency") {
      // Holds from before the slots count as settled first.
      const part = BigInt(hold.amount) < this.earlier ? BigInt(hold.amount) : this.earlier
      this.earlier -= part
      const owed = part === BigInt(hold.amount) || BigInt(actual) < part ? BigInt(actual) : part
      if (part > 0n || hold.amount === 0) this.spent += part > 0n ? owed : 0n
      if (this.spent + most(this.limit) > MAX_EXACT) this.spent = MAX_EXACT - most(this.limit)
      return this.change(BigInt(hold.amount))
    }
    this.spent += BigInt(actual)
    this.change(BigInt(hold.amount) - BigInt(actual))
  }

  topUp(amount: number): void {
    if (this.limit._tag !== "Concurrency" && this.limit._tag !== "Unlimited") this.change(BigInt(amount))
  }

  reset(): void {
    if (this.limit._tag !== "Concurrency") this.afresh(1)
    else this.spent = this.earlier = 0n
  }

  setLimit(limit: Limit.Limit): void {
    const before = this.limit
    this.limit = limit
    if (before._tag !== limit._tag) return this.changeKind(before)
    if (before._tag === "Rate" && limit._tag === "Rate" && (byInterval(before) || byInterval(limit))) {
      this.change(most(limit) - most(before))
      const passed = this.now - this.period(this.now, before)
      const both = byInterval(before) && byInterval(limit)
      const part = both
        ? (BigInt(passed) * BigInt(Duration.toMillis(limit.per))) / BigInt(Duration.toMillis(before.per))
        : 0n
      this.anchor = this.now - Number(part)
      this.level = whole(floor(this.level))
      return
    }
    this.level = plus(this.level, whole(most(limit) - most(before)))
    // The fraction of a unit is kept as far as the new rate can express it.
    if (limit._tag === "Rate") {
      const { d } = earning(limit)
      this.level = reduce({ n: floor(times(this.level, whole(d))), d })
    }
  }

  /** The difference of the maxima goes to or from what is available. Slots only keep in mind what was owed. */
  private changeKind(before: Limit.Limit): void {
    const { held, limit } = this
    const available =
      before._tag === "Unlimited"
        ? MAX_EXACT - held - this.spent
        : floor(this.level) - (before._tag === "Concurrency" ? this.spent : 0n)
    this.anchor = this.now
    if (limit._tag === "Concurrency") {
      const owed = most(before) - held - available
      this.spent = owed > 0n ? owed : 0n
      this.earlier = held
      this.level = whole(most(limit) - held)
      return
    }
    let level = available + most(limit) - most(before)
    // The books end at the safe integers.
    if (level > MAX_EXACT - held) level = MAX_EXACT - held
    if (level < -MAX_EXACT) level = -MAX_EXACT
    if (limit._tag === "Rate") {
      this.level = least(whole(level), whole(limit.burst))
      return
    }
    // What a bucket has earned while its holds are out is nothing that the next limit would give.
    if (before._tag === "Rate" && level > most(limit) - held) level = most(limit) - held
    if (before._tag === "Rate" || before._tag === "Concurrency") this.spent = most(limit) - held - level
    if (this.spent < 0n) this.spent = 0n
    const outside = level + held > 0n ? level + held : 0n
    if (this.spent > MAX_EXACT - outside) this.spent = MAX_EXACT - outside
    this.level = whole(level)
  }

  /** The most that can ever be held at once, without a top-up, a reset or another limit, by who keeps holding `own`. */
  fits(amount: number, own: number): boolean {
    switch (this.limit._tag) {
      case "Capacity":
        return BigInt(amount) <= this.available + this.held + this.spent - BigInt(own)
      case "Concurrency":
        return BigInt(amount) <= most(this.limit) - BigInt(own)
      case "Unlimited":
        return true
      case "Window": {
        // In this window, if all that others hold comes back; or in the next.
        const here = this.available + this.held - BigInt(own)
        return BigInt(amount) <= here || BigInt(amount) <= most(this.limit)
      }
      default:
        return BigInt(amount) <= most(this.limit)
    }
  }
}

/** The level that the books stand for: whole units, and the remainder that a rate carries. */
const levelOf = (ledger: Ledger.Ledger): Fraction =>
  ledger.limit._tag === "Rate"
    ? reduce({
        n: BigInt(ledger.available) * BigInt(ledger.flow!.millis) + BigInt(ledger.carry),
        d: BigInt(ledger.flow!.millis)
      })
    : whole(ledger.available)

/** These checks run a million times, so what holds is not put into words. */
const same = <A extends string | number | bigint | boolean>(actual: A, expected: A, what: string): void => {
  if (actual !== expected) assert.strictEqual(actual, expected, what)
}
const holds = (condition: boolean, what: string, value: unknown): void => {
  if (!condition) assert.fail(`${what}: ${String(value)}`)
}

const COUNTS = ["granted", "available", "held", "spent", "epoch", "at", "carry"] as const

/** What holds of any books at any moment, whatever happened. */
const audit = (ledger: Ledger.Ledger): void => {
  const { available, carry, flow, granted, held, limit, spent } = ledger
  for (const name of COUNTS) holds(Number.isSafeInteger(ledger[name]), `${name} is not a safe integer`, ledger[name])
  same(BigInt(available) + BigInt(held) + BigInt(spent), BigInt(granted), "the books do not balance")
  holds(held >= 0, "held below 0", held)
  holds(spent >= 0, "spent below 0", spent)
  holds(carry >= 0 && (flow === undefined || carry < flow.millis), "a remainder out of its bounds", carry)
  if (limit._tag === "Rate") holds(available <= limit.burst, "a bucket above its burst", available)
  same(Ledger.debt(ledger), available < 0 ? -available : 0, "debt")
}

/** The books in step with the model. */
class Both {
  ledger: Ledger.Ledger
  readonly model: Model
  readonly log: Array<string> = []

  constructor(limit: Limit.Limit, now: number) {
    this.log.push(`${Limit.format(limit)} at ${now}`)
    this.ledger = Object.freeze(Ledger.make(limit, now))
    this.model = new Model(limit, now)
    this.check()
  }

  private step(entry: string, ledger: Ledger.Ledger): void {
    this.log.push(entry)
    this.ledger = Object.freeze(ledger)
  }

  at(now: number): void {
    const { ledger } = this
    this.step(`at ${now}`, Ledger.refill(ledger, now))
    this.model.at(now)
    this.check()
  }

  hold(amount: number): Hold | undefined {
    const admitted = Ledger.admits(this.ledger, amount)
    this.log.push(`hold ${amount}: ${admitted}`)
    same(admitted, this.model.admits(amount), `admits ${amount}`)
    if (!admitted) return undefined
    this.ledger = Object.freeze(Ledger.hold(this.ledger, amount))
    this.model.hold(amount, this.ledger.epoch)
    this.check()
    return this.model.holds.at(-1)
  }

  settle(hold: Hold, actual: number): void {
    const before = this.ledger
    this.step(`settle ${hold.amount} for ${actual}`, Ledger.settle(before, hold.amount, hold.epoch, actual))
    this.model.settle(hold, actual)
    if (!hold.current) assert.strictEqual(this.ledger, before, "a late settlement touched the books")
    this.check()
  }

  topUp(amount: number): void {
    const more = Ledger.topUp(this.ledger, amount)
    this.log.push(`top up ${amount}`)
    if (more === undefined) {
      const { available, held, limit, spent } = this.model
      assert.include(["Capacity", "Window"], limit._tag)
      assert.isTrue(available + held + spent + BigInt(amount) > MAX_EXACT, `a top-up of ${amount} refused`)
      return
    }
    this.ledger = Object.freeze(more)
    this.model.topUp(amount)
    this.check()
  }

  reset(): void {
    this.step("reset", Ledger.reset(this.ledger, this.model.now))
    this.model.reset()
    this.check()
  }

  setLimit(limit: Limit.Limit): void {
    this.step(`limit: ${Limit.format(limit)}`, Ledger.setLimit(this.ledger, limit, this.model.now))
    this.model.setLimit(limit)
    assert.strictEqual(this.ledger.limit, limit)
    this.check()
  }

  /** What the books answer about an amount, without changing them. */
  ask(amount: number, own: number): void {
    const { ledger, model } = this
    const { now } = model
    same(Ledger.admits(ledger, amount), model.admits(amount), `admits ${amount}`)
    same(Ledger.fits(ledger, amount, own), model.fits(amount, own), `fits ${amount} beside ${own}`)
    const wait = Ledger.retryAfter(ledger, amount, now)
    const after = (millis: number) => Ledger.admits(Ledger.refill(ledger, now + millis), amount)
    if (wait === undefined) {
      for (const millis of [0, 1, HOUR, DAY, 400 * DAY, 10_000 * DAY]) {
        holds(!after(millis), `${amount} is never to be had, but is after so many milliseconds`, millis)
      }
    } else if (wait < MAX && now + wait <= MAX && ledger.held + Ledger.debt(ledger) + amount <= MAX) {
      holds(Number.isSafeInteger(wait) && wait >= 0, "not a wait", wait)
      holds(after(wait), `${amount} is not to be had after the milliseconds it was told`, wait)
      if (wait > 0) holds(!after(wait - 1), `${amount} is to be had before the milliseconds it was told`, wait)
    }
  }

  private check(): void {
    const { ledger, model } = this
    audit(ledger)
    same(BigInt(ledger.held), model.held, "held is not the sum of the open holds")
    same(ledger.epoch, model.epochs, "epoch")
    this.reconcile()
    same(BigInt(ledger.available), model.available, "available")
    if (ledger.limit._tag !== "Unlimited") same(show(levelOf(ledger)), show(model.level), "level")
    same(BigInt(ledger.spent), model.spent, "spent")
  }

  /**
   * The model has no greatest number, the books have. Where the exact counts are beyond it, the books may forget what was
   * spent (which must not change what is available), may count a debt only down to the greatest number, and may give no more
   * than they can count. Nothing else.
   */
  private reconcile(): void {
    const { ledger, model } = this
    const spent = BigInt(ledger.spent)
    const level = levelOf(ledger)
    const granted = floor(model.level) + model.held + model.spent
    const beyond = granted > MAX_EXACT || model.spent + model.held > MAX_EXACT || floor(model.level) < -MAX_EXACT
    if (beyond && spent < model.spent) model.spent = spent
    if (ledger.limit._tag === "Unlimited") return
    const indebted = model.held + spent === MAX_EXACT || ledger.available === -MAX
    if (indebted && floor(level) > floor(model.level)) model.level = level
    if (ledger.granted === MAX && floor(level) <= floor(model.level)) model.level = level
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Random histories
// ---------------------------------------------------------------------------------------------------------------------

type Scale = (random: Random) => number

const small: Scale = (random) => random.int(0, 20)
const dollars: Scale = (random) => random.int(0, 50) * 1_000_000_000 + random.int(0, 999_999_999)
const huge: Scale = (random) => MAX - random.int(0, random.pick([3, 1_000, 2 ** 52]))
const SCALES: ReadonlyArray<readonly [name: string, scale: Scale]> = [
  ["small amounts", small],
  ["nano-dollars", dollars],
  ["amounts near 2^53 - 1", (random) => (random.chance(0.5) ? huge(random) : small(random))]
]

const PERS: ReadonlyArray<Duration.Input> = [
  "3 seconds",
  "1 hour",
  "1 minute",
  "1 millis",
  "7 millis",
  "997 millis",
  "300 micros",
  "1 micros",
  "13 nanos",
  "1 day",
  [1, 1]
]

const limitOf = (random: Random, scale: Scale, tag: Limit.Limit["_tag"]): Limit.Limit => {
  const amount = scale(random)
  switch (tag) {
    case "Capacity":
      return Limit.capacity(amount)
    case "Concurrency":
      return Limit.concurrency(amount)
    case "Unlimited":
      return Limit.unlimited
    case "Window":
      return Limit.window({ amount, every: random.pick([1, 7, 1_000, 60_000, HOUR, DAY]) })
    case "Rate": {
      const burst = random.chance(0.5) ? undefined : Math.max(1, scale(random))
      const refill = random.pick(["continuous", "interval"] as const)
      const rate = Limit.rate({ amount: Math.max(1, amount), per: random.pick(PERS), burst, refill })
      // Some of the greatest amounts have no exact fraction per millisecond.
      return Limit.problem(rate) === undefined ? rate : Limit.rate({ amount: 7, per: "3 seconds", burst })
    }
  }
}

const TAGS: ReadonlyArray<Limit.Limit["_tag"]> = ["Capacity", "Rate", "Window", "Concurrency", "Unlimited"]

const step = (random: Random, both: Both, scale: Scale, kinds: ReadonlyArray<Limit.Limit["_tag"]>): void => {
  const { model } = both
  const some = () => {
    const { available } = model
    const near = available > 0n && available <= MAX_EXACT && random.chance(0.5)
    return near ? Math.min(MAX, Number(available) + random.int(-1, 1)) : scale(random)
  }
  const choice = random.int(0, 99)
  if (choice < 35) both.hold(random.chance(0.05) ? 0 : some())
  else if (choice < 65 && model.holds.length > 0) {
    const hold = random.pick(model.holds)
    const actual = random.pick([
      () => 0,
      () => hold.amount,
      () => random.int(0, hold.amount),
      () => Math.min(MAX, hold.amount + random.int(1, 30)),
      () => scale(random)
    ])()
    both.settle(hold, actual)
  } else if (choice < 88) both.at(later(random, both))
  else if (choice < 92) both.topUp(scale(random))
  else if (choice < 94) both.reset()
  else if (choice < 97) both.setLimit(limitOf(random, scale, both.ledger.limit._tag))
  else both.setLimit(limitOf(random, scale, random.pick(kinds)))
  const own = model.holds.find((hold) => hold.current)?.amount ?? 0
  both.ask(some(), random.chance(0.5) ? own : 0)
}

const later = (random: Random, both: Both): number => {
  const { limit } = both.ledger
  const { now } = both.model
  if (limit._tag === "Window" && random.chance(0.5)) {
    const every = Duration.toMillis(limit.every)
    const boundary = Math.floor(now / every) * every + random.int(1, 3) * every
    return Math.max(now, boundary + random.int(-1, 1))
  }
  if (byInterval(limit) && random.chance(0.5)) {
    const { at, flow } = both.ledger
    return Math.max(now, at + random.int(1, 3) * flow!.millis + random.int(-1, 1))
  }
  return random.pick([
    () => now,
    () => now + random.int(1, 10),
    () => now + random.int(1, 5_000),
    () => now + random.int(1, 3) * HOUR,
    () => now + random.int(0, 800 * DAY),
    () => now - random.int(1, 10),
    () => now - random.int(1, 2 * DAY)
  ])()
}

const STEPS = 60

const history = (seed: number, scale: Scale, tag: Limit.Limit["_tag"], kinds: ReadonlyArray<Limit.Limit["_tag"]>) => {
  const random = makeRandom(seed)
  const both = new Both(limitOf(random, scale, tag), random.pick([0, 1, 999, 1_767_225_600_000]))
  try {
    for (let i = 0; i < STEPS; i++) step(random, both, scale, kinds)
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause)
    throw new Error(`${message}\n  ${both.log.slice(-25).join("\n  ")}\n  ${JSON.stringify(both.ledger)}`, { cause })
  }
}

describe("Ledger: random histories agree with the model", () => {
  for (const [name, scale] of SCALES) {
    for (const tag of TAGS) {
      it(`${tag}, ${name}`, () => forSeeds(100, (seed) => history(seed, scale, tag, [tag])))
    }
    it(`changes of kind, ${name}`, () => forSeeds(200, (seed) => history(seed, scale, TAGS[seed % TAGS.length]!, TAGS)))
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// Refilling
// ---------------------------------------------------------------------------------------------------------------------

/** The books of a rate whose bucket has just been emptied. */
const emptied = (limit: Limit.Rate, now: number): Ledger.Ledger => {
  const held = Ledger.hold(Ledger.make(limit, now), limit.burst)
  return Ledger.settle(held, limit.burst, held.epoch, limit.burst)
}

describe("Ledger: how a rate refills", () => {
  const rate = (amount: number, per: Duration.Input, burst: number) => Limit.rate({ amount, per, burst })
  const table: ReadonlyArray<readonly [limit: Limit.Rate, ...after: Array<readonly [millis: number, units: number]>]> =
    [
      [rate(7, "3 seconds", 100), [0, 0], [428, 0], [429, 1], [857, 1], [858, 2], [2_999, 6], [3_000, 7], [3_001, 7]],
      [rate(7, "3 seconds", 99), [42_428, 98], [42_429, 99], [42_430, 99], [10_000_000, 99]],
      [rate(1, "1 hour", 2), [1, 0], [HOUR - 1, 0], [HOUR, 1], [2 * HOUR - 1, 1], [2 * HOUR, 2], [9 * HOUR, 2]],
      [rate(1, "1 millis", 10), [1, 1], [9, 9], [10, 10], [11, 10]],
      [rate(1, "1 nanos", MAX), [1, 1_000_000], [3_600, 3_600_000_000]],
      [rate(7, "300 micros", 1_000), [1, 23], [2, 46], [3, 70], [42, 980], [43, 1_000]],
      [rate(1, "1500 micros", 1_000), [1, 0], [2, 1], [3, 2], [4, 2], [5, 3], [6, 4]],
      [rate(3, [1, 1], 10), [333, 0], [334, 1], [1_000, 2], [1_001, 3], [2_001, 6]],
      // 1.50 USD a minute in nano-dollars, and one nano-dollar a week
      [rate(1_500_000_000, "1 minute", 5_000_000_000), [1, 25_000], [60_000, 1_500_000_000], [DAY, 5_000_000_000]],
      [rate(1, "1 week", 5), [7 * DAY - 1, 0], [7 * DAY, 1], [36 * DAY, 5]],
      [rate(MAX, "1 day", MAX), [1, 104_249_991], [DAY - 1, 9_007_199_150_490_999], [DAY, MAX], [2 * DAY, MAX]],
      [rate(1, "285420 days", 2), [285_420 * DAY - 1, 0], [285_420 * DAY, 1]]
    ]
  for (const [limit, ...rows] of table) {
    it(Limit.format(limit), () => {
      assert.isUndefined(Limit.problem(limit))
      for (const start of [0, 1, 1_767_225_600_123]) {
        const empty = emptied(limit, start)
        assert.strictEqual(empty.available, 0)
        for (const [millis, units] of rows) {
          const after = Ledger.refill(empty, start + millis)
          audit(after)
          assert.strictEqual(after.available, units, `after ${millis} ms`)
        }
      }
    })
    it(`${Limit.format(limit)}, asked at each millisecond`, () => {
      let ledger = emptied(limit, 0)
      const expected = new Map(rows)
      for (let now = 0; now <= 4_000; now++) {
        ledger = Ledger.refill(ledger, now)
        const units = expected.get(now)
        if (units !== undefined) assert.strictEqual(ledger.available, units, `after ${now} ms`)
      }
      audit(ledger)
      assert.deepStrictEqual(ledger, Ledger.refill(emptied(limit, 0), 4_000))
    })
  }

  it("in two steps as in one, which is why no number of refills can drift", () =>
    forSeeds(2_000, (seed) => {
      const random = makeRandom(seed)
      const scale = SCALES[seed % SCALES.length]![1]
      const limit = limitOf(random, scale, "Rate")
      const start = Ledger.make(limit, 0)
      const amount = random.int(1, start.available)
      const ledger = Ledger.settle(Ledger.hold(start, amount), amount, 0, amount)
      const end = random.pick([random.int(1, 10_000), random.int(1, 400 * DAY)])
      const between = random.int(0, end)
      const once = Ledger.refill(ledger, end)
      const twice = Ledger.refill(Ledger.refill(ledger, between), end)
      audit(twice)
      same(show(levelOf(twice)), show(levelOf(once)), `at ${between} and ${end}`)
    }))

  const million: ReadonlyArray<readonly [Limit.Rate, steps: ReadonlyArray<number>]> = [
    [rate(7, "3 seconds", 1_000_000_000), [1, 3, 13, 7, 997, 11]],
    [rate(1, "1 hour", 1_000_000_000), [1, 7, 59, 61, 3_599]],
    [rate(7, "300 micros", 1_000_000_000_000), [1, 1, 2, 5]],
    [rate(1_234_567_891, [59, 999_999_999], MAX), [1, 3, 17, 127]],
    [rate(999_999_999_989, "1 day", MAX), [9, 1, 1, 21]]
  ]
  for (const [limit, steps] of million) {
    it(`${Limit.format(limit)}: a million refills at odd times against the closed form`, () => {
      let ledger = emptied(limit, 0)
      let now = 0
      for (let i = 0; i < 1_000_000; i++) {
        now += steps[i % steps.length]!
        ledger = Ledger.refill(ledger, now)
      }
      const exact = (BigInt(now) * BigInt(limit.amount) * 1_000_000n) / Duration.toNanosUnsafe(limit.per)
      assert.isTrue(exact < BigInt(limit.burst), "the bucket must not be full, or there is nothing to see")
      assert.strictEqual(BigInt(ledger.available), exact)
      audit(ledger)
    })
  }

  it("a full bucket earns nothing, not even a part of a unit", () => {
    const limit = rate(1, "1 second", 5)
    const idle = Ledger.refill(Ledger.make(limit, 0), 10_999)
    const used = Ledger.hold(idle, 1)
    assert.strictEqual(Ledger.refill(used, 11_998).available, 4)
    assert.strictEqual(Ledger.refill(used, 11_999).available, 5)
  })

  it("a refund that fills the bucket leaves no part of a unit beyond it", () => {
    const limit = rate(1, "1 second", 5)
    const held = Ledger.refill(Ledger.hold(Ledger.make(limit, 0), 1), 999)
    const refunded = Ledger.settle(held, 1, 0, 0)
    assert.strictEqual(refunded.available, 5)
    const again = Ledger.hold(refunded, 1)
    assert.strictEqual(Ledger.refill(again, 1_000).available, 4)
    assert.strictEqual(Ledger.refill(again, 1_998).available, 4)
    assert.strictEqual(Ledger.refill(again, 1_999).available, 5)
  })

  it("a top-up that fills the bucket leaves no part of a unit beyond it", () => {
    const limit = rate(1, "1 second", 5)
    const spent = Ledger.refill(emptied(limit, 0), 999)
    const full = Ledger.topUp(spent, 5)!
    assert.strictEqual(full.available, 5)
    assert.strictEqual(Ledger.refill(Ledger.hold(full, 1), 1_000).available, 4)
  })

  it("pays a debt before it gives", () => {
    const limit = rate(7, "3 seconds", 7)
    const ledger = Ledger.settle(Ledger.hold(Ledger.make(limit, 0), 7), 7, 0, 21)
    assert.strictEqual(Ledger.debt(ledger), 14)
    assert.strictEqual(Ledger.retryAfter(ledger, 1, 0), 6_429)
    assert.strictEqual(Ledger.refill(ledger, 6_000).available, 0)
    assert.strictEqual(Ledger.refill(ledger, 6_428).available, 0)
    assert.strictEqual(Ledger.refill(ledger, 6_429).available, 1)
  })

  describe("by interval", () => {
    const interval = (amount: number, per: Duration.Input, burst: number) =>
      Limit.rate({ amount, per, burst, refill: "interval" })
    const table: ReadonlyArray<
      readonly [Limit.Rate, ...after: ReadonlyArray<readonly [millis: number, units: number]>]
    > = [
      [interval(7, "3 seconds", 100), [0, 0], [2_999, 0], [3_000, 7], [5_999, 7], [6_000, 14], [45_000, 100]],
      [interval(10, "1 minute", 4), [59_999, 0], [60_000, 4], [120_000, 4]],
      [interval(1, "1 millis", 3), [1, 1], [2, 2], [3, 3], [4, 3]],
      [interval(MAX, "1 millis", MAX), [0, 0], [1, MAX], [DAY, MAX]],
      [interval(MAX - 1, "7 millis", MAX), [6, 0], [7, MAX - 1], [14, MAX]]
    ]
    for (const [limit, ...rows] of table) {
      it(Limit.format(limit), () => {
        assert.isUndefined(Limit.problem(limit))
        for (const start of [0, 1, -5, 1_767_225_600_123]) {
          let ledger = emptied(limit, start)
          for (const [millis, units] of rows) {
            ledger = Ledger.refill(ledger, start + millis)
            audit(ledger)
            assert.strictEqual(ledger.available, units, `after ${millis} ms`)
            assert.strictEqual(Ledger.refill(emptied(limit, start), start + millis).available, units)
          }
        }
      })
    }

    it("the periods go on from when the books were opened, also while the bucket is full", () => {
      const limit = interval(5, "1 second", 5)
      const used = Ledger.hold(Ledger.refill(Ledger.make(limit, 100), 10_950), 5)
      assert.strictEqual(Ledger.retryAfter(used, 1, 10_950), 150)
      assert.strictEqual(Ledger.refill(used, 11_099).available, 0)
      assert.strictEqual(Ledger.refill(used, 11_100).available, 5)
    })

    it("a new length keeps the part of the period that has passed; another way of refilling starts anew", () => {
      const waiting = Ledger.refill(emptied(interval(5, "1 second", 5), 0), 750)
      const longer = Ledger.setLimit(waiting, interval(5, "1 minute", 5), 750)
      assert.strictEqual(Ledger.retryAfter(longer, 1, 750), 15_000)
      assert.strictEqual(Ledger.retryAfter(Ledger.setLimit(waiting, interval(9, "1 second", 5), 750), 1, 750), 250)
      const flowing = Ledger.setLimit(waiting, rate(1, "1 second", 5), 750)
      assert.strictEqual(Ledger.retryAfter(flowing, 1, 750), 1_000)
      const halfway = Ledger.refill(emptied(rate(1, "1 second", 5), 0), 500)
      const back = Ledger.setLimit(halfway, interval(1, "1 second", 5), 500)
      assert.strictEqual(Ledger.retryAfter(back, 1, 500), 1_000)
    })

    it("a clock that goes back neither gives nor moves the periods", () => {
      const limit = interval(5, "1 second", 5)
      const used = Ledger.refill(emptied(limit, 100), 100_600)
      assert.strictEqual(used.available, 5)
      const spent = Ledger.settle(Ledger.hold(used, 5), 5, 0, 5)
      // A little: the time that was there already is waited for.
      assert.strictEqual(Ledger.refill(spent, 100_099), spent)
      assert.strictEqual(Ledger.refill(spent, 99_600), spent)
      assert.strictEqual(Ledger.retryAfter(spent, 1, 99_600), 1_500)
      // Far: from there on, at the same part of each second.
      const far = Ledger.refill(spent, 50_600)
      assert.strictEqual(far.available, 0)
      assert.strictEqual(Ledger.refill(far, 51_099).available, 0)
      assert.strictEqual(Ledger.refill(far, 51_100).available, 5)
    })
  })

  it("keeps the part of a unit when the rate changes", () => {
    const ledger = Ledger.refill(emptied(rate(1, "1 second", 5), 0), 750)
    const faster = Ledger.setLimit(ledger, rate(1, "100 millis", 5), 750)
    assert.strictEqual(Ledger.refill(faster, 774).available, 0)
    assert.strictEqual(Ledger.refill(faster, 775).available, 1)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Stories: one step a row, and the books after it
// ---------------------------------------------------------------------------------------------------------------------

type Row = readonly [
  step:
    | readonly ["at", number]
    | readonly ["hold", number]
    /** Settles the oldest open hold. */
    | readonly ["settle", actual: number]
    | readonly ["top up", number]
    | readonly ["reset"]
    | readonly ["limit", Limit.Limit],
  granted: number,
  available: number,
  held: number,
  spent: number
]

const tell = (limit: Limit.Limit, start: number, rows: ReadonlyArray<Row>): void => {
  const both = new Both(limit, start)
  rows.forEach(([step, granted, available, held, spent], i) => {
    switch (step[0]) {
      case "at":
        both.at(step[1])
        break
      case "hold":
        assert.isDefined(both.hold(step[1]), `row ${i + 1} is denied`)
        break
      case "settle":
        both.settle(both.model.holds[0]!, step[1])
        break
      case "top up":
        both.topUp(step[1])
        break
      case "reset":
        both.reset()
        break
      case "limit":
        both.setLimit(step[1])
    }
    const { ledger } = both
    assert.deepStrictEqual(
      { granted: ledger.granted, available: ledger.available, held: ledger.held, spent: ledger.spent },
      { granted, available, held, spent },
      `after row ${i + 1}, ${step.map(String).join(" ")}`
    )
  })
}

describe("Ledger: stories", () => {
  const stories: Record<string, readonly [limit: Limit.Limit, start: number, rows: ReadonlyArray<Row>]> = {
    "a capacity: refund, overage, debt, top-up": [
      Limit.capacity(10),
      0,
      [
        [["hold", 6], 10, 4, 6, 0],
        [["settle", 2], 10, 8, 0, 2],
        [["at", 400 * DAY], 10, 8, 0, 2],
        [["hold", 8], 10, 0, 8, 2],
        [["settle", 15], 10, -7, 0, 17],
        [["hold", 0], 10, -7, 0, 17],
        [["top up", 9], 19, 2, 0, 17],
        [["hold", 2], 19, 0, 2, 17]
      ]
    ],
    "a capacity: what is held from before a reset": [
      Limit.capacity(10),
      0,
      [
        [["hold", 6], 10, 4, 6, 0],
        [["reset"], 10, 10, 0, 0],
        [["hold", 10], 10, 0, 10, 0],
        [["settle", 2], 10, 0, 10, 0],
        [["settle", 3], 10, 7, 0, 3]
      ]
    ],
    "a capacity: lowering keeps the holds and denies until they fit, raising admits at once": [
      Limit.capacity(10),
      0,
      [
        [["hold", 5], 10, 5, 5, 0],
        [["hold", 2], 10, 3, 7, 0],
        [["limit", Limit.capacity(6)], 6, -1, 7, 0],
        [["settle", 3], 6, 1, 2, 3],
        [["limit", Limit.capacity(9)], 9, 4, 2, 3],
        [["limit", Limit.capacity(0)], 0, -5, 2, 3],
        [["settle", 0], 0, -3, 0, 3]
      ]
    ],
    "a rate: refund, and what the bucket cannot take back": [
      Limit.rate({ amount: 1, per: "1 second", burst: 10 }),
      0,
      [
        [["hold", 8], 10, 2, 8, 0],
        [["at", 3_999], 13, 5, 8, 0],
        [["settle", 2], 12, 10, 0, 2],
        [["at", 9_000], 12, 10, 0, 2],
        [["hold", 10], 12, 0, 10, 2],
        [["at", 9_999], 12, 0, 10, 2],
        [["at", 10_000], 13, 1, 10, 2],
        [["settle", 10], 13, 1, 0, 12],
        [["top up", 4], 17, 5, 0, 12],
        [["top up", 400], 22, 10, 0, 12]
      ]
    ],
    "a rate: a clock that jumps back gives nothing and takes nothing": [
      Limit.rate({ amount: 1, per: "1 second", burst: 10 }),
      100_000,
      [
        [["hold", 10], 10, 0, 10, 0],
        [["settle", 10], 10, 0, 0, 10],
        [["at", 101_500], 11, 1, 0, 10],
        [["at", 40_000], 11, 1, 0, 10],
        [["at", 40_499], 11, 1, 0, 10],
        [["at", 40_500], 12, 2, 0, 10],
        [["at", -1_000_000_000], 12, 2, 0, 10],
        [["at", -999_999_000], 13, 3, 0, 10],
        [["at", 400 * DAY], 20, 10, 0, 10]
      ]
    ],
    "a rate: lowered and raised": [
      Limit.rate({ amount: 10, per: "1 second" }),
      0,
      [
        [["hold", 4], 10, 6, 4, 0],
        [["limit", Limit.rate({ amount: 3, per: "1 second" })], 3, -1, 4, 0],
        [["at", 1_000], 6, 2, 4, 0],
        [["settle", 4], 6, 2, 0, 4],
        [["limit", Limit.rate({ amount: 5, per: "1 second" })], 8, 4, 0, 4]
      ]
    ],
    "a window: its edges": [
      Limit.window({ amount: 10, every: "1 minute" }),
      90_000,
      [
        [["hold", 7], 10, 3, 7, 0],
        [["settle", 7], 10, 3, 0, 7],
        [["at", 119_999], 10, 3, 0, 7],
        [["at", 120_000], 10, 10, 0, 0],
        [["hold", 10], 10, 0, 10, 0],
        [["settle", 30], 10, -20, 0, 30],
        [["at", 179_999], 10, -20, 0, 30],
        [["at", 180_000], 10, 10, 0, 0],
        [["hold", 1], 10, 9, 1, 0],
        // several windows skipped, into the middle of one
        [["at", 1_000_000], 10, 10, 0, 0],
        [["hold", 2], 10, 8, 2, 0],
        [["at", 1_019_999], 10, 8, 2, 0],
        [["at", 1_020_000], 10, 10, 0, 0]
      ]
    ],
    "a window: an old hold neither refunds into nor charges the new one": [
      Limit.window({ amount: 10, every: "1 minute" }),
      0,
      [
        [["hold", 6], 10, 4, 6, 0],
        [["hold", 3], 10, 1, 9, 0],
        [["at", 60_000], 10, 10, 0, 0],
        [["hold", 10], 10, 0, 10, 0],
        [["settle", 0], 10, 0, 10, 0],
        [["settle", 500], 10, 0, 10, 0],
        [["settle", 4], 10, 6, 0, 4]
      ]
    ],
    "a rate: a clock that steps back is waited for, and the same time gives once": [
      Limit.rate({ amount: 1, per: "1 second", burst: 10 }),
      100_000,
      [
        [["hold", 10], 10, 0, 10, 0],
        [["settle", 10], 10, 0, 0, 10],
        [["at", 102_000], 12, 2, 0, 10],
        [["at", 92_001], 12, 2, 0, 10],
        [["at", 102_000], 12, 2, 0, 10],
        [["at", 103_000], 13, 3, 0, 10]
      ]
    ],
    "a window: a clock that steps back over a boundary does not give the window twice": [
      Limit.window({ amount: 10, every: "1 minute" }),
      120_000,
      [
        [["hold", 10], 10, 0, 10, 0],
        [["settle", 10], 10, 0, 0, 10],
        [["at", 119_999], 10, 0, 0, 10],
        [["at", 60_001], 10, 0, 0, 10],
        [["at", 120_000], 10, 0, 0, 10],
        [["at", 180_000], 10, 10, 0, 0]
      ]
    ],
    "a window: a clock that jumps back": [
      Limit.window({ amount: 10, every: "1 minute" }),
      600_000,
      [
        [["hold", 7], 10, 3, 7, 0],
        [["at", 300_001], 10, 3, 7, 0],
        [["settle", 5], 10, 5, 0, 5],
        [["at", 359_999], 10, 5, 0, 5],
        [["at", 360_000], 10, 10, 0, 0]
      ]
    ],
    "a window: topped up, for this window only": [
      Limit.window({ amount: 10, every: "1 minute" }),
      0,
      [
        [["hold", 10], 10, 0, 10, 0],
        [["top up", 5], 15, 5, 10, 0],
        [["settle", 10], 15, 5, 0, 10],
        [["at", 60_000], 10, 10, 0, 0]
      ]
    ],
    "a window: another length, other boundaries": [
      Limit.window({ amount: 10, every: "1 minute" }),
      59_000,
      [
        [["hold", 4], 10, 6, 4, 0],
        [["limit", Limit.window({ amount: 12, every: "1 hour" })], 12, 8, 4, 0],
        [["at", 60_000], 12, 8, 4, 0],
        [["settle", 1], 12, 11, 0, 1],
        [["at", HOUR - 1], 12, 11, 0, 1],
        [["at", HOUR], 12, 12, 0, 0]
      ]
    ],
    "a concurrency: a slot comes back whole, whatever was used": [
      Limit.concurrency(3),
      0,
      [
        [["hold", 2], 3, 1, 2, 0],
        [["hold", 1], 3, 0, 3, 0],
        [["settle", 500], 3, 2, 1, 0],
        [["reset"], 3, 2, 1, 0],
        [["limit", Limit.concurrency(1)], 1, 0, 1, 0],
        [["top up", 5], 1, 0, 1, 0],
        [["settle", 0], 1, 1, 0, 0]
      ]
    ],
    "no limit: counted": [
      Limit.unlimited,
      0,
      [
        [["hold", 1_000], MAX, MAX - 1_000, 1_000, 0],
        [["settle", 3_000], MAX, MAX - 3_000, 0, 3_000],
        [["reset"], MAX, MAX, 0, 0]
      ]
    ],
    "a change of kind keeps what is held and spent": [
      Limit.capacity(100),
      0,
      [
        [["hold", 40], 100, 60, 40, 0],
        [["settle", 30], 100, 70, 0, 30],
        [["hold", 20], 100, 50, 20, 30],
        // 50 of 100 are left: each limit has the difference of its maximum to that
        [["limit", Limit.rate({ amount: 25, per: "1 second" })], 25, -25, 20, 30],
        [["limit", Limit.window({ amount: 50, every: "1 minute" })], 50, 0, 20, 30],
        [["limit", Limit.capacity(60)], 60, 10, 20, 30],
        [["limit", Limit.unlimited], MAX, MAX - 50, 20, 30],
        // slots only keep in mind what was spent
        [["limit", Limit.concurrency(15)], 45, -5, 20, 30],
        // and what is spent under earlier holds
        [["settle", 20], 65, 15, 0, 50],
        [["limit", Limit.capacity(35)], 35, -15, 0, 50]
      ]
    ]
  }
  for (const [name, [limit, start, rows]] of Object.entries(stories)) it(name, () => tell(limit, start, rows))

  it("counts windows and resets in the epoch", () => {
    let ledger = Ledger.make(Limit.window({ amount: 1, every: "1 second" }), 0)
    const epochs = [ledger.epoch]
    for (const now of [999, 1_000, 1_001, 50_000]) {
      ledger = Ledger.refill(ledger, now)
      epochs.push(ledger.epoch)
    }
    epochs.push(Ledger.reset(ledger, 50_001).epoch)
    assert.deepStrictEqual(epochs, [0, 0, 1, 1, 50, 51])
    assert.strictEqual(Ledger.reset(Ledger.make(Limit.capacity(1), 0), 0).epoch, 1)
    assert.strictEqual(Ledger.reset(Ledger.make(Limit.concurrency(1), 0), 0).epoch, 0)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// The end of the numbers
// ---------------------------------------------------------------------------------------------------------------------

describe("Ledger: at 2^53 - 1", () => {
  it("a capacity of all there is, spent to the last unit and overrun", () => {
    const start = Ledger.make(Limit.capacity(MAX), 0)
    const held = Ledger.hold(start, MAX)
    audit(held)
    const spent = Ledger.settle(held, MAX, 0, MAX)
    audit(spent)
    assert.strictEqual(spent.available, 0)
    assert.isUndefined(Ledger.topUp(spent, 1))
    assert.isFalse(Ledger.admits(spent, 1))
  })

  it("a charge of all there is leaves a debt that still balances", () => {
    for (const limit of [
      Limit.capacity(10),
      Limit.rate({ amount: 10, per: "1 second" }),
      Limit.window({ amount: 10, every: "1 second" })
    ]) {
      let ledger = Ledger.make(limit, 0)
      for (const amount of [4, 3, 2]) ledger = Ledger.hold(ledger, amount)
      for (const amount of [4, 3, 2]) {
        ledger = Ledger.settle(ledger, amount, 0, MAX)
        audit(ledger)
        assert.isAtMost(ledger.available, 10 - MAX)
      }
      assert.strictEqual(ledger.held, 0)
    }
  })

  it("no limit, which what was spent never makes one", () => {
    const spent = Ledger.settle(Ledger.hold(Ledger.make(Limit.unlimited, 0), 5), 5, 0, MAX)
    assert.strictEqual(spent.spent, MAX)
    assert.isTrue(Ledger.admits(spent, MAX))
    assert.strictEqual(Ledger.retryAfter(spent, MAX, 0), 0)
    const held = Ledger.hold(spent, 7)
    audit(held)
    assert.strictEqual(held.held, 7)
    assert.isTrue(Ledger.admits(held, MAX - 7))
    assert.isFalse(Ledger.admits(held, MAX - 6))
    audit(Ledger.settle(held, 7, 0, 7))
  })

  it("another limit after such a charge still balances", () => {
    const overrun = Ledger.settle(Ledger.hold(Ledger.make(Limit.capacity(10), 0), 10), 10, 0, MAX)
    for (const limit of [
      Limit.rate({ amount: 10, per: "1 second" }),
      Limit.window({ amount: 10, every: "1 second" }),
      Limit.concurrency(10),
      Limit.unlimited,
      Limit.capacity(20)
    ]) {
      audit(Ledger.setLimit(overrun, limit, 0))
    }
  })

  it("a rate that can hold no more than all there is", () => {
    const limit = Limit.rate({ amount: MAX, per: "1 day" })
    const held = Ledger.hold(Ledger.make(limit, 0), MAX)
    const later = Ledger.refill(held, DAY)
    audit(later)
    assert.strictEqual(later.available, 0)
    audit(Ledger.setLimit(later, Limit.rate({ amount: 1, per: "1 day" }), DAY))
  })

  it("a debt of all there is, paid by a refill of more than there is", () => {
    const limit = Limit.rate({ amount: MAX, per: "1 hour", burst: 5 })
    const two = Ledger.hold(Ledger.hold(Ledger.make(limit, 0), 3), 2)
    const owing = Ledger.settle(Ledger.settle(two, 3, 0, MAX), 2, 0, MAX)
    audit(owing)
    assert.isBelow(owing.available, 5 - MAX)
    const paid = Ledger.refill(owing, 3 * HOUR)
    audit(paid)
    assert.strictEqual(paid.available, 5)
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// What is told
// ---------------------------------------------------------------------------------------------------------------------

describe("Ledger: what a denial tells", () => {
  const rate = Limit.rate({ amount: 7, per: "3 seconds", burst: 14 })
  const periods = Limit.rate({ amount: 7, per: "3 seconds", burst: 14, refill: "interval" })
  const window = Limit.window({ amount: 10, every: "1 minute" })
  const table: ReadonlyArray<readonly [Limit.Limit, spend: number, now: number, amount: number, wait?: number]> = [
    [rate, 14, 0, 0, 0],
    [rate, 14, 0, 1, 429],
    [rate, 14, 0, 7, 3_000],
    [rate, 14, 0, 14, 6_000],
    [rate, 13, 0, 14, 5_572],
    [rate, 14, 428, 1, 1],
    [rate, 14, 429, 2, 429],
    [rate, 14, 0, 15],
    [rate, 0, 0, 15],
    [periods, 14, 0, 1, 3_000],
    [periods, 14, 2_999, 7, 1],
    [periods, 14, 2_999, 8, 3_001],
    [periods, 14, 3_000, 8, 3_000],
    [periods, 14, 0, 14, 6_000],
    [periods, 14, 0, 15],
    [window, 10, 0, 1, 60_000],
    [window, 10, 59_999, 1, 1],
    [window, 4, 12_345, 7, 47_655],
    [window, 4, 12_345, 6, 0],
    [window, 0, 0, 11],
    [Limit.capacity(10), 4, 0, 7],
    [Limit.capacity(10), 4, 0, 6, 0],
    [Limit.capacity(10), 4, 0, 11],
    [Limit.unlimited, 4, 0, MAX, 0]
  ]
  for (const [limit, spend, now, amount, wait] of table) {
    it(`${Limit.format(limit)}, ${spend} spent, ${amount} asked at ${now}: ${wait ?? "never"}`, () => {
      const start = Ledger.make(limit, 0)
      const ledger = Ledger.refill(Ledger.settle(Ledger.hold(start, spend), spend, 0, spend), now)
      assert.strictEqual(Ledger.retryAfter(ledger, amount, now), wait)
    })
  }

  it("what can never fit", () => {
    const { fits } = Ledger
    const half = Ledger.hold(Ledger.make(Limit.capacity(10), 0), 5)
    assert.isTrue(fits(half, 10))
    assert.isFalse(fits(half, 11))
    // who keeps 5 of it can only ever have 5 more
    assert.isTrue(fits(half, 5, 5))
    assert.isFalse(fits(half, 6, 5))
    assert.isTrue(fits(Ledger.topUp(half, 3)!, 13))
    const slots = Ledger.hold(Ledger.make(Limit.concurrency(4), 0), 3)
    assert.isTrue(fits(slots, 4))
    assert.isFalse(fits(slots, 2, 3))
    const bucket = Ledger.hold(Ledger.make(rate, 0), 14)
    assert.isTrue(fits(bucket, 14, 14))
    assert.isFalse(fits(bucket, 15))
    const full = Ledger.hold(Ledger.make(window, 0), 10)
    assert.isTrue(fits(full, 10, 10))
    assert.isFalse(fits(full, 11))
    assert.isTrue(fits(Ledger.make(Limit.unlimited, 0), MAX))
  })

  it("whether time alone changes the books", () => {
    const timed = [Limit.capacity(1), rate, window, Limit.concurrency(1), Limit.unlimited].map((limit) =>
      Ledger.isTimed(Ledger.make(limit, 0))
    )
    assert.deepStrictEqual(timed, [false, true, true, false, false])
  })

  it("the same object when nothing changed", () => {
    for (const limit of [Limit.capacity(5), rate, window, Limit.concurrency(5), Limit.unlimited]) {
      const ledger = Ledger.make(limit, 1_000)
      assert.strictEqual(Ledger.refill(ledger, 1_000), limit._tag === "Window" ? Ledger.refill(ledger, 1_000) : ledger)
      assert.strictEqual(Ledger.hold(ledger, 0), ledger)
      assert.strictEqual(Ledger.settle(ledger, 0, 0, 0), ledger)
    }
  })
})
