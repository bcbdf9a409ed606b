import { assert, describe, it } from "@effect/vitest"
import { Usd } from "../src/index.ts"
import { forSeeds, make as makeRandom } from "./utils/random.ts"

const MAX = Number.MAX_SAFE_INTEGER

describe("Usd.dollars", () => {
  const table: ReadonlyArray<readonly [amount: string | number, nanos: number]> = [
    ["0", 0],
    ["0.00", 0],
    [0, 0],
    [-0, 0],
    ["1", 1_000_000_000],
    [1, 1_000_000_000],
    [5, 5_000_000_000],
    ["0.10", 100_000_000],
    [0.1, 100_000_000],
    [0.2, 200_000_000],
    [0.3, 300_000_000],
    [0.7, 700_000_000],
    ["0.000000001", 1],
    [0.000000001, 1],
    [1e-9, 1],
    [1.5e-8, 15],
    [1e-7, 100],
    [1.23e-7, 123],
    [9.99e-7, 999],
    [1e-6, 1_000],
    [0.000001001, 1_001],
    ["1.123456789", 1_123_456_789],
    [1.123456789, 1_123_456_789],
    ["1.10000000000000000000", 1_100_000_000],
    ["007.50", 7_500_000_000],
    [4.35, 4_350_000_000],
    [1.005, 1_005_000_000],
    [8.2, 8_200_000_000],
    [64.1, 64_100_000_000],
    ["9007199.254740991", MAX],
    // the double next to it, by its shortest form: a string says it exactly
    [9007199.254740991, MAX - 1],
    [8388607.999999999, 8_388_607_999_999_999],
    ["9007199.254740990", MAX - 1]
  ]
  for (const [amount, nanos] of table) {
    it(`${typeof amount} ${amount} is ${nanos} nano-dollars`, () => assert.strictEqual(Usd.dollars(amount), nanos))
  }

  const refused: ReadonlyArray<readonly [amount: string | number, message: RegExp]> = [
    ...(
      ["", " ", "-1", "+1", "1 ", " 1", ".5", "1.", "1e3", "1,5", "1_000", "0x10", "$1", "NaN", "1.2.3"] as const
    ).map((amount) => [amount, /^Usd: .* is not a decimal of at most nine places, 0 or above$/] as const),
    ["0.0000000001", /0\.0000000001 is not a decimal/],
    ["1.1234567891", /1\.1234567891 is not a decimal/],
    ["١", /is not a decimal/],
    [-0.1, /-0\.1 is not a decimal/],
    [-1e-9, /-1e-9 is not a decimal/],
    [NaN, /NaN is not a decimal/],
    [Infinity, /Infinity is not a decimal/],
    [-Infinity, /-Infinity is not a decimal/],
    [1e-10, /1e-10 is not a decimal/],
    [1.5e-9, /is not a decimal/],
    [1.2345e-7, /is not a decimal/],
    [0.1 + 0.2, /0\.30000000000000004 is not a decimal/],
    ["9007199.254740992", /9007199254740992 nano-dollars is not a whole number from 0 to 2\^53 - 1/],
    ["9007199.254740993", /nano-dollars is not a whole number from 0 to 2\^53 - 1/],
    [9007200, /9007200000000000 nano-dollars is not a whole number from 0 to 2\^53 - 1/],
    ["1000000000000000000000000000000", /nano-dollars is not a whole number from 0 to 2\^53 - 1/],
    [1e21, /1e\+21/]
  ]
  for (const [amount, message] of refused) {
    it(`refuses ${typeof amount} ${JSON.stringify(amount)} (${amount})`, () => {
      const error = thrown(() => Usd.dollars(amount))
      assert.instanceOf(error, RangeError)
      assert.match(error.message, message)
    })
  }

  it("reads back what format writes", () =>
    forSeeds(5_000, (seed) => {
      const random = makeRandom(seed)
      const nanos = random.int(0, random.pick([20, 1_000_000_000, 2 ** 40, MAX]))
      const text = Usd.format(nanos).slice(1)
      assert.strictEqual(Usd.dollars(text), nanos)
      // Below 2^23 dollars, doubles are closer together than nano-dollars.
      if (nanos < 8_000_000_000_000_000) assert.strictEqual(Usd.dollars(Number(text)), nanos)
    }))
})

describe("Usd.nanos", () => {
  it("takes whole numbers up to 2^53 - 1", () => {
    for (const amount of [0, 1, MAX]) assert.strictEqual(Usd.nanos(amount), amount)
  })
  for (const amount of [-1, 1.5, NaN, 2 ** 53, Infinity, -Infinity]) {
    it(`refuses ${amount}`, () => {
      const error = thrown(() => Usd.nanos(amount))
      assert.instanceOf(error, RangeError)
      assert.strictEqual(error.message, `Usd: ${amount} nano-dollars is not a whole number from 0 to 2^53 - 1`)
    })
  }
})

