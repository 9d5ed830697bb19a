import { createHash } from 'node:crypto'
import { existsSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { CheckpointError } from '../../lib/errors.js'
import { openSafetensors } from '../../lib/formats/safetensors/safetensors.js'
import { type TensorToWrite, writeSafetensors } from '../../lib/formats/safetensors/safetensors-writer.js'
import { HandlePool } from '../../lib/formats/weight-file.js'
import { DTYPE_BYTES, type WeightDType } from '../../lib/io/weight-source.js'
import { contentsOf, fixtures, float32, rejection, temporaryDirectory, tensor } from './helpers.js'

const directory = temporaryDirectory()
const at = (name: string) => path.join(directory, name)

/** A file with this header text before `dataBytes` zeros. */
function craft(header: string | Buffer, dataBytes = 0, length = Buffer.byteLength(header)): string {
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(length))
  writeFileSync(at('crafted.safetensors'), Buffer.concat([size, Buffer.from(header), Buffer.alloc(dataBytes)]))
  return at('crafted.safetensors')
}

const entry = (shape: unknown, offsets: unknown, dtype: unknown = 'F32') => ({ dtype, shape, data_offsets: offsets })

describe('reading safetensors', () => {
  it('reads the values that PyTorch wrote to a safetensors file', async () => {
    const source = await openSafetensors(path.join(fixtures, 'torch_bin/expected.safetensors'))
    const { i64, scalar, empty, bool, f16 } = await contentsOf(source)
    expect(i64).toEqual({
      dtype: 'int64',
      shape: [5],
      bytes: Buffer.from(BigInt64Array.of(0n, 1n, 2n, 3n, 4n).buffer).toString('hex'),
    })
    expect(scalar).toEqual({
      dtype: 'float32',
      shape: [],
      bytes: Buffer.from(Float32Array.of(2.5).buffer).toString('hex'),
    })
    expect(empty).toEqual({ dtype: 'float32', shape: [0, 4], bytes: '' })
    expect(bool).toEqual({ dtype: 'bool', shape: [3], bytes: '010001' })
    expect(f16).toMatchObject({ dtype: 'float16', shape: [7] })
    await source.close()
  })

  it('reads a piece in the middle of a tensor, and rejects one outside of it', async () => {
    await writeSafetensors(at('a.safetensors'), [float32('a', [2, 3], [0, 1, 2, 3, 4, 5])])
    const source = await openSafetensors(at('a.safetensors'))
    const piece = Buffer.alloc(8)
    await source.read('a', 12, piece)
    expect([piece.readFloatLE(0), piece.readFloatLE(4)]).toEqual([3, 4])
    await expect(source.read('a', 20, piece)).rejects.toThrow(RangeError)
    await expect(source.read('a', 2, piece)).rejects.toThrow(RangeError)
    await expect(source.read('b', 0, piece)).rejects.toThrow(/no tensor b/)
    await source.close()
    await expect(source.read('a', 0, piece)).rejects.toThrow(/closed/)
  })

  it.each<[string, () => string, RegExp]>([
    ['a header beyond the limit', () => craft('{}', 0, 100_000_001), /100000001 bytes/],
    ['a header longer than the file', () => craft('{}', 0, 1000), /cut short/],
    [
      'a file of less than eight bytes',
      () => {
        writeFileSync(at('tiny.safetensors'), 'abc')
        return at('tiny.safetensors')
      },
      /cut short/,
    ],
    ['a header that is not UTF-8', () => craft(Buffer.from([0x7b, 0xff, 0x7d])), /not UTF-8/],
    ['a header that is not JSON', () => craft('{"a":'), /not JSON/],
    ['a header that is a list', () => craft('[]'), /not a JSON object/],
    ['a header with leading spaces', () => craft('  {}'), /not a JSON object/],
    [
      'a tensor named twice',
      () => craft(`{"a":${JSON.stringify(entry([1], [0, 4]))},"a":${JSON.stringify(entry([1], [0, 4]))}}`, 4),
      /twice/,
    ],
    [
      'a field named twice',
      () => craft('{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', 4),
      /twice/,
    ],
    ['deep nesting', () => craft(`{"a":${'['.repeat(100_000)}`), /nested/],
    ['an unknown type', () => craft(JSON.stringify({ a: entry([2], [0, 1], 'F4') }), 1), /"F4"/],
    ['a negative size', () => craft(JSON.stringify({ a: entry([-1], [0, 4]) }), 4), /shape/],
    ['a fractional size', () => craft(JSON.stringify({ a: entry([0.5], [0, 2]) }), 2), /shape/],
    [
      'a shape whose product overflows',
      () => craft(JSON.stringify({ a: entry([2 ** 30, 2 ** 30], [0, 4]) }), 4),
      /too large/,
    ],
    ['a shape that does not fit its bytes', () => craft(JSON.stringify({ a: entry([2], [0, 4]) }), 4), /needs 8 bytes/],
    ['offsets that are not numbers', () => craft(JSON.stringify({ a: entry([1], ['0', '4']) }), 4), /data_offsets/],
    [
      'offsets that end before they begin',
      () => craft(JSON.stringify({ a: entry([1], [4, 0]) }), 4),
      /data_offsets span -4/,
    ],
    [
      'a hole',
      () => craft(JSON.stringify({ a: entry([1], [0, 4]), b: entry([1], [8, 12]) }), 12),
      /b begins at byte 8/,
    ],
    [
      'an overlap',
      () => craft(JSON.stringify({ a: entry([2], [0, 8]), b: entry([1], [4, 8]) }), 8),
      /b begins at byte 4/,
    ],
    [
      'a first tensor that does not begin at the start',
      () => craft(JSON.stringify({ a: entry([1], [4, 8]) }), 8),
      /begins at byte 4/,
    ],
    ['data cut short', () => craft(JSON.stringify({ a: entry([4], [0, 16]) }), 12), /cut short/],
    ['data that no tensor claims', () => craft(JSON.stringify({ a: entry([1], [0, 4]) }), 5), /5 follow it/],
    ['metadata that is not text', () => craft('{"__metadata__":{"step":3}}'), /__metadata__\.step/],
    [
      'a Git LFS pointer',
      () => {
        writeFileSync(at('lfs.safetensors'), 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13\n')
        return at('lfs.safetensors')
      },
      /git lfs pull/,
    ],
    ['a missing file', () => at('nowhere.safetensors'), /no such file/],
    ['a directory', () => directory, /not a file/],
  ])('rejects as safetensors: %s', async (_, make, message) => {
    const file = make()
    const error = await rejection(openSafetensors(file))
    expect(error.message).toContain(file)
    expect(error.message).toMatch(message)
  })

  it('keeps tensor names that are special in JavaScript objects', async () => {
    const names = ['__proto__', 'constructor', '10', '9', 'toString']
    await writeSafetensors(
      at('names.safetensors'),
      names.map((name, i) => float32(name, [1], [i])),
    )
    const source = await openSafetensors(at('names.safetensors'))
    const contents = await contentsOf(source)
    await source.close()
    const values = names.map((name) =>
      Buffer.from(Object.getOwnPropertyDescriptor(contents, name)!.value.bytes, 'hex').readFloatLE(),
    )
    expect(values).toEqual([0, 1, 2, 3, 4])
  })

  it('detects a safetensors file that was replaced while it was open', async () => {
    await writeSafetensors(at('changing.safetensors'), [float32('a', [1], [1])])
    const pool = new HandlePool()
    const source = await openSafetensors(at('changing.safetensors'), pool)
    await pool.close()
    await writeSafetensors(at('changing.safetensors'), [float32('a', [2], [1, 2])])
    await expect(source.read('a', 0, Buffer.alloc(4))).rejects.toThrow(/changed by another program/)
  })

  it('any damage to a safetensors header gives an error that names the file, or other names and values', async () => {
    const original = readFileSync(path.join(fixtures, 'torch_bin/expected.safetensors'))
    const headerEnd = 8 + Number(original.readBigUInt64LE())
    const file = at('damaged.safetensors')
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(headerEnd - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        fc.option(fc.nat(original.length - 1), { freq: 8 }),
        async (damages, cut) => {
          const bytes = Buffer.from(original)
          for (const [position, value] of damages) bytes[position] = value
          writeFileSync(file, bytes.subarray(0, cut ?? bytes.length))
          try {
            const source = await openSafetensors(file)
            await contentsOf(source)
            await source.close()
          } catch (error) {
            expect(error).toBeInstanceOf(CheckpointError)
            expect((error as Error).message).toContain(file)
          }
        },
      ),
      { seed: 11, numRuns: 400 },
    )
  })
})

