import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { expectClose, expectSameBits, roundoff } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { dot, finiteDifferences } from '../support/finite-differences.js'
import { encode, type FloatDType, floatDTypes, Random } from '../support/numbers.js'
import { references } from '../support/op-fixtures.js'
import { forAll } from '../support/properties.js'
import { crossEntropy } from '../support/references.js'
import { resultOf, tensorOf, valuesOf, viewOf } from '../support/tensors.js'

const shapes = { tokens: fc.integer({ min: 1, max: 12 }), vocabulary: fc.constantFrom(1, 2, 7, 100, 511, 1003, 5000) }

describe('the float64 reference of cross_entropy', () => {
  it('the float64 reference of cross_entropy matches finite differences', () => {
    const random = new Random(9)
    const [labels, weights] = [
      [2, -100, 0],
      [0.5, 1, 2],
    ]
    const logits = random.normals('float32', 3 * 5)
    const differences = finiteDifferences((at) => dot(weights, crossEntropy(at, labels, weights, 5).losses), logits)
    expectClose(differences, crossEntropy(logits, labels, weights, 5).gradient, { ofLargest: 1e-8 })
  })
})

describe.each(devices)('cross_entropy on $name', ({ device }) => {
  const stream = device.stream

  function run(
    dtype: FloatDType,
    logits: ArrayLike<number>,
    labels: ArrayLike<number>,
    weights: ArrayLike<number>,
    writeGradient = true,
  ) {
    const tokens = labels.length
    const args = {
      logits: tensorOf(device, dtype, [tokens, logits.length / tokens], logits),
      losses: resultOf(device, 'float32', [tokens]),
      correct: resultOf(device, 'int32', [tokens]),
      labels: tensorOf(device, 'int32', [tokens], labels),
      weights: tensorOf(device, 'float32', [tokens], weights),
      writeGradient,
    }
    ops.crossEntropy(stream, args)
    return args
  }

  it.each(floatDTypes)('crossEntropy computes losses, hits, and weighted gradients of logits in %s', async (dtype) => {
    await forAll(shapes, async ({ tokens, vocabulary, random }) => {
      const logits = random.normals(dtype, tokens * vocabulary, 3)
      const labels = random.integers(tokens, vocabulary).map((label) => (random.below(4) ? label : -100))
      const weights = Array.from(labels, () => Math.fround(random.uniform()))
      const actual = run(dtype, logits, labels, weights)
      const expected = crossEntropy(logits, labels, weights, vocabulary)
      // Losses and sums are float32 in both dtypes, and a loss is about as large as the largest logit.
      expectClose(await valuesOf(actual.losses), expected.losses, { relative: 2e-6, absolute: weights.map(() => 3e-6) })
      expect(await valuesOf(actual.correct)).toEqual(expected.correct)
      // A probability is accurate to some roundoffs of float32; p − 1 cancels, hence the absolute part; then one
      // rounding.
      const absolute = expected.gradient.map((_, i) => 1e-6 * weights[Math.floor(i / vocabulary)])
      expectClose(await valuesOf(actual.logits), expected.gradient, {
        relative: 1.01 * roundoff[dtype] + 3e-6,
        absolute,
      })
    })
  })

  it.each(floatDTypes)('crossEntropy leaves logits of %s unchanged if no gradient is requested', async (dtype) => {
    const random = new Random(10)
    const logits = random.normals(dtype, 4 * 37, 3)
    const [labels, weights] = [
      [5, -1, 36, 0],
      [1, 1, 1, 1],
    ]
    const [without, withGradient] = [false, true].map((write) => run(dtype, logits, labels, weights, write))
    expectSameBits(await without.logits.toArray(), encode(dtype, logits))
    expectSameBits(await without.losses.toArray(), await withGradient.losses.toArray())
    expectSameBits(await without.correct.toArray(), await withGradient.correct.toArray())
  })

  it.each(floatDTypes)(
    'crossEntropy does not read the logits of an ignored token: in %s even NaN has no effect',
    async (dtype) => {
      const logits = Float64Array.from({ length: 3 * 20 }, (_, i) => (i < 20 || i >= 40 ? Number.NaN : 1))
      const actual = run(dtype, logits, [-100, 3, -1], [1, 1, 1])
      const losses = await valuesOf(actual.losses)
      expectClose(losses, [0, Math.log(20), 0], { relative: 1e-6 })
      expect(await valuesOf(actual.correct)).toEqual(Float64Array.of(0, 0, 0))
      const gradient = await valuesOf(actual.logits)
      expect(gradient.filter((_, i) => i < 20 || i >= 40)).toEqual(new Float64Array(40))
      expect(gradient.every(Number.isFinite)).toBe(true)
    },
  )

  it.each(floatDTypes)(
    'crossEntropy propagates a NaN or an infinity among the logits of %s that count',
    async (dtype) => {
      // In vector code and in its remainder.
      for (const place of [0, 17, 38]) {
        const logits = new Float64Array(2 * 39)
        logits[place] = Number.NaN
        logits[39 + place] = Number.POSITIVE_INFINITY
        const { losses } = run(dtype, logits, [5, 5], [1, 1])
        expect(Array.from(await valuesOf(losses)).some(Number.isFinite)).toBe(false)
      }
    },
  )

  // 512 threads of a GPU keep 32768 bfloat16 logits in registers; logits beyond that must be read again.
  it.each(floatDTypes)(
    'crossEntropy supports vocabularies of %s of any size, with the same bits at any alignment',
    async (dtype) => {
      for (const vocabulary of [256, 8200, 32000, 32768, 33003, 66000]) {
        const random = new Random(vocabulary)
        const labels = [vocabulary - 1, -1, random.below(vocabulary)]
        const weights = [0.5, 1, 0.25]
        const logits = random.normals(dtype, 3 * vocabulary, 3)
        const expected = crossEntropy(logits, labels, weights, vocabulary)
        const absolute = expected.gradient.map((_, i) => 1e-6 * weights[Math.floor(i / vocabulary)])
        const first = run(dtype, logits, labels, weights)
        // Sums of thousands of terms: the error grows with the square root of their number.
        expectClose(await valuesOf(first.losses), expected.losses, { relative: 3e-6, absolute: [5e-6, 5e-6, 5e-6] })
        expect(await valuesOf(first.correct)).toEqual(expected.correct)
        expectClose(await valuesOf(first.logits), expected.gradient, {
          relative: 1.01 * roundoff[dtype] + 5e-6,
          absolute,
        })
        const shifted = { ...first, logits: viewOf(device, dtype, [3, vocabulary], logits, 1) }
        shifted.losses = resultOf(device, 'float32', [3])
        ops.crossEntropy(stream, shifted)
        expectSameBits(await shifted.losses.toArray(), await first.losses.toArray())
        expectSameBits(await shifted.logits.toArray(), await first.logits.toArray())
      }
    },
  )

  it.each(floatDTypes)('crossEntropy finds the first of equal logits of %s at any two positions', async (dtype) => {
    const vocabulary = 70_000
    const places = [0, 1, 6, 7, 8, 4095, 4096, 32767, 32768, 69_998, 69_999]
    for (const [i, place] of places.entries()) {
      const others = places.filter((other) => other !== place)
      const labels = [place, place]
      const logits = new Float64Array(2 * vocabulary)
      for (const row of [0, 1]) logits[row * vocabulary + place] = 2
      logits[others[(7 * i) % others.length]] = 2 // of the first row
      const { correct } = run(dtype, logits, labels, [1, 1], false)
      expect(await valuesOf(correct)).toEqual(Float64Array.of(Number(place < others[(7 * i) % others.length]), 1))
    }
  })

  it('crossEntropy counts a label as correct only if it is the first of the largest logits', async () => {
    const row = Array.from({ length: 40 }, (_, i) => (i === 7 || i === 23 ? 2 : 1))
    const { correct } = run('float32', [...row, ...row, ...row], [7, 23, 0], [1, 1, 1])
    expect(await valuesOf(correct)).toEqual(Float64Array.of(1, 0, 0))
  })

  it.each(floatDTypes)(
    'crossEntropy stays finite with logits of ten thousand, and treats −∞ as impossible, in %s',
    async (dtype) => {
      const never = Number.NEGATIVE_INFINITY
      const { losses, logits } = run(dtype, [9984, -9984, 0, 0, 0, never, 1, 1, never, 1], [0, 2], [1, 1])
      expectClose(await valuesOf(losses), [0, Math.log(3)], { relative: 1e-6 })
      const gradient = [0, 0, 0, 0, 0, 0, 1 / 3, -2 / 3, 0, 1 / 3]
      expectClose(await valuesOf(logits), gradient, { relative: 1.01 * roundoff[dtype] + 1e-6 })
    },
  )

  it('crossEntropy gives a token of weight zero a loss and no gradient', async () => {
    const { losses, logits } = run('float32', [1, 2, 3], [0], [0])
    expect((await valuesOf(losses))[0]).toBeGreaterThan(2)
    expect((await valuesOf(logits)).every((value) => value === 0)).toBe(true)
  })

  it('crossEntropy rejects a label outside the vocabulary', async () => {
    run('float32', [1, 2, 3, 4, 5, 6], [0, 3], [1, 1])
    await expect(stream.synchronize()).rejects.toMatchObject({
      code: 'INVALID_INDEX',
      message: 'cross_entropy: label 3 is outside [0, 3)',
    })
  })

  it('crossEntropy matches PyTorch', async () => {
    const { logits, labels, weights, losses, correct, gradient } = references.crossEntropy
    const actual = run('float32', logits, labels, weights)
    expectClose(await valuesOf(actual.losses), losses, { ofLargest: 1e-6 })
    expect(await valuesOf(actual.correct)).toEqual(Float64Array.from(correct))
    expectClose(await valuesOf(actual.logits), gradient, { ofLargest: 1e-6 })
  })
})
