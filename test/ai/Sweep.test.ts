import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Schema, Stream } from "effect"
import { type AiError, LanguageModel, type Response, Tool, Toolkit } from "effect/ai"
import { TokenGuard } from "../../src/index.ts"
import { type Probe, sweep } from "../utils/sweep.ts"
import { ask, budgeted, cap, delta, finish, start } from "./utils.ts"

const Time = Tool.make("Time", { success: Schema.String })
const listen = LanguageModel.streamText({ prompt: "hi" })
const call: Response.ToolCallPartEncoded = { type: "tool-call", id: "1", name: "Time", params: {} }

const programs: Readonly<Record<string, Effect.Effect<unknown, AiError.AiError, LanguageModel.LanguageModel>>> = {
  "a call": ask,
  "an object": LanguageModel.generateObject({ prompt: "hi", schema: Schema.Struct({ answer: Schema.Finite }) }),
  "a stream": Stream.runDrain(listen),
  "a stream that is left": Stream.runDrain(Stream.take(listen, 2)),
  "a stream of tools": Effect.flatMap(
    Effect.provide(Toolkit.make(Time), Toolkit.make(Time).toLayer({ Time: () => Effect.as(Effect.yieldNow, "noon") })),
    (toolkit) => Stream.runDrain(LanguageModel.streamText({ prompt: "hi", toolkit }))
  )
}

/** The least that a request is charged that was sent: what was reported, delivered or held. */
const CHARGES = [100, 105, 150]

const probeOf = (name: string): Effect.Effect<Probe> =>
  Effect.gen(function* () {
    let sent = 0
    const parts = [start, delta("delta"), ...(name === "a stream of tools" ? [call] : []), finish(80, 20)]
    const layer = budgeted(
      {
        answer: Effect.suspend(() => {
          sent++
          return Effect.as(Effect.yieldNow, [{ type: "text" as const, text: '{"answer":1}' }, finish(80, 20)])
        }),
        stream: Stream.suspend(() => {
          sent++
          return Stream.tap(Stream.rechunk(Stream.fromIterable(parts), 1), () => Effect.yieldNow)
        })
      },
      cap
    )
    const services = yield* Effect.scoped(Layer.build(layer))
    return {
      program: Effect.provide(programs[name]!, services),
      problem: Effect.map(Context.get(services, TokenGuard).snapshot, ({ charged, ledgers }) => {
        if (ledgers[0].held !== 0) return `${ledgers[0].held} still held`
        if (sent > 0 && !CHARGES.includes(charged)) return `sent, and charged ${charged}`
        // It can be interrupted when it is as good as sent.
        return sent === 0 && charged !== 0 && charged !== 150 ? `not sent, and charged ${charged}` : undefined
      })
    }
  })

describe("interrupted anywhere", () => {
  for (const name of Object.keys(programs)) {
    it.effect(`${name} holds nothing any more, and is charged if it was sent`, () =>
      Effect.gen(function* () {
        const { interrupted, problems } = yield* sweep(probeOf(name), { mostOperations: 40 })
        assert.deepStrictEqual(problems, [])
        assert.isAbove(interrupted, 100)
      })
    )
  }
})
