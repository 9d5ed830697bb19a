import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { openSafetensors } from '../../lib/formats/safetensors/safetensors.js'
import { writeSafetensors } from '../../lib/formats/safetensors/safetensors-writer.js'
import { openTorchBin } from '../../lib/formats/torch/torch-bin.js'
import { readAll, readTensor, tensorChunks } from '../../lib/io/stream.js'
import type { TensorInfo, WeightSource } from '../../lib/io/weight-source.js'
import { fixtures, temporaryDirectory, tensor } from '../formats/helpers.js'

const directory = temporaryDirectory()

/** A source in memory that counts the active reads. */
function memorySource(lengths: number[], read?: (name: string, byteOffset: number) => Promise<void>) {
  const data = new Map(
    lengths.map((length, i) => [`t${i}`, Buffer.from(Array.from({ length }, (_, j) => (i + j) % 251))]),
  )
  const infos = [...data].map(([name, { length: bytes }]): [string, TensorInfo] => [
    name,
    { name, dtype: 'uint8', shape: [bytes], bytes },
  ])
  const busy = { now: 0, most: 0 }
  const source: WeightSource = {
    tensors: new Map(infos),
    async read(name, byteOffset, into) {
      busy.most = Math.max(busy.most, ++busy.now)
      await (read?.(name, byteOffset) ?? new Promise(setImmediate))
      into.set(data.get(name)!.subarray(byteOffset, byteOffset + into.length))
      busy.now--
    },
    close: async () => {},
  }
  return { source, data, busy }
}

describe('reading everything', () => {
  it('reads every byte of the requested tensors exactly once, for any piece size', async () => {
    const sizes = fc.array(fc.nat(100), { maxLength: 8 })
    await fc.assert(
      fc.asyncProperty(
        sizes,
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 6 }),
        async (lengths, eights, concurrency) => {
          const { source, data, busy } = memorySource(lengths)
          const wanted = [...data.keys()].filter((_, i) => i % 3 !== 1)
          const received = new Map(wanted.map((name) => [name, Buffer.alloc(data.get(name)!.length)]))
          let bytes = 0
          await readAll(
            source,
            wanted,
            async (name, byteOffset, chunk) => {
              expect(chunk.length).toBeLessThanOrEqual(8 * eights)
              const copy = Buffer.from(chunk)
              await new Promise(setImmediate)
              expect(copy.equals(chunk)).toBe(true) // no other read overwrites it
              received.get(name)!.set(chunk, byteOffset)
              bytes += chunk.length
            },
            { chunkBytes: 8 * eights, concurrency },
          )
          for (const name of wanted) expect(received.get(name)!.equals(data.get(name)!)).toBe(true)
          expect(bytes).toBe(wanted.reduce((sum, name) => sum + data.get(name)!.length, 0))
          expect(busy.most).toBeLessThanOrEqual(concurrency)
        },
      ),
      { seed: 31, numRuns: 50 },
    )
  })

  it('keeps several reads active, in file order', async () => {
    const begun: string[] = []
    const { source, busy } = memorySource([16, 16, 16], async (name, byteOffset) => {
      begun.push(`${name}+${byteOffset}`)
      await new Promise(setImmediate)
    })
    await readAll(source, ['t2', 't0', 't1'], () => {}, { chunkBytes: 8, concurrency: 4 })
    expect(begun).toEqual(['t0+0', 't0+8', 't1+0', 't1+8', 't2+0', 't2+8'])
    expect(busy.most).toBe(4)
  })

  it.each(['reading', 'consuming'])(
    'stops at the first error in %s, after all active reads have settled',
    async (where) => {
      let reads = 0
      const fail = (name: string) => {
        if (name === 't1') throw new Error('broken')
      }
      const { source, busy } = memorySource(Array(20).fill(8), async (name) => {
        reads++
        await new Promise(setImmediate)
        if (where === 'reading') {
          busy.now -= name === 't1' ? 1 : 0
          fail(name)
        }
      })
      const consume = (name: string) => (where === 'consuming' ? fail(name) : undefined)
      await expect(readAll(source, source.tensors.keys(), consume, { chunkBytes: 8, concurrency: 3 })).rejects.toThrow(
        'broken',
      )
      expect(busy.now).toBe(0)
      expect(reads).toBeLessThan(8)
    },
  )

  it('rejects unknown names, and pieces that would split elements', async () => {
    const { source } = memorySource([8])
    await expect(readAll(source, ['t7'], () => {})).rejects.toThrow(/no tensor t7/)
    await expect(readAll(source, ['t0'], () => {}, { chunkBytes: 12 })).rejects.toThrow(/multiple of 8/)
  })

  it('reads strided torch tensors in pieces', async () => {
    const source = await openTorchBin(path.join(fixtures, 'torch_bin/zip.bin'))
    const expected = await openSafetensors(path.join(fixtures, 'torch_bin/expected.safetensors'))
    const received = new Map([...source.tensors].map(([name, { bytes }]) => [name, Buffer.alloc(bytes)]))
    const consume = (name: string, byteOffset: number, chunk: Uint8Array) => received.get(name)!.set(chunk, byteOffset)
    await readAll(source, source.tensors.keys(), consume, { chunkBytes: 16 })
    for (const [name, bytes] of received) expect(bytes.equals(await readTensor(expected, name))).toBe(true)
    await Promise.all([source.close(), expected.close()])
  })
})

describe('the pieces of a tensor', () => {
  it('the pieces of a tensor arrive in order', async () => {
    const { source, data } = memorySource([100, 0, 8])
    const file = path.join(directory, 'streamed.safetensors')
    const tensors = [...source.tensors.values()].map((info) => ({
      ...info,
      data: () => tensorChunks(source, info.name, 16),
    }))
    await writeSafetensors(file, tensors)
    const written = await openSafetensors(file)
    for (const [name, bytes] of data) expect((await readTensor(written, name)).equals(bytes)).toBe(true)
    await written.close()
  })

  it('the pieces of a tensor end with the read error, and with no active read when the consumer stops', async () => {
    const failing = memorySource([64], async (_, byteOffset) => {
      await new Promise(setImmediate)
      if (byteOffset === 16) throw new Error('broken')
    })
    const seen: number[] = []
    await expect(async () => {
      for await (const piece of tensorChunks(failing.source, 't0', 8)) {
        seen.push(piece.length)
        await new Promise((resolve) => setTimeout(resolve, 5)) // the read-ahead fails during this time
      }
    }).rejects.toThrow('broken')
    expect(seen).toEqual([8, 8])

    const { source, busy } = memorySource([64])
    for await (const _ of tensorChunks(source, 't0', 8)) break
    expect(busy.now).toBe(0)
  })

  it('the pieces of a tensor tolerate a failing writer', async () => {
    const file = path.join(directory, 'refused.safetensors')
    const { source, busy } = memorySource([64])
    const tensors = [{ ...tensor('t0', 'uint8', [8], Buffer.alloc(0)), data: () => tensorChunks(source, 't0', 16) }]
    await expect(writeSafetensors(file, tensors)).rejects.toThrow(/gave more/)
    expect(busy.now).toBe(0)
  })
})
