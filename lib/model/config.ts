import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { ConfigError } from '../errors.js'
import { forError } from '../format.js'
import { isPeftAdapter, peftAdvice } from '../formats/model-files.js'
import { isLfsPointer, lfsAdvice } from '../io/lfs.js'
import { parseJson } from '../json.js'
import { type GenerationJson, oneOrList, readGenerationConfig } from './generation-config.js'
import { parseRope, type RopeJson, type RopeScaling, ropeSchema } from './rope-config.js'

/** The settings that the computation needs; `parseConfig` reads them from a config.json. */
export interface LlamaConfig {
  /** Rows of the embedding. */
  vocabSize: number
  /** Width of the residual stream. */
  hiddenSize: number
  /** Width of the feed-forward layer. */
  intermediateSize: number
  /** Transformer blocks. */
  numHiddenLayers: number
  /** Query heads. */
  numAttentionHeads: number
  /** Key/value heads. */
  numKeyValueHeads: number
  /** Size of a head. */
  headDim: number
  /** Longest context, in tokens. */
  maxPositionEmbeddings: number
  /** ε of the RMSNorm layers. */
  rmsNormEps: number
  /** Base of the rotary frequencies. */
  ropeTheta: number
  /** Null for none. */
  ropeScaling: RopeScaling | null
  /** Whether the output projection shares the embedding's weights. */
  tieWordEmbeddings: boolean
  /** Standard deviation of newly initialized weights. */
  initializerRange: number
  /** Starts a text. */
  bosTokenId: number
  /** Each of these ends generation; from generation_config.json, else config.json. */
  eosTokenIds: number[]
  /** The config.json as read; keys that the computation doesn't need are written back unchanged. */
  json: ConfigJson
  /** The generation_config.json as read, if there is one. */
  generation?: GenerationJson
}

const size = z.int().positive()
/** Far more than any model has; keeps a damaged config from allocating a billion layers. */
const MOST_LAYERS = 10_000
/** Transformers' names for the activation of SwiGLU. */
const SILU = ['silu', 'swish']

/** Validates a ConfigJson and fills in defaults. */
const schema = z.looseObject({
  architectures: z.array(z.string()).nullish(),
  model_type: z.string().nullish(),
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: size.max(MOST_LAYERS),
  num_attention_heads: size,
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  max_position_embeddings: size.default(2048),
  rms_norm_eps: z.number().positive().default(1e-6),
  rope_theta: z.number().positive().nullish(),
  rope_scaling: ropeSchema,
  rope_parameters: ropeSchema,
  original_max_position_embeddings: size.nullish(),
  partial_rotary_factor: z.number().nullish(),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  hidden_act: z.string().default('silu'),
  initializer_range: z.number().nonnegative().default(0.02),
  bos_token_id: z.int().nullish(),
  eos_token_id: z.union([z.int(), z.array(z.int())]).nullish(),
})

/** A config.json of the LLaMA architecture, as written by OpenLLaMA or Transformers 5. */
export interface ConfigJson {
  /** `['LlamaForCausalLM']`, if given. */
  architectures?: string[] | null
  /** `llama`, if given. */
  model_type?: string | null
  /** Rows of the embedding. */
  vocab_size: number
  /** Width of the residual stream. */
  hidden_size: number
  /** Width of the feed-forward layer. */
  intermediate_size: number
  /** Transformer blocks. */
  num_hidden_layers: number
  /** Query heads. */
  num_attention_heads: number
  /** Key/value heads, a divisor of the query heads; defaults to the number of query heads. */
  num_key_value_heads?: number | null
  /** Size of a head (default: hidden_size / num_attention_heads). */
  head_dim?: number | null
  /** Longest context, in tokens; defaults to 2048. */
  max_position_embeddings?: number
  /** ε of the RMSNorm layers; defaults to 1e-6. */
  rms_norm_eps?: number
  /** Base of the rotary frequencies; defaults to 10000. A value inside the RoPE settings takes precedence. */
  rope_theta?: number | null
  /** RoPE scaling in the form of Transformers 4; unless empty, it replaces `rope_parameters`. */
  rope_scaling?: RopeJson | null
  /** RoPE settings in the form of Transformers 5. */
  rope_parameters?: RopeJson | null
  /** The context before extension; takes precedence over the value inside the RoPE settings. */
  original_max_position_embeddings?: number | null
  /** Whether the output projection shares the embedding's weights; defaults to false. */
  tie_word_embeddings?: boolean
  /** Must not be true. */
  attention_bias?: boolean | null
  /** Must not be true. */
  mlp_bias?: boolean | null
  /** `silu`, or its alias `swish`. */
  hidden_act?: string
  /** Standard deviation of newly initialized weights; defaults to 0.02. */
  initializer_range?: number
  /** Starts a text. */
  bos_token_id?: number | null
  /** Ends generation. */
  eos_token_id?: number | number[] | null
  /** Other keys are kept. */
  [key: string]: unknown
}

/** Rejects features that this package does not compute, named by their config key. */
function refuseUnsupported(json: z.infer<typeof schema>, where: string): void {
  const architecture = json.architectures?.[0]
  if ((architecture && architecture !== 'LlamaForCausalLM') || (json.model_type && json.model_type !== 'llama')) {
    throw new ConfigError(
      `${where}: unknown architecture ${forError(architecture ?? json.model_type ?? '')}; only LlamaForCausalLM is supported`,
    )
  }
  if (json.attention_bias || json.mlp_bias) throw new ConfigError(`${where}: models with biases are not supported`)
  if (!SILU.includes(json.hidden_act)) {
    throw new ConfigError(`${where}: expected hidden_act "silu", got "${forError(json.hidden_act)}"`)
  }
}

