/**
 * Training checkpoints: `checkpoint-<step>/` with everything that a run needs to resume exactly where it was. One
 * safetensors file per rank holds the float32 masters and moments, by unit; `manifest.json` records the run that they
 * belong to and checksums that prove them complete; the config and the tokenizer are in the same directory.
 *
 * Random state needs no storage: every draw is a function of the seed and the step.
 */
import { readdir, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { Stream } from '../device.js'
import { CheckpointError } from '../errors.js'
import {
  hashFile,
  type Manifest,
  manifestFormat,
  manifestName,
  manifestVersion,
  readManifest,
} from '../formats/checkpoint/manifest.js'
import { openSafetensors } from '../formats/safetensors/safetensors.js'
import { writeSafetensors } from '../formats/safetensors/safetensors-writer.js'
import { type ElementRange, sliceSource } from '../formats/slice.js'
import { writeDirectoryAtomically } from '../io/atomic.js'
import { configJson, generationJson } from '../model/config.js'
import type { Parameters } from '../model/parameters.js'
import { readPieces, uploadTensors } from '../model/transfer.js'
import type { Layout } from '../parallel/units.js'
import type { Tensor } from '../tensor.js'
import type { LlamaTokenizer } from '../tokenizer/tokenizer.js'
import { packageVersion } from '../version.js'
import type { AdamW } from './optimizer.js'
import type { Recipe } from './recipe-schema.js'

/** The state that a checkpoint is saved from and loaded into. */
export interface CheckpointState {
  parameters: Parameters
  optimizer: AdamW
  tokenizer: LlamaTokenizer
  recipe: Recipe
  /** Optimizer steps done. */
  step: number
  /** Identifies the tokenized data set. */
  dataFingerprint: string
}

/** The recipe keys that determine which instances a step learns from. */
const orderKeys = ['seed', 'batch_size', 'max_length', 'validation_size'] as const

/** The recipe keys that determine the size and number of steps. A resumed run may change them. */
const paceKeys = [
  ...['epochs', 'max_steps', 'loss_reduction', 'learning_rate', 'adam_beta1', 'adam_beta2', 'adam_epsilon'],
  ...['weight_decay', 'max_grad_norm', 'lr_scheduler', 'warmup_type', 'warmup_ratio', 'warmup_min', 'warmup_steps'],
  'min_learning_rate',
] as readonly (keyof Recipe)[]

/** A sentence about the settings in which a resumed run differs from its checkpoint, if there are any. */
export function changedSettings(before: Record<string, unknown>, recipe: Recipe): string[] {
  const shown = (value: unknown) => (value === undefined ? 'not set' : String(value))
  const changes = paceKeys.flatMap((key) =>
    before[key] === recipe[key] ? [] : `${key} was ${shown(before[key])} and is now ${shown(recipe[key])}`,
  )
  return changes.length === 0 ? [] : [`resumed with other settings: ${changes.join('; ')}`]
}

/** Every flat buffer of the state by its name in the file, such as `master.model.layers.0`. */
export function stateTensors({ parameters, optimizer }: CheckpointState): Map<string, Tensor> {
  const kinds: [string, Tensor[]][] = [
    ['master', parameters.masters],
    ['m', optimizer.m],
    ['v', optimizer.v],
  ]
  return new Map(
    kinds.flatMap(([kind, buffers]) =>
      parameters.layout.units.map(({ name }, i) => [`${kind}.${name}`, buffers[i]] as const),
    ),
  )
}

/** Whether this rank writes a file to the checkpoint: all do, unless every rank has the full state. */
export function writesShard({ parameters: { group } }: CheckpointState): boolean {
  return group.stage > 0 || group.rank === 0
}

/** A snapshot of a state's tensors, and the stream to read them with. */
export interface StateCopy {
  tensors: ReadonlyMap<string, Tensor>
  stream: Stream
}

interface SaveOptions {
  keepLast: number
  /** Written in place of the state, which may then change. */
  copy?: StateCopy
}

/**
 * Writes `checkpoint-<step>` in `savePath`, completely or not at all, and then removes all but the last few.
 * @returns the directory
 * @throws {CheckpointError} for a failed write; earlier checkpoints are kept
 */
export async function saveCheckpoint(
  savePath: string,
  state: CheckpointState,
  { keepLast, copy }: SaveOptions,
): Promise<string> {
  const { group } = state.parameters
  const directory = path.join(savePath, `checkpoint-${state.step}`)
  if (group.rank > 0) {
    const [temporary] = await group.exchange<string>('the place of the checkpoint', '')
    await gatherFiles(state, temporary, copy)
  } else {
    const bytesNeeded = [...stateTensors(state).values()].reduce((sum, { byteLength }) => sum + byteLength, 0)
    const ranks = group.stage === 0 ? 1 : group.size
    const produce = async (temporary: string) => {
      await group.exchange('the place of the checkpoint', path.resolve(temporary))
      await writeDescription(temporary, state, await gatherFiles(state, temporary, copy))
    }
    await writeDirectoryAtomically(directory, produce, { bytesNeeded: ranks * bytesNeeded })
    const stale = (await listCheckpoints(savePath)).filter((other) => other !== directory).slice(keepLast - 1)
    for (const other of stale) await rm(other, { recursive: true, force: true })
  }
  await group.barrier() // no rank may see it as complete before it is
  return directory
}

/**
 * Writes this rank's file, and returns those of all ranks.
 * @throws {CheckpointError} for a rank that cannot write its file
 */
async function gatherFiles(
  state: CheckpointState,
  directory: string,
  copy: StateCopy | undefined,
): Promise<Manifest['files']> {
  const { group } = state.parameters
  let own: { files?: Manifest['files']; problem?: string } = { files: {} }
  try {
    if (writesShard(state)) own = { files: await writeShard(state, directory, copy) }
  } catch (error) {
    own = { problem: `rank ${group.rank}: ${(error as Error).message}` }
    if (group.size === 1) throw error
  }
  const all = await group.exchange('the files of the checkpoint', own)
  const problem = all.find((other) => other.problem !== undefined)?.problem
  if (problem) throw new CheckpointError(`${directory} cannot be written by all ranks (${problem})`)
  return Object.assign({}, ...all.map(({ files }) => files))
}

/** The safetensors file with this rank's masters and moments. */
async function writeShard(
  state: CheckpointState,
  directory: string,
  copy: StateCopy | undefined,
): Promise<Manifest['files']> {
  const { rank, size, stage } = state.parameters.group
  const file = shardName(rank, stage === 0 ? 1 : size)
  const tensors = [...(copy?.tensors ?? stateTensors(state))].map(([name, tensor]) => ({
    name,
    dtype: 'float32' as const,
    shape: tensor.shape,
    data: () => readPieces(tensor, 'float32', undefined, copy?.stream),
  }))
  const written = await writeSafetensors(path.join(directory, file), tensors, { checksum: true })
  return { [file]: { bytes: written.bytes, sha256: written.sha256! } }
}

const digits = (n: number) => String(n).padStart(5, '0')
const shardName = (rank: number, ranks: number) => `rank-${digits(rank)}-of-${digits(ranks)}.safetensors`

async function writeDescription(directory: string, state: CheckpointState, files: Manifest['files']): Promise<void> {
  const { parameters, recipe, step } = state
  const manifest: Manifest = {
    format: manifestFormat,
    version: manifestVersion,
    package_version: packageVersion,
    world_size: Object.keys(files).length,
    dtype: parameters.dtype,
    step,
    data: { fingerprint: state.dataFingerprint, instances_seen: step * recipe.batch_size },
    units: placement(parameters.layout),
    recipe,
    files,
  }
  await writeFile(path.join(directory, manifestName), JSON.stringify(manifest, null, 1))
  const config = configJson(parameters.config, parameters.dtype)
  await writeFile(path.join(directory, 'config.json'), JSON.stringify(config, null, 2))
  const generation = generationJson(parameters.config)
  await writeFile(path.join(directory, 'generation_config.json'), JSON.stringify(generation, null, 2))
  await state.tokenizer.save(directory)
}

/** The layout in the form of the manifest: the facts that determine where a parameter's values are in the files. */
function placement({ units }: Layout): Manifest['units'] {
  return units.map(({ name, length, parameters }) => ({
    name,
    length,
    parameters: parameters.map(({ name, shape, offset }) => ({ name, shape, offset })),
  }))
}

/** The checkpoints in a directory, latest step first. */
export async function listCheckpoints(savePath: string): Promise<string[]> {
  const names = await readdir(savePath).catch(() => [])
  const steps = names.flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? []).map(Number)
  return steps.sort((a, b) => b - a).map((step) => path.join(savePath, `checkpoint-${step}`))
}

