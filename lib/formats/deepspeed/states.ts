/** The contents of a DeepSpeed checkpoint's files, checked as far as one file can be. */
import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import { countElements, type WeightDType, type WeightSource } from '../../io/weight-source.js'
import { type Segment, wholeOf } from '../segments.js'
import { InertObject } from '../torch/pickle.js'
import type { TorchObject } from '../torch/torch-bin.js'
import { TorchTensor } from '../torch/torch-objects.js'

export type Dictionary = Map<unknown, unknown>
type Shapes = ReadonlyMap<string, readonly number[]>

/** An open file of a checkpoint. */
export interface DeepSpeedFile {
  path: string
  object: TorchObject
  root: unknown
}

/** `…_model_states.pt`: names, shapes, and the tensors that the optimizer does not hold. */
export class ModelStates {
  readonly path: string
  /** Of the trained parameters, by group, in the order of the optimizer. Stage 0 has none. */
  readonly shapes: readonly Shapes[] | undefined
  readonly frozenShapes: Shapes
  /** Maps each name to the parameter that it is tied to. */
  readonly shared: ReadonlyMap<string, string>
  readonly buffers: ReadonlySet<string>
  /** Tensors of the module prefixed `module.`, and fragments of frozen parameters prefixed `frozen.`. */
  readonly tensors: WeightSource

  constructor({ path, object, root }: DeepSpeedFile) {
    this.path = path
    const model = dictionaryOf(root)
    if (!model) throw this.fail('holds something other than the dictionary that DeepSpeed writes')
    if (isExpertList(model.get('ds_autoep_layers')) || isExpertList(model.get('autoep_layers'))) {
      throw this.fail('is of a mixture of experts, whose experts are not put together')
    }
    const lists = model.get('param_shapes') ?? undefined
    if (lists !== undefined) this.shapes = shapesIn(lists, (what) => this.fail(what))
    const frozen = model.get('frozen_param_shapes') ?? undefined
    this.frozenShapes = frozen === undefined ? new Map() : shapesIn(frozen, (what) => this.fail(what))[0]!
    this.shared = this.#namesIn(model.get('shared_params'))
    const buffers = model.get('buffer_names')
    this.buffers = new Set(Array.isArray(buffers) ? buffers.filter((name) => typeof name === 'string') : [])
    this.tensors = object.source([...this.#moduleIn(model), ...this.#frozenIn(model)])
  }

  /** A dictionary, or pairs. */
  #namesIn(value: unknown): Map<string, string> {
    const pairs = value instanceof Map ? [...value] : Array.isArray(value) ? value : []
    const isPair = (pair: unknown) =>
      Array.isArray(pair) && pair.length === 2 && pair.every((name) => typeof name === 'string')
    if (!pairs.every(isPair)) throw this.fail('has shared_params that are not names')
    return new Map(pairs as [string, string][])
  }

  #frozenIn(model: Dictionary): [string, TorchTensor][] {
    const fragments = dictionaryOf(model.get('frozen_param_fragments'))
    return [...this.frozenShapes.keys()].map((name) => {
      const fragment = fragments?.get(name)
      if (fragment instanceof TorchTensor) return [`frozen.${name}`, fragment]
      throw this.fail(`has no fragment of the frozen parameter ${name}`)
    })
  }

  #moduleIn(model: Dictionary): [string, TorchTensor][] {
    return [...(dictionaryOf(model.get('module')) ?? [])].flatMap(([name, tensor]): [string, TorchTensor][] => {
      return typeof name === 'string' && tensor instanceof TorchTensor ? [[`module.${name}`, tensor]] : []
    })
  }

  fail(what: string): CheckpointError {
    return new CheckpointError(`${this.path} ${forError(what)}`)
  }
}

/** `…_optim_states.pt`: a rank's part of the float32 weights. */
export class OptimizerStates {
  readonly path: string
  /** Undefined if missing from the file, as DeepSpeed's BF16_Optimizer omits it. */
  readonly stage: number | undefined
  /** Stage 3 splits each parameter; stages 1 and 2 split a full group of them. */
  readonly partitioned: 'parameters' | 'groups'
  readonly groups: readonly Segment[]
  readonly dtype: WeightDType
  /** Padding elements after each parameter of each group, if `parameter_alignment` is on. */
  readonly paddings: readonly (readonly number[])[] | undefined
  /** Up to version 0.8, the shapes are here and not in the model states. */
  readonly shapes: readonly Shapes[] | undefined

