import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { expectClose, expectSameBits } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { floatDTypes, Random } from '../support/numbers.js'
import { forAll } from '../support/properties.js'
import { resultOf, tensorOf, valuesOf, viewOf } from '../support/tensors.js'

describe.each(devices)('global_norm on $name', ({ device }) => {
  const stream = device.stream

  async function sumOfSquares(dtype: 'float32' | 'bfloat16', values: ArrayLike<number>): Promise<number> {
    const out = resultOf(device, 'float32', [1])
    ops.globalNorm(stream, { out, x: tensorOf(device, dtype, [values.length], values) })
    return (await valuesOf(out))[0]
  }

  it.each(floatDTypes)('globalNorm sums the squares of %s', async (dtype) => {
    const sizes = { n: fc.constantFrom(1, 3, 16, 100, 4095, 4097, 70_001), scale: fc.constantFrom(1, 1e-4, 300) }
    await forAll(sizes, async ({ n, scale, random }) => {
      const x = random.normals(dtype, n, scale)
      // All terms are positive, so float32 sums of short pieces lose only a few roundoffs.
      const expected = x.reduce((sum, value) => sum + value * value, 0)
      expectClose([await sumOfSquares(dtype, x)], [expected], { relative: 3e-6 })
    })
  })

  it.each(floatDTypes)('globalNorm gives the same bits wherever a shard of %s begins', async (dtype) => {
    for (const n of [3, 16_383, 16_384, 16_385, 40_000]) {
      const values = new Random(n).normals(dtype, n)
      const sums = [0, 1, 2].map((offset) => {
        const out = viewOf(device, 'float32', [1], [0], offset)
        ops.globalNorm(stream, { out, x: viewOf(device, dtype, [n], values, offset) })
        return out
      })
      for (const sum of sums.slice(1)) expectSameBits(await sum.toArray(), await sums[0].toArray())
    }
  })

  it('globalNorm keeps full precision over many equal terms', async () => {
    // A single float32 sum of these would be off by far more than a millionth.
    expectClose([await sumOfSquares('float32', new Float64Array(1_000_003).fill(0.1))], [10_000.03], { relative: 1e-6 })
  })

  it.each(floatDTypes)(
    'globalNorm of an empty tensor is zero, and it reports a NaN or infinity of %s at any position',
    async (dtype) => {
      expect(await sumOfSquares(dtype, [])).toBe(0)
      for (const place of [0, 4100, 8199]) {
        const x = new Float64Array(8200)
        x[place] = Number.NaN
        expect(await sumOfSquares(dtype, x)).toBeNaN()
        x[place] = Number.NEGATIVE_INFINITY
        expect(await sumOfSquares(dtype, x)).toBe(Number.POSITIVE_INFINITY)
      }
    },
  )
})
