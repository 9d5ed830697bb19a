/** Exports a LLaMA as a GGUF file: names, metadata and row order as in llama.cpp's convert_hf_to_gguf.py. */
import { CheckpointError, ConfigError } from '../errors.js'
import { formatCount } from '../format.js'
import { type CastDType, type CastLosses, castChunks, isCastable } from '../formats/cast.js'
import { unusableType } from '../formats/foreign.js'
import type { GgufTensorType } from '../formats/gguf/gguf-format.js'
import { type GgufTensorToWrite, type GgufValue, writeGguf } from '../formats/gguf/gguf-writer.js'
import { Q8_0_BLOCK, quantizeQ8_0 } from '../formats/gguf/q8_0.js'
import { Overflows } from '../formats/overflows.js'
import { tensorChunks } from '../io/stream.js'
import { DTYPE_BYTES, type TensorInfo, type WeightSource } from '../io/weight-source.js'
import type { LlamaConfig } from '../model/config.js'
import { checkFit } from '../model/fit.js'
import { layoutOf, parameterCount } from '../model/layout.js'
import { inverseFrequencies } from '../model/rope.js'
import type { RopeScaling } from '../model/rope-config.js'
import type { Parameter } from '../parallel/units.js'
import { ggufTokenizer } from '../tokenizer/gguf.js'
import type { LlamaTokenizer } from '../tokenizer/tokenizer.js'

/** Types of the matrices; vectors are always float32. */
export const GGUF_MODEL_TYPES = ['F32', 'F16', 'BF16', 'Q8_0'] as const
export type GgufModelType = (typeof GGUF_MODEL_TYPES)[number]

/** llama.cpp's `general.file_type`. */
const FILE_TYPES: Readonly<Record<GgufModelType, number>> = { F32: 0, F16: 1, BF16: 32, Q8_0: 7 }
const QUANTIZATION_VERSION = 2
/** The types under the names of `--dtype`. */
export const DTYPE_NAMES: Readonly<Record<GgufModelType, string>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  Q8_0: 'q8_0',
}

export interface GgufModel {
  config: LlamaConfig
  weights: WeightSource
  tokenizer: LlamaTokenizer
  type: GgufModelType
  /** A display name, in `general.name`. */
  name: string
  /** Counts values that the type cannot hold. */
  overflows?: Overflows
  /** Makes such values an error, and nothing is written then. */
  strict?: boolean
  onProgress?: (bytesRead: number, total: number) => void
  signal?: AbortSignal
}

/**
 * Writes a model as one GGUF file that llama.cpp and programs built on it can run, with only a few pieces in memory.
 * For Q8_0, rows that are not complete blocks of 32 are stored as F16, as in llama.cpp.
 * @param where names the weights in errors
 * @returns the size of the file in bytes
 * @throws {CheckpointError} for a tensor that is missing or not floating-point, or a full disk
 * @throws {NonFiniteError} with `strict`, for values that the type cannot hold
 * @throws {TokenizerError} for a tokenizer that GGUF cannot represent
 */
export async function writeGgufModel(path: string, model: GgufModel, where: string): Promise<number> {
  const { config, weights, type, overflows = new Overflows(), strict, onProgress, signal } = model
  const parameters = layoutOf(config).units.flatMap((unit) => unit.parameters)
  checkFit(config, weights.tensors.values(), where)
  const infos = parameters.map((parameter) => castableTensor(parameter, weights, where))
  const total = infos.reduce((sum, { bytes }) => sum + bytes, 0)
  let done = 0
  const onRead = (bytes: number) => {
    signal?.throwIfAborted()
    done += bytes
    onProgress?.(done, total)
  }
  const tensors = infos.map((info) => tensorToWrite(info, model, onRead, overflows))
  return await writeGguf(path, {
    metadata: new Map([
      ...architecture(model),
      ...ggufTokenizer(model.tokenizer, config.vocabSize, config.eosTokenIds),
      ['general.quantization_version', { type: 'uint32', value: QUANTIZATION_VERSION }],
    ]),
    tensors: [...ropeFactors(config), ...tensors],
    onWritten: () => strict && overflows.refuse(DTYPE_NAMES[type]),
  })
}

function castableTensor({ name }: Parameter, weights: WeightSource, where: string): TensorInfo {
  const info = weights.tensors.get(name)!
  if (isCastable(info.dtype)) return info
  throw new CheckpointError(`${where}: ${name} ${unusableType(info.dtype, where)}`)
}

function architecture({ config, type, name }: GgufModel): Map<string, GgufValue> {
  const text = (value: string): GgufValue => ({ type: 'string', value })
  const size = (value: number): GgufValue => ({ type: 'uint32', value })
  const real = (value: number): GgufValue => ({ type: 'float32', value })
  return new Map<string, GgufValue>([
    ['general.architecture', text('llama')],
    ['general.type', text('model')],
    ['general.name', text(name)],
    ['general.size_label', text(formatCount(parameterCount(config)))],
    ['general.file_type', size(FILE_TYPES[type])],
    ['llama.block_count', size(config.numHiddenLayers)],
    ['llama.context_length', size(config.maxPositionEmbeddings)],
    ['llama.embedding_length', size(config.hiddenSize)],
    ['llama.feed_forward_length', size(config.intermediateSize)],
    ['llama.attention.head_count', size(config.numAttentionHeads)],
    ['llama.attention.head_count_kv', size(config.numKeyValueHeads)],
    ['llama.attention.key_length', size(config.headDim)],
    ['llama.attention.value_length', size(config.headDim)],
    ['llama.attention.layer_norm_rms_epsilon', real(config.rmsNormEps)],
    ['llama.rope.dimension_count', size(config.headDim)],
    ['llama.rope.freq_base', real(config.ropeTheta)],
    ...ropeScaling(config.ropeScaling),
    ['llama.vocab_size', size(config.vocabSize)],
  ])
}

