import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { readDeepSpeedConfig, translateDeepSpeedConfig } from '../../lib/train/deepspeed.js'
import { resolveRecipe } from '../../lib/train/recipe.js'

const directory = mkdtempSync(join(tmpdir(), 'deepspeed-'))
afterAll(() => rmSync(directory, { recursive: true }))

/** In the format of OpenAlpaca's dsconfig/openllama.json, including its misspelling. */
const openAlpacaLike = {
  train_batch_size: 64,
  train_micro_batch_size_per_gpu: 1,
  gradient_accumulation_steps: 8,
  steps_per_print: 1,
  gradient_clipping: 0.5,
  zero_optimization: { stage: 3, contiguous_gradients: true, allgather_bucket_size: 5e8 },
  fp16: { enabled: true, opt_level: 'O2', min_loss_scale: 1 },
  bf16: { enable: true },
  optimizer: { type: 'Adam', params: { lr: 1e-5, betas: [0.9, 0.98], eps: 1e-6, weight_decay: 0.01 } },
  scheduler: {
    type: 'WarmupDecayLR',
    params: { warmup_min_lr: 0, warmup_max_lr: 1e-5, warmup_num_steps: 10, total_num_steps: 10000 },
  },
}

const translate = (config: Record<string, unknown>) => {
  const { layer, notes } = translateDeepSpeedConfig(config, 'ds.json')
  return { values: layer.values, notes: notes.join('\n'), recipe: () => resolveRecipe([layer]) }
}

