import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

/** What counts its changes, and calls whoever listens once. */
export interface Source {
  readonly changes: number
  readonly listeners: Set<() => void>
}

/**
 * What `read` answers now and after every change of a source; changes that come together are told once. Sources may be added,
 * after a change of another, and none may go.
 */
export const told = <A>(sources: () => Iterable<Source>, read: () => Effect.Effect<A>): Stream.Stream<A> =>
  Stream.suspend(() => {
    let last: number | undefined
    const count = (): number => {
      let changes = 0
      for (const source of sources()) changes += source.changes
      return changes
    }
    const changed = Effect.callback<void>((resume) => {
      if (last !== count()) return resume(Effect.void)
      const listenedTo = [...sources()]
      const leave = () => {
        for (const { listeners } of listenedTo) listeners.delete(listener)
      }
      const listener = () => {
        leave()
        resume(Effect.void)
      }
      for (const { listeners } of listenedTo) listeners.add(listener)
      return Effect.sync(leave)
    })
    return Stream.fromEffectRepeat(
      Effect.andThen(
        changed,
        Effect.suspend(() => {
          last = count()
          return read()
        })
      )
    )
  })
