import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

export default defineConfig({
  resolve: {
    alias: [
      { find: /^effect-budget$/, replacement: fileURLToPath(new URL("./src/index.ts", import.meta.url)) },
      {
        find: /^effect-budget\/(ai|quota|redis|sql)$/,
        replacement: fileURLToPath(new URL("./src/$1/index.ts", import.meta.url))
      }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    // A run of many seeds takes as long as it takes.
    testTimeout: process.env["EFFECT_BUDGET_SEEDS"] === undefined ? 60_000 : 24 * 3_600_000
  }
})
