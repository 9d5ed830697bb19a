import { readdir, stat } from 'node:fs/promises'
import { CheckpointError } from '../errors.js'
import type { CastDType, CastLosses } from '../formats/cast.js'
import { readCompanions, withDType } from '../formats/companions.js'
import { writeModelDirectory } from '../formats/model-directory.js'
import { findModelFiles, openModelWeights } from '../formats/model-files.js'
import { huggingFaceNames } from '../formats/names.js'
import { DEFAULT_MAX_SHARD_SIZE, type ShardPlan, WEIGHT_FILES, type WeightFormat } from '../formats/shards.js'
import { tensorsToWrite } from '../formats/transform.js'
import { planWeights } from '../formats/weight-writer.js'

/** What `makeShards` splits, and into what. */
export interface MakeShardsOptions {
  /** A Hugging Face model directory. */
  modelPath: string
  /** The directory to write; `<modelPath>-shards` when left out. It must not hold anything yet. */
  output?: string
  /** Put the shards into `modelPath` itself, in the place of its weights, which are removed. */
  replace?: boolean
  /** Bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
  /** That of the directory's weights when left out. */
  format?: WeightFormat
  /** Of tensors of floating point; their own when left out. */
  dtype?: CastDType
  /** Aborted: what was begun is removed, and the promise rejects. */
  signal?: AbortSignal
}

/** What was written. */
export interface ConvertedWeights {
  /** The directory or file that was written. */
  output: string
  /** Of the weight files, in the order of the shards. */
  files: ShardPlan['files']
  /** Bytes of all tensors. */
  totalSize: number
  /** Tensors whose names lost the leading `model.` that they had too many. */
  renamed: number
  /** Finite values that `dtype` has no number for, and that became infinite. */
  overflows: number
}

/**
 * Splits the weights of a model directory as Hugging Face does, converting format and type on the way. Everything is
 * written under another name, read back and compared, and then takes its final name; the sources are only removed with
 * `replace`, after that. Memory is that of a few pieces, unless a torch file holds large transposed views.
 * @throws CheckpointError when the model cannot be read, or the output not be written; nothing has changed then
 * @throws RangeError for a shard size that cannot be understood
 */
export async function makeShards(options: MakeShardsOptions): Promise<ConvertedWeights> {
  const { modelPath, replace = false, dtype, signal } = options
  const maxShardSize = options.maxShardSize ?? DEFAULT_MAX_SHARD_SIZE
  const output = replace ? modelPath : (options.output ?? `${modelPath.replace(/(?<=[^/])\/+$/, '')}-shards`)
  if (!replace) await refuseOccupied(output)
  const source = await openModelWeights(modelPath)
  try {
    const found = await findModelFiles(modelPath)
    const format = options.format ?? found.format
    const companions = await readCompanions(modelPath)
    const losses: CastLosses = { overflows: 0 }
    const rename = huggingFaceNames(source.tensors.keys())
    const tensors = tensorsToWrite(source, {
      ...{ dtype, rename, losses, signal },
      untie: format === 'safetensors',
      dropTied: (name) => name === 'lm_head.weight' && tiesOutput(companions),
    })
    await writeModelDirectory(output, {
      tokenizerFiles: dtype ? withDType(companions, modelPath, dtype) : replace ? [] : companions,
      tensors,
      ...{ format, maxShardSize, signal },
      verify: true,
      replaces: replace ? [...found.files, WEIGHT_FILES[found.format].index] : [],
    })
    const { files, totalSize } = planWeights(tensors, { format, maxShardSize })
    return { output, files, totalSize, renamed: countRenamed(source.tensors.keys(), rename), ...losses }
  } finally {
    await source.close()
  }
}

/** @throws CheckpointError when something is there already */
export async function refuseOccupied(output: string): Promise<void> {
  const stats = await stat(output).catch(() => undefined)
  if (!stats) return
  if (stats.isDirectory() && (await readdir(output)).length === 0) return
  throw new CheckpointError(`${output} already exists; choose another --output, or remove it`)
}

export function countRenamed(names: Iterable<string>, rename: (name: string) => string): number {
  return [...names].filter((name) => rename(name) !== name).length
}

/** Whether the config says that the output projection is the embedding. */
export function tiesOutput(companions: readonly { name: string; data: Buffer }[]): boolean {
  const config = companions.find(({ name }) => name === 'config.json')
  try {
    return JSON.parse(config?.data.toString() ?? '{}')?.tie_word_embeddings === true
  } catch {
    return false
  }
}
