/**
 * The books of many processes in Redis. Each step is one round trip of a script, at most: those that are asked for while others are
 * under way go together in the next.
 */
import * as Effect from "effect/Effect"
import * as Redis from "effect/persistence/Redis"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { StoreUnavailable } from "../../../BudgetError.ts"
import * as Ledger from "../../../Ledger.ts"
import { CAUSES } from "../../books/tally.ts"
import type { Budget, Denied, Ended, Entry, Held, Settled, SharedBooks, Unopened } from "../books.ts"
import { budgetOf, budgetText, ledgersOf, nameOf, nameText, numbersOf } from "./records.ts"
import * as scripts from "./scripts.ts"

export interface Options {
  readonly group: string
  /** In milliseconds. */
  readonly keepOutcomes: number
  /** In place of the server's clock, for tests. */
  readonly now?: (() => number) | undefined
}

/** How often a change is tried before it keeps others out. */
const ATTEMPTS = 3

/** So many steps go in one script, of about so many words. */
const MOST = 64
const MOST_WORDS = 2_000

/** So many scripts are under way: the server has one while this process makes the next. */
const UNDER_WAY = 2

export const make = ({ group, keepOutcomes, now }: Options): Effect.Effect<SharedBooks, never, Redis.Redis> =>
  Effect.gen(function* () {
    const redis = yield* Redis.Redis
    const fork = Effect.runForkWith(yield* Effect.context<never>())
    // All keys have the same hash tag, so they are in one slot of a cluster.
    const tag = `{${nameText(group)}}`
    const [books, holds, due] = [`${tag}:books`, `${tag}:holds`, `${tag}:due`]

    // -- steps that are asked for while others are under way go together, in order ---------------------------------------

    const steps = redis.eval(scripts.steps)
    const asked: Array<Asked> = []
    let underWay = 0
    let scheduled = false

    const schedule = (): void => {
      if (scheduled || underWay === UNDER_WAY || asked.length === 0) return
      scheduled = true
      // After all fibers that can run now have asked.
      queueMicrotask(() => {
        scheduled = false
        send()
        schedule()
      })
    }
    const send = (): void => {
      const share = underWay === 0 && asked.length > 8 ? Math.ceil(asked.length / UNDER_WAY) : asked.length
      let count = 0
      for (let words = 0; count < Math.min(share, MOST) && words < MOST_WORDS; count++) {
        words += asked[count]!.parameters.length
      }
      const batch = asked.splice(0, count)
      if (batch.length === 0) return
      const keys = [books, holds, due]
      const words = [now === undefined ? "" : String(now()), String(keepOutcomes)]
      for (const { id, name, parameters } of batch) {
        if (id !== undefined) keys.push(`${tag}:ended:${id}`)
        words.push(name, String(parameters.length))
        for (const parameter of parameters) words.push(parameter)
      }
      underWay++
      fork(
        Effect.matchCause(steps(String(keys.length), ...keys, ...words), {
          onFailure: (cause) => {
            underWay--
            for (const { resume } of batch) resume(Effect.failCause(cause))
            schedule()
          },
          onSuccess: (answers) => {
            underWay--
            batch.forEach(({ resume }, i) => resume(Effect.succeed(answers[i]!)))
            schedule()
          }
        })
      )
    }
    const ask = <A>(
      name: Asked["name"],
      id: string | undefined,
      parameters: ReadonlyArray<string>,
      decode: (answer: scripts.Answer) => A
    ): Effect.Effect<A, StoreUnavailable> =>
      Effect.matchEffect(
        Effect.callback<scripts.Answer, Redis.RedisError>((resume) => {
          const step: Asked = { name, id, parameters, resume }
          asked.push(step)
          schedule()
          return Effect.sync(() => {
            const at = asked.indexOf(step)
            if (at >= 0) asked.splice(at, 1)
          })
        }),
        {
          onFailure: failed,
          onSuccess: (answer) =>
            // Somebody who changes a budget keeps others out.
            answer === "B" ? Effect.delay(ask(name, id, parameters, decode), 5) : Effect.succeed(decode(answer))
        }
      )

    // -- changes ---------------------------------------------------------------------------------------------------------

    const write = redis.eval(scripts.write)
    const textsOf = (names: ReadonlyArray<string>, gate: "1" | "") =>
      ask("read", undefined, [gate, ...names], ([time, ...texts]) => ({ now: Number(time), texts }))

    const update = (
      budgets: ReadonlyArray<string>,
      change: (budgets: ReadonlyArray<Budget | undefined>, now: number) => ReadonlyArray<Budget>,
      attempt: number
    ): Effect.Effect<void, StoreUnavailable> => {
      const names = budgets.map(nameText)
      return textsOf(names, attempt > ATTEMPTS ? "1" : "").pipe(
        Effect.flatMap(({ now, texts }) => {
          const before = texts.map((text) => budgetAt(text, now))
          const after = change(before, now)
          const words = after.flatMap((budget, i) => [names[i]!, texts[i] ?? "", budgetText(budget)])
          return Effect.catch(write("1", books, ...words), failed)
        }),
        Effect.flatMap((written) => (written === "yes" ? Effect.void : update(budgets, change, attempt + 1)))
      )
    }

    return {
      hold: ({ entries, expiresAfter, id, onExpiry, step }) => {
        const parameters = [id, String(step), String(expiresAfter), onExpiry === "hold" ? "h" : "p"]
        for (const { amount, budget, upTo } of entries) {
          parameters.push(nameText(budget), String(amount), upTo === undefined ? "" : String(upTo))
        }
        return ask("hold", id, parameters, heldOf)
      },
      charge: ({ entries, id }) =>
        ask("charge", id, [id, ...entries.flatMap(wordsOf)], (answer) =>
          typeof answer === "string" ? settledOf(answer) : deniedOf(answer)
        ),
      reduce: ({ amounts, id, step }) =>
        ask("reduce", undefined, [id, String(step), ...amounts.map(String)], () => undefined),
      settle: ({ cause, charges, entries, id }) => {
        const parameters = [id, String(CAUSES.indexOf(cause) + 1), charges?.join(",") ?? ""]
        for (const { amount, budget } of entries) parameters.push(nameText(budget), String(amount))
        return ask("settle", id, parameters, settledOf)
      },
      renew: (holds, expiresAfter) =>
        ask(
          "renew",
          undefined,
          [String(expiresAfter), ...holds.flatMap(({ id, progress }) => [id, progress?.join(",") ?? ""])],
          (ids) => (typeof ids === "string" ? [] : ids.map(String))
        ),
      read: (budgets) =>
        Effect.map(textsOf(budgets.map(nameText), ""), ({ now, texts }) => texts.map((text) => budgetAt(text, now))),
      update: (budgets, change) => update(budgets, change, 1),
      freed: freedOf(redis, `${tag}:freed`)
    }
  })

