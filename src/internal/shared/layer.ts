/** The layer of a store over shared books, which needs a file system only if settlements are written to a journal. */
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import type * as Path from "effect/Path"
import type { PlatformError } from "effect/PlatformError"
import type * as Scope from "effect/Scope"
import { BudgetStore } from "../../BudgetStore.ts"
import type { SharedBooks } from "./books.ts"
import { journalIn } from "./journal.ts"
import type { SharedOptions } from "./options.ts"
import { sharedStore } from "./store.ts"

export interface JournalOption {
  /**
   * A directory where settlements are kept from before they are sent until they are answered, so that they survive this process:
   * the next one with the same directory sends what is left. It belongs to one process at a time.
   */
  readonly journal: string
}

export interface StoreLayer<in Options, out E, out R> {
  (options: Options & JournalOption): Layer.Layer<BudgetStore, E | PlatformError, R | FileSystem.FileSystem | Path.Path>
  (options?: Options & { readonly journal?: undefined }): Layer.Layer<BudgetStore, E, R>
}

export const storeLayer = <Options extends SharedOptions, E, R>(
  books: (options: Partial<Options>) => Effect.Effect<SharedBooks, E, R | Scope.Scope>
): StoreLayer<Options, E, Exclude<R, Scope.Scope>> => {
  function layer(
    options: Options & JournalOption
  ): Layer.Layer<BudgetStore, E | PlatformError, Exclude<R, Scope.Scope> | FileSystem.FileSystem | Path.Path>
  function layer(
    options?: Options & { readonly journal?: undefined }
  ): Layer.Layer<BudgetStore, E, Exclude<R, Scope.Scope>>
  function layer(options: Partial<Options> & Partial<JournalOption> = {}) {
    const { journal } = options
    return Layer.effect(
      BudgetStore,
      Effect.gen(function* () {
        const kept = journal === undefined ? undefined : yield* journalIn(journal)
        return yield* sharedStore(yield* books(options), options, kept)
      })
    )
  }
  return layer
}
