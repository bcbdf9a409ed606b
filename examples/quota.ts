/**
 * A parent has a quota token for the tokens of a language model. It splits the token among workers, each of which summarises some of
 * the files, and merges the rest at the end. No worker can take more than the resource allows, and a worker that expects to use more
 * waits less.
 *
 * Reading the manifest needs the optional peer `js-yaml`.
 *
 *     npm run --silent build && node examples/quota.ts
 */
import { Console, Effect, Layer } from "effect"
import { Quota, QuotaManifest, QuotaToken } from "effect-budget/quota"

const manifest = `
environments:
  local:
    model-tokens:
      limit: { type: rate, value: 500, period: 100 millis, max: 800 }
      enforcement: throttle
      unit: token
`

const files: ReadonlyArray<readonly [name: string, text: string]> = [
  ["ducks.txt", "Ducks float. ".repeat(90)],
  ["geese.txt", "Geese fly in lines, and shout while they do. ".repeat(50)],
  ["herons.txt", "A heron waits. ".repeat(120)],
  ["swans.txt", "Swans are not as calm as they look. ".repeat(40)],
  ["coots.txt", "Coots fight. ".repeat(60)],
  ["grebes.txt", "Grebes dance, and carry their young. ".repeat(30)]
]

/** About one token for four characters, and up to 40 for the summary. */
const estimate = (text: string): number => Math.ceil(text.length / 4) + 40

/** Stands for a call of a language model, which reports its usage at the end. */
const summarise = (text: string) =>
  Effect.as(Effect.sleep("5 millis"), {
    summary: text.slice(0, text.indexOf(".") + 1),
    tokens: Math.ceil(text.length / 5) + 12
  })

/** A worker only knows its token, not the quota. */
const work = (name: string, token: QuotaToken.QuotaToken, files: ReadonlyArray<readonly [string, string]>) =>
  Effect.forEach(files, ([file, text]) =>
    token.withReservation(estimate(text), () =>
      Effect.map(summarise(text), ({ summary, tokens }) =>
        QuotaToken.used(tokens, { line: `${file}: ${summary} (${name})`, tokens })
      )
    )
  )

export const program = Effect.gen(function* () {
  const quota = yield* Quota
  const parent = yield* quota.acquire("model-tokens", { expectedUse: 1_000 })

  const workers = yield* Effect.forEach([0, 1, 2], (i) =>
    Effect.gen(function* () {
      const part = files.filter((_, n) => n % 3 === i)
      return { name: `worker ${i + 1}`, token: yield* parent.split(300), part }
    })
  )
  const summaries = yield* Effect.forEach(workers, ({ name, part, token }) => work(name, token, part), {
    concurrency: "unbounded"
  })
  for (const { token } of workers) yield* parent.merge(token)

  const all = summaries.flat()
  for (const { line } of all) yield* Console.log(line)
  const { held, tokens, units, waiters } = (yield* quota.usage)["model-tokens"]!
  const used = all.reduce((sum, { tokens }) => sum + tokens, 0)
  yield* Console.log(`${used} ${units} used, ${held} held, ${waiters} wait`)
  yield* Console.log(`${tokens} token left, with an expected use of ${yield* parent.expectedUse}`)
}).pipe(
  Effect.scoped,
  Effect.provide(Layer.unwrap(Effect.map(QuotaManifest.parse(manifest), (manifest) => Quota.layer(manifest))))
)

if (import.meta.main) await Effect.runPromise(program)
