import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { numel, type Tensor } from '../../lib/tensor.js'
import { expectClose, expectSameBits, expectSmallError } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { dot, finiteDifferences } from '../support/finite-differences.js'
import { type FloatDType, floatDTypes, Random } from '../support/numbers.js'
import { references } from '../support/op-fixtures.js'
import { forAll, headCounts, headSizes, oncePerCase } from '../support/properties.js'
import { type Attention, attention, attentionGradient, type Heads } from '../support/references.js'
import { resultOf, tensorOf, valuesOf } from '../support/tensors.js'

const sequenceLengths = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(1, 2, 3) },
  { weight: 3, arbitrary: fc.integer({ min: 4, max: 40 }) },
  { weight: 2, arbitrary: fc.constantFrom(63, 64, 65, 127, 128, 129, 150) }, // just below and above block boundaries
)
const shapes = {
  lengths: fc.array(sequenceLengths, { minLength: 1, maxLength: 3 }),
  heads: headCounts,
  headSize: headSizes,
}

function cuSeqlensOf(lengths: readonly number[]): number[] {
  const cuSeqlens = [0]
  for (const length of lengths) cuSeqlens.push(cuSeqlens[cuSeqlens.length - 1] + length)
  return cuSeqlens
}

function shapeOf(lengths: readonly number[], [numHeads, numKvHeads]: [number, number], headSize: number): Attention {
  return { numHeads, numKvHeads, headSize, cuSeqlens: cuSeqlensOf(lengths), scale: 1 / Math.sqrt(headSize) }
}

const expectedOnce = oncePerCase<{ out: Float64Array; lse: Float64Array }>()
const gradientOnce = oncePerCase<Float64Array>()

const tokensOf = ({ cuSeqlens }: Attention) => cuSeqlens[cuSeqlens.length - 1]
const widthOf = ({ numHeads, numKvHeads, headSize }: Heads) => (numHeads + 2 * numKvHeads) * headSize

/**
 * float32: sums of up to 128 products and 150 keys, each off by some tens of roundoffs at worst.
 * bfloat16: kernels may round probabilities and their gradients to bfloat16 before they multiply, and results are
 * rounded. Each rounding is off by up to 2⁻⁸ and about 2⁻⁹·√(1/3) on average, so the total stays under 1 % on average,
 * and single elements under a few times 2⁻⁸ of the largest.
 */
function expectAttention(dtype: FloatDType, actual: Float64Array, expected: Float64Array): void {
  expectClose(actual, expected, { ofLargest: dtype === 'float32' ? 1e-5 : 2e-2 })
  expectSmallError(actual, expected, dtype === 'float32' ? 5e-6 : 1e-2)
}

describe('the float64 reference of attention', () => {
  it('the float64 reference of attention matches finite differences', () => {
    const random = new Random(4)
    const shape = shapeOf([3, 1, 2], [4, 2], 4)
    const [qkv, dout] = [random.normals('float32', 6 * widthOf(shape)), random.normals('float32', 6 * 4 * 4)]
    const differences = finiteDifferences((at) => dot(dout, attention(at, shape).out), qkv)
    expectClose(differences, attentionGradient(dout, qkv, shape), { ofLargest: 1e-8 })
  })
})

