/**
 * `npm run bench [-- stores] [-- --quick] [-- --only PATTERN] [-- --json FILE]`
 *
 * Times the library beside others and holds the ratios against its goals: the books in memory, or the `stores` that several
 * processes share. It reports; a goal that is missed fails nothing.
 */
import { BudgetStore } from "effect-budget"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { writeFile } from "node:fs/promises"
import { parseArgs } from "node:util"
import { budgetSuite } from "./cases/budget.ts"
import { denialSuite } from "./cases/denial.ts"
import { guardSuite } from "./cases/guard.ts"
import { queueSuite } from "./cases/queue.ts"
import { quotaSuite } from "./cases/quota.ts"
import { transactionSuite } from "./cases/transaction.ts"
import { makeYardsticks } from "./cases/yardsticks.ts"
import { type Case, emptyLoop, measure, ratio, type Samples, type Settings, spread, type Suite } from "./harness.ts"
import { bytesEach, type Kind } from "./memory.ts"
import { type Bench, environment, meets, timeTable, type Verdict, verdictTable } from "./report.ts"

const { positionals, values: flags } = parseArgs({
  allowPositionals: true,
  options: { quick: { type: "boolean" }, only: { type: "string" }, json: { type: "string" } }
})

const only = new RegExp(flags.only ?? "", "i")

const settings: Record<"loops" | "waiting", Settings> = flags.quick
  ? {
      loops: { repeats: 5, warmUpMillis: 50, sampleMillis: 5 },
      waiting: { repeats: 2, warmUpMillis: 50, sampleMillis: 50 }
    }
  : {
      loops: { repeats: 21, warmUpMillis: 200, sampleMillis: 25 },
      waiting: { repeats: 5, warmUpMillis: 1_000, sampleMillis: 100 }
    }

/** The books in memory, beside what others take for the nearest thing that they do. */
const engine = Effect.gen(function* () {
  const yardsticks = yield* makeYardsticks
  const loops = [
    { title: "Yardsticks", cases: Object.values(yardsticks), comparisons: [] },
    yield* guardSuite(yardsticks),
    yield* budgetSuite(yardsticks),
    yield* denialSuite,
    yield* quotaSuite,
    yield* transactionSuite(yardsticks)
  ]
  const bench: Bench = {
    packages: ["effect", "p-limit", "p-queue", "rate-limiter-flexible"],
    notes: [
      "Times are CPU time. Those of effects include the loop that drives them; ratios between two effects leave it out."
    ],
    groups: [
      { suites: loops, settings: settings.loops },
      { suites: [yield* queueSuite], settings: settings.waiting }
    ],
    figures: (wanted) => Effect.promise(() => measureMemory(wanted))
  }
  return bench
}).pipe(Effect.provide(BudgetStore.BudgetStore.layerMemory))

const stores = Effect.flatMap(
  Effect.promise(() => import("./stores.ts")),
  ({ stores }) => stores(settings.loops, flags.quick === true)
)

/** Measures what the pattern names, each with the cases that it is compared with. */
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
      const measured = ratio(samples, comparison)
      const { atLeast, atMost, text } = comparison
      return measured === undefined ? [] : [{ text, measured, atMost, atLeast, unit: "x" }]
    })
  )

const measureMemory = async (wanted: (text: string) => boolean): Promise<ReadonlyArray<Verdict>> => {
  const text = "heap for each open reservation of one scope, a million"
  if (!wanted(text)) return []
  const runs = async (kind: Kind) => spread([await bytesEach(kind), await bytesEach(kind), await bytesEach(kind)])
  return [
    { text, measured: await runs("reservation"), atMost: 400, unit: "bytes" },
    {
      text: "heap for each no-op finalizer of one scope, a million, as control",
      measured: await runs("finalizer"),
      unit: "bytes"
    }
  ]
}

const run = async (bench: Bench): Promise<void> => {
  const { machine, node, packages } = await environment(bench.packages)
  console.log(`${machine.cpu}, ${machine.cores} cores, node ${node}`)
  console.log(
    Object.entries(packages)
      .map(([name, version]) => `${name} ${version}`)
      .join(", ")
  )
  console.log(`${bench.notes.join("\n")}\n`)

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
  const goals = verdicts.filter((verdict) => meets(verdict) !== undefined)
  const others = verdicts.filter((verdict) => meets(verdict) === undefined)
  if (goals.length > 0) console.log(`${verdictTable("Goals", goals)}\n`)
  if (others.length > 0) console.log(`${verdictTable("For information", others)}\n`)
  console.log(`${goals.filter(meets).length} of ${goals.length} goals met`)

  if (flags.json !== undefined) {
    const cases = suites.flatMap(({ cases, title }) =>
      cases.flatMap((one) => {
        const nanos = samples.get(one)
        return nanos === undefined ? [] : [{ suite: title, name: one.name, nanos: { ...spread(nanos), all: nanos } }]
      })
    )
    const settings = bench.groups.map(({ settings }) => settings)
    const figures = verdicts.map((verdict) => ({ ...verdict, ok: meets(verdict) }))
    await writeFile(
      flags.json,
      JSON.stringify({ machine, node, packages, settings, cases, figures }, undefined, 2) + "\n"
    )
  }
}

const benches: Readonly<Record<string, Effect.Effect<Bench, unknown, Scope.Scope>>> = { engine, stores }
const bench = benches[positionals[0] ?? "engine"]
if (bench === undefined) throw new Error(`there is no bench "${positionals[0]}"`)

await Effect.runPromise(Effect.scoped(Effect.flatMap(bench, (bench) => Effect.promise(() => run(bench)))))
