import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { publint } from "publint"
import { afterAll, beforeAll } from "vitest"
import { root } from "./utils/compiler.ts"
import { readme, runnable } from "./utils/snippets.ts"

/** What the package is made of. The build runs on a copy, so that nobody else's `dist` is touched. */
const SOURCES = ["src", "package.json", "tsconfig.json", "tsconfig.build.json", "README.md", "LICENSE", "CHANGELOG.md"]

/** The entries of the package, each with a value that it exports. */
const ENTRIES = {
  "effect-budget": "Budget",
  "effect-budget/ai": "BudgetedLanguageModel",
  "effect-budget/quota": "Quota",
  "effect-budget/redis": "RedisBudgetStore",
  "effect-budget/sql": "SqlBudgetStore"
}

const MINUTE = 60_000

interface Answer {
  readonly code: number
  readonly output: string
}

const env = { ...process.env, NO_COLOR: "1", FORCE_COLOR: undefined }

const run = (cwd: string, command: string, ...args: ReadonlyArray<string>): Promise<Answer> =>
  new Promise((resolve) =>
    execFile(command, args, { cwd, env, maxBuffer: 2 ** 24, timeout: MINUTE }, (error, stdout, stderr) =>
      resolve({
        code: error === null ? 0 : typeof error.code === "number" ? error.code : 1,
        output: error === null ? stdout : `${stdout}${stderr}${error.message}`
      })
    )
  )

const succeed = async (cwd: string, command: string, ...args: ReadonlyArray<string>): Promise<string> => {
  const { code, output } = await run(cwd, command, ...args)
  assert.strictEqual(code, 0, `${command} ${args.join(" ")}:\n${output}`)
  return output
}

