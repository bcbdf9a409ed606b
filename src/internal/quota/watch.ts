/**
 * Follows the content of a text file.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Latch from "effect/Latch"
import type { PlatformError } from "effect/PlatformError"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"

/** The content of a file, or the reason why it could not be read. */
export type Content = Result.Result<string, PlatformError>

/** How long the content must stay the same to be taken as complete: a file may be written in several steps. */
const SETTLES = "50 millis"

/** How often to look if the file system reports no change (network mounts, a directory further up that was swapped). */
const LOOKS = "5 seconds"

/** Emits the content now and after every change of it. */
export const contents = (path: string): Stream.Stream<Content, never, FileSystem.FileSystem> =>
  Stream.unwrap(
    Effect.map(FileSystem.FileSystem, (fs) => {
      const read: Effect.Effect<Content> = Effect.result(fs.readFileString(path))

      const next = (last: Content | undefined): Effect.Effect<Content> =>
        Effect.scoped(
          Effect.gen(function* () {
            // Before the file is read, so that a later change is noticed. Repeated each time, since links may point elsewhere now.
            const changed = yield* watchDirectories(fs, path)
            let content = yield* read
            if (last === undefined) return content
            if (same(content, last)) {
              yield* Effect.timeoutOption(changed.await, LOOKS)
              yield* Effect.sleep(SETTLES)
              content = yield* read
            }
            while (!same(content, last)) {
              yield* Effect.sleep(SETTLES)
              const again = yield* read
              if (same(again, content)) return content
              content = again
            }
            return undefined
          })
        ).pipe(Effect.flatMap((content) => (content === undefined ? next(last) : Effect.succeed(content))))

      const start: Content | undefined = undefined
      return Stream.unfold<Content | undefined, Content, never, never>(start, (last) =>
        Effect.map(next(last), (content) => [content, content])
      )
    })
  )

const same = (a: Content, b: Content): boolean =>
  Result.isSuccess(a)
    ? Result.isSuccess(b) && a.success === b.success
    : Result.isFailure(b) && a.failure.message === b.failure.message

/**
 * Watches the directory of the file and the real directory behind links: a replaced file is another file, which only the
 * directory reports. Returns when both are watched, with a latch that opens at the first change. A directory that cannot be
 * watched reports no change.
 */
const watchDirectories = Effect.fnUntraced(function* (
  fs: FileSystem.FileSystem,
  path: string
): Effect.fn.Return<Latch.Latch, never, Scope.Scope> {
  const real = yield* Effect.orElseSucceed(fs.realPath(path), () => path)
  const changed = Latch.makeUnsafe()
  for (const directory of new Set([directoryOf(path), directoryOf(real)])) {
    const ready = Latch.makeUnsafe()
    yield* fs.watch(directory, { onReady: () => ready.openUnsafe() }).pipe(
      Stream.runForEach(() => changed.open),
      // A watcher that cannot be made may also throw.
      Effect.exit,
      Effect.andThen(ready.open),
      Effect.forkScoped
    )
    yield* ready.await
  }
  return changed
})

const directoryOf = (path: string): string => {
  const end = Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"))
  return end < 0 ? "." : path.slice(0, Math.max(end, 1))
}
