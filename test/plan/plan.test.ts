import { describe, expect, it } from 'vitest'
import type { Instance } from '../../lib/data/instances.js'
import { parseConfig } from '../../lib/model/config.js'
import { parameterCount } from '../../lib/model/layout.js'
import { adviceFor } from '../../lib/plan/advice.js'
import { gpus, type Hardware } from '../../lib/plan/hardware.js'
import { dollyInstances } from '../../lib/plan/instances.js'
import { knownConfigs, planConfig } from '../../lib/plan/model-config.js'
import { memoryKinds, type PlanOptions, planMemory, planRun } from '../../lib/plan/plan.js'
import { Timeline } from '../../lib/plan/timeline.js'
import { trainingFlops } from '../../lib/train/flops.js'
import { loadRecipe } from '../../lib/train/recipe.js'
import { type RecipeInput, recipeSchema } from '../../lib/train/recipe-schema.js'

const config = parseConfig({
  vocab_size: 1000,
  hidden_size: 256,
  intermediate_size: 512,
  num_hidden_layers: 6,
  num_attention_heads: 4,
})

/** Instances of 64 tokens, all but the first of which are learned. */
const instances = Array.from(
  { length: 64 },
  (_, id): Instance => ({ id, inputIds: new Int32Array(64), labels: new Int32Array(64) }),
)

function options(recipe: RecipeInput = {}, hardware: Partial<Hardware> = {}, ranks = 8): PlanOptions {
  return {
    recipe: recipeSchema.parse({ max_length: 64, max_tokens_per_micro_batch: 256, ...recipe }),
    config,
    instances,
    hardware: { ...gpus.h100, ...hardware },
    device: 'cuda',
    dtype: 'bfloat16',
    ranks,
    nodes: 1,
  }
}

/** Rates at which nothing takes time; tests override some of them. */
const free = {
  op_seconds: 0,
  call_seconds: 0,
  collective_seconds: 0,
  link_seconds: 0,
  memory_bandwidth: 1e30,
  attention_flops: 1e30,
  link_bandwidth: 1e30,
}

async function openAlpaca7b(ranks: number, recipe: Record<string, unknown> = {}): Promise<PlanOptions> {
  const loaded = loadRecipe('openalpaca-7b', [{ values: recipe, where: (key) => key }])
  const { config } = await planConfig(loaded)
  const data = dollyInstances(loaded.max_length!)
  return { ...options({}, {}, ranks), recipe: loaded, config, instances: data, nodes: Math.ceil(ranks / 8) }
}

describe('a timeline', () => {
  it('a timeline shows the hidden share of communication', () => {
    const timeline = new Timeline()
    const first = timeline.run('compute', 0, 2)
    timeline.run('communication', 1, 3)
    timeline.run('compute', first + 3, 1)
    expect(timeline.usage(0, 7)).toEqual({
      total: 7,
      compute: 3,
      communication: 3,
      hidden: 1,
      exposed: 2,
      offload: 0,
      idle: 2,
    })
    expect(timeline.usage(1, 3)).toEqual({
      total: 2,
      compute: 1,
      communication: 2,
      hidden: 1,
      exposed: 1,
      offload: 0,
      idle: 0,
    })
  })

  it('a timeline hides nothing if communication uses the cores that compute', () => {
    const timeline = new Timeline(true)
    timeline.run('compute', 0, 2)
    expect(timeline.run('communication', 0, 3)).toBe(5)
    expect(timeline.usage(0, 5)).toEqual({
      total: 5,
      compute: 2,
      communication: 3,
      hidden: 0,
      exposed: 3,
      offload: 0,
      idle: 0,
    })
  })
})

describe('the time of a step', () => {
  it('step time equals the documented training FLOPs if only matrix products take time', async () => {
    const { step } = await planRun(options({}, { ...free, matmul_flops: 1e9 }, 1))
    const lengths = instances.map(({ inputIds }) => inputIds.length)
    // The head processes rows in multiples of 64: of the 252 with a label in a micro-batch it makes 256.
    const flops = trainingFlops(config, lengths, 64 * 64)
    const attention = 6 * config.numHiddenLayers * config.hiddenSize * 64 * 64 ** 2
    expect(step.compute * 1e9).toBeCloseTo(flops - attention, -2)
    expect(step.total).toBeCloseTo(step.compute, 9)
  })

  it('step time equals the bytes that a rank sends if only communication takes time', async () => {
    const { step, traffic } = await planRun(options({}, { ...free, matmul_flops: 1e30, link_bandwidth: 1e9 }))
    const sent = Object.values(traffic).reduce((sum, one) => sum + one.sent, 0)
    expect(step.communication * 1e9).toBeCloseTo(sent, -2)
    expect(step.exposed / step.total).toBeCloseTo(1, 6)
  })

  it.each([0, 1, 2, 3])('step time in stage %i is between the longer of the two and their sum', async (stage) => {
    let previous = 0
    for (const link_bandwidth of [1e12, 1e10, 1e9, 1e8]) {
      const { step } = await planRun(options({ zero_stage: stage }, { link_bandwidth, matmul_flops: 1e12 }))
      const { total, compute, communication, exposed, hidden, idle } = step
      expect(total).toBeGreaterThanOrEqual(Math.max(compute, communication))
      expect(compute + exposed + idle).toBeCloseTo(total, 9)
      expect(hidden + exposed).toBeCloseTo(communication, 9)
      expect(exposed).toBeGreaterThan(previous)
      previous = exposed
    }
  })

  it('stage 3 hides most of the communication behind the computation of other units', async () => {
    const { step } = await planRun(
      options({}, { link_bandwidth: 3e10, matmul_flops: 1e12, op_seconds: 0, collective_seconds: 0 }),
    )
    expect(step.communication).toBeGreaterThan(0.1 * step.compute)
    expect(step.hidden / step.communication).toBeGreaterThan(0.7)
  })

  it('step time is the same on every run', async () => {
    expect(await planRun(await openAlpaca7b(16))).toEqual(await planRun(await openAlpaca7b(16)))
  })
})

