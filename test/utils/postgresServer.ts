/**
 * A real PostgreSQL on a free loopback port, with its data in a temporary directory. It ends with its scope. Nothing is synced to
 * the disk: a test that kills the server leaves the machine up.
 */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, type Scope } from "effect"
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { find, freePort, type Server } from "./servers.ts"

export interface Running {
  readonly host: string
  readonly port: number
  readonly username: string
  readonly database: string
  /** Ends at once, as in a crash: what was committed is recovered by `restart`. */
  readonly kill: Effect.Effect<void>
  /** Starts again on the same port and data, after `kill` or instead of it. */
  readonly restart: Effect.Effect<void>
  /** Stops all its processes where they are. */
  readonly pause: Effect.Effect<void>
  readonly resume: Effect.Effect<void>
}

/** Where Debian puts it, the latest version first. */
const ROOT = "/usr/lib/postgresql"
const directories = (existsSync(ROOT) ? readdirSync(ROOT) : [])
  .sort((one, other) => Number(other) - Number(one))
  .map((version) => join(ROOT, version, "bin"))

const postgres = find("postgres", directories)
const initdb = find("initdb", directories)

/** PostgreSQL refuses to run as root. */
const user = ((): { readonly uid: number; readonly gid: number } | undefined => {
  if (process.getuid?.() !== 0) return undefined
  const id = (option: string) => Number(execFileSync("id", [option, "postgres"], { encoding: "utf8" }))
  try {
    return { uid: id("-u"), gid: id("-g") }
  } catch {
    return undefined
  }
})()

export const server: Server = {
  program: "postgres",
  available: postgres !== undefined && initdb !== undefined && (process.getuid?.() !== 0 || user !== undefined)
}

export const make: Effect.Effect<Running, never, Scope.Scope> = Effect.gen(function* () {
  if (postgres === undefined || initdb === undefined)
    return yield* Effect.die(new Error("no PostgreSQL on this machine"))
  const data = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const path = mkdtempSync(join(tmpdir(), "effect-budget-postgres-"))
      if (user !== undefined) chownSync(path, user.uid, user.gid)
      return path
    }),
    (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
  )
  yield* Effect.sync(() =>
    execFileSync(initdb, ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"], {
      ...user,
      cwd: data,
      stdio: "ignore"
    })
  )
  const port = yield* freePort
  let server: ChildProcess | undefined
  const start = Effect.suspend(() => {
    const settings = {
      listen_addresses: "127.0.0.1",
      unix_socket_directories: "",
      fsync: "off",
      max_connections: "200",
      shared_buffers: "32MB"
    }
    const started = spawn(
      postgres,
      ["-D", data, "-p", `${port}`, ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])],
      { ...user, cwd: data, stdio: ["ignore", "ignore", "pipe"] }
    )
    server = started
    return Effect.callback<void>((resume) => {
      let log = ""
      started.stderr.setEncoding("utf8").on("data", (text: string) => {
        log = (log + text).slice(-10_000)
        if (log.includes("ready to accept connections")) resume(Effect.void)
      })
      started.once("exit", () => resume(Effect.die(new Error(`PostgreSQL did not start:\n${log}`))))
    })
  })
  const kill = Effect.suspend(() => {
    const running = server
    server = undefined
    if (running === undefined || running.exitCode !== null) return Effect.void
    return Effect.callback<void>((resume) => {
      running.once("exit", () => resume(Effect.void))
      signal(running, "SIGCONT")
      // An immediate shutdown.
      running.kill("SIGQUIT")
    })
  })
  const each = (name: NodeJS.Signals) =>
    Effect.sync(() => {
      if (server !== undefined) signal(server, name)
    })
  yield* Effect.acquireRelease(start, () => kill)
  return {
    host: "127.0.0.1",
    port,
    username: "postgres",
    database: "postgres",
    kill,
    restart: Effect.andThen(kill, start),
    pause: each("SIGSTOP"),
    resume: each("SIGCONT")
  }
})

export class PostgresServer extends Context.Service<PostgresServer, Running>()("test/PostgresServer") {
  static readonly layer = Layer.effect(PostgresServer, make)
}

/** A client of a server, with a pool of its own. */
export const client = ({ database, host, port, username }: Running, options?: PgClient.PgPoolConfig) =>
  PgClient.layer({ host, port, username, database, ...options })

/** To the server and the processes of its connections, each of which is a group of its own. */
const signal = (server: ChildProcess, name: NodeJS.Signals): void => {
  const children = execFileSync("ps", ["-A", "-o", "pid=,ppid="], { encoding: "utf8" })
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter(([, parent]) => parent === server.pid)
    .map(([pid]) => pid!)
  // The server first, so that it starts no more of them.
  for (const pid of [server.pid!, ...children]) {
    try {
      process.kill(pid, name)
    } catch {
      // It has ended by itself.
    }
  }
}
