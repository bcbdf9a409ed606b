/**
 * The one place that knows the YAML parser. JSON is read as YAML, because `JSON.parse` silently keeps the last of two equal keys.
 */
import * as Yaml from "effect/encoding/Yaml"
import * as Result from "effect/Result"

export interface SyntaxProblem {
  readonly line: number
  readonly message: string
}

const attempt = (text: string): Result.Result<unknown, string> => {
  try {
    return Result.succeed(Yaml.parse(text))
  } catch (error) {
    return Result.fail(error instanceof Error ? error.message : String(error))
  }
}

/** The value of a YAML or JSON text, or what is wrong with the text, and in which line. */
export const parse = (text: string): Result.Result<unknown, SyntaxProblem> =>
  Result.mapError(attempt(text), (error) => {
    const lines = text.split(/\r\n?|\n/)
    const message = error.replace(/ at (?:line|flow offset) \d+$/, "")
    const line = lineOf(lines, error)
    const key = /^Duplicate key '(.*)'$/s.exec(message)?.[1]
    return key === undefined
      ? { line, message: `${message.charAt(0).toLowerCase()}${message.slice(1)}` }
      : { line: keyLine(lines, line, key), message: `the key ${JSON.stringify(key)} is there twice` }
  })

/**
 * Not every error of the parser names its line. It reads forward only, so the line is the last one of the shortest beginning
 * of the text that fails in the same way.
 */
const lineOf = (lines: ReadonlyArray<string>, error: string): number => {
  const named = / at line (\d+)$/.exec(error)
  if (named !== null) return Number(named[1])
  let [passes, fails] = [0, lines.length]
  while (fails - passes > 1) {
    const middle = (passes + fails) >> 1
    const beginning = attempt(lines.slice(0, middle).join("\n"))
    if (Result.isFailure(beginning) && beginning.failure === error) fails = middle
    else passes = middle
  }
  return fails
}

/** In braces, a key is found to be there twice only behind its value: the key itself may be some lines above. */
const keyLine = (lines: ReadonlyArray<string>, line: number, key: string): number => {
  for (let i = line; i > 0; i--) if (lines[i - 1]?.includes(key)) return i
  return line
}
