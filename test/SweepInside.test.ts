/**
 * Interrupts every construct that takes a hold from inside: at each step of its fiber, by a hook of its scheduler or its tracer.
 * Whatever interrupts, and when: nothing stays held, the books balance, nobody waits for ever.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Scope, Semaphore, Stream, TxQueue } from "effect"
import { TestClock } from "effect/testing"
import {
  Budget,
  BudgetGuard,
  BudgetPool,
  Limit,
  Policy,
  Usd,
  type BudgetError,
  type BudgetStore,
  type Reservation
} from "../src/index.ts"
import {
  inMemory,
  openQuota,
  type Mode,
  type Probe,
  type QuotaManifest,
  QuotaToken,
  type Scene,
  sweepInside
} from "./utils/sweepInside.ts"

type Failure = BudgetError.BudgetExceeded | BudgetError.FailedReservation

// ---------------------------------------------------------------------------------------------------------------- the amounts

/** What every limit allows. */
const ALL = 10
/** What a construct takes, and what it charges if it says so. */
const SOME = 6
const CHARGED = 1
/** What a bystander waits for while `SOME` is held. */
const REST = 5

// ----------------------------------------------------------------------------------------------------------------- the limits

/** `timed`: time alone gives back what is spent. */
interface Kind {
  readonly limits: readonly [Limit.Limit, ...Array<Limit.Limit>]
  readonly timed?: true
}

const kindsOf = (amount: number) =>
  ({
    capacity: { limits: [Limit.capacity(amount)] },
    rate: { limits: [Limit.rate({ amount, per: "1 hour" })], timed: true },
    "rate by interval": { limits: [Limit.rate({ amount, per: "1 hour", refill: "interval" })], timed: true },
    window: { limits: [Limit.window({ amount, every: "1 hour" })], timed: true },
    concurrency: { limits: [Limit.concurrency(amount)] },
    "rate and concurrency": {
      limits: [Limit.rate({ amount, per: "1 hour" }), Limit.concurrency(amount)],
      timed: true
    }
  }) satisfies Record<string, Kind>

type KindName = keyof ReturnType<typeof kindsOf>
const kinds: Readonly<Record<KindName, Kind>> = kindsOf(ALL)
const raised: Readonly<Record<KindName, Kind>> = kindsOf(2 * ALL)
const allKinds = Object.keys(kinds) as ReadonlyArray<KindName>
const isTimed = (kind: KindName): boolean => "timed" in kinds[kind]
/** A quota has one limit. */
const singleKinds = allKinds.filter((kind) => kinds[kind].limits.length === 1)

// -------------------------------------------------------------------------------------------- what is swept, and on which books

/** What is swept. `inside` is the work that the hold is for. */
type Construct = (inside: Effect.Effect<void>) => {
  readonly program: Effect.Effect<unknown, Failure>
  /** What is wrong in the end, apart from the books. */
  readonly problem?: Effect.Effect<string | undefined>
}

/** One budget below a subject, as others use it. What they hold comes back when their scope ends, however it ends. */
interface Member {
  readonly hold: (amount: number) => Effect.Effect<unknown, Failure, Scope.Scope>
  readonly charge: (amount: number) => Effect.Effect<unknown, Failure>
  /** Makes room by a top-up, or by a higher limit where there is nothing to top up. */
  readonly raise: Effect.Effect<unknown, unknown>
  /** Emits after every change of the books. A pool has no such stream. */
  readonly changes?: Stream.Stream<unknown>
}

interface Subject<Names extends string> {
  readonly constructs: Readonly<Record<Names, Construct>>
  /** At least one. */
  readonly members: ReadonlyArray<Member>
  /** What is wrong with the books. Reads all of them before it answers, so that a transaction can watch them. */
  readonly problem: Effect.Effect<string | undefined>
}

interface Settings {
  readonly kind: KindName
  readonly enforcement: BudgetStore.Enforcement
  readonly order: BudgetStore.Order
}

