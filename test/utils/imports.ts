/** Reads the imports of source files with the compiler's parser, and follows them. */
import { readdirSync, readFileSync } from "node:fs"
import { join, posix } from "node:path"
import ts from "typescript"
import { root } from "./compiler.ts"

/** File names, relative to the repository, with their text. */
export type Sources = ReadonlyMap<string, string>

export interface Import {
  readonly file: string
  readonly line: number
  /** A file of the sources, or the name of a module that is none: `effect/Effect`, `node:fs`. */
  readonly target: string
  /**
   * `static`: loaded with the file. `type`: `import type`, `export type` or `import("...").T`, nothing that runs. `dynamic`:
   * loaded when `import(...)` is called. `import { type T }` is static: it leaves an empty import behind.
   */
  readonly kind: "static" | "type" | "dynamic"
}

/** All TypeScript files below a directory of the repository. */
export const sourcesOf = (directory: string): Sources =>
  new Map(
    readdirSync(join(root, directory), { recursive: true, encoding: "utf8" })
      .map((name) => posix.join(directory, name.replaceAll("\\", "/")))
      .filter((name) => name.endsWith(".ts"))
      .sort()
      .map((name) => [name, readFileSync(join(root, name), "utf8")])
  )

const parse = (file: string, text: string): ts.SourceFile =>
  ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true, ts.ScriptKind.TS)

const lineOf = (source: ts.SourceFile, position: number): number =>
  source.getLineAndCharacterOfPosition(position).line + 1

const visit = (node: ts.Node, see: (node: ts.Node) => void): void => {
  see(node)
  ts.forEachChild(node, (child) => visit(child, see))
}

export const importsOf = (sources: Sources): ReadonlyArray<Import> =>
  [...sources].flatMap(([file, text]) => {
    const imports: Array<Import> = []
    const source = parse(file, text)
    visit(source, (node) => {
      const found = importAt(node)
      if (found === undefined) return
      const [specifier, kind] = found
      const target = specifier.startsWith(".") ? posix.join(posix.dirname(file), specifier) : specifier
      imports.push({ file, line: lineOf(source, node.getStart(source)), target, kind })
    })
    return imports
  })

const importAt = (node: ts.Node): readonly [specifier: string, kind: Import["kind"]] | undefined => {
  if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier)) {
    const types = node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword
    return [node.moduleSpecifier.text, types ? "type" : "static"]
  }
  if (ts.isExportDeclaration(node) && node.moduleSpecifier !== undefined && ts.isStringLiteral(node.moduleSpecifier)) {
    return [node.moduleSpecifier.text, node.isTypeOnly ? "type" : "static"]
  }
  if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument) && ts.isStringLiteral(node.argument.literal)) {
    return [node.argument.literal.text, "type"]
  }
  if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
    const [specifier] = node.arguments
    return [specifier !== undefined && ts.isStringLiteralLike(specifier) ? specifier.text : "(computed)", "dynamic"]
  }
  return undefined
}

/** Import cycles between files, as `a:1 -> b:2 -> a` with the lines of the imports: at least one where there are any. */
export const cycles = (imports: ReadonlyArray<Import>): ReadonlyArray<string> => {
  const outgoing = Map.groupBy(imports, ({ file }) => file)
  const found: Array<string> = []
  const done = new Set<string>()
  const path: Array<Import> = []
  const follow = (file: string): void => {
    for (const edge of outgoing.get(file) ?? []) {
      const start = path.findIndex((earlier) => earlier.file === edge.target)
      if (start >= 0 || edge.target === file) {
        const cycle = start >= 0 ? [...path.slice(start), edge] : [edge]
        found.push(chain(cycle))
      } else if (!done.has(edge.target)) {
        path.push(edge)
        follow(edge.target)
        path.pop()
      }
    }
    done.add(file)
  }
  for (const file of outgoing.keys()) if (!done.has(file)) follow(file)
  return found
}

/** Imports that follow each other, with their lines. */
const chain = (imports: ReadonlyArray<Import>): string =>
  `${imports.map(({ file, line }) => `${file}:${line}`).join(" -> ")} -> ${imports.at(-1)!.target}`

/** All that is loaded with `entry`, by the static imports, with the way to it. */
export const loadedWith = (entry: string, imports: ReadonlyArray<Import>): ReadonlyMap<string, string> => {
  const outgoing = Map.groupBy(
    imports.filter(({ kind }) => kind === "static"),
    ({ file }) => file
  )
  const ways = new Map<string, ReadonlyArray<Import>>([[entry, []]])
  // A map goes on to what is added to it meanwhile.
  for (const [file, way] of ways) {
    for (const edge of outgoing.get(file) ?? []) if (!ways.has(edge.target)) ways.set(edge.target, [...way, edge])
  }
  return new Map([...ways].map(([file, way]) => [file, way.length === 0 ? file : chain(way)]))
}

/** The functions of a file that are longer than `most` lines, each as `file:line: name has n lines`. */
export const longFunctions = (sources: Sources, most: number): ReadonlyArray<string> =>
  [...sources].flatMap(([file, text]) => {
    const source = parse(file, text)
    const long: Array<string> = []
    visit(source, (node) => {
      if (!ts.isFunctionLike(node) || !("body" in node) || node.body === undefined) return
      const from = lineOf(source, node.getStart(source))
      const lines = lineOf(source, node.getEnd()) - from + 1
      if (lines > most) long.push(`${file}:${from}: ${nameOf(node)} has ${lines} lines, more than ${most}`)
    })
    return long
  })

const nameOf = (node: ts.SignatureDeclaration): string => {
  const name = node.name ?? (ts.isVariableDeclaration(node.parent) ? node.parent.name : undefined)
  return name === undefined ? "a function" : name.getText()
}

/** The files with more than `most` lines. */
export const longFiles = (sources: Sources, most: number): ReadonlyArray<string> =>
  [...sources].flatMap(([file, text]) => {
    const lines = text.replace(/\n$/, "").split("\n").length
    return lines > most ? [`${file} has ${lines} lines, more than ${most}`] : []
  })
