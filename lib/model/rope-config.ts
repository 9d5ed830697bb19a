import { z } from 'zod'
import { ConfigError } from '../errors.js'
import { forError } from '../format.js'

/** RoPE scaling of Llama 3.1: low frequencies are divided by `factor`, high ones kept, a ramp between. */
export interface Llama3RopeScaling {
  type: 'llama3'
  /** Divides low frequencies. */
  factor: number
  /** Turns within the original context below which a frequency is low. */
  lowFreqFactor: number
  /** Turns within the original context above which a frequency is high. */
  highFreqFactor: number
  /** The original context, in tokens. */
  originalMaxPositionEmbeddings: number
}

/** Every frequency is divided by `factor`. */
export interface LinearRopeScaling {
  type: 'linear'
  factor: number
}

/** The base grows with sequences beyond `maxPositionEmbeddings`; shorter ones are rotated as without scaling. */
export interface DynamicRopeScaling {
  type: 'dynamic'
  factor: number
}

/** YaRN (https://arxiv.org/abs/2309.00071): low frequencies are divided by `factor`, and cos and sin are scaled. */
export interface YarnRopeScaling {
  type: 'yarn'
  /** Divides low frequencies. */
  factor: number
  /** The original context, in tokens. */
  originalMaxPositionEmbeddings: number
  /** Multiplies cos and sin. */
  attentionFactor: number
  /** Turns within the original context above which a frequency is kept. */
  betaFast: number
  /** Turns within the original context below which a frequency is divided by `factor`. */
  betaSlow: number
  /** Whether the ramp begins and ends at whole dimensions. */
  truncate: boolean
}

/** How a model's context was extended. */
export type RopeScaling = Llama3RopeScaling | LinearRopeScaling | DynamicRopeScaling | YarnRopeScaling

/** RoPE settings as config.json has them. */
export interface RopeJson {
  /** Base of the rotary frequencies; goes before the one at the top. */
  rope_theta?: number | null
  /** `default`, `linear`, `dynamic`, `llama3`, or `yarn`. */
  rope_type?: string | null
  /** `rope_type` as older files spell it. */
  type?: string | null
  /** How far the context was extended. */
  factor?: number | null
  /** For `llama3`: turns within the original context below which a frequency is low. */
  low_freq_factor?: number | null
  /** For `llama3`: turns within the original context above which a frequency is high. */
  high_freq_factor?: number | null
  /** For `llama3` and `yarn`: the original context, in tokens; the one at the top of config.json goes before it. */
  original_max_position_embeddings?: number | null
  /** For `yarn`: multiplies cos and sin; 0.1·ln(factor) + 1 when left out. */
  attention_factor?: number | null
  /** For `yarn`: 32 when left out. */
  beta_fast?: number | null
  /** For `yarn`: 1 when left out. */
  beta_slow?: number | null
  /** For `yarn`: with `mscale_all_dim`, another way to say `attention_factor`. */
  mscale?: number | null
  /** For `yarn`: see `mscale`. */
  mscale_all_dim?: number | null
  /** For `yarn`: true when left out. */
  truncate?: boolean | null
  /** Everything else is carried along. */
  [key: string]: unknown
}

const positive = z.number().positive().nullish()

/** The value of `rope_scaling` and of `rope_parameters`; false stands for none, as Transformers takes it. */
export const ropeSchema = z.preprocess(
  (value) => (value === false ? null : value),
  z
    .looseObject({
      rope_theta: positive,
      rope_type: z.string().nullish(),
      type: z.string().nullish(),
      factor: positive,
      low_freq_factor: positive,
      high_freq_factor: positive,
      original_max_position_embeddings: z.int().positive().nullish(),
      attention_factor: z.number().nonnegative().nullish(),
      beta_fast: z.number().nonnegative().nullish(),
      beta_slow: z.number().nonnegative().nullish(),
      mscale: z.number().nullish(),
      mscale_all_dim: z.number().nullish(),
      truncate: z.boolean().nullish(),
      partial_rotary_factor: z.number().nullish(),
    })
    .nullish(),
)