  constructor({ path, object, root }: DeepSpeedFile, world: number) {
    this.path = path
    const inner = dictionaryOf(dictionaryOf(root)?.get('optimizer_state_dict'))
    if (!inner) throw this.#fail(`has no optimizer_state_dict${namedInstead(root)}`)
    const stage = inner.get('zero_stage')
    const number = stage instanceof InertObject ? stage.args[0] : stage // an enumeration since 0.5
    this.stage = typeof number === 'number' ? number : undefined
    if (this.stage !== undefined && ![0, 1, 2, 3].includes(this.stage)) {
      throw this.#fail(`is of ZeRO stage ${this.stage}, and 0 to 3 are known`)
    }
    const [whole, cut] = [inner.get('single_partition_of_fp32_groups'), inner.get('fp32_flat_groups')]
    this.partitioned = cut === undefined ? 'groups' : 'parameters'
    const groups = cut ?? whole
    if (groups === undefined) {
      const old = inner.has('local_sub_partitions_of_fp32_groups') ? ', as stage 1 before version 0.5 wrote it' : ''
      throw this.#fail(`has neither single_partition_of_fp32_groups nor fp32_flat_groups${old}`)
    }
    if (isExpertList(inner.get('ds_zero_partition_groups'))) {
      throw this.#fail('is of a mixture of experts, whose experts are not put together')
    }
    if (!isTensorList(groups)) throw this.#fail(`has flat groups that are not tensors${namedInstead(groups)}`)
    const count = inner.get('partition_count')
    const counts = (Array.isArray(count) ? count : [count]).map((one) => (typeof one === 'number' ? one : 0))
    if (Math.max(...counts) !== world) {
      throw this.#fail(`is one of ${Math.max(...counts)} ranks, and ${world} are here: copy all ranks' files`)
    }
    const source = object.source(groups.map((tensor, i) => [String(i), tensor]))
    this.groups = groups.map((_, i) => wholeOf(source, String(i)))
    this.dtype = groups[0]!.dtype
    if (groups.some(({ dtype }) => dtype !== this.dtype)) throw this.#fail('has flat groups of several types')
    this.paddings = this.#paddingsIn(inner.get('param_alignment_paddings') ?? undefined)
    const lists = dictionaryOf(root)?.get('param_shapes') ?? undefined
    if (lists !== undefined) this.shapes = shapesIn(lists, (what) => this.#fail(what))
  }

  #paddingsIn(value: unknown): number[][] | undefined {
    if (value === undefined) return undefined
    const isList = (list: unknown) =>
      Array.isArray(list) && list.every((size) => Number.isSafeInteger(size) && size >= 0)
    if (!Array.isArray(value) || !value.every(isList)) throw this.#fail('has paddings that are not lists of sizes')
    return value
  }

  #fail(what: string): CheckpointError {
    return new CheckpointError(`${this.path} ${forError(what)}`)
  }
}

/** A dictionary for each group, or (before version 0.5) one for all. */
function shapesIn(lists: unknown, fail: (what: string) => CheckpointError): Shapes[] {
  const names = new Set<string>()
  return (Array.isArray(lists) ? lists : [lists]).map((list) => {
    const shapes = new Map<string, readonly number[]>()
    for (const [name, shape] of dictionaryOf(list) ?? [['', undefined]]) {
      if (typeof name !== 'string' || countElements(shape) === undefined) {
        throw fail('has parameter shapes that are not names with sizes')
      }
      if (names.has(name)) throw fail(`lists ${name} twice`)
      names.add(name)
      shapes.set(name, shape as number[])
    }
    return shapes
  })
}

function dictionaryOf(value: unknown): Dictionary | undefined {
  return value instanceof Map ? value : undefined
}

function isTensorList(value: unknown): value is TorchTensor[] {
  return Array.isArray(value) && value.length > 0 && value.every((item) => item instanceof TorchTensor)
}

function isExpertList(value: unknown): boolean {
  return Array.isArray(value) && value.length > 0
}

/** The class of an object found in place of the expected value. */
function namedInstead(value: unknown): string {
  const values = value instanceof Map ? [...value.values()] : Array.isArray(value) ? value : [value]
  const inert = values.find((item) => item instanceof InertObject)
  return inert instanceof InertObject ? `, but ${inert.className}, which is not built` : ''
}
