import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import type { StepEvent } from '../../lib/train/events.js'
import { Trainer, type TrainerOptions } from '../../lib/train/trainer.js'
import { expectClose } from '../support/closeness.js'
import { deviceTypes } from '../support/devices.js'
import { fixtures, readSafetensors } from '../support/fixtures.js'

const folder = path.join(fixtures, 'deepspeed_trajectory')
const readJson = (file: string) => JSON.parse(readFileSync(file, 'utf8'))
const golden = readJson(path.join(folder, 'trajectory.json'))
const column = (key: 'loss' | 'grad_norm' | 'learning_rate'): number[] =>
  golden.steps.map((step: Record<typeof key, number>) => step[key])

const temporary = mkdtempSync(path.join(tmpdir(), 'openalpaca-'))
afterAll(() => rmSync(temporary, { recursive: true, force: true }))

/** OpenAlpaca's recipe, which has these defaults, on 23 instances: 30 updates of 4. */
const recipe = {
  data: readJson(path.join(fixtures, 'instructions.json')),
  maxLength: 224,
  batchSize: 4,
  epochs: 5.22,
  learningRate: golden.peak,
  warmupMin: golden.warmup_steps,
} satisfies Partial<TrainerOptions>

// The emulated GPU would take minutes; trajectory.test.ts covers its kernels.
describe.each(deviceTypes.filter(({ name }) => name !== 'emulated'))('on $name', ({ name, device }) => {
  it('30 updates, resumed once, follow those of DeepSpeed with ZeRO-3 on two ranks', async () => {
    const tokenizer = await LlamaTokenizer.fromPretrained(path.join(fixtures, 'd100'))
    const steps: StepEvent[] = []
    /** One process's part of the run, which starts from the checkpoint of the previous part. */
    const train = async (resume: TrainerOptions['resume'], stopAfter: number) => {
      using model = await LlamaForCausalLM.fromPretrained(folder, { device, dtype: 'float32', masterWeights: true })
      const trainer = new Trainer({ model, tokenizer, ...recipe, savePath: path.join(temporary, name), resume })
      const stop = new AbortController()
      const onStep = (event: StepEvent) => {
        steps.push(event)
        if (event.step === stopAfter) stop.abort()
      }
      await trainer.train({ onStep, signal: stop.signal })
      return await model.parameters.toMap(model.parameters.masters)
    }
    await train(false, golden.resumed_after)
    const weights = await train('auto', Number.POSITIVE_INFINITY)

    const ours = (key: 'loss' | 'grad_norm' | 'learning_rate') => steps.map((step) => step[key])
    expectClose(ours('learning_rate'), column('learning_rate'), { relative: 1e-12 })
    expectClose(ours('loss'), column('loss'), { relative: 1e-4 })
    expectClose(ours('grad_norm'), column('grad_norm'), { relative: 1e-3 })
    for (const [parameter, { numbers }] of await readSafetensors(path.join(folder, 'final.safetensors'))) {
      // Adam divides by the gradient's magnitude: where that is near 0, rounding alone moves a weight by part of a
      // step.
      const actual = weights.get(parameter)!
      const worst = numbers.reduce((max, value, i) => Math.max(max, Math.abs(value - actual[i])), 0)
      expect(worst, parameter).toBeLessThan(golden.peak / 10)
    }
  })
})
