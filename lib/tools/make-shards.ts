import { readdir, stat } from 'node:fs/promises'
import { CheckpointError } from '../errors.js'
import { type CastDType, isCastable } from '../formats/cast.js'
import { type CompanionFile, companionsFor, configOf, readCompanions } from '../formats/companions.js'
import { writeModelDirectory } from '../formats/model-directory.js'
import { findModelFiles, openModelWeights } from '../formats/model-files.js'
import { describeRenaming } from '../formats/names.js'
import { Overflows } from '../formats/overflows.js'
import { DEFAULT_MAX_SHARD_SIZE, type ShardPlan, WEIGHT_FILES, type WeightFormat } from '../formats/shards.js'
import { hasOwnOutput, OUTPUT, ownOutputWarning } from '../formats/ties.js'
import { tensorsToWrite } from '../formats/transform.js'
import { planWeights } from '../formats/weight-writer.js'

/** Options of `makeShards`. */
export interface MakeShardsOptions {
  /** A Hugging Face model directory. */
  modelPath: string
  /** The directory to write; defaults to `<modelPath>-shards`. It must be empty or missing. */
  output?: string
  /** Write the shards into `modelPath` itself and remove its previous weights. */
  replace?: boolean
  /** Bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
  /** Defaults to the format of the directory's weights. */
  format?: WeightFormat
  /** Type of floating-point tensors; defaults to each tensor's type. */
  dtype?: CastDType
  /** Makes values that `dtype` cannot hold an error; by default they are only counted. */
  strict?: boolean
  /** When aborted, partial output is removed, and the promise rejects. */
  signal?: AbortSignal
}

/** Losses and warnings of a conversion. */
export interface ConversionFindings {
  /** Finite values that the new type cannot hold, and that became infinite or NaN. */
  overflows: number
  /** The same by tensor. */
  overflowing: Record<string, number>
  /** Unusual facts about the source, and losses, one sentence each. */
  warnings: string[]
}

/** The output of a conversion. */
export interface ConvertedWeights extends ConversionFindings {
  /** The directory or file that was written. */
  output: string
  /** The weight files, in shard order. */
  files: ShardPlan['files']
  /** Bytes of all tensors. */
  totalSize: number
  /** Tensors whose names were not Hugging Face's. */
  renamed: number
  /** The added or removed name parts, as a sentence; missing if none was renamed. */
  renaming?: string
}

/**
 * Splits the weights of a model directory as Hugging Face does, with optional conversion of format and type. Everything
 * is written under another name, read back and compared, and then renamed; only `replace` removes the sources, after
 * that. Memory: a few pieces, unless a torch file holds large transposed views.
 * @throws {CheckpointError} for a model that cannot be read, or output that cannot be written; nothing has changed then
 * @throws {NonFiniteError} with `strict`, for values that `dtype` cannot hold; nothing has changed then
 * @throws {RangeError} for an invalid shard size
 */
export async function makeShards(options: MakeShardsOptions): Promise<ConvertedWeights> {
  const { modelPath, replace = false, dtype, strict, signal } = options
  const maxShardSize = options.maxShardSize ?? DEFAULT_MAX_SHARD_SIZE
  const output = replace ? modelPath : (options.output ?? `${modelPath.replace(/(?<=[^/])\/+$/, '')}-shards`)
  if (!replace) await refuseOccupied(output)
  const source = await openModelWeights(modelPath)
  try {
    const found = await findModelFiles(modelPath)
    const format = options.format ?? found.format
    const companions = await readCompanions(modelPath)
    const overflows = new Overflows()
    const tensors = tensorsToWrite(source, {
      ...{ dtype, overflows, signal },
      untie: format === 'safetensors',
      dropTied: (name) => name === OUTPUT && tiesOutput(companions, modelPath),
    })
    const untied = tiesOutput(companions, modelPath) && (await hasOwnOutput(source))
    const form = { dtype, untied, plain: tensors.every((tensor) => isCastable(tensor.dtype)) }
    const adapted = companionsFor(companions, modelPath, form)
    await writeModelDirectory(output, {
      tokenizerFiles: replace ? adapted.filter((file, i) => file.data !== companions[i]!.data) : adapted,
      tensors,
      ...{ format, maxShardSize, signal },
      verify: true,
      replaces: replace ? [...found.files, WEIGHT_FILES[found.format].index] : [],
      onWritten: () => strict && overflows.refuse(dtype ?? ''),
    })
    const { files, totalSize } = planWeights(tensors, { format, maxShardSize })
    return {
      ...{ output, files, totalSize, renamed: source.renaming.count, renaming: describeRenaming(source.renaming) },
      ...findingsOf(overflows, dtype, untied ? [ownOutputWarning(modelPath)] : []),
    }
  } finally {
    await source.close()
  }
}

/** @param warnings about the source */
export function findingsOf(
  overflows: Overflows,
  dtype: string | undefined,
  warnings: readonly string[],
): ConversionFindings {
  const lost = overflows.describe(dtype ?? '')
  return {
    overflows: overflows.total,
    overflowing: overflows.byTensor,
    warnings: [...warnings, ...(lost === undefined ? [] : [lost])],
  }
}

/** @throws {CheckpointError} for a path that already exists */
export async function refuseOccupied(output: string): Promise<void> {
  const stats = await stat(output).catch(() => undefined)
  if (!stats) return
  if (stats.isDirectory() && (await readdir(output)).length === 0) return
  throw new CheckpointError(`${output} already exists; choose another output, or remove it`)
}

/** Whether the config ties the output projection to the embedding. */
export function tiesOutput(companions: readonly CompanionFile[], where: string): boolean {
  return configOf(companions, where)?.tie_word_embeddings === true
}
