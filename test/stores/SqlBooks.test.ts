import type { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Context,
  Deferred,
  Effect,
  Exit,
  Fiber,
  Latch,
  Layer,
  ManagedRuntime,
  Queue,
  type Scope,
  Stream
} from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient, Statement } from "effect/sql"
import { TestClock } from "effect/testing"
import { execFile } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { afterAll } from "vitest"
import type { SharedBooks } from "../../src/internal/shared/books.ts"
import { make } from "../../src/internal/shared/sql/books.ts"
import { together } from "../../src/internal/shared/sql/together.ts"
import { Limit } from "../../src/index.ts"
import { NodeSqlite } from "../../src/sql/index.ts"
import * as Postgres from "../utils/postgresServer.ts"
import { describeWith } from "../utils/servers.ts"
import * as Books from "./books.ts"

const KEEP = Books.KEEP_OUTCOMES

const temporaryFile = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-budget-sqlite-"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
  ),
  (path) => join(path, "books.sqlite")
)

/** Of the first limit of a budget. */
const shown = (books: SharedBooks, name: string) =>
  Effect.map(books.read([name]), ([budget]) => {
    const { available, held, spent } = budget!.ledgers[0]!
    return { available, held, spent }
  })

const unavailable = <A>(exit: Exit.Exit<A, unknown>): void => {
  assert.isTrue(Exit.isFailure(exit))
  if (Exit.isFailure(exit)) assert.include(`${Cause.squash(exit.cause)}`, "StoreUnavailable")
}

const defectOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(effect), (exit) => (Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined))

describe("steps together", () => {
  const settled = <A>(effect: Effect.Effect<A>) => Effect.forkChild(effect, { startImmediately: true })

  it.effect("what comes while a step is under way goes in the next", () =>
    Effect.gen(function* () {
      const latch = yield* Latch.make()
      const asked: Array<ReadonlyArray<number>> = []
      const ask = together((numbers: ReadonlyArray<number>) =>
        Effect.andThen(
          Effect.sync(() => asked.push(numbers)),
          Effect.as(
            latch.await,
            numbers.map((n) => n * 10)
          )
        )
      )
      const fibers = yield* Effect.forEach([1, 2, 3, 4], (n) => settled(ask(n)))
      yield* Fiber.interrupt(fibers[2]!)
      yield* latch.open
      assert.deepStrictEqual(yield* Effect.forEach([0, 1, 3], (i) => Fiber.join(fibers[i]!)), [10, 20, 40])
      assert.deepStrictEqual(asked, [[1], [2, 4]])
    })
  )

  it.effect("only the one at fault fails", () =>
    Effect.gen(function* () {
      const ask = together((numbers: ReadonlyArray<number>) =>
        Effect.andThen(Effect.yieldNow, numbers.includes(3) ? Effect.die(numbers) : Effect.succeed(numbers))
      )
      const exits = yield* Effect.forEach([1, 2, 3, 4], (n) => Effect.exit(ask(n)), { concurrency: "unbounded" })
      assert.deepStrictEqual(exits, [Exit.succeed(1), Exit.succeed(2), Exit.die([3]), Exit.succeed(4)])
    })
  )

  it.effect("is interrupted when nobody waits for it any more, and goes on with the next", () =>
    Effect.gen(function* () {
      const interrupted = yield* Deferred.make<void>()
      const ask = together((numbers: ReadonlyArray<number>) =>
        numbers[0] === 1
          ? Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined))
          : Effect.succeed(numbers)
      )
      const first = yield* settled(ask(1))
      const second = yield* settled(ask(2))
      yield* Fiber.interrupt(first)
      yield* Deferred.await(interrupted)
      assert.strictEqual(yield* Fiber.join(second), 2)
    })
  )
})

