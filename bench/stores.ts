/** `npm run bench -- stores`: the stores that several processes share, against real servers on loopback. */
import type { BudgetStore } from "effect-budget"
import { RedisBudgetStore } from "effect-budget/redis"
import { NodeSqlite, SqlBudgetStore } from "effect-budget/sql"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redis from "effect/persistence/Redis"
import type * as Scope from "effect/Scope"
import * as SqlClient from "effect/sql/SqlClient"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Postgres from "../test/utils/postgresServer.ts"
import * as Proxy from "../test/utils/proxy.ts"
import * as RedisServer from "../test/utils/redisServer.ts"
import { budgetIn, leasedSuite, postgresSuite, redisSuite, sqlSuite } from "./cases/stores.ts"
import { type Settings, spread } from "./harness.ts"
import type { Bench, Verdict } from "./report.ts"

/** What can be measured with one server, or that it is not there. */
interface Part extends Pick<Bench, "notes" | "groups"> {
  readonly counts: ReadonlyArray<{ readonly text: string; readonly count: Effect.Effect<ReadonlyArray<Verdict>> }>
}

export const stores = (loops: Settings, quick: boolean): Effect.Effect<Bench, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const wall: Settings = quick
      ? { repeats: 3, warmUpMillis: 100, sampleMillis: 100 }
      : { repeats: 15, warmUpMillis: 1_000, sampleMillis: 500 }
    const parts = [
      RedisServer.server.available ? yield* redisPart(loops, wall) : leftOut(RedisServer.server.program),
      Postgres.server.available ? yield* postgresPart(wall) : leftOut(Postgres.server.program),
      yield* sqlitePart(wall)
    ]
    const bench: Bench = {
      packages: ["effect", "@effect/platform-node", "@effect/sql-pg"],
      notes: [
        ...parts.flatMap(({ notes }) => notes),
        "Times are by the clock on the wall, but for leases, whose times are CPU time. What several fibers do is told for one",
        "operation. Round trips are pieces of data that the client sent, counted by a proxy while nobody else sent any."
      ],
      groups: parts.flatMap(({ groups }) => groups),
      figures: (wanted) => {
        const counts = parts.flatMap(({ counts }) => counts).filter(({ text }) => wanted(text))
        return Effect.map(
          Effect.forEach(counts, ({ count }) => count),
          (figures) => figures.flat()
        )
      }
    }
    return bench
  })

const leftOut = (program: string): Part => ({
  notes: [`Left out, since there is no ${program} on this machine: all that needs it.`],
  groups: [],
  counts: []
})

const redisPart = (loops: Settings, wall: Settings) =>
  Effect.gen(function* () {
    const { port } = yield* RedisServer.make()
    const services = yield* Layer.build(RedisServer.client(port))
    const { measured, leased, version } = yield* Effect.provide(
      Effect.gen(function* () {
        const redis = yield* Redis.Redis
        const info = yield* redis.send<string>("INFO", "server")
        return {
          measured: yield* redisSuite,
          leased: yield* leasedSuite,
          version: /redis_version:(\S+)/.exec(info)?.[1]
        }
      }),
      services
    )
    const part: Part = {
      notes: [`redis-server ${version}, nothing written to disk`],
      groups: [
        { suites: [measured], settings: wall },
        { suites: [leased], settings: loops }
      ],
      counts: [
        roundTrips("Redis", port, (port) =>
          RedisBudgetStore.layer({ group: "counted" }).pipe(Layer.provide(RedisServer.client(port)))
        )
      ]
    }
    return part
  })

const postgresPart = (wall: Settings) =>
  Effect.gen(function* () {
    const server = yield* Postgres.make
    const services = yield* Layer.build(Postgres.client(server))
    const { measured, version } = yield* Effect.provide(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const [row] = yield* sql<{ readonly server_version: string }>`SHOW server_version`
        return { measured: yield* postgresSuite, version: row!.server_version }
      }),
      services
    )
    const part: Part = {
      notes: [`PostgreSQL ${version}, fsync off`],
      groups: [{ suites: [measured], settings: wall }],
      counts: [
        roundTrips("PostgreSQL", server.port, (port) =>
          SqlBudgetStore.layer({ group: "counted" }).pipe(Layer.provide(Postgres.client({ ...server, port })))
        )
      ]
    }
    return part
  })

const sqlitePart = (wall: Settings) =>
  Effect.gen(function* () {
    const directory = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-budget-bench-"))),
      (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
    )
    const services = yield* Layer.build(NodeSqlite.layer({ filename: join(directory, "books.sqlite") }))
    const measured = yield* Effect.provide(sqlSuite("SQLite"), services)
    const part: Part = { notes: [], groups: [{ suites: [measured], settings: wall }], counts: [] }
    return part
  })

/** On the wire, one reservation at a time: a round trip takes a piece of data at least. */
const roundTrips = (
  name: string,
  port: number,
  layer: (port: number) => Layer.Layer<BudgetStore.BudgetStore, unknown>
): Part["counts"][number] => {
  const texts = [`${name}, round trips for each hold`, `${name}, round trips for each settlement`]
  const count = Effect.gen(function* () {
    const { asked, port: between } = yield* Proxy.make(port)
    const budget = yield* budgetIn(layer(between), "counted")
    const pieces = Effect.sync(() => asked.pieces)
    const one = Effect.gen(function* () {
      const before = yield* pieces
      const held = yield* budget.withReservation(1, () => pieces)
      return [held - before, (yield* pieces) - held] as const
    })
    // The first brings the scripts.
    yield* one
    const repeats: Array<readonly [hold: number, settlement: number]> = []
    for (let i = 0; i < 20; i++) {
      const counted = yield* Effect.replicateEffect(one, 20)
      const mean = (step: 0 | 1) => counted.reduce((sum, pieces) => sum + pieces[step], 0) / counted.length
      repeats.push([mean(0), mean(1)])
    }
    return texts.map((text, step): Verdict => ({
      text,
      measured: spread(repeats.map((repeat) => repeat[step]!)),
      atMost: 1,
      unit: "round trips"
    }))
  })
  return { text: texts.join("; "), count: Effect.orDie(Effect.scoped(count)) }
}
