import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import { countElements } from '../../io/weight-source.js'
import { InertObject } from './pickle.js'
import { TorchTensor } from './torch-objects.js'

type Dictionary = Map<unknown, unknown>
type NamedTensor = [name: string, tensor: TorchTensor]

/** Keys under which trainers, such as Lightning, store the model's state dict. */
const WRAPPERS = ['state_dict', 'model_state_dict', 'model', 'module']

/**
 * The state dict in a torch file: the object itself, or the dictionary of tensors in it that a trainer has wrapped.
 * @throws {CheckpointError} for a file without one, with its contents and how to convert them
 */
export function findStateDict(path: string, root: unknown): NamedTensor[] {
  if (root instanceof InertObject) throw refusal(path, root)
  if (!(root instanceof Map)) throw new CheckpointError(`${path} contains no dictionary of tensors`)
  refusePartOfDeepSpeed(path, root)
  const stateDict = chooseDictionary(path, root)
  const tensors: NamedTensor[] = []
  for (const [name, value] of stateDict) {
    if (isTensorLike(value)) throw refusedTensor(path, keyName(name), value)
    if (!(value instanceof TorchTensor)) continue
    if (typeof name !== 'string') {
      throw new CheckpointError(`${path} names a tensor ${keyName(name)}, which is not text`)
    }
    tensors.push([name, value])
  }
  if (tensors.length === 0) {
    const object = [...root.values()].find((value) => value instanceof InertObject && isModule(value))
    if (object instanceof InertObject) throw refusal(path, object)
  }
  return tensors
}

function chooseDictionary(path: string, root: Dictionary): Dictionary {
  // DeepSpeed stores frozen parameters twice.
  const module = root.has('ds_version') ? root.get('module') : undefined
  if (module instanceof Map) return module
  const holdsTensors = (map: Dictionary) =>
    [...map.values()].some((value) => value instanceof TorchTensor || isTensorLike(value))
  const nested = [...root].filter((entry): entry is [unknown, Dictionary] => {
    return entry[1] instanceof Map && holdsTensors(entry[1])
  })
  if (nested.length === 0) return root
  const wrapped = WRAPPERS.map((key) => nested.find(([name]) => name === key)).find((entry) => entry !== undefined)
  if (!wrapped && nested.length === 1 && !holdsTensors(root)) return nested[0]![1]
  // Trainers also store tensors such as random states; tensors with the same names are a second set of weights.
  const rival = nested.find((entry) => entry !== wrapped && sharesName(entry[1], wrapped?.[1] ?? new Map()))
  if (wrapped && !rival) return wrapped[1]
  const names = nested.map(([name]) => keyName(name))
  throw new CheckpointError(
    `${path} holds several dictionaries of tensors (${names.slice(0, 5).join(', ')}): save the model's own with ` +
      `python -c "import torch; torch.save(torch.load('${path}')['${names[0]}'], 'pytorch_model.bin')"`,
  )
}

/** A key of a dictionary, for a message. */
function keyName(key: unknown): string {
  return typeof key === 'object' ? 'with a key that is an object' : forError(String(key))
}

function sharesName(a: Dictionary, b: Dictionary): boolean {
  return [...a.keys()].some((name) => b.has(name))
}

/** A file of one rank lacks the other ranks' tensors; the full directory is one checkpoint. */
function refusePartOfDeepSpeed(path: string, root: Dictionary): void {
  const [shapes, module] = [root.get('param_shapes'), root.get('module')]
  const stage3 = Array.isArray(shapes) && shapes.some((group) => isPlaceholder(group, module))
  if (root.get('optimizer_state_dict') instanceof Map || stage3) {
    throw new CheckpointError(
      `${path} is one part of a DeepSpeed checkpoint: run zero-to-fp32 on the directory that has "latest" in it`,
    )
  }
}

/** ZeRO stage 3 leaves empty tensors in place of the parameters. */
function isPlaceholder(shapes: unknown, module: unknown): boolean {
  if (!(shapes instanceof Map && module instanceof Map)) return false
  return [...shapes].some(([name, shape]) => {
    const tensor = module.get(name)
    return (
      tensor instanceof TorchTensor &&
      countElements(shape) !== undefined &&
      tensor.shape.join() !== (shape as number[]).join()
    )
  })
}

/** Whether an object that was not built would have been a tensor. */
function isTensorLike(value: unknown): value is InertObject {
  return value instanceof InertObject && !isModule(value) && /tensor|parameter|_rebuild_/i.test(value.className)
}

function isModule({ state }: InertObject): boolean {
  return state instanceof Map && state.has('_modules') && state.has('_parameters')
}

function refusedTensor(path: string, name: string, { className }: InertObject): CheckpointError {
  const fail = (what: string) => new CheckpointError(`${path}: ${name} ${what}`)
  const resave = (method: string) =>
    `save it again with python -c "import torch; s = torch.load('${path}', weights_only=False); ` +
    `torch.save({k: v.${method}() for k, v in s.items()}, 'pytorch_model.bin')"`
  if (/DTensor|ShardedTensor/.test(className)) {
    return fail(
      `is a ${className.split('.').at(-1)}, of which this file holds the part of one rank: save the whole weights with ` +
        'torch.distributed.checkpoint.state_dict.get_model_state_dict(model, ' +
        'options=StateDictOptions(full_state_dict=True, cpu_offload=True))',
    )
  }
  if (className.includes('sparse')) return fail(`is a sparse tensor, and dense ones are read: ${resave('to_dense')}`)
  if (/qtensor|type QU?Int/.test(className)) {
    return fail(`is a tensor quantized by torch, and plain ones are read: ${resave('dequantize')}`)
  }
  if (className.includes('meta'))
    return fail('is a tensor on the meta device, which has no values: save a loaded model')
  return fail(`is a ${forError(className)}, which is not read: save it as a plain float32 tensor`)
}

function refusal(path: string, object: InertObject): CheckpointError {
  const { className } = object
  const convert = (load: string) =>
    `python -c "import torch; torch.save(torch.${load}.state_dict(), 'pytorch_model.bin')"`
  if (className.startsWith('__torch__.')) {
    return new CheckpointError(
      `${path} is a TorchScript program, not a state dict: take its weights out with ${convert(`jit.load('${path}')`)}`,
    )
  }
  if (isModule(object)) {
    return new CheckpointError(
      `${path} is a pickled module of class ${forError(className)}, not a state dict: where the class is installed, and ` +
        `if you trust the file (loading it runs code in it), run ${convert(`load('${path}', weights_only=False)`)}`,
    )
  }
  return new CheckpointError(
    `${path} asks for ${forError(className)}, which is neither a tensor nor a plain container, so it is refused; ` +
      'ask its author to save only the state_dict, preferably as safetensors',
  )
}