describe("the books in SQLite", () => {
  const open = (filename: string, options?: Partial<NodeSqlite.Options>) =>
    Layer.build(NodeSqlite.layer({ filename, synchronous: "normal", ...options }))
  const booksIn = (context: Context.Context<SqlClient.SqlClient>, keepOutcomes = KEEP) =>
    Effect.provideContext(make({ group: "g", keepOutcomes }), context)

  const subject: Books.MakeSubject<never> = (start, { keepOutcomes }) =>
    Effect.gen(function* () {
      yield* TestClock.setTime(start)
      const books = yield* booksIn(yield* open(yield* temporaryFile), keepOutcomes)
      return { books, setTime: TestClock.setTime }
    }).pipe(Effect.orDie)

  Books.suite(subject, (effect) => Effect.scoped(Effect.provide(effect, TestClock.layer())))

  it.effect("a file that is opened again has the same books", () =>
    Effect.gen(function* () {
      const filename = yield* temporaryFile
      const request = Books.hold("one", { rows: 4 })
      const before = yield* Effect.scoped(
        Effect.gen(function* () {
          const books = yield* booksIn(yield* open(filename))
          yield* Books.open(books, "rows", Limit.capacity(10), Limit.rate({ amount: 10, per: "1 minute" }))
          yield* books.hold(request)
          return yield* books.read(["rows"])
        })
      )
      const books = yield* booksIn(yield* open(filename))
      assert.deepStrictEqual(Books.plain(yield* books.read(["rows"])), Books.plain(before))
      assert.include(yield* books.settle(Books.settle(request, "committed", [3])), { late: false, cause: "committed" })
      assert.deepStrictEqual(yield* shown(books, "rows"), { available: 7, held: 0, spent: 3 })
    })
  )

  it.live("two clients of a file at once", () =>
    Effect.gen(function* () {
      const filename = yield* temporaryFile
      const [one, other] = yield* Effect.all(
        [Effect.flatMap(open(filename), booksIn), Effect.flatMap(open(filename), booksIn)],
        {
          concurrency: 2
        }
      )
      yield* Books.open(one, "rows", Limit.capacity(1_000))
      const answers = yield* Effect.forEach(
        Array.from({ length: 200 }, (_, i) => Books.hold(`hold ${i}`, { rows: 7 })),
        (request, i) => (i % 2 === 0 ? one : other).hold(request),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(answers.filter(({ _tag }) => _tag === "Held").length, 142)
      assert.deepStrictEqual(yield* shown(other, "rows"), { available: 6, held: 994, spent: 0 })
    }).pipe(Effect.scoped)
  )

  it.live("processes that open a new file at once", () =>
    Effect.gen(function* () {
      const filename = yield* temporaryFile
      const worker = join(import.meta.dirname, "sqliteWorker.ts")
      const outs = yield* Effect.forEach(
        [1, 2, 3],
        (n) => Effect.promise(() => promisify(execFile)(process.execPath, [worker, filename, `${n}`])),
        { concurrency: "unbounded" }
      )
      const granted = outs.map(({ stdout }) => Number(stdout))
      const books = yield* booksIn(yield* open(filename))
      assert.strictEqual(
        granted.reduce((sum, n) => sum + n, 0),
        142
      )
      assert.deepStrictEqual(yield* shown(books, "rows"), { available: 6, held: 994, spent: 0 })
    }).pipe(Effect.scoped)
  )

  it.effect("a file that somebody else keeps for himself is unavailable, and comes back", () =>
    Effect.gen(function* () {
      const filename = yield* temporaryFile
      const books = yield* booksIn(yield* open(filename, { busyTimeout: 1 }))
      yield* Books.open(books, "rows", Limit.capacity(10))
      const other = Context.get(yield* open(filename), SqlClient.SqlClient)
      yield* other.withTransaction(
        Effect.gen(function* () {
          unavailable(yield* Effect.exit(books.hold(Books.hold("one", { rows: 4 }))))
        })
      )
      assert.deepStrictEqual(yield* books.hold(Books.hold("one", { rows: 4 })), { _tag: "Held", amounts: [4] })
    })
  )

  it.effect("a transaction of the same client cannot use its budgets", () =>
    Effect.gen(function* () {
      const context = yield* open(yield* temporaryFile)
      const books = yield* booksIn(context)
      yield* Books.open(books, "rows", Limit.capacity(10))
      const sql = Context.get(context, SqlClient.SqlClient)
      const defect = yield* defectOf(sql.withTransaction(books.hold(Books.hold("one", { rows: 4 }))))
      assert.include(`${defect}`, "cannot be used inside one of its transactions")
      assert.deepStrictEqual(yield* shown(books, "rows"), { available: 10, held: 0, spent: 0 })
    })
  )

  it.effect("tells in the process what came back", () =>
    Effect.gen(function* () {
      const books = yield* booksIn(yield* open(yield* temporaryFile))
      yield* Books.open(books, "rows", Limit.capacity(10))
      const told = yield* listening(books)
      const request = Books.hold("one", { rows: 4 })
      yield* books.hold(request)
      yield* books.settle(Books.settle(request, "released", [0]))
      assert.deepStrictEqual(yield* Queue.take(told), ["rows"])
    })
  )
})

/** What is told from now on. */
const listening = (books: SharedBooks): Effect.Effect<Queue.Dequeue<ReadonlyArray<string>>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const told = yield* Queue.unbounded<ReadonlyArray<string>>()
    yield* Effect.forkScoped(
      Stream.runForEach(books.freed, (names) => Queue.offer(told, names)),
      {
        startImmediately: true
      }
    )
    return told
  })

