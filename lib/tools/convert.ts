import path from 'node:path'
import { CheckpointError, OpenAlpacaError } from '../errors.js'
import { openModelWeights } from '../formats/model-files.js'
import { Overflows } from '../formats/overflows.js'
import type { WeightFormat } from '../formats/shards.js'
import type { WeightSource } from '../io/weight-source.js'
import { readConfig } from '../model/config.js'
import { specialTokenNotes } from '../model/special-tokens.js'
import { resolveTies } from '../model/ties.js'
import { describeSurplus, LlamaTokenizer } from '../tokenizer/tokenizer.js'
import { DTYPE_NAMES, type GgufModelType, writeGgufModel } from './gguf-export.js'
import { type ConversionFindings, findingsOf, makeShards } from './make-shards.js'

const GGUF_TYPES = { float32: 'F32', float16: 'F16', bfloat16: 'BF16', q8_0: 'Q8_0' } as const satisfies Record<
  string,
  GgufModelType
>

/** Number formats to convert to; `q8_0` is only available for GGUF. */
export type ConvertDType = keyof typeof GGUF_TYPES

/** Options of a conversion. */
export interface ConvertOptions {
  /**
   * `gguf`: one file for llama.cpp and programs built on it. Else a Hugging Face directory with weights in that format.
   */
  to: 'gguf' | WeightFormat
  /** Defaults to the model's dtype. */
  dtype?: ConvertDType
  /** For a directory: bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
  /** Makes values that `dtype` cannot hold an error, and nothing is written then; by default they are only counted. */
  strict?: boolean
  /** A display name for a GGUF file; defaults to the directory's name. */
  name?: string
  /** For GGUF: bytes of the model read so far, and total bytes. */
  onProgress?: (bytesRead: number, total: number) => void
  /** When aborted, partial output is removed, and the promise rejects. */
  signal?: AbortSignal
}

/**
 * Converts a model directory to another format or number format. The weights are streamed in pieces, so memory does not
 * depend on the size of the model; the output appears completely or not at all, and the source is unchanged.
 * @param output a `.gguf` file, or a new directory
 * @throws {ConfigError} for a config that cannot be read, or has no equivalent in the format
 * @throws {CheckpointError} for weights that cannot be read, or have no equivalent in the format
 * @throws {TokenizerError} for a tokenizer that cannot be read, or has no equivalent in the format
 * @throws {NonFiniteError} with `strict`, for values that `dtype` cannot hold
 */
export async function convertModel(
  directory: string,
  output: string,
  options: ConvertOptions,
): Promise<ConversionFindings> {
  const { to, dtype, maxShardSize, strict, signal } = options
  if (to === 'gguf') return await convertToGguf(directory, output, options)
  if (dtype === 'q8_0') throw new OpenAlpacaError('USAGE', `q8_0 is only available for GGUF, got ${to}`)
  const { overflows, overflowing, warnings } = await makeShards({
    ...{ modelPath: directory, output, format: to, dtype, maxShardSize, strict, signal },
  })
  return { overflows, overflowing, warnings: [...(await notesOf(directory)), ...warnings] }
}

async function convertToGguf(directory: string, output: string, options: ConvertOptions): Promise<ConversionFindings> {
  const warnings: string[] = []
  const read = await readConfig(directory)
  const stored = await openModelWeights(directory)
  try {
    const onWarning = (message: string) => void warnings.push(message)
    const { config, weights } = await resolveTies(read, stored, directory, onWarning)
    const tokenizer = await LlamaTokenizer.fromPretrained(directory)
    const surplus = describeSurplus(tokenizer, config.vocabSize)
    if (surplus !== undefined) warnings.push(`${directory}: ${surplus}; the tokens beyond are left out of the file`)
    warnings.push(...specialTokenNotes(config, tokenizer).map((note) => `${directory}: ${note}`))
    const type = options.dtype ? GGUF_TYPES[options.dtype] : mainType(weights, directory)
    const { name = path.basename(path.resolve(directory)), strict, onProgress, signal } = options
    const overflows = new Overflows()
    const model = { config, weights, tokenizer, type, name, overflows, strict, onProgress, signal }
    await writeGgufModel(output, model, directory)
    return findingsOf(overflows, DTYPE_NAMES[type], warnings)
  } finally {
    await stored.close()
  }
}

/** Disagreements between the files of a model. A directory is converted with any config and tokenizer, or none. */
async function notesOf(directory: string): Promise<string[]> {
  const config = await readConfig(directory).catch(() => undefined)
  const tokenizer = await LlamaTokenizer.fromPretrained(directory).catch(() => undefined)
  return config ? specialTokenNotes(config, tokenizer).map((note) => `${directory}: ${note}`) : []
}

/** The type with the most bytes among the weights. */
function mainType(weights: WeightSource, directory: string): GgufModelType {
  const bytes = new Map<string, number>()
  for (const { dtype, bytes: size } of weights.tensors.values()) bytes.set(dtype, (bytes.get(dtype) ?? 0) + size)
  const [dtype = 'nothing'] = [...bytes].sort(([, a], [, b]) => b - a)[0] ?? []
  if (Object.hasOwn(GGUF_TYPES, dtype)) return GGUF_TYPES[dtype as ConvertDType]
  throw new CheckpointError(`${directory} holds ${dtype}: set dtype to convert it`)
}
