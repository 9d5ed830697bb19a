import { parseConfig } from '#lib/model/config.js'
import { parameterCount } from '#lib/model/layout.js'
import { decoding, type GenerateChild, models } from './configs.js'
import { contest, ours, peers, type RunOptions } from './contest.js'
import { deviceName } from './device.js'
import type { Section } from './report.js'

const bytesPerValue = 2

/** Greedy decoding of one sequence. */
export async function generateBenchmark(options: RunOptions, progress: (what: string) => void): Promise<Section> {
  const { model: name, prompt, tokens } = decoding
  const work: GenerateChild = { config: models[name], prompt, tokens }
  const contenders = [
    ours('generate', work),
    ...peers(
      'generate',
      {
        'Transformers, bfloat16': { ...work, compile: false },
        'Transformers, compiled, static cache': { ...work, compile: true },
      },
      options,
    ),
  ]
  const { scores, limits } = await contest(contenders, options, progress)

  const config = parseConfig(models[name])
  const cached = 2 * config.numHiddenLayers * config.numKeyValueHeads * config.headDim
  const positions = prompt + tokens / 2
  const bytes = bytesPerValue * (parameterCount(config) + cached * positions)
  return {
    title: `decoding, ${name} parameters, one sequence, ${tokens} tokens, bfloat16`,
    unit: 'tokens/s',
    scores,
    limit: limits.bandwidth / bytes,
    limitSays: `every weight and cached value once a token, at the ${(limits.bandwidth / 1e9).toFixed(1)} GB/s of a ${deviceName === 'cpu' ? 'read loop' : 'copy'}`,
    limits,
  }
}
