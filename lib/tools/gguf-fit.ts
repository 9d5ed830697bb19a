import type { GgufSource } from '../formats/gguf/gguf.js'
import { type ConfigJson, parseConfig } from '../model/config.js'
import { layoutOf } from '../model/layout.js'
import { ggufName } from './gguf-export.js'

/**
 * The config of a LLaMA in a GGUF file; undefined for another architecture, a mixture of experts, or an incomplete
 * model, such as an adapter or one of several parts.
 * @throws {ConfigError} for a missing or invalid size
 */
export function ggufConfig({ metadata, tensors }: GgufSource, where: string): ConfigJson | undefined {
  const isModel = (metadata.get('general.type') ?? 'model') === 'model'
  const parts = Number(metadata.get('split.count') ?? 1)
  const experts = Number(metadata.get('llama.expert_count') ?? 0)
  if (metadata.get('general.architecture') !== 'llama' || !isModel || parts > 1 || experts > 0) return undefined
  const tokens = metadata.get('tokenizer.ggml.tokens')
  const stored = {
    vocab_size: metadata.get('llama.vocab_size') ?? (Array.isArray(tokens) ? tokens.length : undefined),
    hidden_size: metadata.get('llama.embedding_length'),
    intermediate_size: metadata.get('llama.feed_forward_length'),
    num_hidden_layers: metadata.get('llama.block_count'),
    num_attention_heads: metadata.get('llama.attention.head_count'),
    num_key_value_heads: metadata.get('llama.attention.head_count_kv'),
    head_dim: metadata.get('llama.attention.key_length'),
    max_position_embeddings: metadata.get('llama.context_length'),
    rms_norm_eps: metadata.get('llama.attention.layer_norm_rms_epsilon'),
    rope_theta: metadata.get('llama.rope.freq_base'),
    tie_word_embeddings: !tensors.has(ggufName('lm_head.weight')),
  }
  const config = { architectures: ['LlamaForCausalLM'], model_type: 'llama', ...stored } as ConfigJson
  parseConfig(config, where) // validates it
  return config
}

/**
 * Mismatches between a GGUF file's tensors and the LLaMA that its metadata describes: one sentence each; empty if they
 * fit.
 */
export function ggufMisfits(config: ConfigJson, { tensors }: GgufSource, where: string): string[] {
  const parameters = layoutOf(parseConfig(config, where)).units.flatMap((unit) => unit.parameters)
  return parameters.flatMap(({ name, shape }) => {
    const stored = ggufName(name)
    const actual = tensors.get(stored)
    if (!actual) return [`${stored} is missing`]
    if (actual.shape.join() === shape.join()) return []
    return [`${stored} has shape [${actual.shape.join(', ')}] instead of [${shape.join(', ')}]`]
  })
}
