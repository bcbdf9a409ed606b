import { assert, it } from "@effect/vitest"
import { execFile, execFileSync, spawn } from "node:child_process"
import { cpSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { root } from "./utils/compiler.ts"
import * as Redis from "./utils/redisServer.ts"
import { describeWith } from "./utils/servers.ts"

interface Ran {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

const run = (command: string, args: ReadonlyArray<string>, env = process.env): Promise<Ran> =>
  new Promise((resolve) =>
    execFile(command, args, { env, timeout: 50_000 }, (error, stdout, stderr) =>
      resolve({ code: typeof error?.code === "number" ? error.code : error === null ? 0 : -1, stdout, stderr })
    )
  )

const childrenOf = (parent: number): ReadonlyArray<number> =>
  execFileSync("ps", ["-A", "-o", "pid=,ppid="], { encoding: "utf8" })
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number))
    .flatMap(([pid, ppid]) => (ppid === parent ? [pid!] : []))

const isRunning = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

const BOOKS = /^(\d+) granted = (-?\d+) available \+ (\d+) held \+ (\d+) spent; (\d+) answered$/

describeWith(Redis.server, "examples/cluster.ts", () => {
  let project: string

  // A project of its own, whose package is its sources: no build is needed, and none can get in the way.
  beforeAll(() => {
    project = mkdtempSync(join(tmpdir(), "effect-budget-cluster-"))
    const exports = { ".": "./src/index.ts", "./redis": "./src/redis/index.ts" }
    writeFileSync(join(project, "package.json"), JSON.stringify({ name: "effect-budget", type: "module", exports }))
    for (const part of ["src", "examples"]) cpSync(join(root, part), join(project, part), { recursive: true })
    symlinkSync(join(root, "node_modules"), join(project, "node_modules"))
  })
  afterAll(() => rmSync(project, { recursive: true, force: true }))

  const cluster = (args: ReadonlyArray<string>, env?: NodeJS.ProcessEnv) =>
    run(process.execPath, [join(project, "examples", "cluster.ts"), ...args], env)

  for (const leased of [false, true]) {
    it(
      leased
        ? "with leases, all of the share of a killed process counts as spent"
        : "what a killed process held comes back, and what was answered is spent",
      async () => {
        const { code, stderr, stdout } = await cluster(leased ? ["--leased"] : [])
        assert.deepStrictEqual({ code, stderr }, { code: 0, stderr: "" }, stdout)
        const lines = stdout.trimEnd().split("\n")
        const books = lines.flatMap((line) => {
          const numbers = BOOKS.exec(line)?.slice(1).map(Number)
          if (numbers === undefined) return []
          const [granted, available, held, spent, answered] = numbers
          return [{ granted: granted!, available: available!, held: held!, spent: spent!, answered: answered! }]
        })
        assert.isAtLeast(books.length, 3, stdout)
        for (const { available, granted, held, spent } of books) assert.strictEqual(available + held + spent, granted)

        const said = (pattern: RegExp) => lines.filter((line) => pattern.test(line)).length
        assert.strictEqual(said(/^Process 2 was killed\.$/), 1, stdout)
        assert.strictEqual(said(/^Process [134] has done its work\.$/), 3, stdout)

        const [before, after] = [books.at(-2)!, books.at(-1)!]
        const held = lines.findIndex(
          (line) => line === `What is still held, ${before.held}, was held by process 2 when it died.`
        )
        assert.isAtLeast(held, 0, stdout)
        assert.match(lines[held + 1]!, /^It has expired, \d+\.\d seconds after that\.$/)
        assert.deepStrictEqual([before.held > 0, after.held], [true, 0], stdout)
        const more = after.spent - after.answered
        assert.isAtLeast(more, 0, stdout)
        if (leased) {
          assert.deepStrictEqual(
            { available: after.available, spent: after.spent },
            { available: before.available, spent: before.spent + before.held },
            stdout
          )
        } else {
          assert.deepStrictEqual(
            { available: after.available, spent: after.spent },
            { available: before.available + before.held, spent: before.spent },
            stdout
          )
          // Its four calls at a time, of at most 300 each.
          assert.isAtMost(before.held, 4 * 300, stdout)
          assert.isAtMost(more, 4 * 300, stdout)
        }
        assert.match(
          lines.at(-1)!,
          more === 0
            ? /^What is spent is what was answered\.$/
            : new RegExp(`^${more} more are spent than were answered: `)
        )
      }
    )
  }

  it("ends all that it started when it is interrupted", async () => {
    const child = spawn(process.execPath, [join(project, "examples", "cluster.ts")], {
      stdio: ["ignore", "pipe", "inherit"]
    })
    const closed = new Promise<number | null>((resolve) => child.once("close", resolve))
    await new Promise<void>((resolve, reject) => {
      let said = ""
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        said += text
        if (/[1-9]\d* answered/.test(said)) resolve()
      })
      void closed.then(() => reject(new Error(said)))
    })
    const started = childrenOf(child.pid!)
    assert.lengthOf(started, 5)
    child.kill("SIGINT")
    assert.strictEqual(await closed, 130)
    assert.deepStrictEqual(started.filter(isRunning), [])
  })

  it("says how to get Redis where there is none", async () => {
    const { code, stderr, stdout } = await cluster([], { ...process.env, PATH: "" })
    assert.deepStrictEqual({ code, stdout }, { code: 1, stdout: "" })
    assert.match(stderr, /^There is no redis-server on this machine\. Install it with `[^`]+` or `[^`]+`\.\n$/)
  })
})
