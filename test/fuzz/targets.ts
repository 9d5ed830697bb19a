/** Fuzz targets: valid seeds, the way to damage them, and the code that reads the file. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { OpenAlpacaError } from '#lib/errors.js'
import { readGguf } from '#lib/formats/gguf/gguf.js'
import { openModelWeights, openWeightFile } from '#lib/formats/model-files.js'
import { unpickle } from '#lib/formats/torch/pickle.js'
import { TorchObjects } from '#lib/formats/torch/torch-objects.js'
import type { WeightSource } from '#lib/io/weight-source.js'
import { readConfig } from '#lib/model/config.js'
import { misfits } from '#lib/model/fit.js'
import { readTokenizerConfig } from '#lib/tokenizer/tokenizer-config.js'
import { inspect } from '#lib/tools/inspect.js'
import { makeShards } from '#lib/tools/make-shards.js'
import { openShardedCheckpoint, zeroToFp32 } from '#lib/tools/zero-to-fp32.js'
import { Dice, mutateBytes, mutateJson } from './mutate.js'

interface Target {
  /** Valid files, or parts of files. */
  seeds: Buffer[]
  mutate(seeds: readonly Buffer[], dice: Dice): Buffer
  /** Writes the damaged bytes to `directory`, which is empty, where the reader will find them. */
  place(directory: string, bytes: Buffer): void
  /** Reads the file like a user would. It may write `output`, and nothing else. */
  use(directory: string, output: string, dice: Dice): Promise<unknown>
}

/** The maximum output bytes of a case: beyond that, only its description is read. */
const MOST_BYTES = 1 << 20

/** Reads a piece of every tensor: a stride of 0 makes a large tensor out of few bytes, as in torch. */
async function readSome(opening: Promise<WeightSource>): Promise<number> {
  const source = await opening
  try {
    let total = 0
    for (const { name, bytes } of source.tensors.values()) {
      await source.read(name, 0, Buffer.alloc(Math.min(bytes, 64)))
      total += bytes
    }
    return total
  } finally {
    await source.close()
  }
}

