import { assert, describe, it } from "@effect/vitest"
import ts from "typescript"
import { diagnose, program } from "./utils/compiler.ts"

/** In front of every case. */
const PRELUDE = `
import { Effect, Layer, Option, Scope, TxQueue } from "effect"
import { Budget, BudgetExceeded, BudgetPool, FailedReservation, Limit, Policy, Reservation } from "effect-budget"
import { RowGuard, TokenBudget, TokenGuard, Usd } from "effect-budget"

class Calls extends Budget.Service<Calls>()("app/Calls") {}
class Agents extends BudgetPool.Service<Agents>()("app/Agents") {}
class Import extends Policy.Service<Import>()("app/Import", { rows: RowGuard, tokens: TokenGuard }) {}
class Nested extends Policy.Service<Nested>()("app/Nested", { work: Import, agents: Agents }) {}

declare const calls: Budget.Budget
declare const agents: BudgetPool.BudgetPool
declare const tokens: TokenBudget.TokenBudget
declare const policy: typeof Import.Service
declare const nested: typeof Nested.Service
declare const queue: TxQueue.TxQueue<string>

const rowLayer = RowGuard.layer({ limit: Limit.capacity(10) })
const tokenLayer = TokenGuard.layer({ limit: Limit.capacity(10) })
const main = Effect.flatMap(Import, (policy) => policy.withReservation({ rows: 1, tokens: 2 }, () => Effect.void))

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false
const same = <A, B>(_: Same<A, B>) => {}
`

