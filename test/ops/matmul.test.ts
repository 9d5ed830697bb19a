import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import { expectClose, roundoff } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { type FloatDType, floatDTypes, Random } from '../support/numbers.js'
import { forAll } from '../support/properties.js'
import { matrixProduct, type Product } from '../support/references.js'
import { resultOf, tensorOf, valuesOf } from '../support/tensors.js'

// Decoding multiplies a few rows by a matrix; training multiplies many. Sizes lie below, at, and beyond the blocks.
const decoding = fc.integer({ min: 1, max: 8 })
const lengths = fc.oneof(decoding, fc.integer({ min: 9, max: 70 }), fc.constantFrom(100, 127, 128, 129, 260))
const shapes = {
  m: fc.oneof({ weight: 1, arbitrary: decoding }, { weight: 2, arbitrary: lengths }),
  n: lengths,
  k: lengths,
  transposeA: fc.boolean(),
  transposeB: fc.boolean(),
}
const factors = fc.constantFrom(1, 0.5, -2, 0.125)
const outputs: [FloatDType, FloatDType][] = floatDTypes.flatMap((from) =>
  floatDTypes.map((to) => [from, to] as [FloatDType, FloatDType]),
)

describe.each(devices)('matmul on $name', ({ device }) => {
  const stream = device.stream

  function operands(shape: Product, dtype: FloatDType, a: ArrayLike<number>, b: ArrayLike<number>) {
    const { m, n, k, transposeA, transposeB } = shape
    return {
      a: tensorOf(device, dtype, transposeA ? [k, m] : [m, k], a),
      b: tensorOf(device, dtype, transposeB ? [n, k] : [k, n], b),
      transposeA,
      transposeB,
    }
  }

  async function check(
    shape: Product,
    [from, to]: [FloatDType, FloatDType],
    { alpha, beta, random }: { alpha: number; beta: number; random: Random },
  ) {
    const { m, n, k } = shape
    const [a, b] = [random.normals(from, m * k), random.normals(from, k * n)]
    const before = random.normals(to, m * n)
    // With beta 0, the contents of c must not matter, even if they are NaN.
    const c = beta === 0 ? resultOf(device, to, [m, n]) : tensorOf(device, to, [m, n], before)
    ops.matmul(stream, { c, ...operands(shape, from, a, b), alpha, beta })
    const { product, magnitudes } = matrixProduct(a, b, shape)
    const expected = product.map((value, i) => alpha * value + beta * before[i])
    // Any summation order of k products in float32 is off by at most (k + 2) roundoffs of the sum of magnitudes; then
    // one rounding to the result's dtype.
    const absolute = magnitudes.map((sum, i) => {
      return (k + 2) * roundoff.float32 * (Math.abs(alpha) * sum + Math.abs(beta * before[i]))
    })
    expectClose(await valuesOf(c), expected, { relative: 1.01 * roundoff[to], absolute })
  }

  it.each(outputs)('matmul of %s into %s computes products of any shape and transposition', async (from, to) => {
    await forAll(shapes, (shape) => check(shape, [from, to], { alpha: 1, beta: 0, random: shape.random }), 60)
  })

  it.each(outputs)(
    'matmul of %s into %s scales by alpha and adds beta times the previous contents',
    async (from, to) => {
      const all = { ...shapes, alpha: factors, beta: fc.oneof(fc.constantFrom(0, 1), factors) }
      await forAll(all, ({ alpha, beta, random, ...shape }) => check(shape, [from, to], { alpha, beta, random }), 40)
    },
  )

  it.each(floatDTypes)('matmul of integers in %s is exact: no term is lost, doubled, or misplaced', async (dtype) => {
    await forAll(
      shapes,
      async ({ random, ...shape }) => {
        const { m, n, k } = shape
        const whole = (count: number) => Float64Array.from({ length: count }, () => random.below(9) - 4)
        const [a, b] = [whole(m * k), whole(k * n)]
        const c = tensorOf(device, 'float32', [m, n], 3)
        ops.matmul(stream, { c, ...operands(shape, dtype, a, b), beta: 1 })
        expect(await valuesOf(c)).toEqual(matrixProduct(a, b, shape).product.map((value) => value + 3))
      },
      40,
    )
  })

  it.each(floatDTypes)('matmul sums %s in float32 over a long inner dimension', async (dtype) => {
    // 4096 ones and then 1/4: a sum kept in bfloat16 would stop growing at 256.
    const k = 4097
    const ones = Float64Array.from({ length: k }, (_, i) => (i === k - 1 ? 0.25 : 1))
    for (const m of [1, 3, 40]) {
      const c = resultOf(device, 'float32', [m, 1])
      const a = tensorOf(device, dtype, [m, k], 1)
      ops.matmul(stream, { c, a, b: tensorOf(device, dtype, [k, 1], ones) })
      expect(await valuesOf(c)).toEqual(new Float64Array(m).fill(4096.25))
    }
  })

  it('matmul accumulates over several calls with beta 1, as for weight gradients', async () => {
    const dw = tensorOf(device, 'float32', [6, 5], 0)
    for (const scale of [1, 2, 4]) {
      const dy = tensorOf(device, 'bfloat16', [3, 6], scale)
      ops.matmul(stream, { c: dw, a: dy, b: tensorOf(device, 'bfloat16', [3, 5], 0.5), transposeA: true, beta: 1 })
    }
    expect(await valuesOf(dw)).toEqual(new Float64Array(30).fill(10.5))
  })

  it.each(floatDTypes)('matmul propagates a NaN or an infinity in %s to its row and nowhere else', async (dtype) => {
    for (const m of [2, 33]) {
      const a = new Float64Array(m * 40).fill(1)
      a[3] = Number.NaN
      a[40 + 5] = Number.POSITIVE_INFINITY
      const c = resultOf(device, dtype, [m, 24])
      ops.matmul(stream, { c, a: tensorOf(device, dtype, [m, 40], a), b: tensorOf(device, dtype, [40, 24], 1) })
      const rows = Array.from({ length: m }, (_, i) => [Number.NaN, Number.POSITIVE_INFINITY][i] ?? 40)
      expect(await valuesOf(c)).toEqual(Float64Array.from(rows.flatMap((value) => Array(24).fill(value))))
    }
  })

  it.each(floatDTypes)('matmul of %s gives a row the same bits alone and in a batch, for decoding', async (dtype) => {
    const shapes = { n: fc.constantFrom(1, 7, 8, 33, 100), k: fc.constantFrom(1, 31, 32, 33, 250, 256, 1000, 1032) }
    await forAll(
      shapes,
      async ({ n, k, random }) => {
        const a = tensorOf(device, dtype, [8, k], random.normals(dtype, 8 * k))
        const b = tensorOf(device, dtype, [n, k], random.normals(dtype, n * k))
        const product = async (first: number, last: number) => {
          const c = resultOf(device, 'float32', [last - first, n])
          ops.matmul(stream, { c, a: a.rows(first, last), b, transposeB: true })
          return Array.from(await valuesOf(c))
        }
        const together = await product(0, 8)
        for (const row of [0, 3, 7]) expect(await product(row, row + 1)).toEqual(together.slice(row * n, (row + 1) * n))
        expect(await product(1, 6)).toEqual(together.slice(n, 6 * n))
      },
      15,
    )
  })

  it.each(floatDTypes)('matmul supports %s tensors that start at any element', async (dtype) => {
    // Rows of 3, 5 and 8 elements from row 1 on: the addresses are aligned only to the size of an element.
    for (const m of [1, 5, 20]) {
      for (const [k, n] of [
        [3, 5],
        [8, 8],
        [5, 16],
      ]) {
        const random = new Random(31)
        const [a, b] = [random.normals(dtype, m * k), random.normals(dtype, n * k)]
        const behindOne = (rows: number, values: Float64Array) => {
          const padded = Float64Array.from([...new Float64Array(k).fill(Number.NaN), ...values])
          return tensorOf(device, dtype, [rows + 1, k], padded).rows(1, rows + 1)
        }
        const c = resultOf(device, dtype, [m + 1, n])
        ops.matmul(stream, { c: c.rows(1, m + 1), a: behindOne(m, a), b: behindOne(n, b), transposeB: true })
        const { product } = matrixProduct(a, b, { m, n, k, transposeA: false, transposeB: true })
        const values = await valuesOf(c)
        expect(values.subarray(0, n)).toEqual(new Float64Array(n).fill(Number.NaN))
        expectClose(values.subarray(n), product, { relative: 1.01 * roundoff[dtype], ofLargest: 1e-6 })
      }
    }
  })

  it('matmul over zero terms yields beta times the previous contents, and does nothing with zero rows', async () => {
    const c = tensorOf(device, 'float32', [2, 3], 4)
    const empty = { a: tensorOf(device, 'float32', [2, 0], []), b: tensorOf(device, 'float32', [0, 3], []) }
    ops.matmul(stream, { c, ...empty, beta: 0.5 })
    expect(await valuesOf(c)).toEqual(new Float64Array(6).fill(2))
    ops.matmul(stream, { c, ...empty })
    expect(await valuesOf(c)).toEqual(new Float64Array(6))
    ops.matmul(stream, {
      c: tensorOf(device, 'float32', [0, 3], []),
      a: tensorOf(device, 'float32', [0, 4], []),
      b: tensorOf(device, 'float32', [4, 3], 1),
    })
    await stream.synchronize()
  })
})
