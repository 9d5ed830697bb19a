import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { openDevice } from '../../lib/device.js'
import { CheckpointError } from '../../lib/errors.js'
import { readManifest } from '../../lib/formats/checkpoint/manifest.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import type { TrainEvent } from '../../lib/train/events.js'
import { Trainer, type TrainerOptions } from '../../lib/train/trainer.js'
import { fixtures } from '../support/fixtures.js'

const modelPath = path.join(fixtures, 'd100')
const data = JSON.parse(readFileSync(path.join(fixtures, 'instructions.json'), 'utf8'))

let savePath: string
beforeEach(() => {
  savePath = mkdtempSync(path.join(tmpdir(), 'openalpaca-'))
})
afterEach(() => rmSync(savePath, { recursive: true, force: true }))

interface Run {
  options?: Partial<TrainerOptions>
  /** Runs before the last file of a checkpoint. */
  beforeLastFile?: (directory: string) => Promise<void>
  onStep?: (step: number) => void
  signal?: AbortSignal
}

/** Trains six steps with a checkpoint every two, and returns the events in order. */
async function train({ options = {}, beforeLastFile, onStep, signal }: Run): Promise<string[]> {
  const tokenizer = await LlamaTokenizer.fromPretrained(modelPath)
  if (beforeLastFile) {
    const save = tokenizer.save.bind(tokenizer)
    tokenizer.save = async (directory: string) => {
      await beforeLastFile(directory)
      await save(directory)
    }
  }
  const device = openDevice('cpu')
  using model = await LlamaForCausalLM.fromPretrained(modelPath, { device, dtype: 'bfloat16', masterWeights: true })
  const shared = {
    maxLength: 224,
    batchSize: 5,
    maxSteps: 6,
    learningRate: 1e-3,
    checkpointEvery: 2,
    keepLast: 9,
    keepCheckpoints: 'all',
  } as const
  const trainer = new Trainer({ model, tokenizer, data, savePath, ...shared, ...options })
  const happened: string[] = []
  const handle = (event: TrainEvent) => {
    if (event.type === 'step' || event.type === 'checkpoint') happened.push(`${event.type} ${event.step}`)
  }
  await trainer.train({ subscribers: [{ handle, close() {} }], onStep: ({ step }) => onStep?.(step), signal })
  return happened
}

const bytesOf = (step: number, file = 'rank-00000-of-00001.safetensors') =>
  readFileSync(path.join(savePath, `checkpoint-${step}`, file))

describe('a checkpoint', () => {
  it('a checkpoint is written while training continues, with the exact state of its step', async () => {
    await train({ options: { checkpointInBackground: false } })
    const expected = [2, 4, 6].map((step) => bytesOf(step))
    rmSync(savePath, { recursive: true })

    // The first is not complete before the third step; the second waits for it.
    let release: (() => void) | undefined
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    const happened = await train({
      beforeLastFile: (directory) => (directory.includes('checkpoint-2.') ? held : Promise.resolve()),
      onStep: (step) => step === 3 && release?.(),
    })
    const order = ['step 2', 'step 3', 'checkpoint 2', 'checkpoint 4', 'checkpoint 6']
    expect(happened.filter((what) => order.includes(what))).toEqual(order)
    for (const [i, step] of [2, 4, 6].entries()) {
      expect(bytesOf(step).equals(expected[i]), `checkpoint-${step}`).toBe(true)
    }
  })

  it('a checkpoint that fails in the background ends the run with its error, and earlier ones remain', async () => {
    const full = new CheckpointError('the disk is full')
    const beforeLastFile = async (directory: string) => {
      if (directory.includes('checkpoint-4.')) throw full
    }
    await expect(train({ beforeLastFile })).rejects.toThrow(/the disk is full/)
    expect(readdirSync(savePath)).toEqual(['checkpoint-2'])
    await readManifest(path.join(savePath, 'checkpoint-2'))
    expect(await train({ options: { resume: 'auto' } })).toContain('step 3')
  })

  it('a checkpoint in progress is completed when the run fails or is stopped', async () => {
    const failing = () => {
      throw new Error('nobody follows any more')
    }
    await expect(train({ onStep: (step) => step === 3 && failing() })).rejects.toThrow(/nobody follows/)
    expect(readdirSync(savePath)).toEqual(['checkpoint-2'])

    const stop = new AbortController()
    await train({
      options: { resume: 'auto' },
      signal: stop.signal,
      onStep: (step) => step === 5 && stop.abort(),
    })
    expect(readdirSync(savePath).sort()).toEqual(['checkpoint-2', 'checkpoint-4', 'checkpoint-5'])
  })
})