/**
 * The RoPE scaling in llama.cpp's form; Llama 3.1's is a tensor, and the dynamic one, which llama.cpp lacks, has no
 * effect within the context.
 * @throws {ConfigError} for a ramp that llama.cpp has no key for
 */
function ropeScaling(scaling: RopeScaling | null): [string, GgufValue][] {
  if (scaling?.type !== 'linear' && scaling?.type !== 'yarn') return []
  const real = (value: number): GgufValue => ({ type: 'float32', value })
  const common: [string, GgufValue][] = [
    ['llama.rope.scaling.type', { type: 'string', value: scaling.type }],
    ['llama.rope.scaling.factor', real(scaling.factor)],
  ]
  if (scaling.type === 'linear') return common
  if (!scaling.truncate) throw new ConfigError('GGUF has no form for YaRN with "truncate": false')
  // llama.cpp multiplies by its default.
  const attention = scaling.attentionFactor / (1 + 0.1 * Math.log(scaling.factor))
  const isDefault = Math.abs(attention - 1) < 1e-6
  return [
    ...common,
    ['llama.rope.scaling.original_context_length', { type: 'uint32', value: scaling.originalMaxPositionEmbeddings }],
    ...(isDefault ? [] : [['llama.rope.scaling.attn_factor', real(attention)] as [string, GgufValue]]),
    ['llama.rope.scaling.yarn_beta_fast', real(scaling.betaFast)],
    ['llama.rope.scaling.yarn_beta_slow', real(scaling.betaSlow)],
  ]
}

/** Llama 3.1's scaling in llama.cpp's form: the divisor of each pair's frequency. */
function ropeFactors(config: LlamaConfig): GgufTensorToWrite[] {
  if (config.ropeScaling?.type !== 'llama3') return []
  const plain = inverseFrequencies({ ...config, ropeScaling: null })
  const factors = inverseFrequencies(config).map((frequency, i) => plain[i]! / frequency)
  return [
    { name: 'rope_freqs.weight', type: 'F32', shape: [factors.length], data: () => new Uint8Array(factors.buffer) },
  ]
}

const BLOCK_NAMES: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}

const OTHER_NAMES: Readonly<Record<string, string>> = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  lm_head: 'output',
}

/** llama.cpp's name of a tensor: `blk.3.attn_q.weight` for `model.layers.3.self_attn.q_proj.weight`. */
export function ggufName(name: string): string {
  const stem = name.replace(/\.weight$/, '')
  const [, block, part] = /^model\.layers\.(\d+)\.(.+)$/.exec(stem) ?? []
  return block === undefined ? `${OTHER_NAMES[stem]}.weight` : `blk.${block}.${BLOCK_NAMES[part!]}.weight`
}

function tensorToWrite(
  info: TensorInfo,
  { config: { headDim }, weights, type: modelType }: GgufModel,
  onRead: (bytes: number) => void,
  overflows: Overflows,
): GgufTensorToWrite {
  const type = storedType(info.shape, modelType)
  const isRotated = /\.(q|k)_proj\.weight$/.test(info.name)
  return {
    name: ggufName(info.name),
    type,
    shape: info.shape,
    async *data() {
      const losses: CastLosses = { overflows: 0 }
      const pieces = isRotated ? interleavedHeads(weights, info, headDim) : tensorChunks(weights, info.name)
      const plain = PLAIN_DTYPES[type]
      const from = info.dtype as CastDType
      const counted = counting(pieces, onRead)
      yield* plain
        ? castChunks(counted, from, plain, losses)
        : quantized(castChunks(counted, from, 'float32', losses), losses)
      overflows.add(info.name, losses.overflows)
    },
  }
}

async function* counting(pieces: AsyncIterable<Uint8Array>, onRead: (bytes: number) => void) {
  for await (const piece of pieces) {
    yield piece
    onRead(piece.length)
  }
}

function storedType(shape: readonly number[], type: GgufModelType): GgufTensorType {
  if (shape.length === 1) return 'F32'
  return type === 'Q8_0' && shape.at(-1)! % Q8_0_BLOCK !== 0 ? 'F16' : type
}

const PLAIN_DTYPES: Partial<Record<GgufTensorType, CastDType>> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }

async function* quantized(floats: AsyncIterable<Uint8Array>, losses: CastLosses): AsyncGenerator<Uint8Array> {
  for await (const piece of floats) {
    const aligned = piece.byteOffset % 4 === 0 ? piece : piece.slice()
    yield quantizeQ8_0(new Float32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 4), losses)
  }
}

/**
 * The rows of a query or key projection, head by head, in llama.cpp's order: its RoPE rotates adjacent dimensions where
 * Hugging Face's rotates the two halves, so row i of the first half comes before row i of the second.
 */
async function* interleavedHeads(weights: WeightSource, info: TensorInfo, headDim: number): AsyncGenerator<Uint8Array> {
  const row = info.shape[1]! * DTYPE_BYTES[info.dtype]
  const head = Buffer.alloc(headDim * row)
  const result = Buffer.alloc(head.length)
  const half = headDim / 2
  for (let at = 0; at < info.bytes; at += head.length) {
    await weights.read(info.name, at, head)
    for (let i = 0; i < headDim; i++) {
      const from = (i % 2) * half + Math.floor(i / 2)
      head.copy(result, i * row, from * row, (from + 1) * row)
    }
    yield result
  }
}
