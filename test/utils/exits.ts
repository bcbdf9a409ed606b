/** What an exit failed with, or a failed assertion. */
import { assert } from "@effect/vitest"
import { Cause, Exit, Option, Result } from "effect"
import { BudgetExceeded, FailedReservation } from "../../src/index.ts"

export const exceededBy = (exit: Exit.Exit<unknown, unknown>): BudgetExceeded => {
  const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined
  if (!(error instanceof BudgetExceeded)) return assert.fail(`expected BudgetExceeded, got ${String(exit)}`)
  return error
}

export const defectOf = (exit: Exit.Exit<unknown, unknown>): Error => {
  const defect = Exit.isFailure(exit) ? Result.getOrElse(Cause.findDefect(exit.cause), () => undefined) : undefined
  if (!(defect instanceof Error)) return assert.fail(`expected a defect, got ${String(exit)}`)
  return defect
}

export const failedBy = (exit: Exit.Exit<unknown, unknown>): FailedReservation => {
  const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined
  if (!(error instanceof FailedReservation)) return assert.fail(`expected FailedReservation, got ${String(exit)}`)
  return error
}
