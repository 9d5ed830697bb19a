import { parseConfig } from '#lib/model/config.js'
import { trainingFlops } from '#lib/train/flops.js'
import { type ModelName, models, type TrainChild, training } from './configs.js'
import { contest, ours, peers, type RunOptions } from './contest.js'
import { deviceName } from './device.js'
import type { Section } from './report.js'

/** Training steps on random tokens: forward, backward, clipping, AdamW. */
export async function trainBenchmark(
  name: ModelName,
  steps: number,
  options: RunOptions,
  progress: (what: string) => void,
): Promise<Section> {
  const { batch, length } = training
  const work: TrainChild = { config: models[name], batch, length, steps }
  const variant = (precision: string, attention: string, compile: boolean) => ({
    ...work,
    precision,
    attention,
    compile,
  })
  const contenders = [
    ours('train', work),
    ...peers(
      'train',
      // Float32 weights with gradients and moments, and autocast's additional copies, exceed 80 GB at 3B.
      deviceName === 'cuda'
        ? {
            'PyTorch, all bfloat16': variant('bfloat16', 'sdpa', false),
            'PyTorch, all bfloat16, compiled': variant('bfloat16', 'sdpa', true),
          }
        : {
            'PyTorch, bfloat16 autocast': variant('autocast', 'sdpa', false),
            'PyTorch, autocast, compiled': variant('autocast', 'sdpa', true),
          },
      options,
    ),
  ]
  const { scores, limits } = await contest(contenders, options, progress)

  const lengths = Array<number>(batch).fill(length)
  const flops = trainingFlops(parseConfig(models[name]), lengths, batch * (length - 1))
  return {
    title: `training, ${name} parameters, ${batch} × ${length} tokens a step, bfloat16`,
    unit: 'tokens/s',
    scores,
    limit: (limits.flops / flops) * batch * length,
    limitSays: `the model's operations at the ${Math.round(limits.flops / 1e9)} GFLOP/s of a matrix product`,
    limits,
  }
}
