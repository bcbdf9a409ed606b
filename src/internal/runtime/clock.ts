/** The clock of a fiber, in the whole milliseconds that books use. */
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"

type AnyFiber = Fiber.Fiber<unknown, unknown>

// A look-up in a context costs more than the rest of a step, and consecutive steps mostly have the same context.
let context: Context.Context<never> | undefined
let clock: Clock.Clock | undefined

/** The time of the fiber's clock, in whole milliseconds. */
export const nowOf = (fiber: AnyFiber): number => {
  if (clock === undefined || fiber.context !== context) {
    context = fiber.context
    clock = fiber.getRef(Clock.Clock)
  }
  const millis = clock.currentTimeMillisUnsafe()
  return Number.isSafeInteger(millis) && millis >= -MOST_MILLIS && millis <= MOST_MILLIS ? millis : wholeMillis(millis)
}

/** A time that books can count with, whatever the clock returns. */
export const wholeMillis = (millis: number): number =>
  Number.isNaN(millis) ? 0 : Math.floor(Math.min(Math.max(millis, -MOST_MILLIS), MOST_MILLIS))

/** The greatest time of a `Date`. */
const MOST_MILLIS = 8.64e15

/** The longest that one timer sleeps: a clock that is set, or a machine that slept, is noticed by then. */
const MAX_TIMER_MILLIS = 300_000

/**
 * Runs something after so long, by the clock of the fiber. Returns the sleeping fiber, or `undefined`, without running it, where the
 * clock does not wait.
 */
export const later = (fiber: AnyFiber, millis: number, run: () => void): AnyFiber | undefined => {
  let waits = false
  const sleeper = Effect.runForkWith(fiber.context)(
    Effect.andThen(
      Effect.sleep(Duration.millis(millis)),
      Effect.sync(() => {
        if (waits) run()
      })
    )
  )
  waits = true
  return sleeper.pollUnsafe() === undefined ? sleeper : undefined
}

export const timerMillis = (millis: number): number => Math.min(millis, MAX_TIMER_MILLIS)
