/** Training with openalpaca-native: one step of the trainer, on random tokens. */
import { LlamaForCausalLM } from 'openalpaca-native'
import type { Instance } from '#lib/data/instances.js'
import { AdamW } from '#lib/train/optimizer.js'
import { paddedTokens, trainStep } from '#lib/train/step.js'
import type { TrainChild } from '../configs.js'
import { openBenchDevice } from '../device.js'
import { childOptions, serve } from './serve.js'

const { config, batch, length, steps } = childOptions<TrainChild>()

async function main(): Promise<void> {
  using model = LlamaForCausalLM.fromConfig(config, { seed: 0, device: openBenchDevice(), dtype: 'bfloat16' })
  const maxTokens = paddedTokens(batch * length)
  using trainPass = model.trainPass(maxTokens)
  using optimizer = new AdamW(model.parameters, { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.001 })
  const { stream } = model.parameters.device

  const step = async () => {
    const instances = Array.from({ length: batch }, (_, id): Instance => {
      const ids = Int32Array.from({ length }, () => Math.floor(Math.random() * model.config.vocabSize))
      return { id, inputIds: ids, labels: ids }
    })
    const options = { lossReduction: 'token', maxTokens, lr: 1e-4, maxGradNorm: 1, step: optimizer.steps + 1 } as const
    const { loss } = await trainStep(trainPass, optimizer, instances, options)
    await stream.synchronize()
    return loss
  }

  for (let warmup = 0; warmup < 2; warmup++) await step()
  await serve(async () => {
    const start = performance.now()
    let loss = Number.NaN
    for (let i = 0; i < steps; i++) loss = await step()
    return { rate: (steps * batch * length * 1000) / (performance.now() - start), loss }
  })
}

void main()
