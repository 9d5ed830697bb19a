/** Property tests of ops: fast-check generates shapes and a seed, and the seed generates the data. */
import fc from 'fast-check'
import { Random } from './numbers.js'

type Arbitraries<Case> = { [Key in keyof Case]: fc.Arbitrary<Case[Key]> }

/** Checks `property` for `runs` cases, the same ones on every test run. A failure is shrunk to a small case. */
export async function forAll<Case extends object>(
  arbitraries: Arbitraries<Case>,
  property: (example: Case & { random: Random }) => Promise<void> | void,
  runs = 20,
): Promise<void> {
  const cases = fc.tuple(fc.record(arbitraries) as fc.Arbitrary<Case>, fc.noShrink(fc.nat()))
  const check = fc.asyncProperty(cases, async ([example, seed]) => {
    await property({ ...example, random: new Random(seed) })
  })
  await fc.assert(check, { seed: 20261123, numRuns: runs })
}

/**
 * Computes a reference once for all devices. The cases of a property are the same on each, so a case's key identifies
 * the result.
 */
export function oncePerCase<Result>(): (key: unknown, compute: () => Result) => Result {
  const results = new Map<string, Result>()
  return (key, compute) => {
    const name = JSON.stringify(key)
    const known = results.get(name) ?? compute()
    results.set(name, known)
    return known
  }
}

/** Numbers of tokens: often one or a few, sometimes more than any block of a kernel. */
export const tokenCounts = fc.oneof(
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 3 }) },
  { weight: 4, arbitrary: fc.integer({ min: 4, max: 40 }) },
  { weight: 1, arbitrary: fc.integer({ min: 41, max: 140 }) },
)

/** Widths: below, at, and next to multiples of any vector's length. */
export const widths = fc.constantFrom(1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 100, 127, 200)

/** Head sizes, including OpenLLaMA-3B's 100. */
export const headSizes = fc.constantFrom(4, 8, 12, 64, 80, 100, 128)

/** Numbers of query and of key/value heads. */
export const headCounts = fc.constantFrom<[number, number]>([1, 1], [2, 1], [3, 3], [4, 2], [6, 2], [4, 1])
