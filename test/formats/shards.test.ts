import { describe, expect, it } from 'vitest'
import { parseSize, planShards } from '../../lib/formats/shards.js'

/** Names and element counts of a LLaMA, in the order of Transformers' state dict. */
function llama(hidden: number, intermediate: number, layers: number, vocabulary = 32000) {
  const square = hidden * hidden
  const wide = hidden * intermediate
  const block: [string, number][] = [
    ...['q', 'k', 'v', 'o'].map((name): [string, number] => [`self_attn.${name}_proj`, square]),
    ...['gate', 'up', 'down'].map((name): [string, number] => [`mlp.${name}_proj`, wide]),
    ['input_layernorm', hidden],
    ['post_attention_layernorm', hidden],
  ]
  const blocks = Array.from({ length: layers }, (_, i) =>
    block.map(([name, count]): [string, number] => [`model.layers.${i}.${name}.weight`, count]),
  )
  return [
    ['model.embed_tokens.weight', vocabulary * hidden] as const,
    ...blocks.flat(),
    ['model.norm.weight', hidden] as const,
    ['lm_head.weight', vocabulary * hidden] as const,
  ]
}

const sized = (model: ReturnType<typeof llama>, elementBytes: number) =>
  model.map(([name, count]) => ({ name, bytes: count * elementBytes }))
const small = (...bytes: number[]) => bytes.map((size, i) => ({ name: 'abcdefgh'[i]!, bytes: size }))
const groups = (tensors: { name: string; bytes: number }[], limit: number | string) =>
  planShards(tensors, limit).files.map(({ tensors }) => tensors.join(''))

describe('planning shards', () => {
  it.each<[string, ReturnType<typeof llama>, number, string[]]>([
    ['3B in float16', llama(3200, 8640, 26), 2, ['embed_tokens', 'layers.19.mlp.gate_proj']],
    [
      '3B in float32',
      llama(3200, 8640, 26),
      4,
      ['embed_tokens', 'layers.9.self_attn.o_proj', 'layers.19.mlp.gate_proj'],
    ],
    ['7B in float16', llama(4096, 11008, 32), 2, ['embed_tokens', 'layers.11.mlp.up_proj', 'layers.23.mlp.down_proj']],
    [
      '7B in float32',
      llama(4096, 11008, 32),
      4,
      ['embed_tokens', ...[5, 11, 17, 23, 29].map((layer) => `layers.${layer}.mlp.gate_proj`)],
    ],
  ])('begins the shards of %s at the same tensors as huggingface_hub', (_, model, elementBytes, first) => {
    const plan = planShards(sized(model, elementBytes))
    expect(plan.files.map(({ tensors }) => tensors[0])).toEqual(first.map((name) => `model.${name}.weight`))
    expect(plan.files.map(({ name }) => name)).toEqual(
      first.map((_, i) => `model-0000${i + 1}-of-0000${first.length}.safetensors`),
    )
    expect(plan.files.flatMap(({ tensors }) => tensors)).toEqual(model.map(([name]) => name))
    expect(plan.totalSize).toBe((model[0]![1] === 32000 * 3200 ? 3_426_473_600 : 6_738_415_616) * elementBytes)
  })

  it.each<[string, number[], string[]]>([
    ['fills a shard to the last byte', [6, 4, 10, 1], ['ab', 'c', 'd']],
    ['is greedy, and does not look for a better fit', [6, 6, 2, 6, 2, 2], ['a', 'bc', 'def']],
    ['gives a tensor that is too large a separate shard, before the one being filled', [3, 11, 3], ['b', 'ac']],
    ['starts with a tensor that is too large', [11, 3], ['a', 'b']],
    ['keeps tensors without elements', [0, 10, 0], ['abc']],
  ])('planShards %s', (_, sizes, expected) => {
    expect(groups(small(...sizes), 10)).toEqual(expected)
  })

  it('writes a single file without an index if everything fits, even for no tensors', () => {
    const plan = planShards(small(1, 2), 10, 'bin')
    expect(plan.files).toEqual([{ name: 'pytorch_model.bin', tensors: ['a', 'b'], bytes: 3 }])
    expect(plan.index).toBeUndefined()
    expect(planShards([], 10).files).toEqual([{ name: 'model.safetensors', tensors: [], bytes: 0 }])
  })

  it('writes the index with sorted keys and an indentation of two spaces', () => {
    const plan = planShards(
      [
        { name: 'b', bytes: 9 },
        { name: '10', bytes: 9 },
        { name: '9"', bytes: 1 },
      ],
      10,
      'bin',
    )
    expect(plan.index).toBe(
      '{\n  "metadata": {\n    "total_size": 19\n  },\n  "weight_map": {\n' +
        '    "10": "pytorch_model-00002-of-00002.bin",\n' +
        '    "9\\"": "pytorch_model-00002-of-00002.bin",\n' +
        '    "b": "pytorch_model-00001-of-00002.bin"\n  }\n}\n',
    )
  })
})

describe('sizes', () => {
  it.each([
    ['5GB', 5e9],
    ['300MB', 3e8],
    ['1.5 gb', 1.5e9],
    ['2GiB', 2 ** 31],
    ['10KB', 1e4],
    ['4096', 4096],
    [4096, 4096],
    ['512 MiB', 2 ** 29],
  ])('parses the size %s', (size, bytes) => {
    expect(parseSize(size)).toBe(bytes)
  })

  it.each(['', '5XB', '-1GB', 'GB', '0', '1e9GB', 'Infinity', '0.1'])('rejects the size "%s"', (size) => {
    expect(() => parseSize(size)).toThrow(RangeError)
  })
})
