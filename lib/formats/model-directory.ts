import { stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { replaceFilesAtomically, writeDirectoryAtomically } from '../io/atomic.js'
import type { TensorToWrite } from '../io/file-sink.js'
import { DEFAULT_MAX_SHARD_SIZE, isWeightFile, WEIGHT_FILES, type WeightFormat } from './shards.js'
import { planWeights, verifyWeights, writeWeights } from './weight-writer.js'

export interface ModelDirectoryContents {
  /** The contents of config.json; by default none is written, and an existing one is kept. */
  config?: object
  /** The contents of generation_config.json. */
  generationConfig?: object
  /** Other files, written unchanged: tokenizer.model, tokenizer_config.json, special_tokens_map.json, … */
  tokenizerFiles?: readonly { readonly name: string; readonly data: Uint8Array | string }[]
  /** In state dict order, which determines the contents of each shard. */
  tensors: readonly TensorToWrite[]
  /** Bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
  /** Format of the weights; defaults to safetensors. */
  format?: WeightFormat
  /** Reads the weights back and compares them with the written data before they get their final names. */
  verify?: boolean
  /** Weight files in the directory that the new ones replace, in addition to those of the same format. */
  replaces?: readonly string[]
  /** Called after everything is written, before anything gets its final name; if it throws, nothing has changed. */
  onWritten?(): void
  signal?: AbortSignal
}

/**
 * Writes a Hugging Face model directory that Transformers loads, with the weights in one file or in shards.
 *
 * It appears completely or not at all. A new directory is written under a temporary name and renamed. In an existing
 * one, the new files replace those with the same names, weights of an earlier save in the same format are removed, and
 * everything else stays; see `replaceFilesAtomically`. The disk must have space for the old and the new weights at
 * once.
 * @throws {CheckpointError} for a full or read-only disk; nothing has changed then
 * @throws {RangeError} for a file name with a directory in it, a tensor named twice or of an invalid shape, or an
 *   invalid size
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
    // An old index is removed even if a new one replaces it, since its shards are replaced one by one.
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
