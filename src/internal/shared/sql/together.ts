/** What is asked for while a step is under way goes together in the next. */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"

/** No more than this many in one transaction. */
const MOST = 100

interface Waiting<Question, Answer, E> {
  readonly question: Question
  readonly context: Context.Context<never>
  readonly answer: (exit: Exit.Exit<Answer, E>) => void
}

/**
 * The steps of a group follow each other anyway, so there is never more than one transaction of this process under way, for all
 * the steps that came in the meantime: they cost one lock, one commit and one round trip. It runs in the context of the first.
 * When one of them is at fault, each is run alone, and only that one fails. A transaction that nobody waits for any more is
 * interrupted.
 */
export const together = <Question, Answer, E>(
  run: (questions: ReadonlyArray<Question>) => Effect.Effect<ReadonlyArray<Answer>, E>
): ((question: Question) => Effect.Effect<Answer, E>) => {
  type Entry = Waiting<Question, Answer, E>
  const next = new Set<Entry>()
  let underWay: { readonly entries: Set<Entry>; fiber?: Fiber.Fiber<void> } | undefined

  const start = (): void => {
    const [first, ...rest] = [...next].slice(0, MOST)
    if (first === undefined) return
    const entries = [first, ...rest]
    for (const entry of entries) next.delete(entry)
    const current: NonNullable<typeof underWay> = { entries: new Set(entries) }
    underWay = current
    const ended = Effect.sync(() => {
      underWay = undefined
      start()
    })
    current.fiber = Effect.runForkWith(first.context)(Effect.ensuring(answered(entries), ended))
  }

  const answered = (entries: ReadonlyArray<Entry>): Effect.Effect<void> =>
    Effect.flatMap(Effect.exit(run(entries.map(({ question }) => question))), (exit) => {
      if (entries.length > 1 && Exit.isFailure(exit) && Cause.hasDies(exit.cause)) {
        return Effect.forEach(entries, (entry) => answered([entry]), { discard: true })
      }
      entries.forEach(({ answer }, i) => answer(Exit.map(exit, (answers) => answers[i]!)))
      return Effect.void
    })

  return (question) =>
    Effect.withFiber(({ context }) =>
      Effect.callback((resume) => {
        const entry: Entry = { question, context, answer: resume }
        next.add(entry)
        if (underWay === undefined) start()
        return Effect.sync(() => {
          if (next.delete(entry) || underWay === undefined) return
          if (underWay.entries.delete(entry) && underWay.entries.size === 0) underWay.fiber?.interruptUnsafe()
        })
      })
    )
}