type Parameters = NonNullable<z.infer<typeof ropeSchema>>

/** The keys of a config.json that decide about RoPE, after their types are checked. */
export interface RopeKeys {
  rope_theta?: number | null
  rope_scaling?: Parameters | null
  rope_parameters?: Parameters | null
  original_max_position_embeddings?: number | null
  partial_rotary_factor?: number | null
  max_position_embeddings: number
}

const DEFAULT_THETA = 10_000
const SUPPORTED = 'default, linear, dynamic, llama3, and yarn'

/**
 * The base and the scaling, with the precedence of Transformers 5: `rope_scaling` where it is not empty goes before all
 * of `rope_parameters`; inside the one that is taken, `rope_theta` goes before the one at the top, while
 * `original_max_position_embeddings` at the top goes before the one inside.
 * @param where names the source in errors
 * @throws {ConfigError} for a scaling that is not supported, or lacks a key that Transformers requires
 */
export function parseRope(keys: RopeKeys, where: string): { ropeTheta: number; ropeScaling: RopeScaling | null } {
  const { rope_scaling: scaling, rope_parameters: parameters } = keys
  const taken = scaling && Object.keys(scaling).length > 0 ? scaling : (parameters ?? {})
  return {
    ropeTheta: taken.rope_theta ?? keys.rope_theta ?? DEFAULT_THETA,
    ropeScaling: parseScaling(taken, keys, where),
  }
}

function parseScaling(parameters: Parameters, keys: RopeKeys, where: string): RopeScaling | null {
  const type = parameters.rope_type ?? parameters.type ?? 'default'
  const partial = parameters.partial_rotary_factor ?? keys.partial_rotary_factor ?? 1
  // Transformers' LLaMA ignores the key for the default type, and cannot run with it for the others.
  if (type !== 'default' && partial !== 1) {
    throw new ConfigError(`${where}: partial_rotary_factor ${partial} is not supported with RoPE scaling`)
  }
  const need = (key: 'factor' | 'low_freq_factor' | 'high_freq_factor'): number => {
    const value = parameters[key]
    if (value == null) throw new ConfigError(`${where}: RoPE scaling "${type}" needs ${key}`)
    return value
  }
  const original = () =>
    keys.original_max_position_embeddings ?? parameters.original_max_position_embeddings ?? keys.max_position_embeddings
  switch (type) {
    case 'default':
      return null
    case 'linear':
      return need('factor') === 1 ? null : { type, factor: need('factor') }
    case 'dynamic':
      return { type, factor: need('factor') }
    case 'llama3':
      return {
        type,
        factor: need('factor'),
        lowFreqFactor: need('low_freq_factor'),
        highFreqFactor: need('high_freq_factor'),
        originalMaxPositionEmbeddings: original(),
      }
    case 'yarn':
      return yarn(parameters, original(), keys.max_position_embeddings, need)
    default:
      throw new ConfigError(
        `${where}: expected RoPE scaling of a supported type (${SUPPORTED}), got "${forError(type)}"`,
      )
  }
}

function yarn(
  parameters: Parameters,
  original: number,
  maxPositionEmbeddings: number,
  need: (key: 'factor') => number,
): YarnRopeScaling {
  // A factor of null stands for the ratio of the two contexts; one that is left out is an error in Transformers too.
  const factor = parameters.factor === null ? maxPositionEmbeddings / original : need('factor')
  const { mscale, mscale_all_dim: mscaleAllDim } = parameters
  const scale = (weight: number) => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1)
  const inferred = mscale && mscaleAllDim ? scale(mscale) / scale(mscaleAllDim) : scale(1)
  return {
    type: 'yarn',
    factor,
    originalMaxPositionEmbeddings: original,
    attentionFactor: parameters.attention_factor ?? inferred,
    betaFast: parameters.beta_fast || 32,
    betaSlow: parameters.beta_slow || 1,
    truncate: parameters.truncate ?? true,
  }
}
