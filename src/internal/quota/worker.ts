/**
 * A thread that parses one text. It says when it is ready, receives the text, and sends one answer for each message that it
 * receives: the sender decides how fast the answers come.
 */
import { parentPort } from "node:worker_threads"
import { cut, type Piece } from "./pieces.ts"
import { parse, type SyntaxProblem } from "./yaml.ts"

export type Answer =
  | { readonly ready: true }
  | { readonly problem: SyntaxProblem }
  | { readonly pieces: ReadonlyArray<Piece> }
  | { readonly end: true }

function* answers(text: string): Generator<Answer> {
  const parsed = parse(text)
  if ("problem" in parsed) yield parsed
  else for (const pieces of cut(parsed.value)) yield { pieces }
  yield { end: true }
}

let remaining: Generator<Answer> | undefined

const send = (answer: Answer | undefined): void => parentPort?.postMessage(answer)

parentPort?.on("message", (text: string) => {
  remaining ??= answers(text)
  send(remaining.next().value)
})
send({ ready: true })
