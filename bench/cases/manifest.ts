/**
 * `node bench/cases/manifest.ts [RESOURCES]`, after `npm run build`
 *
 * How long manifests of 120,000 resources take to read, right and wrong, and for how long they block the event loop.
 */
import { QuotaManifest } from "effect-budget"
import * as Effect from "effect/Effect"

type Texts = Readonly<Record<string, string>>

const textsOf = (count: number): Texts => {
  const numbers = Array.from({ length: count }, (_, i) => i)
  const production = "environments:\n  production:\n"
  const flow = (value: number) =>
    `${production}${numbers.map((i) => `    resource-${i}: { limit: { type: capacity, value: ${value} }, unit: page, units: pages }\n`).join("")}`
  const limit = "      limit:\n        type: capacity\n        value: 10\n      unit: page\n      units: pages\n"
  const block = `${production}${numbers.map((i) => `    resource-${i}:\n${limit}`).join("")}`
  const resource = { limit: { type: "capacity", value: 10 }, unit: "page", units: "pages" }
  const data = { environments: { production: Object.fromEntries(numbers.map((i) => [`resource-${i}`, resource])) } }
  const unknown = Object.fromEntries(numbers.map((i) => [`field-${i}`, i]))
  const noEnd = '    last: "no end\n'
  return {
    "flow style": flow(10),
    "flow style, error at the end": `${flow(10)}${noEnd}`,
    "block style": block,
    "block style, error at the end": `${block}${noEnd}`,
    JSON: JSON.stringify(data),
    "JSON, error at the end": JSON.stringify(data).slice(0, -1),
    "indented JSON": JSON.stringify(data, null, 2),
    "a wrong value in each resource": flow(0),
    "one resource of unknown fields": JSON.stringify({ environments: { e: { r: unknown } } })
  }
}

/** Milliseconds until the text is read, and the longest time between two turns of the event loop. */
export const timeManifest = async (text: string): Promise<{ readonly total: number; readonly longest: number }> => {
  const start = performance.now()
  let [last, longest] = [start, 0]
  const turn = () => {
    const now = performance.now()
    longest = Math.max(longest, now - last)
    last = now
  }
  const timer = setInterval(turn, 1)
  await Effect.runPromise(Effect.exit(QuotaManifest.parse(text)))
  const total = performance.now() - start
  turn()
  clearInterval(timer)
  return { total, longest }
}

if (import.meta.main) {
  await timeManifest("environments: {}")
  for (const [name, text] of Object.entries(textsOf(Number(process.argv[2] ?? 120_000)))) {
    for (let round = 0; round < 3; round++) {
      // Garbage of the round before is not part of this one.
      await new Promise((resolve) => setTimeout(resolve, 300))
      const { longest, total } = await timeManifest(text)
      const megabytes = (text.length / 1e6).toFixed(1)
      console.log(`${name}, ${megabytes} MB: ${total.toFixed(0)} ms, blocks for ${longest.toFixed(0)} ms at most`)
    }
  }
}
