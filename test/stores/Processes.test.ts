import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Budget, Limit } from "../../src/index.ts"
import * as Postgres from "../utils/postgresServer.ts"
import * as Proxy from "../utils/proxy.ts"
import { make as makeRandom, type Random, seeds } from "../utils/random.ts"
import * as Redis from "../utils/redisServer.ts"
import { describeWith } from "../utils/servers.ts"
import { type Job, storeOf } from "./worker.ts"

class Tokens extends Budget.Service<Tokens>()("processes/Tokens") {}

const WORKER = fileURLToPath(new URL("worker.ts", import.meta.url))
const PROCESSES = 4
const MOST_AMOUNT = 10
const CONCURRENCY = 16

/** What the workers have said, in all. */
interface Heard {
  acknowledged: number
  commits: number
  late: number
  denied: number
}

/** A worker that is started again when it is killed, until it has come to its end. */
const worker = (job: Omit<Job, "seed">, number: number, heard: Heard, seed: number) => {
  let child: ChildProcess | undefined
  let left = job.reservations
  let ended = false
  const start = (attempt: number): Promise<void> =>
    new Promise((resolve, reject) => {
      const args = [WORKER, JSON.stringify({ ...job, reservations: left, seed: seed * 1_000 + number * 100 + attempt })]
      child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] })
      let rest = ""
      let errors = ""
      child.stderr!.setEncoding("utf8").on("data", (text: string) => (errors = (errors + text).slice(-4_000)))
      child.stdout!.setEncoding("utf8").on("data", (text: string) => {
        const lines = (rest + text).split("\n")
        rest = lines.pop()!
        for (const line of lines) {
          const [word, amount] = line.split(" ")
          if (word === "ack" || word === "late") {
            heard.acknowledged += Number(amount)
            heard.commits++
            if (word === "late") heard.late += Number(amount)
          }
          if (word === "no") heard.denied++
          if (word === "ack" || word === "late" || word === "no") left--
          if (word === "done") ended = true
        }
      })
      // Its output is whole only then.
      child.once("close", (code, signal) => {
        if (ended) return resolve()
        if (signal === "SIGKILL") return start(attempt + 1).then(resolve, reject)
        reject(new Error(`worker ${number} ended with ${code ?? signal}:\n${errors}`))
      })
    })
  return {
    done: start(0),
    signal: (name: NodeJS.Signals): boolean => (ended ? false : (child?.kill(name) ?? false))
  }
}

type Disturbance = (random: Random, signal: (name: NodeJS.Signals) => boolean) => Effect.Effect<void>

const pause = (millis: number) => Effect.sleep(millis)

/** Kills one process, or lets it stand still for longer than its holds live. */
const killOrPause: Disturbance = (random, signal) =>
  random.chance(0.6)
    ? Effect.sync(() => void signal("SIGKILL"))
    : Effect.gen(function* () {
        signal("SIGSTOP")
        yield* pause(1_500)
        signal("SIGCONT")
      })

const temporary = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-budget-processes-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

