import path from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { countLabels, type Instance } from '../../lib/data/instances.js'
import { readConfig } from '../../lib/model/config.js'
import { gpus } from '../../lib/plan/hardware.js'
import { type PlannedMemory, planRun } from '../../lib/plan/plan.js'
import { recipeSchema } from '../../lib/train/recipe-schema.js'
import { fixtures, readInstances } from '../support/fixtures.js'
import { isLong } from '../support/long.js'
import { runRanks } from '../support/ranks.js'

interface Outcome {
  /** Loss and gradient norm by step. */
  losses: [number, number][]
  /** Bytes that the rank holds by kind. */
  memory: Omit<PlannedMemory, 'other'>
  /** Bytes of all existing tensors. */
  allocated: number
  /** Of the first step: collectives, and bytes that the process wrote. */
  traffic: Record<string, { calls: number; bytes: number }>
  sent: number
  hash: string
  /** New ids after two prompts. */
  answers?: number[][]
}

/** The results of each rank for the golden trajectory. */
async function train(size: number, stage: number, options: object = {}): Promise<Outcome[]> {
  const ends = await runRanks('sharded-training.mjs', size, { stage, fixtures, ...options })
  for (const { code, errors } of ends) expect({ code, errors }).toEqual({ code: 0, errors: '' })
  return ends.map(({ lines }) => lines[0] as Outcome)
}

function expectClose(actual: [number, number][], expected: [number, number][], tolerance: number): void {
  expect(actual).toHaveLength(expected.length)
  for (const [step, [loss, norm]] of actual.entries()) {
    expect(Math.abs(loss / expected[step][0] - 1), `loss of step ${step}`).toBeLessThan(tolerance)
    // A gradient's sum has more canceling terms than a loss.
    expect(Math.abs(norm / expected[step][1] - 1), `norm of step ${step}`).toBeLessThan(10 * tolerance)
  }
}

const deviation = (actual: [number, number][], expected: [number, number][]) =>
  Math.max(...actual.map(([loss], step) => Math.abs(loss / expected[step][0] - 1)))

let alone: Outcome
/** The bytes of a single process in bfloat16. */
beforeAll(async () => {
  ;[alone] = await train(1, 0)
})

const steps = new Map<string, Promise<Outcome[]>>()
/** One step in bfloat16, which several tests inspect. */
function oneStep(size: number, stage: number): Promise<Outcome[]> {
  const key = `${size} ${stage}`
  if (!steps.has(key)) steps.set(key, train(size, stage, { steps: 1, dtype: 'bfloat16' }))
  return steps.get(key)!
}

const grid = [2, 3, 4, 8].flatMap((size) => [0, 1, 2, 3].map((stage) => ({ size, stage })))
/** Each number of ranks in stage 3, and each stage with three ranks, which divide nothing evenly. */
const sample = grid.filter(({ size, stage }) => stage === 3 || size === 3)

