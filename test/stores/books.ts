/**
 * What all shared books must do, as tests that any of them runs: the same as `src/internal/shared/steps.ts` says, answer by answer,
 * and what a caller may rely on besides.
 */
import { assert, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Ledger from "../../src/Ledger.ts"
import * as Limit from "../../src/Limit.ts"
import type { StoreUnavailable } from "../../src/BudgetError.ts"
import type { Cause } from "../../src/BudgetStore.ts"
import type { Budget, HoldRequest, SettleRequest, SharedBooks } from "../../src/internal/shared/books.ts"
import * as Steps from "../../src/internal/shared/steps.ts"
import { forSeedsEffect, make as seeded, type Random } from "../utils/random.ts"

/** Empty books whose time the test sets. */
export interface Subject {
  readonly books: SharedBooks
  /** In milliseconds; also backwards. */
  readonly setTime: (now: number) => Effect.Effect<void>
}

export interface SubjectOptions {
  /** How long outcomes are kept, in milliseconds. */
  readonly keepOutcomes: number
}

/** Makes the subject of one test; `now` is where its time starts. */
export type MakeSubject<R> = (now: number, options: SubjectOptions) => Effect.Effect<Subject, never, R | Scope.Scope>

const MAX = Number.MAX_SAFE_INTEGER
const START = 1_700_000_000_000
export const KEEP_OUTCOMES = 90_000

const CAUSES: ReadonlyArray<Cause> = ["committed", "released", "succeeded", "failed", "interrupted"]

/** The same as plain data, in which durations are nanoseconds, and what is not there is not told. */
export const plain = (value: unknown): unknown => {
  if (Duration.isDuration(value)) return `${Duration.toNanosUnsafe(value)}ns`
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, part]) => (part === undefined ? [] : [[key, plain(part)]]))
  )
}

/** Opens a budget, or starts it anew. */
export const fresh = (limits: ReadonlyArray<Limit.Limit>, now: number): Budget => ({
  ledgers: limits.map((limit) => Ledger.make(limit, now)),
  declared: limits,
  settled: {
    committed: { count: 0, refunded: 0 },
    released: { count: 0, refunded: 0 },
    succeeded: { count: 0, refunded: 0 },
    failed: { count: 0, refunded: 0 },
    interrupted: { count: 0, refunded: 0 },
    expired: { count: 0, refunded: 0 }
  },
  charged: 0,
  overage: 0
})

export const open = (books: SharedBooks, name: string, ...limits: ReadonlyArray<Limit.Limit>) =>
  books.update([name], (_, now) => [fresh(limits, now)])

// ---------------------------------------------------------------------------------------------------------------------

type Change = (budgets: ReadonlyArray<Budget | undefined>, now: number) => ReadonlyArray<Budget>

/** The same operations by `steps.ts`, in memory. */
class Reference {
  readonly records: Steps.Records = {
    budgets: new Map(),
    holds: new Map(),
    keepOutcomes: KEEP_OUTCOMES,
    freed: new Set()
  }
  now = START

  /** When the outcome of an id is forgotten, also after it was. */
  readonly forgottenAt = new Map<string, number>()

  private step<A>(operation: (records: Steps.Records, now: number) => A): A {
    const due = [...this.records.holds]
      .filter(([, hold]) => hold.due <= this.now)
      .sort(([a, { due: one }], [b, { due: other }]) => one - other || (a < b ? -1 : 1))
      .map(([id]) => id)
    Steps.sweep(this.records, due, this.now)
    const answer = operation(this.records, this.now)
    for (const [id, hold] of this.records.holds) {
      if (hold.outcome === undefined) this.forgottenAt.delete(id)
      else this.forgottenAt.set(id, hold.due)
    }
    return answer
  }

  /** Whether it was forgotten, and the clock went back behind that: the books may remember it again, or not. */
  readonly isUncertain = (id: string): boolean =>
    !this.records.holds.has(id) && this.now < (this.forgottenAt.get(id) ?? 0)