describe.each(devices)('attention on $name', ({ device }) => {
  const stream = device.stream

  function forward(dtype: FloatDType, shape: Attention, qkv: ArrayLike<number>) {
    const { numHeads, numKvHeads, headSize, cuSeqlens, scale } = shape
    const tokens = tokensOf(shape)
    const args = {
      qkv: tensorOf(device, dtype, [tokens, numHeads + 2 * numKvHeads, headSize], qkv),
      out: resultOf(device, dtype, [tokens, numHeads, headSize]),
      lse: resultOf(device, 'float32', [numHeads, tokens]),
      cuSeqlens: tensorOf(device, 'int32', [cuSeqlens.length], cuSeqlens),
      numHeads,
      numKvHeads,
      scale,
    }
    ops.attentionForward(stream, args)
    return args
  }

  function backward(dtype: FloatDType, shape: Attention, qkv: ArrayLike<number>, dout: ArrayLike<number>) {
    const { numHeads, numKvHeads, headSize } = shape
    const tokens = tokensOf(shape)
    const args = {
      ...forward(dtype, shape, qkv),
      dqkv: resultOf(device, dtype, [tokens, numHeads + 2 * numKvHeads, headSize]),
      delta: resultOf(device, 'float32', [numHeads, tokens]),
      dout: tensorOf(device, dtype, [tokens, numHeads, headSize], dout),
    }
    ops.attentionBackward(stream, args)
    return args
  }

  describe.each(floatDTypes)('in %s', (dtype) => {
    it.each([
      // Head sizes that are 2, 4 and 8 elements off alignment, groups of 1, 2, 4 and 8, and sequences that end next to
      // the boundaries of a kernel's tiles of 32, 64 and 128 tokens, or have one token, or none.
      { lengths: [1, 200, 31, 0, 65, 1], heads: [2, 2], headSize: 100 },
      { lengths: [129, 3, 64], heads: [8, 1], headSize: 64 },
      { lengths: [33, 257], heads: [4, 2], headSize: 128 },
      { lengths: [2, 127, 63], heads: [4, 1], headSize: 80 },
      { lengths: [192, 1, 1, 5], heads: [1, 1], headSize: 20 },
      { lengths: [66, 95], heads: [2, 1], headSize: 4 },
      { lengths: [70], heads: [3, 3], headSize: 2 },
      { lengths: [40, 90], heads: [2, 1], headSize: 96 },
      { lengths: Array.from({ length: 300 }, (_, i) => (i * 7) % 4), heads: [2, 1], headSize: 36 },
    ])(
      'attention matches float64 at lengths $lengths, heads $heads of $headSize',
      async ({ lengths, heads, headSize }) => {
        const random = new Random(9)
        const shape = shapeOf(lengths, heads as [number, number], headSize)
        const qkv = random.normals(dtype, tokensOf(shape) * widthOf(shape))
        const dout = random.normals(dtype, tokensOf(shape) * shape.numHeads * headSize)
        const { out, lse, dqkv } = backward(dtype, shape, qkv, dout)
        const expected = expectedOnce([dtype, shape, qkv[0]], () => attention(qkv, shape))
        expectAttention(dtype, await valuesOf(out), expected.out)
        expectClose(await valuesOf(lse), expected.lse, { ofLargest: 5e-6 })
        const gradient = gradientOnce([dtype, shape, qkv[0]], () => attentionGradient(dout, qkv, shape))
        expectAttention(dtype, await valuesOf(dqkv), gradient)
      },
    )

    it.each([64, 100])(
      'attention gives the same bits for views at an offset of 4 bytes, at head size %i',
      async (headSize) => {
        const random = new Random(10)
        const shape = shapeOf([70, 21], [2, 1], headSize)
        const qkv = random.normals(dtype, 91 * widthOf(shape))
        const dout = random.normals(dtype, 91 * 2 * headSize)
        const args = backward(dtype, shape, qkv, dout)
        const shift = dtype === 'float32' ? 1 : 2
        const owners: Tensor[] = [] // a view is freed with its owner
        const shifted = (like: Tensor, values?: ArrayLike<number>) => {
          const padded = new Float64Array(numel(like.shape) + shift).fill(Number.NaN)
          if (values) padded.set(values, shift)
          const owner = tensorOf(device, dtype, [padded.length], padded)
          owners.push(owner)
          return owner.view(like.shape, shift)
        }
        const moved = {
          ...args,
          qkv: shifted(args.qkv, qkv),
          dout: shifted(args.dout, dout),
          out: shifted(args.out),
          dqkv: shifted(args.dqkv),
        }
        ops.attentionForward(stream, moved)
        ops.attentionBackward(stream, moved)
        expectSameBits(await moved.out.toArray(), await args.out.toArray())
        expectSameBits(await moved.dqkv.toArray(), await args.dqkv.toArray())
      },
    )

    it('attention applies softmax over the visible keys of each sequence separately', async () => {
      await forAll(
        shapes,
        async ({ lengths, heads, headSize, random }) => {
          const shape = shapeOf(lengths, heads, headSize)
          const qkv = random.normals(dtype, tokensOf(shape) * widthOf(shape))
          const { out, lse } = forward(dtype, shape, qkv)
          const expected = expectedOnce([dtype, shape, qkv[0]], () => attention(qkv, shape))
          expectAttention(dtype, await valuesOf(out), expected.out)
          // Scores and sums are float32 in both dtypes.
          expectClose(await valuesOf(lse), expected.lse, { ofLargest: 5e-6 })
        },
        16,
      )
    })

    it('attentionBackward computes the gradients of queries, keys and values', async () => {
      await forAll(
        shapes,
        async ({ lengths, heads, headSize, random }) => {
          const shape = shapeOf(lengths, heads, headSize)
          const qkv = random.normals(dtype, tokensOf(shape) * widthOf(shape))
          const dout = random.normals(dtype, tokensOf(shape) * heads[0] * headSize)
          const { dqkv } = backward(dtype, shape, qkv, dout)
          const expected = gradientOnce([dtype, shape, qkv[0]], () => attentionGradient(dout, qkv, shape))
          expectAttention(dtype, await valuesOf(dqkv), expected)
        },
        14,
      )
    })

    it('attention gives a sequence the same bits alone and packed with others', async () => {
      await forAll(
        shapes,
        async ({ lengths, heads, headSize, random }) => {
          const shape = shapeOf(lengths, heads, headSize)
          const [width, outWidth] = [widthOf(shape), heads[0] * headSize]
          const qkv = random.normals(dtype, tokensOf(shape) * width)
          const dout = random.normals(dtype, tokensOf(shape) * outWidth)
          const packed = backward(dtype, shape, qkv, dout)
          for (const [s, length] of lengths.entries()) {
            const [start, end] = [shape.cuSeqlens[s], shape.cuSeqlens[s] + length]
            const parts = [qkv.subarray(start * width, end * width), dout.subarray(start * outWidth, end * outWidth)]
            const alone = backward(dtype, shapeOf([length], heads, headSize), parts[0], parts[1])
            expectSameBits(await packed.out.rows(start, end).toArray(), await alone.out.toArray())
            expectSameBits(await packed.dqkv.rows(start, end).toArray(), await alone.dqkv.toArray())
          }
        },
        8,
      )
    })

    it('attention is causal: changing later tokens leaves every earlier bit unchanged', async () => {
      await forAll(
        { length: fc.integer({ min: 2, max: 150 }), heads: headCounts, headSize: headSizes },
        async ({ length, heads, headSize, random }) => {
          const shape = shapeOf([length], heads, headSize)
          const cut = 1 + random.below(length - 1)
          const qkv = random.normals(dtype, length * widthOf(shape))
          const changed = qkv.map((value, i) => (i < cut * widthOf(shape) ? value : 100 * random.below(3)))
          const [before, after] = [forward(dtype, shape, qkv), forward(dtype, shape, changed)]
          expectSameBits(await before.out.rows(0, cut).toArray(), await after.out.rows(0, cut).toArray())
          const lses = await Promise.all([before, after].map(async ({ lse }) => (await valuesOf(lse)).subarray(0, cut)))
          expectSameBits(lses[0], lses[1])
        },
        8,
      )
    })
  })

  it('attentionBackward writes delta, the sums of dout · out', async () => {
    const random = new Random(5)
    const shape = shapeOf([70, 9], [4, 2], 12)
    const qkv = random.normals('float32', 79 * widthOf(shape))
    const dout = random.normals('float32', 79 * 48)
    const { out } = attention(qkv, shape)
    const expected = Float64Array.from({ length: 4 * 79 }, (_, i) => {
      const start = ((i % 79) * 4 + Math.floor(i / 79)) * 12
      return dot(dout.subarray(start, start + 12), out.subarray(start, start + 12))
    })
    expectClose(await valuesOf(backward('float32', shape, qkv, dout).delta), expected, { ofLargest: 1e-5 })
  })

  it.each(floatDTypes)('attention stays finite when scores are in the thousands, in %s', async (dtype) => {
    // Integers and a scale of 1/4 make every score exact; a float32 exponent of about 2000 · log2(e) is off by about
    // 2000 · 2⁻²³, and so is its power.
    const random = new Random(6)
    const shape = { ...shapeOf([90], [2, 1], 8), scale: 0.25 }
    const qkv = Float64Array.from({ length: 90 * widthOf(shape) }, () => random.below(81) - 40)
    const { out, lse, dqkv } = backward(dtype, shape, qkv, new Float64Array(90 * 16).fill(1))
    const expected = attention(qkv, shape)
    expectClose(await valuesOf(out), expected.out, { ofLargest: dtype === 'float32' ? 2e-3 : 2e-2 })
    expectClose(await valuesOf(lse), expected.lse, { ofLargest: 1e-6 })
    expect((await valuesOf(dqkv)).every(Number.isFinite)).toBe(true)
  })

  it('attention skips empty sequences, and does nothing when all are empty', async () => {
    const random = new Random(7)
    const shape = shapeOf([0, 4, 0, 0, 3, 0], [2, 1], 8)
    const qkv = random.normals('float32', 7 * widthOf(shape))
    const dout = random.normals('float32', 7 * 16)
    const { out, dqkv } = backward('float32', shape, qkv, dout)
    expectAttention('float32', await valuesOf(out), attention(qkv, shape).out)
    expectAttention('float32', await valuesOf(dqkv), attentionGradient(dout, qkv, shape))
    for (const lengths of [[], [0]]) backward('float32', shapeOf(lengths, [2, 1], 8), [], [])
    await stream.synchronize()
  })

  it.each([
    { cuSeqlens: [1, 6], message: 'cu_seqlens must start at 0, but element 0 is 1' },
    { cuSeqlens: [0, 4, 3, 6], message: 'cu_seqlens must not decrease, but element 2 is 3' },
    { cuSeqlens: [0, 5], message: 'cu_seqlens must end at the number of tokens, 6, but element 1 is 5' },
    { cuSeqlens: [0, 7], message: 'cu_seqlens must end at the number of tokens, 6, but element 1 is 7' },
    { cuSeqlens: [], message: 'cu_seqlens must have at least one element, a 0' },
  ])('attention rejects cuSeqlens $cuSeqlens for six tokens', async ({ cuSeqlens, message }) => {
    const args = backward('float32', shapeOf([6], [1, 1], 8), new Float64Array(6 * 24), new Float64Array(6 * 8))
    await stream.synchronize()
    const wrong = { ...args, cuSeqlens: tensorOf(device, 'int32', [cuSeqlens.length], cuSeqlens) }
    ops.attentionForward(stream, wrong)
    const error = { code: 'INVALID_SEQUENCES', message: `attention_forward: ${message}` }
    await expect(stream.synchronize()).rejects.toMatchObject(error)
    ops.attentionBackward(stream, wrong)
    await expect(stream.synchronize()).rejects.toMatchObject({ ...error, message: `attention_backward: ${message}` })
  })

  it("attention matches PyTorch's scaled_dot_product_attention", async () => {
    const { numHeads, numKvHeads, headSize, cuSeqlens, qkv, dout, out, dqkv } = references.attention
    const shape = { numHeads, numKvHeads, headSize, cuSeqlens, scale: 1 / Math.sqrt(headSize) }
    const actual = backward('float32', shape, qkv, dout)
    expectAttention('float32', await valuesOf(actual.out), Float64Array.from(out))
    expectAttention('float32', await valuesOf(actual.dqkv), Float64Array.from(dqkv))
  })
})