const CASES = {
  "a whole program": `
    Effect.runPromise(Effect.provide(main, Layer.provide(Import.layer, [rowLayer, tokenLayer])))`,
  "a program without TokenGuard": `
    Effect.runPromise(Effect.provide(main, Layer.provide(Import.layer, rowLayer)))`,
  "a program without RowGuard": `
    Effect.runPromise(Effect.provide(main, Layer.provide(Import.layer, tokenLayer)))`,
  "a program without the policy": `
    Effect.runPromise(Effect.provide(main, [rowLayer, tokenLayer]))`,
  "a policy layer without TokenGuard": `
    export const layer: Layer.Layer<Import> = Layer.provide(Import.layer, rowLayer)`,
  "a member that is not a budget": `
    class Other extends Policy.Service<Other>()("app/Other", { rows: RowGuard, queue: Scope.Scope }) {}`,

  "amounts of a policy": `
    policy.reserve({ rows: 1, tokens: 2 })
    policy.tryReserve({ rows: 1, tokens: 2 })
    policy.withReservation({ rows: 1, tokens: 2 }, (reservation) => reservation.commit({ rows: 1, tokens: 1 }))
    nested.reserve({ work: { rows: 1, tokens: 2 }, agents: { input: 1, output: 1, cost: Usd.dollars(1) } })`,
  "reserve: a missing key": `policy.reserve({ rows: 1 })`,
  "reserve: a wrong key": `policy.reserve({ rows: 1, tokens: 2, dollars: 3 })`,
  "reserve: a string": `policy.reserve({ rows: 1, tokens: "2" })`,
  "reserve: one number": `policy.reserve(1)`,
  "tryReserve: a missing key": `policy.tryReserve({ rows: 1 })`,
  "withReservation: a missing key": `policy.withReservation({ tokens: 1 }, () => Effect.void)`,
  "reserveTx: a missing key": `policy.reserveTx({ tokens: 1 }, Effect.void)`,
  "commit: a missing key": `
    policy.withReservation({ rows: 1, tokens: 2 }, (reservation) => reservation.commit({ rows: 1 }))`,
  "commit: a wrong key": `
    policy.withReservation({ rows: 1, tokens: 2 }, (reservation) => reservation.commit({ rows: 1, tokens: 2, usd: 1 }))`,
  "commit: a string": `
    policy.withReservation({ rows: 1, tokens: 2 }, (reservation) => reservation.commit({ rows: "1", tokens: 2 }))`,
  "progress: a missing key": `
    policy.withReservation({ rows: 1, tokens: 2 }, (reservation) => reservation.progress({ tokens: 2 }))`,
  "extend: a wrong key": `
    policy.withReservation({ rows: 1, tokens: 2 }, (reservation) => reservation.extend({ rows: 1, token: 2 }))`,
  "a nested policy: a missing key": `
    nested.reserve({ work: { rows: 1 }, agents: { input: 1, output: 1, cost: Usd.nanos(0) } })`,
  "one budget: a string": `calls.reserve("1")`,

  "a pool's usage": `
    agents.record({ input: 1, output: 2, cost: Usd.dollars("0.10") })
    agents.reserve({ input: 1, output: 2, cost: Usd.nanos(0) })
    Agents.layer({ caps: {} })
    Agents.layer({ caps: { input: 1, output: 2, total: 3, cost: Usd.dollars(1) } })`,
  "a pool's usage without a cost": `agents.record({ input: 1, output: 2 })`,
  "a pool's cost in dollars": `agents.record({ input: 1, output: 2, cost: 5 })`,
  "a pool's usage in words": `agents.reserve({ input: 1, output: 2, cost: "$1" })`,
  "a pool's usage with a total": `agents.record({ input: 1, output: 2, cost: Usd.nanos(0), total: 3 })`,
  "a cap of another name": `Agents.layer({ caps: { calls: 3 } })`,

  "a token reservation of another kind": `
    Effect.flatMap(policy.reserve({ rows: 1, tokens: 2 }), (reservation) =>
      tokens.recordUsage(reservation, { prompt: 1, completion: 2 }))`,
  "a token usage with a part left out": `
    Effect.flatMap(tokens.reserve(1), (reservation) => tokens.recordUsage(reservation, { prompt: 1 }))`,
  "a limit by its number": `Calls.layer({ limit: 10 })`,
  "an unknown enforcement": `Calls.layer({ limit: Limit.capacity(1), enforcement: "wait" })`,

  "what is answered": `
    const reserved = policy.reserve({ rows: 1, tokens: 2 })
    same<Effect.Error<typeof reserved>, BudgetExceeded | FailedReservation>(true)
    same<Effect.Services<typeof reserved>, Scope.Scope>(true)
    same<Effect.Success<typeof reserved>["amount"]["tokens"], number>(true)

    const used = calls.withReservation(1, () => Effect.as(Effect.flatMap(RowGuard, () => Effect.fail("no" as const)), 1))
    same<Effect.Error<typeof used>, "no" | BudgetExceeded | FailedReservation>(true)
    same<Effect.Services<typeof used>, RowGuard>(true)
    same<Effect.Success<typeof used>, number>(true)

    const tried = calls.tryReserve(1)
    same<typeof tried, Effect.Effect<Option.Option<Reservation.Reservation<number>>, never, Scope.Scope>>(true)

    const recorded = agents.record({ input: 1, output: 2, cost: Usd.nanos(0) })
    same<Effect.Error<typeof recorded>, BudgetExceeded>(true)

    type Amounts = Reservation.Amount<typeof policy>
    same<Amounts["rows"], number>(true)
    same<keyof Amounts, "rows" | "tokens">(true)
    same<Reservation.Amount<typeof nested>["agents"], BudgetPool.Usage>(true)

    declare const reservation: Effect.Success<typeof reserved>
    same<Effect.Error<ReturnType<typeof reservation.commit>>, never>(true)
    same<Effect.Success<ReturnType<typeof reservation.commit>>, Reservation.Settlement<Amounts>>(true)
    same<Effect.Error<ReturnType<typeof reservation.extend>>, BudgetExceeded | FailedReservation>(true)

    same<typeof Import.layer, Layer.Layer<Import, never, RowGuard | TokenGuard>>(true)
    same<typeof Nested.layer, Layer.Layer<Nested, never, Import | Agents>>(true)
    same<typeof rowLayer, Layer.Layer<RowGuard>>(true)`,
  "a transaction alongside": `
    const job = calls.reserveTx(1, TxQueue.take(queue))
    same<Effect.Services<typeof job>, Scope.Scope>(true)
    same<Effect.Success<typeof job>["value"], string>(true)

    const open = calls.reserveTx(1, Effect.andThen(Effect.Transaction, RowGuard))
    same<Effect.Services<typeof open>, Scope.Scope | RowGuard>(true)

    const failing = calls.reserveTx(1, Effect.fail("no" as const))
    same<Effect.Error<typeof failing>, "no" | BudgetExceeded | FailedReservation>(true)

    calls.reserveTx(1, TxQueue.take(queue), { undo: (value) => TxQueue.offer(queue, value).pipe(Effect.asVoid) })`,
  "an undo of another value": `
    calls.reserveTx(1, TxQueue.take(queue), { undo: (value: number) => Effect.log(value) })`
} as const