/**
 * Deletes the checkpoints that a completed run does not keep.
 * @returns the remaining ones, and their size in bytes
 */
export async function keepCheckpoints(
  savePath: string,
  keep: NonNullable<Recipe['keep_checkpoints']>,
): Promise<{ directories: string[]; bytes: number }> {
  const all = await listCheckpoints(savePath)
  const directories = keep === 'all' ? all : all.slice(0, keep === 'last' ? 1 : 0)
  for (const directory of all.slice(directories.length)) await rm(directory, { recursive: true, force: true })
  const sizes = await Promise.all(directories.map(checkpointBytes))
  return { directories, bytes: sizes.reduce((sum, size) => sum + size, 0) }
}

/** The size of a checkpoint in bytes. */
export async function checkpointBytes(directory: string): Promise<number> {
  const names = await readdir(directory)
  const sizes = await Promise.all(names.map(async (name) => (await stat(path.join(directory, name))).size))
  return sizes.reduce((sum, size) => sum + size, 0)
}

/**
 * The checkpoint to resume from according to a recipe; undefined to start from scratch. `auto` means the latest
 * complete one, if any.
 * @throws {CheckpointError} for a path that is not a checkpoint, or a new run that would write among the checkpoints of
 *   an earlier one
 */
export async function resolveResume({ resume, save_path, overwrite }: Recipe): Promise<string | undefined> {
  if (resume === false) {
    const earlier = save_path ? await listCheckpoints(save_path) : []
    if (earlier.length > 0 && !overwrite) {
      throw new CheckpointError(
        `${earlier[0]} is from an earlier run: set resume to auto to go on from it, set overwrite to delete it, or choose ` +
          'another save_path',
      )
    }
    for (const directory of earlier) await rm(directory, { recursive: true, force: true })
    return undefined
  }
  if (typeof resume === 'string' && resume !== 'auto') {
    await readManifest(resume)
    return resume
  }
  if (!save_path) throw new CheckpointError('to resume, pass the save_path of the run or the path of the checkpoint')
  for (const directory of await listCheckpoints(save_path)) {
    if (await readManifest(directory).catch(() => undefined)) return directory
  }
  return undefined
}

