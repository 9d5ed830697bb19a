import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, statfsSync, writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import { writeModelDirectory } from '../../lib/formats/model-directory.js'
import { openModelWeights } from '../../lib/formats/model-files.js'
import type { TensorToWrite } from '../../lib/formats/safetensors/safetensors-writer.js'
import { contentsOf, float32, rejection, temporaryDirectory } from './helpers.js'

const root = temporaryDirectory()
const fresh = () => path.join(mkdtempSync(path.join(root, 'case-')), 'model')
const tensors = [float32('z', [2], [1, 2]), float32('a', [3], [3, 4, 5]), float32('m', [1], [6])]

async function weights(directory: string) {
  const source = await openModelWeights(directory)
  const contents = await contentsOf(source)
  await source.close()
  return contents
}

const bytes = ({ data }: TensorToWrite) => Buffer.from(data() as Uint8Array).toString('hex')
const expected = Object.fromEntries(
  tensors.map((tensor) => [tensor.name, expect.objectContaining({ bytes: bytes(tensor) })]),
)

describe('writing a model directory', () => {
  it('writes the files that Transformers expects', async () => {
    const directory = fresh()
    await writeModelDirectory(directory, {
      config: { model_type: 'llama', architectures: ['LlamaForCausalLM'], rope: { b: 1, a: 2 } },
      generationConfig: { bos_token_id: 1 },
      tokenizerFiles: [
        { name: 'tokenizer.model', data: Buffer.from([0, 1, 2, 255]) },
        { name: 'tokenizer_config.json', data: '{}' },
      ],
      tensors,
    })
    expect(readdirSync(directory).sort()).toEqual([
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'tokenizer.model',
      'tokenizer_config.json',
    ])
    const text = (name: string) => readFileSync(path.join(directory, name), 'utf8')
    expect(text('config.json')).toBe(
      '{\n  "architectures": [\n    "LlamaForCausalLM"\n  ],\n  "model_type": "llama",\n  "rope": {\n    "a": 2,\n    "b": 1\n  }\n}\n',
    )
    expect(text('generation_config.json')).toBe('{\n  "bos_token_id": 1\n}\n')
    expect([...readFileSync(path.join(directory, 'tokenizer.model'))]).toEqual([0, 1, 2, 255])
    expect(await weights(directory)).toEqual(expected)
  })

  it('splits the weights into shards in order, with an index', async () => {
    const directory = fresh()
    await writeModelDirectory(directory, { config: {}, tensors, maxShardSize: 20 })
    expect(readdirSync(directory).sort()).toEqual([
      'config.json',
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
      'model.safetensors.index.json',
    ])
    expect(JSON.parse(readFileSync(path.join(directory, 'model.safetensors.index.json'), 'utf8'))).toEqual({
      metadata: { total_size: 24 },
      weight_map: {
        a: 'model-00001-of-00002.safetensors',
        m: 'model-00002-of-00002.safetensors',
        z: 'model-00001-of-00002.safetensors',
      },
    })
    expect(await weights(directory)).toEqual(expected)
  })

  it('replaces an earlier save, sharded or not, and keeps other files', async () => {
    const directory = fresh()
    await writeModelDirectory(directory, {
      config: { old: 1 },
      tensors: [float32('old', [9], Array(9).fill(0)), ...tensors],
      maxShardSize: 12,
    })
    mkdirSync(path.join(directory, 'checkpoint-100'))
    for (const name of ['README.md', 'pytorch_model.bin', 'checkpoint-100/state'])
      writeFileSync(path.join(directory, name), 'mine')
    for (const maxShardSize of [20, '5GB', 12]) {
      await writeModelDirectory(directory, { config: { new: 1 }, tensors, maxShardSize })
      expect(await weights(directory)).toEqual(expected)
      const others = readdirSync(directory).filter((name) => !/^model[-.]/.test(name))
      expect(others.sort()).toEqual(['README.md', 'checkpoint-100', 'config.json', 'pytorch_model.bin'])
    }
    expect(
      readdirSync(directory)
        .filter((name) => /^model[-.]/.test(name))
        .sort(),
    ).toEqual([
      'model-00001-of-00003.safetensors',
      'model-00002-of-00003.safetensors',
      'model-00003-of-00003.safetensors',
      'model.safetensors.index.json',
    ])
    expect(JSON.parse(readFileSync(path.join(directory, 'config.json'), 'utf8'))).toEqual({ new: 1 })
  })

  it('saves a model over the files that it is read from', async () => {
    const directory = fresh()
    await writeModelDirectory(directory, { config: {}, tensors })
    const source = await openModelWeights(directory)
    const copies = [...source.tensors.values()].map(
      (info): TensorToWrite => ({
        ...info,
        name: `copy.${info.name}`,
        async *data() {
          const piece = Buffer.alloc(info.bytes)
          await source.read(info.name, 0, piece)
          yield piece
        },
      }),
    )
    await writeModelDirectory(directory, { config: {}, tensors: copies, maxShardSize: 12 })
    await source.close()
    const renamed = Object.entries(expected).map(([name, value]) => [`copy.${name}`, value])
    expect(await weights(directory)).toEqual(Object.fromEntries(renamed))
  })

  it('keeps an existing model unchanged when a tensor cannot be read', async () => {
    const directory = fresh()
    await writeModelDirectory(directory, { config: { version: 1 }, tensors })
    const failing = {
      ...tensors[2]!,
      data: () => {
        throw new Error('the device is lost')
      },
    }
    const second = { config: { version: 2 }, tensors: [tensors[0]!, tensors[1]!, failing], maxShardSize: 12 }
    await expect(writeModelDirectory(directory, second)).rejects.toThrow('the device is lost')
    expect(readdirSync(directory).sort()).toEqual(['config.json', 'model.safetensors'])
    expect(readFileSync(path.join(directory, 'config.json'), 'utf8')).toContain('1')
    expect(await weights(directory)).toEqual(expected)
  })

  it.each(['../evil', '/etc/evil', 'a/b', '.hidden', ''])('rejects the file name %j', async (name) => {
    const directory = fresh()
    const contents = { config: {}, tensors, tokenizerFiles: [{ name, data: '' }] }
    await expect(writeModelDirectory(directory, contents)).rejects.toThrow(/not a plain file name/)
    expect(existsSync(directory)).toBe(false)
  })

  it('rejects duplicate tensor names, invalid shapes, and invalid sizes, before it writes', async () => {
    const directory = fresh()
    const write = (written: TensorToWrite[], maxShardSize?: string) =>
      writeModelDirectory(directory, { config: {}, tensors: written, maxShardSize })
    await expect(write([...tensors, tensors[0]!], '12')).rejects.toThrow(RangeError)
    await expect(write([float32('a', [0.5], [])])).rejects.toThrow(/impossible shape \[0\.5\]/)
    await expect(write(tensors, 'five')).rejects.toThrow(/expected a size such as 5GB/)
    expect(existsSync(directory)).toBe(false)
  })

  it('does not start writing a model if the disk lacks space', async () => {
    const directory = fresh()
    const huge: TensorToWrite = {
      name: 'w',
      dtype: 'float32',
      shape: [2 ** 48],
      data: () => {
        throw new Error('it was asked for')
      },
    }
    const { message } = await rejection(writeModelDirectory(directory, { config: {}, tensors: [huge] }))
    expect(message).toMatch(/it needs 1\.1 PB, and .* are free; nothing was changed/)
    expect(existsSync(path.dirname(directory))).toBe(true)
    expect(existsSync(directory)).toBe(false)
  })
})

