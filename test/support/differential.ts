/** Runs random programs on the library and on the model, compares them after every step, and shortens those that differ. */
import { Duration } from "effect"
import { BudgetError, type BudgetStore } from "../../src/index.ts"
import { make as makeRandom } from "../utils/random.ts"
import { EngineRun, type Raw } from "./engineRun.ts"
import { type Account, CAUSES, Undefined } from "./model.ts"
import type { Answer, Denial } from "./modelQueue.ts"
import { ModelRun, type Result } from "./modelRun.ts"
import { type Features, Generator, type Setup, type Step } from "./programs.ts"

export interface Tally {
  programs: number
  steps: number
  /** Programs that ended early, where the design does not say what happens. */
  readonly undefineds: Map<string, number>
  /** How often each kind of answer was given, so that a test can assert that programs do something. */
  readonly answers: Map<string, number>
}

interface Difference {
  readonly at: number
  readonly what: string
}

const count = (counts: Map<string, number>, key: string) => void counts.set(key, (counts.get(key) ?? 0) + 1)

/** Runs one program of random steps. Returns what differs, with the shortest program that was found to show it. */
export const runProgram = (seed: number, features: Features, tally: Tally): string | undefined => {
  tally.programs++
  const generator = new Generator(makeRandom(seed), features)
  const start = makeRandom(seed).int(0, 2_000)
  const steps: Array<Step> = []
  const next = (run: ModelRun) => {
    const step = generator.next(run.state, steps.length)
    if (step !== undefined) steps.push(step)
    return step
  }
  const difference = compare(generator.setup, start, features, next, tally)
  if (difference === undefined) return undefined
  return report(seed, generator.setup, start, shorten(generator.setup, start, features, steps))
}

/** Runs the steps that `next` gives until it gives none, or until the two sides differ. */
const compare = (
  setup: Setup,
  start: number,
  features: Features,
  next: (run: ModelRun) => Step | undefined,
  tally?: Tally
): Difference | undefined => {
  const model = new ModelRun(setup, features, start)
  const engine = new EngineRun(setup, start)
  let at = 0
  let what: string | undefined
  try {
    while (what === undefined) {
      const step = next(model)
      if (step === undefined) break
      const expected = model.run(step)
      at++
      if (expected.result === undefined) continue
      if (tally !== undefined) note(tally, step, expected.answers)
      what = differenceOf(model, engine, step, expected, features)
    }
  } catch (error) {
    if (!(error instanceof Undefined)) throw error
    if (tally !== undefined) count(tally.undefineds, error.message)
  }
  const end = attempt(() => engine.close())
  what ??= end
  return what === undefined ? undefined : { at: Math.max(0, at - 1), what }
}

/** What it throws, in words. */
const attempt = (run: () => void): string | undefined => {
  try {
    run()
    return undefined
  } catch (error) {
    return `the engine throws: ${error instanceof Error ? error.stack : String(error)}`
  }
}

const note = (tally: Tally, step: Step, answers: ReadonlyArray<readonly [number, Answer]>): void => {
  tally.steps++
  for (const [id, { _tag }] of answers) {
    const later = _tag === "Granted" && (!("id" in step) || step.id !== id)
    count(tally.answers, later ? "GrantedLater" : _tag)
  }
}

const differenceOf = (
  model: ModelRun,
  engine: EngineRun,
  step: Step,
  expected: ReturnType<ModelRun["run"]>,
  features: Features
): string | undefined => {
  let actual: ReturnType<EngineRun["run"]> | undefined
  let snapshots: ReadonlyArray<BudgetStore.Snapshot> = []
  const thrown = attempt(() => {
    actual = engine.run(step)
    snapshots = engine.snapshots()
  })
  if (thrown !== undefined || actual === undefined) return thrown
  return (
    differentResults(expected.result, actual.result) ??
    differentAnswers(model, expected.answers, actual.answers, features) ??
    differentOrder(model, expected.answers, actual.answers) ??
    differentBooks(model, snapshots, features)
  )
}