describe('memory', () => {
  it('memory of one process is 18 bytes per parameter, plus working memory', async () => {
    const memory = await planMemory(options({}, {}, 1))
    const parameters = parameterCount(config)
    for (const [kind, bytes] of Object.entries({ weights: 2, masters: 4, moments: 8, gradients: 4 })) {
      // Units are full vectors, and so a little longer.
      expect(memory[kind as 'weights'] / (bytes * parameters)).toBeCloseTo(1, 3)
    }
    expect(memory.gathered_weights + memory.gathered_gradients).toBe(0)
    const all = Object.keys(memoryKinds).reduce((sum, kind) => sum + memory[kind as 'weights'], memory.reserved)
    expect(memory.total).toBe(all)
  })

  it('memory of 7B exceeds one 80 GB card, and is much less on each of 64', async () => {
    expect((await planMemory(await openAlpaca7b(1))).fits).toBe(false)
    const { fits, moments } = await planMemory(await openAlpaca7b(64))
    expect(fits).toBe(true)
    expect((moments * 64) / (8 * 6_738_415_616)).toBeCloseTo(1, 3)
  })

  it('insufficient memory gives settings each of which makes the run fit', async () => {
    const planned = await openAlpaca7b(2, { zero_stage: 2, max_tokens_per_micro_batch: 8192 })
    expect((await planMemory(planned)).fits).toBe(false)
    const advice = await adviceFor(planned)
    expect(advice.map(({ flags }) => flags.split(' ')[0])).toEqual([
      '--max_tokens_per_micro_batch',
      '--offload',
      '--gpus',
    ])
    for (const { flags, total } of advice) {
      const [flag, value] = flags.split(' ')
      const changed =
        flag === '--gpus'
          ? { ...planned, ranks: Number(value) }
          : await openAlpaca7b(2, {
              zero_stage: 2,
              max_tokens_per_micro_batch: 8192,
              [flag.slice(2)]: flag === '--offload' ? value : Number(value),
            })
      expect(await planMemory(changed)).toMatchObject({ fits: true, total })
    }
  })

  it("offloaded masters and moments use the machine's memory, and their transfer takes time", async () => {
    const [here, there] = [await openAlpaca7b(4), await openAlpaca7b(4, { offload: 'optimizer' })]
    const [kept, offloaded] = [await planRun(here), await planRun(there)]
    expect(offloaded.memory).toMatchObject({ masters: 0, moments: 0 })
    // In addition, two buffers for gradients and weights in transit.
    expect(offloaded.memory.host).toBeGreaterThan(kept.memory.masters + kept.memory.moments)
    expect(offloaded.step.offload).toBeGreaterThan(0)
    expect(offloaded.step.total).toBeGreaterThan(kept.step.total)
  })

  it('memory of a machine is shared by its ranks on the CPU', async () => {
    const shared = await planMemory({ ...options({}, { memory: 16e9 }, 8), device: 'cpu', nodes: 2 })
    expect(shared.capacity).toBe(4e9)
  })

  it('memory that no setting makes sufficient gives no advice', async () => {
    const planned = { ...(await openAlpaca7b(1)), hardware: { ...gpus.h100, memory: 4e9 } }
    expect(await adviceFor(planned)).toEqual([])
  })
})

describe('a known config', () => {
  it('a known config has the published number of parameters', async () => {
    const count = async (name: string) => parameterCount((await planConfig(recipeSchema.parse({}), name)).config)
    expect(knownConfigs()).toEqual(['open_llama_13b', 'open_llama_3b', 'open_llama_7b'])
    expect(await count('openlm-research/open_llama_3b_v2')).toBe(3_426_473_600)
    expect(await count('open_llama_7b')).toBe(6_738_415_616)
    expect(await count('openlm-research/open_llama_13b@main')).toBe(13_015_864_320)
  })

  it('an unknown config is reported', async () => {
    await expect(planConfig(recipeSchema.parse({ model_path: 'acme/alpaca' }))).rejects.toThrow(
      'acme/alpaca is neither a local directory nor one of the known configs (open_llama_13b, open_llama_3b, open_llama_7b): pass --config FILE',
    )
    await expect(planConfig(recipeSchema.parse({}))).rejects.toThrow(/^no model to plan for: add --config FILE/)
  })
})
