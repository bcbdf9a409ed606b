/**
 * Summarises every text file of a folder, 32 files at a time, under three budgets that are reserved in one step:
 *
 * - rows: how many files in all (a capacity)
 * - tokens: how many a minute (a rate: who finds too few left waits for its turn)
 * - dollars: how much money in all (a capacity: who finds too little left is denied)
 *
 * Each file reserves the most that it may cost, and settles what it did cost. Some files fail (they are not text), some are
 * interrupted (they are long, and their caller is impatient). However each one ends, the books balance: the ledger at the end
 * shows it, and the exit code is 1 if they do not.
 *
 *     npm run demo [-- FOLDER] [--rows N] [--tokens N] [--dollars N]
 *
 * The model runs in this process and needs no key. Any server that speaks the chat completions of OpenAI does as well, with its
 * key in OPENAI_API_KEY:
 *
 *     npm run demo -- FOLDER --model openai --base-url https://api.openai.com/v1 --name MODEL
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Config, Console, Duration, Effect, Layer, Option, Redacted, Ref, Schema, Stream } from "effect"
import { LanguageModel } from "effect/ai"
import { Argument, CliConfig, Command, Flag, GlobalFlag } from "effect/cli"
import { Budget, Limit, Policy, RowGuard, TokenGuard, Usd } from "effect-budget"
import { BudgetedLanguageModel, Estimator, Pricing } from "effect-budget/ai"
import { fileURLToPath } from "node:url"
import * as Audit from "./demo/Audit.ts"
import * as ExtractiveModel from "./demo/ExtractiveModel.ts"
import * as OpenAiModel from "./demo/OpenAiModel.ts"
import * as Progress from "./demo/Progress.ts"
import * as SourceFile from "./demo/SourceFile.ts"

// ---------------------------------------------------------------------------------------------------------------------
// The budgets
// ---------------------------------------------------------------------------------------------------------------------

/** Money, in nano-dollars. Rows and tokens have ready-made services, `RowGuard` and `TokenGuard`. */
class Dollars extends Budget.Service<Dollars>()("demo/Dollars") {}

/** All three as one. Its keys are those of every amount that is reserved or settled. */
class Summaries extends Policy.Service<Summaries>()("demo/Summaries", {
  rows: RowGuard,
  tokens: TokenGuard,
  dollars: Dollars
}) {}

interface Allowance {
  readonly rows: number
  readonly tokensPerMinute: number
  readonly tokensAtOnce: number
  readonly dollars: Usd.Usd
}

const layerSummaries = ({ dollars, rows, tokensAtOnce, tokensPerMinute }: Allowance) =>
  Summaries.layer.pipe(
    Layer.provide([
      RowGuard.layer({ name: "rows", limit: Limit.capacity(rows) }),
      TokenGuard.layer({
        name: "tokens",
        limit: Limit.rate({ amount: tokensPerMinute, per: "1 minute", burst: tokensAtOnce }),
        enforcement: "throttle"
      }),
      Dollars.layer({ name: "dollars", limit: Limit.capacity(dollars), enforcement: "reject" })
    ])
  )

// ---------------------------------------------------------------------------------------------------------------------
// The work
// ---------------------------------------------------------------------------------------------------------------------

const CONCURRENCY = 32
const MAX_OUTPUT_TOKENS = 96
const TOKENS_PER_SECOND = 5_000

/** Made up, for a million tokens: the local model costs nothing, and what another costs is not asked here. */
const PRICE = Usd.dollars("0.60")
const prices = Pricing.layerTable({}, { fallback: { input: "0.60", output: "0.60" } })

/** A file of more tokens than this has a caller who gives up before the model can have read it. */
const LONG = 8_000
const PATIENCE = Duration.seconds(1.5)

const costOf = (inputTokens: number, outputTokens: number): Audit.Amounts => ({
  rows: 1,
  tokens: inputTokens + outputTokens,
  dollars: Usd.cost(inputTokens + outputTokens, PRICE)
})

/** More than a request takes beside the text of the file. */
const REQUEST_TOKENS = 64

/** The most that a file may cost: all of its tokens, and as many for the answer as the model ever gives. */
const estimate = (file: SourceFile.SourceFile): Audit.Amounts => costOf(file.tokens + REQUEST_TOKENS, MAX_OUTPUT_TOKENS)

