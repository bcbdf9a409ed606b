/**
 * What a provider is sent beside the prompt: how the tools and the structured output are defined, as JSON. How a provider words
 * it is its own affair, so of the forms that `effect/ai` makes for providers, the longest counts.
 */
import type { JsonSchema } from "effect/JsonSchema"
import type * as Schema from "effect/Schema"
import { AnthropicStructuredOutput, type LanguageModel, OpenAiStructuredOutput, Tool } from "effect/ai"

const TRANSFORMERS: ReadonlyArray<LanguageModel.CodecTransformer | undefined> = [
  undefined,
  OpenAiStructuredOutput.toCodecOpenAI,
  AnthropicStructuredOutput.toCodecAnthropic
]

/** A form that cannot be made of a schema is refused by its provider too, before anything is sent. */
const longest = (make: (options: { readonly transformer?: LanguageModel.CodecTransformer }) => JsonSchema): string =>
  TRANSFORMERS.reduce((longest, transformer) => {
    try {
      const form = JSON.stringify(make(transformer === undefined ? {} : { transformer })) ?? ""
      return form.length > longest.length ? form : longest
    } catch {
      return longest
    }
  }, "")

/** Tools and schemas do not change, and their JSON takes long to make. */
const known = new WeakMap<object, string>()

const once = (key: object, make: () => string): string => {
  const before = known.get(key)
  if (before !== undefined) return before
  const made = make()
  known.set(key, made)
  return made
}

export const ofTool = (tool: Tool.Any): string =>
  once(tool, () => {
    const { name } = tool
    const description = Tool.getDescription(tool)
    const args = Tool.isProviderDefined(tool) ? tool.args : undefined
    return JSON.stringify({ type: "function", name, description, args }) + longest((o) => Tool.getJsonSchema(tool, o))
  })

export const ofSchema = (schema: Schema.Constraint): string =>
  once(schema, () => longest((options) => Tool.getJsonSchemaFromSchema(schema, options)))
