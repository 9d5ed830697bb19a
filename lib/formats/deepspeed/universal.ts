/** Universal checkpoints, as DeepSpeed's ds_to_universal.py makes them: a directory for each parameter. */
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import { tensorBytes } from '../../io/weight-source.js'
import { type SegmentedTensor, sliceOf, wholeOf } from '../segments.js'
import { TorchTensor } from '../torch/torch-objects.js'
import { addBuffers, addFrozen, addModule, addShared } from './assemble.js'
import type { DeepSpeedFile, ModelStates } from './states.js'

interface UniversalFiles {
  directory: string
  /** The model states of all ranks in stage 3, else one or none. */
  models: readonly ModelStates[]
  /** Whether the model states are those of one part of a model that was split over GPUs. */
  split: boolean
  /** Opens a file by its path within the directory. */
  open(name: string): Promise<DeepSpeedFile>
}

/**
 * The float32 weights. Converted from stages 1 and 2, a tensor is in a dictionary in its original shape; from stage 3,
 * it is flat, and the model states have its shape.
 */
export async function assembleUniversal({
  directory,
  models,
  split,
  open,
}: UniversalFiles): Promise<SegmentedTensor[]> {
  const fail = (what: string) => new CheckpointError(`${directory} is incomplete or damaged: ${forError(what)}`)
  const entries = await readdir(path.join(directory, 'zero'), { withFileTypes: true })
  const names = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
  if (names.length === 0) throw fail('there are no parameters in its directory zero')
  const [model] = models
  const shapes = new Map((model?.shapes ?? []).flatMap((group) => [...group]))
  const found = new Map<string, SegmentedTensor>()
  for (const name of names) {
    found.set(name, parameter(name, await open(path.join('zero', name, 'fp32.pt')), shapes.get(name)))
  }
  // The converter also writes untrained tensors, as float32 copies of 16-bit values; the model states have the
  // originals.
  const tensors = [...shapes.keys()].flatMap((name) => found.get(name) ?? [])
  if (model) {
    addFrozen(tensors, models, fail)
    addShared(tensors, model)
    const stage3 = models.length > 1 || path.basename(model.path).startsWith('zero_pp_rank_')
    if (stage3 || split) addBuffers(tensors, model)
    else addModule(tensors, model)
  }
  const known = new Set(tensors.map(({ name }) => name))
  for (const [name, tensor] of found) if (!known.has(name)) tensors.push(tensor)
  const missing = [...shapes.keys()].filter((name) => !known.has(name))
  if (missing.length > 0) throw fail(`zero/${missing[0]} is missing`)
  return tensors
}

function parameter(name: string, file: DeepSpeedFile, shape: readonly number[] | undefined): SegmentedTensor {
  const fail = (what: string) => new CheckpointError(`${file.path} ${forError(what)}`)
  const holder = file.root instanceof Map ? file.root : undefined
  if (holder?.get('is_expert_param') === true) throw fail('is of an expert, and experts are not put together')
  const tensor = holder ? holder.get('param') : file.root
  if (!(tensor instanceof TorchTensor)) throw fail('holds no tensor of the parameter')
  if (!holder && !shape) throw fail('holds a flat tensor, and the model states (*_model_states.pt) lack its shape')
  const source = file.object.source([[name, tensor]])
  const whole = wholeOf(source, name)
  if (holder) return { name, dtype: tensor.dtype, shape: tensor.shape, bytes: whole.length, segments: [whole] }
  const bytes = tensorBytes(shape, tensor.dtype)
  // For a parameter with fewer elements than ranks, older versions append padding.
  if (bytes === undefined || bytes > whole.length) throw fail(`has ${whole.length} bytes, too few for [${shape}]`)
  return { name, dtype: tensor.dtype, shape: shape!, bytes, segments: sliceOf([whole], 0, bytes) }
}