/** A case is a name here if the compiler must refuse it, with what it says. */
const ERRORS: { readonly [K in keyof typeof CASES]?: RegExp } = {
  "a program without TokenGuard": /Type 'TokenGuard' is not assignable to type 'never'/,
  "a program without RowGuard": /Type 'RowGuard' is not assignable to type 'never'/,
  "a program without the policy": /Type 'Import' is not assignable to type 'never'/,
  "a policy layer without TokenGuard": /Type 'TokenGuard' is not assignable to type 'never'/,
  "a member that is not a budget": /AnyReservable/,
  "reserve: a missing key": /Property 'tokens' is missing/,
  "reserve: a wrong key": /'dollars' does not exist in type/,
  "reserve: a string": /Type 'string' is not assignable to type 'number'/,
  "reserve: one number": /Argument of type 'number' is not assignable/,
  "tryReserve: a missing key": /Property 'tokens' is missing/,
  "withReservation: a missing key": /Property 'rows' is missing/,
  "reserveTx: a missing key": /Property 'rows' is missing/,
  "commit: a missing key": /Property 'tokens' is missing/,
  "commit: a wrong key": /'usd' does not exist in type/,
  "commit: a string": /Type 'string' is not assignable to type 'number'/,
  "progress: a missing key": /Property 'rows' is missing/,
  "extend: a wrong key": /'token' does not exist in type|Property 'tokens' is missing/,
  "a nested policy: a missing key": /Property 'tokens' is missing/,
  "one budget: a string": /Argument of type 'string' is not assignable to parameter of type 'number'/,
  "a pool's cost in dollars": /Type 'number' is not assignable to type 'Usd'/,
  "a pool's usage without a cost": /Property 'cost' is missing/,
  "a pool's usage in words": /Type 'string' is not assignable to type 'number'/,
  "a pool's usage with a total": /'total' does not exist in type 'Usage'/,
  "a cap of another name": /'calls' does not exist in type 'Caps'/,
  "a token reservation of another kind": /is not assignable to type 'number'/,
  "a token usage with a part left out": /Property 'completion' is missing/,
  "a limit by its number": /Type 'number' is not assignable to type/,
  "an unknown enforcement": /Type '"wait"' is not assignable to type/,
  "an undo of another value": /Type 'string' is not assignable to type 'number'/
}

describe("Types", () => {
  const names = Object.keys(CASES) as ReadonlyArray<keyof typeof CASES>
  const fileOf = (name: string) => `test/types-${names.findIndex((other) => other === name)}.ts`
  // What the prelude declares for others is unused in most cases.
  const unused = { noUnusedLocals: false, noUnusedParameters: false }
  let said: Record<string, ReadonlyArray<string>> | undefined
  const diagnostics = () =>
    (said ??= diagnose(
      Object.fromEntries(names.map((name) => [fileOf(name), `${PRELUDE}\n${CASES[name]}\nexport {}\n`])),
      unused
    ))

  for (const name of names) {
    const expected = ERRORS[name]
    it(expected === undefined ? `compiles: ${name}` : `refuses: ${name}`, () => {
      const found = diagnostics()[fileOf(name)]!
      if (expected === undefined) return assert.deepStrictEqual(found, [])
      assert.strictEqual(found.length, 1, found.join("\n"))
      assert.match(found[0]!, expected)
    })
  }

  it("no public declaration says any", () => {
    const emitting = { noEmit: false, declaration: true, emitDeclarationOnly: true, stripInternal: true }
    const emitted = program({ "all.ts": `export * from "effect-budget"` }, { ...emitting, outDir: "/declarations" })
    const found: Array<string> = []
    let files = 0
    emitted.program.emit(
      undefined,
      (name, text) => {
        if (!name.endsWith(".d.ts") || name.includes("/internal/")) return
        files++
        const file = ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true)
        const visit = (node: ts.Node): void => {
          if (node.kind === ts.SyntaxKind.AnyKeyword) found.push(`${name}: ${node.parent.parent.getText()}`)
          node.forEachChild(visit)
        }
        visit(file)
      },
      undefined,
      true
    )
    assert.deepStrictEqual(found, [])
    assert.isAtLeast(files, 12)
  })
})
