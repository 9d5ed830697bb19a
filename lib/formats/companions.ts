import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../errors.js'
import { isWeightFile } from './model-directory.js'
import { WEIGHT_FILES } from './shards.js'

/** A file to be written beside weights. */
export interface CompanionFile {
  readonly name: string
  readonly data: Buffer
}

/** Larger ones are not what belongs to a model's config or tokenizer. */
const MAX_BYTES = 200_000_000
const OTHER_WEIGHTS = /\.(gguf|h5|msgpack|ckpt|pt|pth|onnx|safetensors)$|^(training_args|optimizer|scheduler)\.bin$/

/** Whether a file holds a model's weights, in a form that we read or another, or the index of such files. */
export function isAnyWeightFile(name: string): boolean {
  return (
    isWeightFile(name, 'safetensors') ||
    isWeightFile(name, 'bin') ||
    Object.values(WEIGHT_FILES).some(({ index }) => name === index) ||
    OTHER_WEIGHTS.test(name)
  )
}

/**
 * The files of a model directory that go with its weights wherever they go: config, generation config, tokenizer,
 * README, licence. Weights of any form, what a trainer keeps for itself, directories and hidden files are left out.
 */
export async function readCompanions(directory: string): Promise<CompanionFile[]> {
  const companions: CompanionFile[] = []
  for (const name of (await readdir(directory)).sort()) {
    if (name.startsWith('.') || isAnyWeightFile(name) || ['manifest.json', 'latest'].includes(name)) continue
    const file = path.join(directory, name)
    const stats = await stat(file) // through symbolic links, which the Hub's cache consists of
    if (!stats.isFile() || stats.size > MAX_BYTES) continue
    companions.push({ name, data: await readFile(file) })
  }
  return companions
}

/** The files with config.json saying which type the weights have now; the other keys stay as they were. */
export function withDType(companions: readonly CompanionFile[], where: string, dtype: string): CompanionFile[] {
  return companions.map(({ name, data }) => {
    if (name !== 'config.json') return { name, data }
    let config: unknown
    try {
      config = JSON.parse(data.toString())
    } catch (cause) {
      throw new CheckpointError(`${path.join(where, name)} is not JSON; download or copy it again`, { cause })
    }
    const key = typeof config === 'object' && config !== null && 'dtype' in config ? 'dtype' : 'torch_dtype'
    return { name, data: Buffer.from(`${JSON.stringify({ ...(config as object), [key]: dtype }, null, 2)}\n`) }
  })
}
