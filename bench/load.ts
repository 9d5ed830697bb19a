import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { LlamaForCausalLM } from 'openalpaca-native'
import { type LoadChild, loading, models } from './configs.js'
import { contest, ours, peers, type RunOptions } from './contest.js'
import { openBenchDevice } from './device.js'
import type { Section } from './report.js'

/** Reads a safetensors checkpoint from the page cache, so that the reader and not the disk is measured. */
export async function loadBenchmark(options: RunOptions, progress: (what: string) => void): Promise<Section> {
  const name = loading
  const directory = await mkdtemp(path.join(os.tmpdir(), 'openalpaca-bench-'))
  try {
    using model = LlamaForCausalLM.fromConfig(models[name], { seed: 0, device: openBenchDevice(), dtype: 'bfloat16' })
    await model.savePretrained(directory)
    const work: LoadChild = { model: directory }
    const contenders = [
      ours('load', work),
      { ...ours('read', work), label: 'reading the file into new memory' },
      ...peers('load', { 'Transformers, which maps the file': work }, options),
    ]
    const { scores, limits } = await contest(contenders, options, progress)
    const plain = scores.splice(1, 1)[0]
    return {
      title: `loading, ${name} parameters, safetensors in bfloat16`,
      unit: 'GB/s',
      scores: scores.map((score) => ({
        ...score,
        rate: score.rate / 1e9,
        rates: score.rates.map((rate) => rate / 1e9),
      })),
      limit: plain.rate / 1e9,
      limitSays: 'read(2) of the same file into new memory',
      limits,
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}