describe('sharded training', () => {
  it.each(isLong ? grid : sample)(
    '$size ranks in stage $stage follow one process over 20 steps, with the same bits on all ranks',
    async ({ size, stage }) => {
      const [first, ...others] = await train(size, stage)
      expectClose(first.losses, alone.losses, 1e-5)
      if (isLong)
        console.log(`${size} ranks, stage ${stage}: largest deviation ${deviation(first.losses, alone.losses)}`)
      for (const { losses, hash } of others)
        expect({ losses, hash }).toEqual({ losses: first.losses, hash: first.hash })
    },
  )

  it('sharded training gives the same bits in every stage and on every run', async () => {
    const outcomes = await Promise.all([1, 2, 3, 3].map((stage) => train(3, stage, { steps: 3 })))
    expect(new Set(outcomes.map(([{ hash }]) => hash)).size).toBe(1)
  })

  it('sharded training accumulates micro-batches', async () => {
    // The longest instance has 224 tokens, so each rank has several micro-batches, some of them empty.
    const [first] = await train(3, 3, { maxTokens: 224 })
    expectClose(first.losses, alone.losses, 1e-5)
  })

  it('sharded training supports tied embeddings', async () => {
    const [whole] = await train(1, 0, { model: 'gqa', steps: 8 })
    const [first] = await train(3, 3, { model: 'gqa', steps: 8 })
    expectClose(first.losses, whole.losses, 1e-5)
  })

  it('sharded training in bfloat16 uses float32 masters', async () => {
    const [whole] = await train(1, 0, { dtype: 'bfloat16' })
    const [first] = await train(2, 3, { dtype: 'bfloat16' })
    expectClose(first.losses, whole.losses, 5e-3)
  })

  it('sharded training gives the same bits for any prefetch_blocks, with one more buffer than that', async () => {
    const ahead = (prefetchBlocks: number) => train(2, 3, { model: 'gqa', steps: 3, prefetchBlocks })
    const [[none], [one], [many]] = await Promise.all([ahead(0), ahead(1), ahead(9)])
    expect([none.hash, many.hash]).toEqual([one.hash, one.hash])
    const block = one.memory.gathered_weights - none.memory.gathered_weights
    expect(block).toBeGreaterThan(0)
    expect(many.memory.gathered_weights).toBeGreaterThanOrEqual(one.memory.gathered_weights)
  })

  it.each(['d100', 'gqa'])(
    'sharded generation matches one process, by rank 0 or by all ranks together, with %s',
    async (model) => {
      const options = { model, steps: 2, generate: true }
      const [[whole], below, copied, together] = await Promise.all([
        train(1, 0, options),
        train(2, 1, options),
        train(2, 3, { ...options, copy: true }),
        train(3, 3, { ...options, copy: false }),
      ])
      expect(whole.answers!.map(({ length }) => length)).toEqual([12, 12])
      const none = undefined
      expect([below, copied, together].map((ranks) => ranks.map(({ answers }) => answers))).toEqual([
        [whole.answers, none],
        [whole.answers, none],
        [whole.answers, whole.answers, whole.answers],
      ])
    },
  )

  it('sharded training gives the same bits with masters and moments on the host', async () => {
    const options = { dtype: 'bfloat16', steps: 3 }
    const [[there], [here]] = await Promise.all([train(2, 3, { ...options, offload: true }), train(2, 3, options)])
    expect([there.losses, there.hash]).toEqual([here.losses, here.hash])
  })

  it.each([
    { size: 4, stage: 0, shared: [] },
    { size: 4, stage: 1, shared: ['masters', 'moments'] },
    { size: 4, stage: 2, shared: ['masters', 'moments', 'gradients'] },
    ...[2, 3, 4, 8].map((size) => ({ size, stage: 3, shared: ['masters', 'moments', 'gradients', 'weights'] })),
  ])('$size ranks in stage $stage divide $shared', async ({ size, stage, shared }) => {
    const [[{ memory: whole }], [{ memory }]] = await Promise.all([oneStep(1, 0), oneStep(size, stage)])
    const kinds = ['masters', 'moments', 'gradients', 'weights'] as const
    const all = [...kinds, 'gathered_weights' as const, 'gathered_gradients' as const]
    const sizes = all.map((kind) => `${kind} ${memory[kind]}`)
    console.log(`stage ${stage}, ${size} ranks, bytes a rank: ${sizes.join(', ')}`)
    for (const kind of kinds) {
      // Shards are full vectors, with up to 63 additional elements.
      expect(memory[kind] / whole[kind], kind).toBeCloseTo(shared.includes(kind) ? 1 / size : 1, 2)
    }
  })
})

/** The instances of the golden trajectory's first step. */
function firstBatch(): Instance[] {
  return readInstances()
    .filter((instance) => countLabels(instance) > 0)
    .slice(0, 4)
}

describe('a plan', () => {
  it.each([{ size: 1, stage: 0 }, ...[0, 1, 2, 3].map((stage) => ({ size: 4, stage }))])(
    'a plan has the bytes that $size ranks in stage $stage hold by kind, and the bytes that they send',
    async ({ size, stage }) => {
      const outcomes = await oneStep(size, stage)
      const instances = firstBatch()
      const { memory, traffic } = await planRun({
        recipe: recipeSchema.parse({ batch_size: 4, epochs: 1, max_tokens_per_micro_batch: 512, zero_stage: stage }),
        config: await readConfig(path.join(fixtures, 'd100')),
        instances,
        hardware: gpus.h100,
        device: 'cpu',
        dtype: 'bfloat16',
        ranks: size,
        nodes: 1,
        steps: 1,
      })
      const { other, host, reserved, total, capacity, fits, ...kinds } = memory
      const calls = Object.fromEntries(
        Object.entries(traffic).map(([name, { calls, bytes }]) => [name, { calls, bytes }]),
      )
      const sent = Object.values(traffic).reduce((sum, one) => sum + one.sent, 0)
      for (const outcome of outcomes) {
        expect(outcome.memory).toEqual(kinds)
        expect(outcome.allocated).toBe(total - reserved)
        expect(outcome.traffic).toEqual(calls)
        // Every message has a header; waking another thread is also a write.
        expect(outcome.sent - sent).toBeGreaterThanOrEqual(0)
        expect(outcome.sent - sent).toBeLessThan(0.02 * sent + 16384)
      }
      expect(sent > 0).toBe(size > 1)
    },
  )
})

describe('slow communication', () => {
  it('slow communication does not change the losses', async () => {
    const quick = await train(2, 3, { steps: 3 })
    const slow = await train(2, 3, { steps: 3, fault: 'slow' })
    expect(slow[0].losses).toEqual(quick[0].losses)
  })

  it.each(['computation does not wait', 'communication does not wait'])(
    'only events order communication: when the %s, the losses differ',
    async (fault) => {
      const quick = await train(2, 3, { steps: 3 })
      const [{ losses }] = await train(2, 3, { steps: 3, fault })
      expect(losses).not.toEqual(quick[0].losses)
    },
  )
})
