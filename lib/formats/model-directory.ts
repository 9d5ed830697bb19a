import { stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { replaceFilesAtomically, writeDirectoryAtomically } from '../io/atomic.js'
import type { TensorToWrite } from '../io/file-sink.js'
import { DEFAULT_MAX_SHARD_SIZE, isWeightFile, WEIGHT_FILES, type WeightFormat } from './shards.js'
import { planWeights, verifyWeights, writeWeights } from './weight-writer.js'

export interface ModelDirectoryContents {
  /** The contents of config.json; none is written, and one that is there stays, when left out. */
  config?: object
  /** The contents of generation_config.json. */
  generationConfig?: object
  /** Further files as they are: tokenizer.model, tokenizer_config.json, special_tokens_map.json, … */
  tokenizerFiles?: readonly { readonly name: string; readonly data: Uint8Array | string }[]
  /** In the order of the model's state dict, which decides what goes into which shard. */
  tensors: readonly TensorToWrite[]
  /** Bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
  /** Of the weights; safetensors when left out. */
  format?: WeightFormat
  /** Reads the weights back and compares them with what was written, before they get their final names. */
  verify?: boolean
  /** Weight files of the directory that go when the new ones come, besides those of the same format. */
  replaces?: readonly string[]
  /** Called when everything is written, and before anything has its final name; when it throws, nothing has changed. */
  onWritten?(): void
  signal?: AbortSignal
}

/**
 * Writes a Hugging Face model directory that Transformers loads, with the weights whole or in shards.
 *
 * It is there as a whole or not at all. A new directory is written beside its name and renamed. In one that exists, the
 * new files take the places of those with the same names, weights of an earlier save in the same format go, and everything
 * else stays; see `replaceFilesAtomically`. The disk must have room for the old and the new weights at once.
 * @throws CheckpointError when the disk is full or may not be written; nothing has changed then
 * @throws RangeError for a file name with a directory in it, a tensor named twice or of an impossible shape, or a size
 * that cannot be understood
 */
export async function writeModelDirectory(directory: string, contents: ModelDirectoryContents): Promise<void> {
  const { config, generationConfig, tokenizerFiles = [], tensors, verify, replaces = [], onWritten, signal } = contents
  const { format = 'safetensors', maxShardSize = DEFAULT_MAX_SHARD_SIZE } = contents
  if (new Set(tensors.map(({ name }) => name)).size < tensors.length) {
    throw new RangeError('Two tensors have the same name')
  }
  const { totalSize: bytesNeeded } = planWeights(tensors, { format, maxShardSize })
  const texts = new Map<string, Uint8Array | string>(tokenizerFiles.map(({ name, data }) => [name, data]))
  for (const name of texts.keys()) {
    if (!name || name !== path.basename(name) || name.startsWith('.'))
      throw new RangeError(`"${name}" is not a plain file name`)
  }
  if (config) texts.set('config.json', toJson(config))
  if (generationConfig) texts.set('generation_config.json', toJson(generationConfig))

  const produce = async (temporary: string) => {
    for (const [name, data] of texts) await writeFile(path.join(temporary, name), data)
    const { checksums } = await writeWeights(temporary, tensors, { format, maxShardSize })
    onWritten?.()
    if (verify) await verifyWeights(temporary, tensors, checksums, { signal })
  }
  if (!(await stat(directory).catch(() => undefined))?.isDirectory()) {
    return writeDirectoryAtomically(directory, produce, { bytesNeeded })
  }
  const { whole, index } = WEIGHT_FILES[format]
  await replaceFilesAtomically(directory, produce, {
    bytesNeeded,
    // An index goes even where a new one comes, as its shards are replaced one by one.
    obsolete: (existing, written) =>
      existing.filter((name) => {
        const own = isWeightFile(name, format) || replaces.includes(name)
        return name === index || (own && !written.includes(name))
      }),
    entryPoints: [whole, index, WEIGHT_FILES.safetensors.index, WEIGHT_FILES.bin.index],
  })
}

/** JSON as Hugging Face libraries write it: sorted keys, two spaces, a newline at the end. */
function toJson(value: object): string {
  const sortKeys = (_key: string, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner
  return `${JSON.stringify(value, sortKeys, 2)}\n`
}
