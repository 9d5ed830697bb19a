import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { type Device, openDevice } from '../../lib/device.js'
import * as ops from '../../lib/ops.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import { AdamW } from '../../lib/train/optimizer.js'
import { Trainer, type TrainerOptions } from '../../lib/train/trainer.js'
import { deviceTypes } from '../support/devices.js'
import { fixtures } from '../support/fixtures.js'

const modelPath = path.join(fixtures, 'd100')
const options = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 }

/** Hashes of weights, masters, and moments after two steps on gradients that are identical on every device. */
async function state(device: Device, dtype: 'bfloat16' | 'float32', offload: boolean) {
  using model = await LlamaForCausalLM.fromPretrained(modelPath, { device, dtype, masterWeights: true })
  const { parameters } = model
  if (offload) await parameters.moveMastersToHost()
  using optimizer = new AdamW(parameters, options)
  const gradients = parameters.allocate('float32')
  for (let step = 0; step < 2; step++) {
    for (const [unit, { length }] of gradients.entries()) {
      device.stream.write(
        gradients[unit],
        Float32Array.from({ length }, (_, i) => Math.sin(i + unit + step)),
      )
    }
    await optimizer.step(gradients, 1e-3, 0.5)
  }
  const tensors = [...parameters.buffers, ...parameters.masters, ...optimizer.m, ...optimizer.v]
  return await Promise.all(
    tensors.map(async (tensor) =>
      createHash('sha256')
        .update(await tensor.toArray())
        .digest('hex'),
    ),
  )
}

describe.each(deviceTypes)('AdamW on the host, for a model on $name', ({ device }) => {
  it.each(['float32', 'bfloat16'] as const)('matches AdamW of the CPU bit for bit, in %s', async (dtype) => {
    expect(await state(device, dtype, true)).toEqual(await state(openDevice('cpu'), dtype, false))
  })

  it('keeps masters and moments off the device, and reports an error at the next wait', async () => {
    using model = await LlamaForCausalLM.fromPretrained(modelPath, { device, dtype: 'bfloat16', masterWeights: true })
    await model.parameters.moveMastersToHost()
    using optimizer = new AdamW(model.parameters, options)
    for (const tensor of [...model.parameters.masters, ...optimizer.m, ...optimizer.v]) {
      expect(tensor.device).toBe(openDevice('cpu'))
    }
    const gradients = model.parameters.allocate('float32')
    const out = device.tensor('float32', [2, 1])
    ops.embeddingForward(device.stream, { out, ids: ids(device), w: device.tensor('float32', [4, 1]) })
    await expect(optimizer.step(gradients, 1e-3, 1).then(() => device.stream.synchronize())).rejects.toThrow(/outside/)
  })
})

/** Two ids, one of which is outside every vocabulary. */
function ids(device: Device) {
  const tensor = device.tensor('int32', [2])
  device.stream.write(tensor, Int32Array.of(1, 99))
  return tensor
}

describe('a run with offload: optimizer', () => {
  const root = mkdtempSync(path.join(tmpdir(), 'offload-'))
  afterAll(() => rmSync(root, { recursive: true, force: true }))

  async function losses(name: string, more: Partial<TrainerOptions>): Promise<number[]> {
    const tokenizer = await LlamaTokenizer.fromPretrained(modelPath)
    const data = JSON.parse(readFileSync(path.join(fixtures, 'instructions.json'), 'utf8'))
    using model = await LlamaForCausalLM.fromPretrained(modelPath, {
      device: openDevice('cpu'),
      dtype: 'bfloat16',
      masterWeights: true,
    })
    const shared = {
      maxLength: 224,
      batchSize: 5,
      maxSteps: 4,
      learningRate: 1e-3,
      checkpointEvery: 2,
      keepCheckpoints: 'all',
    } as const
    const trainer = new Trainer({ model, tokenizer, data, ...shared, savePath: path.join(root, name), ...more })
    const curve: number[] = []
    await trainer.train({ onStep: ({ loss }) => void curve.push(loss) })
    return curve
  }

  it('offload: optimizer gives the same bits, and resumes from checkpoints without it and vice versa', async () => {
    const whole = await losses('whole', {})
    expect(await losses('offloaded', { offload: 'optimizer' })).toEqual(whole)
    const last = whole.slice(2)
    const resumed = (name: string) => path.join(root, name, 'checkpoint-2')
    expect(await losses('back', { resume: resumed('offloaded') })).toEqual(last)
    expect(await losses('there', { resume: resumed('whole'), offload: 'optimizer' })).toEqual(last)
  })
})
