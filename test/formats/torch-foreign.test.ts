/** Torch files that PyTorch, Lightning, and torch.distributed have written: test/fixtures/torch_foreign/make.py. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { openModelWeights, openWeightFile } from '../../lib/formats/model-files.js'
import { openSafetensors } from '../../lib/formats/safetensors/safetensors.js'
import { inspect } from '../../lib/tools/inspect.js'
import { zeroToFp32 } from '../../lib/tools/zero-to-fp32.js'
import { contentsOf, fixtures, rejection, temporaryDirectory } from './helpers.js'

const foreign = path.join(fixtures, 'torch_foreign')
const root = temporaryDirectory()

async function read(name: string) {
  const source = await openWeightFile(path.join(foreign, name))
  const contents = await contentsOf(source)
  await source.close()
  return contents
}

describe('torch files of other programs', () => {
  it.each([
    'attributes.bin',
    'parameters.bin',
    ...[2, 3, 4, 5].map((protocol) => `trainer_protocol${protocol}.bin`),
    'trainer_legacy.bin',
  ])('reads torch files and skips objects of any class: %s', async (name) => {
    expect(await read(name)).toEqual(await read('expected.safetensors'))
  })

  it('reads the state dict of a Lightning checkpoint', async () => {
    expect(await read('lightning.ckpt')).toEqual(await read('lightning.expected.safetensors'))
  })

  it('reads tensors of every type, like safetensors files', async () => {
    const types = await read('types.safetensors')
    expect(Object.keys(types)).toHaveLength(18)
    const { odd, empty, 'ünïcode "name"': named, ...plain } = types
    expect(await read('types.bin')).toEqual(plain)
    expect(await read('types_legacy.bin')).toEqual(plain)
    expect(plain.float8_e4m3fn).toEqual({ dtype: 'float8_e4m3fn', shape: [2, 3], bytes: 'c0b800384044' })
    expect([odd!.bytes, empty!.shape, named!.bytes]).toEqual(['0001020304', [0, 3], '0000803f'])
  })

  it('reads the metadata of a safetensors file', async () => {
    const source = await openSafetensors(path.join(foreign, 'types.safetensors'))
    expect([...source.metadata].sort()).toEqual([
      ['format', 'pt'],
      ['json', '{"a": [1]}'],
      ['note', 'line\nbreak \u2028'],
    ])
    await source.close()
  })

  it.each([
    ['two_models.bin', /several dictionaries of tensors \(model, ema\): save .*\['model'\], 'pytorch_model\.bin'\)"$/],
    [
      'module.bin',
      /is a pickled module of class torch\.nn\.modules\.linear\.Linear.*torch\.load\('.*module\.bin', weights_only=False\)\.state_dict\(\)/,
    ],
    ['module_in_dictionary.bin', /is a pickled module of class torch\.nn\.modules\.linear\.Linear/],
    ['torchscript.bin', /is a TorchScript program.*torch\.jit\.load\('.*torchscript\.bin'\)\.state_dict\(\)/],
    ['dtensor.bin', /a\.weight is a DTensor, .*full_state_dict=True/],
    ['sparse.bin', /a is a sparse tensor.*v\.to_dense\(\)/],
    ['quantized.bin', /a is a tensor quantized by torch.*v\.dequantize\(\)/],
    ['meta.bin', /a is a tensor on the meta device, which has no values/],
    ['complex.bin', /a is a tensor of type ComplexFloat, which is not read/],
    ['distributed/__0_0.distcp', /distributed is a distributed checkpoint of PyTorch.*dcp_to_torch/],
  ])('identifies unsupported torch files: %s', async (name, message) => {
    const file = path.join(foreign, name)
    expect((await rejection(openWeightFile(file))).message).toMatch(message)
    const { whole, problems } = await inspect(file)
    expect([whole, problems]).toEqual([false, [expect.stringMatching(message)]])
  })

  it('every command identifies a distributed checkpoint', async () => {
    const below = path.join(root, 'fsdp')
    cpSync(path.join(foreign, 'distributed'), path.join(below, 'pytorch_model_fsdp_0'), { recursive: true })
    for (const directory of [path.join(foreign, 'distributed'), below]) {
      const where = directory === below ? path.join(below, 'pytorch_model_fsdp_0') : directory
      const errors = await Promise.all(
        [
          inspect(directory),
          openModelWeights(directory),
          zeroToFp32({ checkpoint: directory, output: path.join(root, 'a.bin') }),
        ].map((command) => rejection(command)),
      )
      for (const { message } of errors) expect(message).toContain(`dcp_to_torch ${where} pytorch_model.bin`)
    }
  })

  it('rejects one part of a DeepSpeed stage 3 checkpoint, and reads the module of a stage 2 one', async () => {
    const part = (name: string) => path.join(fixtures, 'deepspeed', name)
    for (const name of [
      'stage3_bf16/global_step2/zero_pp_rank_1_mp_rank_00_model_states.pt',
      'stage3_bf16/global_step2/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt',
    ]) {
      expect((await rejection(openWeightFile(part(name)))).message).toMatch(/one part of a DeepSpeed checkpoint/)
    }
    const source = await openWeightFile(part('stage2_fp16/global_step2/mp_rank_00_model_states.pt'))
    expect(source.tensors.size).toBe(15)
    await source.close()
  })
})

describe('weights of unsupported types', () => {
  it.each([
    ['int8', /q_proj\.weight.* is int8, a type of quantized weights: .*dequantize\(\)/],
    ['float8_e4m3fn', /q_proj\.weight.* is float8_e4m3fn, a type of quantized weights/],
    ['float64', /q_proj\.weight.* is float64.*make-shards --model_path .* --output NEW --dtype float32/],
  ])('inspect identifies unsupported weights: %s', async (dtype, message) => {
    const directory = path.join(root, dtype)
    mkdirSync(directory)
    cpSync(path.join(fixtures, 'gqa'), directory, { recursive: true })
    const file = path.join(directory, 'model.safetensors')
    writeFileSync(file, retyped(readFileSync(file), dtype))
    const { whole, problems } = await inspect(directory)
    expect([whole, problems]).toEqual([false, [expect.stringMatching(message)]])
  })
})

/** A safetensors file whose query projections have another type, with the same number of elements. */
function retyped(file: Buffer, dtype: string): Buffer {
  const [code, size] = { int8: ['I8', 1], float8_e4m3fn: ['F8_E4M3', 1], float64: ['F64', 8] }[dtype] as [
    string,
    number,
  ]
  const length = Number(file.readBigUInt64LE())
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  const parts: Buffer[] = []
  let at = 0
  const entries = Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, entry]) => {
      const changed = name.includes('q_proj')
      const bytes = changed
        ? Buffer.alloc(entry.shape.reduce((count, extent) => count * extent, 1) * size)
        : file.subarray(8 + length + entry.data_offsets[0], 8 + length + entry.data_offsets[1])
      parts.push(bytes)
      const begin = at
      at += bytes.length
      return [name, { dtype: changed ? code : entry.dtype, shape: entry.shape, data_offsets: [begin, at] }] as const
    })
  const text = Buffer.from(JSON.stringify(Object.fromEntries(entries)))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([prefix, text, ...parts])
}
