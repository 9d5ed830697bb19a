import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { findModelFiles, openModelWeights } from '../../lib/formats/model-files.js'
import { writeSafetensors } from '../../lib/formats/safetensors/safetensors-writer.js'
import { readAll, readTensor } from '../../lib/io/stream.js'
import { contentsOf, fixtures, float32, rejection, temporaryDirectory } from './helpers.js'
import { dictionary, pickled, storedTensor, text, torchFile } from './torch-file.js'

const root = temporaryDirectory()

/** A model directory of three tensors in two shards. */
async function shardedModel(): Promise<string> {
  const directory = mkdtempSync(path.join(root, 'sharded-'))
  await writeSafetensors(path.join(directory, 'model-00001-of-00002.safetensors'), [
    float32('a', [2], [1, 2]),
    float32('b', [1], [3]),
  ])
  await writeSafetensors(path.join(directory, 'model-00002-of-00002.safetensors'), [float32('c', [1], [4])])
  writeIndex(directory, { a: 1, b: 1, c: 2 })
  return directory
}

function writeIndex(directory: string, map: Record<string, number | string>) {
  const weight_map = Object.fromEntries(
    Object.entries(map).map(([name, shard]) => [
      name,
      typeof shard === 'number' ? `model-0000${shard}-of-00002.safetensors` : shard,
    ]),
  )
  writeFileSync(path.join(directory, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map }))
}

function emptyModel(): string {
  return mkdtempSync(path.join(root, 'model-'))
}

async function values(directory: string) {
  const source = await openModelWeights(directory)
  const entries = await Promise.all(
    [...source.tensors.keys()].map(async (name) => [name, (await readTensor(source, name)).readFloatLE(0)] as const),
  )
  await source.close()
  return Object.fromEntries(entries)
}

