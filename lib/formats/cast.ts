/**
 * Conversion between the floating-point types of weight files, on the CPU and without the addon. Rounds to nearest,
 * ties to even, as PyTorch does.
 */
import { DTYPE_BYTES, type WeightDType } from '../io/weight-source.js'

/** The types that can be converted into each other. */
export type CastDType = 'float64' | 'float32' | 'float16' | 'bfloat16'

export function isCastable(dtype: WeightDType): dtype is CastDType {
  return dtype === 'float64' || dtype === 'float32' || dtype === 'float16' || dtype === 'bfloat16'
}

/** Losses in conversions. */
export interface CastLosses {
  /** Finite values that overflowed the new type and became infinite. */
  overflows: number
}

/**
 * Converts pieces of complete elements. An output piece is overwritten when the next is requested.
 * @param losses accumulates the losses
 */
export async function* castChunks(
  chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  from: CastDType,
  to: CastDType,
  losses: CastLosses = { overflows: 0 },
): AsyncGenerator<Uint8Array> {
  let buffers = new Buffers(0, to)
  for await (const chunk of chunks) {
    if (from === to) {
      yield chunk
      continue
    }
    const count = chunk.length / DTYPE_BYTES[from]
    if (count > buffers.count) buffers = new Buffers(count, to)
    losses.overflows += buffers.store(buffers.load(chunk, from, count), from, to)
    yield buffers.out.subarray(0, count * DTYPE_BYTES[to])
  }
}

/** `castChunks` for bytes in memory. */
export function castBytes(bytes: Uint8Array, from: CastDType, to: CastDType): Uint8Array {
  if (from === to) return bytes
  const count = bytes.length / DTYPE_BYTES[from]
  const buffers = new Buffers(count, to)
  buffers.store(buffers.load(bytes, from, count), from, to)
  return buffers.out
}

/** Buffers for one piece: as float32, the intermediate type of every conversion, and as output. */
class Buffers {
  /** Signed: small enough for V8's fastest arithmetic. */
  private readonly bits: Int32Array
  readonly out: Uint8Array
  private readonly floats: Float32Array

  constructor(
    readonly count: number,
    to: CastDType,
  ) {
    this.floats = new Float32Array(count)
    this.bits = new Int32Array(this.floats.buffer)
    this.out = to === 'float32' ? new Uint8Array(this.floats.buffer) : new Uint8Array(count * DTYPE_BYTES[to])
  }

  /** @returns the numbers' float32 bits, without a copy if the chunk has them */
  load(chunk: Uint8Array, from: CastDType, count: number): Int32Array {
    const aligned = chunk.byteOffset % DTYPE_BYTES[from] === 0 ? chunk : new Uint8Array(chunk)
    if (from === 'float64') {
      this.floats.set(new Float64Array(aligned.buffer, aligned.byteOffset, count))
      return this.bits.subarray(0, count)
    }
    if (from === 'float32') return new Int32Array(aligned.buffer, aligned.byteOffset, count)
    const halves = new Uint16Array(aligned.buffer, aligned.byteOffset, count)
    const { bits } = this
    if (from === 'bfloat16') for (let i = 0; i < count; i++) bits[i] = halves[i]! << 16
    else {
      const table = float16Table()
      for (let i = 0; i < count; i++) bits[i] = table[halves[i]!]!
    }
    return bits.subarray(0, count)
  }

  /** @returns the number of finite values that became infinite */
  store(bits: Int32Array, from: CastDType, to: CastDType): number {
    if (to === 'float64') {
      new Float64Array(this.out.buffer).set(new Float32Array(bits.buffer, bits.byteOffset, bits.length))
    }
    if (to === 'bfloat16') return toBfloat16(bits, new Uint16Array(this.out.buffer))
    if (to === 'float16') return toFloat16(bits, new Uint16Array(this.out.buffer))
    // A float64 beyond float32 is infinite by now; usable weights are finite, so the input was finite.
    return to === 'float32' && from === 'float64' ? countInfinite(bits) : 0
  }
}

