/** Counters of changes, and streams over them. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { oweAll } from "./wakeUps.ts"

/** A counter of changes with one-shot listeners. */
export interface ChangeSource {
  changes: number
  /** Made for the first listener. */
  listeners: Set<() => void> | undefined
}

/** Counts a change, and owes the listeners a wake-up. */
export const changed = (source: ChangeSource): void => {
  source.changes++
  if (source.listeners !== undefined && source.listeners.size > 0) oweAll(source.listeners)
}

/** Emits the result of `read` now and after every change of a source. Changes that come together are emitted once. */
export const changesOf = <A>(sources: ReadonlyArray<ChangeSource>, read: Effect.Effect<A>): Stream.Stream<A> =>
  Stream.suspend(() => {
    let last: number | undefined
    const count = (): number => sources.reduce((sum, { changes }) => sum + changes, 0)
    const next = Effect.callback<void>((resume) => {
      if (last !== count()) return resume(Effect.void)
      const leave = () => {
        for (const { listeners } of sources) listeners?.delete(listener)
      }
      const listener = () => {
        leave()
        resume(Effect.void)
      }
      for (const source of sources) (source.listeners ??= new Set()).add(listener)
      return Effect.sync(leave)
    })
    return Stream.fromEffectRepeat(
      Effect.andThen(
        next,
        Effect.suspend(() => {
          last = count()
          return read
        })
      )
    )
  })