describe('a disk that fills up while a model is written', () => {
  const disk = path.join(root, 'disk')
  let mounted = false

  afterEach(() => {
    if (mounted) spawnSync('umount', [disk])
    mounted = false
  })

  /** A small disk if this user may mount one; otherwise a device that is always full. */
  function fillingDisk(): { directory: string; fill: () => Promise<void> } {
    mkdirSync(disk, { recursive: true })
    mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', disk]).status === 0
    if (!mounted) return { directory: path.join(disk, 'model'), fill: () => writeFile('/dev/full', 'x') }
    return {
      directory: path.join(disk, 'model'),
      fill: async () => {
        const { bavail, bsize } = statfsSync(disk)
        await writeFile(path.join(disk, 'filler'), Buffer.alloc(bavail * bsize))
      },
    }
  }

  it.each(['new', 'existing'])('a full disk leaves the %s directory unchanged', async (kind) => {
    const { directory, fill } = fillingDisk()
    if (kind === 'existing') await writeModelDirectory(directory, { config: {}, tensors })
    const size = 200_000
    const growing: TensorToWrite = {
      name: 'w',
      dtype: 'uint8',
      shape: [2 * size],
      async *data() {
        yield new Uint8Array(size)
        await fill()
        yield new Uint8Array(size)
      },
    }
    const { message } = await rejection(writeModelDirectory(directory, { config: { new: 1 }, tensors: [growing] }))
    expect(message).toMatch(
      /^Cannot save .*model: the disk is full \(400\.0 KB are needed, .* are free\); nothing was changed/,
    )
    expect(readdirSync(disk).filter((name) => name !== 'filler')).toEqual(kind === 'existing' ? ['model'] : [])
    if (kind === 'existing') {
      expect(readdirSync(directory).sort()).toEqual(['config.json', 'model.safetensors'])
      expect(await weights(directory)).toEqual(expected)
    }
  })
})
