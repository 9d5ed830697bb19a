/**
 * A checkpoint tool on a generated checkpoint, or beside it a loop that reads and writes as many bytes in large pieces
 * and does nothing with them.
 */
import { type FileHandle, open, readdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { makeShards } from '#lib/checkpoint/make-shards.js'
import { openModelWeights } from '#lib/checkpoint/model-files.js'
import { readAll } from '#lib/checkpoint/stream.js'
import { zeroToFp32 } from '#lib/checkpoint/zero-to-fp32.js'
import { convertModel } from '#lib/model/convert.js'
import { type CheckpointChild, type CheckpointTask, checkpointTasks } from '../configs.js'
import { childOptions, serve } from './serve.js'

const { task, input, scratch, plain } = childOptions<CheckpointChild>()
const piece = 2 ** 22
const output = path.join(scratch, plain ? 'plain' : 'ours')

/** Reads the weight files of a directory, or one file, and gives each piece. */
async function readPieces(from: string, take: (bytes: Uint8Array) => Promise<unknown>): Promise<void> {
  const memory = Buffer.allocUnsafeSlow(piece)
  const names = await readdir(from).catch(() => [''])
  for (const name of names.filter((name) => name === '' || /\.(safetensors|bin)$/.test(name))) {
    const file = await open(path.join(from, name))
    for (;;) {
      const { bytesRead } = await file.read(memory, 0, piece)
      if (bytesRead === 0) break
      await take(memory.subarray(0, bytesRead))
    }
    await file.close()
  }
}

const pass = async () => {}

async function plainly(): Promise<void> {
  const { written, verifies } = checkpointTasks[task]
  let out: FileHandle | undefined
  if (written > 0) out = await open(output, 'w')
  await readPieces(input, async (bytes) => out?.write(bytes, 0, Math.floor(bytes.length * written)))
  await out?.sync()
  await out?.close()
  if (verifies) await readPieces(output, pass)
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

async function repetition() {
  const start = performance.now()
  await (plain ? plainly() : ours[task]())
  const seconds = (performance.now() - start) / 1000
  await rm(output, { recursive: true, force: true })
  return { seconds }
}

void serve(repetition)
