import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../errors.js'
import { forError } from '../format.js'
import { crc32 } from '../io/crc.js'
import type { TensorToWrite } from '../io/file-sink.js'
import { tensorChunks } from '../io/stream.js'
import { tensorBytes, type WeightSource } from '../io/weight-source.js'
import { openModelWeights } from './model-files.js'
import { openSafetensors } from './safetensors/safetensors.js'
import { writeSafetensors } from './safetensors/safetensors-writer.js'
import { planShards, type ShardPlan, WEIGHT_FILES, type WeightFormat } from './shards.js'
import { openTorchBin } from './torch/torch-bin.js'
import { writeTorchBin } from './torch/torch-writer.js'
import { HandlePool } from './weight-file.js'

/** The expected dtype, shape, and checksum of a tensor that is read back. */
export interface TensorChecksum {
  readonly dtype: string
  readonly shape: readonly number[]
  /** CRC-32 of its bytes. */
  readonly crc: number
}

export interface WrittenWeights {
  readonly plan: ShardPlan
  readonly checksums: ReadonlyMap<string, TensorChecksum>
}

export interface WeightsOptions {
  format: WeightFormat
  maxShardSize: number | string
}

/** One file is written while another is flushed to disk. */
const FILES_AT_ONCE = 2

/** When reading back, the bytes of some tensors are loaded while those of another are compared. */
const TENSORS_AT_ONCE = 3

/**
 * Runs a task for each item of a list, `atOnce` at a time. The first error is thrown after all running tasks have
 * ended.
 */
async function eachOf<T>(list: readonly T[], atOnce: number, task: (item: T) => Promise<void>): Promise<void> {
  const waiting = list.values()
  let failed = false
  const work = async () => {
    for (const item of waiting) {
      if (failed) return
      await task(item).catch((error) => {
        failed = true
        throw error
      })
    }
  }
  const results = await Promise.allSettled(Array.from({ length: atOnce }, work))
  for (const result of results) if (result.status === 'rejected') throw result.reason
}

/** The split of the tensors over files. */
export function planWeights(tensors: readonly TensorToWrite[], { format, maxShardSize }: WeightsOptions): ShardPlan {
  const sizes = tensors.map(({ name, shape, dtype, sameAs }) => {
    const bytes = tensorBytes(shape, dtype)
    if (bytes === undefined) throw new RangeError(`${name} has the impossible shape [${shape}]`)
    return { name, bytes, sameAs: format === 'bin' ? sameAs : undefined }
  })
  return planShards(sizes, maxShardSize, format)
}

/**
 * Writes weight files and, if there are several, their index into a directory, under the names that Transformers looks
 * for. The checksums are computed from the bytes as the tensors provide them.
 * @param tensors in state dict order
 */
export async function writeWeights(
  directory: string,
  tensors: readonly TensorToWrite[],
  options: WeightsOptions,
): Promise<WrittenWeights> {
  const plan = planWeights(tensors, options)
  const checksums = new Map<string, TensorChecksum>()
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  await eachOf(plan.files, FILES_AT_ONCE, async (file) => {
    const contents = file.tensors.map((tensor) => byName.get(tensor)!)
    await writeFileOf(options.format, path.join(directory, file.name), contents, checksums)
  })
  if (plan.index) await writeFile(path.join(directory, WEIGHT_FILES[options.format].index), plan.index)
  return { plan, checksums }
}

/** Writes one weight file. */
export async function writeWeightFile(
  file: string,
  tensors: readonly TensorToWrite[],
  format: WeightFormat,
): Promise<ReadonlyMap<string, TensorChecksum>> {
  const checksums = new Map<string, TensorChecksum>()
  await writeFileOf(format, file, tensors, checksums)
  return checksums
}

function writeFileOf(
  format: WeightFormat,
  file: string,
  tensors: readonly TensorToWrite[],
  checksums: Map<string, TensorChecksum>,
) {
  if (format === 'safetensors') {
    return writeSafetensors(
      file,
      tensors.map((tensor) => withChecksum(tensor, checksums)),
    )
  }
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  const onChecksum = (name: string, crc: number) => {
    const { dtype, shape } = byName.get(name)!
    checksums.set(name, { dtype, shape, crc })
  }
  return writeTorchBin(file, tensors, { onChecksum }) // which computes them anyway
}

function withChecksum(tensor: TensorToWrite, checksums: Map<string, TensorChecksum>): TensorToWrite {
  const { name, dtype, shape } = tensor
  const data = async function* () {
    let crc = 0
    const bytes = tensor.data()
    for await (const piece of bytes instanceof Uint8Array ? [bytes] : bytes) {
      crc = crc32(piece, crc)
      yield piece
    }
    checksums.set(name, { dtype, shape, crc })
  }
  return { ...tensor, data }
}

/**
 * Reads written weights back and compares every tensor with the written data.
 * @param where a weight file of the given format, or without one a model directory
 * @throws {CheckpointError} for any difference
 */
export async function verifyWeights(
  where: string,
  tensors: readonly TensorToWrite[],
  checksums: ReadonlyMap<string, TensorChecksum>,
  { format, signal }: { format?: WeightFormat; signal?: AbortSignal } = {},
): Promise<void> {
  const open = { bin: openTorchBin, safetensors: openSafetensors, directory: openModelWeights }[format ?? 'directory']
  // From the disk itself: the page cache certainly holds the written bytes.
  const source: WeightSource = await open(where, new HandlePool(undefined, true))
  try {
    const fail = (what: string) =>
      new CheckpointError(`${where} was not written correctly: ${forError(what)}; the disk or the memory may be faulty`)
    if (source.tensors.size !== tensors.length) {
      throw fail(`it holds ${source.tensors.size} tensors instead of ${tensors.length}`)
    }
    const check = async ({ name, sameAs }: TensorToWrite) => {
      signal?.throwIfAborted()
      const expected = checksums.get(name) ?? checksums.get(sameAs!)
      const actual = source.tensors.get(name)
      const alike = actual?.dtype === expected?.dtype && actual?.shape.join() === expected?.shape.join()
      if (!actual || !alike) throw fail(`${name} differs from what was written`)
      if (checksums.has(name) && (await checksumOf(source, name)) !== expected!.crc) {
        throw fail(`the values of ${name} are others`)
      }
    }
    await eachOf(tensors, TENSORS_AT_ONCE, check)
  } finally {
    await source.close()
  }
}

async function checksumOf(source: WeightSource, name: string): Promise<number> {
  let crc = 0
  for await (const chunk of tensorChunks(source, name)) crc = crc32(chunk, crc)
  return crc
}