/**
 * Puts the model, whichever it is, under the budgets: each request reserves the most that it may cost, and settles what the
 * model reports; if it is interrupted, what was delivered, or all that was held. The tally is kept beside the budgets, to audit
 * them at the end.
 */
const layerBudgeted = (tally: Ref.Ref<Audit.Tally>) =>
  BudgetedLanguageModel.layerPriced(Summaries, {
    model: "any",
    maxOutputTokens: MAX_OUTPUT_TOKENS,
    amounts: ({ cost, tokens }) => ({ rows: 1, tokens, dollars: cost }),
    onCharge: ({ settlement, source }) =>
      source === undefined ? Effect.void : Ref.update(tally, Audit.charge(source, settlement.charged))
  }).pipe(Layer.provide([Estimator.layerTokenizer({ maxOutputTokens: MAX_OUTPUT_TOKENS }), prices]))

/** Nothing here knows of the budgets. */
const summarise = Effect.fn("summarise")(function* (file: SourceFile.SourceFile) {
  const prompt = yield* file.text
  const parts = yield* Stream.runCollect(BudgetedLanguageModel.typedStream(LanguageModel.streamText({ prompt })))
  const text = parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join("")
  const usage = parts.findLast((part) => part.type === "finish")?.usage
  const tokens = (usage?.inputTokens.total ?? 0) + (usage?.outputTokens.total ?? 0)
  return `${tokens} tokens, ${Usd.format(Usd.cost(tokens, PRICE))}: ${text}`
})

/** However a file ends, it does not stop the others. */
const attempt = (file: SourceFile.SourceFile) =>
  summarise(file).pipe(
    // The wait for the budgets counts too. Who is interrupted while waiting is charged nothing.
    Effect.timeout(file.tokens > LONG ? PATIENCE : Duration.infinity),
    Effect.map(Audit.outcome("done")),
    Effect.catchTag("TimeoutError", () =>
      Effect.succeed(Audit.outcome("timed out")(`${file.tokens} tokens take longer than ${Duration.format(PATIENCE)}`))
    ),
    Effect.catchTag("BudgetExceeded", ({ available, budget, requested }) =>
      Effect.succeed(
        Audit.outcome("denied")(
          `${Audit.format(budget, requested)} of the ${budget}, ${Audit.format(budget, available)} left`
        )
      )
    ),
    Effect.catch(({ message }) => Effect.succeed(Audit.outcome("failed")(message)))
  )

