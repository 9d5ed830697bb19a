/** What the benchmarks run, for us and for our peers: this file is the one place that says it. */
import type { ConfigJson } from 'openalpaca-native'

/** A LLaMA of the OpenLLaMA form with heads of 64 and a tied output. */
function llama(hidden_size: number, num_hidden_layers: number, intermediate_size: number): ConfigJson {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size,
    intermediate_size,
    num_hidden_layers,
    num_attention_heads: hidden_size / 64,
    num_key_value_heads: hidden_size / 64,
    vocab_size: 32000,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
    bos_token_id: 1,
    eos_token_id: 2,
  }
}

/** By number of parameters: 29,480,640 and 113,068,800. */
export const models = { '29.5M': llama(448, 6, 1280), '113M': llama(768, 12, 2176) }

export type ModelName = keyof typeof models

/** Sequences of random tokens, every token labelled. */
export const training = { batch: 4, length: 512 }

/** One sequence; tokens are those that are timed, after the prompt. */
export const decoding = { prompt: 32, tokens: 128 }

/** The shapes of a block of the 113M model in training, for the single ops. */
export const shapes = { T: 2048, C: 768, H: 12, D: 64, F: 2176, V: 32000, sequences: 4 }

/** A checkpoint of 2 GB: float32 matrices of the shape of OpenLLaMA-3B's gate projection. */
export const checkpoint = { tensors: 18, shape: [8640, 3200] }

/** What a child is told, as JSON in its argument. */
export interface ModelOptions {
  config: ConfigJson
}
export type TrainChild = ModelOptions & typeof training & { steps: number }
export type GenerateChild = ModelOptions & typeof decoding
export interface LoadChild {
  model: string
}

/** What is done with a checkpoint. */
export type CheckpointTask = 'read' | 'shard' | 'convert'
export interface CheckpointChild {
  model: string
  /** An empty directory on the same disk. */
  scratch: string
  /** The loop that does nothing with the bytes, instead of the tools. */
  plain: boolean
}
