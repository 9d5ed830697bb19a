import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../errors.js'
import { type CastDType, isCastable } from '../formats/cast.js'
import { openCheckpointWeights } from '../formats/checkpoint/checkpoint-weights.js'
import { manifestName } from '../formats/checkpoint/manifest.js'
import { companionsFor, configFor, configOf, readCompanions } from '../formats/companions.js'
import { openDeepSpeed } from '../formats/deepspeed/deepspeed.js'
import { distributedCheckpoint } from '../formats/foreign.js'
import { writeModelDirectory } from '../formats/model-directory.js'
import { describeRenaming, huggingFaceNames, isRotaryBuffer, renamedSource } from '../formats/names.js'
import { Overflows } from '../formats/overflows.js'
import { DEFAULT_MAX_SHARD_SIZE, type WeightFormat } from '../formats/shards.js'
import { hasOwnOutput, OUTPUT, ownOutputWarning } from '../formats/ties.js'
import { tensorsToWrite } from '../formats/transform.js'
import { planWeights, verifyWeights, writeWeightFile } from '../formats/weight-writer.js'
import { writeFileAtomically } from '../io/atomic.js'
import type { TensorToWrite } from '../io/file-sink.js'
import type { WeightSource } from '../io/weight-source.js'
import type { ConfigJson } from '../model/config.js'
import { type ConvertedWeights, findingsOf, refuseOccupied, tiesOutput } from './make-shards.js'

/** Options of `zeroToFp32`. */
export interface ZeroToFp32Options {
  /** A training checkpoint of this package or of DeepSpeed: ZeRO stage 0 to 3, or universal. */
  checkpoint: string
  /** A `.bin`, `.pt` or `.safetensors` file; any other name is a Hugging Face directory. */
  output: string
  /** Type of the output; defaults to float32. */
  dtype?: CastDType
  /** A model directory whose config and tokenizer are copied to an output directory; defaults to the checkpoint's. */
  modelPath?: string
  /** For an output directory: bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
  /** For an output directory; defaults to safetensors. */
  format?: WeightFormat
  /** Makes values that `dtype` cannot hold an error; by default they are only counted. */
  strict?: boolean
  /** When aborted, partial output is removed, and the promise rejects. */
  signal?: AbortSignal
}

/**
 * Assembles a model from the shards that ranks have saved. A file gets the names of the checkpoint, as from DeepSpeed's
 * script; a directory gets Hugging Face's. The output is read back and compared before it gets its final name. Memory:
 * a few pieces, regardless of the size of the model.
 * @throws {CheckpointError} for an incomplete checkpoint, or output that cannot be written; nothing has changed then
 */
export async function zeroToFp32(options: ZeroToFp32Options): Promise<ConvertedWeights> {
  const source = await openShardedCheckpoint(options.checkpoint)
  try {
    const fileFormat = formatOfFile(options.output)
    return fileFormat ? await writeFile(source, fileFormat, options) : await writeDirectory(source, options)
  } finally {
    await source.close()
  }
}

/** The float32 weights of a training checkpoint of this package or DeepSpeed. */
export async function openShardedCheckpoint(directory: string): Promise<WeightSource> {
  const names = await readdir(directory).catch((cause) => {
    throw new CheckpointError(`${directory} cannot be read: give the directory of a training checkpoint`, { cause })
  })
  const distributed = distributedCheckpoint(directory, names)
  if (distributed) throw new CheckpointError(distributed)
  return names.includes(manifestName) ? openCheckpointWeights(directory) : openDeepSpeed(directory)
}

/** The format of a single weight file with this name; undefined for a directory. */
function formatOfFile(output: string): WeightFormat | undefined {
  if (/\.(bin|pt|pth)$/.test(output)) return 'bin'
  return output.endsWith('.safetensors') ? 'safetensors' : undefined
}

async function writeFile(
  source: WeightSource,
  format: WeightFormat,
  { output, dtype = 'float32', strict, signal }: ZeroToFp32Options,
): Promise<ConvertedWeights> {
  const overflows = new Overflows()
  const tensors = tensorsToWrite(source, { dtype, overflows, signal, untie: format === 'safetensors' })
  const { totalSize } = planWeights(tensors, { format, maxShardSize: Number.MAX_SAFE_INTEGER })
  await writeFileAtomically(
    output,
    async (temporary) => {
      const checksums = await writeWeightFile(temporary, tensors, format)
      if (strict) overflows.refuse(dtype)
      await verifyWeights(temporary, tensors, checksums, { format, signal })
    },
    { bytesNeeded: totalSize },
  )
  const files = [{ name: path.basename(output), tensors: tensors.map(({ name }) => name), bytes: totalSize }]
  return { output, files, totalSize, renamed: 0, ...findingsOf(overflows, dtype, []) }
}

async function writeDirectory(stored: WeightSource, options: ZeroToFp32Options): Promise<ConvertedWeights> {
  const { output, dtype = 'float32', maxShardSize = DEFAULT_MAX_SHARD_SIZE, format = 'safetensors' } = options
  const { strict, signal } = options
  await refuseOccupied(output)
  const model = options.modelPath ?? options.checkpoint
  const companions = await readCompanions(model)
  if (!configOf(companions, model)) {
    throw new CheckpointError(
      `${model} has no config.json for the model directory ${output}; name the directory of the model that was trained ` +
        'as model_path, or an output that ends in .safetensors or .bin',
    )
  }
  const overflows = new Overflows()
  const renaming = huggingFaceNames(stored.tensors.keys(), options.checkpoint)
  const source = renamedSource(stored, renaming.names)
  const tied = tiesOutput(companions, model)
  const untied = tied && (await hasOwnOutput(source))
  const tensors = tensorsToWrite(source, {
    ...{ dtype, overflows, signal },
    rename: (name) => (isRotaryBuffer(name) ? undefined : name),
    untie: format === 'safetensors',
    dropTied: (name) => tied && name === OUTPUT,
  })
  const form = { dtype, untied, plain: tensors.every((tensor) => isCastable(tensor.dtype)) }
  await checkAgainstConfig(tensors, configFor(configOf(companions, model)!, form), path.join(model, 'config.json'))
  await writeModelDirectory(output, {
    tokenizerFiles: companionsFor(companions, model, form),
    tensors,
    ...{ format, maxShardSize, signal },
    verify: true,
    onWritten: () => strict && overflows.refuse(dtype),
  })
  const { files, totalSize } = planWeights(tensors, { format, maxShardSize })
  return {
    ...{ output, files, totalSize, renamed: renaming.count, renaming: describeRenaming(renaming) },
    ...findingsOf(overflows, dtype, untied ? [ownOutputWarning(options.checkpoint)] : []),
  }
}

/** @throws {CheckpointError} for weights that do not match the model in the config */
async function checkAgainstConfig(tensors: readonly TensorToWrite[], json: object, file: string): Promise<void> {
  // Loaded late: modules with a model's layout load the addon.
  const { misfits } = await import('../model/fit.js')
  const { parseConfig } = await import('../model/config.js')
  const [first, ...others] = misfits(parseConfig(json as ConfigJson, file), tensors)
  if (first === undefined) return
  const more = others.length > 0 ? `, and ${others.length} more` : ''
  throw new CheckpointError(`The checkpoint does not fit ${file}: ${first}${more}`)
}
