/**
 * Suites that need a real server. Where its program is not installed they are left out, and say so; with `CI=true` in the
 * environment that is a failure.
 */
import { assert, describe, it } from "@effect/vitest"
import { accessSync, constants } from "node:fs"
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
