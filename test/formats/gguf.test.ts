import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { CheckpointError } from '../../lib/errors.js'
import { type GgufSource, readGguf } from '../../lib/formats/gguf/gguf.js'
import { type GgufTensorType, ggufTensorBytes } from '../../lib/formats/gguf/gguf-format.js'
import { type GgufValue, writeGguf } from '../../lib/formats/gguf/gguf-writer.js'
import { quantizeQ8_0 } from '../../lib/formats/gguf/q8_0.js'
import { readSafetensors } from '../support/fixtures.js'
import { fixtures, rejection, temporaryDirectory } from './helpers.js'

const root = temporaryDirectory()
const reference = path.join(fixtures, 'gguf/reference.gguf')

async function bytesOf(source: GgufSource, name: string): Promise<Buffer> {
  const bytes = Buffer.alloc(source.tensors.get(name)!.bytes)
  await source.read(name, 0, bytes)
  return bytes
}

/** Opens bytes as a GGUF file. */
async function opened(bytes: Uint8Array): Promise<GgufSource> {
  const file = path.join(root, 'made.gguf')
  writeFileSync(file, bytes)
  return readGguf(file)
}

describe("a GGUF file of llama.cpp's own writer", () => {
  it('reads every type of GGUF metadata', async () => {
    const source = await readGguf(reference)
    expect(Object.fromEntries(source.metadata)).toMatchObject({
      'general.architecture': 'llama',
      'test.uint8': 200,
      'test.int8': -100,
      'test.uint16': 60000,
      'test.int16': -30000,
      'test.uint32': 4000000000,
      'test.int32': -2000000000,
      'test.uint64': 2n ** 63n + 1n,
      'test.int64': -(2n ** 62n),
      'test.float32': Math.fround(0.1),
      'test.float64': 0.1,
      'test.bool': true,
      'test.string': 'Grüße, 🦙',
      'test.strings': ['a', '', '▁b'],
      'test.ints': Int32Array.of(1, -2, 3),
      'test.floats': Float32Array.of(0.5, -1.25),
      'test.bools': Uint8Array.of(1, 0, 1),
    })
    expect(source.version).toBe(3)
    await source.close()
  })

  it('reads GGUF tensors with their shapes and bytes, and quantizes Q8_0 identically', async () => {
    const source = await readGguf(reference)
    const values = await readSafetensors(path.join(fixtures, 'gguf/reference.safetensors'))
    const matrix = Float32Array.from(values.get('matrix')!.numbers)
    expect([...source.tensors.values()].map(({ name, type, shape }) => [name, type, shape])).toEqual([
      ...['F32', 'F16', 'BF16', 'Q8_0'].map((type) => [`matrix.${type}`, type, [8, 64]]),
      ['vector', 'F32', [64]],
    ])
    expect(await bytesOf(source, 'matrix.F32')).toEqual(Buffer.from(matrix.buffer))
    expect(await bytesOf(source, 'matrix.Q8_0')).toEqual(Buffer.from(quantizeQ8_0(matrix)))
    const part = Buffer.alloc(8)
    await source.read('vector', 16, part)
    expect(part).toEqual((await bytesOf(source, 'vector')).subarray(16, 24))
    await expect(source.read('vector', 252, part)).rejects.toThrow(RangeError)
    await expect(source.read('nothing', 0, part)).rejects.toThrow(RangeError)
    await source.close()
    await expect(source.read('vector', 0, part)).rejects.toThrow(/closed/)
  })
})

describe('writing GGUF', () => {
  it('reads back any GGUF file that it wrote, for all shapes and texts', async () => {
    const shapes = fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 4 })
    const types = fc.constantFrom<GgufTensorType>('F32', 'F16', 'Q8_0')
    const tensors = fc.uniqueArray(fc.record({ name: fc.string(), shape: shapes, type: types }), {
      selector: ({ name }) => name,
      maxLength: 5,
    })
    const texts = fc.dictionary(fc.string(), fc.string({ unit: 'grapheme' }))
    await fc.assert(
      fc.asyncProperty(tensors, texts, async (drawn, dictionary) => {
        const file = path.join(root, 'drawn.gguf')
        const whole = drawn.map((tensor) =>
          tensor.type === 'Q8_0' ? { ...tensor, shape: [...tensor.shape.slice(0, -1), 32] } : tensor,
        )
        const data = whole.map(({ shape, type }, i) => Buffer.alloc(ggufTensorBytes(shape, type)!, i + 1))
        const metadata = new Map<string, GgufValue>(
          Object.entries(dictionary).map(([key, value]) => [key, { type: 'string', value }]),
        )
        const written = await writeGguf(file, {
          metadata,
          tensors: whole.map((tensor, i) => ({ ...tensor, data: () => data[i]! })),
        })
        expect(readFileSync(file)).toHaveLength(written)
        const source = await readGguf(file)
        expect(Object.fromEntries(source.metadata)).toEqual(dictionary)
        for (const [i, { name, shape, type }] of whole.entries()) {
          expect(source.tensors.get(name)).toMatchObject({ shape, type })
          expect(source.tensors.get(name)!.offset % 32).toBe(0)
          expect(await bytesOf(source, name)).toEqual(data[i])
        }
        await source.close()
      }),
      { numRuns: 40, seed: 5 },
    )
  })

  it('keeps the old GGUF file, and nothing else, when a tensor fails in the middle', async () => {
    const directory = path.join(root, 'fails')
    const file = path.join(directory, 'model.gguf')
    const write = (data: () => AsyncIterable<Uint8Array> | Uint8Array) =>
      writeGguf(file, { metadata: new Map(), tensors: [{ name: 'a', type: 'F32', shape: [4], data }] })
    async function* broken() {
      yield Buffer.alloc(8)
      throw new Error('the source broke')
    }
    await expect(write(broken)).rejects.toThrow('the source broke')
    expect(() => readdirSync(directory)).toThrow(/ENOENT/)
    await write(() => Buffer.alloc(16, 1))
    const before = readFileSync(file)
    for (const data of [broken, () => Buffer.alloc(12), () => Buffer.alloc(20)])
      await expect(write(data)).rejects.toThrow()
    expect(readFileSync(file)).toEqual(before)
    expect(readdirSync(directory)).toEqual(['model.gguf'])
  })

  it('rejects rows that are not a multiple of a block, before it writes anything', async () => {
    const tensors = [{ name: 'a', type: 'Q8_0' as const, shape: [32, 33], data: () => Buffer.alloc(0) }]
    await expect(writeGguf(path.join(root, 'no.gguf'), { metadata: new Map(), tensors })).rejects.toThrow(
      'a cannot be Q8_0 in the shape [32,33]',
    )
    expect(readdirSync(root)).not.toContain('no.gguf')
  })
})

