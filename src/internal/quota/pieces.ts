/**
 * Cuts a large value into pieces, and joins them again. A thread that receives a large value in one message is blocked while the
 * message is copied; pieces can be received one batch at a time.
 */

/** One entry of a container. Containers are numbered in the order in which they are opened; 0 holds the whole value. */
export type Piece = { readonly into: number; readonly key: string } & (
  | { readonly value: unknown }
  /** An empty container, whose entries follow as pieces. */
  | { readonly opens: object }
  /** The number of a container that was opened before: with aliases, a text of a few lines can name a value a billion times. */
  | { readonly repeats: number }
)

/** The greatest number of values in a piece. */
const SMALL = 64

/** The number of pieces that are sent together: a few milliseconds of work for the receiver. */
const BATCH = 256

const isContainer = (value: unknown): value is object => typeof value === "object" && value !== null

/** The rest of `room` after the value took its part of it; below 0 if the value is too large. */
const roomAfter = (value: unknown, room: number): number => {
  let left = room - 1
  if (!isContainer(value)) return left
  for (const entry of Object.values(value)) {
    if (left < 0) break
    left = roomAfter(entry, left)
  }
  return left
}

function* piecesOf(root: unknown): Generator<Piece> {
  const numbers = new Map<object, number>()
  function* visit(into: number, key: string, value: unknown): Generator<Piece> {
    const known = isContainer(value) ? numbers.get(value) : undefined
    if (known !== undefined) yield { into, key, repeats: known }
    else if (!isContainer(value) || roomAfter(value, SMALL) >= 0) yield { into, key, value }
    else {
      const number = numbers.size + 1
      numbers.set(value, number)
      yield { into, key, opens: Array.isArray(value) ? [] : {} }
      for (const [name, entry] of Object.entries(value)) yield* visit(number, name, entry)
    }
  }
  yield* visit(0, "root", root)
}

/** The pieces of a value, in batches of a size that can be received without a noticeable pause. */
export function* cut(value: unknown): Generator<ReadonlyArray<Piece>> {
  let batch: Array<Piece> = []
  for (const piece of piecesOf(value)) {
    batch.push(piece)
    if (batch.length < BATCH) continue
    yield batch
    batch = []
  }
  yield batch
}

/** Sets an own property, also one called `__proto__`. */
export const put = (self: object, key: string, value: unknown): void => {
  Object.defineProperty(self, key, { value, configurable: true, enumerable: true, writable: true })
}

/**
 * Joins the batches of `cut`, which must be added in their order. Remembers the keys of large mappings: `Object.keys` of 100,000
 * keys takes 30 ms.
 */
export const join = () => {
  const holder: { readonly root?: unknown } = {}
  const containers: Array<object> = [holder]
  const keys = new Map<object, Array<string>>()
  return {
    add: (batch: ReadonlyArray<Piece>): void => {
      for (const piece of batch) {
        if ("opens" in piece) {
          containers.push(piece.opens)
          keys.set(piece.opens, [])
        }
        const value = "opens" in piece ? piece.opens : "repeats" in piece ? containers[piece.repeats] : piece.value
        const into = containers[piece.into] ?? holder
        put(into, piece.key, value)
        keys.get(into)?.push(piece.key)
      }
    },
    end: () => ({
      value: holder.root,
      keysOf: (mapping: object): ReadonlyArray<string> => keys.get(mapping) ?? Object.keys(mapping)
    })
  }
}