interface SubjectType<Names extends string> {
  readonly kinds: ReadonlyArray<KindName>
  readonly open: (settings: Settings) => Effect.Effect<Subject<Names>, never, Scope.Scope>
}

/** All is given back or charged, nobody waits, and the books balance. */
const unbalanced = (snapshots: ReadonlyArray<BudgetStore.Snapshot>): string | undefined => {
  for (const { budget, ledgers, waiters } of snapshots) {
    for (const { available, granted, held, spent } of ledgers) {
      if (held !== 0) return `${held} of "${budget}" still held`
      if (available + held + spent !== granted) return `"${budget}" does not balance`
      if (available < 0) return `"${budget}" is overspent`
    }
    if (waiters !== 0) return `${waiters} still wait for "${budget}"`
  }
  return undefined
}

const released = { onSuccess: "release" } as const

const reservable = ["reserve", "reserveUpTo", "withReservation", "withReservation and commit", "extend"] as const

/** The constructs of everything that can be reserved. */
const constructsOf = <A>(of: Reservation.Reservable<A>, amount: (n: number) => A) =>
  ({
    reserve: (inside) => ({
      program: Effect.scoped(Effect.andThen(of.reserve(amount(SOME), released), inside))
    }),
    reserveUpTo: (inside) => ({
      program: Effect.scoped(Effect.andThen(of.reserveUpTo(amount(SOME), amount(SOME + 1), released), inside))
    }),
    withReservation: (inside) => ({ program: of.withReservation(amount(SOME), () => inside, released) }),
    "withReservation and commit": (inside) => ({
      program: of.withReservation(amount(SOME), (r) => Effect.andThen(inside, r.commit(amount(CHARGED))))
    }),
    extend: (inside) => ({
      program: of.withReservation(amount(1), (r) => Effect.andThen(r.extend(amount(SOME)), inside), released)
    }),
    reserveTx: (inside) => {
      const jobs = Effect.runSync(TxQueue.unbounded<string>())
      Effect.runSync(TxQueue.offer(jobs, "job"))
      let done = 0
      const take = of.reserveTx(amount(SOME), TxQueue.take(jobs), {
        ...released,
        undo: (job) => TxQueue.offer(jobs, job)
      })
      // The scope decides for the job as it does for the hold: it is done if the scope ends in success.
      const finish = Effect.addFinalizer((exit) => Effect.sync(() => Exit.isSuccess(exit) && done++))
      return {
        program: Effect.scoped(Effect.andThen(Effect.andThen(finish, take), inside)),
        problem: Effect.map(TxQueue.size(jobs), (left) =>
          left + done === 1 ? undefined : `the job is ${left} times in the queue and was done ${done} times`
        )
      }
    }
  }) satisfies Record<string, Construct>

/** How much has to be free for the others to hold, so that the first part of an extension is had at once. */
const heldByOthers = (construct: string): number => (construct === "extend" ? ALL - 1 : ALL)

const budgetMember = (budget: Budget.Books & Reservation.Reservable<number>, kind: KindName): Member => ({
  hold: (amount) => budget.reserve(amount, released),
  charge: (amount) => budget.withReservation(amount, () => Effect.void),
  // Slots have nothing to top up.
  raise: kind.includes("concurrency") ? budget.setLimit(raised[kind].limits) : budget.topUp(ALL),
  changes: budget.changes
})

const booksOf = (...budgets: ReadonlyArray<Budget.Books>): Effect.Effect<string | undefined> =>
  Effect.map(
    Effect.forEach(budgets, (budget) => budget.snapshot),
    unbalanced
  )

const openBudget = (name: string, { enforcement, kind, order }: Settings) =>
  Budget.make({ name, limit: kinds[kind].limits, enforcement, order })

