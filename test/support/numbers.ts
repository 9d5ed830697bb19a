/** Numbers in the precision of the storage types, and reproducible random numbers in them. */
import type { DType } from '../../lib/tensor.js'

/** The types that the ops compute with. */
export type FloatDType = 'float32' | 'bfloat16'
export const floatDTypes: readonly FloatDType[] = ['float32', 'bfloat16']

const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

/** The bits of the nearest bfloat16 to a float32, ties to even. */
export function bfloat16Bits(value: number): number {
  float[0] = value
  if (Number.isNaN(value)) return 0x7fc0
  const above = bits[0] >>> 16
  const rest = bits[0] & 0xffff
  return rest > 0x8000 || (rest === 0x8000 && above % 2 === 1) ? above + 1 : above
}

export function fromBfloat16Bits(half: number): number {
  bits[0] = half << 16
  return float[0]
}

/** IEEE 754 binary16, from its definition. */
export function fromFloat16Bits(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 0x1f
  const fraction = (half & 0x3ff) / 1024
  if (exponent === 0x1f) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15))
}

/** A number rounded to float32 or bfloat16. */
export function rounded(dtype: FloatDType, value: number): number {
  return dtype === 'float32' ? Math.fround(value) : fromBfloat16Bits(bfloat16Bits(value))
}

/** The elements of a tensor of `dtype`, in the form that `Stream.write` accepts. */
export function encode(dtype: DType, values: ArrayLike<number>): Float32Array | Int32Array | Uint16Array {
  if (dtype === 'float32') return Float32Array.from(values)
  if (dtype === 'int32') return Int32Array.from(values)
  if (dtype === 'bfloat16') return Uint16Array.from(values, bfloat16Bits)
  throw new Error('the tests write float16 as bits')
}

/** The numbers that raw elements represent. */
export function decode(dtype: DType, elements: ArrayLike<number>): Float64Array {
  if (dtype === 'bfloat16') return Float64Array.from(elements, fromBfloat16Bits)
  return Float64Array.from(elements, dtype === 'float16' ? fromFloat16Bits : Number)
}

/** Reproducible random numbers: mulberry32, and Box and Muller's normal numbers from it. */
export class Random {
  constructor(private state: number) {}

  /** In [0, 1). */
  uniform(): number {
    this.state = (this.state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }

  /** An integer in [0, limit). */
  below(limit: number): number {
    return Math.floor(this.uniform() * limit)
  }

  integers(count: number, limit: number): Int32Array {
    return Int32Array.from({ length: count }, () => this.below(limit))
  }

  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform())
  }

  /** Normal numbers that `dtype` represents exactly, so that the reference and the op have the same inputs. */
  normals(dtype: FloatDType, count: number, scale = 1): Float64Array {
    return Float64Array.from({ length: count }, () => rounded(dtype, scale * this.normal()))
  }
}
