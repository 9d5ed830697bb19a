import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { writeModelDirectory } from '../checkpoint/model-directory.js'
import type { LlamaTokenizer } from '../tokenizer/tokenizer.js'
import { configJson, type LlamaConfig } from './config.js'
import type { Parameters } from './parameters.js'

export interface SaveOptions {
  /** Only safetensors is written. */
  format?: 'safetensors'
  /** Weights beyond this go into further files: bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
  /** The model's own when left out. */
  dtype?: 'bfloat16' | 'float16' | 'float32'
  /** Its files are written too; those of the directory that the model was read from when left out. */
  tokenizer?: LlamaTokenizer
}

const tokenizerFiles = [
  'tokenizer.model',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
] as const

/** A file of the directory that the model came from; undefined where it has none. */
async function original(directory: string | undefined, name: string): Promise<Buffer | undefined> {
  if (!directory) return undefined
  return await readFile(path.join(directory, name)).catch((error) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
}

function generationConfig({ bosTokenId, eosTokenIds, json }: LlamaConfig): object {
  return {
    _from_model_config: true,
    bos_token_id: bosTokenId,
    eos_token_id: eosTokenIds.length === 1 ? eosTokenIds[0] : eosTokenIds,
    ...(typeof json.pad_token_id === 'number' && { pad_token_id: json.pad_token_id }),
  }
}

/**
 * Writes a Hugging Face model directory, whole or not at all. Of a group, rank 0 writes and all have to call it.
 * @param source the directory that the model was read from, whose small files are carried over
 */
export async function saveModel(
  parameters: Parameters,
  directory: string,
  { maxShardSize, dtype = parameters.dtype, tokenizer }: SaveOptions,
  source?: string,
): Promise<void> {
  await parameters.collect(async () => {
    const carried = await Promise.all(
      tokenizerFiles.map(async (name) => ({ name, data: await original(source, name) })),
    )
    const generation = await original(source, 'generation_config.json')
    await writeModelDirectory(directory, {
      config: configJson(parameters.config, dtype),
      generationConfig: generation ? JSON.parse(generation.toString()) : generationConfig(parameters.config),
      tokenizerFiles: tokenizer
        ? tokenizer.files()
        : carried.flatMap(({ name, data }) => (data === undefined ? [] : [{ name, data }])),
      tensors: parameters.entries(dtype),
      maxShardSize,
    })
  })
}
