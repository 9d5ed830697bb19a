import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { buildInstances } from '../../lib/data/instances.js'
import type { Instruction } from '../../lib/data/instructions.js'
import type { Device } from '../../lib/device.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import type { StepEvent, TrainEvent } from '../../lib/train/events.js'
import { Trainer, type TrainerOptions } from '../../lib/train/trainer.js'
import { deviceTypes } from '../support/devices.js'
import { fixtures } from '../support/fixtures.js'

vi.mock('../../lib/train/flops.js', async (original) => ({
  ...(await original<typeof import('../../lib/train/flops.js')>()),
  measurePeakFlops: async () => 1e12, // takes seconds on a busy machine
}))

const modelPath = path.join(fixtures, 'd100')
const rows: Instruction[] = JSON.parse(readFileSync(path.join(fixtures, 'instructions.json'), 'utf8'))
let tokenizer: LlamaTokenizer
beforeAll(async () => {
  tokenizer = await LlamaTokenizer.fromPretrained(modelPath)
})

/** 24 instances, 22 to train on, 5 per step, 2 epochs: 8 steps, with the second epoch starting within the fifth. */
const recipe = {
  data: rows,
  maxLength: 224,
  batchSize: 5,
  epochs: 2,
  learningRate: 1e-3,
  warmupMin: 2,
  maxTokensPerMicroBatch: 512,
  validationSize: 2,
  validationEvery: 4,
  checkpointEvery: 3,
} satisfies Partial<TrainerOptions>

let savePath: string
beforeEach(() => {
  savePath = mkdtempSync(path.join(tmpdir(), 'openalpaca-'))
})
afterEach(() => rmSync(savePath, { recursive: true, force: true }))

interface Outcome {
  events: TrainEvent[]
  /** Losses and gradient norms by step. */
  curve: Map<number, string>
  weights: Map<string, Float32Array>
  reason: string
}

/** Trains a fresh copy of the model; aborts after `stopAfter` steps. */
async function runOn(
  device: Device,
  options: Partial<TrainerOptions> & { dtype?: 'bfloat16' | 'float32' },
  stopAfter = Number.POSITIVE_INFINITY,
): Promise<Outcome> {
  const { dtype = 'float32', ...rest } = options
  using model = await LlamaForCausalLM.fromPretrained(modelPath, { device, dtype, masterWeights: true })
  const events: TrainEvent[] = []
  const stop = new AbortController()
  const subscribers = [{ handle: (event: TrainEvent) => void events.push(event), close() {} }]
  const onStep = ({ step }: StepEvent) => {
    if (step >= stopAfter) stop.abort()
  }
  const trainer = new Trainer({ model, tokenizer, ...recipe, savePath, ...rest })
  const { reason } = await trainer.train({ subscribers, onStep, signal: stop.signal })
  const steps = events.filter((event) => event.type === 'step')
  return {
    events,
    curve: new Map(steps.map(({ step, loss, grad_norm }) => [step, `${loss} ${grad_norm}`])),
    weights: await model.parameters.toMap(model.parameters.masters),
    reason,
  }
}

type RunArguments = Parameters<typeof runOn> extends [Device, ...infer Rest] ? Rest : never

describe.each(deviceTypes)('on $name', ({ device }) => {
  const run = (...args: RunArguments) => runOn(device, ...args)

  it.each(['float32', 'bfloat16'] as const)(
    'a run that is stopped mid-epoch and resumed gives the same bits as an uninterrupted one, in %s',
    async (dtype) => {
      const whole = await run({ dtype, savePath: path.join(savePath, 'whole') })
      const first = await run({ dtype }, 5)
      expect(first.reason).toBe('stopped')
      const second = await run({ dtype, resume: 'auto' })
      expect(second.reason).toBe('completed')
      expect([...first.curve, ...second.curve]).toEqual([...whole.curve])
      expect([...whole.curve.keys()]).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
      for (const [name, expected] of whole.weights) expect(second.weights.get(name), name).toEqual(expected)
    },
  )

  it('the loss falls below half of its initial value', async () => {
    const data = rows.slice(0, 4)
    const { events } = await run({
      data,
      epochs: 16,
      batchSize: 4,
      learningRate: 3e-3,
      checkpointEvery: 0,
      validationSize: 0,
    })
    const losses = events.filter((event) => event.type === 'step').map(({ loss }) => loss)
    expect(losses[losses.length - 1]).toBeLessThan(losses[0] / 2)
  })

  it('stops at a loss that is not finite, names step and instance, and leaves the weights unchanged', async () => {
    using model = await LlamaForCausalLM.fromPretrained(modelPath, { device, dtype: 'float32' })
    const { parameters } = model
    // One row of the embedding is poisoned: only instances with that token are affected.
    const [poisoned] = tokenizer.encode('Ω', { addSpecialTokens: false }).slice(-1)
    const row = parameters.layers.embedding.w.rows(poisoned, poisoned + 1)
    device.stream.write(row, new Float32Array(row.length).fill(Number.NaN))
    const before = await parameters.toMap(parameters.buffers)
    const data = rows.map((instruction, i) => (i === 7 ? { ...instruction, output: 'Ω is a letter.' } : instruction))
    const trainer = new Trainer({
      model,
      tokenizer,
      ...recipe,
      savePath,
      data,
      validationSize: 0,
      batchSize: rows.length,
    })
    await expect(trainer.train()).rejects.toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringMatching(/the loss of instance 7 is not finite at step 1/),
    })
    const after = await parameters.toMap(parameters.buffers)
    for (const [name, expected] of before) expect(after.get(name), name).toEqual(expected)
  })
})

