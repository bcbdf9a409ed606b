import { Effect, Layer } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeSqlite, SqlBudgetStore } from "../../src/sql/index.ts"
import * as Postgres from "../utils/postgresServer.ts"
import { describeWith } from "../utils/servers.ts"
import { conformance } from "./conformance.ts"

describeWith(Postgres.server, "PostgreSQL", () => {
  conformance({
    name: "PostgreSQL",
    layer: SqlBudgetStore.layer({ pollInterval: "200 millis" }).pipe(
      Layer.provide(
        Layer.unwrap(Effect.map(Postgres.PostgresServer, (server) => Postgres.client(server))).pipe(
          Layer.provide(Postgres.PostgresServer.layer)
        )
      )
    )
  })
})

const temporary = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-budget-sqlite-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

conformance({
  name: "SQLite",
  layer: SqlBudgetStore.layer({ pollInterval: "50 millis" }).pipe(
    Layer.provide(
      Layer.unwrap(
        Effect.map(temporary, (directory) =>
          NodeSqlite.layer({ filename: join(directory, "books.sqlite"), synchronous: "normal" })
        )
      )
    )
  )
})
