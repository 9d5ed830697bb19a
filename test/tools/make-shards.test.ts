import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { openModelWeights } from '../../lib/formats/model-files.js'
import { sortAsStateDict } from '../../lib/formats/names.js'
import { writeTorchBin } from '../../lib/formats/torch/torch-writer.js'
import { planWeights } from '../../lib/formats/weight-writer.js'
import type { TensorToWrite } from '../../lib/io/file-sink.js'
import { makeShards } from '../../lib/tools/make-shards.js'
import { contentsOf, fixtures, float32, rejection, temporaryDirectory } from '../formats/helpers.js'

const root = temporaryDirectory()
const fresh = () => mkdtempSync(path.join(root, 'case-'))
const d100 = path.join(fixtures, 'd100')

async function contents(directory: string) {
  const source = await openModelWeights(directory)
  const tensors = await contentsOf(source)
  await source.close()
  return tensors
}

/** A copy of d100, whose weights have 1.9 MB. */
function model(): string {
  const directory = path.join(fresh(), 'model')
  cpSync(d100, directory, { recursive: true })
  return directory
}

/** Every file below a directory with its bytes. */
function snapshot(directory: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(directory).map((name) => [name, readFileSync(path.join(directory, name)).toString('base64')]),
  )
}

describe('make-shards', () => {
  it.each(['safetensors', 'bin'] as const)(
    'make-shards splits into %s, with the values of the model',
    async (format) => {
      const modelPath = model()
      const before = snapshot(modelPath)
      const { output, files, totalSize } = await makeShards({ modelPath, maxShardSize: '500KB', format })
      expect(output).toBe(`${modelPath}-shards`)
      expect(await contents(output)).toEqual(await contents(modelPath))
      const whole = { safetensors: 'model', bin: 'pytorch_model' }[format]
      const names = files.map((_, i) => `${whole}-0000${i + 1}-of-0000${files.length}.${format}`)
      expect(files.length).toBeGreaterThan(2)
      expect(readdirSync(output).sort()).toEqual(
        [
          ...names,
          `${whole}.${format}.index.json`,
          ...[
            'config.json',
            'generation_config.json',
            'special_tokens_map.json',
            'tokenizer.model',
            'tokenizer_config.json',
          ],
        ].sort(),
      )
      const index = JSON.parse(readFileSync(path.join(output, `${whole}.${format}.index.json`), 'utf8'))
      expect(index.metadata.total_size).toBe(totalSize)
      expect(Object.keys(index.weight_map)).toEqual(Object.keys(index.weight_map).sort())
      for (const name of ['config.json', 'tokenizer.model', 'tokenizer_config.json']) {
        expect(readFileSync(path.join(output, name)).equals(readFileSync(path.join(d100, name)))).toBe(true)
      }
      expect(snapshot(modelPath)).toEqual(before)
    },
  )

  it('make-shards restores the same bytes after a round trip through the other format', async () => {
    const modelPath = model()
    const bin = path.join(root, 'round-bin')
    await makeShards({ modelPath, output: bin, format: 'bin', maxShardSize: '700KB' })
    const { files } = await makeShards({ modelPath: bin, output: path.join(root, 'round'), format: 'safetensors' })
    expect(files.map(({ name }) => name)).toEqual(['model.safetensors'])
    const [a, b] = [modelPath, path.join(root, 'round')].map((at) => readFileSync(path.join(at, 'model.safetensors')))
    expect(a!.equals(b!)).toBe(true)
  })

  it('make-shards begins each shard at the same tensor as huggingface_hub, whatever the order in the file', () => {
    const names = (layers: number) => [
      'model.embed_tokens.weight',
      ...Array.from({ length: layers }, (_, i) => [
        ...['q', 'k', 'v', 'o'].map((one) => `model.layers.${i}.self_attn.${one}_proj.weight`),
        ...['gate', 'up', 'down'].map((one) => `model.layers.${i}.mlp.${one}_proj.weight`),
        ...['input', 'post_attention'].map((one) => `model.layers.${i}.${one}_layernorm.weight`),
      ]).flat(),
      'model.norm.weight',
      'lm_head.weight',
    ]
    const shapes = (hidden: number, wide: number): [RegExp, number[]][] => [
      [/embed|lm_head/, [32000, hidden]],
      [/norm/, [hidden]],
      [/self_attn/, [hidden, hidden]],
      [/mlp/, [wide, hidden]],
    ]
    const first = (layers: number, hidden: number, wide: number, dtype: 'float16' | 'float32') => {
      const sorted = sortAsStateDict(names(layers).sort()) // by name, like in a safetensors file
      expect(sorted).toEqual(names(layers))
      const tensors = sorted.map((name): TensorToWrite => {
        const shape = shapes(hidden, wide).find(([pattern]) => pattern.test(name))![1]
        return { name, dtype, shape, data: () => [] as never }
      })
      return planWeights(tensors, { format: 'bin', maxShardSize: '5GB' }).files.map(({ tensors }) => tensors[0])
    }
    expect(first(26, 3200, 8640, 'float32')).toEqual([
      'model.embed_tokens.weight',
      'model.layers.9.self_attn.o_proj.weight',
      'model.layers.19.mlp.gate_proj.weight',
    ])
    expect(first(26, 3200, 8640, 'float16')).toHaveLength(2)
    expect(first(32, 4096, 11008, 'float16')).toHaveLength(3)
    expect(first(32, 4096, 11008, 'float32')).toHaveLength(6)
  })

  it('make-shards converts the type, records it in the config, and counts values that became infinite', async () => {
    const modelPath = model()
    const { output, overflows } = await makeShards({ modelPath, dtype: 'bfloat16' })
    const tensors = await contents(output)
    expect(new Set(Object.values(tensors).map(({ dtype }) => dtype))).toEqual(new Set(['bfloat16']))
    expect(overflows).toBe(0)
    const config = JSON.parse(readFileSync(path.join(output, 'config.json'), 'utf8'))
    expect(config).toEqual({
      ...JSON.parse(readFileSync(path.join(d100, 'config.json'), 'utf8')),
      torch_dtype: 'bfloat16',
    })

    const wild = fresh()
    await writeTorchBin(path.join(wild, 'pytorch_model.bin'), [float32('w', [3], [1e9, 1, -70000])])
    expect(await makeShards({ modelPath: wild, dtype: 'float16', output: path.join(root, 'wild') })).toMatchObject({
      overflows: 2,
    })
  })

  it('make-shards --replace replaces the weights of the directory, and keeps everything else', async () => {
    const modelPath = model()
    const before = await contents(modelPath)
    mkdirSync(path.join(modelPath, 'logs'))
    writeFileSync(path.join(modelPath, 'notes.txt'), 'mine')
    await makeShards({ modelPath, replace: true, maxShardSize: '900KB', format: 'bin' })
    expect(await contents(modelPath)).toEqual(before)
    expect(readdirSync(modelPath).filter((name) => /safetensors|tmp|complete/.test(name))).toEqual([])
    expect(readdirSync(modelPath)).toEqual(
      expect.arrayContaining(['logs', 'notes.txt', 'config.json', 'tokenizer.model']),
    )
    await makeShards({ modelPath, replace: true })
    expect(await contents(modelPath)).toEqual(before)
    expect(readdirSync(modelPath).filter((name) => /^pytorch_model/.test(name))).toEqual(['pytorch_model.bin'])
  })

  it('make-shards keeps tied tensors in one storage as torch files, and separates them as safetensors', async () => {
    const directory = fresh()
    const embedding = float32('model.embed_tokens.weight', [2, 2], [1, 2, 3, 4])
    const tied = { ...embedding, name: 'lm_head.weight', sameAs: embedding.name }
    await writeTorchBin(path.join(directory, 'pytorch_model.bin'), [embedding, tied])
    const all = await contents(directory)
    const bin = await makeShards({ modelPath: directory, output: path.join(root, 'tied-bin') })
    expect([await contents(bin.output), bin.totalSize]).toEqual([all, 16])
    const apart = await makeShards({
      modelPath: directory,
      output: path.join(root, 'tied-apart'),
      format: 'safetensors',
    })
    expect([await contents(apart.output), apart.totalSize]).toEqual([all, 32])

    writeFileSync(path.join(directory, 'config.json'), '{"tie_word_embeddings": true}')
    const once = await makeShards({ modelPath: directory, output: path.join(root, 'tied-once'), format: 'safetensors' })
    expect(Object.keys(await contents(once.output))).toEqual(['model.embed_tokens.weight'])
  })

  it('make-shards removes the extra leading "model." of OpenAlpaca’s names', async () => {
    const directory = fresh()
    const names = ['model.model.embed_tokens.weight', 'model.model.norm.weight', 'model.lm_head.weight']
    await writeTorchBin(
      path.join(directory, 'pytorch_model.bin'),
      names.map((name, i) => float32(name, [1], [i])),
    )
    const { output, renamed } = await makeShards({ modelPath: directory })
    expect(renamed).toBe(3)
    expect(Object.keys(await contents(output))).toEqual([
      'lm_head.weight',
      'model.embed_tokens.weight',
      'model.norm.weight',
    ])
  })

  it('make-shards follows symbolic links of the Hub’s cache, and skips directories and hidden files', async () => {
    const cache = model()
    const snapshotDirectory = fresh()
    for (const name of readdirSync(cache)) symlinkSync(path.join(cache, name), path.join(snapshotDirectory, name))
    for (const name of ['model.gguf', 'tf_model.h5', '.hidden']) writeFileSync(path.join(snapshotDirectory, name), 'x')
    mkdirSync(path.join(snapshotDirectory, 'checkpoint-5'))
    const { output } = await makeShards({ modelPath: snapshotDirectory, output: path.join(root, 'linked') })
    expect(readdirSync(output).sort()).toEqual(readdirSync(d100).sort())
    expect(await contents(output)).toEqual(await contents(d100))
  })

  it('make-shards rejects a nonempty output directory, and a source without a model', async () => {
    const modelPath = model()
    expect((await rejection(makeShards({ modelPath, output: modelPath }))).message).toMatch(/already exists/)
    const output = path.join(root, 'never')
    expect((await rejection(makeShards({ modelPath: fresh(), output }))).message).toMatch(/no weights/)
    await expect(makeShards({ modelPath, output, maxShardSize: 'much' })).rejects.toThrow(RangeError)
    expect(existsSync(output)).toBe(false)
  })

  it('make-shards removes partial output when it is stopped', async () => {
    const modelPath = model()
    const output = path.join(fresh(), 'stopped')
    await expect(makeShards({ modelPath, output, signal: AbortSignal.abort() })).rejects.toThrow(/abort/)
    expect(readdirSync(path.dirname(output))).toEqual([])
  })
})