const budgets = {
  kinds: allKinds,
  open: (settings) =>
    Effect.map(inMemory(openBudget("budget", settings)), (budget) => ({
      constructs: {
        ...constructsOf(budget, (n) => n),
        tryReserve: (inside: Effect.Effect<void>) => ({
          program: Effect.scoped(Effect.andThen(budget.tryReserve(SOME, released), inside))
        })
      },
      members: [budgetMember(budget, settings.kind)],
      problem: booksOf(budget)
    }))
} satisfies SubjectType<string>

const guards = {
  kinds: allKinds,
  open: ({ enforcement, kind, order }) =>
    Effect.map(
      inMemory(BudgetGuard.make({ name: "guard", limit: kinds[kind].limits, enforcement, order })),
      (guard) => ({
        constructs: {
          "the pair": (inside: Effect.Effect<void>) => ({
            program: Effect.acquireUseRelease(
              guard.tryReserve(SOME),
              () => inside,
              (taken) => (taken ? guard.release(SOME) : Effect.void)
            )
          })
        },
        members: [budgetMember(guard, kind)],
        problem: booksOf(guard)
      })
    )
} satisfies SubjectType<string>

class A extends Budget.Service<A>()("swept/A") {}
class B extends Budget.Service<B>()("swept/B") {}
class C extends Budget.Service<C>()("swept/C") {}
class Two extends Policy.Service<Two>()("swept/Two", { a: A, b: B }) {}
class Three extends Policy.Service<Three>()("swept/Three", { a: A, b: B, c: C }) {}
class Nested extends Policy.Service<Nested>()("swept/Nested", { two: Two, c: C }) {}

/** A policy over budgets of one store. */
const openPolicy = <P>(settings: Settings, policy: Layer.Layer<P, never, A | B | C>, count: 2 | 3) =>
  Effect.gen(function* () {
    const [a, b, c] = yield* Effect.forEach(["a", "b", "c"], (name) => openBudget(name, settings))
    const services = Context.make(A, a!).pipe(Context.add(B, b!), Context.add(C, c!))
    const budgets = [a!, b!, c!].slice(0, count)
    return {
      context: yield* Effect.provideContext(Layer.build(Layer.fresh(policy)), services),
      members: budgets.map((budget) => budgetMember(budget, settings.kind)),
      problem: booksOf(...budgets)
    }
  }).pipe(inMemory)

const policiesOfTwo = {
  kinds: allKinds,
  open: (settings) =>
    Effect.map(openPolicy(settings, Two.layer, 2), ({ context, members, problem }) => {
      const policy = Context.get(context, Two)
      return {
        constructs: {
          ...constructsOf(policy, (n) => ({ a: n, b: n })),
          tryReserve: (inside: Effect.Effect<void>) => ({
            program: Effect.scoped(Effect.andThen(policy.tryReserve({ a: SOME, b: SOME }, released), inside))
          })
        },
        members,
        problem
      }
    })
} satisfies SubjectType<string>

/** More members make no other kind of step: the two limits that differ most are enough. */
const fewKinds: ReadonlyArray<KindName> = ["capacity", "rate and concurrency"]

const policiesOfThree = {
  kinds: fewKinds,
  open: (settings) =>
    Effect.map(openPolicy(settings, Three.layer, 3), ({ context, members, problem }) => ({
      constructs: constructsOf(Context.get(context, Three), (n) => ({ a: n, b: n, c: n })),
      members,
      problem
    }))
} satisfies SubjectType<string>

const nestedLayer = Layer.provide(Nested.layer, Two.layer)

const nestedPolicies = {
  kinds: fewKinds,
  open: (settings) =>
    Effect.map(openPolicy(settings, nestedLayer, 3), ({ context, members, problem }) => ({
      constructs: constructsOf(Context.get(context, Nested), (n) => ({ two: { a: n, b: n }, c: n })),
      members,
      problem
    }))
} satisfies SubjectType<string>

const usage = (input: number): BudgetPool.Usage => ({ input, output: 0, cost: Usd.nanos(input) })

