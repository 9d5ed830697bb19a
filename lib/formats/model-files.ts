import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../errors.js'
import { forError } from '../format.js'
import { finishInterruptedReplacement } from '../io/atomic.js'
import { isLfsPointer, lfsAdvice } from '../io/lfs.js'
import type { TensorInfo, WeightSource } from '../io/weight-source.js'
import { parseJson } from '../json.js'
import { openCheckpointWeights } from './checkpoint/checkpoint-weights.js'
import { isTrainingCheckpoint } from './checkpoint/manifest.js'
import { distributedCheckpoint } from './foreign.js'
import { huggingFaceNames, type Renaming, renamedSource } from './names.js'
import { openSafetensors } from './safetensors/safetensors.js'
import { isWeightFile, WEIGHT_FILES, type WeightFormat } from './shards.js'
import { openTorchBin } from './torch/torch-bin.js'
import { HandlePool, readError } from './weight-file.js'

/** The weight files of a Hugging Face model directory. */
export interface ModelFiles {
  readonly format: WeightFormat
  /** Names within the directory. */
  readonly files: readonly string[]
  /** From the index: the file that holds each tensor. Undefined if one file holds all. */
  readonly weightMap: ReadonlyMap<string, string> | undefined
}

/** The tensors of a model directory. */
export interface ModelWeights extends WeightSource {
  /** The differences between these names and those in the files. */
  readonly renaming: Renaming
}

/** Far more than any index needs. */
const MAX_INDEX_BYTES = 100_000_000

/**
 * Opens the weights of a Hugging Face model directory in any form: safetensors before torch `.bin`, in one file or in
 * shards. Headers are read and checked at once; files are reopened as tensors are read, a few at a time. The tensors
 * have Hugging Face's names, without wrapper segments. They include the `rotary_emb.inv_freq` of old checkpoints, which
 * models do not use. A training checkpoint of this package opens as its model.
 * @throws {CheckpointError} for missing weights, a shard or a tensor that is missing or repeated, or a damaged file
 */
export async function openModelWeights(directory: string, pool = new HandlePool()): Promise<ModelWeights> {
  if (await isTrainingCheckpoint(directory)) {
    const source = await openCheckpointWeights(directory)
    const renaming = huggingFaceNames(source.tensors.keys(), directory)
    return { ...renamedSource(source, renaming.names), renaming }
  }
  await finishInterruptedReplacement(directory)
  const { files, weightMap } = await findModelFiles(directory)
  const opened = await Promise.allSettled(files.map((name) => openWeightFile(path.join(directory, name), pool)))
  const sources = opened.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  try {
    for (const result of opened) if (result.status === 'rejected') throw result.reason
    const sharded = new ShardedSource(directory, files, sources, weightMap)
    const renaming = huggingFaceNames(sharded.tensors.keys(), directory)
    return { ...renamedSource(sharded, renaming.names), renaming }
  } catch (error) {
    await Promise.all(sources.map((source) => source.close()))
    throw error
  }
}

/** Opens one weight file by its kind: `.safetensors`, or else the format of torch.save. */
export function openWeightFile(file: string, pool?: HandlePool): Promise<WeightSource> {
  return file.endsWith('.safetensors') ? openSafetensors(file, pool) : openTorchBin(file, pool)
}

/**
 * Finds the weight files of a model directory, without opening them.
 * @throws {CheckpointError} for a directory without any, an invalid index, or missing shards
 */
export async function findModelFiles(directory: string): Promise<ModelFiles> {
  const names = await readdir(directory).catch((error) => {
    if (error.code !== 'ENOTDIR') throw readError(directory, error)
    throw new CheckpointError(`${directory} is a file; give the directory of the model`)
  })
  const there = new Set(names)
  for (const format of ['safetensors', 'bin'] as const) {
    const { whole, index } = WEIGHT_FILES[format]
    const weightMap = there.has(index) ? await readIndex(path.join(directory, index)) : undefined
    const shards = [...new Set(weightMap?.values() ?? [])].sort()
    if (there.has(whole) && weightMap && shards.some((shard) => shard !== whole)) {
      throw new CheckpointError(
        `${directory} contains its weights twice, in ${whole} and in the shards of ${index}; remove the outdated ones`,
      )
    }
    if (there.has(whole)) return { format, files: [whole], weightMap }
    if (!weightMap) continue
    const missing = shards.filter((shard) => !there.has(shard))
    if (missing.length > 0) {
      throw new CheckpointError(
        `${directory} is missing ${missing.length} of the ${shards.length} shards that ${index} names: ` +
          `${forError(missing.join(', '))}; download or copy them again`,
      )
    }
    return { format, files: shards, weightMap }
  }
  if (isPeftAdapter(names)) throw new CheckpointError(peftAdvice(directory))
  const distributed = distributedCheckpoint(directory, names)
  if (distributed) throw new CheckpointError(distributed)
  throw new CheckpointError(`${directory} has no weights that can be read: ${whatIsThere(names)}`)
}

