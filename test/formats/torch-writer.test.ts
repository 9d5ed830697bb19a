import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { fromBuffer } from 'yauzl'
import { openTorchBin } from '../../lib/formats/torch/torch-bin.js'
import { writeTorchBin } from '../../lib/formats/torch/torch-writer.js'
import { tensorsToWrite } from '../../lib/formats/transform.js'
import type { TensorToWrite } from '../../lib/io/file-sink.js'
import { DTYPE_BYTES, tensorBytes, type WeightDType } from '../../lib/io/weight-source.js'
import { contentsOf, fixtures, float32, temporaryDirectory, tensor } from './helpers.js'

const directory = temporaryDirectory()
const at = (name: string) => path.join(directory, name)

async function readBack(file: string) {
  const source = await openTorchBin(file)
  const contents = await contentsOf(source)
  const tied = [...source.tensors.values()].flatMap(({ name, sameAs }) => (sameAs ? [[name, sameAs]] : []))
  await source.close()
  return { contents, tied }
}

/** One tensor of every type, scalars and empty tensors, and a name in another alphabet. */
function everyKind(): TensorToWrite[] {
  const types = Object.keys(DTYPE_BYTES) as WeightDType[]
  const patterned = (dtype: WeightDType, i: number) =>
    tensor(`kind.${dtype}`, dtype, [2, 3], Buffer.alloc(6 * DTYPE_BYTES[dtype], dtype === 'bool' ? 1 : 17 + i))
  return [
    ...types.map(patterned),
    float32('scalar', [], [2.5]),
    float32('empty', [0, 4], []),
    float32('größe.量', [3], [1, 2, 3]),
    { ...float32('tied', [3], [1, 2, 3]), sameAs: 'größe.量' },
  ]
}

describe('writing torch files', () => {
  it('writes the torch file that PyTorch read back with these values', async () => {
    // make_written.py has loaded every.bin with torch.load(weights_only=True), mapped and not.
    await writeTorchBin(at('every.bin'), everyKind())
    const fixture = path.join(fixtures, 'torch_written/every.bin')
    expect(readFileSync(at('every.bin')).equals(readFileSync(fixture))).toBe(true)
  })

  it('preserves types, shapes, values, order, and ties in torch files', async () => {
    await writeTorchBin(at('kinds.bin'), everyKind())
    const { contents, tied } = await readBack(at('kinds.bin'))
    const expected = everyKind().map(({ name, dtype, shape, data }) => {
      return [name, { dtype, shape, bytes: Buffer.from(data() as Uint8Array).toString('hex') }]
    })
    expect(contents).toEqual(Object.fromEntries(expected))
    expect(tied).toEqual([['tied', 'größe.量']])
  })

  it("rewrites PyTorch's own file, with views made contiguous", async () => {
    const source = await openTorchBin(path.join(fixtures, 'torch_bin/zip.bin'))
    await writeTorchBin(at('again.bin'), tensorsToWrite(source))
    const { contents, tied } = await readBack(at('again.bin'))
    expect(contents).toEqual(await contentsOf(source))
    expect(tied).toEqual([['tied_b', 'tied_a']])
    await source.close()
  })

  it('reads back any shapes in pieces of any size, with and without zip64 fields', async () => {
    const shapes = fc.array(fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }), { maxLength: 5 })
    await fc.assert(
      fc.asyncProperty(shapes, fc.integer({ min: 1, max: 50 }), fc.boolean(), async (list, piece, wide) => {
        const tensors = list.map((shape, i): TensorToWrite => {
          const bytes = Buffer.alloc(tensorBytes(shape, 'bfloat16')!, i + 1)
          const pieces = async function* () {
            for (let at = 0; at < bytes.length; at += piece) yield bytes.subarray(at, at + piece)
          }
          return { name: `t.${i}`, dtype: 'bfloat16', shape, data: pieces }
        })
        await writeTorchBin(at('any.bin'), tensors, wide ? { zip64From: 0 } : {})
        const { contents } = await readBack(at('any.bin'))
        const expected = list.map((shape, i) => {
          const hex = Buffer.alloc(tensorBytes(shape, 'bfloat16')!, i + 1).toString('hex')
          return [`t.${i}`, { dtype: 'bfloat16', shape, bytes: hex }]
        })
        expect(contents).toEqual(Object.fromEntries(expected))
      }),
      { seed: 31, numRuns: 60 },
    )
  })

  it.each([undefined, 0, 100])(
    'aligns every storage to 64 bytes and writes correct checksums (zip64 from %s)',
    async (zip64From) => {
      await writeTorchBin(at('aligned.bin'), everyKind(), { zip64From })
      const bytes = readFileSync(at('aligned.bin'))
      let storages = 0
      await new Promise<void>((resolve, reject) => {
        fromBuffer(bytes, { lazyEntries: true }, (error, zip) => {
          if (error) return reject(error)
          zip.on('entry', (entry) => {
            zip.readLocalFileHeader(entry, (problem, local) => {
              if (problem) return reject(problem)
              const data = bytes.subarray(local.fileDataStart, local.fileDataStart + entry.uncompressedSize)
              expect(local.crc32).toBe(entry.crc32)
              expect(crc32(data)).toBe(entry.crc32)
              if (entry.fileName.includes('/data/')) {
                storages++
                expect(local.fileDataStart % 64).toBe(0)
              }
              zip.readEntry()
            })
          })
          zip.on('end', resolve)
          zip.on('error', reject)
          zip.readEntry()
        })
      })
      expect(storages).toBe(everyKind().length - 1)
    },
  )

  it('rejects tensors that torch could not read, before it writes', async () => {
    const file = at('refused.bin')
    const a = float32('a', [1], [1])
    await expect(writeTorchBin(file, [a, a])).rejects.toThrow(/same name/)
    await expect(writeTorchBin(file, [{ ...a, sameAs: 'b' }])).rejects.toThrow(/tied to b/)
    await expect(writeTorchBin(file, [a, { ...float32('b', [2], [1, 2]), sameAs: 'a' }])).rejects.toThrow(/tied to a/)
    await expect(writeTorchBin(file, [tensor('a', 'float32', [-1], Buffer.alloc(0))])).rejects.toThrow(/impossible/)
    expect(existsSync(file)).toBe(false)
  })

  it.each([
    ['fewer', 4],
    ['more', 12],
  ])('leaves no torch file when a tensor has %s bytes than its shape requires', async (_, bytes) => {
    await expect(writeTorchBin(at('short.bin'), [tensor('a', 'float32', [2], Buffer.alloc(bytes))])).rejects.toThrow(
      /a should give 8 bytes/,
    )
    expect(existsSync(at('short.bin'))).toBe(false)
  })
})