/**
 * Reads the fields of a config.json, with Transformers' defaults for missing ones.
 * @param where names the source in errors
 * @throws {ConfigError} for a missing or invalid value, or an architecture other than LLaMA
 */
export function parseConfig(input: ConfigJson, where = 'config'): LlamaConfig {
  const parsed = schema.safeParse(input)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new ConfigError(`${where}: ${forError(`${issue.path.join('.') || 'the configuration'}: ${issue.message}`)}`)
  }
  const json = parsed.data
  refuseUnsupported(json, where)
  const numKeyValueHeads = json.num_key_value_heads ?? json.num_attention_heads
  const headDim = json.head_dim ?? json.hidden_size / json.num_attention_heads
  if (!Number.isInteger(headDim) || headDim % 2 !== 0) {
    throw new ConfigError(
      `${where}: hidden_size ${json.hidden_size} over ${json.num_attention_heads} heads gives heads of ${headDim}; ` +
        'it must be an even number',
    )
  }
  if (json.num_attention_heads % numKeyValueHeads !== 0) {
    throw new ConfigError(
      `${where}: num_attention_heads ${json.num_attention_heads} must be a multiple of num_key_value_heads ${numKeyValueHeads}`,
    )
  }
  return {
    vocabSize: json.vocab_size,
    hiddenSize: json.hidden_size,
    intermediateSize: json.intermediate_size,
    numHiddenLayers: json.num_hidden_layers,
    numAttentionHeads: json.num_attention_heads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings: json.max_position_embeddings,
    rmsNormEps: json.rms_norm_eps,
    ...parseRope(json, where),
    tieWordEmbeddings: json.tie_word_embeddings,
    initializerRange: json.initializer_range,
    bosTokenId: json.bos_token_id ?? 1,
    eosTokenIds: [json.eos_token_id ?? 2].flat(),
    json: input,
  }
}

/**
 * Reads a model directory's `config.json` and `generation_config.json`; special tokens of the latter take precedence,
 * as in Transformers.
 * @throws {ConfigError} for a file that cannot be read or is invalid
 */
export async function readConfig(directory: string): Promise<LlamaConfig> {
  const names = await readdir(directory).catch((): string[] => [])
  if (!names.includes('config.json') && isPeftAdapter(names)) throw new ConfigError(peftAdvice(directory))
  const file = path.join(directory, 'config.json')
  const config = await readConfigFile(file, 'expected a Hugging Face model directory')
  const generation = await readGenerationConfig(directory)
  if (!generation) return config
  return {
    ...config,
    bosTokenId: generation.bos_token_id ?? config.bosTokenId,
    eosTokenIds: generation.eos_token_id === undefined ? config.eosTokenIds : [generation.eos_token_id ?? []].flat(),
    generation,
  }
}

/** @param advice what to do when the file cannot be read */
export async function readConfigFile(file: string, advice: string): Promise<LlamaConfig> {
  let bytes: Uint8Array
  try {
    bytes = await readFile(file)
  } catch (error) {
    throw new ConfigError(`${file} cannot be read; ${advice}`, { cause: error })
  }
  if (isLfsPointer(bytes)) throw new ConfigError(lfsAdvice(file))
  let json: unknown
  try {
    json = parseJson(bytes)
  } catch (error) {
    throw new ConfigError(`${file} is not JSON: ${forError((error as Error).message)}`, { cause: error })
  }
  return parseConfig(json as ConfigJson, file)
}

/**
 * The config.json to save for a model: the keys as read, plus those that every reader of the LLaMA architecture
 * expects.
 */
export function configJson(config: LlamaConfig, dtype: string): Record<string, unknown> {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_act: 'silu',
    use_cache: true,
    ...config.json,
    num_key_value_heads: config.numKeyValueHeads,
    max_position_embeddings: config.maxPositionEmbeddings,
    rms_norm_eps: config.rmsNormEps,
    initializer_range: config.initializerRange,
    tie_word_embeddings: config.tieWordEmbeddings,
    bos_token_id: config.json.bos_token_id ?? config.bosTokenId,
    eos_token_id: config.json.eos_token_id ?? oneOrList(config.eosTokenIds),
    torch_dtype: dtype,
    ...('dtype' in config.json && { dtype }), // Transformers 5's name, which takes precedence there
  }
}

/** The generation_config.json to save for a model: the keys as read, else derived from config.json. */
export function generationJson({ bosTokenId, eosTokenIds, json, generation }: LlamaConfig): GenerationJson {
  return (
    generation ?? {
      _from_model_config: true,
      bos_token_id: bosTokenId,
      eos_token_id: oneOrList(eosTokenIds),
      ...(typeof json.pad_token_id === 'number' && { pad_token_id: json.pad_token_id }),
    }
  )
}

/** Adds an end token to the model and to every file that is saved for it. */
export function addEndToken(config: LlamaConfig, id: number): void {
  const withId = (ids: number | number[] | null | undefined) => oneOrList([...new Set([ids ?? [], id].flat())])
  config.json = { ...config.json, eos_token_id: withId(config.json.eos_token_id) }
  if (config.generation) config.generation = { ...config.generation, eos_token_id: withId(config.eosTokenIds) }
  config.eosTokenIds = [...new Set([...config.eosTokenIds, id])]
}