function whatIsThere(names: string[]): string {
  const stray = names.filter((name) => /^(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)$/.test(name))
  if (stray.length > 0) return `it has shards such as ${stray[0]}, but not the index that belongs to them`
  const other = names.find((name) => /\.(gguf|h5|msgpack|ckpt|pth?|bin|safetensors)$/.test(name))
  const wanted = `${WEIGHT_FILES.safetensors.whole} or ${WEIGHT_FILES.bin.whole}, or shards with their index`
  return other ? `${other} is not a supported format; ${wanted}` : wanted
}

/** Whether a directory with these files holds a PEFT adapter and no model. */
export function isPeftAdapter(names: readonly string[]): boolean {
  const isOf = (format: WeightFormat) => names.some((name) => isWeightFile(name, format))
  return (
    names.some((name) => /^adapter_(config\.json|model\.(safetensors|bin))$/.test(name)) &&
    !isOf('safetensors') &&
    !isOf('bin')
  )
}

/** The error for an adapter, with how to merge it into a model. */
export function peftAdvice(directory: string): string {
  const merge = `AutoPeftModelForCausalLM.from_pretrained("${directory}").merge_and_unload().save_pretrained("merged")`
  return (
    `${directory} holds a PEFT adapter, not a model: merge it into the model that it was trained on with ` +
    `python -c 'from peft import AutoPeftModelForCausalLM; ${merge}'`
  )
}

/**
 * The file of each tensor, from an index of shards.
 * @throws {CheckpointError} for an invalid index, or one that names a file outside its directory
 */
export async function readIndex(file: string): Promise<Map<string, string>> {
  const fail = (what: string, cause?: unknown) => new CheckpointError(`${file} ${what}`, { cause })
  let index: unknown
  try {
    const { size } = await stat(file)
    if (size > MAX_INDEX_BYTES) throw fail(`has ${size} bytes, too many for an index of shards`)
    const bytes = await readFile(file)
    if (isLfsPointer(bytes)) throw new CheckpointError(lfsAdvice(file))
    index = parseJson(bytes)
  } catch (error) {
    if (error instanceof CheckpointError) throw error
    throw error instanceof SyntaxError
      ? fail('is not JSON; download or copy it again', error)
      : readError(file, error as Error)
  }
  const map = (index as { weight_map?: unknown } | null)?.weight_map
  if (typeof map !== 'object' || map === null || Array.isArray(map) || Object.keys(map).length === 0) {
    throw fail('has no weight_map that names the shard of each tensor')
  }
  const weightMap = new Map<string, string>()
  for (const [tensor, shard] of Object.entries(map)) {
    if (typeof shard !== 'string') throw fail(`gives no file name for ${forError(tensor)}`)
    if (shard !== path.basename(shard) || !/\.(safetensors|bin)$/.test(shard) || /[\\\0]/.test(shard)) {
      throw fail(
        `puts ${forError(tensor)} in "${forError(shard)}", which is not the name of a weight file in the same directory`,
      )
    }
    weightMap.set(tensor, shard)
  }
  return weightMap
}

/** The tensors of several files as one source. */
class ShardedSource implements WeightSource {
  readonly tensors: ReadonlyMap<string, TensorInfo>
  readonly #owner = new Map<string, WeightSource>()

  constructor(
    directory: string,
    files: readonly string[],
    private readonly sources: readonly WeightSource[],
    weightMap: ReadonlyMap<string, string> | undefined,
  ) {
    const tensors = new Map<string, TensorInfo>()
    const fileOf = new Map<string, string>()
    sources.forEach((source, i) => {
      for (const [name, info] of source.tensors) {
        if (fileOf.has(name)) {
          throw new CheckpointError(
            `${directory} holds ${forError(name)} twice, in ${fileOf.get(name)} and in ${files[i]}; download it again`,
          )
        }
        fileOf.set(name, files[i]!)
        tensors.set(name, info)
        this.#owner.set(name, source)
      }
    })
    for (const [name, file] of weightMap ?? []) {
      if (fileOf.get(name) === file) continue
      throw new CheckpointError(
        `${path.join(directory, file)} is missing ${forError(name)}, which its index lists; download or copy it again`,
      )
    }
    this.tensors = tensors
  }

  read(name: string, byteOffset: number, into: Uint8Array): Promise<void> {
    const owner = this.#owner.get(name)
    return owner
      ? owner.read(name, byteOffset, into)
      : Promise.reject(new RangeError(`there is no tensor ${name} to read`))
  }

  async close(): Promise<void> {
    await Promise.all(this.sources.map((source) => source.close()))
  }
}
