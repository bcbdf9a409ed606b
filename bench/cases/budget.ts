import { Budget, Policy, type Limit } from "effect-budget"
import * as Effect from "effect/Effect"
import { type Case, effectCase, type Suite } from "../harness.ts"
import { spends } from "./checks.ts"
import { wide } from "./limits.ts"
import type { Yardsticks } from "./yardsticks.ts"

type Kind = keyof typeof wide

const bracket = (kind: Kind) =>
  Effect.gen(function* () {
    const limit = wide[kind]
    const each = limit._tag === "Concurrency" ? 0 : 1
    const plain = yield* Budget.make({ name: `budget, ${kind}`, limit })
    const committed = yield* Budget.make({ name: `budget, ${kind}, committed`, limit })
    return {
      plain: effectCase(
        `withReservation, ${kind}`,
        () => plain.withReservation(1, () => Effect.void),
        spends(each, plain)
      ),
      commit: effectCase(
        `withReservation + commit, ${kind}`,
        () => committed.withReservation(1, (reservation) => reservation.commit(1)),
        spends(each, committed)
      )
    }
  })

class First extends Budget.Service<First>()("bench/First") {}
class Second extends Budget.Service<Second>()("bench/Second") {}
class Third extends Budget.Service<Third>()("bench/Third") {}

const policyOver = (name: string, limit: Limit.Limit) =>
  Effect.gen(function* () {
    const [first, second, third] = yield* Effect.all([
      Budget.make({ name: `policy, ${name}, first`, limit }),
      Budget.make({ name: `policy, ${name}, second`, limit }),
      Budget.make({ name: `policy, ${name}, third`, limit })
    ])
    const policy = yield* Policy.make(name, { first: First, second: Second, third: Third }).pipe(
      Effect.provideService(First, first),
      Effect.provideService(Second, second),
      Effect.provideService(Third, third)
    )
    return { policy, check: spends(1, first, second, third) }
  })

const policies = (kind: Kind) =>
  Effect.gen(function* () {
    const plain = yield* policyOver(`policy, ${kind}`, wide[kind])
    const committed = yield* policyOver(`policy, ${kind}, committed`, wide[kind])
    const amounts = { first: 1, second: 1, third: 1 }
    return {
      plain: effectCase(
        `Policy of three, withReservation, ${kind}`,
        () => plain.policy.withReservation(amounts, () => Effect.void),
        plain.check
      ),
      commit: effectCase(
        `Policy of three, withReservation + commit, ${kind}`,
        () => committed.policy.withReservation(amounts, (reservation) => reservation.commit(amounts)),
        committed.check
      )
    }
  })

export const budgetSuite = ({ pLimit, pQueue, semaphore, tokenBucket }: Yardsticks) =>
  Effect.gen(function* () {
    const capacity = yield* bracket("capacity")
    const rate = yield* bracket("rate")
    const concurrency = yield* bracket("concurrency")
    const dollars = yield* bracket("dollars")
    const capacities = yield* policies("capacity")
    const rates = yield* policies("rate")
    const against = (to: Case, of: Case, atMost?: number) => ({ text: `${of.name} / ${to.name}`, of, to, atMost })
    const ofOne = (to: Case, of: Case, atMost?: number) => ({ text: `${of.name} / one budget`, of, to, atMost })
    const suite: Suite = {
      title: "Budget and Policy",
      cases: [capacity, rate, concurrency, dollars, capacities, rates].flatMap((cases) => Object.values(cases)),
      comparisons: [
        against(semaphore, capacity.plain, 1.2),
        against(semaphore, capacity.commit, 1.5),
        against(semaphore, rate.commit, 1.8),
        ofOne(capacity.plain, capacities.plain, 1.6),
        ofOne(rate.plain, rates.plain, 1.6),
        against(semaphore, rate.plain),
        ...[concurrency, dollars].flatMap(({ commit, plain }) => [
          against(semaphore, plain),
          against(semaphore, commit)
        ]),
        ofOne(capacity.commit, capacities.commit),
        ofOne(rate.commit, rates.commit),
        ...[pLimit, pQueue, tokenBucket].map((to) => against(to, capacity.plain))
      ]
    }
    return suite
  })