/**
 * Loads the masters, weights and moments from a checkpoint.
 * @returns the number of optimizer steps done
 * @throws {CheckpointError} for a damaged checkpoint, or one of another model, other data, or another data order
 */
export async function loadCheckpoint(directory: string, state: CheckpointState): Promise<number> {
  const manifest = await readManifest(directory)
  checkBelongs(directory, manifest, state)
  const { group } = state.parameters
  let problem: string | undefined
  try {
    await readShards(directory, manifest, state)
  } catch (error) {
    if (group.size === 1) throw error
    problem = (error as Error).message
  }
  const [other] = (await group.exchange('the checkpoint that was read', problem ?? '')).filter(Boolean)
  if (other) throw new CheckpointError(other)
  await state.parameters.updateFromMasters()
  state.optimizer.steps = manifest.step
  await state.parameters.device.stream.synchronize()
  return manifest.step
}

/**
 * Loads this rank's shards from the files of the ranks that wrote them, whatever their number: concatenated, a unit's
 * shards are the unit. One rank verifies each file's checksum.
 */
async function readShards(directory: string, manifest: Manifest, state: CheckpointState): Promise<void> {
  const { group, layout } = state.parameters
  const targets = stateTensors(state)
  const lengths = new Map(layout.units.map(({ name, length }) => [name, length]))
  for (let shard = 0; shard < manifest.world_size; shard++) {
    const name = shardName(shard, manifest.world_size)
    const file = path.join(directory, name)
    const source = await openSafetensors(file)
    try {
      const ranges = new Map<string, ElementRange>()
      const views = new Map<string, Tensor>()
      for (const [key, target] of targets) {
        const stored = source.tensors.get(key)?.shape[0]
        if (stored === undefined) throw new CheckpointError(`${file} has no tensor ${key}; use another checkpoint`)
        const unitLength = lengths.get(key.slice(key.indexOf('.') + 1))!
        const own = group.stage === 0 ? 0 : group.rank * target.length
        const begin = Math.max(own, shard * stored)
        const end = Math.min(own + target.length, (shard + 1) * stored, unitLength)
        if (begin >= end) continue
        ranges.set(key, { start: begin - shard * stored, count: end - begin })
        views.set(key, target.view([end - begin], begin - own))
      }
      const isMine = shard % group.size === group.rank
      const [actual] = await Promise.all([
        isMine ? hashFile(file) : undefined,
        uploadTensors(sliceSource(source, ranges), views),
      ])
      if (isMine && actual !== manifest.files[name]?.sha256) {
        throw new CheckpointError(
          `${file} is damaged: its checksum is not the one in ${manifestName}; use another checkpoint`,
        )
      }
    } finally {
      await source.close()
    }
  }
}

function checkBelongs(
  directory: string,
  manifest: Manifest,
  { parameters, recipe, dataFingerprint }: CheckpointState,
): void {
  const refuse = (what: string) => new CheckpointError(`${directory} cannot be resumed: ${what}`)
  if (!isDeepStrictEqual(manifest.units, placement(parameters.layout))) {
    throw refuse('its model has other shapes')
  }
  if (manifest.dtype !== parameters.dtype) {
    throw refuse(`it was trained in ${manifest.dtype}, and this run is in ${parameters.dtype}; set dtype`)
  }
  const changed = orderKeys.find((key) => manifest.recipe[key] !== recipe[key])
  if (changed) throw refuse(`${changed} was ${manifest.recipe[changed]} and is now ${recipe[changed]}`)
  if (manifest.data.fingerprint !== dataFingerprint) throw refuse('it was trained on other data')
}
