import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { countLabels, IGNORE_INDEX, type LabelledSequence } from '../../lib/data/instances.js'
import { batchTotals, type LossReduction, packBatch, packSequences, spreadBatch } from '../../lib/data/packing.js'
import { readInstances } from '../support/fixtures.js'

const sum = (values: Iterable<number>): number => [...values].reduce((total, value) => total + value, 0)

/** Sequences of 1 to 40 tokens, with at least one label if there are two tokens. */
const sequence: fc.Arbitrary<LabelledSequence> = fc
  .array(fc.record({ id: fc.integer({ min: 0, max: 511 }), learned: fc.boolean() }), { minLength: 2, maxLength: 40 })
  .map((tokens) => ({
    inputIds: Int32Array.from(tokens, ({ id }) => id),
    labels: Int32Array.from(tokens, ({ id, learned }, t) => (learned || t === tokens.length - 1 ? id : IGNORE_INDEX)),
  }))

const reductions = fc.constantFrom<LossReduction>('instance', 'token')

describe('a global batch spread over ranks', () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 80 })
  const ranks = fc.integer({ min: 2, max: 9 })

  it('spreads every sequence once over ranks, with equal numbers of micro-batches, none of them too long', () => {
    fc.assert(
      fc.property(lengths, fc.integer({ min: 100, max: 400 }), ranks, (lengths, maxTokens, ranks) => {
        const spread = spreadBatch(lengths, maxTokens, ranks)
        expect(spread).toHaveLength(ranks)
        expect(spread.flat(2).sort((a, b) => a - b)).toEqual(lengths.map((_, index) => index))
        expect(new Set(spread.map(({ length }) => length)).size).toBe(1)
        for (const bin of spread.flat()) {
          expect(sum(bin.map((index) => lengths[index]))).toBeLessThanOrEqual(maxTokens)
        }
        expect(spreadBatch(lengths, maxTokens, ranks)).toEqual(spread)
      }),
      { seed: 1 },
    )
  })

  it('balances tokens over ranks: they differ by at most the longest sequence of each micro-batch', () => {
    fc.assert(
      fc.property(lengths, ranks, (lengths, ranks) => {
        const spread = spreadBatch(lengths, 400, ranks)
        const tokens = spread.map((bins) => sum(bins.flat().map((index) => lengths[index])))
        expect(Math.max(...tokens) - Math.min(...tokens)).toBeLessThanOrEqual(spread[0].length * Math.max(...lengths))
      }),
      { seed: 2 },
    )
  })

  it('packs a global batch on one rank as without ranks', () => {
    fc.assert(
      fc.property(lengths, (lengths) => {
        expect(spreadBatch(lengths, 200, 1)).toEqual([packBatch(lengths, 200)])
      }),
      { seed: 3 },
    )
  })

  it('rejects a sequence that is too long for the micro-batches of a rank', () => {
    expect(() => spreadBatch([5, 11], 10, 2)).toThrow(/sequence 1 has 11 tokens/)
  })
})

describe('micro-batches', () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 80 })

  it('micro-batches contain every sequence exactly once within the token limit', () => {
    fc.assert(
      fc.property(lengths, fc.integer({ min: 100, max: 400 }), (lengths, maxTokens) => {
        const bins = packBatch(lengths, maxTokens)
        expect(bins.flat().sort((a, b) => a - b)).toEqual(lengths.map((_, index) => index))
        for (const bin of bins) {
          expect(bin.length).toBeGreaterThan(0)
          expect(sum(bin.map((index) => lengths[index]))).toBeLessThanOrEqual(maxTokens)
          expect(bin).toEqual([...bin].sort((a, b) => a - b))
        }
        expect(packBatch(lengths, maxTokens)).toEqual(bins)
      }),
      { seed: 1 },
    )
  })

  it('the number of micro-batches is within the proven bound of the optimum', () => {
    /** The minimum number of bins, by exhaustive search: each item in each existing bin, or in a new one. */
    const fewest = (lengths: number[], maxTokens: number, bins: number[] = []): number => {
      const [length, ...rest] = lengths
      if (length === undefined) return bins.length
      const ways = bins.flatMap((filled, b) =>
        filled + length <= maxTokens
          ? [
              fewest(
                rest,
                maxTokens,
                bins.map((bin, i) => (i === b ? bin + length : bin)),
              ),
            ]
          : [],
      )
      return Math.min(...ways, fewest(rest, maxTokens, [...bins, length]))
    }
    const few = fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 7 })
    fc.assert(
      fc.property(few, (lengths) => {
        const best = fewest(lengths, 100)
        const got = packBatch(lengths, 100).length
        // 11/9 · best + 6/9 (Dósa 2007)
        expect(got).toBeLessThanOrEqual(Math.floor((11 * best + 6) / 9))
      }),
      { seed: 2 },
    )
    expect(packBatch([6, 5, 4, 3, 2], 10)).toEqual([
      [0, 2],
      [1, 3, 4],
    ])
  })

  it('micro-batches reject a sequence that fits into none', () => {
    expect(() => packBatch([3, 11], 10)).toThrow(
      new RangeError('sequence 1 has 11 tokens, more than the 10 of a micro-batch'),
    )
    expect(packBatch([], 10)).toEqual([])
  })
})