describe('opening the weights of a model directory', () => {
  it('opens one safetensors file', async () => {
    const source = await openModelWeights(path.join(fixtures, 'd100'))
    expect(source.tensors.size).toBe(2 * 9 + 3)
    expect(source.tensors.get('model.layers.1.mlp.down_proj.weight')).toMatchObject({
      dtype: 'float32',
      shape: [200, 144],
    })
    await source.close()
  })

  it('opens shards as one source', async () => {
    expect(await values(await shardedModel())).toEqual({ a: 1, b: 3, c: 4 })
  })

  it('opens one torch file, and shards of torch files', async () => {
    const directory = emptyModel()
    cpSync(path.join(fixtures, 'torch_bin/module_f16.bin'), path.join(directory, 'pytorch_model.bin'))
    const source = await openModelWeights(directory)
    expect(source.tensors.get('model.norm.weight')).toMatchObject({ dtype: 'float16', shape: [128] })
    await source.close()

    const sharded = emptyModel()
    const shard = (name: string, value: number) =>
      torchFile(pickled(dictionary(text(name), storedTensor({ numel: 1, shape: [1], strides: [1] }))), {
        0: Buffer.from(Float32Array.of(value).buffer),
      })
    const names = ['pytorch_model-00001-of-00002.bin', 'pytorch_model-00002-of-00002.bin']
    writeFileSync(path.join(sharded, names[0]!), shard('a', 5))
    writeFileSync(path.join(sharded, names[1]!), shard('b', 6))
    writeFileSync(
      path.join(sharded, 'pytorch_model.bin.index.json'),
      JSON.stringify({ weight_map: { a: names[0], b: names[1] } }),
    )
    expect(await values(sharded)).toEqual({ a: 5, b: 6 })
  })

  it('prefers safetensors if both formats are present', async () => {
    const directory = await shardedModel()
    writeFileSync(path.join(directory, 'pytorch_model.bin'), 'not read')
    expect(await findModelFiles(directory)).toMatchObject({ format: 'safetensors' })
    expect(await values(directory)).toEqual({ a: 1, b: 3, c: 4 })
  })

  it('opens an index that names a single file', async () => {
    const directory = emptyModel()
    await writeSafetensors(path.join(directory, 'model.safetensors'), [float32('a', [1], [7])])
    writeIndex(directory, { a: 'model.safetensors' })
    expect(await values(directory)).toEqual({ a: 7 })
  })

  it('reads many shards at once with few open files', async () => {
    const directory = emptyModel()
    const map: Record<string, string> = {}
    for (let i = 0; i < 40; i++) {
      map[`t${i}`] = `model-${String(i + 1).padStart(5, '0')}-of-00040.safetensors`
      await writeSafetensors(path.join(directory, map[`t${i}`]!), [float32(`t${i}`, [4], [i, i, i, i])])
    }
    writeIndex(directory, map)
    const source = await openModelWeights(directory)
    const before = openFiles()
    const seen = new Map<string, number>()
    let most = 0
    await readAll(
      source,
      source.tensors.keys(),
      (name, _, chunk) => {
        most = Math.max(most, openFiles())
        seen.set(name, (seen.get(name) ?? 0) + Buffer.from(chunk).readFloatLE(0))
      },
      { chunkBytes: 8 },
    )
    expect([...seen].every(([name, sum]) => sum === 2 * Number(name.slice(1)))).toBe(true)
    expect(before).toBeGreaterThan(0)
    expect(most - before).toBeLessThan(12) // the pool is full already, and reads are active in a few more; 40 shards are 24 more
    await source.close()
    expect(openFiles()).toBeLessThan(before)
  })

  const whole = 'model.safetensors'
  it.each<[string, () => Promise<string> | string, RegExp]>([
    ['a missing directory', () => path.join(root, 'nowhere'), /Cannot read .*nowhere: there is no such file/],
    ['a file', () => path.join(fixtures, 'd100', whole), /is a file; give the directory/],
    ['an empty directory', emptyModel, /no weights that can be read: model\.safetensors or pytorch_model\.bin/],
    [
      'a directory with only GGUF weights',
      () => withFile('model.gguf', 'GGUF'),
      /model\.gguf is not a supported format/,
    ],
    ['shards without their index', () => withFile('model-00001-of-00002.safetensors', ''), /but not the index/],
    [
      'a Git LFS pointer',
      () => withFile(whole, 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n'),
      /git lfs pull/,
    ],
    [
      'an index that is a Git LFS pointer',
      () => withFile(`${whole}.index.json`, 'version https://git-lfs.github.com/spec/v1\n'),
      /git lfs pull/,
    ],
    ['an index that is not JSON', () => withFile(`${whole}.index.json`, '{'), /is not JSON/],
    ['an index without a map', () => withFile(`${whole}.index.json`, '{"metadata":{}}'), /no weight_map/],
    ['an index with an empty map', () => withFile(`${whole}.index.json`, '{"weight_map":{}}'), /no weight_map/],
    [
      'a missing shard',
      async () => {
        const dir = await shardedModel()
        rmSync(path.join(dir, 'model-00002-of-00002.safetensors'))
        return dir
      },
      /is missing 1 of the 2 shards .*model-00002-of-00002/,
    ],
    [
      'a tensor missing from its shard',
      async () => {
        const dir = await shardedModel()
        writeIndex(dir, { a: 1, c: 2, d: 2 })
        return dir
      },
      /model-00002-of-00002\.safetensors is missing d/,
    ],
    [
      'a tensor in another shard than the index says',
      async () => {
        const dir = await shardedModel()
        writeIndex(dir, { a: 2, b: 1 })
        return dir
      },
      /is missing a/,
    ],
    [
      'a tensor in two shards',
      async () => {
        const dir = await shardedModel()
        await writeSafetensors(path.join(dir, 'model-00002-of-00002.safetensors'), [
          float32('a', [1], [4]),
          float32('c', [1], [4]),
        ])
        return dir
      },
      /holds a twice, in model-00001.* and in model-00002/,
    ],
    [
      'weights both whole and in shards',
      async () => {
        const dir = await shardedModel()
        await writeSafetensors(path.join(dir, whole), [float32('a', [1], [4])])
        return dir
      },
      /contains its weights twice/,
    ],
    [
      'a damaged shard',
      async () => {
        const dir = await shardedModel()
        writeFileSync(path.join(dir, 'model-00002-of-00002.safetensors'), 'damaged!')
        return dir
      },
      /model-00002-of-00002\.safetensors/,
    ],
  ])('explains %s', async (_, make, message) => {
    expect((await rejection(openModelWeights(await make()))).message).toMatch(message)
  })

  it.each([
    '../secret.safetensors',
    '/etc/secret.safetensors',
    'sub/x.safetensors',
    '..\\x.safetensors',
    '..',
    'config.json',
    'x\0.bin',
    3,
  ])('rejects an index that refers to %j', async (target) => {
    const directory = emptyModel()
    await writeSafetensors(path.join(root, 'secret.safetensors'), [float32('a', [1], [1])])
    writeFileSync(path.join(directory, `${whole}.index.json`), JSON.stringify({ weight_map: { a: target } }))
    const { message } = await rejection(openModelWeights(directory))
    expect(message).toMatch(/not the name of a weight file in the same directory|gives no file name/)
  })

  it('lists the buffers of old checkpoints under their own names', async () => {
    const directory = emptyModel()
    const name = 'model.layers.0.self_attn.rotary_emb.inv_freq'
    await writeSafetensors(path.join(directory, whole), [float32(name, [1], [1])])
    const source = await openModelWeights(directory)
    expect(Object.keys(await contentsOf(source))).toEqual([name])
    await source.close()
  })
})

function withFile(name: string, contents: string): string {
  const directory = emptyModel()
  mkdirSync(directory, { recursive: true })
  writeFileSync(path.join(directory, name), contents)
  return directory
}

function openFiles(): number {
  return readdirSync('/proc/self/fd').length
}
