/**
 * Seeded randomness. `EFFECT_BUDGET_SEEDS=<count>` sets how many seeds run, `EFFECT_BUDGET_SEED=<n>` replays one of them.
 */
import * as Effect from "effect/Effect"

/** A small generator of random choices; the same seed makes the same choices. */
export interface Random {
  readonly seed: number
  /** A fraction from 0 (included) to 1 (not included), with 32 random bits. */
  readonly next: () => number
  /** A whole number from `min` to `max`, both included; any two safe integers. */
  readonly int: (min: number, max: number) => number
  /** One of them. Dies when there is none. */
  readonly pick: <A>(items: ReadonlyArray<A>) => A
  /** `true` with this probability. */
  readonly chance: (probability: number) => boolean
  /** The same items in another order. */
  readonly shuffle: <A>(items: ReadonlyArray<A>) => Array<A>
  /** A generator of its own, so that its choices do not move those that follow here. */
  readonly fork: () => Random
}

/** mulberry32. */
export const make = (seed: number): Random => {
  let state = seed | 0
  const bits = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
  const int = (min: number, max: number): number => {
    const count = BigInt(max) - BigInt(min) + 1n
    if (count <= 0n) throw new RangeError(`random: no whole number from ${min} to ${max}`)
    if (count <= 2n ** 32n) return min + Math.floor((bits() / 2 ** 32) * Number(count))
    const wide = (BigInt(bits()) << 32n) | BigInt(bits())
    return Number(BigInt(min) + (wide % count))
  }
  return {
    seed,
    next: () => bits() / 2 ** 32,
    int,
    pick: (items) => {
      if (items.length === 0) throw new RangeError("random: nothing to pick from")
      return items[int(0, items.length - 1)]!
    },
    chance: (probability) => bits() / 2 ** 32 < probability,
    shuffle: (items) => {
      const shuffled = [...items]
      for (let i = shuffled.length - 1; i > 0; i--) {
        const j = int(0, i)
        ;[shuffled[i], shuffled[j]] = [shuffled[j]!, shuffled[i]!]
      }
      return shuffled
    },
    fork: () => make(bits())
  }
}

const fromEnvironment = (name: string): number | undefined => {
  const text = process.env[name]
  if (text === undefined || text === "") return undefined
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${name}=${text} is not a whole number from 0`)
  return value
}

/** What `EFFECT_BUDGET_SEEDS` is measured by: so many seeds the random interleavings run by default. */
const USUAL_SEEDS = 300

/**
 * The seeds to run: from 1 to `defaultCount`, or as much more of them as `EFFECT_BUDGET_SEEDS` is above the usual 300; or the one
 * of `EFFECT_BUDGET_SEED`.
 */
export const seeds = (defaultCount: number): ReadonlyArray<number> => {
  const single = fromEnvironment("EFFECT_BUDGET_SEED")
  if (single !== undefined) return [single]
  const asked = fromEnvironment("EFFECT_BUDGET_SEEDS") ?? USUAL_SEEDS
  const count = Math.max(1, Math.round((defaultCount * asked) / USUAL_SEEDS))
  return Array.from({ length: count }, (_, i) => i + 1)
}

/** A failure of one seed: its message says how to replay it, its cause is what went wrong. */
export class SeedFailure extends Error {
  override readonly name = "SeedFailure"
  constructor(seed: number, cause: unknown) {
    super(
      `seed ${seed} (replay with EFFECT_BUDGET_SEED=${seed}): ${cause instanceof Error ? cause.message : `${cause}`}`,
      {
        cause
      }
    )
    // The place to look at is where it went wrong, not here.
    if (cause instanceof Error && cause.stack !== undefined)
      this.stack = `${this.name}: ${this.message}\n${cause.stack}`
  }
}

/** Runs `body` for each seed (see `seeds`); a failure names the seed. */
export const forSeeds = (count: number, body: (seed: number) => void): void => {
  for (const seed of seeds(count)) {
    try {
      body(seed)
    } catch (cause) {
      throw new SeedFailure(seed, cause)
    }
  }
}

/** The same for effects: a failure or a defect of one seed dies with its `SeedFailure`. */
export const forSeedsEffect = <E, R>(
  count: number,
  body: (seed: number) => Effect.Effect<void, E, R>
): Effect.Effect<void, never, R> =>
  Effect.forEach(
    seeds(count),
    (seed) =>
      Effect.suspend(() => body(seed)).pipe(
        Effect.catch((error) => Effect.die(new SeedFailure(seed, error))),
        Effect.catchDefect((defect) =>
          Effect.die(defect instanceof SeedFailure ? defect : new SeedFailure(seed, defect))
        )
      ),
    { discard: true }
  )
