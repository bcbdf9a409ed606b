/** Keeps the architecture: which part of `src` may import which, what the entry point loads, and how long things may get. */
import { assert, describe, it } from "@effect/vitest"
import { cycles, type Import, importsOf, loadedWith, longFiles, longFunctions, sourcesOf } from "./utils/imports.ts"

// ------------------------------------------------------------------------------------------------------------------ the table

interface Rule {
  /** A directory ends in `/` and means all below it; of two rules for one file, the one that names it longer holds. */
  readonly files: ReadonlyArray<string>
  /** The areas that its files may import, besides their own. */
  readonly imports: ReadonlyArray<Area>
  /** The areas of which its files may import types only, by `import type`. */
  readonly types?: ReadonlyArray<Area>
  /** The areas that its files may load later, by `import()`. */
  readonly later?: ReadonlyArray<Area>
}

type Area =
  | "core"
  | "seam"
  | "runtime"
  | "books"
  | "admission"
  | "face internals"
  | "faces"
  | "memory"
  | "memory layer"
  | "quota"
  | "shared stores"
  | "ai"
  | "entry"

const AREAS: Readonly<Record<Area, Rule>> = {
  core: {
    files: [
      "src/Limit.ts",
      "src/Ledger.ts",
      "src/Usd.ts",
      "src/BudgetError.ts",
      "src/internal/amount.ts",
      "src/internal/ledgerTime.ts"
    ],
    imports: []
  },
  seam: {
    files: ["src/BudgetStore.ts"],
    imports: ["core"]
  },
  runtime: {
    files: ["src/internal/runtime/"],
    imports: []
  },
  books: {
    files: ["src/internal/books/"],
    imports: ["core", "seam", "runtime"]
  },
  admission: {
    files: ["src/internal/admission/"],
    imports: ["core", "seam", "runtime", "books"]
  },
  "face internals": {
    files: ["src/internal/face/"],
    imports: ["core", "seam", "runtime", "books", "admission", "memory layer"],
    types: ["faces"]
  },
  faces: {
    files: [
      "src/Reservation.ts",
      "src/Budget.ts",
      "src/BudgetGuard.ts",
      "src/TokenBudget.ts",
      "src/BudgetPool.ts",
      "src/Policy.ts"
    ],
    imports: ["core", "seam", "admission", "face internals"]
  },
  memory: {
    files: ["src/internal/memory/"],
    imports: ["core", "seam", "runtime", "books", "admission"]
  },
  "memory layer": {
    files: ["src/MemoryBudgetStore.ts"],
    imports: ["seam", "memory"]
  },
  quota: {
    files: ["src/quota/", "src/internal/quota/"],
    imports: ["core", "seam", "runtime", "books", "admission", "face internals", "faces", "memory layer"]
  },
  "shared stores": {
    files: ["src/internal/shared/", "src/internal/leased/", "src/redis/", "src/sql/"],
    imports: ["core", "seam", "runtime", "books", "admission"]
  },
  ai: {
    files: ["src/ai/"],
    imports: ["core", "seam", "face internals", "faces"]
  },
  entry: {
    files: ["src/index.ts", "src/internal/entry/"],
    imports: [
      "core",
      "seam",
      "runtime",
      "books",
      "admission",
      "face internals",
      "faces",
      "memory",
      "memory layer",
      "ai"
    ],
    types: ["quota", "shared stores"],
    later: ["quota", "shared stores"]
  }
}

/** What a program must not load just because it imports `effect-budget`. */
const NOT_LOADED_AT_ONCE: ReadonlyArray<Area> = ["quota", "shared stores"]

const MOST_LINES_OF_A_FUNCTION = 70
const MOST_LINES_OF_A_FILE = 400

/** May be longer until they are rewritten. To be emptied. */
const LONG: ReadonlyArray<string> = [
  "src/internal/shared/",
  "src/internal/leased/",
  "src/ai/",
  "src/redis/",
  "src/sql/"
]

// ----------------------------------------------------------------------------------------------------------------- the checks

const isIn = (file: string, name: string): boolean => (name.endsWith("/") ? file.startsWith(name) : file === name)

const areaOf = (file: string): Area | undefined => {
  let area: Area | undefined
  let longest = 0
  for (const [name, { files }] of Object.entries(AREAS) as ReadonlyArray<[Area, Rule]>) {
    for (const path of files) {
      if (!isIn(file, path) || path.length <= longest) continue
      area = name
      longest = path.length
    }
  }
  return area
}

const isFile = (target: string): boolean => target.startsWith("src/")

const mayImport = (from: Area, to: Area, kind: Import["kind"]): boolean => {
  const { imports, later = [], types = [] } = AREAS[from]
  if (from === to || imports.includes(to)) return true
  return (kind === "type" && types.includes(to)) || (kind === "dynamic" && later.includes(to))
}

const KINDS = { static: "imports", type: "imports a type of", dynamic: "loads" } as const

