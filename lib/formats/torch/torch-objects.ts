import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import { countElements, DTYPE_BYTES, type WeightDType } from '../../io/weight-source.js'
import { InertObject, PickleGlobal } from './pickle.js'

/** A range of numbers in a torch file that tensors are views of. */
export class TorchStorage {
  constructor(
    readonly key: string,
    readonly bytes: number,
    /** Undefined for an untyped one, whose tensors state their type themselves, and for an unsupported type. */
    readonly dtype: WeightDType | undefined,
    /** torch's class, such as `torch.FloatStorage`. */
    readonly type: string,
    /** Bytes of an element in torch's count. */
    readonly elementBytes: number,
  ) {}
}

/** A tensor as torch pickles it: a view of a storage. Its shape, strides and extent have been checked. */
export class TorchTensor {
  constructor(
    readonly storage: TorchStorage,
    readonly dtype: WeightDType,
    readonly shape: readonly number[],
    /** In elements. */
    readonly strides: readonly number[],
    /** First element, from the storage's start. */
    readonly offset: number,
  ) {}
}

export const STORAGE_DTYPES: ReadonlyMap<string, WeightDType> = new Map([
  ['torch.DoubleStorage', 'float64'],
  ['torch.FloatStorage', 'float32'],
  ['torch.HalfStorage', 'float16'],
  ['torch.BFloat16Storage', 'bfloat16'],
  ['torch.LongStorage', 'int64'],
  ['torch.IntStorage', 'int32'],
  ['torch.ShortStorage', 'int16'],
  ['torch.CharStorage', 'int8'],
  ['torch.ByteStorage', 'uint8'],
  ['torch.BoolStorage', 'bool'],
])

export const UNTYPED_STORAGE = 'torch.storage.UntypedStorage'
/** Storages whose tensors are not read. Their size matters in the legacy form, where storages follow each other. */
const OTHER_STORAGES: ReadonlyMap<string, number> = new Map([
  [UNTYPED_STORAGE, 1],
  ['torch.ComplexFloatStorage', 8],
  ['torch.ComplexDoubleStorage', 16],
  ['torch.QInt8Storage', 1],
  ['torch.QUInt8Storage', 1],
  ['torch.QUInt4x2Storage', 1],
  ['torch.QUInt2x4Storage', 1],
  ['torch.QInt32Storage', 4],
])
const MAX_RANK = 64
/** Tensor classes without special behavior: when `_rebuild_from_type_v2` rebuilds one, the result is its data. */
const PLAIN_TENSORS = new Set([
  'torch.Tensor',
  'torch.nn.Parameter',
  'torch.nn.parameter.Parameter',
  'torch.nn.parameter.Buffer',
])

/**
 * The globals of a pickle, for `unpickle`: tensors, their parts, and dictionaries are built; everything else becomes an
 * InertObject, so that unneeded contents cannot cause an error.
 */
export class TorchObjects {
  readonly storages = new Map<string, TorchStorage>()
  readonly #globals = new Map<string, PickleGlobal>()

