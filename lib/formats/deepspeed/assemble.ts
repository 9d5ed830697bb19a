/** Assembles the parameters of a DeepSpeed checkpoint from the ranks' files. */
import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import { countElements, DTYPE_BYTES, tensorBytes } from '../../io/weight-source.js'
import { type SegmentedTensor, sliceOf, wholeOf } from '../segments.js'
import type { ModelStates, OptimizerStates } from './states.js'

/** Without ZeRO, the module has everything, in its original type. */
export function assembleStage0(model: ModelStates): SegmentedTensor[] {
  if (model.shapes !== undefined) {
    throw model.fail('is of ZeRO, and the optimizer states of all ranks (*_optim_states.pt) are missing: copy them too')
  }
  const tensors: SegmentedTensor[] = []
  addModule(tensors, model)
  if (tensors.length === 0) throw model.fail('has no tensors in its module')
  return tensors
}

/**
 * Stages 1 and 2: the parameters of a group are concatenated, with padding at the end of the group, and each rank holds
 * an equal part of that.
 */
export function assembleStages12(
  where: string,
  model: ModelStates,
  ranks: readonly OptimizerStates[],
): SegmentedTensor[] {
  const fail = (what: string) => new CheckpointError(`${where} is incomplete or damaged: ${forError(what)}`)
  const { dtype, groups, paddings } = ranks[0]!
  const shapes = model.shapes ?? ranks[0]!.shapes
  if (!shapes) throw model.fail('has no param_shapes: the model states and the optimizer states are of different saves')
  if (ranks.some((rank) => rank.dtype !== dtype || rank.groups.length !== groups.length)) {
    throw fail('its ranks hold groups of different numbers or types')
  }
  if (shapes.length !== groups.length || (paddings && paddings.length !== groups.length)) {
    throw fail(`its model has ${shapes.length} groups of parameters, and its optimizer ${groups.length}`)
  }
  const size = DTYPE_BYTES[dtype]
  const tensors: SegmentedTensor[] = []
  for (const [g, group] of shapes.entries()) {
    const parts = ranks.map((rank) => rank.groups[g]!)
    const length = parts.reduce((sum, part) => sum + part.length, 0)
    const padding = paddings?.[g]
    if (padding && padding.length !== group.size) throw fail('it has paddings for another number of parameters')
    let offset = 0
    for (const [i, [name, shape]] of [...group].entries()) {
      const bytes = tensorBytes(shape, dtype)
      if (bytes === undefined) throw fail(`${name} has an impossible size`)
      if (offset + bytes > length) throw fail(`its parameters need more than the ${length} bytes of group ${g}`)
      tensors.push({ name, dtype, shape, bytes, segments: sliceOf(parts, offset, bytes) })
      offset += bytes + size * (padding?.[i] ?? 0)
    }
    // DeepSpeed pads a group to twice the number of ranks.
    const aligned = (bytes: number) => Math.ceil(bytes / size / (2 * ranks.length))
    if (aligned(offset) !== aligned(length)) {
      throw fail(`the parameters of group ${g} need ${offset} bytes, and ${length} are there`)
    }
  }
  addFrozen(tensors, [model], fail)
  addShared(tensors, model)
  addModule(tensors, model)
  return tensors
}

