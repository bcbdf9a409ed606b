/** What a million open reservations weigh, each measured in a process of its own: `node --expose-gc memory.ts KIND`. */
import { Budget, BudgetStore, Limit } from "effect-budget"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"

const OPEN = 1_000_000

/** One scope owns all of them, so each is an entry in its map of finalizers. The control has these entries alone. */
const kinds = {
  reservation: Effect.map(Budget.make({ name: "memory", limit: Limit.capacity(2 * OPEN) }), (budget) =>
    budget.reserve(1)
  ),
  finalizer: Effect.succeed(Effect.flatMap(Effect.scope, (scope) => Scope.addFinalizerExit(scope, () => Effect.void)))
}

export type Kind = keyof typeof kinds

/** Bytes for each of a million. */
export const bytesEach = async (kind: Kind): Promise<number> => {
  const { stdout } = await promisify(execFile)(process.execPath, ["--expose-gc", fileURLToPath(import.meta.url), kind])
  return Number(stdout)
}

const heapUsed = Effect.sync(() => {
  globalThis.gc?.()
  return process.memoryUsage().heapUsed
})

const weigh = (kind: Kind) =>
  Effect.gen(function* () {
    const open: Effect.Effect<unknown, unknown, Scope.Scope> = yield* kinds[kind]
    // The first ones bring the compiled code, which is not the reservations' weight.
    yield* Effect.scoped(times(open, 10_000))
    const before = yield* heapUsed
    yield* times(open, OPEN)
    return ((yield* heapUsed) - before) / OPEN
  })

const times = <E, R>(effect: Effect.Effect<unknown, E, R>, count: number): Effect.Effect<void, E, R> =>
  Effect.suspend(() => {
    let done = 0
    return Effect.whileLoop({ while: () => done < count, body: () => effect, step: () => done++ })
  })

if (import.meta.main) {
  const kind = process.argv[2] as Kind
  const bytes = weigh(kind).pipe(Effect.scoped, Effect.provide(BudgetStore.BudgetStore.layerMemory))
  console.log(await Effect.runPromise(bytes))
}
