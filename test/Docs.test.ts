import { assert, describe, it } from "@effect/vitest"
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { pathToFileURL } from "node:url"
import { format } from "node:util"
import ts from "typescript"
import { afterAll, beforeAll } from "vitest"
import { diagnose, root } from "./utils/compiler.ts"
import { docComments, PRINTER, readme, runnable, type Snippet } from "./utils/snippets.ts"

/** The sections of the README that show something, and so have an example. */
const SECTIONS = [
  "A first example",
  "When a scope ends",
  "Budget",
  "BudgetGuard and RowGuard",
  "TokenBudget and TokenGuard",
  "BudgetPool",
  "Policy",
  "Named quotas",
  "Language models",
  "Limits",
  "When the answer is no",
  "Transactions",
  "More than one process",
  "Testing"
]

/** The files that the root entry and the quota entry export. Each opens with an example. */
const MODULES = ["src/index.ts", "src/quota/index.ts"].flatMap((entry) => {
  const exported = readFileSync(join(root, entry), "utf8").matchAll(/ from "(\.[^"]+)"$/gm)
  return [...new Set([...exported].map(([, path]) => join(dirname(entry), path!)))]
})

const fences = [...readme(), ...docComments()]
const snippets = fences.filter(({ language }) => language === "ts").map(({ snippet }) => snippet)

/** Whether an example stands in the comment at the top of a file. */
const opens = (file: string, { name }: Snippet): boolean => {
  const [path, line] = name.split(":")
  const text = readFileSync(join(root, file), "utf8")
  return path === file && Number(line) < text.slice(0, text.indexOf("*/")).split("\n").length
}

const fileOf = (snippet: Snippet) => `${snippet.name.replaceAll(/[/:]/g, "-")}.ts`

describe("the examples of the README and of the doc comments", () => {
  it("are found, wherever one is due", () => {
    const sections = new Set(snippets.map(({ section }) => section))
    assert.deepStrictEqual(
      SECTIONS.filter((section) => !sections.has(section)),
      []
    )
    assert.includeMembers(MODULES, ["src/Budget.ts", "src/internal/entry/quotaManifest.ts", "src/quota/Quota.ts"])
    assert.deepStrictEqual(
      MODULES.filter((module) => !snippets.some((snippet) => opens(module, snippet))),
      []
    )
    assert.isAtLeast(snippets.length, SECTIONS.length + MODULES.length)
  })

  it("are all in a language that is checked here", () => {
    const others = fences.filter(({ language }) => language !== "ts" && language !== "sh")
    assert.deepStrictEqual(
      others.map(({ language, snippet }) => `${snippet.name}: ${language}`),
      []
    )
  })

  it("compile under the options of the project", () => {
    const said = diagnose(Object.fromEntries(snippets.map((snippet) => [fileOf(snippet), snippet.code])))
    const wrong = Object.entries(said).filter(([, messages]) => messages.length > 0)
    assert.deepStrictEqual(wrong, [])
    assert.strictEqual(Object.keys(said).length, snippets.length)
  })

  describe("print what they say", () => {
    let directory: string
    // Outside of the project, since nothing in it is both ignored by git and left alone by a build. The link makes what the
    // examples import resolve as it does in the project.
    beforeAll(() => {
      directory = mkdtempSync(join(tmpdir(), "effect-budget-docs-"))
      symlinkSync(join(root, "node_modules"), join(directory, "node_modules"))
    })
    afterAll(() => rmSync(directory, { recursive: true, force: true }))

    for (const snippet of snippets) {
      it(snippet.name, async () => {
        const { code, prints } = runnable(snippet)
        assert.isAbove(prints.length, 0, "an example prints something")
        const printed = prints.map((): Array<string> => [])
        const print =
          (i: number) =>
          (...values: Array<unknown>): void => {
            printed[i]!.push(format(...values))
          }
        const file = join(directory, fileOf(snippet))
        writeFileSync(file, code)
        Reflect.set(globalThis, Symbol.for(PRINTER), print)
        await import(/* @vite-ignore */ pathToFileURL(file).href)
        const lines = prints.map(({ line }, i) => `line ${line}: ${printed[i]!.map(oneLine).join(" | ")}`)
        assert.deepStrictEqual(
          lines,
          prints.map(({ expected, line }) => `line ${line}: ${expected ?? "(no comment says what it prints)"}`)
        )
      })
    }
  })
})

describe("the table of guarantees", () => {
  const text = readFileSync(join(root, "README.md"), "utf8")
  const rows = text.slice(text.indexOf("## Guarantees")).matchAll(/^\| *(\d+) *\|(.+)\|(.+)\|$/gm)
  const guarantees = [...rows].map(([, number, , shown]) => ({ number: Number(number), shown: shown! }))

  it("has a row for each", () => {
    assert.deepStrictEqual(
      guarantees.map(({ number }) => number),
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    )
  })

  for (const { number, shown } of guarantees) {
    it(`names tests that exist: ${number}`, () => {
      const named = [...shown.matchAll(/`(test\/\S+\.test\.ts)`: "([^"]+)"/g)]
      assert.isAbove(named.length, 0, `no test is named in: ${shown}`)
      assert.strictEqual([...shown.matchAll(/test\//g)].length, named.length, `a file without a test: ${shown}`)
      for (const [, file, name] of named) {
        assert.isTrue(existsSync(join(root, file!)), `${file} does not exist`)
        assert.include(literals(file!), name)
      }
    })
  }
})

/** The names of tests are among the strings of a file; comments are not. */
const literals = (file: string): ReadonlyArray<string> => {
  const source = ts.createSourceFile(file, readFileSync(join(root, file), "utf8"), ts.ScriptTarget.Latest)
  const found: Array<string> = []
  const visit = (node: ts.Node): void => {
    if (ts.isStringLiteralLike(node)) found.push(node.text)
    node.forEachChild(visit)
  }
  visit(source)
  return found
}

const oneLine = (text: string): string => text.replaceAll(/\s+/g, " ")
