/**
 * The checkpoint tools on a generated checkpoint, beside a loop that reads and writes the same bytes in large pieces
 * and does nothing with them. A line names what is done next.
 */
import { open, readdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { makeShards } from '#lib/checkpoint/make-shards.js'
import { openModelWeights } from '#lib/checkpoint/model-files.js'
import { readAll } from '#lib/checkpoint/stream.js'
import type { CheckpointChild, CheckpointTask } from '../configs.js'
import { childOptions, serve } from './serve.js'

const { model, scratch, plain } = childOptions<CheckpointChild>()
const piece = 2 ** 22
const target = path.join(scratch, plain ? 'plain' : 'ours')

/** All weight files of a directory, piece by piece. @returns bytes */
async function readPlainly(directory: string): Promise<number> {
  const memory = Buffer.allocUnsafeSlow(piece)
  let bytes = 0
  for (const name of (await readdir(directory)).filter((name) => /\.(safetensors|bin|raw)$/.test(name))) {
    const file = await open(path.join(directory, name))
    for (let read = 1; read > 0; bytes += read) read = (await file.read(memory, 0, piece)).bytesRead
    await file.close()
  }
  return bytes
}

/** Copies all weight files into one, flushed to the disk. @returns bytes */
async function copyPlainly(directory: string, to: string): Promise<number> {
  const memory = Buffer.allocUnsafeSlow(piece)
  let bytes = 0
  const out = await open(to, 'w')
  for (const name of (await readdir(directory)).filter((name) => name.endsWith('.safetensors'))) {
    const file = await open(path.join(directory, name))
    for (;;) {
      const { bytesRead } = await file.read(memory, 0, piece)
      if (bytesRead === 0) break
      await out.write(memory, 0, bytesRead)
      bytes += bytesRead
    }
    await file.close()
  }
  await out.sync()
  await out.close()
  return bytes
}

async function readWeights(directory: string): Promise<number> {
  const source = await openModelWeights(directory)
  let bytes = 0
  await readAll(source, source.tensors.keys(), (_name, _offset, chunk) => {
    bytes += chunk.length
  })
  await source.close()
  return bytes
}

const plainly: Record<CheckpointTask, () => Promise<number>> = {
  read: () => readPlainly(model),
  shard: async () => {
    const bytes = await copyPlainly(model, `${target}.raw`)
    await readPlainly(scratch)
    return bytes
  },
  convert: () => plainly.shard(),
}

const ours: Record<CheckpointTask, () => Promise<number>> = {
  read: () => readWeights(model),
  shard: async () =>
    (await makeShards({ modelPath: model, output: target, format: 'bin', maxShardSize: '500MB' })).totalSize,
  // Half as many bytes are written as are read: counted are those that are read.
  convert: async () => 2 * (await makeShards({ modelPath: model, output: target, dtype: 'bfloat16' })).totalSize,
}

async function repetition(line: string) {
  const start = performance.now()
  const bytes = await (plain ? plainly : ours)[line as CheckpointTask]()
  const seconds = (performance.now() - start) / 1000
  for (const left of [target, `${target}.raw`]) await rm(left, { recursive: true, force: true })
  return { rate: bytes / seconds }
}

void serve(repetition)