/** The caps of a pool are capacities. */
const pools = {
  kinds: ["capacity"],
  open: ({ enforcement, order }) =>
    Effect.map(
      inMemory(BudgetPool.make({ name: "pool", caps: { input: ALL, total: ALL }, enforcement, order })),
      (pool) => ({
        constructs: {
          ...constructsOf(pool, usage),
          tryReserve: (inside: Effect.Effect<void>) => ({
            program: Effect.scoped(Effect.andThen(pool.tryReserve(usage(SOME), released), inside))
          }),
          record: (inside: Effect.Effect<void>) => ({
            program: Effect.andThen(Effect.ignore(pool.record(usage(CHARGED))), inside)
          })
        },
        members: [
          {
            hold: (amount: number) => pool.reserve(usage(amount), released),
            charge: (amount: number) => pool.record(usage(amount)),
            raise: pool.setCaps({ input: 2 * ALL, total: 2 * ALL })
          }
        ],
        problem: Effect.map(pool.snapshot, (snapshot) => {
          const [input, total] = [snapshot.input.ledgers[0].spent, snapshot.total.ledgers[0].spent]
          return input === total ? unbalanced(Object.values(snapshot)) : "the caps were charged apart from each other"
        })
      })
    )
} satisfies SubjectType<string>

const EXPECTED = 10

const tokens = {
  kinds: singleKinds,
  open: ({ enforcement, kind }) =>
    Effect.gen(function* () {
      const resource = (limit: Limit.Limit): QuotaManifest.Resource => ({
        limit,
        enforcement,
        unit: "unit",
        units: "units"
      })
      const quota = yield* openQuota({ units: resource(kinds[kind].limits[0]) })
      const token = yield* quota.acquire("units", { expectedUse: EXPECTED })
      const others = yield* quota.acquire("units", { expectedUse: EXPECTED })
      return {
        constructs: {
          reserve: (inside: Effect.Effect<void>) => ({
            program: Effect.scoped(Effect.andThen(token.reserve(SOME, released), inside))
          }),
          withReservation: (inside: Effect.Effect<void>) => ({
            program: token.withReservation(SOME, () => inside, released)
          }),
          "withReservation that says what it used": (inside: Effect.Effect<void>) => ({
            program: token.withReservation(SOME, () => Effect.as(inside, QuotaToken.used(CHARGED, undefined)))
          }),
          extend: (inside: Effect.Effect<void>) => ({
            program: token.withReservation(1, (r) => Effect.andThen(r.extend(SOME), inside), released)
          }),
          split: (inside: Effect.Effect<void>) => ({
            program: Effect.scoped(
              Effect.flatMap(token.split(4), (child) =>
                child.withReservation(SOME, () => Effect.andThen(Effect.scoped(child.split(1)), inside), released)
              )
            )
          }),
          merge: (inside: Effect.Effect<void>) => ({
            program: Effect.gen(function* () {
              const child = yield* token.split(4)
              const other = yield* token.split(5)
              yield* other.reserve(SOME, released)
              yield* child.merge(other)
              yield* inside
            }).pipe(Effect.scoped)
          })
        },
        members: [
          {
            hold: (amount: number) => others.reserve(amount, released),
            charge: (amount: number) => others.withReservation(amount, () => Effect.void),
            raise: quota.update("units", resource(raised[kind].limits[0])),
            changes: quota.usageChanges
          }
        ],
        problem: Effect.gen(function* () {
          const units = (yield* quota.usage)["units"]!
          const expected = yield* token.expectedUse
          if (expected !== EXPECTED) return `an expected use of ${expected} is left`
          if (units.tokens !== 2) return `${units.tokens} tokens are left`
          const { available, granted, held, spent, waiters } = units
          if (held !== 0) return `${held} still held`
          if (available + held + spent !== granted) return "the quota does not balance"
          return waiters === 0 ? undefined : `${waiters} still wait`
        })
      } as const
    }).pipe(Effect.orDie)
} satisfies SubjectType<string>

// ------------------------------------------------------------------------------------------------------------- the situations

