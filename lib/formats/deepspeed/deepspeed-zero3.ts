/**
 * DeepSpeed ZeRO-3 checkpoints, as DeepSpeed 0.9.2 and later write them: per rank a file with the names and shapes of
 * the parameters, and one with its part of the float32 masters. What is done with them is what DeepSpeed's own
 * zero_to_fp32.py does (github.com/microsoft/DeepSpeed, deepspeed/utils/zero_to_fp32.py), without ever having more of
 * a parameter in memory than the piece that is written.
 */
import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import { countElements, DTYPE_BYTES, tensorBytes, type WeightDType, type WeightSource } from '../../io/weight-source.js'
import { type Segment, SegmentedSource, type SegmentedTensor, sliceOf, wholeOf } from '../segments.js'
import { openTorchObject, type TorchObject } from '../torch/torch-bin.js'
import { TorchTensor } from '../torch/torch-objects.js'
import { HandlePool, readError } from '../weight-file.js'
import { isInertInDeepSpeed } from './deepspeed-objects.js'

type Dictionary = Map<unknown, unknown>

/** The files of one rank. */
interface RankFiles {
  model: string
  optimizer: string
}

const MODEL_STATES = /^zero_pp_rank_(\d+)_mp_rank_(\d+)_model_states\.pt$/
const OPTIMIZER_STATES = /^(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt$/

/** The directory of a DeepSpeed checkpoint's files: the one that `latest` names, or the directory itself. */
export async function findDeepSpeedFiles(directory: string): Promise<string | undefined> {
  const holdsFiles = async (where: string) => {
    const names = await readdir(where).catch(() => [])
    return names.some((name) => name.endsWith('_model_states.pt') || name.endsWith('_optim_states.pt'))
  }
  if (await holdsFiles(directory)) return directory
  const latest = path.join(directory, 'latest')
  const size = (await stat(latest).catch(() => undefined))?.size
  if (size === undefined) return undefined
  const tag = size > 1000 ? '' : (await readFile(latest, 'utf8')).trim()
  if (!tag || tag !== path.basename(tag) || ['.', '..'].includes(tag) || /[\\\0]/.test(tag)) {
    throw new CheckpointError(`${latest} names "${forError(tag)}", which is not a directory beside it`)
  }
  const named = path.join(directory, tag)
  if (await holdsFiles(named)) return named
  throw new CheckpointError(`${latest} names ${forError(tag)}, and there are no states of DeepSpeed in ${named}`)
}

/**
 * Opens the float32 weights of a ZeRO-3 checkpoint of any number of ranks, with its buffers, frozen parameters (which
 * keep their type) and shared ones (tied to the one that they share).
 * @param directory the one with `latest` in it, or that of the files themselves
 * @throws CheckpointError when a rank is missing, a file is damaged, or the parts do not make up the parameters
 */
export async function openDeepSpeedZero3(directory: string): Promise<WeightSource> {
  const where = await findDeepSpeedFiles(directory)
  if (!where)
    throw new CheckpointError(`${directory} is not a DeepSpeed checkpoint: it has neither "latest" nor states`)
  const ranks = await findRanks(where)
  const pool = new HandlePool()
  const opened: TorchObject[] = []
  const close = async () => {
    await Promise.all(opened.map((object) => object.close()))
  }
  const open = async (name: string): Promise<Dictionary> => {
    const file = path.join(where, name)
    const object = await openTorchObject(file, pool, { isInert: isInertInDeepSpeed })
    opened.push(object)
    if (object.root instanceof Map) return object.root
    throw new CheckpointError(`${file} holds something other than the dictionary that DeepSpeed writes`)
  }
  try {
    const states: RankState[] = []
    for (const files of ranks) {
      const model = await open(files.model)
      const modelObject = opened.at(-1)!
      const optimizer = await open(files.optimizer)
      states.push(new RankState(where, files, model, modelObject, optimizer, opened.at(-1)!, ranks.length))
    }
    return new SegmentedSource(assemble(where, states), close)
  } catch (error) {
    await close()
    throw error
  }
}

/** The files of every rank, in the order of the ranks. */
async function findRanks(where: string): Promise<RankFiles[]> {
  const names = await readdir(where).catch((error) => {
    throw readError(where, error)
  })
  const fail = (what: string) => new CheckpointError(`${where} ${what}`)
  const byRank = (pattern: RegExp) => {
    const found = new Map<number, string>()
    for (const name of names) {
      const [, rank, part] = pattern.exec(name) ?? []
      if (rank === undefined) continue
      if (Number(part) !== 0) throw fail(`is of a model that was split over GPUs (${name}), which is not supported`)
      if (found.has(Number(rank))) throw fail(`has two files of rank ${rank}: ${found.get(Number(rank))} and ${name}`)
      found.set(Number(rank), name)
    }
    return found
  }
  const [models, optimizers] = [byRank(MODEL_STATES), byRank(OPTIMIZER_STATES)]
  if (models.size === 0 || optimizers.size === 0) {
    throw fail('has no states of ZeRO stage 3 (zero_pp_rank_*_model_states.pt and *_optim_states.pt)')
  }
  const world = 1 + Math.max(...models.keys(), ...optimizers.keys())
  if (world > models.size + optimizers.size) throw fail(`lacks the states of most of its ${world} ranks`)
  return Array.from({ length: world }, (_, rank) => {
    const [model, optimizer] = [models.get(rank), optimizers.get(rank)]
    if (model !== undefined && optimizer !== undefined) return { model, optimizer }
    throw fail(`lacks the ${model ? 'optimizer' : 'model'} states of rank ${rank} of ${world}; copy all ranks' files`)
  })
}

/** What one rank's two files say. */
class RankState {
  /** The float32 masters, group after group, as one. */
  readonly flat: readonly Segment[]
  readonly flatDType: WeightDType
  readonly shapes: ReadonlyMap<string, readonly number[]>
  readonly frozenShapes: ReadonlyMap<string, readonly number[]>
  readonly shared: ReadonlyMap<string, string>
  /** Buffers and fragments of frozen parameters, prefixed `buffer.` and `frozen.`. */
  readonly others: WeightSource

  constructor(
    private readonly where: string,
    private readonly files: RankFiles,
    model: Dictionary,
    modelObject: TorchObject,
    optimizer: Dictionary,
    optimizerObject: TorchObject,
    world: number,
  ) {
    const inner = dictionary(optimizer.get('optimizer_state_dict'))
    if (!inner) throw this.fail(files.optimizer, 'has no optimizer_state_dict')
    const stage = inner.get('zero_stage')
    // Newer versions store an enumeration, of which the reader makes nothing; the groups' name tells the stage too.
    if (typeof stage === 'number' && stage !== 3)
      throw this.fail(files.optimizer, `is of ZeRO stage ${stage}; 3 is read`)
    const groups = inner.get('fp32_flat_groups')
    if (!isTensorList(groups)) throw this.fail(files.optimizer, 'has no fp32_flat_groups, which ZeRO stage 3 writes')
    const count = inner.get('partition_count')
    const partitions = Array.isArray(count) ? Math.max(...count.map(Number)) : Number(count)
    if (partitions !== world) {
      throw this.fail(files.optimizer, `is one of ${partitions} ranks, and ${world} are here; copy all ranks' files`)
    }
    const source = optimizerObject.source(groups.map((tensor, i) => [String(i), tensor]))
    this.flat = groups.map((_, i) => wholeOf(source, String(i)))
    this.flatDType = groups[0]!.dtype
    if (groups.some(({ dtype }) => dtype !== this.flatDType)) {
      throw this.fail(files.optimizer, 'has flat groups of several types')
    }

    const lists = model.get('param_shapes')
    if (!Array.isArray(lists)) throw this.fail(files.model, 'has no param_shapes')
    this.shapes = this.shapesIn(lists)
    const frozen = model.get('frozen_param_shapes') ?? null
    this.frozenShapes = frozen === null ? new Map() : this.shapesIn([frozen])
    this.shared = this.namesIn(model.get('shared_params'))
    this.others = modelObject.source([...this.frozenIn(model), ...this.buffersIn(model)])
  }

  private shapesIn(lists: unknown[]): Map<string, readonly number[]> {
    const shapes = new Map<string, readonly number[]>()
    for (const list of lists) {
      for (const [name, shape] of dictionary(list) ?? [['', undefined]]) {
        if (typeof name !== 'string' || countElements(shape) === undefined) {
          throw this.fail(this.files.model, 'has parameter shapes that are not names with sizes')
        }
        if (shapes.has(name)) throw this.fail(this.files.model, `lists ${name} twice`)
        shapes.set(name, shape as number[])
      }
    }
    return shapes
  }

  private namesIn(value: unknown): Map<string, string> {
    const pairs = [...(dictionary(value) ?? [])]
    if (pairs.some((pair) => pair.some((name) => typeof name !== 'string'))) {
      throw this.fail(this.files.model, 'has shared_params that are not names')
    }
    return new Map(pairs as [string, string][])
  }

  private frozenIn(model: Dictionary): [string, TorchTensor][] {
    const fragments = dictionary(model.get('frozen_param_fragments'))
    return [...this.frozenShapes.keys()].map((name) => {
      const fragment = fragments?.get(name)
      if (fragment instanceof TorchTensor) return [`frozen.${name}`, fragment]
      throw this.fail(this.files.model, `has no fragment of the frozen parameter ${name}`)
    })
  }

  private buffersIn(model: Dictionary): [string, TorchTensor][] {
    const names = model.get('buffer_names')
    const module = dictionary(model.get('module'))
    return (Array.isArray(names) ? names : []).flatMap((name): [string, TorchTensor][] => {
      const buffer = module?.get(name)
      return typeof name === 'string' && buffer instanceof TorchTensor ? [[`buffer.${name}`, buffer]] : []
    })
  }

  fail(file: string, what: string): CheckpointError {
    return new CheckpointError(`${path.join(this.where, file)} ${forError(what)}`)
  }
}

function dictionary(value: unknown): Dictionary | undefined {
  return value instanceof Map ? value : undefined
}

function isTensorList(value: unknown): value is TorchTensor[] {
  return Array.isArray(value) && value.length > 0 && value.every((item) => item instanceof TorchTensor)
}

/** Each parameter is cut into as many equal parts as there are ranks, the last one padded. */
function assemble(where: string, ranks: readonly RankState[]): SegmentedTensor[] {
  const first = ranks[0]!
  const size = DTYPE_BYTES[first.flatDType]
  const lengths = ranks.map(({ flat }) => flat.reduce((sum, { length }) => sum + length, 0))
  const fail = (what: string) => new CheckpointError(`${where} is not whole: ${forError(what)}`)
  if (ranks.some(({ flatDType }, i) => lengths[i] !== lengths[0] || flatDType !== first.flatDType)) {
    throw fail('its ranks hold parts of different lengths or types')
  }
  const tensors: SegmentedTensor[] = []
  let offset = 0
  for (const [name, shape] of first.shapes) {
    const bytes = tensorBytes(shape, first.flatDType)
    if (bytes === undefined) throw fail(`${name} is of an impossible size`)
    const part = Math.ceil(bytes / size / ranks.length) * size
    if (offset + part > lengths[0]!) throw fail(`its parameters need more than the ${lengths[0]} bytes of each rank`)
    const parts = ranks.flatMap(({ flat }) => sliceOf(flat, offset, part))
    tensors.push({ name, dtype: first.flatDType, shape, bytes, segments: sliceOf(parts, 0, bytes) })
    offset += part
  }
  if (offset !== lengths[0]) throw fail(`its parameters need ${offset} bytes of each rank, and ${lengths[0]} are there`)

  for (const [name, shape] of first.frozenShapes) tensors.push(assembleFrozen(name, shape, ranks, fail))
  for (const [key, info] of first.others.tensors) {
    const name = key.replace(/^buffer\./, '')
    if (key.startsWith('buffer.') && !tensors.some((tensor) => tensor.name === name)) {
      tensors.push({ ...info, name, sameAs: undefined, segments: [wholeOf(first.others, key)] })
    }
  }
  for (const [name, owner] of first.shared) {
    const tied = tensors.find((tensor) => tensor.name === owner)
    if (tied && !tensors.some((tensor) => tensor.name === name)) tensors.push({ ...tied, name, sameAs: owner })
  }
  return tensors
}

function assembleFrozen(
  name: string,
  shape: readonly number[],
  ranks: readonly RankState[],
  fail: (what: string) => CheckpointError,
): SegmentedTensor {
  const key = `frozen.${name}`
  const infos = ranks.map(({ others }) => others.tensors.get(key))
  const dtype = infos[0]!.dtype
  const bytes = tensorBytes(shape, dtype)
  const parts = ranks.filter((_, i) => infos[i]?.dtype === dtype).map(({ others }) => wholeOf(others, key))
  const there = parts.reduce((sum, { length }) => sum + length, 0)
  if (bytes === undefined || parts.length < ranks.length || there < bytes) {
    throw fail(`the fragments of the frozen parameter ${name} do not make it up`)
  }
  return { name, dtype, shape, bytes, segments: sliceOf(parts, 0, bytes) }
}