describe("a SqlClient on node:sqlite", () => {
  const scratch = Layer.unwrap(Effect.map(temporaryFile, (filename) => NodeSqlite.layer({ filename })))

  it.effect("says what went wrong", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)`
      yield* sql`INSERT INTO t ${sql.insert({ id: 1, n: 2 })}`
      const reasonOf = (statement: string) =>
        Effect.map(Effect.flip(Effect.asVoid(sql.unsafe(statement))), ({ reason }) => reason._tag)
      assert.strictEqual(yield* reasonOf("INSERT INTO t VALUES (1, 1)"), "UniqueViolation")
      assert.strictEqual(yield* reasonOf("INSERT INTO t VALUES (2, NULL)"), "ConstraintError")
      assert.strictEqual(yield* reasonOf("SELEC 1"), "UnknownError")
      const [row] = yield* sql<{ id: number; n: number }>`SELECT * FROM t WHERE id = ${1}`
      assert.deepStrictEqual({ ...row! }, { id: 1, n: 2 })
    }).pipe(Effect.provide(scratch))
  )

  it.effect("a transaction that fails leaves nothing, also inside of another", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE t (n INTEGER)`
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`INSERT INTO t VALUES (1)`
          yield* Effect.flip(sql.withTransaction(Effect.andThen(sql`INSERT INTO t VALUES (2)`, Effect.fail("no"))))
        })
      )
      yield* Effect.flip(sql.withTransaction(Effect.andThen(sql`INSERT INTO t VALUES (3)`, Effect.fail("no"))))
      const rows = yield* Stream.runCollect(sql<{ n: number }>`SELECT n FROM t`.stream)
      assert.deepStrictEqual(
        rows.map(({ n }) => n),
        [1]
      )
    }).pipe(Effect.provide(scratch))
  )

  it.effect("a file that cannot be opened is a ConnectionError", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Layer.build(NodeSqlite.layer({ filename: "/no/such/folder/books.sqlite" })))
      assert.strictEqual(error.reason._tag, "ConnectionError")
    })
  )
})

it.effect("another database is refused", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.make({
      acquirer: Effect.never,
      compiler: Statement.makeCompiler({
        dialect: "mysql",
        placeholder: () => "?",
        onIdentifier: Statement.defaultEscape("`"),
        onRecordUpdate: () => ["", []],
        onCustom: () => ["", []]
      }),
      driver: "mysql2",
      spanAttributes: []
    })
    const defect = yield* defectOf(
      Effect.provideService(make({ group: "g", keepOutcomes: KEEP }), SqlClient.SqlClient, sql)
    )
    assert.include(`${defect}`, `not in what the SqlClient "mysql2" speaks`)
  }).pipe(Effect.provide(Reactivity.layer))
)

