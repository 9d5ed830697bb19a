import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { expectClose, roundoff } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { dot, finiteDifferences } from '../support/finite-differences.js'
import { type FloatDType, floatDTypes, Random } from '../support/numbers.js'
import { references } from '../support/op-fixtures.js'
import { forAll, headCounts, headSizes, tokenCounts } from '../support/properties.js'
import { type Heads, rope, ropeTable } from '../support/references.js'
import { tensorOf, valuesOf, viewOf } from '../support/tensors.js'

const shapes = {
  tokens: tokenCounts,
  heads: headCounts,
  headSize: fc.oneof(fc.constantFrom(2, 6), headSizes),
  context: fc.integer({ min: 1, max: 50 }),
}

/** A table rounded to float32. */
function table(context: number, headSize: number) {
  const { cos, sin } = ropeTable(context, headSize)
  return { cos: cos.map(Math.fround), sin: sin.map(Math.fround) }
}

// Two products and a sum in float32, relative to the larger element of the pair, then one rounding to the dtype.
const tolerance = (dtype: FloatDType) => ({ relative: 1.01 * roundoff[dtype], ofLargest: 4e-7 })

describe('the float64 reference of rope', () => {
  it('the inverse rotation of the float64 rope reference matches finite differences', () => {
    const random = new Random(2)
    const heads = { numHeads: 2, numKvHeads: 1, headSize: 6 }
    const [qkv, gradient] = [0, 1].map(() => random.normals('float32', 3 * 4 * 6))
    const positions = [4, 0, 9]
    const differences = finiteDifferences((at) => dot(gradient, rope(at, ropeTable(10, 6), positions, heads)), qkv)
    expectClose(differences, rope(gradient, ropeTable(10, 6), positions, heads, -1), { ofLargest: 1e-8 })
  })
})

describe.each(devices)('rope on $name', ({ device }) => {
  const stream = device.stream

  function operands(
    dtype: FloatDType,
    { cos, sin }: { cos: ArrayLike<number>; sin: ArrayLike<number> },
    { numHeads, numKvHeads, headSize }: Heads,
    positions: ArrayLike<number>,
    qkv: ArrayLike<number>,
  ) {
    const shape = [cos.length / (headSize / 2), headSize / 2]
    return {
      qkv: tensorOf(device, dtype, [positions.length, numHeads + 2 * numKvHeads, headSize], qkv),
      cos: tensorOf(device, 'float32', shape, cos),
      sin: tensorOf(device, 'float32', shape, sin),
      positions: tensorOf(device, 'int32', [positions.length], positions),
      numHeads,
      numKvHeads,
    }
  }

  it.each(floatDTypes)(
    'ropeForward rotates queries and keys of %s by the angles of their positions, and leaves values unchanged',
    async (dtype) => {
      await forAll(shapes, async ({ tokens, heads: [numHeads, numKvHeads], headSize, context, random }) => {
        const heads = { numHeads, numKvHeads, headSize }
        const width = (numHeads + 2 * numKvHeads) * headSize
        const qkv = random.normals(dtype, tokens * width)
        const positions = random.integers(tokens, context)
        const args = operands(dtype, table(context, headSize), heads, positions, qkv)
        ops.ropeForward(stream, args)
        const rotated = await valuesOf(args.qkv)
        expectClose(rotated, rope(qkv, table(context, headSize), positions, heads), tolerance(dtype))
        const valuesFrom = (numHeads + numKvHeads) * headSize
        const isValue = (_: number, i: number) => i % width >= valuesFrom
        expect(rotated.filter(isValue)).toEqual(qkv.filter(isValue))
      })
    },
  )

  it.each(floatDTypes)('ropeBackward rotates gradients of %s by the same angles in reverse', async (dtype) => {
    await forAll(shapes, async ({ tokens, heads: [numHeads, numKvHeads], headSize, context, random }) => {
      const heads = { numHeads, numKvHeads, headSize }
      const gradient = random.normals(dtype, tokens * (numHeads + 2 * numKvHeads) * headSize)
      const positions = random.integers(tokens, context)
      const args = operands(dtype, table(context, headSize), heads, positions, gradient)
      ops.ropeBackward(stream, args)
      expectClose(
        await valuesOf(args.qkv),
        rope(gradient, table(context, headSize), positions, heads, -1),
        tolerance(dtype),
      )
    })
  })

  it.each(floatDTypes)('rope rotates the many heads of large models in %s at any alignment', async (dtype) => {
    const positions = [3, 9]
    for (const [numHeads, numKvHeads, headSize] of [
      [32, 32, 100],
      [70, 1, 128],
      [9, 3, 6],
    ]) {
      const random = new Random(headSize)
      const heads = { numHeads, numKvHeads, headSize }
      const { cos, sin } = table(10, headSize)
      const shape = [2, numHeads + 2 * numKvHeads, headSize]
      const qkv = random.normals(dtype, shape[0] * shape[1] * headSize)
      const expected = rope(qkv, { cos, sin }, positions, heads)
      for (const offset of [0, 1, 2]) {
        const args = {
          qkv: viewOf(device, dtype, shape, qkv, offset),
          cos: viewOf(device, 'float32', [10, headSize / 2], cos, offset),
          sin: viewOf(device, 'float32', [10, headSize / 2], sin, offset),
          positions: viewOf(device, 'int32', [2], positions, offset),
          ...{ numHeads, numKvHeads },
        }
        ops.ropeForward(stream, args)
        expectClose(await valuesOf(args.qkv), expected, tolerance(dtype))
      }
    }
  })

  it('rope leaves a token unchanged if its position is outside the table', async () => {
    const heads = { numHeads: 1, numKvHeads: 1, headSize: 4 }
    const args = operands('float32', table(7, 4), heads, [6, 7, 5], new Float64Array(36).fill(1))
    ops.ropeForward(stream, args)
    await expect(stream.synchronize()).rejects.toMatchObject({ code: 'INVALID_INDEX' })
    expect((await valuesOf(args.qkv)).subarray(12, 24)).toEqual(new Float64Array(12).fill(1))
  })

  it.each([-1, 7])('rope rejects position %i for a table of seven rows', async (position) => {
    const heads = { numHeads: 1, numKvHeads: 1, headSize: 4 }
    const args = operands('float32', table(7, 4), heads, [6, position], new Float64Array(24))
    const message = `position ${position} is outside [0, 7)`
    ops.ropeForward(stream, args)
    const rejection = { code: 'INVALID_INDEX', message: `rope_forward: ${message}` }
    await expect(stream.synchronize()).rejects.toMatchObject(rejection)
    ops.ropeBackward(stream, args)
    await expect(stream.synchronize()).rejects.toMatchObject({ ...rejection, message: `rope_backward: ${message}` })
  })

  it('rope matches the Llama model of Transformers', async () => {
    const { cos, sin, qkv, positions, rotated, ...heads } = references.rope
    // The fixture has the angles of each token, so the index of a token serves as its position.
    const args = operands('float32', { cos, sin }, heads, Int32Array.from(positions.keys()), qkv)
    ops.ropeForward(stream, args)
    expectClose(await valuesOf(args.qkv), rotated, tolerance('float32'))
  })
})
