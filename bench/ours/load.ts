/** Reading a safetensors checkpoint into device memory. */
import { LlamaForCausalLM } from 'openalpaca-native'
import { parameterCount } from '#lib/model/layout.js'
import type { LoadChild } from '../configs.js'
import { openBenchDevice } from '../device.js'
import { childOptions, serve } from './serve.js'

const { model: directory } = childOptions<LoadChild>()

async function repetition() {
  const start = performance.now()
  using model = await LlamaForCausalLM.fromPretrained(directory, { device: openBenchDevice(), dtype: 'bfloat16' })
  const seconds = (performance.now() - start) / 1000
  return { rate: (parameterCount(model.config) * 2) / seconds }
}

void repetition().then(() => serve(repetition))
