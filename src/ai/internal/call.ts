/** A call of a `LanguageModel` as far as the budget is concerned, whatever tools and schemas it is made with. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { type LanguageModel, type Prompt, Telemetry, type Tool } from "effect/ai"
import { MaxOutputTokens } from "../MaxOutputTokens.ts"
import * as Definitions from "./definitions.ts"
import type { Part, Request } from "./request.ts"

export interface Methods {
  readonly generateText: (options: Options) => Effect.Effect<Answer, unknown, unknown>
  readonly generateObject: (options: Options) => Effect.Effect<Answer, unknown, unknown>
  readonly streamText: (options: Options) => Stream.Stream<Part, unknown, unknown>
}

interface Answer {
  readonly content: ReadonlyArray<Part>
}

export interface Options {
  readonly prompt: Prompt.RawInput
  readonly toolkit?: Tools | Effect.Effect<Tools, unknown, unknown> | undefined
  readonly toolChoice?: LanguageModel.ToolChoice<string> | undefined
  readonly disableToolCallResolution?: boolean | undefined
  readonly objectName?: string | undefined
  readonly schema?: Schema.Constraint | undefined
}

export interface Tools {
  readonly tools: Readonly<Record<string, Tool.Any>>
  readonly handle: (...call: ReadonlyArray<never>) => Effect.Effect<AnyStream, unknown, unknown>
}

type AnyStream = Stream.Stream<unknown, unknown, unknown>

export const toolsOf = ({ toolkit }: Options): Effect.Effect<Tools | undefined, unknown, unknown> =>
  Effect.isEffect(toolkit) ? toolkit : Effect.succeed(toolkit)

/** Whether the model runs the tools that it calls. */
export const runsTools = ({ disableToolCallResolution }: Options, tools: Tools | undefined): boolean =>
  tools !== undefined && Object.keys(tools.tools).length > 0 && disableToolCallResolution !== true

/** What is sent beside the prompt. */
export const definitionsOf = (
  { objectName, schema, toolChoice }: Options,
  tools: Tools | undefined
): ReadonlyArray<string> => {
  const only = typeof toolChoice === "object" && "oneOf" in toolChoice ? toolChoice.oneOf : undefined
  const definitions = Object.values(tools?.tools ?? {})
    .filter(({ name }) => only === undefined || only.includes(name))
    .map(Definitions.ofTool)
  if (schema !== undefined) {
    definitions.push((objectName ?? "") + Definitions.ofSchema(schema))
  }
  return definitions
}

/** The same call, with the prompt as it was read (it may be an iterable that gives only once) and with its tools watched. */
export const optionsOf = <A>(
  options: Options,
  request: Request<A>,
  tools: Tools | undefined,
  outside: Context.Context<never>
): Options => {
  const { prompt } = request.asked
  if (tools === undefined) return { ...options, prompt }
  const approved = approvedIn(prompt)
  return {
    ...options,
    prompt,
    toolkit: {
      ...tools,
      handle: (...call) => {
        // Each runs once before the request is sent. When its name comes again, the model has called anew.
        if (!approved.delete(call[2])) {
          request.answered = true
          request.spoke = true
          request.hidden = true
        }
        return tools
          .handle(...call)
          .pipe(Effect.map(Stream.updateContext(as(outside))), Effect.updateContext(as(outside)))
      }
    }
  }
}

/** The calls of tools that were approved and have no result: a model runs them before it asks its provider. */
const approvedIn = (prompt: Prompt.Prompt): Set<string | undefined> => {
  const parts = prompt.content.flatMap(({ content }) => (typeof content === "string" ? [] : [...content]))
  const approvals = new Set<string>()
  for (const part of parts) if (part.type === "tool-approval-response" && part.approved) approvals.add(part.approvalId)
  const calls = new Set<string | undefined>()
  for (const part of parts)
    if (part.type === "tool-approval-request" && approvals.has(part.approvalId)) calls.add(part.toolCallId)
  for (const part of parts) if (part.type === "tool-result") calls.delete(part.id)
  return calls
}

/** A handler may ask a model too: that is no part of this request, neither of its ceiling nor of its usage. */
const as =
  (outside: Context.Context<never>) =>
  (inside: Context.Context<unknown>): Context.Context<unknown> => {
    const restored = Context.add(inside, MaxOutputTokens, Context.get(outside, MaxOutputTokens))
    return Option.match(Context.getOption(outside, Telemetry.CurrentSpanTransformer), {
      onNone: () => Context.omit(Telemetry.CurrentSpanTransformer)(restored),
      onSome: (transformer) => Context.add(restored, Telemetry.CurrentSpanTransformer, transformer)
    })
  }
