import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { CheckpointError } from '../../lib/errors.js'
import { describeRenaming, huggingFaceNames } from '../../lib/formats/names.js'
import { fixtures } from './helpers.js'

/** Names that PyTorch and PEFT generate, by wrapper; see make.py there. */
const wrapped: Record<string, string[]> = JSON.parse(
  readFileSync(path.join(fixtures, 'weight_names/names.json'), 'utf8'),
)
const plain = wrapped.LlamaForCausalLM!
const merged = Object.entries(wrapped).filter(([, names]) => names.length <= plain.length)

describe('names of weights', () => {
  it.each(merged)('names of %s map to those of Transformers', (wrapper, names) => {
    const { names: given, count } = huggingFaceNames(names, 'x')
    const expected = wrapper === 'LlamaModel' ? plain.filter((name) => name !== 'lm_head.weight') : plain
    expect([...given.values()]).toEqual(expected)
    expect(count).toBe(names.filter((name) => !plain.includes(name)).length)
  })

  it.each(['PEFT', 'PEFT with modules to save'])('names of %s, an unmerged adapter, are rejected', (wrapper) => {
    const rename = () => huggingFaceNames(wrapped[wrapper]!, 'model.bin')
    expect(rename).toThrow(CheckpointError)
    expect(rename).toThrow(/^model\.bin holds a PEFT adapter .*merge_and_unload/)
  })

  it('names lose every wrapper in any nesting, also in the middle', () => {
    const nested = plain.map((name) => {
      const inner = name.replace('layers.0.', 'layers.0._fsdp_wrapped_module._checkpoint_wrapped_module._orig_mod.')
      return `_forward_module.module._orig_mod.model.${inner}`
    })
    const renaming = huggingFaceNames(nested, 'x')
    expect([...renaming.names.values()]).toEqual(plain)
    expect(describeRenaming(renaming)).toBe(
      '12 tensors are read under Hugging Face\'s names: without "_forward_module.", "module.", "_orig_mod.", "model.", ' +
        '"_fsdp_wrapped_module.", "_checkpoint_wrapped_module."',
    )
  })

  it("Transformers' names stay unchanged, like the buffers of old checkpoints and unknown tensors", () => {
    const names = [...plain, 'model.layers.0.self_attn.rotary_emb.inv_freq', 'score.weight', 'v_head.summary.weight']
    const renaming = huggingFaceNames(names, 'x')
    expect([...renaming.names.values()]).toEqual(names)
    expect(describeRenaming(renaming)).toBeUndefined()
  })

  it('names of other architectures lose only prefixes that all of them share', () => {
    const rename = (names: string[]) => [...huggingFaceNames(names, 'x').names.values()]
    const gpt2 = ['transformer.wte.weight', 'transformer.h.0.attn.c_attn.weight']
    expect(rename(gpt2)).toEqual(gpt2)
    expect(rename(gpt2.map((name) => `module._orig_mod.${name}`))).toEqual(gpt2)
    const ofModule = ['module.a.weight', 'b.module.weight'] // it may belong to the model
    expect(rename(ofModule)).toEqual(ofModule)
    const meta = ['tok_embeddings.weight', 'layers.0.attention.wq.weight', 'norm.weight', 'output.weight']
    expect(rename(meta)).toEqual(meta)
  })

  it('two names for one tensor are rejected', () => {
    const twice = [...plain, ...plain.map((name) => `_orig_mod.${name}`)]
    expect(() => huggingFaceNames(twice, 'x')).toThrow(
      /^x holds model\.embed_tokens\.weight twice, as model\.embed_tokens\.weight and as _orig_mod\.model/,
    )
  })
})