interface Others {
  readonly waits?: boolean
  readonly wake?: Effect.Effect<unknown, unknown>
  readonly bystander?: Effect.Effect<unknown, unknown>
  /** Whether the bystander is there before the program; else it comes while the program works. */
  readonly first?: true
  readonly after?: Effect.Effect<unknown>
}

interface Situation {
  readonly enforcement: BudgetStore.Enforcement
  readonly order?: BudgetStore.Order
  /** Only of limits that time refills. */
  readonly timed?: true
  readonly others: (members: Subject<string>["members"], amount: number) => Effect.Effect<Others, unknown, Scope.Scope>
}

/** Everybody else holds `amount` of each member. Answers what gives it back, member by member. */
const holdOfEach = (members: ReadonlyArray<Member>, amount: number) =>
  Effect.map(
    Effect.forEach(members, (member) =>
      Effect.flatMap(Scope.make(), (scope) => Effect.as(Scope.provide(member.hold(amount), scope), scope))
    ),
    (scopes) => Effect.forEach(scopes, (scope) => Scope.close(scope, Exit.fail("refund")))
  )

const situations = {
  "has room": { enforcement: "reject", others: () => Effect.succeed({}) },
  "has room, and somebody waits for what it holds": {
    enforcement: "throttle",
    others: (members) => Effect.succeed({ bystander: Effect.scoped(members[0]!.hold(REST)) })
  },
  "passes somebody who waits for more": {
    enforcement: "throttle",
    order: "firstFit",
    others: (members) =>
      Effect.map(holdOfEach(members.slice(0, 1), 2), (refund) => ({
        first: true as const,
        waits: false,
        bystander: Effect.scoped(members[0]!.hold(ALL - CHARGED)),
        wake: refund
      }))
  },
  "waits, and a settlement grants it": {
    enforcement: "throttle",
    others: (members, amount) => Effect.map(holdOfEach(members, amount), (refund) => ({ waits: true, wake: refund }))
  },
  "waits, and time grants it": {
    enforcement: "throttle",
    timed: true,
    others: (members, amount) =>
      Effect.as(
        Effect.forEach(members, (member) => member.charge(amount)),
        { waits: true, wake: TestClock.adjust("1 hour") }
      )
  },
  "waits, and a top-up grants it": {
    enforcement: "throttle",
    others: (members, amount) =>
      Effect.map(holdOfEach(members, amount), (refund) => ({
        waits: true,
        wake: Effect.forEach(members, (member) => member.raise),
        after: refund
      }))
  }
} satisfies Record<string, Situation>

type SituationName = keyof typeof situations
const allSituations = Object.keys(situations) as ReadonlyArray<SituationName>
/** For constructs that never wait. */
const withRoom = allSituations.filter((name) => !name.startsWith("waits"))
const withoutPassing = allSituations.filter((name) => !name.startsWith("passes"))

/**
 * Watches the books until the scene ends: a listener of each stream of changes, and a transaction that waits for the next change.
 * A step that changes the books then hands over tasks that wake them. So the hook of `scheduleTask` is reached within the step,
 * also where a settlement runs its waiters at once and hands over no task for them.
 */
const watch = ({ members, problem }: Pick<Subject<string>, "members" | "problem">) =>
  Effect.gen(function* () {
    for (const { changes } of members) {
      if (changes !== undefined) yield* Effect.forkScoped(Stream.runDrain(changes))
    }
    yield* Effect.forkScoped(Effect.tx(Effect.andThen(problem, Effect.txRetry)))
  })

