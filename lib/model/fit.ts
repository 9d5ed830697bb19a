import { CheckpointError } from '../errors.js'
import { forError } from '../format.js'
import { unusableType } from '../formats/foreign.js'
import { isRotaryBuffer } from '../formats/names.js'
import type { LlamaConfig } from './config.js'
import { layoutOf } from './layout.js'

interface NamedShape {
  readonly name: string
  readonly shape: readonly number[]
}

/** Name patterns that show how a file was made, with advice. */
const ORIGINS: readonly [RegExp, string][] = [
  [
    /tok_embeddings|attention\.w[qkvo]\.|feed_forward\.w[123]\./,
    "these are the names of Meta's own files: convert them with convert_llama_weights_to_hf.py of Transformers",
  ],
  [
    /flat_param/,
    'these are flat parameters of FSDP: save a full state dict (StateDictType.FULL_STATE_DICT) where the model was trained',
  ],
  [/^(blk\.\d|token_embd|output_norm)/, 'these are names of GGUF: take the safetensors of the model'],
  [
    /\.(qweight|qzeros|g_idx|absmax|quant_map|quant_state|SCB|weight_scale|weight_packed)\b/,
    'these are quantized weights: load the model with Transformers, and save model.dequantize()',
  ],
]

/** Mismatches between tensors and a config's model, one sentence each; empty if they fit. */
export function misfits(config: LlamaConfig, tensors: Iterable<NamedShape>): string[] {
  const shapes = new Map([...tensors].map(({ name, shape }) => [name, shape]))
  const wanted = new Map(layoutOf(config).units.flatMap((unit) => unit.parameters.map((one) => [one.name, one.shape])))
  const isTied = (name: string) => config.tieWordEmbeddings && name === 'lm_head.weight'
  const missing = [...wanted.keys()].filter((name) => !shapes.has(name))
  const unknown = [...shapes.keys()].filter((name) => !wanted.has(name) && !isTied(name) && !isRotaryBuffer(name))
  if (missing.length > 0 && unknown.length > 0) return [strangeNames(missing, unknown)]

  const problems: string[] = []
  for (const [name, shape] of wanted) {
    const actual = shapes.get(name)
    if (!actual) problems.push(`the weights have no tensor ${name}, which config.json asks for`)
    else if (actual.join() !== shape.join()) {
      problems.push(`${name} has shape [${actual.join(', ')}], but config.json asks for [${shape.join(', ')}]`)
    }
  }
  if (missing.join() === 'lm_head.weight' && problems.length === 1) {
    problems[0] += ': save LlamaForCausalLM, not LlamaModel; or set tie_word_embeddings if the embedding is the output'
  }
  problems.push(...unknown.map((name) => `the architecture that config.json describes has no tensor ${forError(name)}`))
  return problems
}

function strangeNames(missing: readonly string[], unknown: readonly string[]): string {
  const two = (names: readonly string[]) => names.slice(0, 2).map(forError).join(' and ')
  const [, advice] = ORIGINS.find(([pattern]) => unknown.some((name) => pattern.test(name))) ?? []
  const names = `expected tensors such as ${two(missing)}, got ${two(unknown)}`
  return `${names}: ${advice ?? "save the model's state dict under the names of Transformers"}`
}

/** @throws {CheckpointError} for tensors that are missing, unknown, or of the wrong shape */
export function checkFit(config: LlamaConfig, tensors: Iterable<NamedShape>, where: string): void {
  const [first, ...others] = misfits(config, tensors)
  if (first === undefined) return
  throw new CheckpointError(`${where}: ${first}${others.length > 0 ? `, and ${others.length} more` : ''}`)
}

/** Parameter types that no device computes in: one sentence per type, with advice. */
export function unusableTypes(
  config: LlamaConfig,
  tensors: Iterable<{ readonly name: string; readonly dtype: string }>,
  where: string,
): string[] {
  const wanted = new Set(layoutOf(config).units.flatMap((unit) => unit.parameters.map(({ name }) => name)))
  const namesOf = new Map<string, string[]>()
  for (const { name, dtype } of tensors) {
    if (!wanted.has(name)) continue
    const names = namesOf.get(dtype) ?? []
    names.push(name)
    namesOf.set(dtype, names)
  }
  return [...namesOf].flatMap(([dtype, [first, ...others]]) => {
    const unusable = unusableType(dtype, where)
    return unusable ? [`${first}${others.length > 0 ? `, as ${others.length} others,` : ''} ${unusable}`] : []
  })
}