const summariseAll = Effect.fn("summariseAll")(function* (files: ReadonlyArray<SourceFile.SourceFile>) {
  const policy = yield* Summaries
  const tally = yield* Ref.make(Audit.emptyTally)
  const each = Effect.fnUntraced(function* (file: SourceFile.SourceFile) {
    const progress = yield* Progress.Progress
    const outcome = yield* attempt(file)
    yield* Ref.update(tally, Audit.count(outcome))
    yield* progress.finished(file.path, outcome)
  })
  const close = Effect.flatMap(Effect.all([policy.snapshot, Ref.get(tally)]), ([books, tally]) =>
    Audit.close(books, tally, files.length)
  )
  yield* Effect.forEach(files, each, { concurrency: CONCURRENCY, discard: true }).pipe(
    Effect.provide([layerBudgeted(tally), Progress.layer({ books: policy.snapshot, tally, files: files.length })]),
    // Also after Ctrl-C: by then, whatever was in flight has been interrupted and settled.
    Effect.onExit(() => close)
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Another model
// ---------------------------------------------------------------------------------------------------------------------

interface ModelFlags {
  readonly model: "local" | "openai"
  readonly baseUrl: Option.Option<string>
  readonly name: Option.Option<string>
}

/** The model that the flags ask for in place of the local one, if they do. */
const modelOf = Effect.fnUntraced(function* ({ baseUrl, model, name }: ModelFlags) {
  if (model === "local") {
    if (Option.isNone(baseUrl) && Option.isNone(name)) return Option.none()
    return yield* new SourceFile.UsageError({ message: "--base-url and --name go with --model openai" })
  }
  const key = yield* Config.Redacted("OPENAI_API_KEY").pipe(Config.option)
  const needed = {
    baseUrl: Option.filter(baseUrl, URL.canParse),
    model: name,
    apiKey: Option.filter(key, (key) => Redacted.value(key) !== "")
  }
  return yield* Option.match(Option.all(needed), {
    onNone: () =>
      new SourceFile.UsageError({
        message:
          "--model openai needs --base-url URL (like https://api.openai.com/v1), --name MODEL, " +
          "and a key in the environment variable OPENAI_API_KEY"
      }),
    onSome: (options) => Effect.succeedSome(OpenAiModel.layer(options))
  })
})

/** The local model summarises whatever it is given; another has to be told. */
const INSTRUCTION = "Summarise this file in at most two sentences.\n\n"

/** More than the instruction has: servers count a few more around each message. */
const INSTRUCTION_TOKENS = 32

const instructed = (file: SourceFile.SourceFile): SourceFile.SourceFile => ({
  path: file.path,
  tokens: file.tokens + INSTRUCTION_TOKENS,
  text: Effect.map(file.text, (text) => INSTRUCTION + text)
})

// ---------------------------------------------------------------------------------------------------------------------
// The command
// ---------------------------------------------------------------------------------------------------------------------

const command = Command.make(
  "demo",
  {
    folder: Argument.String("folder").pipe(
      Argument.withDescription("What to summarise. Default: this project"),
      Argument.withDefault(fileURLToPath(new URL("..", import.meta.url)))
    ),
    rows: Flag.Int("rows").pipe(
      Flag.withDescription("How many files at most. Default: all of them"),
      Flag.withSchema(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
      Flag.optional
    ),
    tokens: Flag.Int("tokens").pipe(
      Flag.withDescription("How many tokens a minute. Default: a quarter of a minute for all files, or 300000"),
      Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_000_000_000 }))),
      Flag.optional
    ),
    dollars: Flag.String("dollars").pipe(
      Flag.withDescription("How much money in all, like 0.05. Default: enough for all files"),
      Flag.mapTryCatch(Usd.dollars, () => "dollars, like 0.05"),
      Flag.optional
    ),
    model: Flag.Literals("model", ["local", "openai"]).pipe(
      Flag.withDescription("Who summarises. Default: local, which needs no key"),
      Flag.withDefault("local")
    ),
    baseUrl: Flag.String("base-url").pipe(
      Flag.withDescription("With --model openai: the server, like https://api.openai.com/v1"),
      Flag.optional
    ),
    name: Flag.String("name").pipe(Flag.withDescription("With --model openai: the name of the model"), Flag.optional)
  },
  Effect.fnUntraced(function* ({ dollars, folder, rows, tokens, ...flags }) {
    const model = yield* modelOf(flags)
    const found = yield* SourceFile.scan(folder)
    const files = Option.isSome(model) ? found.map(instructed) : found
    const estimates = files.map(estimate)
    const tokensInAll = estimates.reduce((sum, { tokens }) => sum + tokens, 0)
    const tokensPerMinute = Option.getOrElse(tokens, () => Math.max(300_000, 4 * tokensInAll))
    const allowance: Allowance = {
      rows: Option.getOrElse(rows, () => files.length),
      tokensPerMinute,
      // A request for more than this could never be met, and the longest file comes first.
      tokensAtOnce: Math.max(estimates[0]!.tokens, Math.ceil(tokensPerMinute / 20)),
      dollars: Option.getOrElse(dollars, () => Usd.sum(estimates.map(({ dollars }) => dollars)))
    }
    yield* Console.log(
      `Summarising ${files.length} files of ${folder}, ${CONCURRENCY} at a time.\n` +
        `Allowed: ${Audit.format("rows", allowance.rows)} rows, ` +
        `${Audit.format("tokens", tokensPerMinute)} tokens a minute, ` +
        `${Audit.format("dollars", allowance.dollars)} (at a made-up ${Usd.format(PRICE)} for a million tokens).\n`
    )
    yield* summariseAll(files).pipe(
      Effect.provide([layerSummaries(allowance), Option.getOrElse(model, () => Layer.empty)])
    )
  })
)

Command.run(command, { version: "1" }).pipe(
  Effect.tapErrorTag("UsageError", ({ message }) => Console.error(message)),
  // The command has said already what is wrong with its arguments, or printed its help.
  Effect.catchTag("ShowHelp", ({ errors }) =>
    errors.length === 0 ? Effect.void : Effect.fail(new SourceFile.UsageError({ message: "" }))
  ),
  Effect.provide([
    ExtractiveModel.layer({ maxOutputTokens: MAX_OUTPUT_TOKENS, tokensPerSecond: TOKENS_PER_SECOND }),
    CliConfig.layer({ builtIns: [GlobalFlag.Help] }),
    NodeServices.layer
  ]),
  NodeRuntime.runMain
)
