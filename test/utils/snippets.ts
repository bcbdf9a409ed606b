/** Finds the examples in the documentation, and makes modules of them that tell what they print. */
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import ts from "typescript"
import { root } from "./compiler.ts"

export interface Snippet {
  /** Where it stands: `README.md:40`. */
  readonly name: string
  /** The heading above it, for Markdown. */
  readonly section: string | undefined
  readonly code: string
}

export interface Fence {
  readonly language: string
  readonly snippet: Snippet
}

/** All fenced blocks of a Markdown text, whatever their language. A block that is not closed is an error. */
const fencesOf = (file: string, text: string, firstLine = 1): ReadonlyArray<Fence> => {
  const found: Array<Fence> = []
  let section: string | undefined
  let open: { readonly language: string; readonly line: number; readonly code: Array<string> } | undefined
  text.split("\n").forEach((line, i) => {
    const fence = /^\s*(`{3,}|~{3,})\s*(.*?)\s*$/.exec(line)
    if (fence === null) {
      if (open !== undefined) open.code.push(line)
      else section = /^#{2,6} (.+)$/.exec(line)?.[1] ?? section
    } else if (open === undefined) {
      open = { language: fence[2]!, line: firstLine + i, code: [] }
    } else {
      const { code, language, line } = open
      found.push({ language, snippet: { name: `${file}:${line}`, section, code: code.join("\n") + "\n" } })
      open = undefined
    }
  })
  if (open !== undefined) throw new Error(`${file}:${open.line}: the block is not closed`)
  return found
}

export const readme = (): ReadonlyArray<Fence> => fencesOf("README.md", readFileSync(join(root, "README.md"), "utf8"))

/** The fences of all doc comments in `src`. */
export const docComments = (): ReadonlyArray<Fence> =>
  readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .sort()
    .flatMap((file) => {
      const text = readFileSync(join(root, "src", file), "utf8")
      return [...text.matchAll(/\/\*\*[\s\S]*?\*\//g)].flatMap((comment) => {
        const firstLine = text.slice(0, comment.index).split("\n").length
        const inner = comment[0].replace(/^\/\*\*|\*\/$/g, "").replace(/^[ \t]*\* ?/gm, "")
        return fencesOf(`src/${file}`, inner, firstLine)
      })
    })

/** A `console.log`, and what the comment behind it says that it prints. */
export interface Print {
  readonly line: number
  readonly expected: string | undefined
}

/** The name under which a runnable module finds what takes its prints. */
export const PRINTER = "effect-budget/printer"

/** The code with each `console.log` handed to the printer, together with its number. */
export const runnable = (snippet: Snippet): { readonly code: string; readonly prints: ReadonlyArray<Print> } => {
  const { code } = snippet
  const file = ts.createSourceFile(snippet.name, code, ts.ScriptTarget.Latest, true)
  const prints: Array<Print & { readonly start: number; readonly end: number }> = []
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node) && node.expression.getText(file) === "console.log") {
      const rest = /^[ \t),;]*\/\/ ?(.*)/.exec(code.slice(node.end))
      prints.push({
        line: file.getLineAndCharacterOfPosition(node.getStart(file)).line + 1,
        expected: rest?.[1],
        start: node.expression.getStart(file),
        end: node.expression.end
      })
    }
    node.forEachChild(visit)
  }
  visit(file)
  let instrumented = code
  prints.toReversed().forEach(({ end, start }, i) => {
    const log = `Reflect.get(globalThis, Symbol.for("${PRINTER}"))(${prints.length - 1 - i})`
    instrumented = instrumented.slice(0, start) + log + instrumented.slice(end)
  })
  return { code: instrumented, prints }
}
