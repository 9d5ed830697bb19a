import { realpath } from 'node:fs/promises'
import path from 'node:path'
import { castChunks } from '../checkpoint/cast.js'
import { writeModelDirectory } from '../checkpoint/model-directory.js'
import { openModelWeights } from '../checkpoint/model-files.js'
import type { TensorToWrite } from '../checkpoint/safetensors-writer.js'
import { tensorChunks } from '../checkpoint/stream.js'
import type { WeightSource } from '../checkpoint/types.js'
import { CheckpointError, OpenAlpacaError } from '../errors.js'
import { LlamaTokenizer } from '../tokenizer/tokenizer.js'
import { configJson, type LlamaConfig, readConfig } from './config.js'
import { type GgufModelType, writeGgufModel } from './gguf.js'
import { isIgnoredWeight } from './parameters.js'
import { readSmallFiles, tokenizerFiles } from './save.js'

/** The types of weights that models are converted from and to. */
const FLOAT_DTYPES = ['float32', 'float16', 'bfloat16'] as const
type FloatDType = (typeof FLOAT_DTYPES)[number]

function isFloatDType(dtype: string): dtype is FloatDType {
  return (FLOAT_DTYPES as readonly string[]).includes(dtype)
}

export const CONVERT_FORMATS = ['gguf', 'safetensors'] as const
export const CONVERT_DTYPES = [...FLOAT_DTYPES, 'q8_0'] as const

export interface ConvertOptions {
  /** `gguf`: one file for llama.cpp and what is built on it. `safetensors`: a Hugging Face directory. */
  to: (typeof CONVERT_FORMATS)[number]
  /** That of the largest part of the weights when left out; `q8_0` is for GGUF alone. */
  dtype?: (typeof CONVERT_DTYPES)[number]
  /** For a directory: bytes, or a text such as `5GB` (the default). */
  maxShardSize?: number | string
  /** For people, in a GGUF file; the directory's name when left out. */
  name?: string
  onProgress?: (bytesRead: number, total: number) => void
}

const GGUF_TYPES: Readonly<Record<(typeof CONVERT_DTYPES)[number], GgufModelType>> = {
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
  q8_0: 'Q8_0',
}

/**
 * Writes a model directory anew, in another format or dtype. The weights pass through in pieces, so memory does not
 * depend on the size of the model; the output is there as a whole or not at all, and the source stays as it is.
 * @param output a `.gguf` file, or a directory
 * @throws {ConfigError} {CheckpointError} {TokenizerError} for a source that cannot be read, or has no form there
 */
export async function convertModel(directory: string, output: string, options: ConvertOptions): Promise<void> {
  const config = await readConfig(directory)
  const weights = await openModelWeights(directory)
  try {
    const dtype = options.dtype ?? mainDType(weights, directory)
    if (options.to === 'gguf') {
      const tokenizer = await LlamaTokenizer.fromPretrained(directory)
      const { name = path.basename(path.resolve(directory)), onProgress } = options
      const model = { config, weights, tokenizer, type: GGUF_TYPES[dtype], name, onProgress }
      await writeGgufModel(output, model, directory)
      return
    }
    if (dtype === 'q8_0')
      throw new OpenAlpacaError('USAGE', 'q8_0 is a type of GGUF files; safetensors has no such type')
    if ((await realpath(output).catch(() => undefined)) === (await realpath(directory))) {
      throw new CheckpointError(`${output} is the model itself: name another directory for the converted one`)
    }
    await writeDirectory(directory, output, config, weights, dtype, options)
  } finally {
    await weights.close()
  }
}

/** The type of most bytes among the weights. */
function mainDType(weights: WeightSource, directory: string): FloatDType {
  const bytes = new Map<string, number>()
  for (const { dtype, bytes: size } of weights.tensors.values()) bytes.set(dtype, (bytes.get(dtype) ?? 0) + size)
  const [dtype = 'nothing'] = [...bytes].sort(([, a], [, b]) => b - a)[0] ?? []
  if (isFloatDType(dtype)) return dtype
  throw new CheckpointError(`${directory} holds ${dtype}; ${FLOAT_DTYPES.join(', ')} can be converted`)
}

async function writeDirectory(
  source: string,
  output: string,
  config: LlamaConfig,
  weights: WeightSource,
  dtype: FloatDType,
  { maxShardSize, onProgress }: ConvertOptions,
): Promise<void> {
  const infos = [...weights.tensors.values()].filter(({ name }) => !isIgnoredWeight(name))
  const total = infos.reduce((sum, { bytes }) => sum + bytes, 0)
  let done = 0
  async function* counted(pieces: AsyncIterable<Uint8Array>) {
    for await (const piece of pieces) {
      yield piece
      done += piece.length
      onProgress?.(done, total)
    }
  }
  const tensors = infos.map(({ name, shape, dtype: from }): TensorToWrite => {
    if (!isFloatDType(from)) {
      throw new CheckpointError(`${source}: ${name} is ${from}; ${FLOAT_DTYPES.join(', ')} can be converted`)
    }
    return {
      name,
      shape,
      dtype,
      async *data() {
        yield* castChunks(counted(tensorChunks(weights, name)), from, dtype)
      },
    }
  })
  const [generation] = await readSmallFiles(source, ['generation_config.json'])
  await writeModelDirectory(output, {
    config: configJson(config, dtype),
    generationConfig: generation && JSON.parse(generation.data.toString()),
    tokenizerFiles: await readSmallFiles(source, [...tokenizerFiles, 'tokenizer.json', 'chat_template.jinja']),
    tensors,
    maxShardSize,
  })
}
