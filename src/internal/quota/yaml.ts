/**
 * The only module that knows the YAML parser. JSON is read as YAML, because `JSON.parse` silently keeps the last of two equal
 * keys. The module also runs in a worker thread, so it imports nothing else.
 */
import { CORE_SCHEMA, loadAll, mapTag, mergeTag, YAMLException } from "js-yaml"

export interface SyntaxProblem {
  /** Absent if the parser reports no position. */
  readonly line?: number
  readonly message: string
}

/** The value of a text, or the reason why the text has none. */
export type Parsed =
  | {
      readonly value: unknown
      /** Lists the keys of a mapping in a large value, in less time than `Object.keys`. */
      readonly keysOf?: (mapping: object) => ReadonlyArray<string>
    }
  | { readonly problem: SyntaxProblem }

let lastKey: unknown

/** The parser does not name a duplicate key, but the key is always the last one that it looked up. */
const mapping: typeof mapTag = {
  ...mapTag,
  has: (carrier, key) => {
    lastKey = key
    return mapTag.has(carrier, key)
  }
}

const options = {
  schema: CORE_SCHEMA.withTags(mergeTag, mapping),
  // The default of 10,000 is less than one large environment that is merged into another.
  maxTotalMergeKeys: 1_000_000
}

/** Reads a YAML or JSON text of at most one document. */
export const parse = (text: string): Parsed => {
  try {
    const documents = loadAll(text, options)
    return documents.length < 2
      ? { value: documents[0] ?? null }
      : { problem: { line: secondDocument(text), message: "a second document starts here, a manifest has only one" } }
  } catch (error) {
    if (!(error instanceof YAMLException)) throw error
    return { problem: problemOf(text, error) }
  }
}

/** Messages for the errors that a person who writes a manifest is likely to see. */
const messages = new Map<string, string>([
  ["bad indentation of a mapping entry", 'bad indentation, or a text with ": " in it that needs quotes'],
  ["cannot merge mappings; the provided source object is unacceptable", "<< must be given a mapping or a list of them"],
  ["end of the stream or a document separator is expected", "expected the end of the text, check the indentation"],
  ["expected ':' after a mapping key", "expected ':' after the key"],
  ["missed comma between flow collection entries", "expected ',' or ':' or the closing bracket or brace"],
  ["tab characters must not be used in indentation", "tabs cannot be used for indentation, use spaces"]
])

const STILL_OPEN = /^(deficient indentation$|unexpected end of the (stream|document) within)/

const problemOf = (text: string, { mark, reason }: YAMLException): SyntaxProblem => {
  if (mark === undefined) return { message: reason }
  const line = mark.line + 1
  if (STILL_OPEN.test(reason)) {
    const message = "a quote, bracket or brace is still open after this line, close it or indent the next line further"
    return { line: line - trailingLineBreaks(text.slice(0, mark.position)), message }
  }
  if (reason === "duplicated mapping key") {
    return { line, message: `the key ${JSON.stringify(String(lastKey))} is there twice` }
  }
  const alias = /^unidentified alias "(.*)"$/.exec(reason)?.[1]
  if (alias !== undefined) return { line, message: `unknown alias *${alias}, nothing above is marked &${alias}` }
  return { line, message: messages.get(reason) ?? reason }
}

const trailingLineBreaks = (text: string): number => text.slice(text.trimEnd().length).match(/\r\n?|\n/g)?.length ?? 0

/** The line in which the second document starts, or the first one is said to end before it. */
const secondDocument = (text: string): number => {
  const lines = text.split(/\r\n?|\n/)
  const started = lines.findIndex((line) => /^\s*[^\s#%]/.test(line))
  return lines.findIndex((line, i) => i > started && /^(---|\.\.\.)(\s|$)/.test(line)) + 1
}
