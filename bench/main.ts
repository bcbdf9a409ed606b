/**
 * `npm run bench [-- stores] [-- --quick] [-- --only PATTERN] [-- --json FILE]`
 *
 * Measures the library within one process, or the `stores` that several processes share, and compares the figures with their
 * goals. Exits with status 1 when a goal is missed.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { writeFile } from "node:fs/promises"
import { parseArgs } from "node:util"
import { type Case, compare, emptyLoop, measure, type Samples, type Settings, spread, type Suite } from "./harness.ts"
import { type Bench, environment, meets, timeTable, type Verdict, verdictTable } from "./report.ts"

const { positionals, values: flags } = parseArgs({
  allowPositionals: true,
  options: { quick: { type: "boolean" }, only: { type: "string" }, json: { type: "string" } }
})

const only = new RegExp(flags.only ?? "", "i")
const quick = flags.quick === true

// Shorter samples would end before the young generation is full, and leave out the cost of its collection.
const loops: Settings = quick
  ? { repeats: 5, warmUpMillis: 100, sampleMillis: 25 }
  : { repeats: 21, warmUpMillis: 200, sampleMillis: 25 }

/** Measures the cases that the pattern names, each with the cases that it is compared with. */
const measureSuites = async (suites: ReadonlyArray<Suite>, settings: Settings): Promise<Samples> => {
  const wanted = new Set<Case>()
  for (const { cases, comparisons } of suites) {
    for (const one of cases) if (only.test(one.name)) wanted.add(one)
    for (const { of, text, to } of comparisons) if (only.test(text)) wanted.add(of).add(to)
  }
  if ([...wanted].some(({ kind }) => kind === "effect")) wanted.add(emptyLoop)
  return measure([...wanted], settings)
}

const verdictsOf = (suites: ReadonlyArray<Suite>, samples: Samples): ReadonlyArray<Verdict> =>
  suites.flatMap(({ comparisons }) =>
    comparisons.flatMap((comparison): ReadonlyArray<Verdict> => {
      const measured = compare(samples, comparison)
      const { atLeast, atMost, text, unit = "x" } = comparison
      return measured === undefined ? [] : [{ text, measured, atMost, atLeast, unit }]
    })
  )

const printHead = async ({ notes, packages: names }: Bench) => {
  const about = await environment(names)
  const { machine, node, packages } = about
  console.log(`${machine.cpu}, ${machine.cores} cores, node ${node}`)
  console.log(
    Object.entries(packages)
      .map(([name, version]) => `${name} ${version}`)
      .join(", ")
  )
  console.log(`${notes.join("\n")}\n`)
  return about
}

/** Prints all figures. Returns those that miss their goal. */
const printVerdicts = (verdicts: ReadonlyArray<Verdict>): ReadonlyArray<Verdict> => {
  const goals = verdicts.filter((verdict) => meets(verdict) !== undefined)
  const others = verdicts.filter((verdict) => meets(verdict) === undefined)
  if (goals.length > 0) console.log(`${verdictTable("Goals", goals)}\n`)
  if (others.length > 0) console.log(`${verdictTable("For information", others)}\n`)
  const missed = goals.filter((verdict) => meets(verdict) === false)
  console.log(`${goals.length - missed.length} of ${goals.length} goals met`)
  for (const { text } of missed) console.log(`missed: ${text}`)
  return missed
}

const run = async (bench: Bench): Promise<void> => {
  const about = await printHead(bench)
  const samples = new Map<Case, ReadonlyArray<number>>()
  for (const { settings, suites } of bench.groups) {
    for (const [one, nanos] of await measureSuites(suites, settings)) samples.set(one, nanos)
  }
  const suites = bench.groups.flatMap(({ suites }) => suites)
  for (const suite of suites) {
    if (suite.cases.some((one) => samples.has(one))) console.log(`${timeTable(suite, samples)}\n`)
  }
  const verdicts = [
    ...verdictsOf(suites, samples),
    ...(await Effect.runPromise(bench.figures((text) => only.test(text))))
  ]
  if (printVerdicts(verdicts).length > 0) process.exitCode = 1

  if (flags.json !== undefined) {
    const cases = suites.flatMap(({ cases, title }) =>
      cases.flatMap((one) => {
        const nanos = samples.get(one)
        return nanos === undefined ? [] : [{ suite: title, name: one.name, nanos: { ...spread(nanos), all: nanos } }]
      })
    )
    const settings = bench.groups.map(({ settings }) => settings)
    const figures = verdicts.map((verdict) => ({ ...verdict, ok: meets(verdict) }))
    await writeFile(flags.json, JSON.stringify({ ...about, settings, cases, figures }, undefined, 2) + "\n")
  }
}

// Loads only the bench that runs: the stores need servers and drivers.
const benches: Readonly<Record<string, () => Promise<Effect.Effect<Bench, unknown, Scope.Scope>>>> = {
  engine: async () => (await import("./engine.ts")).engine(loops, quick),
  stores: async () => (await import("./stores.ts")).stores(loops, quick)
}
const name = positionals[0] ?? "engine"
const load = benches[name]
if (load === undefined) throw new Error(`there is no bench "${name}"`)

const bench = await load()
await Effect.runPromise(Effect.scoped(Effect.flatMap(bench, (bench) => Effect.promise(() => run(bench)))))
