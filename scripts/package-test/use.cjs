// Computes a loss, gradients and a text of a small model with a copy of the package: returns values that must be the
// same everywhere.
exports.use = async (copy) => {
  const { LlamaForCausalLM } = require(copy)
  const sizes = { hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 2 }
  const tokens = { vocab_size: 300, max_position_embeddings: 64, bos_token_id: 1, eos_token_id: 2 }
  const model = LlamaForCausalLM.fromConfig({ ...sizes, ...tokens }, { seed: 0, device: 'cpu', dtype: 'float32' })
  const { loss } = await model.lossAndGradients([[1, 5, 9, 11]], [[-100, 5, 9, 11]])
  const ids = await model.generate([1, 5], { maxNewTokens: 4, eosTokenId: null })
  model.dispose()
  return JSON.stringify({ loss, ids })
}