describe('a DeepSpeed file', () => {
  test("converts OpenAlpaca's DeepSpeed file to its recipe", () => {
    const path = join(directory, 'openllama.json')
    writeFileSync(path, JSON.stringify(openAlpacaLike))
    const { layer, notes } = readDeepSpeedConfig(path)
    expect(layer.values).toEqual({
      batch_size: 64,
      max_grad_norm: 0.5,
      log_every: 1,
      dtype: 'bfloat16',
      learning_rate: 1e-5,
      adam_beta1: 0.9,
      adam_beta2: 0.98,
      adam_epsilon: 1e-6,
      weight_decay: 0.01,
      lr_scheduler: 'warmup_decay',
      min_learning_rate: 0,
      zero_stage: 3,
    })
    const said = notes.join('\n')
    expect(said).toMatch(/bf16\.enable is a misspelling/)
    expect(said).toMatch(/fp16 is not supported/)
    expect(said).toMatch(/train_micro_batch_size_per_gpu/)
    expect(said).toMatch(/total_num_steps 10000 .*--warmup_steps 10/)
    expect(said).toMatch(/zero_optimization: contiguous_gradients are not used/)
    expect(said).toMatch(/allgather_bucket_size are not used: a transformer block is the bucket/)
    expect(resolveRecipe([layer])).toMatchObject({ batch_size: 64, warmup_ratio: 0.1 })
  })

  test('leaves every "auto" value to the recipe', () => {
    const { values, notes } = translate({
      train_batch_size: 'auto',
      gradient_clipping: 'auto',
      bf16: { enabled: 'auto' },
      optimizer: { type: 'AdamW', params: { lr: 'auto', betas: 'auto', eps: 'auto', weight_decay: 'auto' } },
      scheduler: {
        type: 'WarmupDecayLR',
        params: { warmup_min_lr: 'auto', warmup_num_steps: 'auto', total_num_steps: 'auto' },
      },
    })
    expect(values).toEqual({ lr_scheduler: 'warmup_decay' })
    expect(notes).toBe('')
  })

  test('maps each scheduler', () => {
    const scheduler = (type: string, params: object) => translate({ scheduler: { type, params } })
    expect(scheduler('WarmupLR', { warmup_num_steps: 7, warmup_type: 'linear', warmup_max_lr: 1e-3 }).values).toEqual({
      lr_scheduler: 'constant',
      warmup_steps: 7,
      warmup_type: 'linear',
      learning_rate: 1e-3,
    })
    expect(
      translate({
        optimizer: { type: 'AdamW', params: { lr: 1e-3 } },
        scheduler: { type: 'WarmupCosineLR', params: { cos_min_ratio: 0.1, warmup_num_steps: 5 } },
      }).values,
    ).toEqual({ lr_scheduler: 'cosine', learning_rate: 1e-3, min_learning_rate: 1e-4, warmup_steps: 5 })
    expect(scheduler('WarmupLR', {}).notes).toMatch(/WarmupLR: the warm-up is one update earlier than in DeepSpeed/)
    expect(scheduler('WarmupDecayLR', {}).notes).toBe('')
    const cosine = { optimizer: { params: { lr: 1e-3 } }, scheduler: { type: 'WarmupCosineLR' } }
    expect(translate(cosine).values.min_learning_rate).toBeCloseTo(1e-7, 15)
    const oneCycle = scheduler('OneCycle', { cycle_min_lr: 1 })
    expect(oneCycle.values).toEqual({})
    expect(oneCycle.notes).toMatch(/scheduler OneCycle is not supported/)
  })

  test('accepts the peak twice, with precedence for the scheduler', () => {
    const { values, notes } = translate({
      optimizer: { type: 'AdamW', params: { lr: 1e-3 } },
      scheduler: { type: 'WarmupLR', params: { warmup_max_lr: 1e-4 } },
    })
    expect(values.learning_rate).toBe(1e-4)
    expect(notes).toMatch(/warmup_max_lr 0.0001 overrides/)
  })

  test('computes a missing batch size from micro-batch and accumulation', () => {
    const { values, notes } = translate({ train_micro_batch_size_per_gpu: 4, gradient_accumulation_steps: 8 })
    expect(values.batch_size).toBe(32)
    expect(notes).toMatch(/= 32$/)
  })

  test('selects the number format', () => {
    expect(translate({ bf16: { enabled: true } })).toMatchObject({ values: { dtype: 'bfloat16' }, notes: '' })
    expect(translate({ bf16: { enabled: false } }).values).toEqual({ dtype: 'float32' })
    expect(translate({ fp16: { enabled: false, loss_scale: 0 } })).toMatchObject({
      values: { dtype: 'float32' },
      notes: '',
    })
    expect(translate({ fp16: { enabled: true } }).notes).toMatch(/bfloat16/)
  })

  test('names each unused key', () => {
    const { notes } = translate({
      wall_clock_breakdown: false,
      optimizer: { type: 'Lamb', params: { max_coeff: 1, adam_w_mode: false } },
      bf16: { enabled: true, immediate_grad_update: true },
      activation_checkpointing: { partition_activations: true },
      zero_optimization: { stage: 2, offload_param: { device: 'cpu' } },
    })
    for (const name of [
      'wall_clock_breakdown',
      'optimizer Lamb',
      'optimizer.params.max_coeff',
      'adam_w_mode',
      'bf16.immediate_grad_update',
      'activation_checkpointing',
      'offload_param',
    ]) {
      expect(notes).toContain(name)
    }
  })

  test('maps CPU offloading of the optimizer and disabled prefetching', () => {
    const zero = (section: object) => translate({ zero_optimization: section })
    expect(zero({ offload_optimizer: { device: 'cpu', pin_memory: true } })).toMatchObject({
      values: { offload: 'optimizer' },
      notes: '',
    })
    expect(zero({ cpu_offload: true }).values).toEqual({ offload: 'optimizer' })
    expect(zero({ offload_optimizer: { device: 'none' } }).values).toEqual({ offload: 'none' })
    expect(zero({ offload_optimizer: { device: 'nvme', nvme_path: '/x' } })).toMatchObject({
      values: { offload: 'optimizer' },
      notes: expect.stringContaining('nvme is not supported'),
    })
    expect(zero({ stage3_prefetch_bucket_size: 0 })).toMatchObject({ values: { prefetch_blocks: 0 }, notes: '' })
    expect(zero({ stage3_prefetch_bucket_size: 5e7 }).notes).toContain('prefetch_blocks of them')
    expect(zero({ stage3_prefetch_bucket_size: 'auto' })).toMatchObject({ values: {}, notes: '' })
  })

  test('names a wrong value in the error', () => {
    expect(translate({ train_batch_size: '64' }).recipe).toThrow(/^ds\.json: batch_size is "64"/)
    expect(translate({ optimizer: { params: { betas: 0.9 } } }).values).toEqual({ adam_beta1: 0.9 })
  })

  test('rejects a file that is not a readable JSON object', () => {
    const path = join(directory, 'bad.json')
    expect(() => readDeepSpeedConfig(path)).toThrow(/cannot read the DeepSpeed file .*ENOENT/)
    writeFileSync(path, '{ "bf16": ')
    expect(() => readDeepSpeedConfig(path)).toThrow(/cannot read the DeepSpeed file .*bad\.json/)
    writeFileSync(path, '[]')
    expect(() => readDeepSpeedConfig(path)).toThrow(/is not a JSON object/)
  })
})
