/** Settlements on disk, from before they are sent until they are answered: they survive the process. */
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import type * as Path from "effect/Path"
import type * as PlatformError from "effect/PlatformError"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { KeyValueStore } from "effect/persistence"
import type { SettleRequest } from "./books.ts"

export interface Journal {
  /** What was left by a process that died, oldest first. */
  readonly left: ReadonlyArray<SettleRequest>
  readonly write: (request: SettleRequest) => Effect.Effect<void>
  readonly remove: (request: SettleRequest) => Effect.Effect<void>
}

const Record = Schema.fromJsonString(
  Schema.Struct({
    /** Settlements are sent again in this order. */
    at: Schema.Int,
    id: Schema.String,
    cause: Schema.Literals(["committed", "released", "succeeded", "failed", "interrupted", "expired"]),
    charges: Schema.Union([Schema.Array(Schema.Int), Schema.Undefined]),
    entries: Schema.Array(Schema.Struct({ budget: Schema.String, amount: Schema.Int }))
  })
)

/** A journal in a directory, which belongs to one process at a time. A directory that cannot be used fails. */
export const journalIn = (
  directory: string
): Effect.Effect<Journal, PlatformError.PlatformError, FileSystem.FileSystem | Path.Path | Scope.Scope> =>
  Effect.map(Layer.build(KeyValueStore.layerFileSystem(directory)), (context) => context).pipe(
    Effect.flatMap((context) => Effect.provide(KeyValueStore.KeyValueStore, context)),
    Effect.flatMap(journalOver)
  )

const journalOver = (store: KeyValueStore.KeyValueStore): Effect.Effect<Journal> =>
  Effect.gen(function* () {
    const found: Array<typeof Record.Type> = []
    for (const key of yield* Effect.orDie(store.keys)) {
      const text = yield* Effect.orDie(store.get(key))
      const record = yield* Effect.option(Schema.decodeUnknownEffect(Record)(text))
      if (record._tag === "Some") found.push(record.value)
      else yield* Effect.logWarning(`BudgetStore: the journal entry "${key}" cannot be read, and is left where it is`)
    }
    found.sort((one, other) => one.at - other.at)
    let at = (found.at(-1)?.at ?? 0) + 1
    return {
      left: found,
      write: (request) =>
        Effect.suspend(() =>
          Effect.flatMap(Schema.encodeEffect(Record)({ ...request, at: at++ }), (text) => store.set(request.id, text))
        ).pipe(
          // The settlement is sent all the same; what is lost is its protection.
          Effect.catch((cause) =>
            Effect.logWarning("BudgetStore: a settlement could not be written to the journal", cause)
          )
        ),
      remove: ({ id }) =>
        Effect.catch(store.remove(id), (cause) =>
          // It would be sent again by the next process, and change nothing while its outcome is remembered.
          Effect.logWarning("BudgetStore: a settlement could not be removed from the journal", cause)
        )
    }
  })
