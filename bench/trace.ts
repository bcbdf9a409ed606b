/**
 * `node bench/trace.ts FILE.csv [--rate N] [--burst N] [--timeout SECONDS] [--slower FACTOR] [--json FILE]`, after `npm run build`
 *
 * Replays a trace of calls of a language model (columns TIMESTAMP, ContextTokens, GeneratedTokens) in virtual time against one
 * budget of tokens that is too small for it, and prints what four ways to decide what a call may spend make of it.
 */
import * as Effect from "effect/Effect"
import { readFile, writeFile } from "node:fs/promises"
import { parseArgs } from "node:util"
import { type Outcome, parse, policies, replay, type Settings } from "./trace/replay.ts"

const { positionals, values: flags } = parseArgs({
  allowPositionals: true,
  options: {
    rate: { type: "string" },
    burst: { type: "string" },
    timeout: { type: "string" },
    slower: { type: "string" },
    json: { type: "string" }
  }
})

const [file] = positionals
if (file === undefined) {
  console.error(
    "usage: node bench/trace.ts FILE.csv [--rate N] [--burst N] [--timeout SECONDS] [--slower FACTOR] [--json FILE]"
  )
  process.exit(2)
}

const calls = parse(await readFile(file, "utf8"))
const horizonMinutes = calls.at(-1)!.at / 60_000
const demand = calls.reduce((sum, { input, output }) => sum + input + output, 0)
const longest = calls.reduce((most, { output }) => Math.max(most, output), 0)

const slower = Number(flags.slower ?? 1)
const tokensPerMinute = Number(flags.rate ?? Math.round((0.6 * demand) / horizonMinutes / 1_000) * 1_000)
const settings: Settings = {
  tokensPerMinute,
  burst: Number(flags.burst ?? 40_000),
  enforcement: "throttle",
  timeout: `${Number(flags.timeout ?? 30)} seconds`,
  maxOutputTokens: 2 ** Math.ceil(Math.log2(longest)),
  // Source code has about 4 bytes for each token.
  bytesPerToken: 4,
  latency: { start: 300 * slower, perInput: 0.1 * slower, perOutput: 25 * slower }
}

const count = (n: number): string => Math.round(n).toLocaleString("en-US")
const seconds = (millis: number): string => `${(millis / 1_000).toFixed(1)} s`

/** The first column to the left, the others to the right. */
const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => row[i]!.length)))
  const line = (row: ReadonlyArray<string>) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ")
  return [line(head), widths.map((width) => "-".repeat(width)).join("  "), ...rows.map(line)].join("\n")
}

const tableOf = (title: string, outcomes: ReadonlyArray<Outcome>): string =>
  table(
    [title, "utilisation", "overshoot", "at most", "held/used", "admitted", "denied", "wait p50", "p99"],
    outcomes.map((outcome) => [
      outcome.policy,
      `${(100 * outcome.utilisation).toFixed(1)} %`,
      count(outcome.overshoot),
      count(outcome.overshootBound),
      `${outcome.heldPerUsed.toFixed(2)} x`,
      count(outcome.admitted),
      count(outcome.denied),
      seconds(outcome.waitMillis.p50),
      seconds(outcome.waitMillis.p99)
    ])
  )

console.log(`${count(calls.length)} calls in ${horizonMinutes.toFixed(0)} minutes, ${count(demand)} tokens`)
console.log(`budget: ${count(tokensPerMinute)} tokens a minute, burst ${count(settings.burst)}`)
const { perInput, perOutput, start } = settings.latency
console.log(`a call takes ${start} ms, ${perInput} ms for each token of input and ${perOutput} ms for each of output`)
console.log(
  `ceiling: ${count(settings.maxOutputTokens)} tokens of output; a wait ends after ${settings.timeout as string}\n`
)

const outcomes: Array<Outcome> = []
const replayAll = async (title: string, settings: Settings): Promise<void> => {
  const some: Array<Outcome> = []
  for (const policy of policies(settings)) some.push(await Effect.runPromise(replay(calls, policy, settings)))
  console.log(`${tableOf(title, some)}\n`)
  outcomes.push(...some)
}
await replayAll("throttle", settings)
await replayAll("reject", { ...settings, enforcement: "reject" })
console.log(
  "Utilisation is what was charged of all that the limit gave. Overshoot is the greatest debt in tokens; it is at most the\n" +
    "sum of max(actual - held, 0) over the calls in flight."
)

if (flags.json !== undefined) await writeFile(flags.json, JSON.stringify({ settings, outcomes }, undefined, 2) + "\n")
