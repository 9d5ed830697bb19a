/** Input checkpoints for the tools: OpenLLaMA-3B with fewer blocks, in the formats that they accept. */
import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { manifestFormat, manifestName, manifestVersion } from '#lib/formats/checkpoint/manifest.js'
import { writeSafetensors } from '#lib/formats/safetensors/safetensors-writer.js'
import type { TensorToWrite } from '#lib/io/file-sink.js'
import { parseConfig } from '#lib/model/config.js'
import { layoutOf } from '#lib/model/layout.js'
import { makeShards } from '#lib/tools/make-shards.js'
import { type CheckpointInput, models } from './configs.js'

const ranks = 4

function configOf(blocks: number) {
  return { ...models['3B'], num_hidden_layers: blocks, torch_dtype: 'float32' }
}

/** Float32 values of many magnitudes, the same for every tensor. */
let values: Uint8Array | undefined

function tensor(name: string, shape: readonly number[]): TensorToWrite {
  const piece = 2 ** 24
  values ??= new Uint8Array(Float32Array.from({ length: piece / 4 }, (_, i) => Math.sin(i) * 2 ** -(i % 12)).buffer)
  const bytes = 4 * shape.reduce((product, size) => product * size, 1)
  const data = async function* () {
    for (let at = 0; at < bytes; at += piece) yield values!.subarray(0, Math.min(piece, bytes - at))
  }
  return { name, dtype: 'float32', shape, data }
}

/** config.json, and the quickstart's tokenizer, whose vocabulary is a subset of the model's. */
async function writeCompanions(directory: string, blocks: number): Promise<void> {
  const quickstart = path.join(__dirname, '../../recipes/quickstart')
  await mkdir(directory)
  await writeFile(path.join(directory, 'config.json'), JSON.stringify(configOf(blocks)))
  for (const name of ['tokenizer.model', 'tokenizer_config.json']) {
    await copyFile(path.join(quickstart, name), path.join(directory, name))
  }
}

/** Writes a checkpoint with this number of blocks into a new directory. Returns the bytes of its weights. */
type WriteInput = (directory: string, blocks: number, model: string) => Promise<number>

export const inputs = {
  /** A model directory with one safetensors file. */
  async model(directory: string, blocks: number): Promise<number> {
    await writeCompanions(directory, blocks)
    const parameters = layoutOf(parseConfig(configOf(blocks))).units.flatMap((unit) => unit.parameters)
    const tensors = parameters.map(({ name, shape }) => tensor(name, shape))
    return (await writeSafetensors(path.join(directory, 'model.safetensors'), tensors)).bytes
  },

  /** The same in torch files. */
  async bin(directory, _blocks, model) {
    return (await makeShards({ modelPath: model, output: directory, format: 'bin' })).totalSize
  },

  /** The masters that the ranks of a run save. */
  async ranks(directory, blocks) {
    await writeCompanions(directory, blocks)
    const { units } = layoutOf(parseConfig(configOf(blocks)))
    const digits = (value: number) => String(value).padStart(5, '0')
    const files: Record<string, { bytes: number; sha256: string }> = {}
    for (let rank = 0; rank < ranks; rank++) {
      const name = `rank-${digits(rank)}-of-${digits(ranks)}.safetensors`
      const tensors = units.map((unit) => tensor(`master.${unit.name}`, [unit.length / ranks]))
      const { bytes } = await writeSafetensors(path.join(directory, name), tensors)
      files[name] = { bytes, sha256: '' } // zero-to-fp32 does not need it
    }
    const manifest = {
      ...{ format: manifestFormat, version: manifestVersion, package_version: '', world_size: ranks },
      ...{ dtype: 'bfloat16', step: 1, data: { fingerprint: '', instances_seen: 0 }, units, recipe: {}, files },
    }
    await writeFile(path.join(directory, manifestName), JSON.stringify(manifest))
    return Object.values(files).reduce((sum, { bytes }) => sum + bytes, 0)
  },
} satisfies Record<CheckpointInput, WriteInput>
