import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { OpenAlpacaError } from '../../lib/errors.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import type { TrainEvent, TrainSubscriber } from '../../lib/train/events.js'
import { Trainer, type TrainerOptions, type TrainOptions } from '../../lib/train/trainer.js'
import { fixtures } from '../support/fixtures.js'

vi.mock('../../lib/train/flops.js', async (original) => ({
  ...(await original<typeof import('../../lib/train/flops.js')>()),
  measurePeakFlops: async () => null, // takes seconds on a busy machine
}))

const d100 = path.join(fixtures, 'd100')
const data = JSON.parse(readFileSync(path.join(fixtures, 'instructions.json'), 'utf8')).slice(0, 8)
/** A model with more embedding rows than the tokenizer has tokens, as in padded vocabularies. */
const padded = {
  vocab_size: 4096,
  hidden_size: 16,
  intermediate_size: 16,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  max_position_embeddings: 224,
}

let tokenizer: LlamaTokenizer
let savePath: string
beforeAll(async () => {
  tokenizer = await LlamaTokenizer.fromPretrained(d100)
})
beforeEach(() => {
  savePath = mkdtempSync(path.join(tmpdir(), 'openalpaca-'))
})
afterEach(() => {
  vi.restoreAllMocks()
  rmSync(savePath, { recursive: true, force: true })
})

/** Warnings that occur because these runs are short. */
const isAboutLength = (event: TrainEvent) =>
  event.type === 'warning' && /warm-up takes|steps train little/.test(event.message)

/** Trains two steps, and returns the events without the warnings about short runs. */
async function run(model: LlamaForCausalLM, options: Partial<TrainerOptions> = {}, how: TrainOptions = {}) {
  const events: TrainEvent[] = []
  const recipe = { batchSize: 3, epochs: 1, maxLength: 224, validationSize: 0, warmupMin: 1 }
  const trainer = new Trainer({ model, tokenizer, data, savePath, checkpointEvery: 2, ...recipe, ...options })
  const handle = (event: TrainEvent) => {
    if (!isAboutLength(event)) events.push(event)
  }
  const recorder = { handle, close() {} }
  const result = await trainer.train({ ...how, subscribers: [...(how.subscribers ?? []), recorder] })
  return { events, kinds: events.map(({ type }) => type), result }
}

const newModel = (changes: object = {}) =>
  LlamaForCausalLM.fromConfig({ ...padded, ...changes }, { device: 'cpu', dtype: 'float32' })