const forbidden = (imports: ReadonlyArray<Import>): ReadonlyArray<string> =>
  imports.flatMap(({ file, kind, line, target }) => {
    const [from, to] = [areaOf(file), areaOf(target)]
    if (from === undefined || to === undefined || mayImport(from, to, kind)) return []
    return [`${file}:${line} ${KINDS[kind]} ${target}, but the table has no arrow "${from}" -> "${to}"`]
  })

const loadedTooEarly = (imports: ReadonlyArray<Import>): ReadonlyArray<string> =>
  [...loadedWith("src/index.ts", imports)].flatMap(([target, way]) => {
    if (!isFile(target)) return /^effect(\/|$)/.test(target) ? [] : [`the module "${target}" is loaded: ${way}`]
    const area = areaOf(target)
    return area !== undefined && NOT_LOADED_AT_ONCE.includes(area) ? [`"${area}" is loaded: ${way}`] : []
  })

const sources = sourcesOf("src")
const imports = importsOf(sources)
const short = new Map([...sources].filter(([file]) => !LONG.some((name) => isIn(file, name))))

describe("the layout of src", () => {
  it("has a place in the table for every file", () => {
    assert.deepStrictEqual(
      [...sources.keys()].filter((file) => areaOf(file) === undefined),
      []
    )
  })

  it("has no import of a file that does not exist", () => {
    const missing = imports.filter(({ target }) => isFile(target) && !sources.has(target))
    assert.deepStrictEqual(missing, [])
  })

  it("has no import cycle between files, imports of types included", () => {
    assert.deepStrictEqual(cycles(imports), [])
  })

  it("has no arrow between areas that is not in the table", () => {
    assert.deepStrictEqual(forbidden(imports), [])
  })

  it("loads neither quotas, nor shared stores, nor any package but effect with the entry point", () => {
    assert.deepStrictEqual(loadedTooEarly(imports), [])
  })

  it("has no function that is too long", () => {
    assert.deepStrictEqual(longFunctions(short, MOST_LINES_OF_A_FUNCTION), [])
  })

  it("has no file that is too long", () => {
    assert.deepStrictEqual(longFiles(short, MOST_LINES_OF_A_FILE), [])
  })
})

describe("the checks of the layout", () => {
  const read = (files: Readonly<Record<string, string>>) => importsOf(new Map(Object.entries(files)))

  it("find a cycle that goes through an import of a type", () => {
    const found = cycles(
      read({
        "src/Limit.ts": `import { a } from "./Ledger.ts"`,
        "src/Ledger.ts": `\nexport type { B } from "./Usd.ts"`,
        "src/Usd.ts": `export type C = import("./Limit.ts").Limit`
      })
    )
    assert.deepStrictEqual(found, ["src/Limit.ts:1 -> src/Ledger.ts:2 -> src/Usd.ts:1 -> src/Limit.ts"])
  })

  it("name the file, the line and the arrow that is forbidden", () => {
    const found = forbidden(read({ "src/Limit.ts": `\n\nimport type { Budget } from "./Budget.ts"` }))
    assert.deepStrictEqual(found, [
      `src/Limit.ts:3 imports a type of src/Budget.ts, but the table has no arrow "core" -> "faces"`
    ])
  })

  it("tell an import of a type from an import", () => {
    const types = { "src/internal/face/a.ts": `import type { Budget } from "../../Budget.ts"` }
    const values = { "src/internal/face/a.ts": `import { type Budget } from "../../Budget.ts"` }
    assert.lengthOf(forbidden(read(types)), 0)
    assert.lengthOf(forbidden(read(values)), 1)
  })

  it("let the entry point load later what it may not import", () => {
    const later = { "src/index.ts": `export const quota = () => import("./quota/Quota.ts")` }
    const now = { "src/index.ts": `export * from "./quota/Quota.ts"` }
    assert.lengthOf(forbidden(read(later)), 0)
    assert.lengthOf(forbidden(read(now)), 1)
  })

  it("find what the entry point loads by way of another file, and how", () => {
    const found = loadedTooEarly(
      read({
        "src/index.ts": `export * from "./Budget.ts"`,
        "src/Budget.ts": [
          `import * as Effect from "effect/Effect"`,
          `import type { Pool } from "pg"`,
          `import { readFileSync } from "node:fs"`,
          `import { leased } from "./internal/leased/store.ts"`
        ].join("\n")
      })
    )
    assert.deepStrictEqual(found, [
      `the module "node:fs" is loaded: src/index.ts:1 -> src/Budget.ts:3 -> node:fs`,
      `"shared stores" is loaded: src/index.ts:1 -> src/Budget.ts:4 -> src/internal/leased/store.ts`
    ])
  })

  it("find functions and files that are too long", () => {
    const file = new Map([["src/Limit.ts", "const f = () => {\n\n}\n"]])
    assert.deepStrictEqual(longFunctions(file, 2), ["src/Limit.ts:1: f has 3 lines, more than 2"])
    assert.deepStrictEqual(longFunctions(file, 3), [])
    assert.deepStrictEqual(longFiles(file, 2), ["src/Limit.ts has 3 lines, more than 2"])
    assert.deepStrictEqual(longFiles(file, 3), [])
  })
})