/** @param fixtures test/fixtures */
export function createTargets(fixtures: string): Record<string, Target> {
  const read = (name: string) => readFileSync(path.join(fixtures, name))
  const file =
    (name: string): Target['place'] =>
    (directory, bytes) =>
      writeFileSync(path.join(directory, name), bytes)

  /** A file with a model's weights: loaded, inspected, or split into shards. */
  const weights = (name: string): Pick<Target, 'place' | 'use'> => ({
    place: file(name),
    async use(directory, output, dice) {
      const total = await readSome(openWeightFile(path.join(directory, name)))
      if (dice.below(8) === 0) await inspect(directory)
      if (dice.below(16) === 0 && total < MOST_BYTES)
        await makeShards({ modelPath: directory, output, maxShardSize: 200 })
    },
  })

  const zipSeeds = ['torch_bin/zip.bin', 'torch_written/every.bin'].map(read)
  const shard = 'model-00001-of-00002.safetensors'
  const index = { metadata: { total_size: 8 }, weight_map: { a: shard, b: 'model-00002-of-00002.safetensors' } }
  const smallShard = (name: string) => {
    const header = Buffer.from(
      JSON.stringify({ [name]: { dtype: 'F32', shape: [1], data_offsets: [0, 4] } }).padEnd(64),
    )
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(header.length))
    return Buffer.concat([length, header, Buffer.alloc(4)])
  }
  const unit = { name: 'a', length: 1, parameters: [{ name: 'a', shape: [1], offset: 0 }] }
  const manifest = {
    ...{ format: 'openalpaca-checkpoint', version: 1, package_version: '0', world_size: 1, dtype: 'float32', step: 1 },
    ...{ data: { fingerprint: '', instances_seen: 0 }, units: [unit], recipe: {} },
    files: { 'rank-00000-of-00001.safetensors': { bytes: smallShard('master.a').length, sha256: '' } },
  }

  return {
    safetensors: {
      seeds: ['torch_bin/expected.safetensors', 'deepspeed/stage3_bf16.expected.safetensors'].map(read),
      mutate: mutateBytes,
      ...weights('model.safetensors'),
    },
    'safetensors-header': {
      seeds: ['torch_bin/expected.safetensors', 'deepspeed/stage3_bf16.expected.safetensors'].map((name) => {
        const whole = read(name)
        return whole.subarray(8, 8 + Number(whole.readBigUInt64LE()))
      }),
      mutate: mutateJson,
      ...weights('model.safetensors'),
      place(directory, bytes) {
        const length = Buffer.alloc(8)
        length.writeBigUInt64LE(BigInt(bytes.length))
        writeFileSync(path.join(directory, 'model.safetensors'), Buffer.concat([length, bytes, Buffer.alloc(600)]))
      },
    },
    'torch-zip': {
      seeds: [...zipSeeds, read('torch_foreign/trainer_protocol4.bin')],
      mutate: mutateBytes,
      ...weights('pytorch_model.bin'),
    },
    'torch-legacy': { seeds: [read('torch_bin/legacy.bin')], mutate: mutateBytes, ...weights('pytorch_model.bin') },
    pickle: {
      seeds: zipSeeds.map((zip) => zip.subarray(zip.indexOf(Buffer.of(0x80, 2)), zip.indexOf('u.', 0, 'latin1') + 2)),
      mutate: mutateBytes,
      place: file('data.pkl'),
      async use(directory) {
        const source = path.join(directory, 'data.pkl')
        const objects = new TorchObjects(source)
        unpickle(readFileSync(source), {
          source,
          findGlobal: (name) => objects.findGlobal(name),
          loadPersistent: (id) => objects.loadPersistent(id),
        })
      },
    },
    gguf: {
      // Only its header, so that the damage hits the checked parts.
      seeds: [read('gguf/reference.gguf')].map((whole) => whole.subarray(0, whole.indexOf('vector') + 32)),
      mutate: mutateBytes,
      place: (directory, bytes) => {
        writeFileSync(path.join(directory, 'model.gguf'), Buffer.concat([bytes, Buffer.alloc(5000)]))
      },
      async use(directory, _output, dice) {
        const file = path.join(directory, 'model.gguf')
        if (dice.below(4) === 0) await inspect(file)
        const source = await readGguf(file)
        try {
          for (const { name, bytes } of source.tensors.values()) {
            await source.read(name, 0, Buffer.alloc(Math.min(bytes, 64)))
          }
        } finally {
          await source.close()
        }
      },
    },
    index: {
      seeds: [Buffer.from(JSON.stringify(index, null, 2))],
      mutate: mutateJson,
      place(directory, bytes) {
        writeFileSync(path.join(directory, shard), smallShard('a'))
        writeFileSync(path.join(directory, 'model-00002-of-00002.safetensors'), smallShard('b'))
        writeFileSync(path.join(directory, 'model.safetensors.index.json'), bytes)
      },
      async use(directory, output, dice) {
        await readSome(openModelWeights(directory))
        if (dice.below(8) === 0) await makeShards({ modelPath: directory, output, maxShardSize: 4 })
      },
    },
    config: {
      seeds: ['d100/config.json', 'gqa/config.json', 'd100/tokenizer_config.json'].map(read),
      mutate: mutateJson,
      place(directory, bytes) {
        for (const name of ['config.json', 'tokenizer_config.json']) writeFileSync(path.join(directory, name), bytes)
      },
      async use(directory, _output, dice) {
        if (dice.below(3) === 0) return readTokenizerConfig(directory)
        return misfits(await readConfig(directory), [])
      },
    },
    manifest: {
      seeds: [Buffer.from(JSON.stringify(manifest))],
      mutate: mutateJson,
      place(directory, bytes) {
        writeFileSync(path.join(directory, 'rank-00000-of-00001.safetensors'), smallShard('master.a'))
        writeFileSync(path.join(directory, 'manifest.json'), bytes)
      },
      use: (directory) => readSome(openShardedCheckpoint(directory)),
    },
    // Of one rank, so that a case consists of few files.
    'deepspeed-0': deepSpeed(path.join(fixtures, 'deepspeed/stage0_fp16')),
    'deepspeed-2': deepSpeed(path.join(fixtures, 'deepspeed/stage2_fp32')),
    'deepspeed-3': deepSpeed(path.join(fixtures, 'deepspeed/stage3_fp32')),
    'deepspeed-universal': deepSpeed(
      path.join(fixtures, 'deepspeed/stage2_fp16_universal'),
      /zero.(gain|embed_tokens)/,
    ),
  }
}

