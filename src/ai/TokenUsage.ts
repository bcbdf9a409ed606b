/**
 * What one call of a model used, by the classes that are priced apart. The classes are disjoint: no token is counted twice,
 * whatever the provider's own convention.
 */

/** Tokens by class, each a whole number from 0 to 2^53 - 1. */
export interface TokenUsage {
  /** Input that was neither read from a cache nor written to one. */
  readonly input: number
  readonly cacheRead: number
  readonly cacheWrite: number
  /** Output that is not reasoning. */
  readonly output: number
  readonly reasoning: number
}
