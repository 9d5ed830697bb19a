import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { expectClose, expectSameBits, roundoff } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { dot, finiteDifferences } from '../support/finite-differences.js'
import { type FloatDType, floatDTypes, Random, rounded } from '../support/numbers.js'
import { references } from '../support/op-fixtures.js'
import { forAll, tokenCounts, widths } from '../support/properties.js'
import { rmsNorm, rmsNormGradient, rowsOf } from '../support/references.js'
import { resultOf, tensorOf, valuesOf, viewOf } from '../support/tensors.js'

const shapes = { tokens: tokenCounts, channels: widths, eps: fc.constantFrom(1e-6, 1e-5, 0.1) }

// y is rounded once to its dtype; everything before that is float32, with errors below a few dozen roundoffs in a mean
// of at most 200 squares.
const tolerance = (dtype: FloatDType) => ({ relative: 1.01 * roundoff[dtype], ofLargest: 2e-6 })

describe('the float64 reference of rmsnorm', () => {
  it('the float64 reference of rmsnorm matches finite differences', () => {
    const random = new Random(1)
    const [x, w, dy] = [15, 5, 15].map((size) => random.normals('float32', size))
    const { dx, dw } = rmsNormGradient(dy, x, w, 0.01)
    expectClose(
      finiteDifferences((at) => dot(dy, rmsNorm(at, w, 0.01).y), x),
      dx,
      { ofLargest: 1e-8 },
    )
    expectClose(
      finiteDifferences((at) => dot(dy, rmsNorm(x, at, 0.01).y), w),
      dw,
      { ofLargest: 1e-8 },
    )
  })
})