/** Runs all of it against one store, and holds the books against what the workers were told. */
const run = (
  seed: number,
  store: Job["store"],
  leased: boolean,
  limit: Limit.Limit,
  /** Where the store itself is, without what disturbs it. */
  quiet: Job["store"],
  reservations: number,
  disturbances: ReadonlyArray<Disturbance>
): Effect.Effect<void, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const random = makeRandom(seed)
    const directory = yield* temporary
    const heard: Heard = { acknowledged: 0, commits: 0, late: 0, denied: 0 }
    const workers = Array.from({ length: PROCESSES }, (_, i) =>
      worker(
        {
          store,
          leased,
          limit,
          journal: join(directory, `${i}`),
          reservations: reservations / PROCESSES,
          // Clocks that are minutes apart, where the store has one of its own.
          skew: store._tag === "sqlite" ? 0 : (i - 1) * 7 * 60_000
        },
        i,
        heard,
        seed
      )
    )
    yield* Effect.addFinalizer(() => Effect.sync(() => workers.forEach(({ signal }) => signal("SIGKILL"))))
    let kills = 0
    let running = true
    const all = Promise.all(workers.map(({ done }) => done)).finally(() => {
      running = false
    })
    const signalTo = (target: (typeof workers)[number]) => (name: NodeJS.Signals) => {
      const sent = target.signal(name)
      if (sent && name === "SIGKILL") kills++
      return sent
    }
    const disturbing = Effect.gen(function* () {
      // One is killed for sure, as soon as they are at work; what comes then is left to chance.
      while (running && heard.commits === 0) yield* pause(10)
      signalTo(workers[0]!)("SIGKILL")
      while (running) {
        yield* pause(random.int(200, 500))
        yield* random.pick(disturbances)(random, signalTo(random.pick(workers)))
      }
    })
    const disturber = yield* Effect.forkChild(disturbing)
    yield* Effect.promise(() => all)
    yield* Fiber.join(disturber)

    // What the last ones could not send is sent by whoever starts next.
    const job = (i: number): Job => ({
      store: quiet,
      leased: false,
      limit,
      journal: join(directory, `${i}`),
      reservations: 0,
      seed,
      skew: 0
    })
    for (let i = 0; i < PROCESSES; i++) yield* Effect.scoped(Layer.build(storeOf(job(i))))
    // Nothing is held for ever: the holds of the dead expire.
    const snapshot = yield* Effect.gen(function* () {
      const tokens = yield* Tokens
      return yield* Effect.repeat(Effect.delay(tokens.snapshot, 100), {
        until: ({ ledgers }) => ledgers[0].held === 0
      })
    }).pipe(Effect.provide(Layer.provide(Tokens.layerStore({ name: "tokens", limit }), storeOf(job(PROCESSES)))))
    const [{ available, granted, held, spent }] = snapshot.ledgers
    const told = JSON.stringify({ seed, ...heard, kills, charged: snapshot.charged, available, spent })
    assert.strictEqual(available + held + spent, granted, told)
    // Every commit that was answered is in the books. What a killed process had in flight may be there too.
    const inFlight = (kills + PROCESSES) * CONCURRENCY * MOST_AMOUNT
    assert.isAtLeast(snapshot.charged, heard.acknowledged, told)
    assert.isAtMost(snapshot.charged, heard.acknowledged + inFlight * (leased ? 50 : 1), told)
    // No overspend, but for what came late to holds that had expired.
    assert.isAtLeast(available, -heard.late - (leased ? 0 : inFlight), told)
    assert.isAtLeast(kills, 1, told)
    assert.isAtLeast(heard.commits, reservations / 4, told)
    console.log(`${store._tag}${leased ? ", leased" : ""}: ${told}`)
  })

for (const seed of seeds(1)) {
  describeWith(Redis.server, `four processes over Redis, seed ${seed}`, () => {
    for (const leased of [false, true]) {
      it.live(
        leased ? "with leases" : "one round trip for each step",
        () =>
          Effect.scoped(
            Effect.gen(function* () {
              const server = yield* Redis.make({ appendOnly: true })
              const proxy = yield* Proxy.make(server.port)
              const cut: Disturbance = () => Effect.sync(proxy.cutAtNextAnswer)
              const restart: Disturbance = () => server.restart
              yield* run(
                seed,
                { _tag: "redis", port: proxy.port },
                leased,
                Limit.capacity(45_000),
                { _tag: "redis", port: server.port },
                20_000,
                [killOrPause, killOrPause, killOrPause, cut, restart]
              )
            })
          ),
        120_000
      )
    }
  })

  describeWith(Postgres.server, `four processes over PostgreSQL, seed ${seed}`, () => {
    it.live(
      "one round trip for each step",
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const server = yield* Postgres.make
            const store = { _tag: "postgres", port: server.port } as const
            yield* run(seed, store, false, Limit.capacity(9_000), store, 4_000, [
              killOrPause,
              killOrPause,
              () => server.restart
            ])
          })
        ),
      120_000
    )
  })

  it.live(
    `four processes over SQLite, seed ${seed}`,
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const filename = join(yield* temporary, "books.sqlite")
          const store = { _tag: "sqlite", filename } as const
          yield* run(seed, store, false, Limit.capacity(9_000), store, 4_000, [killOrPause])
        })
      ),
    120_000
  )
}
