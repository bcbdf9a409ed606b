import { assert, describe, it } from "@effect/vitest"
import type { BudgetStore } from "effect-budget"
import { encode } from "gpt-tokenizer/encoding/cl100k_base"
import { spawn } from "node:child_process"
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { afterAll, beforeAll } from "vitest"
import { audit, type Books, charge, emptyTally } from "../examples/demo/Audit.ts"
import * as Limit from "../src/Limit.ts"
import * as Usd from "../src/Usd.ts"
import { root } from "./utils/compiler.ts"

interface Answer {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs the demo of a project until it ends; what it prints on the way can be answered with a signal. */
const demo = (
  project: string,
  args: ReadonlyArray<string>,
  signalOn?: (stdout: string) => NodeJS.Signals | undefined
): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(project, "examples", "demo.ts"), ...args], { stdio: "pipe" })
    let stdout = ""
    let stderr = ""
    let signalled = false
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text
      const signal = signalled ? undefined : signalOn?.(stdout)
      if (signal !== undefined) signalled = child.kill(signal)
    })
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
    child.on("error", reject).on("close", (code) => resolve({ code, stdout, stderr }))
  })

const fast = ["--tokens", "1000000000"]

describe("the demo", () => {
  let directory: string
  let project: string

  const folder = (name: string, files: Readonly<Record<string, string | Uint8Array>>): string => {
    const path = join(directory, name)
    mkdirSync(path)
    for (const [file, content] of Object.entries(files)) {
      mkdirSync(dirname(join(path, file)), { recursive: true })
      writeFileSync(join(path, file), content)
    }
    return path
  }

  // A project of its own, whose package is its sources: no build is needed, and none can get in the way.
  const makeProject = (name: string): string => {
    const path = folder(name, {
      "package.json": JSON.stringify({
        name: "effect-budget",
        type: "module",
        exports: { ".": "./src/index.ts", "./ai": "./src/ai/index.ts" }
      })
    })
    for (const part of ["src", "examples", "package-lock.json"]) {
      cpSync(join(root, part), join(path, part), { recursive: true })
    }
    symlinkSync(join(root, "node_modules"), join(path, "node_modules"))
    return path
  }

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "effect-budget-demo-"))
    project = makeProject("project")
  })

  afterAll(() => rmSync(directory, { recursive: true, force: true }))

  it("summarises a folder: two files fail, one times out, the rest is done and paid", async () => {
    const prose =
      "The budgets are reserved before the work.\r\nThe größte of all budgets is settled after the work.\r\n"
    const path = folder("mixed", {
      "a.md": prose,
      "nested/deep/b.txt": "Some words with \u001b[2J an escape, and <|endoftext|> as well. It ends here.",
      "nested/c\u001b[31m\n.txt": "The name of this file has control characters in it.",
      "empty.txt": "",
      "long.txt": "word ".repeat(8_100),
      "latin1.txt": Uint8Array.of(0x67, 0x72, 0xf6, 0xdf, 0x74, 0x65),
      "zero.bin": Uint8Array.of(0x7a, 0, 0x7a),
      "node_modules/skipped.txt": "Not a row.",
      ".git/skipped.txt": "Not a row."
    })
    const { code, stderr, stdout } = await demo(project, [path, ...fast])
    assert.deepStrictEqual({ code, stderr }, { code: 0, stderr: "" }, stdout)
    assert.isTrue(stdout.endsWith("\nThe books balance.\n"), stdout)
    assert.notMatch(stdout, /[^\P{C}\n]/u, "no control characters but line ends")

    assert.deepStrictEqual(filesOf(stdout, "failed").toSorted(), ["latin1.txt", "zero.bin"])
    assert.deepStrictEqual(filesOf(stdout, "timed out"), ["long.txt"])
    assert.deepStrictEqual(filesOf(stdout, "done").toSorted(), [
      "a.md",
      "empty.txt",
      "nested/c [31m .txt",
      "nested/deep/b.txt"
    ])
    assert.include(stdout, "files: 7 in all: 4 done, 1 timed out, 2 failed, 0 denied, 0 unfinished\n")

    const { budgets, refunds } = ledgerOf(stdout)
    assertBalanced(budgets)
    // The one that timed out is charged what was held: nothing of its answer had come.
    assert.strictEqual(budgets["rows"]!.spent, 5)
    assert.include(stdout, "charged by what was reported: 4, delivered: 0, estimated: 1\n")
    // What a file cost is what a tokenizer counts of it and of its summary, and the budget was charged just that.
    const [, tokens, summary] = /^done +a\.md {2}(\d+) tokens, \S+: (.*)$/m.exec(stdout)!
    assert.strictEqual(
      summary,
      "The budgets are reserved before the work. The größte of all budgets is settled after the work."
    )
    assert.strictEqual(Number(tokens), encode(prose).length + encode(summary!).length)
    const charged = [...stdout.matchAll(/^done .* (\d+) tokens, /gm)].map((match) => Number(match[1]))
    const held = budgets["tokens"]!.spent - charged.reduce((sum, tokens) => sum + tokens, 0)
    assert.isAtLeast(held, encode("word ".repeat(8_100)).length)
    assert.isAtMost(held, encode("word ".repeat(8_100)).length + 96 + 64)
    assert.strictEqual(budgets["dollars"]!.spent, Usd.cost(budgets["tokens"]!.spent, Usd.dollars("0.60")))

    // What is not text fails before anything is asked of the model.
    assert.deepInclude(refunds["failed"], { files: 0, rows: 0 })
    assert.deepInclude(refunds["committed"], { files: 5, rows: 0 })
    assert.isAbove(refunds["committed"]!.tokens, 0)
  })

  it("summarises this project by default, where some files fail and some time out", async () => {
    const { code, stderr, stdout } = await demo(project, fast)
    assert.deepStrictEqual({ code, stderr }, { code: 0, stderr: "" }, stdout)
    assert.isTrue(stdout.endsWith("\nThe books balance.\n"), stdout)
    assert.include(filesOf(stdout, "failed"), "examples/demo/pixel.png")
    assert.include(filesOf(stdout, "timed out"), "package-lock.json")
    assert.include(filesOf(stdout, "done"), "src/Budget.ts")
    assertBalanced(ledgerOf(stdout).budgets)
  })

  it("throttles by tokens, and settles all that is in flight on SIGINT", async () => {
    const short = Array.from({ length: 200 }, (_, i) => [`${i}.txt`, `This is the file of the number ${i}.`] as const)
    // It is in flight for more than a second; what is left of the burst is enough for some of the others, not for all.
    const path = folder("many", { ...Object.fromEntries(short), "slow.txt": "word ".repeat(7_000) })
    const { code, stderr, stdout } = await demo(project, [path, "--tokens", "200000"], (stdout) =>
      stdout.includes("\ndone ") ? "SIGINT" : undefined
    )
    assert.deepStrictEqual({ code, stderr }, { code: 130, stderr: "" }, stdout)
    assert.isTrue(stdout.endsWith("\nThe books balance.\n"), stdout)
    const { budgets } = ledgerOf(stdout)
    assertBalanced(budgets)
    assert.match(stdout, /charged by what was reported: \d+, delivered: 0, estimated: [1-9]/)
    assert.isAbove(budgets["tokens"]!.spent, 7_000)
    assert.notInclude(filesOf(stdout, "done"), "slow.txt")
    assert.isAbove(Number(/(\d+) unfinished/.exec(stdout)![1]), 100)
    assert.isAbove(budgets["rows"]!.spent, filesOf(stdout, "done").length)
  })

  it("denies what there is no money for, without waiting", async () => {
    const path = folder("dear", { "a.txt": "This is one file.", "b.txt": "This is another file." })
    const { code, stdout } = await demo(project, [path, "--dollars", "0.00001"])
    assert.strictEqual(code, 0, stdout)
    assert.include(stdout, "files: 2 in all: 0 done, 0 timed out, 0 failed, 2 denied, 0 unfinished\n")
    assert.match(stdout, /^denied +a\.txt {2}\$0\.0000\d+ of the dollars, \$0\.00001 left$/m)
    assert.strictEqual(ledgerOf(stdout).budgets["tokens"]!.spent, 0)
  })

  it("ends with 1 when the books do not balance", async () => {
    const broken = makeProject("broken")
    const file = join(broken, "examples", "demo.ts")
    const source = readFileSync(file, "utf8")
    const forgetful = source.replace("Audit.charge(source, settlement.charged)", "(tally) => tally")
    assert.notStrictEqual(forgetful, source)
    writeFileSync(file, forgetful)
    const path = folder("unpaid", { "a.txt": "This file is summarised, and nobody writes down what it cost." })
    const { code, stderr, stdout } = await demo(broken, [path])
    assert.strictEqual(code, 1, stdout)
    assert.include(stderr, "The books do not balance:\n  rows: 1 spent, but the files were charged 0\n")
    assert.notMatch(stderr, /^ +at /m, "no stack trace")
  })

  it("ends with 2 and one line when there is nothing to summarise", async () => {
    const empty = folder("empty", {})
    const notThere = join(directory, "not-there")
    const file = join(project, "package.json")
    const cases = [
      [notThere, `there is no folder ${notThere}\n`],
      [file, `${file} is not a folder\n`],
      [empty, `${empty} has no files\n`]
    ] as const
    const answers = await Promise.all(cases.map(([path]) => demo(project, [path])))
    assert.deepStrictEqual(
      answers,
      cases.map(([, stderr]) => ({ code: 2, stdout: "", stderr }))
    )
  })

  it("ends with 2 when an option makes no sense", async () => {
    const { code, stderr } = await demo(project, ["--dollars", "plenty"])
    assert.strictEqual(code, 2)
    assert.match(stderr, /--dollars/)
    assert.notMatch(stderr, /^ +at /m, "no stack trace")
  })
})

