/** A real `redis-server` on a free loopback port, as long as its scope lives. */
import { NodeRedis } from "@effect/platform-node"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type * as Redis from "effect/persistence/Redis"
import type * as Scope from "effect/Scope"
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Servers from "./servers.ts"

const path = Servers.find("redis-server")

/** For `describeWith`. */
export const server: Servers.Server = { program: "redis-server", available: path !== undefined }

export interface Options {
  /** Writes every change to a file before it is answered, so that the data outlives a `kill`. */
  readonly appendOnly?: boolean | undefined
  /** Further arguments, `["--cluster-enabled", "yes"]` say. */
  readonly args?: ReadonlyArray<string> | undefined
}

export interface RedisServer {
  readonly port: number
  /** Ends the process at once (`SIGKILL`). */
  readonly kill: Effect.Effect<void>
  /** Starts it again on the same port and directory, after killing it if it runs. */
  readonly restart: Effect.Effect<void>
  /** Stops the process (`SIGSTOP`): connections stay open, nothing is answered. */
  readonly pause: Effect.Effect<void>
  readonly resume: Effect.Effect<void>
}

/** Answers when the server accepts connections; `null` when it has ended before, its port taken by another, say. */
const start = (port: number, directory: string, options: Options): Effect.Effect<ChildProcess | null> =>
  Effect.callback((resume) => {
    const persistence = options.appendOnly === true ? ["yes", "--appendfsync", "always"] : ["no"]
    const child = spawn(
      path!,
      [
        ...["--port", String(port), "--bind", "127.0.0.1", "--dir", directory],
        ...["--save", "", "--appendonly", ...persistence, ...(options.args ?? [])]
      ],
      { stdio: ["ignore", "pipe", "ignore"] }
    )
    let log = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      log += text
      if (!log.includes("Ready to accept connections")) return
      child.stdout.removeAllListeners("data").resume()
      resume(Effect.succeed(child))
    })
    child.once("error", () => resume(Effect.succeed(null)))
    child.once("exit", () => resume(Effect.succeed(null)))
  })

const stop = (child: ChildProcess): Effect.Effect<void> =>
  Effect.callback((resume) => {
    if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
    child.once("exit", () => resume(Effect.void))
    child.kill("SIGKILL")
  })

export const make = (options: Options = {}): Effect.Effect<RedisServer, never, Scope.Scope> =>
  Effect.gen(function* () {
    const directory = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-budget-redis-"))),
      (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
    )
    let child: ChildProcess | null = null as ChildProcess | null
    const kill = Effect.suspend(() => (child === null ? Effect.void : stop(child)))
    // A server must not outlive the tests, not even those that are cut short.
    const atExit = (): void => void child?.kill("SIGKILL")
    yield* Effect.acquireRelease(
      Effect.sync(() => process.once("exit", atExit)),
      () => Effect.andThen(kill, () => Effect.sync(() => process.removeListener("exit", atExit)))
    )
    let port = 0
    for (let attempt = 0; child === null; attempt++) {
      if (attempt === 10) return yield* Effect.die(new Error("redis-server does not start"))
      port = yield* Servers.freePort
      child = yield* Effect.uninterruptible(start(port, directory, options))
    }
    const signal = (name: NodeJS.Signals) => Effect.sync(() => void child?.kill(name))
    return {
      port,
      kill,
      restart: Effect.gen(function* () {
        yield* kill
        child = yield* start(port, directory, options)
        if (child === null) return yield* Effect.die(new Error("redis-server does not start again"))
      }).pipe(Effect.uninterruptible),
      pause: signal("SIGSTOP"),
      resume: signal("SIGCONT")
    }
  })

/** A client of the server at this port. It connects again for as long as it takes. */
export const client = (port: number): Layer.Layer<Redis.Redis | NodeRedis.NodeRedis> =>
  NodeRedis.layer({ socket: { host: "127.0.0.1", port, reconnectStrategy: () => 20 } }).pipe(
    Layer.orDie,
    // It would warn of each connection that a test cuts.
    Layer.provide(Logger.layer([]))
  )

/** A server of its own, and a client of it. */
export const layer = (options?: Options): Layer.Layer<Redis.Redis | NodeRedis.NodeRedis> =>
  Layer.unwrap(Effect.map(make(options), ({ port }) => client(port)))