const sceneOf =
  <Names extends string>(
    type: SubjectType<Names>,
    construct: Names,
    name: SituationName,
    kind: KindName,
    { watched }: { readonly watched: boolean }
  ): Probe =>
  (arrive) =>
    Effect.gen(function* () {
      const situation: Situation = situations[name]
      const { enforcement, order = "fifo" } = situation
      const subject = yield* type.open({ kind, enforcement, order })
      const others: Others = yield* situation.others(subject.members, heldByOthers(construct))
      if (watched) yield* watch(subject)
      const inside = Effect.withSpan(Effect.andThen(Effect.yieldNow, others.first ? Effect.void : arrive), "inside", {
        captureStackTrace: false
      })
      const { problem = Effect.undefined, program } = subject.constructs[construct](inside)
      return {
        ...others,
        program: others.first ? Effect.andThen(arrive, program) : program,
        problem: Effect.flatMap(subject.problem, (found) => (found === undefined ? problem : Effect.succeed(found)))
      } satisfies Scene
    }).pipe(Effect.orDie)

// ------------------------------------------------------------------------------------------------------------------ the tests

/** The kinds of a subject that a situation can have. */
const kindsIn = (kinds: ReadonlyArray<KindName>, name: SituationName): ReadonlyArray<KindName> => {
  const { timed }: Situation = situations[name]
  return timed ? kinds.filter((kind) => isTimed(kind)) : kinds
}

/**
 * Every limit is swept by the scheduler's hooks of the program. What the tracer and the other fibers reach are the same steps of
 * the engine, whatever the limit is: one limit tells as much as all, and takes less time.
 */
const runsOf = (kinds: ReadonlyArray<KindName>, name: SituationName): ReadonlyArray<readonly [KindName, Mode]> => {
  const one = kinds.slice(-1)
  const all = (kinds: ReadonlyArray<KindName>, hook: Mode["hook"], victim: Mode["victim"]) =>
    kinds.map((kind) => [kind, { hook, victim }] as const)
  const ofItself = [
    ...all(kinds, "shouldYield", "itself"),
    ...all(kinds, "scheduleTask", "itself"),
    ...all(one, "tracer", "itself")
  ]
  // With nobody else there, nobody else can be interrupted.
  if (name === "has room") return ofItself
  return [
    ...ofItself,
    ...all(one, "shouldYield", "waiter"),
    ...all(kinds, "scheduleTask", "waiter"),
    ...all(one, "tracer", "waiter")
  ]
}

const swept = (probe: Probe, mode: Mode, what: string): Effect.Effect<ReadonlyArray<string>> =>
  Effect.map(sweepInside(probe, mode), ({ interrupted, problems }) =>
    interrupted > 0
      ? problems.map((problem) => `${what}, ${problem}`)
      : [`${what}, ${mode.hook} (${mode.victim}): nothing was interrupted`]
  )

const suite = <Names extends string>(
  subject: string,
  type: SubjectType<Names>,
  constructs: ReadonlyArray<Names>,
  names: ReadonlyArray<SituationName> = allSituations
): void => {
  for (const construct of constructs) {
    for (const name of names) {
      const kinds = kindsIn(type.kinds, name)
      if (kinds.length === 0) continue
      it.effect(
        `${construct} of ${subject} that ${name} leaves nothing behind when it is interrupted at any step`,
        () =>
          Effect.gen(function* () {
            const problems: Array<string> = []
            for (const [kind, mode] of runsOf(kindsIn(type.kinds, name), name)) {
              const watched = mode.hook === "scheduleTask"
              problems.push(...(yield* swept(sceneOf(type, construct, name, kind, { watched }), mode, kind)))
            }
            assert.deepStrictEqual(problems, [])
          })
      )
    }
  }
}

describe("a budget", () => {
  suite("a budget", budgets, [...reservable, "reserveTx"])
  suite("a budget", budgets, ["tryReserve"], withRoom)
})

describe("a guard", () => {
  suite("a guard", guards, ["the pair"], withRoom)
})

describe("a policy", () => {
  suite("a policy of two", policiesOfTwo, [
    "reserve",
    "reserveUpTo",
    "withReservation and commit",
    "extend",
    "reserveTx"
  ])
  suite("a policy of two", policiesOfTwo, ["tryReserve"], withRoom)
  suite("a policy of three", policiesOfThree, ["reserve", "withReservation and commit"])
  suite("a nested policy", nestedPolicies, ["withReservation and commit", "extend"])
})

