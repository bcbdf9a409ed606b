import { assert, describe, it } from "@effect/vitest"
import ts from "typescript"
import { diagnose, program } from "../utils/compiler.ts"

/** In front of every case. */
const PRELUDE = `
import { Context, Effect, Schema, Stream } from "effect"
import { AiError, LanguageModel, Response, Tool, Toolkit } from "effect/ai"
import { BudgetedLanguageModel } from "effect-budget/ai"

class Index extends Context.Service<Index, {}>()("app/Index") {}
class Lost extends Schema.TaggedError<Lost>()("Lost", {}) {}

const Search = Tool.make("Search", {
  parameters: Schema.Struct({ query: Schema.String }),
  success: Schema.Number,
  failure: Lost,
  dependencies: [Index]
})
const Time = Tool.make("Time", { success: Schema.String })
const search = Toolkit.make(Search)
const time = Toolkit.make(Time)
declare const handled: Toolkit.WithHandler<{ readonly Search: typeof Search }>
declare const either: typeof search | typeof time
const Person = Schema.Struct({ name: Schema.String, age: Schema.FiniteFromString })
const prompt = "hi"

type Denial = BudgetedLanguageModel.Denial
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false
const same = <A, B>(_: Same<A, B>) => {}

type Of<E> = E extends Effect.Effect<infer A, infer X, infer R> ? [A, X, R] : E extends Stream.Stream<infer A, infer X, infer R> ? [A, X, R] : never
/** As the function of effect, but for the denials. */
const alike = <Ours, Theirs>(_ours: Ours, _theirs: Theirs, _: Same<Of<Ours>, [Of<Theirs>[0], Of<Theirs>[1] | Denial, Of<Theirs>[2]]>) => {}
`

/** Calls that mean the same to both. */
const CALLS = {
  "a prompt": `{ prompt }`,
  "a toolkit": `{ prompt, toolkit: search }`,
  "a toolkit with handlers": `{ prompt, toolkit: handled, toolChoice: { tool: "Search" }, concurrency: 2 }`,
  "a toolkit in an effect": `{ prompt, toolkit: Effect.map(Index, () => handled) }`,
  "one of two toolkits": `{ prompt, toolkit: either }`,
  "no resolution": `{ prompt, toolkit: search, disableToolCallResolution: true }`,
  "deferred validation": `{ prompt, toolkit: search, disableToolCallResolution: true, toolCallValidation: "deferred" }`,
  "deferred validation without tools": `{ prompt, disableToolCallResolution: true, toolCallValidation: "deferred" }`
}

const CASES: Record<string, string> = {
  ...Object.fromEntries(
    Object.entries(CALLS).flatMap(([name, options]) => [
      ...["generateText", "streamText"].map((method) => [
        `${method}: ${name}`,
        `alike(BudgetedLanguageModel.${method}(${options}), LanguageModel.${method}(${options}), true)`
      ]),
      [
        `generateObject: ${name}`,
        `alike(
          BudgetedLanguageModel.generateObject({ ...${options}, schema: Person, objectName: "person" }),
          LanguageModel.generateObject({ ...${options}, schema: Person, objectName: "person" }),
          true
        )`
      ]
    ])
  ),
  "what a toolkit brings": `
    const call = BudgetedLanguageModel.generateText({ prompt, toolkit: search })
    same<Effect.Error<typeof call>, AiError.AiError | Lost | Denial>(true)
    same<Effect.Services<typeof call>, LanguageModel.LanguageModel | Tool.HandlersFor<{ readonly Search: typeof Search }> | Index>(true)
    const object = BudgetedLanguageModel.generateObject({ prompt, schema: Person })
    same<Effect.Success<typeof object>["value"], { readonly name: string; readonly age: number }>(true)
    same<Effect.Error<typeof object>, AiError.AiError | Denial>(true)`,
  "a helper that is generic in its tools": `
    export const ask = <Tools extends Record<string, Tool.Any>>(toolkit: Toolkit.WithHandler<Tools>) => {
      const call = BudgetedLanguageModel.generateText({ prompt, toolkit })
      same<Effect.Success<typeof call>, LanguageModel.GenerateTextResponse<Tools, "opaque">>(true)
      return call
    }`,
  "denials are caught by their tags": `
    const call = BudgetedLanguageModel.generateText({ prompt }).pipe(
      Effect.catchTag(["BudgetExceeded", "FailedReservation", "UnknownPrice"], () => Effect.succeed(undefined))
    )
    same<Effect.Error<typeof call>, AiError.AiError>(true)`,
  "generateText: a wrong option": `BudgetedLanguageModel.generateText({ prompt, temperature: 1 })`,
  "streamText: a wrong option": `BudgetedLanguageModel.streamText({ prompt, toolkit: search, temperature: 1 })`,
  "generateObject: a wrong option": `BudgetedLanguageModel.generateObject({ prompt, schema: Person, temperature: 1 })`,
  "generateText: no prompt": `BudgetedLanguageModel.generateText({ toolkit: search })`,
  "generateText: a tool that is not there": `
    BudgetedLanguageModel.generateText({ prompt, toolkit: search, toolChoice: { tool: "Time" } })`,
  "generateText: a toolkit that is none": `BudgetedLanguageModel.generateText({ prompt, toolkit: 5 })`,
  "generateObject: no schema": `BudgetedLanguageModel.generateObject({ prompt })`,
  "generateObject: a schema of no object": `BudgetedLanguageModel.generateObject({ prompt, schema: Schema.String })`
}

/** What the compiler must refuse. */
const REFUSED = new Set(
  Object.keys(CASES).filter((name) =>
    /: (a wrong|no (prompt|schema)|a tool that|a schema of|a toolkit that)/.test(name)
  )
)

describe("Types", () => {
  const names = Object.keys(CASES)
  const fileOf = (name: string) => `test/ai-types-${names.indexOf(name)}.ts`
  const unused = { noUnusedLocals: false, noUnusedParameters: false }
  let said: Record<string, ReadonlyArray<string>> | undefined
  const diagnostics = () =>
    (said ??= diagnose(
      Object.fromEntries(names.map((name) => [fileOf(name), `${PRELUDE}\n${CASES[name]!}\nexport {}\n`])),
      unused
    ))

  for (const name of names) {
    it(REFUSED.has(name) ? `refuses: ${name}` : `compiles: ${name}`, () => {
      const found = diagnostics()[fileOf(name)]!
      if (REFUSED.has(name)) assert.strictEqual(found.length, 1, found.join("\n"))
      else assert.deepStrictEqual(found, [])
    })
  }

  it("no public declaration says any", () => {
    const emitting = { noEmit: false, declaration: true, emitDeclarationOnly: true, stripInternal: true }
    const emitted = program({ "all.ts": `export * from "effect-budget/ai"` }, { ...emitting, outDir: "/declarations" })
    const found: Array<string> = []
    let files = 0
    emitted.program.emit(
      undefined,
      (name, text) => {
        if (!/\/ai\/[^/]*\.d\.ts$/.test(name)) return
        files++
        const file = ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true)
        const visit = (node: ts.Node): void => {
          if (node.kind === ts.SyntaxKind.AnyKeyword) found.push(`${name}: ${node.parent.parent.getText()}`)
          node.forEachChild(visit)
        }
        visit(file)
      },
      undefined,
      true
    )
    assert.deepStrictEqual(found, [])
    assert.isAtLeast(files, 7)
  })
})