describe('writing safetensors', () => {
  it.each(['d100/model.safetensors', 'gqa.golden.safetensors', 'torch_bin/expected.safetensors'])(
    'writes the same safetensors bytes as the reference implementation: %s',
    async (name) => {
      const original = path.join(fixtures, name)
      const source = await openSafetensors(original)
      const tensors: TensorToWrite[] = [...source.tensors.values()].reverse().map((info) => ({
        ...info,
        async *data() {
          for (let byteOffset = 0; byteOffset < info.bytes; byteOffset += 4096) {
            const piece = Buffer.alloc(Math.min(4096, info.bytes - byteOffset))
            await source.read(info.name, byteOffset, piece)
            yield piece
          }
        },
      }))
      const metadata = Object.fromEntries(source.metadata)
      const written = await writeSafetensors(at('copy.safetensors'), tensors, { metadata, checksum: true })
      const expected = readFileSync(original)
      expect(readFileSync(at('copy.safetensors')).equals(expected)).toBe(true)
      expect(written).toEqual({ bytes: expected.length, sha256: createHash('sha256').update(expected).digest('hex') })
      await source.close()
    },
  )

  it('reads back any tensors that it wrote to a safetensors file', async () => {
    const types = Object.keys(DTYPE_BYTES) as WeightDType[]
    const anyTensor = fc
      .record({
        name: fc.string({ unit: 'grapheme' }),
        dtype: fc.constantFrom(...types),
        shape: fc.array(fc.nat(5), { maxLength: 3 }),
      })
      .chain(({ name, dtype, shape }) => {
        const length = shape.reduce((a, b) => a * b, DTYPE_BYTES[dtype])
        return fc.uint8Array({ minLength: length, maxLength: length }).map((bytes) => tensor(name, dtype, shape, bytes))
      })
      .filter(({ name }) => name !== '__metadata__')
    const tensors = fc.uniqueArray(anyTensor, { selector: ({ name }) => name, maxLength: 8 })
    await fc.assert(
      fc.asyncProperty(tensors, fc.dictionary(fc.string(), fc.string()), async (written, metadata) => {
        await writeSafetensors(at('any.safetensors'), written, { metadata })
        const source = await openSafetensors(at('any.safetensors'))
        const sorted = [...written].sort((a, b) => (a.name < b.name ? -1 : 1))
        const expected = sorted.map(({ name, dtype, shape, data }): [string, object] => [
          name,
          { dtype, shape, bytes: Buffer.from(data() as Uint8Array).toString('hex') },
        ])
        expect(await contentsOf(source)).toEqual(Object.fromEntries(expected))
        expect([...source.metadata].sort()).toEqual(Object.entries(metadata).sort())
        expect(statSync(at('any.safetensors')).size % 8).toBe(
          [...source.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0) % 8,
        )
        await source.close()
      }),
      { seed: 12, numRuns: 60 },
    )
  })

  it.each([
    ['fewer', [4, 4], /should give 12 bytes .* gave 8/],
    ['more', [4, 4, 8], /should give 12 bytes .* gave more/],
  ])('rejects a tensor with %s bytes than its shape requires, and leaves no file', async (_, lengths, message) => {
    const data = async function* () {
      for (const length of lengths) yield new Uint8Array(length)
    }
    const error = await rejection(
      writeSafetensors(at('wrong.safetensors'), [{ name: 'w', dtype: 'float32', shape: [3], data }]),
    )
    expect(error.message).toMatch(message)
    expect(existsSync(at('wrong.safetensors'))).toBe(false)
  })

  it('rejects invalid names and shapes before it writes', async () => {
    const one = float32('a', [1], [1])
    await expect(writeSafetensors(at('no.safetensors'), [one, one])).rejects.toThrow(/a second time/)
    await expect(writeSafetensors(at('no.safetensors'), [float32('__metadata__', [1], [1])])).rejects.toThrow(
      RangeError,
    )
    await expect(writeSafetensors(at('no.safetensors'), [float32('a', [-1], [])])).rejects.toThrow(/impossible shape/)
    expect(existsSync(at('no.safetensors'))).toBe(false)
  })

  it('reports a full disk, and leaves no file', async () => {
    symlinkSync('/dev/full', at('full.safetensors'))
    const error = await rejection(writeSafetensors(at('full.safetensors'), [float32('a', [1], [1])]))
    expect(error.message).toMatch(/the disk is full \(.* are needed, .* are free\); nothing was changed/)
    expect(existsSync(at('full.safetensors'))).toBe(false)
    expect(existsSync('/dev/full')).toBe(true)
  })
})