describe("a pool", () => {
  suite("a pool", pools, [...reservable, "reserveTx"])
  suite("a pool", pools, ["tryReserve"], withRoom)
  // A record leaves nothing held that somebody could wait for.
  suite("a pool", pools, ["record"], ["has room", "passes somebody who waits for more"])
})

describe("a token of a quota", () => {
  const constructs = ["reserve", "withReservation", "withReservation that says what it used", "extend"] as const
  // The waiters of a quota go by their shares: nobody passes.
  suite("a token", tokens, [...constructs, "split", "merge"], withoutPassing)
})

describe("the sweep from inside", () => {
  const leaks = (
    construct: (budget: Budget.Budget, scope: Scope.Closeable) => Effect.Effect<unknown, Failure, Scope.Scope>,
    name: SituationName
  ) => {
    const type: SubjectType<"broken"> = {
      kinds: allKinds,
      open: (settings) =>
        Effect.map(inMemory(openBudget("budget", settings)), (budget) => ({
          constructs: {
            broken: (inside) => ({
              program: Effect.scoped(
                Effect.flatMap(Scope.make(), (scope) => Effect.andThen(construct(budget, scope), inside))
              )
            })
          },
          members: [budgetMember(budget, settings.kind)],
          problem: booksOf(budget)
        }))
    }
    return sceneOf(type, "broken", name, "capacity", { watched: true })
  }
  const assertLeaks = (probe: Probe, mode: Mode) =>
    Effect.map(sweepInside(probe, mode), ({ problems }) => {
      assert.isNotEmpty(problems)
      for (const problem of problems) assert.include(problem, `${SOME} of "budget" still held`)
    })

  /** Takes the hold, and adds the finalizer that ends it in a later step, which an interruption can prevent. */
  const twoSteps = leaks(
    (budget, scope) =>
      Effect.flatMap(Effect.uninterruptible(Scope.provide(budget.tryReserve(SOME, released), scope)), () =>
        Effect.addFinalizer((exit) => Scope.close(scope, exit))
      ),
    "has room"
  )
  /** The same for a hold that is waited for. */
  const twoStepsAfterWaiting = leaks(
    (budget, scope) =>
      Effect.uninterruptibleMask((restore) =>
        Scope.provide(budget.reserve(SOME, released), scope).pipe(
          Effect.andThen(restore(Effect.yieldNow)),
          Effect.andThen(Effect.addFinalizer((exit) => Scope.close(scope, exit)))
        )
      ),
    "waits, and a settlement grants it"
  )

  it.effect("finds a hold and a finalizer that are two steps, by the scheduler", () =>
    assertLeaks(twoSteps, { hook: "shouldYield", victim: "itself" })
  )

  it.effect("finds a hold and a finalizer that are two steps, by the tracer", () =>
    assertLeaks(twoSteps, { hook: "tracer", victim: "itself" })
  )

  it.effect("finds a waiter that loses its hold when whoever grants it interrupts it", () =>
    Effect.forEach(["shouldYield", "scheduleTask", "tracer"] as const, (hook) =>
      assertLeaks(twoStepsAfterWaiting, { hook, victim: "waiter" })
    )
  )

  it.effect("finds nothing in a semaphore, which takes and gives back as it should", () =>
    Effect.gen(function* () {
      const probe: Probe = () =>
        Effect.sync(() => {
          const semaphore = Semaphore.makeUnsafe(1)
          return {
            program: semaphore.withPermits(1)(Effect.yieldNow),
            problem: Effect.map(semaphore.takeIfAvailable(1), (free) => (free ? undefined : "a permit is lost"))
          }
        })
      assert.deepStrictEqual(yield* swept(probe, { hook: "shouldYield", victim: "itself" }, "semaphore"), [])
      assert.deepStrictEqual(yield* swept(probe, { hook: "tracer", victim: "itself" }, "semaphore"), [])
    })
  )
})
