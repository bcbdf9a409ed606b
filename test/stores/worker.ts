/**
 * One of several processes over one budget, for `Processes.test.ts`. It reserves, works a moment and commits, as often as it is
 * told, and prints each commit that was answered. It is made to be killed.
 */
import { NodeRedis, NodeServices } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { Clock, Duration, Effect, Layer, Redacted, Schedule } from "effect"
import { writeSync } from "node:fs"
import { Budget, BudgetStore, type Limit } from "../../src/index.ts"
import { RedisBudgetStore } from "../../src/redis/index.ts"
import { NodeSqlite, SqlBudgetStore } from "../../src/sql/index.ts"
import { make as makeRandom } from "../utils/random.ts"

export interface Job {
  readonly store:
    | { readonly _tag: "redis"; readonly port: number }
    | { readonly _tag: "postgres"; readonly port: number }
    | { readonly _tag: "sqlite"; readonly filename: string }
  readonly leased: boolean
  readonly journal: string
  readonly seed: number
  readonly reservations: number
  readonly limit: Limit.Limit
  /** How far this machine's clock is ahead, in milliseconds. */
  readonly skew: number
}

class Tokens extends Budget.Service<Tokens>()("worker/Tokens") {}

/** Short, so that the test does not wait long for what a dead process held. */
export const options = { expiresAfter: "1 second", requestTimeout: "1 second", pollInterval: "100 millis" } as const

export const storeOf = ({ journal, store }: Job): Layer.Layer<BudgetStore.BudgetStore, unknown> => {
  const all = { ...options, journal }
  switch (store._tag) {
    case "redis":
      return RedisBudgetStore.layer(all).pipe(
        Layer.provide(
          NodeRedis.layer({ socket: { host: "127.0.0.1", port: store.port, reconnectStrategy: () => 20 } })
        ),
        Layer.provide(NodeServices.layer)
      )
    case "postgres":
      return SqlBudgetStore.layer(all).pipe(
        Layer.provide(
          PgClient.layer({
            host: "127.0.0.1",
            port: store.port,
            username: "postgres",
            database: "postgres",
            password: Redacted.make("")
          })
        ),
        Layer.provide(NodeServices.layer)
      )
    case "sqlite":
      return SqlBudgetStore.layer(all).pipe(
        Layer.provide(NodeSqlite.layer({ filename: store.filename, synchronous: "normal" })),
        Layer.provide(NodeServices.layer)
      )
  }
}

/** Written before it returns, so that a kill loses nothing that was said. */
const say = (line: string): void => {
  for (;;) {
    try {
      return void writeSync(1, `${line}\n`)
    } catch (error) {
      // Nobody has read for a while.
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error
    }
  }
}

const program = (job: Job) =>
  Effect.gen(function* () {
    const random = makeRandom(job.seed)
    const tokens = yield* Tokens
    say("ready")
    const one = Effect.suspend(() => {
      const amount = random.int(1, 10)
      const actual = random.int(0, amount)
      const pause = Duration.millis(random.int(0, 3))
      return tokens
        .withReservation(amount, (reservation) =>
          Effect.andThen(
            Effect.sleep(pause),
            Effect.map(reservation.commit(actual), ({ late }) => say(`${late ? "late" : "ack"} ${actual}`))
          )
        )
        .pipe(
          // A store that is away is asked again, but not at once.
          Effect.retry({
            while: (error) => error._tag === "FailedReservation",
            schedule: Schedule.spaced("20 millis")
          }),
          Effect.catchTag("BudgetExceeded", () => Effect.sync(() => say("no 0")))
        )
    })
    yield* Effect.forEach(Array.from({ length: job.reservations }), () => one, { concurrency: 16, discard: true })
  })

const skewed = (skew: number): Clock.Clock => {
  const clock = Clock.Clock.defaultValue()
  return Object.create(clock, {
    currentTimeMillisUnsafe: { value: () => clock.currentTimeMillisUnsafe() + skew },
    currentTimeMillis: { value: Effect.map(clock.currentTimeMillis, (now) => now + skew) }
  }) as Clock.Clock
}

if (import.meta.main) {
  const job = JSON.parse(process.argv[2]!) as Job
  const store = job.leased
    ? Layer.provide(
        BudgetStore.BudgetStore.layerLeased({ renewEvery: "300 millis", pollInterval: "100 millis" }),
        storeOf(job)
      )
    : storeOf(job)
  const layer = Tokens.layerStore({ name: "tokens", limit: job.limit }).pipe(Layer.provide(store))
  await Effect.runPromise(
    program(job).pipe(
      Effect.provide(layer),
      // Started while its store is away, it tries again.
      Effect.retry(Schedule.spaced("100 millis")),
      Effect.provideService(Clock.Clock, skewed(job.skew))
    )
  )
  say("done")
  process.exit(0)
}
