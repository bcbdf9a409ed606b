import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Redis from "effect/persistence/Redis"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { StoreUnavailable } from "../../src/BudgetError.ts"
import type { SharedBooks } from "../../src/internal/shared/books.ts"
import { make, type Options } from "../../src/internal/shared/redis/books.ts"
import * as scripts from "../../src/internal/shared/redis/scripts.ts"
import * as Ledger from "../../src/Ledger.ts"
import * as Limit from "../../src/Limit.ts"
import * as Proxy from "../utils/proxy.ts"
import * as RedisServer from "../utils/redisServer.ts"
import { describeWith } from "../utils/servers.ts"
import * as Books from "./books.ts"

let groups = 0

/** Books of a group of their own. */
const booksOf = (options?: Partial<Options>) =>
  make({ group: `group ${groups++}`, keepOutcomes: Books.KEEP_OUTCOMES, ...options })

const subject: Books.MakeSubject<Redis.Redis> = (start, { keepOutcomes }) =>
  Effect.suspend(() => {
    let now = start
    return Effect.map(booksOf({ keepOutcomes, now: () => now }), (books) => ({
      books,
      setTime: (to) => Effect.sync(() => void (now = to))
    }))
  })

const withServer =
  (options?: RedisServer.Options) =>
  <A, E>(effect: Effect.Effect<A, E, Redis.Redis | Scope.Scope>): Effect.Effect<A, E> =>
    Effect.scoped(Effect.provide(effect, RedisServer.layer(options)))

const send = (command: string, ...args: ReadonlyArray<string>) =>
  Effect.flatMap(Redis.Redis, (redis) => redis.send(command, ...args))

const ledgerOf = (books: SharedBooks, name: string) =>
  Effect.map(books.read([name]), ([budget]) => {
    const { available, granted, held, spent } = budget!.ledgers[0]!
    return { granted, available, held, spent }
  })

const entriesOf = (request: ReturnType<typeof Books.hold>) =>
  request.entries.map(({ amount, budget }) => ({ amount, budget }))

