import { stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { replaceFilesAtomically, writeDirectoryAtomically } from './atomic.js'
import { type TensorToWrite, writeSafetensors } from './safetensors-writer.js'
import { DEFAULT_MAX_SHARD_SIZE, planShards, WEIGHT_FILES } from './shards.js'
import { tensorBytes } from './types.js'

export interface ModelDirectoryContents {
  /** The contents of config.json. */
  config: object
  /** The contents of generation_config.json. */
  generationConfig?: object
  /** Further files as they are: tokenizer.model, tokenizer_config.json, special_tokens_map.json, … */
  tokenizerFiles?: readonly { readonly name: string; readonly data: Uint8Array | string }[]
  /** In the order of the model's state dict, which decides what goes into which shard. */
  tensors: readonly TensorToWrite[]
  /** Bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
}

const { whole, index } = WEIGHT_FILES.safetensors

/**
 * Writes a Hugging Face model directory that Transformers loads, with the weights as safetensors, whole or in shards.
 *
 * It is there as a whole or not at all. A new directory is written beside its name and renamed. In one that exists, the
 * new files take the places of those with the same names, safetensors weights of an earlier save go, and everything
 * else stays; see `replaceFilesAtomically`. The disk must have room for the old and the new weights at once.
 * @throws CheckpointError when the disk is full or may not be written; nothing has changed then
 * @throws RangeError for a file name with a directory in it, a tensor named twice or of an impossible shape, or a size
 * that cannot be understood
 */
export async function writeModelDirectory(directory: string, contents: ModelDirectoryContents): Promise<void> {
  const { config, generationConfig, tokenizerFiles = [], tensors, maxShardSize = DEFAULT_MAX_SHARD_SIZE } = contents
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  if (byName.size < tensors.length) throw new RangeError('Two tensors have the same name')
  const plan = planShards(tensors.map(sizeOf), maxShardSize)
  const texts = new Map<string, Uint8Array | string>(tokenizerFiles.map(({ name, data }) => [name, data]))
  for (const name of texts.keys()) {
    if (!name || name !== path.basename(name) || name.startsWith('.'))
      throw new RangeError(`"${name}" is not a plain file name`)
  }
  texts.set('config.json', toJson(config))
  if (generationConfig) texts.set('generation_config.json', toJson(generationConfig))
  if (plan.index) texts.set(index, plan.index)

  const produce = async (temporary: string) => {
    for (const [name, data] of texts) await writeFile(path.join(temporary, name), data)
    for (const file of plan.files) {
      await writeSafetensors(
        path.join(temporary, file.name),
        file.tensors.map((name) => byName.get(name)!),
      )
    }
  }
  const bytesNeeded = plan.totalSize
  if (!(await stat(directory).catch(() => undefined))?.isDirectory()) {
    return writeDirectoryAtomically(directory, produce, { bytesNeeded })
  }
  await replaceFilesAtomically(directory, produce, {
    bytesNeeded,
    // An index goes even where a new one comes, as its shards are replaced one by one.
    obsolete: (existing, written) =>
      existing.filter((name) => name === index || (isOwnWeightFile(name) && !written.includes(name))),
    entryPoints: [whole, index],
  })
}

function sizeOf({ name, shape, dtype }: TensorToWrite): { name: string; bytes: number } {
  const bytes = tensorBytes(shape, dtype)
  if (bytes === undefined) throw new RangeError(`${name} has the impossible shape [${shape}]`)
  return { name, bytes }
}

function isOwnWeightFile(name: string): boolean {
  return name === whole || /^model-\d{5}-of-\d{5}\.safetensors$/.test(name)
}

/** JSON as Hugging Face libraries write it: sorted keys, two spaces, a newline at the end. */
function toJson(value: object): string {
  const sortKeys = (_key: string, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner
  return `${JSON.stringify(value, sortKeys, 2)}\n`
}
