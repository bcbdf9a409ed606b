import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

/** What counts its changes, and calls whoever listens once. */
export interface Source {
  readonly changes: number
  readonly listeners: Set<() => void>
}

/** What `read` answers now and after every change; changes that come together are told once. */
export const told = <A>(source: Source, read: () => Effect.Effect<A>): Stream.Stream<A> =>
  Stream.suspend(() => {
    let last: number | undefined
    const changed = Effect.callback<void>((resume) => {
      if (last !== source.changes) return resume(Effect.void)
      const listener = () => resume(Effect.void)
      source.listeners.add(listener)
      return Effect.sync(() => source.listeners.delete(listener))
    })
    return Stream.fromEffectRepeat(
      Effect.andThen(
        changed,
        Effect.suspend(() => {
          last = source.changes
          return read()
        })
      )
    )
  })
