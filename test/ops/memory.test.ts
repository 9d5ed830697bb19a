import { describe, expect, it } from 'vitest'
import * as ops from '../../lib/ops.js'
import type { DType, Tensor } from '../../lib/tensor.js'
import { expectSameBits } from '../support/closeness.js'
import { devices } from '../support/devices.js'
import { bfloat16Bits, fromBfloat16Bits, fromFloat16Bits, Random } from '../support/numbers.js'
import { resultOf, tensorOf, valuesOf } from '../support/tensors.js'

const dtypes: DType[] = ['float32', 'bfloat16', 'float16', 'int32']
const all16Bits = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i)

/** The finite binary16 values in ascending order, for a search of the nearest. */
const halves = Array.from(all16Bits.subarray(0, 0x7c00), (bits) => ({ bits, value: fromFloat16Bits(bits) }))

/** The bits of the nearest binary16 value, ties to even; from 65520 on, infinity. */
function float16Bits(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
  const magnitude = Math.abs(value)
  if (magnitude >= 65520) return sign | 0x7c00
  let [low, high] = [0, halves.length]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (halves[middle].value <= magnitude) low = middle
    else high = middle
  }
  const above = halves[low + 1]?.value ?? 65536
  const toAbove = above - magnitude
  const toBelow = magnitude - halves[low].value
  return sign | (toBelow < toAbove || (toBelow === toAbove && low % 2 === 0) ? low : low + 1)
}

/** Numbers of every magnitude, midpoints between representable numbers, and special values. */
function interestingNumbers(): Float32Array {
  const random = new Random(11)
  const spread = Array.from({ length: 20_000 }, () => random.normal() * 2 ** (random.below(280) - 140))
  const ordinary = Array.from({ length: 20_000 }, () => random.normal() * 2 ** (random.below(44) - 28))
  const midpoints = halves.slice(0, -1).map(({ value }, i) => (value + halves[i + 1].value) / 2)
  const bfloat16Midpoints = Array.from({ length: 5000 }, () => {
    const bits = random.below(0x7f7f)
    return (fromBfloat16Bits(bits) + fromBfloat16Bits(bits + 1)) / 2
  })
  const special = [
    0,
    -0,
    Infinity,
    -Infinity,
    65504,
    65519.99,
    65520,
    -65520,
    3.4e38,
    -3.4e38,
    2 ** -25,
    2 ** -24,
    1e-45,
  ]
  return Float32Array.from([
    ...special,
    ...spread,
    ...ordinary,
    ...midpoints,
    ...midpoints.map((x) => -x),
    ...bfloat16Midpoints,
  ])
}

const interesting = interestingNumbers()
const nearest = {
  bfloat16: Uint16Array.from(interesting, bfloat16Bits),
  float16: Uint16Array.from(interesting, float16Bits),
}

describe.each(devices)('fill on $name', ({ device }) => {
  it.each(dtypes)('fill sets every element of %s, and nothing outside the tensor', async (dtype) => {
    for (const n of [1, 7, 64, 10_001]) {
      const whole = device.tensor(dtype, [n + 2])
      ops.fill(device.stream, { x: whole, value: 1 })
      ops.fill(device.stream, { x: whole.view([n], 1), value: -3 })
      const expected = new Float64Array(n + 2).fill(-3)
      expected[0] = 1
      expected[n + 1] = 1
      expect(await valuesOf(whole)).toEqual(expected)
    }
  })

  it('fill rounds its value to the dtype', async () => {
    const bits = async (dtype: DType, value: number) => {
      const x = device.tensor(dtype, [3])
      ops.fill(device.stream, { x, value })
      return x.toArray()
    }
    expect(await bits('bfloat16', 0.1)).toEqual(new Uint16Array(3).fill(bfloat16Bits(0.1)))
    expect(await bits('float16', 0.1)).toEqual(new Uint16Array(3).fill(float16Bits(0.1)))
    expect(await bits('float32', 0.1)).toEqual(new Float32Array(3).fill(0.1))
    expect(await bits('float32', Number.NaN)).toEqual(new Float32Array(3).fill(Number.NaN))
    expect(await bits('bfloat16', Number.NEGATIVE_INFINITY)).toEqual(new Uint16Array(3).fill(0xff80))
    expect(await bits('int32', -(2 ** 31))).toEqual(new Int32Array(3).fill(-(2 ** 31)))
  })

  it('fill does nothing to an empty tensor', async () => {
    ops.fill(device.stream, { x: device.tensor('float32', [0, 4]), value: 1 })
    await device.stream.synchronize()
  })
})

