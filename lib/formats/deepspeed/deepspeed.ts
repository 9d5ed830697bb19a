/**
 * DeepSpeed checkpoints of ZeRO stages 0 to 3 and universal ones, of version 0.3.16 and later. Follows DeepSpeed's
 * zero_to_fp32.py (github.com/deepspeedai/DeepSpeed, deepspeed/utils/zero_to_fp32.py), but never holds more of a
 * parameter in memory than the piece being written.
 */
import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import type { WeightSource } from '../../io/weight-source.js'
import { SegmentedSource, type SegmentedTensor } from '../segments.js'
import { openTorchObject, type TorchObject } from '../torch/torch-bin.js'
import { HandlePool, readError } from '../weight-file.js'
import { assembleStage0, assembleStage3, assembleStages12 } from './assemble.js'
import { type DeepSpeedFile, ModelStates, OptimizerStates } from './states.js'
import { assembleUniversal } from './universal.js'

/** The paths and the form of a checkpoint's files. */
interface DeepSpeedFiles {
  directory: string
  /** The names of the model states, by rank in stage 3; otherwise one. */
  models: string[]
  /** Those of the optimizer states, by rank; none in stage 0 and in a universal checkpoint. */
  optimizers: string[]
  universal: boolean
  /** Whether the model states are those of one part of a model that was split over GPUs. */
  split: boolean
}

/** A checkpoint that is open for reading. */
export interface DeepSpeedCheckpoint extends WeightSource {
  /** `ZeRO stage 2`, `universal`, … */
  readonly form: string
  /** The number of ranks that wrote it; 1 if one file holds the state of all ranks. */
  readonly ranks: number
}