/** A checkpoint of DeepSpeed, or those of its files that match `used`, one of which is damaged. */
function deepSpeed(checkpoint: string, used = /./): Target {
  const all = readdirSync(checkpoint, { recursive: true }) as string[]
  const files = all.filter((name) => name.endsWith('.pt') && used.test(name)).sort()
  // One of each kind, since the files of the ranks are similar.
  const kinds = [/model_states/, /optim_states/, /fp32\.pt/]
  const damaged = kinds.flatMap((kind) => files.filter((name) => kind.test(name)).slice(-1))
  return {
    seeds: damaged.map((name) => readFileSync(path.join(checkpoint, name))),
    // The first byte selects the file, and the rest is its contents.
    mutate(seeds, dice) {
      const which = dice.below(seeds.length)
      return Buffer.concat([Buffer.of(which), mutateBytes([seeds[which]!], dice)])
    },
    place(directory, bytes) {
      for (const name of files) cpSync(path.join(checkpoint, name), path.join(directory, name))
      writeFileSync(path.join(directory, damaged[bytes[0]!]!), bytes.subarray(1))
    },
    async use(directory, output, dice) {
      const total = await readSome(openShardedCheckpoint(directory))
      if (dice.below(8) === 0) await inspect(directory)
      if (dice.below(16) === 0 && total < MOST_BYTES) {
        await zeroToFp32({ checkpoint: directory, output: path.join(output, 'state.bin') })
      }
    },
  }
}

export interface Outcome {
  /** `read` if the damage did no harm, otherwise `refused`. */
  result: 'read' | 'refused'
  /** A violation by the reader; none is expected. */
  fault?: string
}

/** Runs one case in its own sandbox, and judges the result. */
export async function runCase(target: Target, seed: number, sandbox: string): Promise<Outcome> {
  const dice = new Dice(seed)
  const input = path.join(sandbox, 'in', 'here')
  const output = path.join(sandbox, 'out')
  rmSync(sandbox, { recursive: true, force: true })
  mkdirSync(input, { recursive: true })
  target.place(input, target.mutate(target.seeds, dice))
  const before = contentsOf(path.join(sandbox, 'in'))
  let error: unknown
  const start = performance.now()
  try {
    await target.use(input, output, dice)
  } catch (caught) {
    error = caught ?? new Error('nothing was thrown')
  }
  const seconds = (performance.now() - start) / 1000
  const fault = judge(error, sandbox) ?? (seconds > 10 ? `it took ${seconds.toFixed(1)} s` : undefined)
  const strayed = readdirSync(sandbox).filter((name) => name !== 'in' && name !== 'out')
  const changed = contentsOf(path.join(sandbox, 'in')) !== before
  const half = existsSync(output) && readdirSync(output).some((name) => name.includes('.tmp'))
  const harm =
    strayed.length > 0
      ? `it wrote ${strayed}`
      : changed
        ? 'it changed its input'
        : half
          ? 'it left half a file'
          : undefined
  return { result: error === undefined ? 'read' : 'refused', fault: fault ?? harm }
}

/** The names of all files below a directory, with their bytes. */
function contentsOf(directory: string): string {
  const entries = readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  return entries
    .map((entry) => path.join(entry.parentPath, entry.name))
    .sort()
    .map((name) => `${name}\0${readFileSync(name, 'latin1')}`)
    .join('\0')
}

/** An error must be ours, name a file, describe the problem, and fit on a terminal line. */
function judge(error: unknown, sandbox: string): string | undefined {
  if (error === undefined) return undefined
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
  if (!(error instanceof OpenAlpacaError)) return `not an error for a user: ${text}`
  if (!error.message.includes(sandbox)) return `it does not name the file: ${error.message}`
  if (error.message.length > 1500 || /[\p{Cc}]/u.test(error.message))
    return `it cannot be printed: ${text.slice(0, 300)}`
  return undefined
}
