import { Budget, Policy, type Limit } from "effect-budget"
import * as Effect from "effect/Effect"
import { effectCase, type Suite } from "../harness.ts"
import { wide } from "./limits.ts"
import type { Yardsticks } from "./yardsticks.ts"

const bracket = (name: string, limit: Limit.Limit) =>
  Effect.map(Budget.make({ name, limit }), (budget) => ({
    plain: effectCase(`withReservation, ${name}`, () => budget.withReservation(1, () => Effect.void)),
    commit: effectCase(`withReservation + commit, ${name}`, () =>
      budget.withReservation(1, (reservation) => reservation.commit(1))
    )
  }))

class First extends Budget.Service<First>()("bench/First") {}
class Second extends Budget.Service<Second>()("bench/Second") {}
class Third extends Budget.Service<Third>()("bench/Third") {}

const policy = (name: string, limit: Limit.Limit) =>
  Effect.gen(function* () {
    const make = (member: string) => Budget.make({ name: member, limit })
    const three = yield* Policy.make(name, { first: First, second: Second, third: Third }).pipe(
      Effect.provideServiceEffect(First, make("first")),
      Effect.provideServiceEffect(Second, make("second")),
      Effect.provideServiceEffect(Third, make("third"))
    )
    const amounts = { first: 1, second: 1, third: 1 }
    return {
      plain: effectCase(`Policy over three, withReservation, ${name}`, () =>
        three.withReservation(amounts, () => Effect.void)
      ),
      commit: effectCase(`Policy over three, withReservation + commit, ${name}`, () =>
        three.withReservation(amounts, (reservation) => reservation.commit(amounts))
      )
    }
  })

export const budgetSuite = (yardsticks: Yardsticks) =>
  Effect.gen(function* () {
    const capacity = yield* bracket("capacity", wide.capacity)
    const concurrency = yield* bracket("concurrency", wide.concurrency)
    const rate = yield* bracket("rate", wide.rate)
    const dollars = yield* bracket("dollars", wide.dollars)
    const threeCapacities = yield* policy("capacity", wide.capacity)
    const threeRates = yield* policy("rate", wide.rate)
    const brackets = [capacity, concurrency, rate, dollars].flatMap(({ commit, plain }) => [plain, commit])
    const policies = [
      { three: threeCapacities, one: capacity },
      { three: threeRates, one: rate }
    ]
    const suite: Suite = {
      title: "Budget and Policy",
      cases: [...brackets, ...policies.flatMap(({ three }) => [three.plain, three.commit])],
      comparisons: [
        ...brackets.map((of) => ({
          text: `${of.name} / ${yardsticks.semaphore.name}`,
          of,
          to: yardsticks.semaphore,
          atMost: 2
        })),
        ...policies.flatMap(({ one, three }) => [
          { text: `${three.plain.name} / one budget`, of: three.plain, to: one.plain, atMost: 1.6 },
          { text: `${three.commit.name} / one budget`, of: three.commit, to: one.commit }
        ]),
        ...[yardsticks.pLimit, yardsticks.pQueue, yardsticks.tokenBucket].map((to) => ({
          text: `${capacity.plain.name} / ${to.name}`,
          of: capacity.plain,
          to
        }))
      ]
    }
    return suite
  })
