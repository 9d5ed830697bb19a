import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { configFor } from './formats/companions.js'
import { writeModelDirectory } from './formats/model-directory.js'
import { Overflows } from './formats/overflows.js'
import type { WeightFormat } from './formats/shards.js'
import { configJson, generationJson, type LlamaConfig } from './model/config.js'
import type { Parameters } from './model/parameters.js'
import { CHAT_TEMPLATE_FILES } from './tokenizer/chat-templates.js'
import type { LlamaTokenizer } from './tokenizer/tokenizer.js'
import { emitWarning, type OnWarning } from './warnings.js'

/** Options of saving. */
export interface SaveOptions {
  /** `bin` is torch's; defaults to safetensors. */
  format?: WeightFormat
  /** Size limit of a weight file: bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
  /** Defaults to the model's dtype. */
  dtype?: 'bfloat16' | 'float16' | 'float32'
  /** The tokenizer to save; defaults to the files of the directory that the model was loaded from. */
  tokenizer?: LlamaTokenizer
  /** Makes values that `dtype` cannot hold an error, and nothing is written then; by default they are only counted. */
  strict?: boolean
  /** Called with the losses of the conversion to `dtype`; defaults to a Node.js warning. */
  onWarning?: OnWarning
}

/** The losses of saving in another type. */
export interface SaveResult {
  /** Finite values that became infinite. */
  overflows: number
  /** The same by tensor. */
  overflowing: Record<string, number>
}

export const tokenizerFiles = [
  'tokenizer.model',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  ...CHAT_TEMPLATE_FILES,
] as const

/** The existing files among `names` in a model directory. */
export async function readSmallFiles(
  directory: string,
  names: readonly string[],
): Promise<{ name: string; data: Buffer }[]> {
  const read = async (name: string) => {
    const data = await readFile(path.join(directory, name)).catch((error) => {
      if (error.code === 'ENOENT') return undefined
      throw error
    })
    return data === undefined ? [] : [{ name, data }]
  }
  return (await Promise.all(names.map(read))).flat()
}

/** The tokenizer's files; for a new model, whose `config` is given, with its context as the maximum length. */
function filesFor(tokenizer: LlamaTokenizer, config?: LlamaConfig): ReturnType<LlamaTokenizer['files']> {
  return tokenizer.files().map((file) => {
    if (!config || file.name !== 'tokenizer_config.json') return file
    const json = { ...JSON.parse(Buffer.from(file.data).toString()), model_max_length: config.maxPositionEmbeddings }
    return { ...file, data: Buffer.from(`${JSON.stringify(json, null, 2)}\n`) }
  })
}

/**
 * Writes a Hugging Face model directory, completely or not at all. In a group, rank 0 writes and all ranks must call
 * it.
 * @param source the directory that the model was loaded from, whose small files are copied
 */
export async function saveModel(
  parameters: Parameters,
  directory: string,
  options: SaveOptions,
  source?: string,
): Promise<SaveResult> {
  const { format, maxShardSize, dtype = parameters.dtype, tokenizer, strict, onWarning = emitWarning } = options
  const overflows = new Overflows()
  await parameters.collect(async () => {
    const carried = source ? await readSmallFiles(source, tokenizerFiles) : []
    await writeModelDirectory(directory, {
      config: configFor(configJson(parameters.config, dtype), { plain: true, untied: false }),
      generationConfig: generationJson(parameters.config),
      tokenizerFiles: tokenizer ? filesFor(tokenizer, source ? undefined : parameters.config) : carried,
      tensors: parameters.entries(dtype, overflows),
      maxShardSize,
      format,
      onWritten: () => strict && overflows.refuse(dtype),
    })
  })
  const lost = overflows.describe(dtype)
  if (lost !== undefined) onWarning(`${directory}: ${lost}`)
  return { overflows: overflows.total, overflowing: overflows.byTensor }
}
