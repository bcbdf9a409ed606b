/** Stores that several processes share, beside the least that their servers do for as many questions of the same client. */
import { Budget, BudgetGuard, BudgetStore } from "effect-budget"
import { RedisBudgetStore } from "effect-budget/redis"
import { SqlBudgetStore } from "effect-budget/sql"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redis from "effect/persistence/Redis"
import * as SqlClient from "effect/sql/SqlClient"
import { type Case, effectCase, type Suite } from "../harness.ts"
import { memoryLayer } from "./library.ts"
import { wide } from "./limits.ts"

/** By the clock on the wall, since these wait for a server. */
const wallCase = (name: string, fibers: number, operation: () => Effect.Effect<unknown, unknown>): Case => ({
  name: `${name}, ${fibers === 1 ? "one at a time" : `${fibers} fibers`}`,
  // None of the harness's own loop is in it.
  kind: "promise",
  run: async (count) => {
    let left = count
    const fiber = Effect.whileLoop({ while: () => left-- > 0, body: operation, step: () => {} })
    const start = performance.now()
    await Effect.runPromise(
      Effect.all(
        Array.from({ length: fibers }, () => fiber),
        { concurrency: "unbounded", discard: true }
      )
    )
    return (performance.now() - start) * 1e6
  }
})

/** Reserves and commits through all of the library: two steps of the books. */
const pair = (budget: Budget.Budget) => () => budget.withReservation(2, (reservation) => reservation.commit(1))

const twice = (step: Effect.Effect<unknown, unknown>) => () => Effect.andThen(step, step)

const PAIR = "withReservation + commit"
const THROUGHPUT = 0.7

/** A budget in books of its own. */
export const budgetIn = <R>(store: Layer.Layer<BudgetStore.BudgetStore, unknown, R>, group: string) =>
  Effect.flatMap(Layer.build(store), (services) =>
    Effect.provide(Budget.make({ name: group, limit: wide.rate }), services)
  )

export const redisSuite = Effect.gen(function* () {
  const redis = yield* Redis.Redis
  const { layer } = RedisBudgetStore
  const budget = yield* budgetIn(layer(), "bench")
  const leased = yield* budgetIn(Layer.provide(BudgetStore.BudgetStore.layerLeased(), layer()), "leased")
  const nothing = redis.eval(Redis.script(() => [], { numberOfKeys: 0, lua: "return 1" }))
  const fibers = 64
  const questions = wallCase("two no-op EVALSHA", fibers, twice(nothing()))
  const pairs = wallCase(PAIR, fibers, pair(budget))
  const alone = wallCase(PAIR, 1, pair(budget))
  const local = wallCase(`${PAIR}, leased`, 1, pair(leased))
  const suite: Suite = {
    title: "Redis",
    cases: [questions, pairs, alone, local],
    comparisons: [
      {
        text: `Redis, ${PAIR}, throughput / two no-op EVALSHA, ${fibers} fibers`,
        of: questions,
        to: pairs,
        atLeast: THROUGHPUT
      },
      { text: `Redis, ${PAIR}, leased, speed / not leased, one at a time`, of: alone, to: local, atLeast: 50 }
    ]
  }
  return suite
})

export const sqlSuite = (title: string, goal?: { readonly atLeast: number }) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const budget = yield* budgetIn(SqlBudgetStore.layer(), "bench")
    yield* sql`CREATE TABLE bench (id int PRIMARY KEY, n bigint NOT NULL)`
    yield* sql`INSERT INTO bench VALUES (1, 0)`
    const update = Effect.suspend(() => sql`UPDATE bench SET n = n + ${1} WHERE id = ${1} RETURNING n`)
    const fibers = 20
    const questions = wallCase("two UPDATE ... RETURNING of one row", fibers, twice(update))
    const pairs = wallCase(PAIR, fibers, pair(budget))
    const suite: Suite = {
      title,
      cases: [questions, pairs],
      comparisons: [
        {
          text: `${title}, ${PAIR}, throughput / two UPDATE ... RETURNING of one row, ${fibers} fibers`,
          of: questions,
          to: pairs,
          ...goal
        }
      ]
    }
    return suite
  })

export const postgresSuite = sqlSuite("PostgreSQL", { atLeast: THROUGHPUT })

/** A budget in shares of books in Redis, beside one in memory. */
export const leasedSuite = Effect.gen(function* () {
  const cases = (where: string) =>
    Effect.gen(function* () {
      const guard = yield* BudgetGuard.make({ name: "guard", limit: wide.capacity })
      const budget = yield* Budget.make({ name: "budget", limit: wide.capacity })
      return [
        effectCase(`tryReserve + release, ${where}`, () => Effect.flatMap(guard.tryReserve(1), () => guard.release(1))),
        effectCase(`${PAIR}, ${where}`, pair(budget))
      ]
    })
  const inMemory = yield* Layer.build(memoryLayer)
  const inShares = yield* Layer.build(
    Layer.provide(BudgetStore.BudgetStore.layerLeased(), RedisBudgetStore.layer({ group: "leased" }))
  )
  const memory = yield* Effect.provide(cases("memory"), inMemory)
  const leased = yield* Effect.provide(cases("leased"), inShares)
  const suite: Suite = {
    title: "Leases",
    cases: memory.flatMap((one, i) => [one, leased[i]!]),
    comparisons: leased.map((of, i) => ({ text: `${of.name} / memory`, of, to: memory[i]!, atMost: 3 }))
  }
  return suite
})
