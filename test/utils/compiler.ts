/** Type-checks sources that exist only in memory, as if they were files of this project. */
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import ts from "typescript"

export const root = fileURLToPath(new URL("../..", import.meta.url)).replace(/[/\\]$/, "")

/** The options of `tsconfig.json`, without the editor plugin: it only speaks up where the compiler has been patched. */
export const options = (): ts.CompilerOptions => {
  const path = join(root, "tsconfig.json")
  const { config, error } = ts.readConfigFile(path, ts.sys.readFile)
  if (error !== undefined) throw new Error(message(error))
  const parsed = ts.parseJsonConfigFileContent(config, ts.sys, root, undefined, path)
  const { plugins: _, ...options } = parsed.options
  return options
}

/** A program over `sources` (file name in the project's root to text) and all that they import. */
export const program = (
  sources: Readonly<Record<string, string>>,
  overrides: ts.CompilerOptions = {}
): { readonly program: ts.Program; readonly path: (name: string) => string } => {
  const all = { ...options(), ...overrides }
  const path = (name: string) => join(root, name)
  const memory = new Map(Object.entries(sources).map(([name, text]) => [path(name), text]))
  const host = ts.createCompilerHost(all)
  const { fileExists, getSourceFile, readFile } = host
  host.fileExists = (file) => memory.has(file) || fileExists(file)
  host.readFile = (file) => memory.get(file) ?? readFile(file)
  host.getSourceFile = (file, languageVersion, ...rest) => {
    const text = memory.get(file)
    return text === undefined
      ? getSourceFile(file, languageVersion, ...rest)
      : ts.createSourceFile(file, text, languageVersion)
  }
  host.getCurrentDirectory = () => dirname(path("tsconfig.json"))
  return { program: ts.createProgram([...memory.keys()], all, host), path }
}

/** What the compiler says about each of the sources: an empty list for one that compiles. */
export const diagnose = <Names extends string>(
  sources: Readonly<Record<Names, string>>,
  overrides: ts.CompilerOptions = {}
): Record<Names, ReadonlyArray<string>> => {
  const { path, program: checked } = program(sources, overrides)
  const said = Object.keys(sources).map((name) => {
    const file = checked.getSourceFile(path(name))
    if (file === undefined) throw new Error(`${name} is not in the program`)
    return [name, ts.getPreEmitDiagnostics(checked, file).map(message)]
  })
  return Object.fromEntries(said) as Record<Names, ReadonlyArray<string>>
}

const message = (diagnostic: ts.Diagnostic): string => {
  const text = ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n")
  if (diagnostic.file === undefined || diagnostic.start === undefined) return text
  return `line ${diagnostic.file.getLineAndCharacterOfPosition(diagnostic.start).line + 1}: ${text}`
}
