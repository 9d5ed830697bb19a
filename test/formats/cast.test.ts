import { readFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type CastDType, castBytes, castChunks } from '../../lib/formats/cast.js'
import { openSafetensors } from '../../lib/formats/safetensors/safetensors.js'
import { readTensor } from '../../lib/io/stream.js'
import { fixtures } from './helpers.js'

const types = ['float64', 'float32', 'float16', 'bfloat16'] as const
const size = { float64: 8, float32: 4, float16: 2, bfloat16: 2 }
const bytesOf = (array: ArrayBufferView) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)

/** Whether two numbers of a type are equal; all NaNs count as equal. */
function equalBits(a: Uint8Array, b: Uint8Array, type: 'float16' | 'bfloat16'): boolean {
  const [x, y] = [a, b].map((bytes) => new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2))
  const infinity = type === 'float16' ? 0x7c00 : 0x7f80
  const isNotNumber = (bits: number) => (bits & 0x7fff) > infinity
  return x!.every((bits, i) => bits === y![i] || (isNotNumber(bits) && isNotNumber(y![i]!)))
}

describe('converting floating-point types', () => {
  it('rounds and widens like PyTorch', async () => {
    const source = await openSafetensors(path.join(fixtures, 'torch_written/casts.safetensors'))
    for (const from of types) {
      const values = await readTensor(source, from)
      for (const to of types) {
        const expected = await readTensor(source, `${from}.${to}`)
        const converted = castBytes(values, from, to)
        expect(converted).toHaveLength(expected.length)
        if (to === 'float16' || to === 'bfloat16') expect(equalBits(converted, expected, to)).toBe(true)
        else if (to === 'float32') {
          const [a, b] = [converted, expected].map((bytes) => new Float32Array(new Uint8Array(bytes).buffer))
          expect(a).toEqual(b)
        } else
          expect(new Float64Array(new Uint8Array(converted).buffer)).toEqual(
            new Float64Array(new Uint8Array(expected).buffer),
          )
      }
    }
    await source.close()
  })

  it.each(['float16', 'bfloat16'] as const)('widening and narrowing preserves every %s', (type) => {
    const all = bytesOf(Uint16Array.from({ length: 65536 }, (_, i) => i))
    const wide = castBytes(all, type, 'float32')
    expect(equalBits(castBytes(wide, 'float32', type), all, type)).toBe(true)
    expect(equalBits(castBytes(castBytes(wide, 'float32', 'float64'), 'float64', type), all, type)).toBe(true)
  })

  it('rounds to the nearest neighbor, ties to even', () => {
    // float16 has 11 bits, so between 2048 and 4096 it represents only even numbers.
    const values = Float32Array.of(2049, 2051, 2049.001, 2050.999, -2049, 65504, 65519.99, 2 ** -25, 2 ** -25 * 1.001)
    const halves = castBytes(bytesOf(values), 'float32', 'float16')
    const back = new Float32Array(castBytes(halves, 'float16', 'float32').slice().buffer)
    expect([...back]).toEqual([2048, 2052, 2050, 2050, -2048, 65504, 65504, 0, 2 ** -24])
  })

  it('counts the numbers that became infinite, and no others', async () => {
    const count = async (values: ArrayBufferView, from: CastDType, to: CastDType) => {
      const losses = { overflows: 0 }
      for await (const _ of castChunks([bytesOf(values)], from, to, losses));
      return losses.overflows
    }
    const values = Float32Array.of(1, 65520, -1e9, 65519, Number.POSITIVE_INFINITY, Number.NaN, 3.4e38)
    expect(await count(values, 'float32', 'float16')).toBe(3)
    expect(await count(values, 'float32', 'bfloat16')).toBe(1)
    expect(await count(Float64Array.of(1e39, 1), 'float64', 'float32')).toBe(1)
  })

  it('converts independently of how elements are split into pieces or aligned in memory', async () => {
    const values = readFileSync(path.join(fixtures, 'd100/model.safetensors')).subarray(3000, 3000 + 8 * 500)
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...types),
        fc.constantFrom(...types),
        fc.integer({ min: 1, max: 99 }),
        fc.nat(7),
        async (from, to, elements, shift) => {
          const moved = Buffer.alloc(values.length + shift).subarray(shift)
          values.copy(moved)
          const pieces = function* () {
            for (let at = 0; at < moved.length; at += elements * size[from]) {
              yield moved.subarray(at, at + elements * size[from])
            }
          }
          const parts: Buffer[] = []
          for await (const part of castChunks(pieces(), from, to)) parts.push(Buffer.from(part))
          expect(Buffer.concat(parts).equals(castBytes(Buffer.from(values), from, to))).toBe(true)
        },
      ),
      { seed: 41, numRuns: 60 },
    )
  })
})
