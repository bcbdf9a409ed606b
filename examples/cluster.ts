/**
 * Four processes share one budget of tokens, whose books are in Redis. One of them is killed in the middle of its work: what it held
 * comes back when it expires, and what it spent stays spent.
 *
 *     npm run --silent build && node examples/cluster.ts [--leased]
 *
 * With `--leased`, each process takes shares of the budget in bulk and spends them at memory speed.
 */
import { NodeRedis, NodeRuntime, NodeServices } from "@effect/platform-node"
import { Clock, Console, Data, Effect, Layer, Option, Random, Runtime, Schedule, Stream } from "effect"
import { ChildProcess } from "effect/process"
import { BudgetStore, Limit, TokenGuard } from "effect-budget"
import { RedisBudgetStore } from "effect-budget/redis"
import { createServer } from "node:net"
import { parseArgs } from "node:util"

const WORKERS = 4
const CALLS = 60
const AT_A_TIME = 4
/** This one is killed after so many of its calls. */
const VICTIM = 2
const LAST_CALL = 45

/** How a process shares the budget with others. What uses the budget knows nothing of it. */
const layerTokens = (port: number, leased: boolean) => {
  const redis = NodeRedis.layer({ socket: { host: "127.0.0.1", port } })
  const shared = RedisBudgetStore.layer({ expiresAfter: "5 seconds" }).pipe(Layer.provide(redis))
  const leases = BudgetStore.BudgetStore.layerLeased({ renewEvery: "500 millis" }).pipe(Layer.provide(shared))
  return TokenGuard.layerStore({ limit: Limit.capacity(200_000) }).pipe(Layer.provide(leased ? leases : shared))
}

// -- a worker ---------------------------------------------------------------------------------------------------------

/** Stands for a call of a language model, which says in the end what it used. */
const callModel = Effect.gen(function* () {
  yield* Effect.sleep(yield* Random.nextIntBetween(40, 80))
  return { prompt: 100, completion: yield* Random.nextIntBetween(20, 200) }
})

/** Prints the tokens of each call, once the books have answered that they are charged. */
const work = Effect.gen(function* () {
  const tokens = yield* TokenGuard
  const call = Effect.flatMap(
    tokens.withReservation(300, (reservation) =>
      Effect.flatMap(callModel, (usage) => tokens.recordUsage(reservation, usage))
    ),
    ({ charged }) => Console.log(charged)
  )
  yield* Effect.replicateEffect(call, CALLS, { concurrency: AT_A_TIME, discard: true })
})

// -- who starts them --------------------------------------------------------------------------------------------------

class NoRedis extends Data.TaggedError("NoRedis") {
  // It is told below, without a stack.
  override readonly [Runtime.errorReported] = false
  override readonly message =
    "There is no redis-server on this machine. Install it with `apt-get install redis-server` or `brew install redis`."
}

/** A port on loopback that was free a moment ago. */
const freePort = Effect.callback<number>((resume) => {
  const probe = createServer()
  probe.listen(0, "127.0.0.1", () => {
    const address = probe.address()
    probe.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)))
  })
})

const linesOf = ({ stdout }: Effect.Success<ChildProcess.Command>) => Stream.splitLines(Stream.decodeText(stdout))

/** Runs until the end of the scope, as all processes here do, and keeps nothing on disk. */
const startRedis = Effect.gen(function* () {
  const port = yield* freePort
  const args = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
  const server = yield* ChildProcess.make("redis-server", args).pipe(
    Effect.catchReason("PlatformError", "NotFound", () => Effect.fail(new NoRedis()))
  )
  const ready = Stream.filter(linesOf(server), (line) => line.includes("Ready to accept"))
  if (Option.isNone(yield* Stream.runHead(ready))) return yield* Effect.die(new Error("redis-server does not start"))
  return port
})

/** What this process saw of the workers: the tokens that were charged to them in all, and when one was killed. */
interface Seen {
  answered: number
  killedAt: number
}

const runWorker = (number: number, port: number, leased: boolean, seen: Seen) =>
  Effect.gen(function* () {
    const args = [import.meta.filename, ...(leased ? ["--leased"] : []), "worker", `${port}`]
    const worker = yield* ChildProcess.make(process.execPath, args, { stderr: "inherit" })
    const kill = Effect.gen(function* () {
      yield* worker.kill({ killSignal: "SIGKILL" })
      seen.killedAt = yield* Clock.currentTimeMillis
    })
    let calls = 0
    yield* Stream.runForEach(linesOf(worker), (line) => {
      seen.answered += Number(line)
      calls++
      return number === VICTIM && calls === LAST_CALL ? kill : Effect.void
    })
    if (number === VICTIM) return yield* Console.log(`Process ${number} was killed.`)
    const code = yield* worker.exitCode
    if (code !== 0) return yield* Effect.die(new Error(`process ${number} ended with ${code}`))
    yield* Console.log(`Process ${number} has done its work.`)
  }).pipe(Effect.scoped)

const cluster = (port: number, leased: boolean) =>
  Effect.gen(function* () {
    const tokens = yield* TokenGuard
    const seen: Seen = { answered: 0, killedAt: 0 }
    const books = Effect.map(tokens.snapshot, ({ ledgers: [ledger] }) => ledger)
    const line = ({ available, granted, held, spent }: BudgetStore.LedgerSnapshot) =>
      `${granted} granted = ${available} available + ${held} held + ${spent} spent; ${seen.answered} answered`
    const show = Effect.tap(books, (ledger) => Console.log(line(ledger)))

    yield* Console.log(`${WORKERS} processes share a budget in Redis${leased ? ", with leases" : ""}.`)
    const numbers = Array.from({ length: WORKERS }, (_, i) => i + 1)
    yield* Effect.raceFirst(
      Effect.forEach(numbers, (number) => runWorker(number, port, leased, seen), { concurrency: WORKERS }),
      Stream.fromEffectSchedule(Effect.map(books, line), Schedule.spaced("200 millis")).pipe(
        Stream.changes,
        Stream.runForEach(Console.log)
      )
    )

    // Those that ended by themselves have given back all that they did not use.
    const { held } = yield* show
    yield* Console.log(`What is still held, ${held}, was held by process ${VICTIM} when it died.`)
    yield* Effect.repeat(books, { schedule: Schedule.spaced("50 millis"), until: ({ held }) => held === 0 })
    const millis = (yield* Clock.currentTimeMillis) - seen.killedAt
    yield* Console.log(`It has expired, ${(millis / 1_000).toFixed(1)} seconds after that.`)

    const more = (yield* show).spent - seen.answered
    if (more < 0) return yield* Effect.die(new Error("a commit that was answered is not in the books"))
    if (more === 0) return yield* Console.log("What is spent is what was answered.")
    yield* Console.log(
      `${more} more are spent than were answered: ` +
        (leased
          ? `all of the share of process ${VICTIM} counts, since it may have spent it.`
          : `they were charged, and process ${VICTIM} died before it could tell.`)
    )
  }).pipe(Effect.provide(layerTokens(port, false)))

const { positionals, values } = parseArgs({ allowPositionals: true, options: { leased: { type: "boolean" } } })
const leased = values.leased === true

if (positionals[0] === "worker") {
  NodeRuntime.runMain(Effect.provide(work, layerTokens(Number(positionals[1]), leased)))
} else {
  Effect.flatMap(startRedis, (port) => cluster(port, leased)).pipe(
    Effect.tapErrorTag("NoRedis", ({ message }) => Console.error(message)),
    Effect.scoped,
    Effect.provide(NodeServices.layer),
    NodeRuntime.runMain
  )
}
