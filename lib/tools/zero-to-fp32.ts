import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../errors.js'
import type { CastDType, CastLosses } from '../formats/cast.js'
import { type CompanionFile, readCompanions, withDType } from '../formats/companions.js'
import { openDeepSpeed } from '../formats/deepspeed/deepspeed.js'
import { writeModelDirectory } from '../formats/model-directory.js'
import { huggingFaceNames, isRotaryBuffer } from '../formats/names.js'
import { DEFAULT_MAX_SHARD_SIZE, type WeightFormat } from '../formats/shards.js'
import { tensorsToWrite } from '../formats/transform.js'
import { planWeights, verifyWeights, writeWeightFile } from '../formats/weight-writer.js'
import { writeFileAtomically } from '../io/atomic.js'
import type { TensorToWrite } from '../io/file-sink.js'
import type { WeightSource } from '../io/weight-source.js'
import { openCheckpointWeights } from '../train/checkpoint-weights.js'
import { manifestName } from '../train/manifest.js'
import { type ConvertedWeights, countRenamed, refuseOccupied, tiesOutput } from './make-shards.js'

/** What `zeroToFp32` puts together, and into what. */
export interface ZeroToFp32Options {
  /** A training checkpoint of this package, or one of DeepSpeed: ZeRO stage 0 to 3, or universal. */
  checkpoint: string
  /** A `.bin`, `.pt` or `.safetensors` file; anything else is a directory in Hugging Face's form. */
  output: string
  /** Of what is written; float32 when left out. */
  dtype?: CastDType
  /** A model directory whose config and tokenizer go to an output directory; the checkpoint's own when left out. */
  modelPath?: string
  /** Of an output directory: bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
  /** Of an output directory; safetensors when left out. */
  format?: WeightFormat
  /** Aborted: what was begun is removed, and the promise rejects. */
  signal?: AbortSignal
}

/**
 * Puts the parts that ranks have saved of a model together. A file gets the names that the checkpoint has, as
 * DeepSpeed's own script gives them; a directory gets Hugging Face's. What is written is read back and compared before
 * it takes its final name. Memory is that of a few pieces, whatever the size of the model.
 * @throws CheckpointError when the checkpoint is not whole, or the output cannot be written; nothing has changed then
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

/** The float32 weights of a training checkpoint, ours or DeepSpeed's. */
export async function openShardedCheckpoint(directory: string): Promise<WeightSource> {
  const names = await readdir(directory).catch((cause) => {
    throw new CheckpointError(`${directory} cannot be read: give the directory of a training checkpoint`, { cause })
  })
  return names.includes(manifestName) ? openCheckpointWeights(directory) : openDeepSpeed(directory)
}

/** The format of a single weight file of this name; undefined for a directory. */
function formatOfFile(output: string): WeightFormat | undefined {
  if (/\.(bin|pt|pth)$/.test(output)) return 'bin'
  return output.endsWith('.safetensors') ? 'safetensors' : undefined
}

async function writeFile(
  source: WeightSource,
  format: WeightFormat,
  { output, dtype = 'float32', signal }: ZeroToFp32Options,
): Promise<ConvertedWeights> {
  const losses: CastLosses = { overflows: 0 }
  const tensors = tensorsToWrite(source, { dtype, losses, signal, untie: format === 'safetensors' })
  const { totalSize } = planWeights(tensors, { format, maxShardSize: Number.MAX_SAFE_INTEGER })
  await writeFileAtomically(
    output,
    async (temporary) => {
      const checksums = await writeWeightFile(temporary, tensors, format)
      await verifyWeights(temporary, tensors, checksums, { format, signal })
    },
    { bytesNeeded: totalSize },
  )
  const files = [{ name: path.basename(output), tensors: tensors.map(({ name }) => name), bytes: totalSize }]
  return { output, files, totalSize, renamed: 0, ...losses }
}

async function writeDirectory(source: WeightSource, options: ZeroToFp32Options): Promise<ConvertedWeights> {
  const { output, dtype = 'float32', maxShardSize = DEFAULT_MAX_SHARD_SIZE, format = 'safetensors', signal } = options
  await refuseOccupied(output)
  const model = options.modelPath ?? options.checkpoint
  const companions = withDType(await readCompanions(model), model, dtype)
  if (!companions.some(({ name }) => name === 'config.json')) {
    throw new CheckpointError(
      `${model} has no config.json for the model directory ${output}; name the directory of the model that was trained ` +
        'with --model_path, or an output that ends in .safetensors or .bin',
    )
  }
  const losses: CastLosses = { overflows: 0 }
  const rename = huggingFaceNames(source.tensors.keys())
  const tied = tiesOutput(companions)
  const tensors = tensorsToWrite(source, {
    ...{ dtype, losses, signal },
    rename: (name) => (isRotaryBuffer(name) ? undefined : rename(name)),
    untie: format === 'safetensors',
    dropTied: (name) => tied && name === 'lm_head.weight',
  })
  await checkAgainstConfig(tensors, companions, model)
  await writeModelDirectory(output, {
    tokenizerFiles: companions,
    tensors,
    ...{ format, maxShardSize, signal },
    verify: true,
  })
  const { files, totalSize } = planWeights(tensors, { format, maxShardSize })
  return { output, files, totalSize, renamed: countRenamed(source.tensors.keys(), rename), ...losses }
}

/** @throws CheckpointError when the weights are not those of the model that the config describes */
async function checkAgainstConfig(
  tensors: readonly TensorToWrite[],
  companions: readonly CompanionFile[],
  where: string,
): Promise<void> {
  // Loaded late: what knows a model's layout knows the addon too.
  const { misfits } = await import('./fit.js')
  const config = companions.find(({ name }) => name === 'config.json')!
  const [first, ...others] = misfits(JSON.parse(config.data.toString()), tensors, path.join(where, 'config.json'))
  if (first === undefined) return
  const more = others.length > 0 ? `, and ${others.length} more` : ''
  throw new CheckpointError(`The checkpoint does not fit ${path.join(where, 'config.json')}: ${first}${more}`)
}