/** A step on its way, with the id of the hold whose outcome it may make. */
interface Asked {
  readonly name: "hold" | "charge" | "settle" | "reduce" | "renew" | "read"
  readonly id: string | undefined
  readonly parameters: ReadonlyArray<string>
  readonly resume: (answer: Effect.Effect<scripts.Answer, Redis.RedisError>) => void
}

const UNOPENED: Unopened = { _tag: "Unopened" }

const wordsOf = ({ amount, budget }: Entry): ReadonlyArray<string> => [nameText(budget), String(amount)]

const refilled = (ledgers: ReadonlyArray<Ledger.Ledger>, now: number): ReadonlyArray<Ledger.Ledger> =>
  ledgers.map((ledger) => Ledger.refill(ledger, now))

const budgetAt = (text: string | null | undefined, now: number): Budget | undefined => {
  if (text === null || text === undefined) return undefined
  const budget = budgetOf(text)
  return { ...budget, ledgers: refilled(budget.ledgers, now) }
}

const heldOf = (answer: scripts.Answer): Held | Denied | Ended | Unopened => {
  if (typeof answer !== "string") return deniedOf(answer)
  if (answer === "E") return { _tag: "Ended" }
  return answer === "U" ? UNOPENED : { _tag: "Held", amounts: numbersOf(answer.slice(2)) }
}

const deniedOf = ([, time, ...words]: ReadonlyArray<string | null>): Denied => {
  const entries = words.map(String)
  const now = Number(time)
  const texts = entries.filter((_, i) => i % 2 === 0)
  return {
    _tag: "Denied",
    now,
    ledgers: texts.map((text) => refilled(ledgersOf(text), now)),
    own: entries.filter((_, i) => i % 2 === 1).map(numbersOf)
  }
}

const settledOf = (answer: scripts.Answer): Settled | Unopened => {
  if (answer === "U") return UNOPENED
  const [, cause, late, charges, overran] = String(answer).split(" ")
  return {
    _tag: "Settled",
    cause: CAUSES[Number(cause) - 1]!,
    charges: numbersOf(charges!),
    overran: overran === "-" ? [] : overran!.split(",").map(nameOf),
    late: late === "1"
  }
}

/** What the server says of a script that is wrong, as against a server that is away, full or read-only. */
const BUG = /^(?:\w*Error: )?(?:ERR|WRONGTYPE|CROSSSLOT)\b.*(?:user_script|cmd|key|slot)/is

const failed = ({ cause }: Redis.RedisError): Effect.Effect<never, StoreUnavailable> => {
  const message = cause instanceof Error ? cause.message : String(cause)
  return BUG.test(message) ? Effect.die(cause) : Effect.fail(new StoreUnavailable({ message, cause }))
}

/** Subscribes again when the subscription is lost for good. A client that reconnects by itself has a gap meanwhile. */
const freedOf = (redis: Redis.Redis["Service"], channel: string): Stream.Stream<ReadonlyArray<string>> =>
  Stream.unwrap(Effect.map(redis.subscribe(channel), Stream.fromQueue)).pipe(
    Stream.map(({ message }) => message.split(",").map(nameOf)),
    Stream.retry(Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("2 seconds")])),
    Stream.orDie
  )