  readonly hold = (request: HoldRequest) => this.step((records, now) => Steps.hold(records, request, now))
  readonly charge = (request: Parameters<typeof Steps.charge>[1]) =>
    this.step((records, now) => Steps.charge(records, request, now))
  readonly reduce = (request: Parameters<typeof Steps.reduce>[1]) =>
    this.step((records, now) => Steps.reduce(records, request, now))
  readonly settle = (request: SettleRequest) => this.step((records, now) => Steps.settle(records, request, now))
  readonly renew = (holds: Parameters<typeof Steps.renew>[1], expiresAfter: number) =>
    this.step((records, now) => Steps.renew(records, holds, expiresAfter, now))
  readonly read = (names: ReadonlyArray<string>) => this.step((records, now) => Steps.read(records, names, now))
  readonly update = (names: ReadonlyArray<string>, change: Change) =>
    this.step((records, now) => {
      change(Steps.read(records, names, now), now).forEach((budget, i) => records.budgets.set(names[i]!, budget))
    })
}

/** One operation, on the books under test and on the reference. */
interface Operation {
  readonly says: string
  readonly test: (books: SharedBooks) => Effect.Effect<unknown, StoreUnavailable>
  readonly reference: (reference: Reference) => unknown
}

interface Known {
  readonly id: string
  readonly budgets: ReadonlyArray<string>
  step: number
  /** All that was ever asked for, which bounds what is held. */
  asked: number
  amounts: ReadonlyArray<number>
}

const PERS: ReadonlyArray<Duration.Input> = ["1 second", "7 millis", "1 minute", "3 hours", "36500 days", 333]

/** A small number, a great one, or one of the edges. */
const amountOf = (random: Random, greatest: number): number =>
  Math.min(
    greatest,
    random.pick([
      () => 0,
      () => random.int(0, 5),
      () => random.int(0, 100),
      () => random.int(0, 100),
      () => random.int(0, greatest),
      () => greatest
    ])()
  )

const limitOf = (random: Random, greatest: number): Limit.Limit => {
  const amount = amountOf(random, greatest)
  switch (random.int(0, 9)) {
    case 0:
    case 1:
      return Limit.capacity(amount)
    case 2:
      return Limit.concurrency(amount)
    case 3:
      return Limit.unlimited
    case 4:
    case 5:
      return Limit.window({ amount, every: random.pick([1, 7, 1_000, 60_000, 86_400_000]) })
    default: {
      const burst = random.chance(0.5) ? undefined : Math.max(1, amountOf(random, greatest))
      const refill = random.pick(["continuous", "interval"] as const)
      const per = random.chance(0.1) ? Duration.nanos(1_234_567n) : random.pick(PERS)
      const rate = Limit.rate({ amount: Math.max(1, amount), per, burst, refill })
      // Some of the greatest amounts have no exact fraction per millisecond, and an interval is whole milliseconds.
      return Limit.problem(rate) === undefined ? rate : Limit.rate({ amount: 7, per: "3 seconds", burst, refill })
    }
  }
}

const someOf = <A>(random: Random, items: ReadonlyArray<A>): ReadonlyArray<A> =>
  random.shuffle(items).slice(0, random.int(1, items.length))

const changeOf = (random: Random, greatest: number, budgets: ReadonlyArray<string>): Change => {
  const changes = budgets.map(() => {
    const amount = amountOf(random, greatest)
    const limits = [0, 1, 2].map(() => limitOf(random, greatest))
    const level = random.int(-MAX, MAX)
    const strategy = random.pick(["additive", "keepLevel", "reset"] as const)
    const [part, behind] = [random.next(), random.pick([0, 1, random.int(0, 1e10), -random.int(0, 1e10)])]
    return random.pick<(ledger: Ledger.Ledger, i: number, now: number) => Ledger.Ledger>([
      (ledger) => Ledger.topUp(ledger, amount) ?? ledger,
      (ledger) => Ledger.replenish(ledger),
      (ledger, _, now) => Ledger.reset(ledger, now),
      (ledger, i, now) => Ledger.setLimit(ledger, limits[i]!, now, strategy),
      // Any books there could be of what is held.
      (ledger, _, now) => {
        const available = Math.min(level, Limit.maximum(ledger.limit), MAX - ledger.held)
        const { flow, limit } = ledger
        return {
          ...ledger,
          granted: available + ledger.held,
          available,
          spent: 0,
          at: flow === undefined || limit._tag !== "Rate" ? ledger.at : now - behind,
          carry:
            flow === undefined || limit._tag !== "Rate" || limit.refill === "interval"
              ? 0
              : Math.floor(part * flow.millis)
        }
      }
    ])
  })
  const again = random.chance(0.1) ? [limitOf(random, greatest), limitOf(random, greatest)] : undefined
  return (before, now) =>
    before.map((budget, i) =>
      budget === undefined
        ? fresh([Limit.capacity(100)], now)
        : again !== undefined
          ? { ...budget, declared: again }
          : { ...budget, ledgers: budget.ledgers.map((ledger, n) => changes[i]!(ledger, n, now)) }
    )
}