describe("the audit of the demo", () => {
  const settled = { count: 0, refunded: 0 }
  const snapshot = (
    charged: number,
    changed: Partial<BudgetStore.Snapshot> = {},
    ledger: Partial<BudgetStore.LedgerSnapshot> = {}
  ): readonly [BudgetStore.Snapshot] => [
    {
      budget: "any",
      ledgers: [
        {
          limit: Limit.capacity(100),
          granted: 100,
          available: 100 - charged,
          held: 0,
          spent: charged,
          epoch: 0,
          ...ledger
        }
      ],
      available: 100 - charged,
      waiters: 0,
      settled: {
        committed: { count: 1, refunded: 0 },
        released: settled,
        succeeded: settled,
        failed: settled,
        interrupted: settled,
        expired: settled
      },
      charged,
      overage: 0,
      ...changed
    }
  ]
  const tally = charge("reported", { rows: 1, tokens: 20, dollars: Usd.nanos(30) })(emptyTally)
  const balanced: Books = { rows: snapshot(1), tokens: snapshot(20), dollars: snapshot(30) }

  it("finds nothing wrong with books that balance", () => {
    assert.deepStrictEqual(audit(balanced, tally), [])
    const overrun = snapshot(120, { overage: 20 })
    const charged = charge("reported", { rows: 0, tokens: 100, dollars: 0 })({ ...tally, charges: emptyTally.charges })
    assert.deepStrictEqual(audit({ ...balanced, tokens: overrun }, charged), [])
  })

  it("tells each thing that is wrong, and of which budget", () => {
    const cases: ReadonlyArray<readonly [problem: string, tokens: Books["tokens"]]> = [
      ["tokens: 81 available + 0 held + 20 spent is not 100 granted", snapshot(20, {}, { available: 81 })],
      ["tokens: 5 held still", snapshot(20, {}, { available: 75, held: 5 })],
      [
        "tokens: 3 overspent, of which 2 are known as overage",
        snapshot(20, { overage: 2 }, { available: -3, granted: 17 })
      ],
      ["tokens: 19 spent, but the files were charged 20", snapshot(20, {}, { spent: 19, available: 81 })],
      ["tokens: 21 charged, but the files were charged 20", snapshot(20, { charged: 21 })],
      ["tokens: 4 waiting still", snapshot(20, { waiters: 4 })]
    ]
    for (const [problem, tokens] of cases) assert.deepStrictEqual(audit({ ...balanced, tokens }, tally), [problem])
    assert.deepStrictEqual(
      audit(balanced, { ...tally, charges: { ...tally.charges, estimated: 1 } }),
      ["rows", "tokens", "dollars"].map((key) => `${key}: 1 commits for 2 charges`)
    )
  })
})