  /** @param source the file, for messages */
  constructor(private readonly source: string) {
    const allow = (name: string, call?: (args: unknown[]) => unknown) =>
      this.#globals.set(name, new PickleGlobal(name, call))
    allow('collections.OrderedDict', (args) => this.#orderedDict(args))
    allow('collections.defaultdict', () => new Map())
    allow('torch.Size', ([sizes]) => sizes)
    allow('torch._utils._rebuild_tensor', ([storage, offset, shape, strides]) =>
      this.#tensor(storage, offset, shape, strides),
    )
    allow('torch._utils._rebuild_tensor_v2', ([storage, offset, shape, strides]) =>
      this.#tensor(storage, offset, shape, strides),
    )
    allow('torch._utils._rebuild_tensor_v3', ([storage, offset, shape, strides, , , dtype]) =>
      this.#tensor(storage, offset, shape, strides, dtype),
    )
    for (const name of ['_rebuild_parameter', '_rebuild_parameter_with_state']) {
      allow(`torch._utils.${name}`, ([data]) => this.#parameter(data))
    }
    for (const name of ['_rebuild_from_type', '_rebuild_from_type_v2']) {
      allow(`torch._tensor.${name}`, ([rebuild, type, args, state]) => this.#fromType(rebuild, type, args, state))
    }
    for (const name of ['copyreg._reconstructor', 'copy_reg._reconstructor']) {
      allow(name, ([type]) => new InertObject(type instanceof PickleGlobal ? type.name : name))
    }
    for (const name of [...STORAGE_DTYPES.keys(), ...OTHER_STORAGES.keys()]) allow(name)
    for (const dtype of Object.keys(DTYPE_BYTES)) allow(`torch.${dtype}`)
  }

  findGlobal(name: string): PickleGlobal {
    return this.#globals.get(name) ?? new PickleGlobal(name, (args) => new InertObject(name, args))
  }

  /** `('storage', type, key, location, numel)`; the legacy form adds a view of another storage, or None. */
  loadPersistent(id: unknown): TorchStorage | InertObject {
    const [kind, type, key, location, count, view = null] = Array.isArray(id) ? id : []
    const known = kind === 'storage' && type instanceof PickleGlobal && typeof key === 'string'
    if (!known || !Number.isSafeInteger(count) || count < 0) throw this.#error('describes a storage in an unknown way')
    if (location === 'meta') return new InertObject('tensor on the meta device, which has no values')
    if (view !== null) throw this.#error('has storages within storages, as torch before 0.4 wrote them')
    const dtype = STORAGE_DTYPES.get(type.name)
    const elementBytes = dtype ? DTYPE_BYTES[dtype] : OTHER_STORAGES.get(type.name)
    if (elementBytes === undefined) throw this.#error(`names ${type.name} as the type of a storage`)
    const bytes = count * elementBytes

    const before = this.storages.get(key)
    if (before?.bytes === bytes && before.type === type.name) return before
    if (before) throw this.#error(`gives two sizes or types for storage ${key}`)
    const storage = new TorchStorage(key, bytes, dtype, type.name, elementBytes)
    this.storages.set(key, storage)
    return storage
  }

  #tensor(storage: unknown, offset: unknown, shape: unknown, strides: unknown, dtypeName?: unknown) {
    if (storage instanceof InertObject) return storage
    if (!(storage instanceof TorchStorage)) throw this.#error('builds a tensor on something that is not a storage')
    const dtype = dtypeName === undefined ? storage.dtype : this.#dtype(dtypeName)
    if (!dtype) {
      const type = dtypeName instanceof PickleGlobal ? dtypeName.name : storage.type
      if (type === UNTYPED_STORAGE) throw this.#error('builds a tensor of no type')
      return new InertObject(`tensor of type ${type.replace('torch.', '').replace('Storage', '')}`)
    }
    const numbers = isSizes(shape) && isSizes(strides) && shape.length === strides.length && isSizes([offset])
    if (!numbers || countElements(shape) === undefined) throw this.#error('has a tensor of an impossible shape')

    const empty = shape.includes(0)
    const last = shape.reduce((at, size, i) => at + (size - 1) * strides[i]!, offset as number)
    if (!empty && !((last + 1) * DTYPE_BYTES[dtype] <= storage.bytes)) {
      throw this.#error(
        `has a tensor of shape [${shape}] that reaches past the ${storage.bytes} bytes of storage ${storage.key}`,
      )
    }
    // Copies: the pickle still holds the lists, and could append to them.
    return new TorchTensor(storage, dtype, [...shape], [...strides], empty ? 0 : (offset as number))
  }

  #dtype(value: unknown): WeightDType | undefined {
    const name = value instanceof PickleGlobal ? value.name.replace('torch.', '') : ''
    return Object.hasOwn(DTYPE_BYTES, name) ? (name as WeightDType) : undefined
  }

  /** `rebuild(*args)` as an object of `type` with these attributes, none of which affects its values. */
  #fromType(rebuild: unknown, type: unknown, args: unknown, state: unknown): unknown {
    if (!(type instanceof PickleGlobal && rebuild instanceof PickleGlobal && Array.isArray(args))) {
      throw this.#error('rebuilds a tensor in an unknown way')
    }
    const plain = PLAIN_TENSORS.has(type.name) && rebuild.call
    return plain ? rebuild.call!(args) : new InertObject(type.name, args, state)
  }

  #parameter(data: unknown): TorchTensor | InertObject {
    if (data instanceof InertObject) return data
    if (!(data instanceof TorchTensor)) throw this.#error('has a Parameter that is not a tensor')
    return data
  }

  #orderedDict(args: unknown[]): Map<unknown, unknown> {
    if (args.length > 0) throw this.#error('has an OrderedDict in the form of Python 2; save it again with Python 3')
    return new Map()
  }

  #error(what: string): CheckpointError {
    return new CheckpointError(`${this.source} ${forError(what)}`)
  }
}

function isSizes(value: unknown): value is number[] {
  return (
    Array.isArray(value) && value.length <= MAX_RANK && value.every((size) => Number.isSafeInteger(size) && size >= 0)
  )
}