const operationOf = (
  random: Random,
  reference: Reference,
  names: ReadonlyArray<string>,
  known: Array<Known>,
  greatest: number,
  atOnce: boolean
): Operation => {
  const onExpiry = random.pick(["progress", "hold"] as const)
  const expiresAfter = random.pick([1, 1_000, 10_000, 60_000])
  const entriesOf = (budgets: ReadonlyArray<string>, upTo: boolean) => {
    const entries = budgets.map((budget) => {
      const amount = amountOf(random, greatest)
      return { budget, amount, ...(upTo ? { upTo: amount + amountOf(random, greatest - amount) } : undefined) }
    })
    return { entries, asked: Math.max(...entries.map(({ amount, upTo }) => upTo ?? amount)) }
  }
  const both = (
    says: string,
    parameters: unknown,
    test: Operation["test"],
    of: (reference: Reference) => unknown
  ): Operation => ({ says: `${says} ${JSON.stringify(parameters)}`, test, reference: of })

  const holdOf = (request: HoldRequest): Operation =>
    both(
      "hold",
      request,
      (books) => books.hold(request),
      (reference) => reference.hold(request)
    )
  const certain = known.filter(({ id }) => !reference.isUncertain(id))
  const one = certain.length === 0 ? undefined : random.pick(certain)
  const fresher = (): Operation => {
    const { asked, entries } = entriesOf(someOf(random, names), random.chance(0.3))
    // Some ids are of another budget's, or of an unopened one.
    const id = `hold ${known.length}:${random.int(0, 99)}`
    known.push({
      id,
      budgets: entries.map(({ budget }) => budget),
      step: 0,
      asked,
      amounts: entries.map(({ amount }) => amount)
    })
    return holdOf({ id, step: 0, entries, expiresAfter, onExpiry })
  }
  if (one === undefined) return fresher()
  const held = reference.records.holds.get(one.id)
  const chargesOf = () => (random.chance(0.3) ? undefined : one.budgets.map(() => amountOf(random, greatest)))

  switch (random.int(0, 15)) {
    case 0:
    case 1:
    case 2:
    case 3:
      return fresher()
    case 4:
    case 5: {
      // An extension, or one that was sent before.
      const { asked, entries } = entriesOf(one.budgets, random.chance(0.3))
      const again = random.chance(0.2) || one.asked > MAX - asked
      if (!again) {
        one.step++
        one.asked += asked
      }
      return holdOf({ id: one.id, step: one.step, entries, expiresAfter, onExpiry })
    }
    case 6: {
      if (held === undefined || held.outcome !== undefined) return fresher()
      if (!random.chance(0.2)) one.step++
      const amounts = held.entries.map((entry) =>
        random.pick([0, Steps.heldOf(entry), random.int(0, Steps.heldOf(entry))])
      )
      const request = { id: one.id, step: one.step, amounts }
      return both(
        "reduce",
        request,
        (books) => books.reduce(request),
        (reference) => reference.reduce(request)
      )
    }
    case 7:
    case 8:
    case 9:
    case 10: {
      const request: SettleRequest = {
        id: random.chance(0.05) ? `never seen ${random.int(0, MAX)}` : one.id,
        cause: random.pick(CAUSES),
        charges: chargesOf(),
        entries: one.budgets.map((budget, i) => ({ budget, amount: one.amounts[i]! }))
      }
      return both(
        "settle",
        request,
        (books) => books.settle(request),
        (reference) => reference.settle(request)
      )
    }
    case 11: {
      const { asked, entries } = entriesOf(someOf(random, names), false)
      const again = random.chance(0.3)
      const request = { id: again ? one.id : `charge ${known.length}`, entries }
      const amounts = entries.map(({ amount }) => amount)
      if (!again) known.push({ id: request.id, budgets: entries.map(({ budget }) => budget), step: 0, asked, amounts })
      return both(
        "charge",
        request,
        (books) => books.charge(request),
        (reference) => reference.charge(request)
      )
    }
    case 12:
    case 13: {
      const holds = someOf(random, certain).map(({ budgets, id }) => ({
        id,
        progress: random.chance(0.3) ? undefined : budgets.map(() => amountOf(random, greatest))
      }))
      return both(
        "renew",
        { holds, expiresAfter },
        (books) => books.renew(holds, expiresAfter),
        (reference) => reference.renew(holds, expiresAfter)
      )
    }
    default: {
      // A change reads and writes, and others may come between.
      if (atOnce) return fresher()
      const budgets = someOf(random, names.slice(0, -1))
      const change = changeOf(random.fork(), greatest, budgets)
      return both(
        "update",
        budgets,
        (books) => books.update(budgets, change),
        (reference) => reference.update(budgets, change)
      )
    }
  }
}

