/**
 * Runs a checkpoint tool on a generated checkpoint, or for comparison a loop that reads and writes the same number of
 * bytes in large pieces and does nothing with them.
 */
import { spawnSync } from 'node:child_process'
import { open, readdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { openModelWeights } from '#lib/formats/model-files.js'
import { DirectReader, DirectWriter } from '#lib/io/direct-io.js'
import { readAll } from '#lib/io/stream.js'
import { convertModel } from '#lib/tools/convert.js'
import { makeShards } from '#lib/tools/make-shards.js'
import { zeroToFp32 } from '#lib/tools/zero-to-fp32.js'
import { type CheckpointChild, type CheckpointTask, checkpointTasks } from '../configs.js'
import { childOptions, serve } from './serve.js'

const { task, input, scratch, plain } = childOptions<CheckpointChild>()
const piece = 2 ** 22
const output = path.join(scratch, plain ? 'plain' : 'ours')

/** Reads the weight files of a directory, and passes on each piece. */
async function readPieces(take: (bytes: Uint8Array) => Promise<unknown>): Promise<void> {
  const memory = Buffer.allocUnsafeSlow(piece)
  for (const name of (await readdir(input)).filter((name) => /\.(safetensors|bin)$/.test(name))) {
    const file = await open(path.join(input, name))
    for (;;) {
      const { bytesRead } = await file.read(memory, 0, piece)
      if (bytesRead === 0) break
      await take(memory.subarray(0, bytesRead))
    }
    await file.close()
  }
}

async function writePlainly(part: number, readsBack: boolean): Promise<void> {
  const file = await open(output, 'w+')
  const writer = await DirectWriter.open(output, file, Number.POSITIVE_INFINITY)
  if (!writer) throw new Error(`${scratch} is on a file system without direct I/O: set TMPDIR to another`)
  await readPieces((bytes) => writer.write(bytes.subarray(0, Math.floor(bytes.length * part))))
  await writer.end()
  await file.sync()
  const { size } = await file.stat()
  const reader = readsBack ? await DirectReader.open(output, file, size) : undefined
  const memory = Buffer.allocUnsafeSlow(piece)
  for (let at = 0; reader && at < size; ) at += await reader.read(at, memory)
  await (reader ?? file).close()
}

function plainly(): Promise<void> {
  const { written, verifies } = checkpointTasks[task]
  return written > 0 ? writePlainly(written, verifies) : readPieces(async () => {})
}

async function readWeights(): Promise<void> {
  const source = await openModelWeights(input)
  await readAll(source, source.tensors.keys(), () => {})
  await source.close()
}

const ours: Record<CheckpointTask, () => Promise<unknown>> = {
  read: readWeights,
  shard: () => makeShards({ modelPath: input, output, format: 'bin' }),
  back: () => makeShards({ modelPath: input, output, format: 'safetensors' }),
  convert: () => makeShards({ modelPath: input, output, dtype: 'bfloat16' }),
  merge: () => zeroToFp32({ checkpoint: input, output }),
  gguf: () => convertModel(input, output, { to: 'gguf', dtype: 'bfloat16' }),
}

/** Evicts a file from the page cache, so that all contenders read it from the disk. */
function forget(file: string): void {
  const { status } = spawnSync('dd', [`if=${file}`, 'iflag=nocache', 'count=0'])
  if (status !== 0) throw new Error('GNU dd is needed to take files out of the page cache')
}

async function repetition() {
  for (const name of await readdir(input)) forget(path.join(input, name))
  const start = performance.now()
  await (plain ? plainly() : ours[task]())
  const seconds = (performance.now() - start) / 1000
  await rm(output, { recursive: true, force: true })
  return { seconds }
}

void serve(repetition)