/** Stage 3: each parameter is split into equal parts, one per rank, with the last one padded. */
export function assembleStage3(
  where: string,
  models: readonly ModelStates[],
  ranks: readonly OptimizerStates[],
): SegmentedTensor[] {
  const fail = (what: string) => new CheckpointError(`${where} is incomplete or damaged: ${forError(what)}`)
  const [model, { dtype }] = [models[0]!, ranks[0]!]
  if (models.length !== ranks.length) throw fail(`it has the model states of ${models.length} of ${ranks.length} ranks`)
  const shapes = model.shapes ?? ranks[0]!.shapes
  if (!shapes) throw model.fail('has no param_shapes')
  const size = DTYPE_BYTES[dtype]
  const lengths = ranks.map(({ groups }) => groups.reduce((sum, { length }) => sum + length, 0))
  const [held] = lengths as [number]
  if (ranks.some((rank, i) => lengths[i] !== held || rank.dtype !== dtype)) {
    throw fail('its ranks hold parts of different lengths or types')
  }
  const tensors: SegmentedTensor[] = []
  let offset = 0
  for (const [name, shape] of shapes.flatMap((group) => [...group])) {
    const bytes = tensorBytes(shape, dtype)
    if (bytes === undefined) throw fail(`${name} has an impossible size`)
    const part = Math.ceil(bytes / size / ranks.length) * size
    if (offset + part > held) throw fail(`its parameters need more than the ${held} bytes of each rank`)
    const parts = ranks.flatMap(({ groups }) => sliceOf(groups, offset, part))
    tensors.push({ name, dtype, shape, bytes, segments: sliceOf(parts, 0, bytes) })
    offset += part
  }
  if (offset !== held) throw fail(`its parameters need ${offset} bytes of each rank, and ${held} are there`)
  addFrozen(tensors, models, fail)
  addBuffers(tensors, model)
  addShared(tensors, model)
  return tensors
}

/** Adds the frozen parameters: in stage 3 from the fragments of all ranks. */
export function addFrozen(
  tensors: SegmentedTensor[],
  models: readonly ModelStates[],
  fail: (what: string) => CheckpointError,
): void {
  for (const [name, shape] of models[0]!.frozenShapes) {
    const key = `frozen.${name}`
    const { dtype } = models[0]!.tensors.tensors.get(key)!
    const bytes = tensorBytes(shape, dtype)
    const parts = models.flatMap((model) =>
      model.tensors.tensors.get(key)?.dtype === dtype ? [wholeOf(model.tensors, key)] : [],
    )
    const there = parts.reduce((sum, { length }) => sum + length, 0)
    if (bytes === undefined || parts.length < models.length || there < bytes) {
      throw fail(`the fragments of the frozen parameter ${name} do not make it up`)
    }
    if (!tensors.some((tensor) => tensor.name === name)) {
      tensors.push({ name, dtype, shape, bytes, segments: sliceOf(parts, 0, bytes) })
    }
  }
}

/** Adds the names that share another one's parameter. */
export function addShared(tensors: SegmentedTensor[], model: ModelStates): void {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  for (const [name, owner] of model.shared) {
    const tied = byName.get(owner)
    if (!tied || byName.has(name)) continue
    const tensor = { ...tied, name, sameAs: owner }
    byName.set(name, tensor)
    tensors.push(tensor)
  }
}

/** Adds the module's buffers, which are complete in every form. */
export function addBuffers(tensors: SegmentedTensor[], model: ModelStates): void {
  addModule(tensors, model, (name) => model.buffers.has(name))
}

/**
 * Adds the tensors that only the module has: buffers, and untrained parameters, none of which stage 1 lists. A tensor
 * that shares its values with a parameter in the module is tied to it.
 */
export function addModule(
  tensors: SegmentedTensor[],
  model: ModelStates,
  wanted: (name: string) => boolean = () => true,
): void {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  const infos = [...model.tensors.tensors.values()].filter(({ name }) => name.startsWith('module.'))
  const nameOf = (key: string) => key.replace(/^module\./, '')
  // Of tied tensors, those that the optimizer holds come first: the others are tied to them.
  const ties = new Map<string, string>()
  for (const { name, sameAs } of infos) {
    const view = sameAs ?? name
    if (byName.has(nameOf(name)) && !ties.has(view)) ties.set(view, nameOf(name))
  }
  for (const info of infos) {
    const name = nameOf(info.name)
    if (byName.has(name) || !wanted(name)) continue
    const view = info.sameAs ?? info.name
    const owner = ties.get(view)
    const tied = owner === undefined ? undefined : byName.get(owner)
    const tensor =
      tied && countElements(tied.shape) === countElements(info.shape)
        ? { ...tied, name, sameAs: tied.sameAs ?? tied.name }
        : { ...info, name, sameAs: undefined, segments: [wholeOf(model.tensors, info.name)] }
    if (!tied && info.bytes > 0) ties.set(view, name)
    byName.set(name, tensor)
    tensors.push(tensor)
  }
}