/** Where to set the clock next: to what happens next, or anywhere, also back. */
const timeOf = (random: Random, reference: Reference): number => {
  const { now, records } = reference
  const edges = [
    ...[...records.holds.values()].map(({ due }) => due),
    ...[...records.budgets.values()].flatMap(({ ledgers }) =>
      ledgers.flatMap(({ at, flow }) => (flow === undefined ? [] : [at + flow.millis]))
    )
  ].filter((edge) => edge >= now && edge < now + 1e12)
  // As far back as a bucket fills in.
  const back = [...records.budgets.values()]
    .flatMap(({ ledgers }) =>
      ledgers.map(({ at, flow, limit }) =>
        flow === undefined || limit._tag !== "Rate"
          ? NaN
          : at - Number((BigInt(limit.burst) * BigInt(flow.millis)) / BigInt(flow.units))
      )
    )
    .filter((edge) => edge > 0 && edge < now)
  return random.pick([
    () => now,
    () => now,
    () => now + random.int(1, 10),
    () => now + random.int(1, 5_000),
    () => now + random.int(1, 200_000),
    () => now + random.int(1, 1e10),
    () => (edges.length === 0 ? now : random.pick(edges) + random.int(-1, 1)),
    () => (back.length === 0 ? now : random.pick(back) + random.int(-1, 1)),
    () => Math.max(0, now - random.int(1, 2_000)),
    () => Math.max(0, now - random.int(1, 1e8))
  ])()
}

export interface DifferentialOptions {
  readonly seeds: number
  readonly steps: number
  /** Asks for up to so many operations at once, for books that take them in the order in which they are asked for. Default 1. */
  readonly atOnce?: number | undefined
}

/** What the operations of random programs answer, and the books after each, against the reference. */
export const differential = <R>(make: MakeSubject<R>, options: DifferentialOptions) =>
  forSeedsEffect(options.seeds, (seed) =>
    Effect.gen(function* () {
      const random = seeded(seed)
      const reference = new Reference()
      const { books, setTime } = yield* make(START, { keepOutcomes: KEEP_OUTCOMES })
      const greatest = random.pick([20, 1_000, MAX])
      // The last one is never opened.
      const names = ["rows", "tokens of a, b; c", "größe\n{x}:%", "nobody's"].slice(random.int(0, 2))
      const opened = names.slice(0, -1)
      const limits = opened.map(() => Array.from({ length: random.int(1, 3) }, () => limitOf(random, greatest)))
      const opening: Change = (_, now) => limits.map((of) => fresh(of, now))
      yield* books.update(opened, opening)
      reference.update(opened, opening)

      const known: Array<Known> = []
      const past: Array<string> = []
      for (let i = 0; i < options.steps; i++) {
        reference.now = timeOf(random, reference)
        yield* setTime(reference.now)
        const expected: Array<unknown> = []
        const operations = Array.from({ length: random.int(1, options.atOnce ?? 1) }, () => {
          const operation = operationOf(random, reference, names, known, greatest, options.atOnce !== undefined)
          past.push(`at ${reference.now} ${operation.says}`)
          expected.push(plain(operation.reference(reference)))
          return operation
        })
        const story = () => past.slice(-12).join("\n")
        const answers = yield* Effect.forEach(operations, ({ test }) => test(books), { concurrency: "unbounded" })
        assert.deepStrictEqual(answers.map(plain), expected, `the answers to step ${i} of\n${story()}`)
        const shown = plain(yield* books.read(names))
        assert.deepStrictEqual(shown, plain(reference.read(names)), `the books after step ${i} of\n${story()}`)
      }
    }).pipe(Effect.scoped)
  )

