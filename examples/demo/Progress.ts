/** What a person sees while the files are processed: a bar for each budget on a terminal, plain lines elsewhere. */
import { Console, Context, Effect, Layer, Ref, Schedule, Stdio, Terminal } from "effect"
import { MultiBar } from "cli-progress"
import { type Books, format, KEYS, type Outcome, outcomesOf, type Tally } from "./Audit.ts"

export class Progress extends Context.Service<
  Progress,
  { readonly finished: (path: string, outcome: Outcome) => Effect.Effect<void> }
>()("demo/Progress") {}

export interface Options {
  readonly books: Effect.Effect<Books>
  readonly tally: Ref.Ref<Tally>
  readonly files: number
}

export const layer = (options: Options): Layer.Layer<Progress, never, Stdio.Stdio | Terminal.Terminal> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const stdio = yield* Stdio.Stdio
      return (yield* stdio.stdoutIsTerminal) ? layerBars(options) : layerLines
    })
  )

const layerLines = Layer.succeed(Progress, {
  finished: (path, outcome) => Console.log(lineOf(path, outcome))
})

const layerBars = ({ books, files, tally }: Options) =>
  Layer.effect(
    Progress,
    Effect.gen(function* () {
      const terminal = yield* Terminal.Terminal
      const screen = yield* Effect.acquireRelease(
        Effect.sync(
          () =>
            new MultiBar({
              stream: process.stdout,
              format: "{line}",
              hideCursor: true,
              forceRedraw: true,
              gracefulExit: false
            })
        ),
        (screen) => Effect.sync(() => screen.stop())
      )
      const lines = ["rows", "tokens", "dollars", "files"].map((line) => screen.create(1, 0, { line }))
      const draw = Effect.gen(function* () {
        const now = yield* books
        const text = [...KEYS.map((key) => bar(key, now)), `files    ${outcomesOf(yield* Ref.get(tally), files)}`]
        lines.forEach((line, i) => line.update({ line: text[i] }))
        screen.update()
      })
      yield* Effect.addFinalizer(() => draw)
      yield* Effect.forkScoped(Effect.repeat(draw, Schedule.spaced("100 millis")))
      return {
        finished: (path, outcome) =>
          Effect.map(terminal.columns, (columns) => {
            // What is left of a longer line below it is erased.
            screen.log(`${lineOf(path, outcome).slice(0, (columns || 80) - 1)}\u001b[K\n`)
          })
      }
    })
  )

const CELLS = 16

/** What was granted so far: spent, held and left of it. */
const bar = (key: keyof Books, books: Books): string => {
  const [{ ledgers, waiters }] = books[key]
  const { available, granted, held, spent } = ledgers[0]!
  const cells = (amount: number) => Math.min(CELLS, Math.round((CELLS * amount) / Math.max(1, granted)))
  const used = cells(spent + held)
  const drawn = "█".repeat(cells(spent)) + "▒".repeat(Math.max(0, used - cells(spent))) + "░".repeat(CELLS - used)
  const amounts = [
    ["spent", spent],
    ["held", held],
    ["left", available]
  ] as const
  const numbers = amounts.map(([name, amount]) => `${name} ${format(key, amount).padStart(10)}`).join("  ")
  return `${key.padEnd(8)} ${drawn}  ${numbers}${waiters > 0 ? `  waiting ${waiters}` : ""}`
}

/** File names and summaries are shown to a terminal: their control characters are not. */
const lineOf = (path: string, { detail, status }: Outcome): string =>
  `${status.padEnd(9)}  ${printable(path)}  ${printable(detail)}`

const printable = (text: string): string => text.replace(/[\p{C}\s]+/gu, " ")