const differentResults = (expected: Result, actual: Result): string | undefined => {
  const [model, engine] = [JSON.stringify(expected), JSON.stringify(actual)]
  return model === engine ? undefined : `result: model ${model}, engine ${engine}`
}

const differentAnswers = (
  model: ModelRun,
  expected: ReadonlyArray<readonly [number, Answer]>,
  actual: ReadonlyArray<readonly [number, Raw]>,
  features: Features
): string | undefined => {
  // The end of a fiber that was interrupted on purpose is no answer.
  const answers = actual.filter(([, { _tag }]) => _tag !== "Interrupted")
  for (const [id, answer] of expected) {
    const given = answers.filter(([other]) => other === id)
    const line = `of ${id}: model ${describe(answer)}, engine ${given.map(([, raw]) => describe(raw)).join(" and ") || "nothing"}`
    if (given.length !== 1 || !sameAnswer(model, answer, given[0]![1], features, expected.length === 1))
      return `answer ${line}`
  }
  const more = answers.find(([id]) => !expected.some(([other]) => other === id))
  return more === undefined ? undefined : `answer of ${more[0]}: model nothing, engine ${describe(more[1])}`
}

const sameAnswer = (model: ModelRun, expected: Answer, actual: Raw, features: Features, alone: boolean): boolean => {
  switch (expected._tag) {
    case "Granted": {
      if (actual._tag !== "Granted") return false
      const layout = [...model.layouts.values()].find(({ accounts }) => accounts === expected.hold.accounts)
      const usage = layout === undefined ? expected.amounts : layout.decode(expected.amounts)
      return usage.join() === actual.amounts.join()
    }
    case "None":
      return actual._tag === "None"
    case "Settled":
      return actual._tag === "Died" && /settled/.test(String(actual.defect))
    case "Exceeded":
      return (
        actual._tag === "Exceeded" &&
        expected.oneOf.some((denial) => denial.defect === actual.defect && sameDenial(denial, actual.error))
      )
    case "QueueFull": {
      if (actual._tag !== "Failed" || !(actual.error.reason instanceof BudgetError.QueueFull)) return false
      const { budget, reason, requested } = actual.error
      return budget === expected.budget && requested === expected.requested && reason.maxQueued === expected.maxQueued
    }
    case "TimedOut": {
      if (actual._tag !== "Failed" || !(actual.error.reason instanceof BudgetError.TimedOut)) return false
      const { budget, reason, requested } = actual.error
      const { accounts, amounts, upTo } = expected.request
      if (Duration.toMillis(reason.after) !== expected.after) return false
      // Of several budgets, the design does not say which is named.
      if (accounts.length === 1 && budget !== accounts[0]!.name) return false
      if (accounts.length === 1 && upTo === undefined && requested !== amounts[0]) return false
      // Who is not in turn may find room, and what others took in the same step changes what is left.
      if (!features.timeoutReasons || !alone || upTo !== undefined || expected.oneOf.length === 0) return true
      return expected.oneOf.some((denial) => saysWhenPresent(denial, reason))
    }
  }
}

const millisOf = (duration: unknown): number | undefined =>
  Duration.isDuration(duration) ? Duration.toMillis(duration) : undefined

const sameDenial = (expected: Denial, error: object): boolean =>
  "retryAfter" in error
    ? saysWhenPresent(expected, error)
    : expected.retryAfter === undefined && saysWhenPresent({ ...expected }, error)

/** What an error says is right; it may say less. */
const saysWhenPresent = (expected: Denial, error: object): boolean =>
  Object.entries(expected).every(([key, value]) => {
    if (key === "defect" || !(key in error)) return true
    if (value === undefined && key !== "retryAfter") return true
    const said = (error as Record<string, unknown>)[key]
    if (key === "retryAfter") return millisOf(said) === value
    return key === "limit" ? JSON.stringify(said) === JSON.stringify(value) : said === value
  })