// ---------------------------------------------------------------------------------------------------------------------

const holdOf = (
  id: string,
  entries: Readonly<Record<string, number>>,
  options?: { readonly step?: number; readonly expiresAfter?: number }
): HoldRequest => ({
  id,
  step: options?.step ?? 0,
  entries: Object.entries(entries).map(([budget, amount]) => ({ budget, amount })),
  expiresAfter: options?.expiresAfter ?? 60_000,
  onExpiry: "progress"
})

const settleOf = (request: HoldRequest, cause: Cause, charges?: ReadonlyArray<number>): SettleRequest => ({
  id: request.id,
  cause,
  charges,
  entries: request.entries
})

export { holdOf as hold, settleOf as settle }

/** The tests that all shared books run. */
export const suite = <R>(
  make: MakeSubject<R>,
  run: <E>(effect: Effect.Effect<void, E, R | Scope.Scope>) => Effect.Effect<void, E>,
  options?: { readonly seeds?: number; readonly steps?: number }
): void => {
  it.live("answers random programs as the reference does", () =>
    run(differential(make, { seeds: options?.seeds ?? 60, steps: options?.steps ?? 60 }))
  )

  it.live("a step sent again changes nothing and answers the same", () =>
    run(
      Effect.gen(function* () {
        const { books } = yield* make(START, { keepOutcomes: KEEP_OUTCOMES })
        yield* open(books, "rows", Limit.capacity(100))
        const shown = Effect.map(books.read(["rows"]), ([budget]) => budget!.ledgers[0]!)
        const twice = <A>(effect: Effect.Effect<A, StoreUnavailable>) =>
          Effect.gen(function* () {
            const first = yield* effect
            const after = yield* shown
            assert.deepStrictEqual(yield* effect, first)
            assert.deepStrictEqual(plain(yield* shown), plain(after))
            return first
          })
        const request = holdOf("one", { rows: 40 })
        assert.deepStrictEqual(yield* twice(books.hold(request)), { _tag: "Held", amounts: [40] })
        yield* twice(books.hold(holdOf("one", { rows: 20 }, { step: 1 })))
        yield* twice(books.reduce({ id: "one", step: 2, amounts: [10] }))
        assert.strictEqual((yield* shown).held, 50)
        yield* twice(books.settle(settleOf(request, "committed", [30])))
        // Another cause or charge comes too late to change it.
        const again = yield* books.settle(settleOf(request, "released", [0]))
        assert.deepStrictEqual(again, {
          _tag: "Settled",
          cause: "committed",
          charges: [30],
          overran: [],
          late: false
        })
        yield* twice(books.charge({ id: "two", entries: [{ budget: "rows", amount: 5 }] }))
        const { available, held, spent } = yield* shown
        assert.deepStrictEqual({ available, held, spent }, { available: 65, held: 0, spent: 35 })
      })
    )
  )

  it.live("several budgets are held all together or not at all", () =>
    run(
      Effect.gen(function* () {
        const { books } = yield* make(START, { keepOutcomes: KEEP_OUTCOMES })
        yield* open(books, "wide", Limit.capacity(100))
        yield* open(books, "narrow", Limit.capacity(10), Limit.concurrency(3))
        const denied = yield* books.hold(holdOf("one", { wide: 4, narrow: 4 }))
        assert.strictEqual(denied._tag, "Denied")
        const before = yield* books.read(["wide", "narrow"])
        assert.deepStrictEqual(
          before.flatMap((budget) => budget!.ledgers.map(({ held }) => held)),
          [0, 0, 0]
        )
        yield* books.hold(holdOf("two", { wide: 3, narrow: 3 }))
        const after = yield* books.read(["wide", "narrow"])
        assert.deepStrictEqual(
          after.flatMap((budget) => budget!.ledgers.map(({ held }) => held)),
          [3, 3, 3]
        )
        assert.deepStrictEqual(yield* books.hold(holdOf("three", { wide: 1, missing: 1 })), { _tag: "Unopened" })
      })
    )
  )

  it.live("a refill whose product leaves the safe integers is exact to the unit", () =>
    run(
      Effect.gen(function* () {
        const { books } = yield* make(START, { keepOutcomes: KEEP_OUTCOMES })
        const limits = (["continuous", "interval"] as const).map((refill) =>
          Limit.rate({ amount: 3, per: "1 milli", burst: 10, refill })
        )
        // 3 each millisecond make 2^53 + 1, which is no double, against a debt of 2^53 - 1.
        yield* books.update(["rows"], (_, now) => {
          const budget = fresh(limits, now)
          const indebted = { granted: -MAX, available: -MAX, at: now - 3_002_399_751_580_331 }
          return [{ ...budget, ledgers: budget.ledgers.map((ledger) => ({ ...ledger, ...indebted })) }]
        })
        // What holds writes the refilled books.
        yield* books.hold(holdOf("one", { rows: 0 }))
        const [budget] = yield* books.read(["rows"])
        assert.deepStrictEqual(
          budget!.ledgers.map(({ available }) => available),
          [2, 2]
        )
      })
    )
  )

  it.live("200 at once of 7 each take 994 of 1,000", () =>
    run(
      Effect.gen(function* () {
        const { books } = yield* make(START, { keepOutcomes: KEEP_OUTCOMES })
        yield* open(books, "rows", Limit.capacity(1_000))
        const answers = yield* Effect.forEach(
          Array.from({ length: 200 }, (_, i) => holdOf(`hold ${i}`, { rows: 7 })),
          (request) => books.hold(request),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(answers.filter(({ _tag }) => _tag === "Held").length, 142)
        const [budget] = yield* books.read(["rows"])
        const { available, held, spent } = budget!.ledgers[0]!
        assert.deepStrictEqual({ available, held, spent }, { available: 6, held: 994, spent: 0 })
      })
    )
  )

  it.live("changes at once do not lose each other", () =>
    run(
      Effect.gen(function* () {
        const { books } = yield* make(START, { keepOutcomes: KEEP_OUTCOMES })
        yield* open(books, "rows", Limit.capacity(1_000))
        const topUp = books.update(["rows"], ([budget]) => [
          { ...budget!, ledgers: budget!.ledgers.map((ledger) => Ledger.topUp(ledger, 10)!) }
        ])
        const pair = (i: number) => {
          const request = holdOf(`hold ${i}`, { rows: 3 })
          return Effect.andThen(books.hold(request), books.settle(settleOf(request, "committed", [1])))
        }
        yield* Effect.forEach(
          Array.from({ length: 100 }, (_, i) => (i % 5 === 0 ? topUp : pair(i))),
          (effect) => effect,
          { concurrency: 50, discard: true }
        )
        const [budget] = yield* books.read(["rows"])
        const { granted, held, spent } = budget!.ledgers[0]!
        assert.deepStrictEqual({ granted, held, spent }, { granted: 1_200, held: 0, spent: 80 })
      })
    )
  )

  it.live("a change that throws is a defect, and leaves the books as they were", () =>
    run(
      Effect.gen(function* () {
        const { books } = yield* make(START, { keepOutcomes: KEEP_OUTCOMES })
        yield* open(books, "rows", Limit.capacity(10))
        const before = plain(yield* books.read(["rows"]))
        const defect = new RangeError("no")
        const thrown = yield* books
          .update(["rows"], () => {
            throw defect
          })
          .pipe(Effect.catchDefect((defect) => Effect.succeed(defect)))
        assert.strictEqual(thrown, defect)
        assert.deepStrictEqual(plain(yield* books.read(["rows"])), before)
      })
    )
  )
}
