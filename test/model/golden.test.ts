import { readFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { devices } from '../support/devices.js'
import { fixtures, readSafetensors } from '../support/fixtures.js'

/** ‖a − b‖ / ‖b‖ */
function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0
  let norm = 0
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i] - expected[i]) ** 2
    norm += expected[i] ** 2
  }
  return Math.sqrt(difference / norm)
}

interface Golden {
  sequences: number[][]
  labels: number[][]
  /** The rows of `sequences`, without padding. */
  logits: Float32Array[]
  loss: number
  gradients: Map<string, Float32Array>
  prompt: number[]
  greedy: number[]
}

async function readGolden(name: string): Promise<Golden> {
  const tensors = await readSafetensors(path.join(fixtures, `${name}.golden.safetensors`))
  const numbers = (key: string) => tensors.get(key)!.numbers
  const [batch, width] = tensors.get('input_ids')!.shape
  const mask = numbers('attention_mask')
  const vocab = tensors.get('logits')!.shape[2]
  const rows = Array.from({ length: batch }, (_, b) => b)
  const lengths = rows.map((b) => mask.slice(b * width, (b + 1) * width).reduce((sum, value) => sum + value, 0))
  const cut = (key: string) => rows.map((b) => Array.from(numbers(key).slice(b * width, b * width + lengths[b])))
  const gradients = [...tensors].filter(([key]) => key.startsWith('grad.'))
  return {
    sequences: cut('input_ids'),
    labels: cut('labels'),
    logits: rows.map((b) =>
      Float32Array.from(numbers('logits').slice(b * width * vocab, (b * width + lengths[b]) * vocab)),
    ),
    loss: numbers('loss')[0],
    gradients: new Map(gradients.map(([key, { numbers }]) => [key.slice(5), Float32Array.from(numbers)])),
    prompt: Array.from(numbers('greedy_prompt')),
    greedy: Array.from(numbers('greedy')).slice(tensors.get('greedy_prompt')!.shape[1]),
  }
}

describe.each(devices)('on $name', ({ device }) => {
  describe.each(['d100', 'gqa'])('model %s', (name) => {
    let golden: Golden
    let model: LlamaForCausalLM
    beforeAll(async () => {
      golden = await readGolden(name)
      model = await LlamaForCausalLM.fromPretrained(path.join(fixtures, name), { device, dtype: 'float32' })
    })
    afterAll(() => model.dispose())

    it('the logits match Transformers', async () => {
      const logits = await model.logits(golden.sequences)
      logits.forEach((actual, s) => {
        const largest = golden.logits[s].reduce((max, value) => Math.max(max, Math.abs(value)), 0)
        const worst = actual.reduce((max, value, i) => Math.max(max, Math.abs(value - golden.logits[s][i])), 0)
        expect(worst / largest).toBeLessThan(1e-4)
      })
    })

    it('the loss and the gradients match PyTorch', async () => {
      const { loss, gradients } = await model.lossAndGradients(golden.sequences, golden.labels, {
        lossReduction: 'token',
      })
      expect(Math.abs(loss / golden.loss - 1)).toBeLessThan(1e-5)
      expect([...gradients.keys()].sort()).toEqual([...golden.gradients.keys()].sort())
      for (const [parameter, expected] of golden.gradients) {
        expect(relativeError(gradients.get(parameter)!, expected), parameter).toBeLessThan(1e-4)
      }
    })

    it('generates the greedy tokens of Transformers with the key/value cache', async () => {
      const ids = await model.generate(golden.prompt, { maxNewTokens: golden.greedy.length, eosTokenId: null })
      expect(ids).toEqual(golden.greedy)
    })

    it('the bfloat16 error against float32 is at most 1.5 times that of PyTorch', async () => {
      const torch = JSON.parse(readFileSync(path.join(fixtures, `${name}.bf16_error.json`), 'utf8'))
      using half = await LlamaForCausalLM.fromPretrained(path.join(fixtures, name), { device, dtype: 'bfloat16' })
      const flat = (arrays: Float32Array[]) => arrays.flatMap((array) => Array.from(array))
      expect(relativeError(flat(await half.logits(golden.sequences)), flat(golden.logits))).toBeLessThan(
        1.5 * torch.logits,
      )
      const { gradients } = await half.lossAndGradients(golden.sequences, golden.labels, { lossReduction: 'token' })
      for (const [parameter, expected] of golden.gradients) {
        const error = relativeError(gradients.get(parameter)!, expected)
        expect(error, parameter).toBeLessThan(1.5 * torch.gradients[parameter])
      }
    })
  })
})
