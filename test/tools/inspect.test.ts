import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { inspect } from '../../lib/tools/inspect.js'
import { makeShards } from '../../lib/tools/make-shards.js'
import { fixtures, rejection, temporaryDirectory } from '../formats/helpers.js'

const root = temporaryDirectory()
const fresh = () => mkdtempSync(path.join(root, 'case-'))
const d100 = path.join(fixtures, 'd100')

/** A copy of d100 in torch shards. */
async function sharded(): Promise<string> {
  const { output } = await makeShards({
    modelPath: d100,
    output: path.join(fresh(), 'model'),
    format: 'bin',
    maxShardSize: '600KB',
  })
  return output
}

describe('inspect', () => {
  it('inspect describes a model directory', async () => {
    const inspection = await inspect(d100)
    expect(inspection).toMatchObject({
      kind: 'model directory',
      files: [{ name: 'model.safetensors' }],
      config: { hidden_size: 200, num_hidden_layers: 2 },
      tokenizer: { file: 'tokenizer.model' },
      checksums: null,
      problems: [],
      whole: true,
    })
    expect(inspection.tensors).toHaveLength(2 * 9 + 3)
    expect(inspection.tensors.find(({ name }) => name === 'model.norm.weight')).toEqual({
      name: 'model.norm.weight',
      dtype: 'float32',
      shape: [200],
      bytes: 800,
    })
    expect(inspection.dtypes).toEqual({ float32: inspection.parameters })
    expect(inspection.bytes).toBe(4 * inspection.parameters)
  })

  it('inspect counts tied tensors once', async () => {
    const { tensors, parameters } = await inspect(path.join(fixtures, 'torch_bin/module_f16.bin'))
    expect(tensors.find(({ sameAs }) => sameAs)).toMatchObject({ name: 'lm_head.weight' })
    const { parameters: whole } = await inspect(path.join(fixtures, 'gqa'))
    expect(parameters).toBe(whole)
  })

  it('inspect describes DeepSpeed’s checkpoints', async () => {
    const trained = 13 * 7 + 2 * (2 * 63 + 7 + 7) + 1
    const buffers = 2 * (3 + 5)
    for (const [name, training] of [
      ['stage3_bf16', { form: 'ZeRO stage 3', ranks: 3 }],
      ['stage2_fp16', { form: 'ZeRO stage 2', ranks: 3 }],
      ['stage1_float32_gradients', { form: 'ZeRO stage 1 or 2', ranks: 2 }],
      ['stage2_fp16_universal', { form: 'universal', ranks: 1 }],
      ['stage0_bf16', { form: 'ZeRO stage 0', ranks: 1 }],
    ] as const) {
      const inspection = await inspect(path.join(fixtures, 'deepspeed', name))
      expect(inspection).toMatchObject({ kind: 'DeepSpeed checkpoint', checksums: 'CRC-32', problems: [], training })
      expect(inspection.tensors).toHaveLength(15)
      const untied = name === 'stage0_bf16' ? 13 * 7 : 0
      expect(inspection.parameters).toBe(trained + buffers + untied)
    }
  })

  it('inspect verifies the checksums of torch files, unless disabled', async () => {
    const directory = await sharded()
    expect(await inspect(directory)).toMatchObject({ checksums: 'CRC-32', whole: true })
    const file = path.join(directory, 'pytorch_model-00002-of-00005.bin')
    const bytes = readFileSync(file)
    bytes[bytes.length >> 1]! ^= 1
    writeFileSync(file, bytes)
    const { whole, problems } = await inspect(directory)
    expect(whole).toBe(false)
    expect(problems).toEqual([
      expect.stringMatching(/00002-of-00005\.bin: the checksum of archive\/data\/\d+ does not/),
    ])
    expect(await inspect(directory, { checksums: false })).toMatchObject({ checksums: null, whole: true })
  })

  it.each<[string, (directory: string) => void, RegExp]>([
    [
      'a shard is missing',
      (at) => rmSync(path.join(at, 'pytorch_model-00003-of-00005.bin')),
      /is missing 1 of the 5 shards/,
    ],
    [
      'a shard is cut short',
      (at) => {
        const file = path.join(at, 'pytorch_model-00001-of-00005.bin')
        writeFileSync(file, readFileSync(file).subarray(0, -2000))
      },
      /00001-of-00005\.bin cannot be read as a torch zip file/,
    ],
    [
      'the index names a tensor that no shard has',
      (at) => {
        const file = path.join(at, 'pytorch_model.bin.index.json')
        writeFileSync(file, readFileSync(file, 'utf8').replace('lm_head', 'lm_hat'))
      },
      /is missing lm_hat\.weight, which its index lists/,
    ],
    [
      'the config is of another model',
      (at) => {
        const file = path.join(at, 'config.json')
        writeFileSync(file, readFileSync(file, 'utf8').replace('"intermediate_size": 144', '"intermediate_size": 145'))
      },
      /mlp\.gate_proj\.weight has shape \[144, 200\], but config\.json asks for \[145, 200\]/,
    ],
    ['the config is damaged', (at) => writeFileSync(path.join(at, 'config.json'), '{'), /config\.json is not JSON/],
    ['the tokenizer is damaged', (at) => writeFileSync(path.join(at, 'tokenizer.model'), 'x'), /tokenizer\.model/],
  ])('inspect reports an incomplete model when %s', async (_, damage, message) => {
    const directory = await sharded()
    damage(directory)
    const { whole, problems } = await inspect(directory)
    expect(whole).toBe(false)
    expect(problems.join('\n')).toMatch(message)
  })

  it('inspect does not recognize other files and directories', async () => {
    const empty = fresh()
    expect((await rejection(inspect(empty))).message).toMatch(/neither a model nor a checkpoint/)
    expect((await rejection(inspect(path.join(empty, 'no')))).message).toMatch(/no such file/)
    cpSync(path.join(fixtures, 'instances.jsonl'), path.join(empty, 'data.bin'))
    const { problems, whole } = await inspect(path.join(empty, 'data.bin'))
    expect([whole, problems.length]).toEqual([false, 1])
  })
})