describe('a packed batch', () => {
  it('a packed batch concatenates sequences with shifted labels', () => {
    const sequences = [
      { inputIds: Int32Array.of(1, 10, 11, 2), labels: Int32Array.of(1, -100, 11, 2) },
      { inputIds: Int32Array.of(1, 20, 2), labels: Int32Array.of(1, -100, 2) },
    ]
    const packed = packSequences(sequences, { lossReduction: 'instance', totals: { instances: 4, labels: 12 } })
    expect([...packed.inputIds]).toEqual([1, 10, 11, 2, 1, 20, 2])
    expect([...packed.positions]).toEqual([0, 1, 2, 3, 0, 1, 2])
    expect([...packed.cuSeqlens]).toEqual([0, 4, 7])
    expect([...packed.labels]).toEqual([-1, 11, 2, -1, -1, 2, -1])
    expect([...packed.weights]).toEqual([0, 1 / 8, 1 / 8, 0, 0, 1 / 4, 0])
    const byToken = packSequences(sequences, { lossReduction: 'token', totals: { instances: 4, labels: 16 } })
    expect([...byToken.weights]).toEqual([0, 1 / 16, 1 / 16, 0, 0, 1 / 16, 0])
  })

  it('a packed batch is padded with a separate sequence without labels', () => {
    const inputIds = Int32Array.of(1, 10, 2)
    const options = { lossReduction: 'token', totals: { instances: 1, labels: 2 }, padToMultiple: 8 } as const
    const packed = packSequences([{ inputIds, labels: inputIds }], options)
    expect([...packed.inputIds]).toEqual([1, 10, 2, 0, 0, 0, 0, 0])
    expect([...packed.positions]).toEqual([0, 1, 2, 0, 1, 2, 3, 4])
    expect([...packed.cuSeqlens]).toEqual([0, 3, 8])
    expect([...packed.labels]).toEqual([10, 2, -1, -1, -1, -1, -1, -1])
    expect([...packed.weights]).toEqual([0.5, 0.5, 0, 0, 0, 0, 0, 0])
    const full = { inputIds: new Int32Array(8), labels: new Int32Array(8) }
    expect([...packSequences([full], options).cuSeqlens]).toEqual([0, 8])
  })

  it('a packed batch keeps every token, label, and position of its sequences, for any padding', () => {
    fc.assert(
      fc.property(
        fc.array(sequence, { minLength: 1, maxLength: 8 }),
        reductions,
        fc.constantFrom(1, 7, 64),
        (...drawn) => {
          const [sequences, lossReduction, padToMultiple] = drawn
          const packed = packSequences(sequences, { lossReduction, totals: batchTotals(sequences), padToMultiple })
          const size = packed.inputIds.length
          expect(size % padToMultiple).toBe(0)
          for (const array of [packed.positions, packed.labels, packed.weights]) expect(array).toHaveLength(size)
          expect(packed.cuSeqlens.at(-1)).toBe(size)
          for (const [s, { inputIds, labels }] of sequences.entries()) {
            const [start, end] = packed.cuSeqlens.subarray(s, s + 2)
            expect(packed.inputIds.slice(start, end)).toEqual(inputIds)
            expect([...packed.positions.slice(start, end)]).toEqual([...inputIds.keys()])
            const expected = [...labels.slice(1)].map((label) => (label === IGNORE_INDEX ? -1 : label))
            expect([...packed.labels.slice(start, end)]).toEqual([...expected, -1])
          }
          for (const [t, label] of packed.labels.entries()) expect(packed.weights[t] > 0).toBe(label >= 0)
        },
      ),
      { seed: 3 },
    )
  })

  it('weights are those of the global batch, for any split into micro-batches', () => {
    fc.assert(
      fc.property(
        fc.array(sequence, { minLength: 1, maxLength: 20 }),
        reductions,
        fc.integer({ min: 40, max: 300 }),
        (sequences, lossReduction, maxTokens) => {
          const totals = batchTotals(sequences)
          const weightOf = (indices: number[]): Map<number, number> => {
            const packed = packSequences(
              indices.map((index) => sequences[index]),
              { lossReduction, totals, padToMultiple: 16 },
            )
            return new Map(
              indices.map((index, s) => [index, sum(packed.weights.slice(...packed.cuSeqlens.slice(s, s + 2)))]),
            )
          }
          const bins = packBatch(
            sequences.map(({ inputIds }) => inputIds.length),
            maxTokens,
          )
          const packed = new Map(bins.flatMap((bin) => [...weightOf(bin)]))
          expect(sum(packed.values())).toBeCloseTo(1, 5)
          for (const [index, sequence] of sequences.entries()) {
            expect(packed.get(index)).toBe(weightOf([index]).get(index)) // one instance at a time
            const share = lossReduction === 'instance' ? 1 / totals.instances : countLabels(sequence) / totals.labels
            expect(packed.get(index)).toBeCloseTo(share, 5)
          }
        },
      ),
      { seed: 4 },
    )
  })

  it('computes the loss of a step from losses per label like PyTorch', () => {
    // The losses per label are arbitrary; the mean over instances of the mean over labels is computed as in make.py.
    const sequences = readInstances().slice(2, 6)
    const lossAt = (label: number): number => Math.sin(label) ** 2
    const means = sequences.map(({ labels }) => {
      const losses = [...labels.slice(1)].filter((label) => label !== IGNORE_INDEX).map(lossAt)
      return sum(losses) / losses.length
    })
    const packed = packSequences(sequences, { lossReduction: 'instance', totals: batchTotals(sequences) })
    const loss = sum([...packed.labels].map((label, t) => (label < 0 ? 0 : packed.weights[t] * lossAt(label))))
    expect(loss).toBeCloseTo(sum(means) / means.length, 6)
  })
})
