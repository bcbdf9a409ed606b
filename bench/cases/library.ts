/** Parts of the library whose import path may change. The benchmark imports them from here. */
import { MemoryBudgetStore } from "effect-budget"

export { Quota } from "effect-budget/quota"

/** Keeps the books in memory. */
export const memoryLayer = MemoryBudgetStore.layer