const filesOf = (stdout: string, status: string): ReadonlyArray<string> =>
  [...stdout.matchAll(new RegExp(`^${status.padEnd(9)}  (\\S.*?)  `, "gm"))].map((match) => match[1]!)

interface Balance {
  readonly granted: number
  readonly available: number
  readonly held: number
  readonly spent: number
  readonly overspend: number
}

interface Refund {
  readonly files: number
  readonly rows: number
  readonly tokens: number
  readonly dollars: number
}

/** The two tables at the end, in whole units. */
const ledgerOf = (
  stdout: string
): { readonly budgets: Readonly<Record<string, Balance>>; readonly refunds: Readonly<Record<string, Refund>> } => {
  const rowsOf = (title: string) => {
    const [, table] = new RegExp(`\\n${title} .*\\n((?:.+\\n)+)`).exec(stdout) ?? []
    assert.isDefined(table, `no table of ${title} in\n${stdout}`)
    return table!
      .trimEnd()
      .split("\n")
      .map((line) => line.split(/ +/))
      .map(([name, ...cells]) => [name!, cells.map(amountOf)] as const)
  }
  return {
    budgets: Object.fromEntries(
      rowsOf("budget").map(([name, [granted, available, held, spent, overspend]]) => [
        name,
        { granted: granted!, available: available!, held: held!, spent: spent!, overspend: overspend! }
      ])
    ),
    refunds: Object.fromEntries(
      rowsOf("refunds").map(([name, [files, rows, tokens, dollars]]) => [
        name,
        { files: files!, rows: rows!, tokens: tokens!, dollars: dollars! }
      ])
    )
  }
}

const amountOf = (cell: string): number =>
  cell.startsWith("$") ? Usd.dollars(cell.slice(1)) : Number(cell.replaceAll(",", ""))

const assertBalanced = (budgets: Readonly<Record<string, Balance>>) => {
  assert.sameMembers(Object.keys(budgets), ["rows", "tokens", "dollars"])
  for (const { available, granted, held, overspend, spent } of Object.values(budgets)) {
    assert.strictEqual(available + held + spent, granted)
    assert.deepStrictEqual({ held, overspend }, { held: 0, overspend: 0 })
  }
}
