import { type CastLosses, castBytes } from '../cast.js'

/** Numbers per block, which share a scale. */
export const Q8_0_BLOCK = 32
const BLOCK_BYTES = 2 + Q8_0_BLOCK

/**
 * ggml's Q8_0: blocks of 32 numbers, each a float16 scale d = max|x| / 127 and 32 bytes round(x / d), halves away from
 * zero. Bit-identical to `quantize_row_q8_0_ref` of ggml-quants.c, which multiplies by 1/d in float32.
 * @param values their number is a multiple of 32
 * @param losses counts finite values in blocks whose scale overflows float16, which makes all of them infinite or NaN
 */
export function quantizeQ8_0(values: Float32Array, losses: CastLosses = { overflows: 0 }): Uint8Array {
  if (values.length % Q8_0_BLOCK !== 0) throw new RangeError(`${values.length} numbers are not whole blocks of 32`)
  const scales = new Float32Array(values.length / Q8_0_BLOCK)
  const result = new Uint8Array(scales.length * BLOCK_BYTES)
  for (let block = 0; block < scales.length; block++) {
    const start = block * Q8_0_BLOCK
    let most = 0
    for (let i = start; i < start + Q8_0_BLOCK; i++) most = Math.max(most, Math.abs(values[i]!))
    scales[block] = most / 127
    const inverse = scales[block] === 0 ? 0 : Math.fround(1 / scales[block]!)
    for (let i = start, to = block * BLOCK_BYTES + 2; i < start + Q8_0_BLOCK; i++) {
      const scaled = Math.fround(values[i]! * inverse)
      const magnitude = Math.abs(scaled)
      const floor = Math.floor(magnitude)
      const rounded = magnitude - floor >= 0.5 ? floor + 1 : floor // adding a half and truncating would round twice
      result[to++] = scaled < 0 ? -rounded : rounded // two's complement
    }
  }
  const halves = castBytes(new Uint8Array(scales.buffer), 'float32', 'float16')
  for (let block = 0; block < scales.length; block++) {
    result[block * BLOCK_BYTES] = halves[2 * block]!
    result[block * BLOCK_BYTES + 1] = halves[2 * block + 1]!
    const isLost = (halves[2 * block + 1]! & 0x7c) === 0x7c // the five bits of the exponent
    if (isLost) losses.overflows += countFinite(values.subarray(block * Q8_0_BLOCK, (block + 1) * Q8_0_BLOCK))
  }
  return result
}

function countFinite(values: Float32Array): number {
  let count = 0
  for (const value of values) if (Number.isFinite(value)) count++
  return count
}