describe('on any device', () => {
  const { device } = deviceTypes[0]
  const run = (...args: RunArguments) => runOn(device, ...args)

  it('reports the start, each step, validations, samples, checkpoints, and the end, in order', async () => {
    const { events } = await run({
      checkpointInBackground: false,
      samplePrompts: ['Name three colours.'],
      sampleLength: 4,
    })
    const kinds = events.map((event) => (event.type === 'step' ? `step ${event.step}` : event.type))
    expect(kinds.join(', ')).toBe(
      'start, warning, step 1, step 2, step 3, checkpoint, step 4, validation, step 5, step 6, checkpoint, step 7, step 8, ' +
        'checkpoint, validation, sample, end',
    )
  })

  it.each([
    [{}, ['checkpoint-3']],
    [{ keepCheckpoints: 'all', keepLast: 2 }, ['checkpoint-2', 'checkpoint-3']],
    [{ keepLast: 2 }, ['checkpoint-2', 'checkpoint-3']],
    [{ keepCheckpoints: 'none' }, []],
  ] as const)('with %o, a completed run keeps the checkpoints %j', async (options, kept) => {
    const { events } = await run({ checkpointEvery: 1, maxSteps: 3, validationSize: 0, ...options })
    expect((await readdir(savePath)).sort()).toEqual(kept)
    const [first] = events.filter((event) => event.type === 'checkpoint')
    expect(first!.bytes).toBeGreaterThan(8e6) // 12 bytes per parameter
  })

  it('keeps the last checkpoints until the run is complete', async () => {
    await run({ checkpointEvery: 1, keepLast: 2, keepCheckpoints: 'none' }, 3)
    expect((await readdir(savePath)).sort()).toEqual(['checkpoint-2', 'checkpoint-3'])
  })

  it('skips a checkpoint that was cut short, and resumes from the one before', async () => {
    await run({ checkpointEvery: 2, keepLast: 3 }, 5)
    truncateSync(path.join(savePath, 'checkpoint-5', 'rank-00000-of-00001.safetensors'), 1000)
    const { events } = await run({ resume: 'auto' })
    expect(events[0]).toMatchObject({ type: 'start', step: 4 })
  })

  it('rejects a checkpoint with a flipped bit, by its checksum', async () => {
    await run({}, 3)
    const file = path.join(savePath, 'checkpoint-3', 'rank-00000-of-00001.safetensors')
    const bytes = readFileSync(file)
    bytes[bytes.length - 100] ^= 1
    writeFileSync(file, bytes)
    await expect(run({ resume: 'auto' })).rejects.toThrow(/is damaged: its checksum/)
  })

  it('refuses to resume with another seed, other data, or another dtype, and names the difference', async () => {
    await run({}, 3)
    await expect(run({ resume: 'auto', seed: 1 })).rejects.toThrow(/seed was 0 and is now 1/)
    await expect(run({ resume: 'auto', data: rows.slice(1) })).rejects.toThrow(/other data/)
    await expect(run({ resume: 'auto', dtype: 'bfloat16' })).rejects.toThrow(/in float32, and this run is in bfloat16/)
    await expect(run({ resume: path.join(savePath, 'nothing') })).rejects.toThrow(/not a training checkpoint/)
  })

  it('starts over among the checkpoints of an earlier run only with overwrite', async () => {
    await run({}, 4)
    await expect(run({})).rejects.toThrow(
      /from an earlier run: set resume to auto .* set overwrite .* another save_path/,
    )
    await run({ overwrite: true }, 2)
    expect(await readdir(savePath)).toEqual(['checkpoint-2'])
  })

  it('rejects a tokenizer with more pieces than the model, and a length beyond its context', async () => {
    using small = await LlamaForCausalLM.fromPretrained(path.join(fixtures, 'gqa'), { device, dtype: 'float32' })
    expect(() => new Trainer({ model: small, tokenizer, ...recipe })).toThrow(/pass the tokenizer of this model/)
    using model = await LlamaForCausalLM.fromPretrained(modelPath, { device, dtype: 'float32' })
    expect(() => new Trainer({ model, tokenizer, ...recipe, maxLength: 4096 })).toThrow(
      /longer than the model's context/,
    )
  })

  it('reports truncated answers, short runs, and changed settings of a resumed run', async () => {
    const warnings = ({ events }: Outcome) => events.flatMap((event) => (event.type === 'warning' ? event.message : []))
    const first = await run({ maxLength: 150 }, 3)
    const start = first.events.find((event) => event.type === 'start')!
    expect(start.truncated_instances).toBe(
      (await buildInstances(rows, tokenizer, 150)).instances.filter(({ inputIds }) => inputIds.at(-1) !== 2).length,
    )
    expect(start.truncated_instances).toBeGreaterThan(0)
    expect(warnings(first)).toEqual([expect.stringMatching(/^5 steps train little: try --batch_size 4 --epochs 29$/)])
    const second = await run({ maxLength: 150, resume: 'auto', learningRate: 2e-3, maxSteps: 2 })
    expect(warnings(second)).toEqual([
      expect.stringMatching(/^the warm-up takes all of the 2 steps/),
      expect.stringMatching(/^2 steps train little/),
      expect.stringMatching(/max_steps was not set and is now 2; learning_rate was 0.001 and is now 0.002$/),
      expect.stringMatching(/checkpoint-3 is at step 3, beyond the 2 steps of this run: nothing is left to train$/),
    ])
    expect(second.events.map(({ type }) => type).filter((type) => type !== 'warning')).toEqual([
      'start',
      'validation',
      'end',
    ])
  })

  it('rejects a batch size that the data never fills', async () => {
    await expect(run({ batchSize: 100 })).rejects.toThrow(/do not fill one batch of 100: lower batch_size/)
  })
})
