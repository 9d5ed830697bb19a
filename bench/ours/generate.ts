/** Greedy decoding of one sequence with openalpaca-native; the prompt's forward pass is not timed. */
import { LlamaForCausalLM } from 'openalpaca-native'
import type { GenerateChild } from '../configs.js'
import { openBenchDevice } from '../device.js'
import { childOptions, serve } from './serve.js'

const { config, prompt, tokens } = childOptions<GenerateChild>()

async function main(): Promise<void> {
  using model = LlamaForCausalLM.fromConfig(config, { seed: 0, device: openBenchDevice(), dtype: 'bfloat16' })
  const ids = Array.from({ length: prompt }, () => Math.floor(Math.random() * model.config.vocabSize))

  const repetition = async () => {
    let start = 0
    // The first token comes from the prompt's forward pass.
    for await (const _ of model.stream(ids, { maxNewTokens: tokens + 1, eosTokenId: null })) start ||= performance.now()
    return { rate: (tokens * 1000) / (performance.now() - start) }
  }
  await repetition()
  await serve(repetition)
}

void main()