function countInfinite(bits: Int32Array): number {
  let infinite = 0
  for (let i = 0; i < bits.length; i++) if ((bits[i]! & 0x7fffffff) === 0x7f800000) infinite++
  return infinite
}

/** The number of infinite and NaN values; 0 for types without them. */
export function countNonFinite(bytes: Uint8Array, dtype: string): number {
  const exponent = { float32: 0x7f800000, bfloat16: 0x7f80, float16: 0x7c00 }[dtype]
  if (exponent === undefined) return 0
  const { buffer, byteOffset, byteLength } = bytes
  const numbers =
    dtype === 'float32'
      ? new Uint32Array(buffer, byteOffset, byteLength / 4)
      : new Uint16Array(buffer, byteOffset, byteLength / 2)
  let count = 0
  for (let i = 0; i < numbers.length; i++) if ((numbers[i]! & exponent) === exponent) count++
  return count
}

/** From here on no finite value is nearest; above infinity are the NaNs. */
const BFLOAT16_OVERFLOWS = 0x7f7f8000

/** The upper half is the nearest bfloat16 of a finite float32, ties to even. */
function rounded(x: number): number {
  return x + 0x7fff + ((x >>> 16) & 1)
}

function toBfloat16(bits: Int32Array, out: Uint16Array): number {
  const pairs = new Int32Array(out.buffer, out.byteOffset, bits.length >>> 1) // one store for two takes half the time
  let overflows = 0
  for (let pair = 0, i = 0; pair < pairs.length; pair++, i += 2) {
    const low = bits[i]!
    const high = bits[i + 1]!
    if ((low & 0x7fffffff) >= BFLOAT16_OVERFLOWS || (high & 0x7fffffff) >= BFLOAT16_OVERFLOWS) {
      overflows += storeBfloat16(bits, out, i) + storeBfloat16(bits, out, i + 1)
    } else {
      pairs[pair] = (rounded(high) & 0xffff0000) | (rounded(low) >>> 16)
    }
  }
  return bits.length % 2 === 1 ? overflows + storeBfloat16(bits, out, bits.length - 1) : overflows
}

/** Handles any value. @returns 1 for a finite value that became infinite */
function storeBfloat16(bits: Int32Array, out: Uint16Array, i: number): number {
  const x = bits[i]!
  const magnitude = x & 0x7fffffff
  // Keeps a NaN a NaN when its low bits are dropped.
  out[i] = magnitude > 0x7f800000 ? (x >>> 16) | 0x40 : rounded(x) >>> 16
  return magnitude >= BFLOAT16_OVERFLOWS && magnitude < 0x7f800000 ? 1 : 0
}

function toFloat16(bits: Int32Array, out: Uint16Array): number {
  let overflows = 0
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i]!
    const sign = (x >>> 16) & 0x8000
    const magnitude = x & 0x7fffffff
    if (magnitude >= 0x477ff000) {
      // 65520, from which on no finite value is nearest
      if (magnitude < 0x7f800000) overflows++
      out[i] = sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00)
    } else if (magnitude >= 0x38800000) {
      out[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)
    } else if (magnitude <= 0x33000000) {
      out[i] = sign // up to half of the smallest number
    } else {
      const fraction = (magnitude & 0x7fffff) | 0x800000
      const shift = 126 - (magnitude >>> 23)
      const rest = fraction & ((1 << shift) - 1)
      const half = 1 << (shift - 1)
      const whole = fraction >>> shift
      out[i] = sign | (whole + (rest > half || (rest === half && (whole & 1) === 1) ? 1 : 0))
    }
  }
  return overflows
}

let table: Uint32Array | undefined

/** The float32 bits of each of the 65,536 float16 numbers. */
function float16Table(): Uint32Array {
  if (table) return table
  const floats = new Float32Array(65536)
  table = new Uint32Array(floats.buffer)
  for (let x = 0; x < 65536; x++) {
    const exponent = (x >>> 10) & 31
    const fraction = x & 1023
    if (exponent === 31) table[x] = ((x & 0x8000) << 16) | 0x7f800000 | (fraction << 13)
    else {
      const value = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15)
      floats[x] = x & 0x8000 ? -value : value
    }
  }
  return table
}