const MODEL_STATES = /^(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt$/
/** Before 0.4.0, there was no underscore before `optim`. */
const OPTIMIZER_STATES = /^(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_?optim_states\.pt$/
const EXPERT_STATES = /(?:^|_)expert_\d+_mp_rank_\d+_model_states\.pt$|^expp_rank_\d+_mp_rank_\d+_?optim_states\.pt$/
const PIPELINE_STATES = /^layer_\d+-model_\d+-model_states\.pt$/

/** The names in a directory that belong to a DeepSpeed checkpoint. */
export function deepSpeedNames(names: readonly string[]): string[] {
  return names.filter((name) => /(_model_|-model_|optim_)states\.pt$/.test(name)).sort()
}

/**
 * The directory of a DeepSpeed checkpoint's files: the one that `latest` or `latest_universal` names, or the directory
 * itself. Undefined if it has no DeepSpeed files.
 */
export async function findDeepSpeedFiles(directory: string): Promise<string | undefined> {
  const namesIn = (where: string) => readdir(where).catch((): string[] => [])
  const holdsFiles = async (where: string) => {
    const names = await namesIn(where)
    return deepSpeedNames(names).length > 0 || names.includes('zero')
  }
  const names = await namesIn(directory)
  if (deepSpeedNames(names).length > 0) return directory
  for (const pointer of ['latest', 'latest_universal']) {
    if (!names.includes(pointer)) continue
    const latest = path.join(directory, pointer)
    const size = (await stat(latest)).size
    const tag = size > 1000 ? '' : (await readFile(latest, 'utf8')).trim()
    if (!tag || tag !== path.basename(tag) || ['.', '..'].includes(tag) || /[\\\0]/.test(tag)) {
      throw new CheckpointError(`${latest} names "${forError(tag)}", which is not a directory next to it`)
    }
    const named = path.join(directory, tag)
    if (await holdsFiles(named)) return named
    const found = await candidates(directory, names)
    throw new CheckpointError(
      `${latest} names ${forError(tag)}, and there are no states of DeepSpeed in ${named}` +
        (found.length > 0 ? `: give ${path.join(directory, found[0]!)}` : ': copy the whole checkpoint'),
    )
  }
  const found = await candidates(directory, names)
  if (found.length === 1) return path.join(directory, found[0]!)
  if (found.length === 0) return undefined
  throw new CheckpointError(
    `${directory} has no "latest", and several checkpoints of DeepSpeed (${found.slice(0, 5).join(', ')}): give one of them`,
  )
}

/** The subdirectories with DeepSpeed states. */
async function candidates(directory: string, names: readonly string[]): Promise<string[]> {
  const found: string[] = []
  for (const name of names) {
    const within = await readdir(path.join(directory, name)).catch((): string[] => [])
    if (deepSpeedNames(within).length > 0) found.push(name)
  }
  return found.sort()
}

/**
 * Opens the float32 weights of a checkpoint of any number of ranks, with its buffers, frozen parameters (which keep
 * their type) and shared ones (tied to the one that they share).
 * @param directory the one that contains `latest`, or that of the files themselves
 * @throws {CheckpointError} for a missing rank, a damaged file, or parts that do not make up the parameters
 */
export async function openDeepSpeed(directory: string): Promise<DeepSpeedCheckpoint> {
  const where = await findDeepSpeedFiles(directory)
  if (!where) {
    throw new CheckpointError(`${directory} is not a DeepSpeed checkpoint: it has neither "latest" nor states`)
  }
  const files = await listFiles(where)
  const pool = new HandlePool()
  const opened: TorchObject[] = []
  const close = async () => {
    await Promise.all(opened.map((object) => object.close()))
  }
  const open = async (name: string): Promise<DeepSpeedFile> => {
    const file = path.join(where, name)
    const object = await openTorchObject(file, pool)
    opened.push(object)
    return { path: file, object, root: object.root }
  }
  try {
    const { tensors, form } = await assemble(files, open)
    const source = new SegmentedSource(tensors, close)
    return Object.assign(source, { form, ranks: Math.max(1, files.models.length, files.optimizers.length) })
  } catch (error) {
    await close()
    throw error
  }
}

async function assemble(
  { directory, models, optimizers, universal, split }: DeepSpeedFiles,
  open: (name: string) => Promise<DeepSpeedFile>,
): Promise<{ tensors: SegmentedTensor[]; form: string }> {
  const modelStates: ModelStates[] = []
  for (const name of models) modelStates.push(new ModelStates(await open(name)))
  if (universal) {
    return { tensors: await assembleUniversal({ directory, models: modelStates, split, open }), form: 'universal' }
  }
  const optimizerStates: OptimizerStates[] = []
  for (const name of optimizers) optimizerStates.push(new OptimizerStates(await open(name), optimizers.length))
  const [first] = optimizerStates
  if (!first) return { tensors: assembleStage0(modelStates[0]!), form: 'ZeRO stage 0' }
  const stage3 = first.partitioned === 'parameters'
  const stage = first.stage ?? (stage3 ? 3 : '1 or 2')
  const tensors = stage3
    ? assembleStage3(directory, modelStates, optimizerStates)
    : assembleStages12(directory, modelStates[0]!, optimizerStates)
  return { tensors, form: `ZeRO stage ${stage}` }
}

/** The files of every rank, in rank order. */
async function listFiles(directory: string): Promise<DeepSpeedFiles> {
  const names = await readdir(directory).catch((error) => {
    throw readError(directory, error)
  })
  const fail = (what: string) => new CheckpointError(`${directory} ${what}`)
  const expert = names.find((name) => EXPERT_STATES.test(name))
  if (expert) throw fail(`is of a mixture of experts (${expert}), whose experts are not put together`)
  const layer = names.find((name) => PIPELINE_STATES.test(name))
  if (layer) throw fail(`is of a pipeline of layers (${layer}), which is not put together: save the model's state_dict`)
  const universal = names.includes('zero') && !names.some((name) => OPTIMIZER_STATES.test(name))

  const byRank = (pattern: RegExp) => {
    const found = new Map<number, string>()
    for (const name of names) {
      const match = pattern.exec(name)
      if (!match) continue
      // In a universal checkpoint, the parts of the parameters are already merged.
      if (Number(match[2]) !== 0 && universal) continue
      if (Number(match[2]) !== 0) throw fail(`is of a model that was split over GPUs (${name}), which is not supported`)
      const rank = Number(match[1] ?? 0)
      if (found.has(rank)) throw fail(`has two files of rank ${rank}: ${found.get(rank)} and ${name}`)
      found.set(rank, name)
    }
    return found
  }
  const [models, optimizers] = [byRank(MODEL_STATES), byRank(OPTIMIZER_STATES)]
  if (models.size === 0 && !universal) throw fail('has no states of a model (*_model_states.pt): copy all files')
  if (names.includes('offloaded_tensors')) {
    throw fail(
      'keeps its optimizer on NVMe (offloaded_tensors), which is not read: save it with the optimizer on the CPU',
    )
  }
  const everyRank = [...models.values()].some((name) => name.startsWith('zero_'))
  const world = 1 + Math.max(-1, ...optimizers.keys(), ...(everyRank ? models.keys() : []))
  if (world > models.size + optimizers.size) throw fail(`is missing the files of most of its ${world} ranks`)
  const complete = (found: Map<number, string>, kind: string) =>
    Array.from({ length: world }, (_, rank) => {
      const name = found.get(rank)
      if (name === undefined)
        throw fail(`is missing the ${kind} states of rank ${rank} of ${world}: copy the files of all ranks`)
      return name
    })
  return {
    directory,
    models: everyRank ? complete(models, 'model') : [...models.values()],
    optimizers: optimizers.size > 0 || (everyRank && !universal) ? complete(optimizers, 'optimizer') : [],
    universal,
    split: names.some((name) => Number(MODEL_STATES.exec(name)?.[2] ?? 0) !== 0),
  }
}