const script = (...path: ReadonlyArray<string>) => join(root, "node_modules", ...path)
const npmInstall = ["install", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts"] as const

describe("the package", () => {
  let directory: string
  let consumer: string
  let tarball: string
  let files: ReadonlyArray<string>
  const example = (section: string) => readme().find(({ snippet }) => snippet.section === section)!.snippet
  const first = example("A first example")

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "effect-budget-package-"))
    const source = join(directory, "source")
    for (const name of SOURCES) cpSync(join(root, name), join(source, name), { recursive: true })
    // What the tarball must leave out.
    for (const name of ["test", "bench", "examples"]) {
      mkdirSync(join(source, name))
      writeFileSync(join(source, name, "left-out.ts"), "")
    }
    symlinkSync(join(root, "node_modules"), join(source, "node_modules"))
    await succeed(source, "npm", "run", "build")
    const [packed] = JSON.parse(await succeed(source, "npm", "pack", "--json")) as [
      { readonly filename: string; readonly files: ReadonlyArray<{ readonly path: string }> }
    ]
    tarball = join(source, packed.filename)
    files = packed.files.map(({ path }) => path)

    consumer = join(directory, "consumer")
    mkdirSync(consumer)
    writeFileSync(join(consumer, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }))
    writeFileSync(join(consumer, "first.ts"), first.code)
    writeFileSync(join(consumer, "quota.ts"), example("Named quotas").code)
    const { version } = JSON.parse(readFileSync(script("effect", "package.json"), "utf8")) as { version: string }
    await succeed(consumer, "npm", ...npmInstall, tarball, `effect@${version}`)
  }, 3 * MINUTE)
  afterAll(() => rmSync(directory, { recursive: true, force: true }))

  it("holds the built modules, their sources and the papers, and nothing else", () => {
    const modules = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts"))
      .map((file) => file.slice(0, -".ts".length))
    const expected = [
      ...modules.flatMap((module) => [
        `src/${module}.ts`,
        ...[".js", ".js.map", ".d.ts", ".d.ts.map"].map((extension) => `dist/${module}${extension}`)
      ]),
      ...["package.json", "README.md", "LICENSE", "CHANGELOG.md"]
    ]
    assert.deepStrictEqual(files.toSorted(), expected.toSorted())
  })

  it("passes publint", async () => {
    const { buffer, byteLength, byteOffset } = readFileSync(tarball)
    const packed = buffer.slice(byteOffset, byteOffset + byteLength)
    assert.deepStrictEqual((await publint({ strict: true, pack: { tarball: packed } })).messages, [])
  })

  it("passes attw, as a package for ESM only", async () => {
    await succeed(
      directory,
      process.execPath,
      script("@arethetypeswrong/cli/dist/index.js"),
      tarball,
      "--profile=esm-only"
    )
  })

  it("needs effect and nothing else, since its other peers are optional", () => {
    const { dependencies, peerDependencies, peerDependenciesMeta } = JSON.parse(
      readFileSync(join(root, "package.json"), "utf8")
    ) as {
      readonly dependencies?: unknown
      readonly peerDependencies: Readonly<Record<string, string>>
      readonly peerDependenciesMeta: Readonly<Record<string, { readonly optional: boolean }>>
    }
    assert.isUndefined(dependencies)
    const optional = Object.keys(peerDependencies).filter((name) => peerDependenciesMeta[name]?.optional === true)
    assert.include(optional, "js-yaml")
    assert.deepStrictEqual(Object.keys(peerDependencies).toSorted(), ["effect", ...optional].toSorted())
    for (const name of optional) assert.isFalse(existsSync(join(consumer, "node_modules", name)), name)
  })

  const evaluate = (code: string) => succeed(consumer, process.execPath, "--input-type=module", "--eval", code)

  it("exports its entries, which load without the optional peers", async () => {
    const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { readonly exports: object }
    const subpaths = Object.keys(ENTRIES).map((entry) => entry.replace("effect-budget", "."))
    assert.deepStrictEqual(Object.keys(exports), [...subpaths, "./package.json", "./internal/*"])
    const code = `for (const [entry, name] of ${JSON.stringify(Object.entries(ENTRIES))})
      console.log(entry, name in (await import(entry)))`
    assert.deepStrictEqual(
      (await evaluate(code)).trimEnd().split("\n"),
      Object.keys(ENTRIES).map((entry) => `${entry} true`)
    )
  })

  it("loads no package but effect, and no quotas, with the root entry", async () => {
    const code = `import { registerHooks } from "node:module"
      const resolved = new Set()
      registerHooks({
        resolve(specifier, context, next) {
          const answer = next(specifier, context)
          if (context.parentURL?.includes("/node_modules/effect-budget/")) resolved.add(specifier.startsWith(".") ? answer.url : specifier)
          return answer
        }
      })
      await import("effect-budget")
      console.log(JSON.stringify([...resolved]))`
    const resolved = JSON.parse(await evaluate(code)) as ReadonlyArray<string>
    const own = resolved.filter((name) => name.startsWith("file:"))
    assert.isAbove(own.length, 10)
    assert.deepStrictEqual(
      own.filter((url) => /\/quota\//.test(url)),
      []
    )
    assert.deepStrictEqual(
      resolved.filter((name) => !name.startsWith("file:") && !/^effect(\/|$)/.test(name)),
      []
    )
  })

  it("says what to install when a manifest is read without js-yaml", async () => {
    const code = `import { Effect } from "effect"
      import * as root from "effect-budget"
      import * as quota from "effect-budget/quota"
      for (const { QuotaManifest } of [root, quota]) {
        const error = await Effect.runPromise(Effect.flip(QuotaManifest.parse("environments: {}")))
        console.log(error._tag, error.message.includes("npm install js-yaml"))
      }`
    assert.strictEqual(await evaluate(code), "ManifestError true\n".repeat(2))
  })

  it("runs the first example of the README where it is installed", async () => {
    const printed = await succeed(consumer, process.execPath, "first.ts")
    assert.strictEqual(
      printed,
      runnable(first)
        .prints.map(({ expected }) => `${expected}\n`)
        .join("")
    )
  })

  for (const [module, moduleResolution] of [
    ["NodeNext", "NodeNext"],
    ["ESNext", "Bundler"]
  ] as const) {
    it(`type-checks there with moduleResolution ${moduleResolution}, libraries included`, async () => {
      const settings = {
        compilerOptions: {
          target: "ES2024",
          lib: ["ES2024", "DOM", "DOM.Iterable", "DOM.AsyncIterable"],
          module,
          moduleResolution,
          strict: true,
          exactOptionalPropertyTypes: true,
          noEmit: true,
          skipLibCheck: false,
          types: []
        },
        files: ["first.ts", "quota.ts"]
      }
      const project = `tsconfig.${moduleResolution}.json`
      writeFileSync(join(consumer, project), JSON.stringify(settings))
      await succeed(consumer, process.execPath, script("typescript", "bin", "tsc"), "-p", project)
    })
  }

  it("keeps its internal modules to itself", async () => {
    const internal = files.filter((path) => path.startsWith("dist/internal/") && path.endsWith(".js"))
    assert.isAtLeast(internal.length, 5)
    const paths = internal.flatMap((path) => [
      path,
      path.slice("dist/".length),
      path.slice("dist/".length, -".js".length)
    ])
    const all = JSON.stringify(paths.map((path) => `effect-budget/${path}`))
    const code = `for (const path of ${all}) await import(path).then(() => console.log(path), (e) => console.log(e.code))`
    assert.deepStrictEqual(
      (await evaluate(code)).trimEnd().split("\n"),
      paths.map(() => "ERR_PACKAGE_PATH_NOT_EXPORTED")
    )
  })
})