describe('a damaged GGUF file', () => {
  const whole = readFileSync(reference)
  /** The reference with a number overwritten at a position, or at the start of a text. */
  const changed = (at: number | string, write: (bytes: Buffer, at: number) => void): Buffer => {
    const bytes = Buffer.from(whole)
    write(bytes, typeof at === 'number' ? at : bytes.indexOf(at))
    return bytes
  }

  it.each<[string, Buffer, RegExp]>([
    ['another magic', changed(0, (b) => b.write('GGML')), /is not a GGUF file/],
    ['version 1', changed(4, (b, at) => b.writeUInt32LE(1, at)), /version 1 is not 2 or 3/],
    ['big-endian form', changed(4, (b, at) => b.writeUInt32BE(3, at)), /big-endian/],
    ['too many tensors', changed(8, (b, at) => b.writeBigUInt64LE(2n ** 40n, at)), /1099511627776 tensors do not fit/],
    ['too many keys', changed(16, (b, at) => b.writeBigUInt64LE(2n ** 63n, at)), /number of metadata keys is 922/],
    [
      'a long text',
      changed('general.arch', (b, at) => b.writeBigUInt64LE(2n ** 33n, at - 8)),
      /bytes of a metadata key/,
    ],
    [
      'an unknown type',
      changed('test.uint8', (b, at) => b.writeUInt32LE(99, at + 10)),
      /test\.uint8 has the unknown type 99/,
    ],
    ['a long list', changed('test.ints', (b, at) => b.writeBigUInt64LE(2n ** 30n, at + 17)), /elements of test\.ints/],
    ['a key twice', changed('test.uint16', (b, at) => b.write('test.uint32', at)), /the key test\.uint32 twice/],
    ['a tensor twice', changed('matrix.F16', (b, at) => b.write('matrix.F32', at)), /the tensor matrix\.F32 twice/],
    ['many dimensions', changed('matrix.F32', (b, at) => b.writeUInt32LE(9, at + 10)), /matrix\.F32 has 9 dimensions/],
    ['a large size', changed('matrix.F32', (b, at) => b.writeBigUInt64LE(2n ** 52n, at + 14)), /impossible shape/],
    [
      'half a block',
      changed('matrix.Q8_0', (b, at) => b.writeBigUInt64LE(63n, at + 15)),
      /Q8_0 in the impossible shape/,
    ],
    [
      'an unknown tensor type',
      changed('vector', (b, at) => b.writeUInt32LE(77, at + 18)),
      /vector has the unknown type 77/,
    ],
    ['a crooked offset', changed('vector', (b, at) => b.writeBigUInt64LE(33n, at + 22)), /vector begins at 33/],
    ['tensors over each other', changed('vector', (b, at) => b.writeBigUInt64LE(32n, at + 22)), /begins within/],
    ['an offset past the end', changed('vector', (b, at) => b.writeBigUInt64LE(2n ** 20n, at + 22)), /cut short/],
    ['a cut in the data', whole.subarray(0, whole.length - 40), /cut short/],
    ['a cut in the header', whole.subarray(0, 100), /do not fit|cut short/],
    ['nothing in it', Buffer.alloc(0), /cut short/],
  ])('a GGUF file with %s is rejected by name', async (_what, bytes, message) => {
    const error = await rejection(opened(bytes))
    expect(error.message).toContain('made.gguf')
    expect(error.message).toMatch(message)
  })

  it('a GGUF file with any header damage is read or rejected', async () => {
    const headerEnd = whole.indexOf('vector') + 30
    const changes = fc.array(fc.tuple(fc.nat(headerEnd - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
    await fc.assert(
      fc.asyncProperty(changes, fc.nat(whole.length), async (list, cut) => {
        const bytes = Buffer.from(cut % 3 === 0 ? whole.subarray(0, cut) : whole)
        for (const [at, byte] of list) if (at < bytes.length) bytes[at] = byte
        const result = await opened(bytes).catch((error) => error)
        if (result instanceof Error) expect(result).toBeInstanceOf(CheckpointError)
        else await result.close()
      }),
      { numRuns: 300, seed: 9 },
    )
  })
})
