/** The workloads of the benchmarks, for us and for our peers; they are defined only here. */
import type { ConfigJson } from 'openalpaca-native'
import { type DeviceName, deviceName } from './device.js'
import type { Member } from './team.js'

/** A LLaMA with the architecture of OpenLLaMA. */
function llama(
  hidden_size: number,
  num_hidden_layers: number,
  intermediate_size: number,
  { heads = hidden_size / 64, tied = true, vocabulary = 32000 } = {},
): ConfigJson {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size,
    intermediate_size,
    num_hidden_layers,
    num_attention_heads: heads,
    num_key_value_heads: heads,
    vocab_size: vocabulary,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: tied,
    bos_token_id: 1,
    eos_token_id: 2,
  }
}

/** By number of parameters: 29,480,640, 113,068,800 and 3,426,473,600, which is OpenLLaMA-3B; and one for emulation. */
export const models = {
  tiny: llama(128, 2, 256, { vocabulary: 500 }),
  '29.5M': llama(448, 6, 1280),
  '113M': llama(768, 12, 2176),
  '3B': llama(3200, 26, 8640, { heads: 32, tied: false }),
}

export type ModelName = keyof typeof models

interface Plan {
  /** Sequences of random tokens, packed, every token labeled; each model with the steps per repetition. */
  training: { batch: number; length: number; models: Partial<Record<ModelName, number>> }
  /** One sequence; `tokens` counts the timed ones, after the prompt. */
  decoding: { model: ModelName; prompt: number; tokens: number }
  loading: ModelName
  /** A global batch of sequences of random tokens, the same for every number of ranks, in micro-batches. */
  ranks: { model: ModelName; batch: number; length: number; maxTokens: number; steps: number }
  /** The shapes of a block of a model in training, for the single ops. */
  shapes: { T: number; C: number; H: number; D: number; F: number; V: number; sequences: number }
}

const plans: Record<DeviceName, Plan> = {
  cpu: {
    training: { batch: 4, length: 512, models: { '29.5M': 3, '113M': 1 } },
    decoding: { model: '113M', prompt: 32, tokens: 128 },
    loading: '113M',
    ranks: { model: '29.5M', batch: 8, length: 256, maxTokens: 512, steps: 2 },
    shapes: { T: 2048, C: 768, H: 12, D: 64, F: 2176, V: 32000, sequences: 4 },
  },
  cuda: {
    training: { batch: 4, length: 2048, models: { '3B': 4 } },
    decoding: { model: '3B', prompt: 32, tokens: 256 },
    loading: '113M',
    ranks: { model: '3B', batch: 32, length: 1024, maxTokens: 4096, steps: 3 },
    shapes: { T: 8192, C: 3200, H: 32, D: 100, F: 8640, V: 32000, sequences: 4 },
  },
  emulated: {
    training: { batch: 2, length: 16, models: { tiny: 1 } },
    decoding: { model: 'tiny', prompt: 4, tokens: 3 },
    loading: 'tiny',
    ranks: { model: 'tiny', batch: 4, length: 16, maxTokens: 64, steps: 1 },
    shapes: { T: 32, C: 128, H: 2, D: 64, F: 256, V: 500, sequences: 2 },
  },
}

export const { training, decoding, loading, ranks, shapes } = plans[deviceName]

/** The options of a child process, as JSON in its argument. */
export interface ModelOptions {
  config: ConfigJson
}
export type TrainChild = ModelOptions & { batch: number; length: number; steps: number }
export type GenerateChild = ModelOptions & { prompt: number; tokens: number }
export type RankChild = ModelOptions &
  Member & { stage: number; batch: number; length: number; maxTokens: number; steps: number }
export interface LoadChild {
  model: string
}

/** The input of checkpoint tools: a model in safetensors, in torch files, or a checkpoint saved by four ranks. */
export type CheckpointInput = 'model' | 'bin' | 'ranks'

interface CheckpointPlan {
  says: string
  input: CheckpointInput
  /** Bytes written per byte read. */
  written: number
  /** Whether the tool reads its output back. */
  verifies: boolean
}

export const checkpointTasks = {
  read: { says: 'reading safetensors', input: 'model', written: 0, verifies: false },
  shard: { says: 'make-shards --format bin', input: 'model', written: 1, verifies: true },
  back: { says: 'make-shards --format safetensors', input: 'bin', written: 1, verifies: true },
  convert: { says: 'make-shards --dtype bfloat16', input: 'model', written: 0.5, verifies: true },
  merge: { says: 'zero-to-fp32, 4 ranks', input: 'ranks', written: 1, verifies: true },
  gguf: { says: 'convert --dtype bfloat16, to GGUF', input: 'model', written: 0.5, verifies: false },
} as const satisfies Record<string, CheckpointPlan>

export type CheckpointTask = keyof typeof checkpointTasks

export interface CheckpointChild {
  task: CheckpointTask
  /** A directory. */
  input: string
  /** An empty directory on the same disk. */
  scratch: string
  /** Runs the loop that does nothing with the bytes, instead of the tool. */
  plain: boolean
}
