/** What is known of the names of tensors in checkpoints of the LLaMA architecture. */

/** Within a block, in the order of Transformers' modules, which decides what goes into which shard. */
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

/** A buffer of old checkpoints that holds no parameters; models compute it. */
export function isRotaryBuffer(name: string): boolean {
  return name.endsWith('.rotary_emb.inv_freq')
}

/**
 * Names in the order in which the model's state dict has them. Those of other architectures stay in the order they come
 * in, which in a torch file is that of its state dict.
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

const PREFIX = 'model.'

/**
 * Whether every name has one leading `model.` too many, as in the checkpoints of OpenAlpaca, whose trainer kept the
 * model in a field of that name.
 */
export function hasExtraPrefix(names: Iterable<string>): boolean {
  const list = [...names]
  const inner = [`${PREFIX}${PREFIX}`, `${PREFIX}lm_head.`]
  return list.length > 0 && list.every((name) => inner.some((prefix) => name.startsWith(prefix)))
}

/** A function that gives the names that Hugging Face uses, for all of a checkpoint's names. */
export function huggingFaceNames(names: Iterable<string>): (name: string) => string {
  return hasExtraPrefix(names) ? (name) => name.slice(PREFIX.length) : (name) => name
}