describeWith(Postgres.server, "the books in PostgreSQL", () => {
  type Services = SqlClient.SqlClient | Postgres.PostgresServer
  const client = (options?: PgClient.PgPoolConfig) =>
    Layer.unwrap(Effect.map(Postgres.PostgresServer, (server) => Postgres.client(server, options)))
  const runtime = ManagedRuntime.make(Layer.provideMerge(client(), Postgres.PostgresServer.layer))
  afterAll(() => runtime.dispose())

  const run = <A, E>(effect: Effect.Effect<A, E, Services | Scope.Scope>): Effect.Effect<A, E> =>
    Effect.flatMap(Effect.orDie(runtime.contextEffect), (context) =>
      Effect.scoped(Effect.provideContext(effect, context))
    )

  let groups = 0
  const groupOf = () => `group ${groups++}`
  const booksOf = (group: string) => make({ group, keepOutcomes: KEEP })

  const subject: Books.MakeSubject<SqlClient.SqlClient> = (start, { keepOutcomes }) =>
    Effect.suspend(() => {
      let now = start
      return Effect.map(make({ group: groupOf(), keepOutcomes, now: () => now }), (books) => ({
        books,
        setTime: (to: number) => Effect.sync(() => void (now = to))
      }))
    }).pipe(Effect.orDie)

  Books.suite(subject, run)

  /** Ends the connections that wait for a lock. */
  const terminateBlocked = Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    let ended: ReadonlyArray<unknown> = []
    while (ended.length === 0) {
      // In a transaction, the server shows the same activity again and again.
      yield* sql`SELECT pg_stat_clear_snapshot()`
      ended = yield* sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND query LIKE '%effect_budget_steps%'`
    }
  })

  it.live("a connection that ends in the middle of a step leaves nothing of it", () =>
    run(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const group = groupOf()
        const books = yield* booksOf(group)
        yield* Books.open(books, "first", Limit.capacity(10))
        yield* Books.open(books, "second", Limit.capacity(10))
        const request = Books.hold("one", { first: 4, second: 4 })
        const fiber = yield* sql.withTransaction(
          Effect.gen(function* () {
            // The step gets as far as the second budget, with the first one written.
            yield* sql`SELECT FROM effect_budget_budgets WHERE group_name = ${group} AND name = 'second' FOR UPDATE`
            const fiber = yield* Effect.forkScoped(Effect.exit(books.hold(request)), { startImmediately: true })
            yield* terminateBlocked
            return fiber
          })
        )
        unavailable(yield* Fiber.join(fiber))
        assert.deepStrictEqual(yield* shown(books, "first"), { available: 10, held: 0, spent: 0 })
        assert.deepStrictEqual(yield* books.hold(request), { _tag: "Held", amounts: [4, 4] })
        assert.deepStrictEqual(yield* shown(books, "first"), { available: 6, held: 4, spent: 0 })
      })
    )
  )

  it.live("a server that crashes is unavailable, and its books are there when it is back", () =>
    run(
      Effect.gen(function* () {
        const server = yield* Postgres.PostgresServer
        const books = yield* booksOf(groupOf())
        yield* Books.open(books, "rows", Limit.capacity(10))
        const [one, other] = [Books.hold("one", { rows: 4 }), Books.hold("other", { rows: 2 })]
        yield* books.hold(one)
        yield* server.kill
        unavailable(yield* Effect.exit(books.hold(other)))
        unavailable(yield* Effect.exit(books.settle(Books.settle(one, "committed", [3]))))
        yield* server.restart
        assert.include(yield* books.settle(Books.settle(one, "committed", [3])), { late: false })
        assert.deepStrictEqual(yield* books.hold(other), { _tag: "Held", amounts: [2] })
        assert.deepStrictEqual(yield* shown(books, "rows"), { available: 5, held: 2, spent: 3 })
      })
    )
  )

  it.live("a step that was given up while the server stood still can be sent again", () =>
    run(
      Effect.gen(function* () {
        const server = yield* Postgres.PostgresServer
        const books = yield* booksOf(groupOf())
        yield* Books.open(books, "rows", Limit.capacity(10))
        const request = Books.hold("one", { rows: 4 })
        yield* server.pause
        const fiber = yield* Effect.forkChild(books.hold(request), { startImmediately: true })
        yield* Effect.andThen(Fiber.interrupt(fiber), server.resume).pipe(Effect.ensuring(server.resume))
        assert.deepStrictEqual(yield* books.hold(request), { _tag: "Held", amounts: [4] })
        assert.deepStrictEqual(yield* shown(books, "rows"), { available: 6, held: 4, spent: 0 })
      })
    )
  )

  it.live("clients that come at once to an empty database make the tables once, and share the books", () =>
    run(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE DATABASE empty`
        const clients = yield* Effect.forEach([1, 2, 3, 4], () =>
          Layer.build(Layer.fresh(client({ database: "empty", maxConnections: 3 })))
        )
        const all = yield* Effect.forEach(clients, (context) => Effect.provideContext(booksOf("g"), context), {
          concurrency: "unbounded"
        })
        yield* Books.open(all[0]!, "rows", Limit.capacity(1_000))
        const answers = yield* Effect.forEach(
          Array.from({ length: 200 }, (_, i) => Books.hold(`hold ${i}`, { rows: 7 })),
          (request, i) => all[i % 4]!.hold(request),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(answers.filter(({ _tag }) => _tag === "Held").length, 142)
        assert.deepStrictEqual(yield* shown(all[3]!, "rows"), { available: 6, held: 994, spent: 0 })
      })
    )
  )

  it.live("other groups have other books", () =>
    run(
      Effect.gen(function* () {
        const [one, other] = [yield* booksOf(groupOf()), yield* booksOf(groupOf())]
        yield* Books.open(one, "rows", Limit.capacity(10))
        assert.deepStrictEqual(yield* other.read(["rows"]), [undefined])
        assert.deepStrictEqual(yield* other.hold(Books.hold("one", { rows: 1 })), { _tag: "Unopened" })
      })
    )
  )

  it.live("is not part of the caller's transaction", () =>
    run(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const books = yield* booksOf(groupOf())
        yield* Books.open(books, "rows", Limit.capacity(10))
        yield* Effect.flip(
          sql.withTransaction(Effect.andThen(books.hold(Books.hold("one", { rows: 4 })), Effect.fail("no")))
        )
        assert.deepStrictEqual(yield* shown(books, "rows"), { available: 6, held: 4, spent: 0 })
      })
    )
  )

  it.live("a step that PostgreSQL cannot take does not spoil those that go with it", () =>
    run(
      Effect.gen(function* () {
        const books = yield* booksOf(groupOf())
        yield* Books.open(books, "rows", Limit.capacity(10))
        const exits = yield* Effect.forEach(
          ["one", "two", "three\u0000", "four"],
          (id) => Effect.exit(books.hold(Books.hold(id, { rows: 1 }))),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(exits.map(Exit.isSuccess), [true, true, false, true])
        assert.isTrue(Exit.hasDies(exits[2]!))
        assert.deepStrictEqual(yield* shown(books, "rows"), { available: 7, held: 3, spent: 0 })
      })
    )
  )

  it.live("a process that stands still in the middle of a change does not keep the others waiting", () =>
    run(
      Effect.gen(function* () {
        const books = yield* booksOf(groupOf())
        yield* Books.open(books, "rows", Limit.capacity(10))
        const change = books.update(["rows"], ([budget]) => {
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3_500)
          return [{ ...budget!, charged: 1 }]
        })
        unavailable(yield* Effect.exit(change))
        assert.strictEqual((yield* books.read(["rows"]))[0]!.charged, 0)
      })
    )
  )

  it.live("goes by the clock of the server", () =>
    run(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const books = yield* booksOf(groupOf())
        const clock = Effect.map(
          sql<{ now: number }>`SELECT extract(epoch FROM now())::float8 * 1000 AS now`,
          (rows) => rows[0]!.now
        )
        const before = yield* clock
        yield* Books.open(books, "rows", Limit.rate({ amount: 10, per: "1 hour" }))
        const [budget] = yield* books.read(["rows"])
        const at = budget!.ledgers[0]!.at
        assert.isTrue(at >= Math.floor(before) && at <= (yield* clock))
      }).pipe(Effect.provide(TestClock.layer()))
    )
  )

  it.live("ends a thousand holds in one step at most", () =>
    run(
      Effect.gen(function* () {
        let now = 1_000
        const books = yield* make({ group: groupOf(), keepOutcomes: KEEP, now: () => now })
        yield* Books.open(books, "rows", Limit.capacity(10_000))
        yield* Effect.forEach(
          Array.from({ length: 1_200 }, (_, i) => Books.hold(`hold ${i}`, { rows: 1 }, { expiresAfter: 10 })),
          books.hold,
          { concurrency: "unbounded", discard: true }
        )
        now += 10
        assert.deepStrictEqual(yield* shown(books, "rows"), { available: 9_800, held: 200, spent: 0 })
        assert.deepStrictEqual(yield* shown(books, "rows"), { available: 10_000, held: 0, spent: 0 })
      })
    )
  )

  it.live("tells all processes what came back, also after the connection that listens was lost", () =>
    run(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const group = groupOf()
        const books = yield* booksOf(group)
        const other = yield* Effect.flatMap(Layer.build(Layer.fresh(client())), (context) =>
          Effect.provideContext(booksOf(group), context)
        )
        yield* Books.open(books, "größe", Limit.capacity(10))
        const told = yield* listening(other)
        const listeners = sql<{ pid: number }>`SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'`
        const awaitListener = Effect.gen(function* () {
          let pids: ReadonlyArray<number> = []
          while (pids.length === 0) pids = (yield* listeners).map(({ pid }) => pid)
          return pids[0]!
        })
        const giveBack = (id: string) =>
          Effect.gen(function* () {
            const request = Books.hold(id, { größe: 4 })
            yield* books.hold(request)
            yield* books.settle(Books.settle(request, "released", [0]))
          })
        const first = yield* awaitListener
        yield* giveBack("one")
        assert.deepStrictEqual(yield* Queue.take(told), ["größe"])
        yield* sql`SELECT pg_terminate_backend(${first})`
        let next = first
        while (next === first) next = yield* awaitListener
        yield* giveBack("two")
        assert.deepStrictEqual(yield* Queue.take(told), ["größe"])
      })
    )
  )

  it.live("transactions that may see old books are refused", () =>
    run(
      Effect.gen(function* () {
        const strict = client({ startupParameters: { default_transaction_isolation: "repeatable read" } })
        const context = yield* Layer.build(Layer.fresh(strict))
        const defect = yield* defectOf(Effect.provideContext(booksOf(groupOf()), context))
        assert.include(`${defect}`, `"read committed", not "repeatable read"`)
      })
    )
  )
})
