/** A process that takes what it can from the books in a file, and prints how often it could. */
import { Effect } from "effect"
import type { Budget } from "../../src/internal/shared/books.ts"
import { make } from "../../src/internal/shared/sql/books.ts"
import * as Ledger from "../../src/Ledger.ts"
import * as Limit from "../../src/Limit.ts"
import * as NodeSqlite from "../../src/sql/NodeSqlite.ts"

const [filename, name] = process.argv.slice(2)

const limit = Limit.capacity(1_000)
const none = { count: 0, refunded: 0 }
const fresh = (now: number): Budget => ({
  ledgers: [Ledger.make(limit, now)],
  declared: [limit],
  settled: { committed: none, released: none, succeeded: none, failed: none, interrupted: none, expired: none },
  charged: 0,
  overage: 0
})

const program = Effect.gen(function* () {
  const books = yield* make({ group: "g", keepOutcomes: 60_000 })
  yield* books.update(["rows"], ([budget], now) => [budget ?? fresh(now)])
  let granted = 0
  for (let i = 0; i < 100; i++) {
    const entries = [{ budget: "rows", amount: 7 }]
    const request = { id: `${name} ${i}`, step: 0, entries, expiresAfter: 60_000, onExpiry: "progress" } as const
    if ((yield* books.hold(request))._tag === "Held") granted++
  }
  console.log(granted)
}).pipe(Effect.provide(NodeSqlite.layer({ filename: filename!, synchronous: "normal", busyTimeout: "20 seconds" })))

await Effect.runPromise(program)