describe.each(devices)('rmsnorm on $name', ({ device }) => {
  const stream = device.stream

  describe.each(floatDTypes)('in %s', (dtype) => {
    it('rmsNormForward normalizes each token and returns its rstd', async () => {
      await forAll(shapes, async ({ tokens, channels, eps, random }) => {
        const x = random.normals(dtype, tokens * channels, 3)
        const w = random.normals(dtype, channels)
        const [y, rstd] = [resultOf(device, dtype, [tokens, channels]), resultOf(device, 'float32', [tokens])]
        ops.rmsNormForward(stream, {
          y,
          rstd,
          x: tensorOf(device, dtype, [tokens, channels], x),
          w: tensorOf(device, dtype, [channels], w),
          eps,
        })
        const expected = rmsNorm(x, w, eps)
        expectClose(await valuesOf(rstd), expected.rstd, { relative: 2e-6 })
        expectClose(await valuesOf(y), expected.y, tolerance(dtype))
      })
    })

    it('addRmsNorm matches add + rmsNorm bit for bit, in place too', async () => {
      await forAll(shapes, async ({ tokens, channels, eps, random }) => {
        const shape = [tokens, channels]
        const x = random.normals(dtype, tokens * channels)
        const delta = random.normals(dtype, tokens * channels)
        const expectedSum = tensorOf(
          device,
          dtype,
          shape,
          x.map((value, i) => rounded(dtype, value + delta[i])),
        )
        const w = tensorOf(device, dtype, [channels], random.normals(dtype, channels))
        const [expectedY, expectedRstd] = [resultOf(device, dtype, shape), resultOf(device, 'float32', [tokens])]
        ops.rmsNormForward(stream, { y: expectedY, rstd: expectedRstd, x: expectedSum, w, eps })

        const residual = tensorOf(device, dtype, shape, x)
        const change = tensorOf(device, dtype, shape, delta)
        for (const sum of [resultOf(device, dtype, shape), residual]) {
          const [y, rstd] = [resultOf(device, dtype, shape), resultOf(device, 'float32', [tokens])]
          ops.addRmsNormForward(stream, { y, rstd, sum, x: residual, delta: change, w, eps })
          expectSameBits(await sum.toArray(), await expectedSum.toArray())
          expectSameBits(await y.toArray(), await expectedY.toArray())
          expectSameBits(await rstd.toArray(), await expectedRstd.toArray())
        }
      })
    })

    it.each(floatDTypes)(
      'rmsNormBackward adds the gradient of x to dx, and the gradient of w to dw in %s',
      async (gradDType) => {
        await forAll(shapes, async ({ tokens, channels, eps, random }) => {
          const shape = [tokens, channels]
          const [x, dy, dxBefore] = [0, 1, 2].map(() => random.normals(dtype, tokens * channels))
          const w = random.normals(dtype, channels)
          const dwBefore = random.normals(gradDType, channels)
          const dx = tensorOf(device, dtype, shape, dxBefore)
          const dw = tensorOf(device, gradDType, [channels], dwBefore)
          ops.rmsNormBackward(stream, {
            dx,
            dw,
            dy: tensorOf(device, dtype, shape, dy),
            x: tensorOf(device, dtype, shape, x),
            w: tensorOf(device, dtype, [channels], w),
            rstd: tensorOf(device, 'float32', [tokens], rmsNorm(x, w, eps).rstd),
          })
          const gradient = rmsNormGradient(dy, x, w, eps)
          // One rounding of the sum to its dtype. Rows and columns have at most 200 terms of similar size, so float32
          // loses a few dozen roundoffs of the largest.
          const largest = Math.max(...gradient.dx.map(Math.abs), ...gradient.dw.map(Math.abs))
          const allowed = (dtype: FloatDType, expected: Float64Array) => ({
            relative: 1.01 * roundoff[dtype],
            absolute: expected.map(() => 1e-5 * largest),
          })
          const expectedDx = gradient.dx.map((value, i) => value + dxBefore[i])
          const expectedDw = gradient.dw.map((value, i) => value + dwBefore[i])
          expectClose(await valuesOf(dx), expectedDx, allowed(dtype, expectedDx))
          expectClose(await valuesOf(dw), expectedDw, allowed(gradDType, expectedDw))
        })
      },
    )
  })

  // The widths of real models, and widths beyond the registers of a GPU block; the last is also odd.
  describe.each(floatDTypes)('in %s with wide rows', (dtype) => {
    it.each([2048, 3200, 8200, 16400, 33001])(
      'rmsNorm normalizes rows of %i and computes their gradients',
      async (channels) => {
        const random = new Random(channels)
        const [tokens, eps] = [2, 1e-5]
        const shape = [tokens, channels]
        const [x, dy, dxBefore] = [0, 1, 2].map(() => random.normals(dtype, tokens * channels))
        const [w, dwBefore] = [random.normals(dtype, channels), random.normals('float32', channels)]
        const expected = rmsNorm(x, w, eps)
        const operands = { x: tensorOf(device, dtype, shape, x), w: tensorOf(device, dtype, [channels], w) }
        const [y, rstd] = [resultOf(device, dtype, shape), resultOf(device, 'float32', [tokens])]
        ops.rmsNormForward(stream, { y, rstd, ...operands, eps })
        // A float32 sum of this many squares may lose a few more roundoffs than that of a short row.
        expectClose(await valuesOf(rstd), expected.rstd, { relative: 4e-6 })
        expectClose(await valuesOf(y), expected.y, { ...tolerance(dtype), relative: 1.01 * roundoff[dtype] + 4e-6 })

        const dx = tensorOf(device, dtype, shape, dxBefore)
        const dw = tensorOf(device, 'float32', [channels], dwBefore)
        ops.rmsNormBackward(stream, { dx, dw, dy: tensorOf(device, dtype, shape, dy), ...operands, rstd })
        const [expectedDx, expectedDw] = [Float64Array.from(dxBefore), Float64Array.from(dwBefore)]
        rowsOf(x, channels).forEach((row, t) => {
          const r = expected.rstd[t]
          const upstream = dy.subarray(t * channels)
          const mean = row.reduce((sum, value, i) => sum + upstream[i] * w[i] * value * r, 0) / channels
          row.forEach((value, i) => {
            expectedDx[t * channels + i] += r * (upstream[i] * w[i] - value * r * mean)
            expectedDw[i] += upstream[i] * value * r
          })
        })
        expectClose(await valuesOf(dx), expectedDx, { relative: 1.01 * roundoff[dtype], ofLargest: 2e-6 })
        expectClose(await valuesOf(dw), expectedDw, { ofLargest: 2e-6 })
      },
    )
  })

  it.each(floatDTypes)('rmsNorm gives the same bits wherever tensors of %s begin', async (dtype) => {
    for (const channels of [24, 100, 2056]) {
      const random = new Random(channels)
      const tokens = 5
      const shape = [tokens, channels]
      const [x, dy, delta, dxBefore] = [0, 1, 2, 3].map(() => random.normals(dtype, tokens * channels))
      const [w, dwBefore] = [random.normals(dtype, channels), random.normals(dtype, channels)]
      const results = [0, 1, 2, 4].map((offset) => {
        const at = (values: Float64Array, shape: number[]) => viewOf(device, dtype, shape, values, offset)
        const none = new Float64Array(tokens * channels)
        const [y, sumY, sum, dx] = [at(none, shape), at(none, shape), at(x, shape), at(dxBefore, shape)]
        const [dw, weights, input] = [at(dwBefore, [channels]), at(w, [channels]), at(x, shape)]
        const [rstd, sumRstd] = [0, 1].map(() => viewOf(device, 'float32', [tokens], new Float64Array(tokens), offset))
        ops.rmsNormForward(stream, { y, rstd, x: input, w: weights, eps: 1e-6 })
        ops.addRmsNormForward(stream, {
          ...{ y: sumY, rstd: sumRstd, sum, x: sum },
          ...{ delta: at(delta, shape), w: weights, eps: 1e-6 },
        })
        ops.rmsNormBackward(stream, { dx, dw, dy: at(dy, shape), x: input, w: weights, rstd })
        return [y, rstd, sum, sumY, sumRstd, dx, dw]
      })
      for (const [i, first] of results[0].entries()) {
        const expected = await first.toArray()
        for (const result of results.slice(1)) expectSameBits(await result[i].toArray(), expected)
      }
    }
  })

  it('rmsNorm of zeros is zero, with an rstd that depends only on eps', async () => {
    const [y, rstd] = [resultOf(device, 'float32', [2, 9]), resultOf(device, 'float32', [2])]
    const x = tensorOf(device, 'float32', [2, 9], 0)
    ops.rmsNormForward(stream, { y, rstd, x, w: tensorOf(device, 'float32', [9], 1), eps: 1e-6 })
    expect(await valuesOf(y)).toEqual(new Float64Array(18))
    expectClose(await valuesOf(rstd), [1000, 1000], { relative: 1e-6 })
  })

  it('rmsNorm matches PyTorch', async () => {
    const { tokens, channels, eps, x, w, dy, ...expected } = references.rmsnorm
    const [y, rstd] = [resultOf(device, 'float32', [tokens, channels]), resultOf(device, 'float32', [tokens])]
    const [dx, dw] = [tensorOf(device, 'float32', [tokens, channels], 0), tensorOf(device, 'float32', [channels], 0)]
    const operands = {
      x: tensorOf(device, 'float32', [tokens, channels], x),
      w: tensorOf(device, 'float32', [channels], w),
    }
    ops.rmsNormForward(stream, { y, rstd, ...operands, eps })
    ops.rmsNormBackward(stream, { dx, dw, dy: tensorOf(device, 'float32', [tokens, channels], dy), ...operands, rstd })
    expectClose(await valuesOf(y), expected.y, { ofLargest: 2e-6 })
    expectClose(await valuesOf(dx), expected.dx, { ofLargest: 2e-6 })
    expectClose(await valuesOf(dw), expected.dw, { ofLargest: 2e-6 })
  })
})
