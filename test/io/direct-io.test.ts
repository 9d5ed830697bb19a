import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { open } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { HandlePool, WeightFile } from '../../lib/formats/weight-file.js'
import { DirectReader, DirectWriter } from '../../lib/io/direct-io.js'
import { writeFlushed } from '../../lib/io/file-sink.js'
import { temporaryDirectory } from '../formats/helpers.js'
import { Random } from '../support/numbers.js'

const root = temporaryDirectory()
const size = (17 << 20) + 1234
const content = Buffer.alloc(size, Buffer.from(Float64Array.from({ length: 1021 }, (_, i) => Math.sin(i)).buffer))
// A file system in memory may not support direct I/O: the result there must be the same.
const memory = existsSync('/dev/shm') ? mkdtempSync('/dev/shm/direct-io-') : undefined
afterAll(() => memory && rmSync(memory, { recursive: true }))

describe.each([root, ...(memory ? [memory] : [])])('a large file in %s', (directory) => {
  const file = path.join(directory, 'large')

  it('a large file has the written contents, in pieces of any length, and later changes', async () => {
    const random = new Random(1)
    const { bytes } = await writeFlushed(
      file,
      async (sink) => {
        for (let at = 0; at < size; ) {
          const piece = Buffer.from(content.subarray(at, at + 1 + Math.floor(random.uniform() * (3 << 20))))
          await sink.write(piece)
          at += piece.length
          piece.fill(0) // the buffer may be reused
        }
        for (const position of [3, (8 << 20) - 2, size - 4]) sink.patch(position, Buffer.from('here'))
      },
      { bytesNeeded: size },
    )
    expect(bytes).toBe(size)
    const expected = Buffer.from(content)
    for (const position of [3, (8 << 20) - 2, size - 4]) expected.write('here', position)
    expect(readFileSync(file).equals(expected)).toBe(true)

    const weights = await WeightFile.open(file, new HandlePool(1, true))
    const places = [0, 1, 4095, 4096, (8 << 20) - 3, size - 5, 12_345_678].map((at) => ({
      at,
      into: Buffer.alloc(Math.min(size - at, (8 << 20) + 17)),
    }))
    await Promise.all(places.map(({ at, into }) => weights.read(at, into)))
    for (const { at, into } of places) expect(into.equals(expected.subarray(at, at + into.length)), `${at}`).toBe(true)
    await weights.close()
  })
})

describe('direct I/O', () => {
  it('direct I/O is not used for a small file', async () => {
    const handle = await open(path.join(root, 'small'), 'w+')
    expect(await DirectWriter.open(path.join(root, 'small'), handle, 1000)).toBeUndefined()
    expect(await DirectReader.open(path.join(root, 'small'), handle, 1000)).toBeUndefined()
    await handle.close()
  })
})
