/** The tables that a run prints. */
import type * as Effect from "effect/Effect"
import { readFile } from "node:fs/promises"
import { arch, availableParallelism, cpus, platform, totalmem } from "node:os"
import { type Samples, type Settings, type Spread, spread, type Suite } from "./harness.ts"

/** Everything that a run measures and prints. */
export interface Bench {
  /** The packages whose versions are printed. */
  readonly packages: ReadonlyArray<string>
  /** How to read the figures. */
  readonly notes: ReadonlyArray<string>
  /** The suites of one group are measured interleaved. */
  readonly groups: ReadonlyArray<{ readonly suites: ReadonlyArray<Suite>; readonly settings: Settings }>
  /** Figures that are not comparisons of times: those whose text is wanted. */
  readonly figures: (wanted: (text: string) => boolean) => Effect.Effect<ReadonlyArray<Verdict>>
}

/** A measured figure and its goal. A figure without a goal is for information. */
export interface Verdict {
  readonly text: string
  readonly measured: Spread
  readonly atMost?: number | undefined
  readonly atLeast?: number | undefined
  readonly unit: "x" | "us" | "bytes" | "round trips"
}

export const meets = ({ atLeast, atMost, measured }: Verdict): boolean | undefined =>
  atMost === undefined && atLeast === undefined
    ? undefined
    : measured.median <= (atMost ?? Infinity) && measured.median >= (atLeast ?? -Infinity)

export const timeTable = (suite: Suite, samples: Samples): string =>
  table(
    [suite.title, "per operation", "half of the repeats"],
    suite.cases.flatMap((one) => {
      const nanos = samples.get(one)
      if (nanos === undefined) return []
      const { high, low, median } = spread(nanos)
      return [[one.name, duration(median), `${duration(low)} to ${duration(high)}`]]
    })
  )

export const verdictTable = (title: string, verdicts: ReadonlyArray<Verdict>): string =>
  table(
    [title, "measured", "half of the repeats", "goal", ""],
    verdicts.map((verdict) => {
      const { atLeast, atMost, measured, text, unit } = verdict
      const figure = (n: number) => `${unit === "bytes" ? Math.round(n).toLocaleString("en") : n.toFixed(2)} ${unit}`
      const goal = (n: number) => `${n.toLocaleString("en")} ${unit}`
      return [
        text,
        figure(measured.median),
        `${figure(measured.low)} to ${figure(measured.high)}`,
        [
          atMost === undefined ? [] : `at most ${goal(atMost)}`,
          atLeast === undefined ? [] : `at least ${goal(atLeast)}`
        ]
          .flat()
          .join(", "),
        { true: "ok", false: "missed", undefined: "" }[`${meets(verdict)}`]
      ]
    })
  )

const duration = (nanos: number): string => {
  if (nanos < 1e5) return `${Math.round(nanos)} ns`
  return nanos < 1e6 ? `${(nanos / 1e3).toFixed(0)} us` : `${(nanos / 1e6).toFixed(1)} ms`
}

/** The first column to the left, the others to the right. */
const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => row[i]!.length)))
  const line = (row: ReadonlyArray<string>) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ")
  return [line(head), widths.map((width) => "-".repeat(width)).join("  "), ...rows.map(line)].join("\n")
}

export const environment = async (packages: ReadonlyArray<string>) => ({
  machine: {
    cpu: cpus()[0]?.model,
    cores: availableParallelism(),
    memory: totalmem(),
    platform: platform(),
    arch: arch()
  },
  node: process.version,
  packages: Object.fromEntries(await Promise.all(packages.map(async (name) => [name, await versionOf(name)] as const)))
})

const versionOf = async (name: string): Promise<string> => {
  const manifest = new URL(`../node_modules/${name}/package.json`, import.meta.url)
  return (JSON.parse(await readFile(manifest, "utf8")) as { readonly version: string }).version
}