/** Of each account, who was granted something of it comes in the same order. */
const differentOrder = (
  model: ModelRun,
  expected: ReadonlyArray<readonly [number, Answer]>,
  actual: ReadonlyArray<readonly [number, Raw]>
): string | undefined => {
  if (expected.length < 2) return undefined
  for (const account of model.model.accounts) {
    const wanting = expected.filter(
      ([, answer]) => answer._tag === "Granted" && (answer.amounts[answer.hold.accounts.indexOf(account)] ?? 0) > 0
    )
    const ids = wanting.map(([id]) => id)
    const order = actual.filter(([id, { _tag }]) => _tag === "Granted" && ids.includes(id)).map(([id]) => id)
    if (order.join() !== ids.join()) return `order at ${account.name}: model ${ids.join()}, engine ${order.join()}`
  }
  return undefined
}

const differentBooks = (
  { model }: ModelRun,
  snapshots: ReadonlyArray<BudgetStore.Snapshot>,
  features: Features
): string | undefined => {
  for (let i = 0; i < model.accounts.length; i++) {
    const account = model.accounts[i]!
    const expected = booksOf(account, model.queueOf(account).length, features)
    const actual = booksOf(snapshots[i]!, snapshots[i]!.waiters, features)
    if (expected !== actual) return `books of ${account.name}:\n  model  ${expected}\n  engine ${actual}`
  }
  return undefined
}

const booksOf = (
  { charged, ledgers, overage, settled }: Account | BudgetStore.Snapshot,
  waiters: number,
  features: Features
): string => {
  let line = ""
  for (const { available, epoch, granted, held, limit, spent } of ledgers) {
    line += `granted ${granted} available ${available} held ${held} spent ${spent} `
    if (limit._tag !== "Window" || features.windowEpochs) line += `epoch ${epoch} `
  }
  line += `waiters ${waiters} charged ${charged} overage ${overage}`
  for (const cause of CAUSES) {
    const { count, refunded } = settled[cause]
    if (count > 0 || refunded > 0) line += ` ${cause} ${count}/${refunded}`
  }
  return line
}

const describe = (answer: Answer | Raw): string => {
  if (answer._tag === "Granted") return `granted ${answer.amounts.join(",")}`
  const { _tag, ...rest } = answer._tag === "TimedOut" ? { ...answer, request: undefined } : answer
  return `${_tag} ${JSON.stringify(rest, (key, value) => (key === "defect" ? String(value) : value))}`
}

/** Leaves out steps, one at a time, as long as what is left still shows a difference. */
const shorten = (
  setup: Setup,
  start: number,
  features: Features,
  steps: ReadonlyArray<Step>
): { readonly steps: ReadonlyArray<Step>; readonly difference: Difference } => {
  const retry = (steps: ReadonlyArray<Step>) => {
    let at = 0
    return compare(setup, start, features, () => steps[at++])
  }
  let shortest = [...steps]
  let difference = retry(shortest) ?? { at: steps.length - 1, what: "a difference that does not come again" }
  for (let shorter = true; shorter;) {
    shorter = false
    shortest = shortest.slice(0, difference.at + 1)
    for (let i = shortest.length - 2; i >= 0; i--) {
      const fewer = shortest.filter((_, j) => j !== i)
      const found = retry(fewer)
      if (found === undefined) continue
      shortest = fewer.slice(0, found.at + 1)
      difference = found
      shorter = true
      i = Math.min(i, shortest.length - 1)
    }
  }
  return { steps: shortest, difference }
}

const report = (
  seed: number,
  setup: Setup,
  start: number,
  { difference, steps }: ReturnType<typeof shorten>
): string => {
  const lines = steps.map((step, i) => `${i === difference.at ? ">" : " "} ${JSON.stringify(step)}`)
  return `seed ${seed}, from ${start} ms: ${difference.what}\n${JSON.stringify(setup)}\n${lines.join("\n")}`
}
