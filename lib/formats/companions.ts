import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../errors.js'
import { isLfsPointer, lfsAdvice, mayBeLfsPointer } from '../io/lfs.js'
import { parseJson } from '../json.js'
import { isWeightFile, WEIGHT_FILES } from './shards.js'

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
    const data = await readFile(file)
    if (mayBeLfsPointer(data.length) && isLfsPointer(data)) throw new CheckpointError(lfsAdvice(file))
    companions.push({ name, data })
  }
  return companions
}

/** What config.json is to say of the weights that are written next to it. */
export interface WrittenForm {
  /** Their type, where it has changed. */
  readonly dtype?: string
  /** Whether all of them are plain numbers of floating point, which no `quantization_config` describes. */
  readonly plain: boolean
  /** Whether they hold an output projection of their own in spite of `tie_word_embeddings`. */
  readonly untied: boolean
}

/** Keys that describe how weights are quantized. */
export const QUANTIZATION_KEYS = ['quantization_config', 'compression_config']

/** config.json as parsed; undefined where there is none. @throws CheckpointError when it is not a JSON object */
export function configOf(companions: readonly CompanionFile[], where: string): Record<string, unknown> | undefined {
  const file = companions.find(({ name }) => name === 'config.json')
  if (!file) return undefined
  let config: unknown
  try {
    config = parseJson(file.data)
  } catch (cause) {
    throw new CheckpointError(`${path.join(where, file.name)} is not JSON; download or copy it again`, { cause })
  }
  if (typeof config === 'object' && config !== null && !Array.isArray(config)) return config as Record<string, unknown>
  throw new CheckpointError(`${path.join(where, file.name)} is not a JSON object; download or copy it again`)
}

/** The config.json to write; the keys that say nothing of the weights stay as they were. */
export function configFor(config: Record<string, unknown>, { dtype, plain, untied }: WrittenForm) {
  const kept = Object.entries(config).filter(([key]) => !(plain && QUANTIZATION_KEYS.includes(key)))
  return {
    ...Object.fromEntries(kept),
    ...(dtype !== undefined && { ['dtype' in config ? 'dtype' : 'torch_dtype']: dtype }),
    ...(untied && { tie_word_embeddings: false }),
  }
}

/** The files with a config.json that fits what is written. Its bytes stay where nothing is to change. */
export function companionsFor(companions: readonly CompanionFile[], where: string, form: WrittenForm): CompanionFile[] {
  return companions.map(({ name, data }) => {
    if (name !== 'config.json') return { name, data }
    const config = configOf(companions, where)!
    const json = JSON.stringify(configFor(config, form), null, 2)
    return { name, data: json === JSON.stringify(config, null, 2) ? data : Buffer.from(`${json}\n`) }
  })
}
