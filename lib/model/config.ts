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

/** What the computation needs to know of a model; `parseConfig` makes it from a config.json. */
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
  /** Null where there is none. */
  ropeScaling: RopeScaling | null
  /** Whether the embedding is the output projection too. */
  tieWordEmbeddings: boolean
  /** Standard deviation of a new model's weights. */
  initializerRange: number
  /** Begins a text. */
  bosTokenId: number
  /** Any of these ends a generation: those of generation_config.json, else of config.json. */
  eosTokenIds: number[]
  /** The config.json as it was read; keys that the computation doesn't need are written back unchanged. */
  json: ConfigJson
  /** The generation_config.json as it was read, where there is one. */
  generation?: GenerationJson
}

const size = z.int().positive()
/** Far more than any model has; a damaged config must not ask for a list of a billion. */
const MOST_LAYERS = 10_000
/** Names that Transformers gives to the activation of SwiGLU. */
const SILU = ['silu', 'swish']

/** Checks a ConfigJson, and fills in what is left out. */
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

/** A config.json of the LLaMA architecture, in the form of OpenLLaMA or of Transformers 5. */
export interface ConfigJson {
  /** `['LlamaForCausalLM']`, where it is given. */
  architectures?: string[] | null
  /** `llama`, where it is given. */
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
  /** Key/value heads, a divisor of the query heads; as many as those when left out. */
  num_key_value_heads?: number | null
  /** Size of a head (default: hidden_size / num_attention_heads). */
  head_dim?: number | null
  /** Longest context, in tokens; 2048 when left out. */
  max_position_embeddings?: number
  /** ε of the RMSNorm layers; 1e-6 when left out. */
  rms_norm_eps?: number
  /** Base of the rotary frequencies; 10000 when left out. One inside the RoPE settings goes before it. */
  rope_theta?: number | null
  /** RoPE scaling, as Transformers 4 has it; where it is not empty, `rope_parameters` is ignored. */
  rope_scaling?: RopeJson | null
  /** RoPE settings, as Transformers 5 has them. */
  rope_parameters?: RopeJson | null
  /** The context before it was extended; goes before the one inside the RoPE settings. */
  original_max_position_embeddings?: number | null
  /** Whether the embedding is the output projection too; false when left out. */
  tie_word_embeddings?: boolean
  /** Must not be true. */
  attention_bias?: boolean | null
  /** Must not be true. */
  mlp_bias?: boolean | null
  /** `silu`, or its other name `swish`. */
  hidden_act?: string
  /** Standard deviation of a new model's weights; 0.02 when left out. */
  initializer_range?: number
  /** Begins a text. */
  bos_token_id?: number | null
  /** What ends a generation. */
  eos_token_id?: number | number[] | null
  /** Whatever else there is, is carried along. */
  [key: string]: unknown
}

/** What this package cannot compute, by the key that asks for it. */
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
 * Reads the fields of a config.json, with Transformers' defaults for those that are left out.
 * @param where names the source in errors
 * @throws {ConfigError} for a missing or impossible value, or an architecture other than LLaMA
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

/** Reads `config.json` of a model directory, and `generation_config.json`, whose special tokens go first, as in Transformers. */
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

/** The config.json to write for a model: as it was read, with what every reader of the LLaMA architecture expects. */
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
    ...('dtype' in config.json && { dtype }), // as Transformers 5 calls it, and the name that goes first there
  }
}

/** The generation_config.json to write for a model: as it was read, else what config.json says of generating. */
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

/** Makes a token one that ends a generation, here and in every file that is written of the model. */
export function addEndToken(config: LlamaConfig, id: number): void {
  const withId = (ids: number | number[] | null | undefined) => oneOrList([...new Set([ids ?? [], id].flat())])
  config.json = { ...config.json, eos_token_id: withId(config.json.eos_token_id) }
  if (config.generation) config.generation = { ...config.generation, eos_token_id: withId(config.eosTokenIds) }
  config.eosTokenIds = [...new Set([...config.eosTokenIds, id])]
}
