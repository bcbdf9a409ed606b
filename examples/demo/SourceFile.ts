/** The files of a folder, as rows to process. */
import { Data, Effect, FileSystem, Order, Path, type PlatformError, Runtime, Stream } from "effect"
import { Tokenizer } from "effect/ai"
import { TextDecoder } from "node:util"

export interface SourceFile {
  /** Relative to the folder. */
  readonly path: string
  /** How many tokens the text has; none, if it is not text or cannot be read. */
  readonly tokens: number
  /** Read anew each time. What is wrong with a file fails here, not in `scan`. */
  readonly text: Effect.Effect<string, NotText | PlatformError.PlatformError>
}

export class NotText extends Data.TaggedError("NotText")<{ readonly message: string }> {}

/** The user asked for something that cannot be done. */
export class UsageError extends Data.TaggedError("UsageError")<{ readonly message: string }> {
  override readonly [Runtime.errorExitCode] = 2
  override readonly [Runtime.errorReported] = false
}

const SKIPPED = new Set(["node_modules", "dist", "build", "coverage", ".git", ".cache"])

/** More than this of one file is never read. */
const MAX_BYTES = 48 * 1024

/** All files below the folder, the longest first. */
export const scan = Effect.fn("scan")(
  function* (folder: string) {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const tokenizer = yield* Tokenizer.Tokenizer

    const { type } = yield* fs.stat(folder)
    if (type !== "Directory") return yield* new UsageError({ message: `${folder} is not a folder` })

    const walk = (below: string): Effect.Effect<ReadonlyArray<string>, PlatformError.PlatformError> =>
      Effect.flatMap(fs.readDirectoryEntries(path.join(folder, below)), (entries) =>
        Effect.map(
          Effect.forEach(entries, ({ name, type }) => {
            if (type === "Directory" && !SKIPPED.has(name)) return walk(path.join(below, name))
            return Effect.succeed(type === "File" ? [path.join(below, name)] : [])
          }),
          (paths) => paths.flat()
        )
      )

    const measure = Effect.fnUntraced(function* (file: string) {
      const bytes = Stream.mkUint8Array(fs.stream(path.join(folder, file), { bytesToRead: MAX_BYTES }))
      const text = Effect.flatMap(bytes, decode)
      const tokens = yield* tokenizer.tokenize(yield* Effect.orElseSucceed(text, () => ""))
      return { path: file, tokens: tokens.length, text }
    })

    const files: ReadonlyArray<SourceFile> = yield* Effect.forEach(yield* walk(""), measure, { concurrency: 16 })
    if (files.length === 0) return yield* new UsageError({ message: `${folder} has no files` })
    return files.toSorted(longestFirst)
  },
  (scanned, folder) =>
    Effect.catchTag(scanned, "PlatformError", (error) =>
      Effect.fail(
        new UsageError({
          message:
            error.reason._tag === "NotFound"
              ? `there is no folder ${folder}`
              : `cannot read ${folder}: ${error.message}`
        })
      )
    )
)

const longestFirst = Order.combine(
  Order.flip(Order.mapInput(Order.Number, ({ tokens }: SourceFile) => tokens)),
  Order.mapInput(Order.String, ({ path }: SourceFile) => path)
)

const decode = (bytes: Uint8Array): Effect.Effect<string, NotText> =>
  bytes.includes(0)
    ? Effect.fail(new NotText({ message: `not text: its byte ${bytes.indexOf(0)} is 0` }))
    : Effect.try({
        // A file that was cut off may end within a character, which a streaming decoder leaves out.
        try: () => new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: bytes.length === MAX_BYTES }),
        catch: () => new NotText({ message: "not text: it is not UTF-8" })
      })
