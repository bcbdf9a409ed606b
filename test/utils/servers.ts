/**
 * Suites that need a real server. Where its program is not installed they are left out, and say so; with `CI=true` in the
 * environment that is a failure.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { accessSync, constants } from "node:fs"
import { createServer } from "node:net"
import { delimiter, join } from "node:path"

/** A program that suites start for themselves. */
export interface Server {
  readonly program: string
  readonly available: boolean
}

/** Where a program is, on PATH or in one of these directories; `undefined` when it is not installed. */
export const find = (program: string, directories: ReadonlyArray<string> = []): string | undefined =>
  [...(process.env["PATH"] ?? "").split(delimiter), ...directories]
    .map((directory) => join(directory, program))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK)
        return true
      } catch {
        return false
      }
    })

/** A port on loopback that was free a moment ago. */
export const freePort: Effect.Effect<number> = Effect.callback((resume) => {
  const probe = createServer()
  probe.listen(0, "127.0.0.1", () => {
    const address = probe.address()
    probe.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)))
  })
})

/** `describe`, for a suite that needs this server. */
export const describeWith = (server: Server, name: string, body: () => void): void => {
  if (server.available) return void describe(name, body)
  const missing = `there is no ${server.program} on this machine`
  if (process.env["CI"] === "true") {
    describe(name, () => {
      it("has its server", () => assert.fail(missing))
    })
    return
  }
  console.warn(`Left out: "${name}", ${missing}.`)
  describe.skip(`${name} (left out: ${missing})`, body)
}
