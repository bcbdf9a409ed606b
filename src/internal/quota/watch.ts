/**
 * A text file that is followed.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Latch from "effect/Latch"
import type { PlatformError } from "effect/PlatformError"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"

/** What was read, or why it could not be read. */
export type Content = Result.Result<string, PlatformError>

/** How long a file must have said the same to be taken for whole: it may be written in several steps. */
const SETTLES = "50 millis"

/** How often to look where the file system tells of no change (network mounts, a directory further up that was swapped). */
const LOOKS = "5 seconds"

/** What the file says now, and again whenever it says something else. */
export const contents = (path: string): Stream.Stream<Content, never, FileSystem.FileSystem> =>
  Stream.unwrap(
    Effect.map(FileSystem.FileSystem, (fs) => {
      const read: Effect.Effect<Content> = Effect.result(fs.readFileString(path))

      const next = (last: Content | undefined): Effect.Effect<Content> =>
        Effect.scoped(
          Effect.gen(function* () {
            // before the file is read, so that a change after that is noticed; anew each time, since links may lead elsewhere now
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
 * Watches the directory of the file and the one it really is in: a file that is replaced is another file, and only the directory
 * knows. Answers when both are watched, with a latch that opens at the first change. A directory that cannot be watched never
 * tells of one.
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
      // a watcher that cannot be made may also throw
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
