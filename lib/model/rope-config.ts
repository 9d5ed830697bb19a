import { z } from 'zod'
import { ConfigError } from '../errors.js'
import { forError } from '../format.js'

/** RoPE scaling of Llama 3.1: low frequencies are divided by `factor`, high ones kept, with a ramp between. */
export interface Llama3RopeScaling {
  /** Llama 3.1's scaling. */
  type: 'llama3'
  /** Divides low frequencies. */
  factor: number
  /** Rotations within the original context below which a frequency is low. */
  lowFreqFactor: number
  /** Rotations within the original context above which a frequency is high. */
  highFreqFactor: number
  /** The original context, in tokens. */
  originalMaxPositionEmbeddings: number
}

/** Divides every frequency by `factor`. */
export interface LinearRopeScaling {
  /** Linear scaling. */
  type: 'linear'
  /** Divides all positions. */
  factor: number
}

/** The base grows with sequences longer than `maxPositionEmbeddings`; shorter ones rotate as without scaling. */
export interface DynamicRopeScaling {
  /** Dynamic NTK scaling. */
  type: 'dynamic'
  /** The factor by which the context may grow. */
  factor: number
}

/** YaRN (https://arxiv.org/abs/2309.00071): low frequencies are divided by `factor`, and cos and sin are scaled. */
export interface YarnRopeScaling {
  /** YaRN. */
  type: 'yarn'
  /** Divides low frequencies. */
  factor: number
  /** The original context, in tokens. */
  originalMaxPositionEmbeddings: number
  /** Multiplies cos and sin. */
  attentionFactor: number
  /** Rotations within the original context above which a frequency is kept. */
  betaFast: number
  /** Rotations within the original context below which a frequency is divided by `factor`. */
  betaSlow: number
  /** Whether the ramp starts and ends at integer dimensions. */
  truncate: boolean
}

/** The method that extended a model's context. */
export type RopeScaling = Llama3RopeScaling | LinearRopeScaling | DynamicRopeScaling | YarnRopeScaling

/** RoPE settings in the form of config.json. */
export interface RopeJson {
  /** Base of the rotary frequencies; takes precedence over the top-level key. */
  rope_theta?: number | null
  /** `default`, `linear`, `dynamic`, `llama3`, or `yarn`. */
  rope_type?: string | null
  /** `rope_type` in older files. */
  type?: string | null
  /** The factor by which the context was extended. */
  factor?: number | null
  /** For `llama3`: rotations within the original context below which a frequency is low. */
  low_freq_factor?: number | null
  /** For `llama3`: rotations within the original context above which a frequency is high. */
  high_freq_factor?: number | null
  /** For `llama3` and `yarn`: the original context, in tokens; the top-level key takes precedence. */
  original_max_position_embeddings?: number | null
  /** For `yarn`: multiplies cos and sin; defaults to 0.1·ln(factor) + 1. */
  attention_factor?: number | null
  /** For `yarn`: defaults to 32. */
  beta_fast?: number | null
  /** For `yarn`: defaults to 1. */
  beta_slow?: number | null
  /** For `yarn`: with `mscale_all_dim`, an alternative to `attention_factor`. */
  mscale?: number | null
  /** For `yarn`: see `mscale`. */
  mscale_all_dim?: number | null
  /** For `yarn`: defaults to true. */
  truncate?: boolean | null
  /** Other keys are kept. */
  [key: string]: unknown
}

const positive = z.number().positive().nullish()

/** The value of `rope_scaling` and of `rope_parameters`; false means none, as in Transformers. */
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

/** The config.json keys that determine RoPE, after type checks. */
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
 * The base and the scaling, with the precedence of Transformers 5: a non-empty `rope_scaling` replaces
 * `rope_parameters` entirely; within the one used, `rope_theta` overrides the top-level key, while a top-level
 * `original_max_position_embeddings` overrides the one inside.
 * @param where names the source in errors
 * @throws {ConfigError} for an unsupported scaling, or one without a key that Transformers requires
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
  // Transformers' LLaMA ignores this key for the default type and cannot run with it for the others.
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
  // A null factor means the ratio of the two contexts; a missing one is an error in Transformers too.
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
