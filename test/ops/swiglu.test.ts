import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { expectClose, roundoff } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { dot, finiteDifferences } from '../support/finite-differences.js'
import { type FloatDType, floatDTypes, Random } from '../support/numbers.js'
import { forAll, tokenCounts, widths } from '../support/properties.js'
import { swiglu, swigluGradient } from '../support/references.js'
import { resultOf, tensorOf, valuesOf, viewOf } from '../support/tensors.js'

const shapes = { tokens: tokenCounts, size: widths }

// An exponential good to about 2 roundoffs and a handful of float32 operations, each relative to its result; then one
// rounding to the dtype.
const tolerance = (dtype: FloatDType) => ({ relative: 1.01 * roundoff[dtype] + 2e-6 })

describe('the float64 reference of swiglu', () => {
  it('the float64 reference of swiglu matches finite differences', () => {
    const random = new Random(3)
    const [gateUp, dh] = [random.normals('float32', 3 * 8, 2), random.normals('float32', 3 * 4)]
    const differences = finiteDifferences((at) => dot(dh, swiglu(at, 4)), gateUp)
    expectClose(differences, swigluGradient(dh, gateUp, 4), { ofLargest: 1e-8 })
  })
})

describe.each(devices)('swiglu on $name', ({ device }) => {
  const stream = device.stream

  it.each(floatDTypes)('swigluForward computes silu(gate) · up in %s', async (dtype) => {
    await forAll(shapes, async ({ tokens, size, random }) => {
      const gateUp = random.normals(dtype, tokens * 2 * size, 3)
      const h = resultOf(device, dtype, [tokens, size])
      ops.swigluForward(stream, { h, gateUp: tensorOf(device, dtype, [tokens, 2 * size], gateUp) })
      expectClose(await valuesOf(h), swiglu(gateUp, size), tolerance(dtype))
    })
  })

  it.each(floatDTypes)('swigluBackward replaces gates and ups of %s by their gradients', async (dtype) => {
    await forAll(shapes, async ({ tokens, size, random }) => {
      const gateUp = random.normals(dtype, tokens * 2 * size, 3)
      const dh = random.normals(dtype, tokens * size)
      const tensor = tensorOf(device, dtype, [tokens, 2 * size], gateUp)
      ops.swigluBackward(stream, { gateUp: tensor, dh: tensorOf(device, dtype, [tokens, size], dh) })
      const expected = swigluGradient(dh, gateUp, size)
      // Near gate = −1.28 the slope of silu crosses zero: there the error is relative to the terms that cancel.
      const absolute = expected.map((_, i) => {
        const [t, column] = [Math.floor(i / (2 * size)), i % (2 * size)]
        return column < size ? 2e-6 * Math.abs(dh[t * size + column] * gateUp[i + size]) : 0
      })
      expectClose(await valuesOf(tensor), expected, { ...tolerance(dtype), absolute })
    })
  })

  it.each(floatDTypes)('swiglu supports rows of %s wider than a block of threads, at any alignment', async (dtype) => {
    for (const size of [2049, 2056, 8640]) {
      const random = new Random(size)
      const [gateUp, dh] = [random.normals(dtype, 2 * 2 * size, 3), random.normals(dtype, 2 * size)]
      const expected = swigluGradient(dh, gateUp, size)
      for (const offset of [0, 1, 2]) {
        const tensor = viewOf(device, dtype, [2, 2 * size], gateUp, offset)
        const h = viewOf(device, dtype, [2, size], new Float64Array(2 * size), offset)
        ops.swigluForward(stream, { h, gateUp: tensor })
        expectClose(await valuesOf(h), swiglu(gateUp, size), tolerance(dtype))
        ops.swigluBackward(stream, { gateUp: tensor, dh: viewOf(device, dtype, [2, size], dh, offset) })
        expectClose(await valuesOf(tensor), expected, { ...tolerance(dtype), ofLargest: 2e-6 })
      }
    }
  })

  it.each(floatDTypes)('swiglu of large gates in %s returns the gate or zero, and never NaN', async (dtype) => {
    // More than one vector of elements, so that both vector code and its remainder are tested.
    const gates = Array.from({ length: 39 }, (_, i) => [88, 128, 4096, -88, -128, -4096, 0][i % 7])
    const gateUp = tensorOf(device, dtype, [1, 78], [...gates, ...gates.map(() => 2)])
    const h = resultOf(device, dtype, [1, 39])
    ops.swigluForward(stream, { h, gateUp })
    // 88 · e^−88 is about 5e-37.
    const forward = gates.map((gate) => (gate > 0 ? 2 * gate : 0))
    expectClose(await valuesOf(h), forward, { absolute: gates.map(() => 1e-35) })
    ops.swigluBackward(stream, { gateUp, dh: tensorOf(device, dtype, [1, 39], 1) })
    const backward = [
      ...gates.map((gate) => (gate > 0 ? 2 : gate < 0 ? 0 : 1)),
      ...gates.map((gate) => Math.max(gate, 0)),
    ]
    expectClose(await valuesOf(gateUp), backward, { absolute: backward.map(() => 1e-34) })
  })

  it('swiglu propagates NaN', async () => {
    const h = resultOf(device, 'float32', [1, 2])
    ops.swigluForward(stream, { h, gateUp: tensorOf(device, 'float32', [1, 4], [Number.NaN, 1, 1, Number.NaN]) })
    expect(await valuesOf(h)).toEqual(Float64Array.from([Number.NaN, Number.NaN]))
  })
})
