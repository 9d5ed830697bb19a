import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { batchesFrom, epochOrder, splitValidation, totalSteps } from '../../lib/data/order.js'
import { Philox, philox4x32 } from '../../lib/data/random.js'
import { DataError } from '../../lib/errors.js'

const sorted = (values: Iterable<number>): number[] => [...values].sort((a, b) => a - b)
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

describe('Philox', () => {
  it('Philox matches the known answers of its authors', () => {
    // kat_vectors of Random123, philox4x32 10
    expect(philox4x32([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
    const ones = 0xffffffff
    expect(philox4x32([ones, ones, ones, ones], [ones, ones])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd])
    expect(philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ])
  })

  it('Philox draws uniformly below a bound', () => {
    const random = new Philox(7, 0)
    const counts = new Array<number>(6).fill(0)
    for (let i = 0; i < 60_000; i++) counts[random.below(6)]++
    // chi-squared with five degrees of freedom is below 20.5 in 99.9 % of cases
    expect(counts.reduce((sum, count) => sum + (count - 10_000) ** 2 / 10_000, 0)).toBeLessThan(20.5)
  })

  it('Philox rejects a seed that is not uniquely representable', () => {
    for (const seed of [-1, 0.5, 2 ** 53, Number.NaN]) expect(() => new Philox(seed, 0)).toThrow(/seed must be/)
  })
})

describe('the order of an epoch', () => {
  it("an epoch's order is a permutation, the same every time, and different for another seed or epoch", () => {
    fc.assert(
      fc.property(fc.nat(300), fc.maxSafeNat(), fc.nat(1000), (count, seed, epoch) => {
        const order = epochOrder(count, seed, epoch)
        expect(sorted(order)).toEqual(range(count))
        expect(epochOrder(count, seed, epoch)).toEqual(order)
        if (count < 30) return // small ones may agree by chance
        expect(epochOrder(count, seed, epoch + 1)).not.toEqual(order)
        expect(epochOrder(count, seed % 2 === 0 ? seed + 1 : seed - 1, epoch)).not.toEqual(order)
        expect(epochOrder(count, (seed + 2 ** 32) % Number.MAX_SAFE_INTEGER, epoch)).not.toEqual(order)
      }),
      { seed: 1 },
    )
  })

  it("an epoch's order is the same as in earlier versions, so that old checkpoints resume", () => {
    expect([...epochOrder(12, 0, 0)]).toEqual([0, 6, 7, 11, 9, 3, 2, 4, 5, 10, 8, 1])
    expect([...epochOrder(12, 42, 3)]).toEqual([2, 5, 9, 7, 3, 10, 11, 8, 4, 1, 0, 6])
  })

  it("an epoch's order puts every instance at every position equally often", () => {
    const hits = new Float64Array(25)
    for (let epoch = 0; epoch < 20_000; epoch++) {
      for (const [place, index] of epochOrder(5, 3, epoch).entries()) hits[place * 5 + index]++
    }
    // 25 cells of a doubly stochastic table: sixteen degrees of freedom, below 39.3 in 99.9 % of cases
    expect(hits.reduce((sum, count) => sum + (count - 4000) ** 2 / 4000, 0)).toBeLessThan(39.3)
  })
})

describe('batches', () => {
  const plans = fc.record({
    count: fc.integer({ min: 1, max: 60 }),
    batchSize: fc.integer({ min: 1, max: 70 }),
    epochs: fc.oneof(fc.integer({ min: 1, max: 5 }), fc.constantFrom(0.5, 1.25, 2.75)),
    seed: fc.nat(),
  })

  it('batches are the shuffled epochs in sequence, split into the steps of the schedule', () => {
    fc.assert(
      fc.property(plans, (plan) => {
        const batches = [...batchesFrom(0, plan)]
        const { count, batchSize, epochs, seed } = plan
        expect(batches).toHaveLength(Math.floor((epochs * count) / batchSize))
        expect(batches.map(({ step }) => step)).toEqual(range(batches.length))
        const seen = batches.flatMap(({ indices }) => [...indices])
        const all = range(Math.ceil(epochs)).flatMap((epoch) => [...epochOrder(count, seed, epoch)])
        expect(seen).toEqual(all.slice(0, batches.length * batchSize))
      }),
      { seed: 2 },
    )
  })

  it('batches continue from any step as if uninterrupted', () => {
    fc.assert(
      fc.property(plans, fc.nat(100), (plan, step) => {
        expect([...batchesFrom(step, plan)]).toEqual([...batchesFrom(0, plan)].slice(step))
      }),
      { seed: 3 },
    )
  })

  it('the number of batches matches the steps of the real job', () => {
    expect(totalSteps({ count: 15_001, batchSize: 64, epochs: 3, seed: 0 })).toBe(703)
    const last = [...batchesFrom(702, { count: 15_001, batchSize: 64, epochs: 3, seed: 0 })].at(-1)!
    expect(last.step).toBe(702)
    expect(last.epoch).toBeCloseTo((703 * 64) / 15_001, 12)
  })

  it('a data set that is too small gives no batches, and an empty one is rejected', () => {
    expect([...batchesFrom(0, { count: 3, batchSize: 4, epochs: 1, seed: 0 })]).toEqual([])
    expect(() => batchesFrom(0, { count: 0, batchSize: 4, epochs: 1, seed: 0 }).next()).toThrow(/count must be/)
    expect(() => batchesFrom(0, { count: 3, batchSize: 0, epochs: 1, seed: 0 }).next()).toThrow(/batchSize must be/)
  })
})

describe('the validation split', () => {
  it('the validation split is disjoint, and the same for the same seed', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 200 }), fc.nat(), fc.nat(1000), (count, seed, size) => {
        const wanted = size % count
        const { train, validation } = splitValidation(count, wanted, seed)
        expect(validation).toHaveLength(wanted)
        expect(sorted([...train, ...validation])).toEqual(range(count))
        expect([...train]).toEqual(sorted(train))
        expect([...validation]).toEqual(sorted(validation))
        expect(splitValidation(count, wanted, seed)).toEqual({ train, validation })
      }),
      { seed: 4 },
    )
    expect(splitValidation(100, 10, 0)).not.toEqual(splitValidation(100, 10, 1))
  })

  it('the validation split accepts a fraction, and then holds out at least one instance', () => {
    expect(splitValidation(1000, 0.05, 0).validation).toHaveLength(50)
    expect(splitValidation(10, 0.01, 0).validation).toHaveLength(1)
    expect(splitValidation(10, 0, 0).validation).toHaveLength(0)
  })

  it('the validation split rejects invalid sizes, and sizes that leave nothing to train on', () => {
    for (const size of [-1, 1.5, Number.NaN])
      expect(() => splitValidation(10, size, 0)).toThrow(/validation_size must be/)
    for (const size of [10, 11, 0.99]) expect(() => splitValidation(10, size, 0)).toThrow(DataError)
  })
})
