import { describe, expect, it } from 'vitest'
import { quantizeQ8_0 } from '../../lib/formats/gguf/q8_0.js'
import { fromFloat16Bits, Random } from '../support/numbers.js'

/** The scale and the bytes of one block. */
function block(values: number[]): { scale: number; codes: number[] } {
  const bytes = quantizeQ8_0(Float32Array.from({ length: 32 }, (_, i) => values[i] ?? 0))
  return { scale: fromFloat16Bits(bytes[0]! | (bytes[1]! << 8)), codes: [...new Int8Array(bytes.buffer, 2)] }
}

describe('Q8_0', () => {
  it('Q8_0 rounds halves away from zero', () => {
    const { scale, codes } = block([127, 0.5, -0.5, 1.5, -2.5, 0.49999997, -127])
    expect(scale).toBe(1)
    expect(codes.slice(0, 7)).toEqual([127, 1, -1, 2, -3, 0, -127])
  })

  it('Q8_0 gives zeros for a block of zeros', () => {
    expect(block([0, -0])).toEqual({ scale: 0, codes: new Array(32).fill(0) })
  })

  it('Q8_0 is off by at most half a step plus the rounding of the step', () => {
    const random = new Random(3)
    for (const size of [1e-3, 1, 1e4]) {
      const values = [...random.normals('float32', 32, size)]
      const { scale, codes } = block(values)
      const most = Math.max(...values.map(Math.abs))
      for (const [i, value] of values.entries()) {
        expect(Math.abs(value - scale * codes[i]!)).toBeLessThanOrEqual(most / 254 + most * 2 ** -11 + 2 ** -25 * 127)
      }
    }
  })

  it('Q8_0 requires full blocks', () => {
    expect(() => quantizeQ8_0(new Float32Array(33))).toThrow(RangeError)
  })
})