describeWith(RedisServer.server, "the books in Redis", () => {
  Books.suite(subject, withServer())

  it.live("answers steps that are asked for at once as one after the other", () =>
    Books.differential(subject, { seeds: 40, steps: 20, atOnce: 12 }).pipe(withServer())
  )

  it.live("all keys of a script are declared, and in one slot of a cluster", () =>
    Effect.gen(function* () {
      yield* send("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
      while (!String(yield* send("CLUSTER", "INFO")).includes("cluster_state:ok")) yield* Effect.sleep(10)
      yield* Books.differential(subject, { seeds: 3, steps: 60 })
      yield* Books.differential(subject, { seeds: 3, steps: 20, atOnce: 12 })
      const books = yield* booksOf({ group: "{a}b}" })
      yield* Books.open(books, "rows", Limit.capacity(10))
      yield* books.charge({ id: "one", entries: [{ budget: "rows", amount: 4 }] })
      assert.strictEqual((yield* ledgerOf(books, "rows")).spent, 4)
    }).pipe(withServer({ args: ["--cluster-enabled", "yes"] }))
  )

  it.live("groups have books of their own", () =>
    Effect.gen(function* () {
      const [one, other] = [yield* booksOf(), yield* booksOf()]
      yield* Books.open(one, "rows", Limit.capacity(10))
      assert.deepStrictEqual(yield* other.read(["rows"]), [undefined])
      assert.deepStrictEqual(yield* other.hold(Books.hold("one", { rows: 1 })), { _tag: "Unopened" })
    }).pipe(withServer())
  )

  it.live("goes on after SCRIPT FLUSH; after FLUSHALL the books are not there", () =>
    Effect.gen(function* () {
      const books = yield* booksOf()
      yield* Books.open(books, "rows", Limit.capacity(10))
      const request = Books.hold("one", { rows: 4 })
      yield* books.hold(request)
      yield* send("SCRIPT", "FLUSH")
      assert.deepStrictEqual(yield* books.hold(Books.hold("two", { rows: 4 })), { _tag: "Held", amounts: [4] })
      yield* send("FLUSHALL")
      assert.deepStrictEqual(yield* books.hold(Books.hold("three", { rows: 4 })), { _tag: "Unopened" })
      assert.deepStrictEqual(yield* books.settle(Books.settle(request, "committed", [1])), { _tag: "Unopened" })
      assert.deepStrictEqual(yield* books.charge({ id: "four", entries: entriesOf(request) }), { _tag: "Unopened" })
      assert.deepStrictEqual(yield* books.renew([{ id: "one", progress: undefined }], 1_000), ["one"])
      yield* books.reduce({ id: "one", step: 1, amounts: [1] })
      assert.deepStrictEqual(yield* books.read(["rows"]), [undefined])
    }).pipe(withServer())
  )

  it.live("holds that expired while their budget was lost are forgotten", () =>
    Effect.gen(function* () {
      let now = 1_000
      const books = yield* booksOf({ group: "lost", now: () => now })
      yield* Books.open(books, "rows", Limit.capacity(10))
      yield* books.hold(Books.hold("one", { rows: 4 }))
      yield* send("DEL", "{lost}:books")
      now += 60_000
      assert.deepStrictEqual(yield* books.read(["rows"]), [undefined])
      assert.deepStrictEqual(yield* send("EXISTS", "{lost}:holds", "{lost}:due"), 0)
    }).pipe(withServer())
  )

  it.live("more than 1,000 that expire together are ended in turns", () =>
    Effect.gen(function* () {
      let now = 1_000
      const books = yield* booksOf({ now: () => now })
      yield* Books.open(books, "rows", Limit.capacity(1_500))
      const ids = Array.from({ length: 1_500 }, (_, i) => `hold ${i}`)
      yield* Effect.forEach(ids, (id) => books.hold(Books.hold(id, { rows: 1 })), { concurrency: 100 })
      now += 60_000
      assert.strictEqual((yield* ledgerOf(books, "rows")).held, 500)
      assert.strictEqual((yield* ledgerOf(books, "rows")).held, 0)
      const [budget] = yield* books.read(["rows"])
      assert.deepStrictEqual(budget!.settled.expired, { count: 1_500, refunded: 1_500 })
    }).pipe(withServer())
  )

  it.live("the server's clock decides, and forgets outcomes in its time", () =>
    Effect.gen(function* () {
      const books = yield* booksOf({ group: "clock", keepOutcomes: 1_000 })
      yield* Books.open(books, "rows", Limit.capacity(10))
      const request = Books.hold("one", { rows: 4 })
      yield* books.hold(request)
      yield* books.settle(Books.settle(request, "committed"))
      const left = Number(yield* send("PTTL", "{clock}:ended:one"))
      assert.isTrue(left > 0 && left <= 1_000, `${left}`)
      const [time] = (yield* send("TIME")) as ReadonlyArray<string>
      const due = Number(
        (yield* send("GET", "{clock}:ended:one") as Effect.Effect<string, never, never>).split(" ").at(-1)
      )
      assert.approximately(due, Number(time) * 1_000 + 1_000, 1_000)
      assert.deepStrictEqual(yield* send("EXISTS", "{clock}:holds", "{clock}:due"), 0)
    }).pipe(withServer())
  )

  it.live("a change gets through, whoever keeps getting ahead of it", () =>
    Effect.gen(function* () {
      const redis = yield* Redis.Redis
      let overtaken = 0
      let last: Fiber.Fiber<unknown, StoreUnavailable> | undefined
      let overtake: Effect.Effect<unknown, StoreUnavailable> = Effect.void
      // Somebody holds between every read and write of the change, or tries to.
      const busy = Redis.Redis.of({
        ...redis,
        eval: (script) =>
          (script as unknown) !== scripts.write
            ? redis.eval(script)
            : (...parameters) =>
                Effect.gen(function* () {
                  overtaken++
                  last = yield* Effect.forkChild(overtake)
                  if (overtaken <= 3) yield* Effect.orDie(Fiber.join(last))
                  // Asked after it, and so answered after it.
                  else yield* Effect.orDie(Effect.andThen(Effect.yieldNow, others.read(["rows"])))
                  return yield* redis.eval(script)(...parameters)
                })
      })
      const group = `group ${groups++}`
      const others = yield* booksOf({ group })
      const books = yield* Effect.provideService(booksOf({ group }), Redis.Redis, busy)
      yield* Books.open(others, "rows", Limit.capacity(100))
      overtake = Effect.suspend(() => others.hold(Books.hold(`hold ${overtaken}`, { rows: 1 })))
      yield* books.update(["rows"], ([budget]) => [
        { ...budget!, ledgers: budget!.ledgers.map((ledger) => Ledger.topUp(ledger, 10)!) }
      ])
      assert.strictEqual(overtaken, 4)
      // The one that was kept out goes on.
      yield* Fiber.join(last!)
      assert.deepStrictEqual(yield* ledgerOf(others, "rows"), { granted: 110, available: 106, held: 4, spent: 0 })
    }).pipe(withServer())
  )

  it.live("one round trip for a hold, one for a settlement, on the wire", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { port } = yield* RedisServer.make()
        const proxy = yield* Proxy.make(port)
        yield* Effect.gen(function* () {
          const books = yield* booksOf()
          yield* Books.open(books, "rows", Limit.capacity(1_000_000), Limit.rate({ amount: 1_000, per: "1 second" }))
          yield* Books.open(books, "calls", Limit.capacity(1_000_000))
          const pair = (id: string, entries: Readonly<Record<string, number>>) =>
            Effect.gen(function* () {
              const request = Books.hold(id, entries)
              const before = proxy.asked.pieces
              yield* books.hold(request)
              const between = proxy.asked.pieces
              yield* books.settle(Books.settle(request, "committed"))
              return [between - before, proxy.asked.pieces - between]
            })
          // The first of each brings its script.
          yield* pair("first", { rows: 1 })
          assert.deepStrictEqual(yield* pair("second", { calls: 1 }), [1, 1])
          assert.deepStrictEqual(yield* pair("third", { rows: 2, calls: 3 }), [1, 1])
        }).pipe(Effect.provide(RedisServer.client(proxy.port)))
      })
    )
  )

  it.live("steps that nobody waits for any more are not sent", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const server = yield* RedisServer.make()
        yield* Effect.gen(function* () {
          const books = yield* booksOf()
          yield* Books.open(books, "rows", Limit.capacity(100))
          yield* server.pause
          const holds = yield* Effect.forEach([1, 2, 4, 8], (amount) =>
            Effect.forkChild(books.hold(Books.hold(`hold ${amount}`, { rows: amount }))).pipe(
              Effect.tap(Effect.sleep(1))
            )
          )
          // Two scripts are under way; the others wait for them.
          yield* Fiber.interrupt(holds[2]!)
          yield* server.resume
          for (const i of [0, 1, 3]) yield* Fiber.join(holds[i]!)
          assert.strictEqual((yield* ledgerOf(books, "rows")).held, 1 + 2 + 8)
        }).pipe(Effect.provide(RedisServer.client(server.port)))
      })
    )
  )

  it.live("an answer that was lost is asked for again, and the books have it once", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { port } = yield* RedisServer.make()
        const proxy = yield* Proxy.make(port)
        yield* Effect.gen(function* () {
          const books = yield* booksOf()
          yield* Books.open(books, "rows", Limit.capacity(100))
          const warm = Books.hold("warm", { rows: 1 })
          yield* books.hold(warm)
          yield* books.settle(Books.settle(warm, "released", [0]))
          const lost = <A>(effect: Effect.Effect<A, StoreUnavailable>) =>
            Effect.gen(function* () {
              proxy.cutAtNextAnswer()
              const error = yield* Effect.flip(effect)
              assert.instanceOf(error, StoreUnavailable)
              return yield* effect
            })
          const request = Books.hold("one", { rows: 40 })
          assert.deepStrictEqual(yield* lost(books.hold(request)), { _tag: "Held", amounts: [40] })
          assert.strictEqual((yield* ledgerOf(books, "rows")).held, 40)
          const settled = yield* lost(books.settle(Books.settle(request, "committed", [25])))
          assert.deepStrictEqual(settled, {
            _tag: "Settled",
            cause: "committed",
            charges: [25],
            overran: [],
            late: false
          })
          assert.deepStrictEqual(yield* ledgerOf(books, "rows"), { granted: 100, available: 75, held: 0, spent: 25 })
        }).pipe(Effect.provide(RedisServer.client(proxy.port)))
      })
    )
  )

  it.live("a server that is killed and started again has the books in its append-only file", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const server = yield* RedisServer.make({ appendOnly: true })
        yield* Effect.gen(function* () {
          const books = yield* booksOf()
          yield* Books.open(books, "rows", Limit.rate({ amount: 100, per: "36500 days" }), Limit.concurrency(50))
          const [open, ended] = [Books.hold("open", { rows: 40 }), Books.hold("ended", { rows: 5 })]
          yield* books.hold(open)
          yield* books.hold(ended)
          const settled = yield* books.settle(Books.settle(ended, "committed", [3]))
          const before = yield* ledgerOf(books, "rows")
          yield* server.restart
          assert.deepStrictEqual(yield* ledgerOf(books, "rows"), before)
          // An outcome is remembered, an open hold goes on.
          assert.deepStrictEqual(yield* books.settle(Books.settle(ended, "released", [0])), settled)
          assert.deepStrictEqual(yield* books.renew([{ id: "open", progress: [7] }], 60_000), [])
          yield* books.settle(Books.settle(open, "committed", [40]))
          assert.deepStrictEqual(yield* ledgerOf(books, "rows"), { granted: 100, available: 57, held: 0, spent: 43 })
        }).pipe(Effect.provide(RedisServer.client(server.port)))
      })
    )
  )

  it.live("a server that is full, read-only or away is unavailable; what is wrong in a script is a defect", () =>
    Effect.gen(function* () {
      const books = yield* booksOf({ group: "wrong" })
      yield* Books.open(books, "rows", Limit.capacity(100))
      const hold = (id: string) => books.hold(Books.hold(id, { rows: 1 }))
      yield* hold("warm")

      yield* send("CONFIG", "SET", "maxmemory", "1")
      assert.include((yield* Effect.flip(hold("full"))).message, "OOM")
      yield* send("CONFIG", "SET", "maxmemory", "0")

      yield* send("REPLICAOF", "127.0.0.1", "1")
      assert.instanceOf(yield* Effect.flip(hold("read-only")), StoreUnavailable)
      yield* send("REPLICAOF", "NO", "ONE")
      assert.strictEqual((yield* ledgerOf(books, "rows")).held, 1)

      yield* send("DEL", "{wrong}:books")
      yield* send("SET", "{wrong}:books", "a string")
      const exit = yield* Effect.exit(hold("wrong"))
      assert.isTrue(Exit.hasDies(exit), String(exit))
    }).pipe(withServer())
  )

  it.live("tells which budgets something came back to, also after the connection was lost", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const server = yield* RedisServer.make({ appendOnly: true })
        yield* Effect.gen(function* () {
          const group = "{freed}: 100%"
          const books = yield* booksOf({ group })
          const other = yield* booksOf({ group })
          yield* Books.open(books, "a, b", Limit.capacity(100))
          yield* Books.open(books, "c", Limit.concurrency(100))
          const told = yield* Queue.unbounded<ReadonlyArray<string>>()
          yield* Effect.forkScoped(Stream.runForEach(books.freed, (names) => Queue.offer(told, names)))
          const channel = "{%7Bfreed%7D%3A%20100%25}:freed"
          const subscribed = Effect.gen(function* () {
            const answer = (yield* send("PUBSUB", "NUMSUB", channel)) as ReadonlyArray<string>
            if (Number(answer[1]) === 0) return yield* Effect.andThen(Effect.sleep(10), subscribed)
          }) as Effect.Effect<void, Redis.RedisError, Redis.Redis>
          yield* subscribed
          let n = 0
          const pair = Effect.suspend(() => {
            const request = Books.hold(`hold ${n++}`, { "a, b": 1, c: 2 })
            return Effect.andThen(other.hold(request), other.settle(Books.settle(request, "committed")))
          })
          yield* pair
          assert.deepStrictEqual(yield* Queue.take(told), ["a, b", "c"])
          yield* other.update(["c"], ([budget]) => [budget!])
          assert.deepStrictEqual(yield* Queue.take(told), ["c"])
          const held = Books.hold("reduced", { "a, b": 3, c: 2 })
          yield* other.hold(held)
          yield* other.reduce({ id: "reduced", step: 1, amounts: [0, 1] })
          assert.deepStrictEqual(yield* Queue.take(told), ["c"])

          yield* server.restart
          yield* subscribed
          yield* pair
          assert.deepStrictEqual(yield* Queue.take(told), ["a, b", "c"])
        }).pipe(Effect.provide(RedisServer.client(server.port)))
      })
    )
  )

  it.live("subscribes again when a client gives a subscription up", () =>
    Effect.gen(function* () {
      const redis = yield* Redis.Redis
      let subscriptions = 0
      const given = Redis.Redis.of({
        ...redis,
        subscribe: (channel) =>
          Effect.gen(function* () {
            subscriptions++
            const queue = yield* Queue.unbounded<Redis.RedisMessage, Redis.RedisError>()
            if (subscriptions < 3) {
              yield* Queue.offer(queue, { channel, message: `budget%20${subscriptions}` })
              yield* Queue.fail(queue, new Redis.RedisError({ cause: new Error("given up") }))
            } else yield* Queue.offer(queue, { channel, message: "last" })
            return queue
          })
      })
      const books = yield* Effect.provideService(booksOf(), Redis.Redis, given)
      const told = yield* Stream.runCollect(Stream.take(books.freed, 3))
      assert.deepStrictEqual(told, [["budget 1"], ["budget 2"], ["last"]])
    }).pipe(withServer())
  )
})
