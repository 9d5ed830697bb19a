/** Tensor names in checkpoints of the LLaMA architecture. */
import { CheckpointError } from '../errors.js'
import { forError } from '../format.js'
import type { TensorInfo, WeightSource } from '../io/weight-source.js'

/** Within a block, in the order of Transformers' modules, which determines the contents of each shard. */
const BLOCK = [
  'self_attn.q_proj.weight',
  'self_attn.k_proj.weight',
  'self_attn.v_proj.weight',
  'self_attn.o_proj.weight',
  'self_attn.rotary_emb.inv_freq',
  'mlp.gate_proj.weight',
  'mlp.up_proj.weight',
  'mlp.down_proj.weight',
  'input_layernorm.weight',
  'post_attention_layernorm.weight',
]
const AROUND = ['model.embed_tokens.weight', 'model.layers', 'model.norm.weight', 'lm_head.weight']

/** A buffer of old checkpoints without parameters; models compute it. */
export function isRotaryBuffer(name: string): boolean {
  return name.endsWith('.rotary_emb.inv_freq')
}

/**
 * Sorts names in state dict order. Names of other architectures keep their order, which in a torch file is that of its
 * state dict.
 */
export function sortAsStateDict(names: readonly string[]): string[] {
  const places = new Map(names.map((name) => [name, placeOf(name)]))
  if ([...places.values()].includes(undefined)) return [...names]
  return [...names].sort((a, b) => {
    const [placeA, placeB] = [places.get(a)!, places.get(b)!]
    const at = placeA.findIndex((value, i) => value !== placeB[i])
    return at < 0 ? 0 : placeA[at]! - placeB[at]!
  })
}

function placeOf(name: string): [section: number, layer: number, inBlock: number] | undefined {
  const [, layer, rest] = /^model\.layers\.(\d+)\.(.+)$/.exec(name) ?? []
  const section = AROUND.indexOf(layer === undefined ? name : 'model.layers')
  const inBlock = rest === undefined ? 0 : BLOCK.indexOf(rest)
  return section < 0 || inBlock < 0 ? undefined : [section, Number(layer ?? 0), inBlock]
}

/** Name segments that wrappers insert; no other module has these names. */
const WRAPPERS: ReadonlySet<string> = new Set([
  '_orig_mod', // torch.compile
  '_fsdp_wrapped_module', // FullyShardedDataParallel
  '_fpw_module', // the same in older versions
  '_checkpoint_wrapped_module', // activation checkpointing
  '_forward_module', // Lightning Fabric
])
/** Wrapper segments that other architectures may use: removed only if the rest is a LLaMA name. */
const LLAMA_WRAPPERS: ReadonlySet<string> = new Set([
  'module', // DistributedDataParallel, DataParallel, DeepSpeed
  'base_model', // PEFT
  'base_layer', // PEFT, around the layers that an adapter was merged into
])
const OF_BASE_MODEL = ['embed_tokens', 'layers', 'norm', 'rotary_emb']
const LLAMA = /^model\.(embed_tokens\.weight$|layers\.\d+\.(self_attn|mlp|input_layernorm|post_attention_layernorm)\.)/
const UNMERGED = /(^|\.)(lora_|ia3_l|oft_|boft_|hada_|vera_lambda_|modules_to_save\.|original_module\.)/

/** The differences between a checkpoint's names and Hugging Face's. */
export interface Renaming {
  /** Hugging Face's name of each stored name. */
  readonly names: ReadonlyMap<string, string>
  /** Number of names that differ. */
  readonly count: number
  /** Removed segments with their dot, such as `module.`. */
  readonly removed: readonly string[]
  /** Whether the leading `model.` was missing, as in the state dict of a bare LlamaModel. */
  readonly added: boolean
}

/**
 * Maps stored names to Transformers' names: removes the segments left by torch.compile, DistributedDataParallel, FSDP,
 * activation checkpointing, PEFT, and OpenAlpaca's trainer, anywhere and in any nesting, and adds or removes a leading
 * `model.`. Names of other architectures keep segments that only LLaMA lacks.
 * @param where names the checkpoint in errors
 * @throws {CheckpointError} for two names of the same tensor, or unmerged adapters
 */