describe('a run with sample prompts', () => {
  const sampling = { samplePrompts: ['Say red.', 'Say blue.'], sampleLength: 12 }

  it('samples only real tokens from a model with a padded vocabulary', async () => {
    using model = newModel()
    const { events } = await run(model, { ...sampling, sampleEvery: 1 })
    const samples = events.filter(({ type }) => type === 'sample')
    expect(samples).toHaveLength(4)
    expect(events.filter(({ type }) => type === 'warning')).toEqual([])
  })

  it('continues to its end when sample answers fail, with one warning each', async () => {
    using model = newModel()
    vi.spyOn(model, 'generate').mockRejectedValue(new OpenAlpacaError('OUT_OF_MEMORY', 'no memory left'))
    const { kinds, events, result } = await run(model, { ...sampling, sampleEvery: 1 })
    expect(result.reason).toBe('completed')
    expect(kinds).toEqual(['start', 'step', 'warning', 'warning', 'step', 'checkpoint', 'warning', 'warning', 'end'])
    expect(events).toContainEqual({
      type: 'warning',
      step: 1,
      message: 'the sample "Say red." has no answer: no memory left',
    })
  })

  it('warns about a prompt that fills the context, and answers the others', async () => {
    using model = newModel()
    const { events } = await run(model, { ...sampling, samplePrompts: ['Say red. '.repeat(100), 'Say blue.'] })
    expect(events.flatMap((event) => (event.type === 'warning' ? [event.message] : []))).toEqual([
      expect.stringMatching(/^the sample "Say red\. .*\.\.\. has no answer: .* fills the model's context of 224$/),
    ])
    expect(events).toContainEqual(expect.objectContaining({ type: 'sample', instruction: 'Say blue.' }))
  })

  it('ends when the device is lost, with the model saved', async () => {
    using model = newModel()
    vi.spyOn(model, 'generate').mockRejectedValue(new OpenAlpacaError('DEVICE_LOST', 'gone'))
    const onTrained = vi.fn(async () => {})
    await expect(run(model, sampling, { onTrained })).rejects.toMatchObject({ code: 'DEVICE_LOST' })
    expect(onTrained).toHaveBeenCalledOnce()
    expect(await readdir(savePath)).toEqual(['checkpoint-2'])
  })

  it('saves the model before the last checkpoint, and both before the samples', async () => {
    using model = newModel()
    const order: string[] = []
    const follower: TrainSubscriber = {
      handle: (event) => {
        if (!isAboutLength(event)) order.push(event.type)
      },
      close() {},
    }
    await run(model, sampling, { subscribers: [follower], onTrained: async () => void order.push('saved') })
    expect(order).toEqual(['start', 'step', 'step', 'saved', 'checkpoint', 'sample', 'sample', 'end'])
  })

  it('samples with the prompt of training, regardless of add_bos_token and add_eos_token', async () => {
    using model = newModel()
    const generate = vi.spyOn(model, 'generate')
    await run(model, sampling)
    const prompt =
      'Below is an instruction that describes a task. Write a response that appropriately completes the request.'
    const ids = tokenizer.encode(`${prompt}\n\n### Instruction:\nSay red.\n\n### Response:`, {
      addSpecialTokens: false,
    })
    expect(generate.mock.calls[0][0]).toEqual([1, ...ids])
  })
})

describe('a run whose subscriber throws', () => {
  const failing = (at: string): TrainSubscriber => ({
    handle: ({ type }) => {
      if (type === at) throw new Error('no space left on the disk')
    },
    close() {},
  })

  it('continues without a subscriber that throws, with a warning', async () => {
    using model = newModel()
    const { kinds, events } = await run(model, {}, { subscribers: [failing('step')] })
    expect(kinds).toEqual(['start', 'warning', 'step', 'step', 'checkpoint', 'end'])
    expect(events[1]).toMatchObject({ message: expect.stringMatching(/no further events: no space left on the disk/) })
  })

  it('does not start if a subscriber throws on the start event', async () => {
    using model = newModel()
    await expect(run(model, {}, { subscribers: [failing('start')] })).rejects.toThrow('no space left on the disk')
  })
})

it('a run whose model cannot be saved still writes its last checkpoint', async () => {
  using model = newModel()
  const { CheckpointError } = await import('../../lib/errors.js')
  const onTrained = () => Promise.reject(new CheckpointError('the disk is full'))
  await expect(run(model, {}, { onTrained })).rejects.toThrow('the disk is full')
  expect(await readdir(savePath)).toEqual(['checkpoint-2'])
})

describe("a model that lacks its tokenizer's end token", () => {
  it("learns the tokenizer's end token, with a warning, and is saved with it, in its checkpoint too", async () => {
    using model = newModel({ eos_token_id: 1 })
    const { events } = await run(model)
    expect(events[1]).toMatchObject({
      type: 'warning',
      message: expect.stringMatching(/end token 2, .* \(1\): it is added/),
    })
    expect(model.config.eosTokenIds).toEqual([1, 2])
    const output = path.join(savePath, 'model')
    await model.savePretrained(output, { tokenizer })
    for (const directory of [output, path.join(savePath, 'checkpoint-2')]) {
      for (const name of ['config.json', 'generation_config.json']) {
        expect(JSON.parse(readFileSync(path.join(directory, name), 'utf8'))).toMatchObject({ eos_token_id: [1, 2] })
      }
    }
  })
})

it('fromPretrained loads the model of a training checkpoint', async () => {
  using model = newModel()
  await run(model)
  using read = await LlamaForCausalLM.fromPretrained(path.join(savePath, 'checkpoint-2'), {
    device: 'cpu',
    dtype: 'float32',
  })
  const weights = await model.parameters.toMap(model.parameters.masters)
  for (const [name, values] of await read.parameters.toMap(read.parameters.buffers)) {
    expect(weights.get(name), name).toEqual(values)
  }
})
