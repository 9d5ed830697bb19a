import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { countLabels } from '../../lib/data/instances.js'
import { AdamW } from '../../lib/train/optimizer.js'
import { paddedTokens, trainStep } from '../../lib/train/step.js'
import { devices } from '../support/devices.js'
import { fixtures, readInstances, readSafetensors } from '../support/fixtures.js'

const golden = JSON.parse(readFileSync(path.join(fixtures, 'trajectory.json'), 'utf8'))

const instances = readInstances().filter((instance) => countLabels(instance) > 0)

const batchOf = (step: number, size: number) =>
  Array.from({ length: size }, (_, k) => instances[(step * size + k) % instances.length])

describe.each(devices)('on $name', ({ device }) => {
  // Micro-batches of one instance each (the longest has 224 tokens), of two or three, and of the complete batch.
  it.each([224, 512, 4096])('20 optimizer steps follow PyTorch when %i tokens are packed', async (maxTokens) => {
    using model = await LlamaForCausalLM.fromPretrained(path.join(fixtures, 'd100'), { device, dtype: 'float32' })
    const [beta1, beta2] = golden.betas
    using optimizer = new AdamW(model.parameters, {
      beta1,
      beta2,
      epsilon: golden.eps,
      weightDecay: golden.weight_decay,
    })
    using trainPass = model.trainPass(paddedTokens(maxTokens))
    for (const expected of golden.steps) {
      const { loss, gradNorm } = await trainStep(
        trainPass,
        optimizer,
        batchOf(expected.step, golden.sequences_per_step),
        {
          lossReduction: 'instance',
          maxTokens,
          maxGradNorm: golden.max_grad_norm,
          lr: expected.lr,
          step: expected.step,
        },
      )
      expect(Math.abs(loss - expected.loss), `loss of step ${expected.step}`).toBeLessThan(1e-3)
      expect(Math.abs(gradNorm / expected.grad_norm - 1), `gradient of step ${expected.step}`).toBeLessThan(1e-3)
    }
    const final = await readSafetensors(path.join(fixtures, 'trajectory.final.safetensors'))
    const weights = await model.parameters.toMap(model.parameters.buffers)
    for (const [name, { numbers }] of final) {
      const actual = weights.get(name)!
      const worst = numbers.reduce((max, value, i) => Math.max(max, Math.abs(value - actual[i])), 0)
      // Adam divides by the gradient's magnitude: where that is near 0, rounding alone moves a weight by a few percent
      // of a step of 1e-3.
      expect(worst, name).toBeLessThan(5e-4)
    }
  })
})