describe.each(devices)('cast on $name', ({ device }) => {
  const stream = device.stream

  function cast(src: Tensor, dtype: DType, shape = src.shape): Tensor {
    const dst = device.tensor(dtype, shape)
    ops.cast(stream, { dst, src })
    return dst
  }

  function halfTensor(dtype: 'float16' | 'bfloat16', bits: Uint16Array): Tensor {
    const tensor = device.tensor(dtype, [bits.length])
    stream.write(tensor, bits)
    return tensor
  }

  it.each(['bfloat16', 'float16'] as const)('cast rounds float32 to the nearest %s, ties to even', async (dtype) => {
    const result = await cast(tensorOf(device, 'float32', [interesting.length], interesting), dtype).toArray()
    expectSameBits(result, nearest[dtype])
  })

  it.each([
    ['bfloat16', fromBfloat16Bits],
    ['float16', fromFloat16Bits],
  ] as const)('cast converts every %s to its float32 and back', async (dtype, toNumber) => {
    const widened = cast(halfTensor(dtype, all16Bits), 'float32')
    const values = await valuesOf(widened)
    const isNotANumber = (_: number, i: number) => Number.isNaN(toNumber(i))
    const isNumber = (_: number, i: number) => !isNotANumber(_, i)
    expectSameBits(values.filter(isNumber), Float64Array.from(all16Bits.filter(isNumber), toNumber))
    expect(values.filter(isNotANumber).every(Number.isNaN)).toBe(true)
    const back = (await cast(widened, dtype).toArray()) as Uint16Array
    expectSameBits(back.filter(isNumber), all16Bits.filter(isNumber))
    expect(back.filter(isNotANumber).every((bits) => Number.isNaN(toNumber(bits)))).toBe(true)
  })

  it('cast converts between float16 and bfloat16 through float32', async () => {
    const isNumber = (bits: number) => !Number.isNaN(fromFloat16Bits(bits))
    const numbers = all16Bits.filter(isNumber)
    const result = await cast(halfTensor('float16', numbers), 'bfloat16').toArray()
    expectSameBits(
      result,
      Uint16Array.from(numbers, (bits) => bfloat16Bits(fromFloat16Bits(bits))),
    )
  })

  it('cast keeps a NaN a NaN, whatever its bits', async () => {
    const bits = Uint32Array.from([0x7f800001, 0x7fffffff, 0xff800001, 0x7fc00000, 0xffffffff])
    const src = device.tensor('float32', [5])
    stream.write(src, new Float32Array(bits.buffer))
    for (const dtype of ['bfloat16', 'float16'] as const) {
      expect(Array.from(await valuesOf(cast(src, dtype))).every(Number.isNaN)).toBe(true)
    }
  })

  it.each([
    ['float32', 'bfloat16'],
    ['bfloat16', 'float32'],
    ['float16', 'float32'],
    ['float32', 'float32'],
    ['bfloat16', 'bfloat16'],
  ] as const)('cast from %s to %s writes only the requested elements, at any offset', async (from, to) => {
    for (const [srcOffset, dstOffset] of [
      [0, 1],
      [1, 0],
      [1, 1],
      [2, 4],
    ]) {
      const n = 1027
      const [src, dst] = [device.tensor(from, [n + srcOffset]), device.tensor(to, [n + dstOffset + 1])]
      ops.fill(stream, { x: src, value: 2 })
      ops.fill(stream, { x: src.view([n - 1], srcOffset), value: -1 })
      ops.fill(stream, { x: dst, value: 7 })
      ops.cast(stream, { dst: dst.view([n], dstOffset), src: src.view([n], srcOffset) })
      const expected = new Float64Array(n + dstOffset + 1).fill(7)
      expected.fill(-1, dstOffset, n + dstOffset)
      expected[n + dstOffset - 1] = 2
      expect(await valuesOf(dst)).toEqual(expected)
    }
  })

  it.each(dtypes)('cast from %s to itself copies the bits, also to another shape', async (dtype) => {
    const bytes = Uint8Array.from({ length: 6 * (dtype.endsWith('16') ? 2 : 4) }, (_, i) => 37 * i)
    const src = device.tensor(dtype, [2, 3])
    stream.write(src, bytes)
    expectSameBits(await cast(src, dtype, [6]).toArray(), bytes)
  })

  it('cast rejects tensors of different sizes when it is called', () => {
    const [three, four] = [resultOf(device, 'float32', [3]), resultOf(device, 'bfloat16', [4])]
    expect(() => ops.cast(stream, { dst: three, src: four })).toThrow(RangeError)
    expect(() => ops.cast(stream, { dst: four, src: three })).toThrow(/^cast: /)
  })

  it('cast does not convert between int32 and other dtypes', async () => {
    ops.cast(stream, { dst: resultOf(device, 'float32', [3]), src: resultOf(device, 'int32', [3]) })
    await expect(stream.synchronize()).rejects.toMatchObject({
      code: 'UNSUPPORTED_DTYPE',
      message: 'cast: int32 cannot be cast to or from another dtype',
    })
  })
})