describe("Usd.sum", () => {
  it("of nothing is nothing", () => assert.strictEqual(Usd.sum([]), 0))

  it("a million times ten cents is a hundred thousand dollars", () => {
    const cents = Array.from({ length: 1_000_000 }, () => Usd.dollars("0.1"))
    assert.strictEqual(Usd.sum(cents), Usd.dollars(100_000))
    assert.strictEqual(Usd.format(Usd.sum(cents)), "$100000.00")
    const floats = cents.reduce((sum) => sum + 0.1, 0)
    assert.notStrictEqual(floats, 100_000, "with floats there is a drift to see")
  })

  it("takes any iterable, up to the greatest amount", () => {
    assert.strictEqual(Usd.sum(new Set([Usd.nanos(MAX - 1), Usd.nanos(1)])), MAX)
  })

  it("refuses what is too large, whatever comes after", () => {
    for (const more of [1, 2, 3, MAX]) {
      assert.throws(() => Usd.sum([Usd.nanos(MAX), Usd.nanos(more)]), RangeError, "2^53 - 1")
    }
  })
})

describe("Usd.cost", () => {
  const table: ReadonlyArray<readonly [count: number, perMillion: string, nanos: number]> = [
    [0, "3", 0],
    [1, "0", 0],
    [1, "3", 3_000],
    [1_000_000, "3", 3_000_000_000],
    [1_234, "0.15", 185_100],
    // rounded up to a whole nano-dollar
    [1, "0.0001", 1],
    [1, "0.001", 1],
    [1, "0.001000001", 2],
    [1, "0.000000001", 1],
    [999_999, "0.000000001", 1],
    [1_000_000, "0.000000001", 1],
    [1_000_001, "0.000000001", 2],
    [7, "0.075", 525],
    [3, "0.0753335", 227],
    // beyond 2^53 on the way, and exact
    [MAX, "0.001", MAX],
    [1_000_000, "9007199.254740991", MAX],
    [123_456_789_012, "60", 7_407_407_340_720_000],
    [999_999_999_999, "8.999999999", 8_999_999_998_991_001]
  ]
  for (const [count, perMillion, nanos] of table) {
    it(`${count} at ${perMillion} USD a million`, () =>
      assert.strictEqual(Usd.cost(count, Usd.dollars(perMillion)), nanos))
  }

  it("is never below the exact price, and less than a nano-dollar above it", () =>
    forSeeds(5_000, (seed) => {
      const random = makeRandom(seed)
      const count = random.int(0, random.pick([1_000, 10_000_000, 2 ** 40]))
      const price = random.int(0, random.pick([1_000, 1_000_000, 8_000_000_000]))
      const cost = Usd.cost(count, Usd.nanos(price))
      const exact = BigInt(count) * BigInt(price)
      assert.isTrue(BigInt(cost) * 1_000_000n >= exact)
      assert.isTrue(BigInt(cost) * 1_000_000n < exact + 1_000_000n)
    }))

  it("refuses a count that is none, and a cost that is too large", () => {
    for (const count of [-1, 1.5, NaN, 2 ** 53, Infinity]) {
      const error = thrown(() => Usd.cost(count, Usd.dollars(1)))
      assert.instanceOf(error, RangeError)
      assert.strictEqual(error.message, `Usd: a count of ${count} is not a whole number from 0 to 2^53 - 1`)
    }
    assert.throws(() => Usd.cost(MAX, Usd.dollars(1)), RangeError, "2^53 - 1")
    assert.throws(() => Usd.cost(1_000_001, Usd.nanos(MAX)), RangeError, "2^53 - 1")
  })
})

describe("Usd.format", () => {
  const table: ReadonlyArray<readonly [nanos: number, text: string]> = [
    [0, "$0.00"],
    [1, "$0.000000001"],
    [10, "$0.00000001"],
    [1_000_000, "$0.001"],
    [10_000_000, "$0.01"],
    [100_000_000, "$0.10"],
    [120_000_000, "$0.12"],
    [123_000_000, "$0.123"],
    [999_999_999, "$0.999999999"],
    [1_000_000_000, "$1.00"],
    [1_000_000_001, "$1.000000001"],
    [12_345_678_900_000, "$12345.6789"],
    [MAX, "$9007199.254740991"],
    [-1, "-$0.000000001"],
    [-1_500_000_000, "-$1.50"],
    [-MAX, "-$9007199.254740991"],
    [-0, "$0.00"]
  ]
  for (const [nanos, text] of table) it(text, () => assert.strictEqual(Usd.format(nanos), text))
})

const thrown = (f: () => unknown): Error => {
  try {
    f()
  } catch (error) {
    if (error instanceof Error) return error
  }
  return assert.fail("nothing was thrown")
}
