import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../errors.js'
import { isLfsPointer, lfsAdvice, mayBeLfsPointer } from '../io/lfs.js'
import { parseJson } from '../json.js'
import { isWeightFile, WEIGHT_FILES } from './shards.js'

/** A file to be written with the weights. */
export interface CompanionFile {
  readonly name: string
  readonly data: Buffer
}

/** Larger files do not belong to a model's config or tokenizer. */
const MAX_BYTES = 200_000_000
const OTHER_WEIGHTS = /\.(gguf|h5|msgpack|ckpt|pt|pth|onnx|safetensors)$|^(training_args|optimizer|scheduler)\.bin$/

/** Whether a file holds a model's weights, in any format, or is the index of such files. */
export function isAnyWeightFile(name: string): boolean {
  return (
    isWeightFile(name, 'safetensors') ||
    isWeightFile(name, 'bin') ||
    Object.values(WEIGHT_FILES).some(({ index }) => name === index) ||
    OTHER_WEIGHTS.test(name)
  )
}

/**
 * The files of a model directory that accompany its weights: config, generation config, tokenizer, README, license.
 * Weights of any format, trainer state, directories and hidden files are skipped.
 */
export async function readCompanions(directory: string): Promise<CompanionFile[]> {
  const companions: CompanionFile[] = []
  for (const name of (await readdir(directory)).sort()) {
    if (name.startsWith('.') || isAnyWeightFile(name) || ['manifest.json', 'latest'].includes(name)) continue
    const file = path.join(directory, name)
    const stats = await stat(file) // follows symbolic links, which the Hub's cache consists of
    if (!stats.isFile() || stats.size > MAX_BYTES) continue
    const data = await readFile(file)
    if (mayBeLfsPointer(data.length) && isLfsPointer(data)) throw new CheckpointError(lfsAdvice(file))
    companions.push({ name, data })
  }
  return companions
}

/** Facts about written weights that config.json must reflect. */
export interface WrittenForm {
  /** Their type, if it has changed. */
  readonly dtype?: string
  /** Whether all of them are plain floating-point numbers, to which no `quantization_config` applies. */
  readonly plain: boolean
  /** Whether they have a separate output projection in spite of `tie_word_embeddings`. */
  readonly untied: boolean
}

/** Keys that describe how weights are quantized. */
export const QUANTIZATION_KEYS = ['quantization_config', 'compression_config']

/**
 * The parsed config.json; undefined if there is none.
 * @throws {CheckpointError} for one that is not a JSON object
 */
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

/** The config.json to write; keys that do not concern the weights stay unchanged. */
export function configFor(config: Record<string, unknown>, { dtype, plain, untied }: WrittenForm) {
  const kept = Object.entries(config).filter(([key]) => !(plain && QUANTIZATION_KEYS.includes(key)))
  return {
    ...Object.fromEntries(kept),
    ...(dtype !== undefined && { ['dtype' in config ? 'dtype' : 'torch_dtype']: dtype }),
    ...(untied && { tie_word_embeddings: false }),
  }
}

/** The files with a config.json that matches the written weights. Its bytes stay unchanged if nothing differs. */
export function companionsFor(companions: readonly CompanionFile[], where: string, form: WrittenForm): CompanionFile[] {
  return companions.map(({ name, data }) => {
    if (name !== 'config.json') return { name, data }
    const config = configOf(companions, where)!
    const json = JSON.stringify(configFor(config, form), null, 2)
    return { name, data: json === JSON.stringify(config, null, 2) ? data : Buffer.from(`${json}\n`) }
  })
}