export function huggingFaceNames(stored: Iterable<string>, where: string): Renaming {
  const list = [...stored]
  const unmerged = list.find((name) => UNMERGED.test(name))
  if (unmerged !== undefined) {
    throw new CheckpointError(
      `${where} holds a PEFT adapter next to its model, not merged into it (${forError(unmerged)}): in Python, save ` +
        'model.merge_and_unload().save_pretrained(DIR)',
    )
  }
  const llama = list.map(llamaName)
  const names = llama.some((name) => LLAMA.test(name)) ? llama : foreignNames(list)
  const owners = new Map<string, string>()
  names.forEach((name, i) => {
    const other = owners.get(name)
    if (other !== undefined) {
      throw new CheckpointError(
        `${where} holds ${forError(name)} twice, as ${forError(other)} and as ${forError(list[i]!)}: save the model alone`,
      )
    }
    owners.set(name, list[i]!)
  })
  const changed = list.map((name, i) => [name.split('.'), names[i]!.split('.')] as const)
  const removed = new Set(changed.flatMap(([before, after]) => surplus(before, after)))
  return {
    names: new Map(list.map((name, i) => [name, names[i]!])),
    count: list.filter((name, i) => name !== names[i]).length,
    removed: [...removed].map((segment) => `${segment}.`),
    added: changed.some(([before, after]) => surplus(after, before).includes('model')),
  }
}

/** A sentence about a renaming, for the user; undefined if no name has changed. */
export function describeRenaming({ count, removed, added }: Renaming): string | undefined {
  if (count === 0) return undefined
  const parts = [
    ...(removed.length > 0 ? [`without ${removed.map((segment) => `"${segment}"`).join(', ')}`] : []),
    ...(added ? ['with the missing "model."'] : []),
  ]
  return `${count} ${count === 1 ? 'tensor is' : 'tensors are'} read under Hugging Face's names: ${parts.join(' and ')}`
}

function llamaName(name: string): string {
  const segments = name.split('.').filter((segment) => !WRAPPERS.has(segment) && !LLAMA_WRAPPERS.has(segment))
  const start = segments.findIndex((segment) => segment !== 'model')
  const core = start < 0 ? segments : segments.slice(start)
  if (core[0] === 'lm_head') return core.join('.')
  return (OF_BASE_MODEL.includes(core[0]!) ? ['model', ...core] : segments).join('.')
}

/** Names without the segments common to all of them. */
function foreignNames(names: readonly string[]): string[] {
  const bare = names.map((name) => name.split('.').filter((segment) => !WRAPPERS.has(segment)))
  const strip = (hasIt: (segments: string[]) => boolean): boolean => {
    if (bare.length === 0 || !bare.every(hasIt)) return false
    for (const segments of bare) segments.shift()
    return true
  }
  while (strip((segments) => segments[0] === 'module' && segments.length > 1));
  while (strip(([first, second]) => first === 'model' && (second === 'model' || second === 'lm_head')));
  return bare.map((segments) => segments.join('.'))
}

/** Segments that occur more often in `before` than in `after`. */
function surplus(before: readonly string[], after: readonly string[]): string[] {
  const rest = [...after]
  return before.filter((segment) => {
    const at = rest.indexOf(segment)
    if (at < 0) return true
    rest.splice(at, 1)
    return false
  })
}

/** A source under other names. Closing it closes the source. */
export function renamedSource(source: WeightSource, names: ReadonlyMap<string, string>): WeightSource {
  const stored = new Map([...names].map(([name, given]) => [given, name]))
  const tensors = [...source.tensors.values()].map(({ name, sameAs, ...info }): [string, TensorInfo] => {
    const given = names.get(name)!
    return [given, { ...info, name: given, ...(sameAs !== undefined && { sameAs: names.get(sameAs)! }) }]
  })
  return {
    tensors: new Map(tensors),
    read: (name, byteOffset, into) => source.read(stored.get(name) ?? name, byteOffset, into),
    close: () => source.close(),
  }
}
