import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import { countElements, DTYPE_BYTES, type WeightDType } from '../../io/weight-source.js'
import { InertObject, PickleGlobal } from './pickle.js'

/** A run of numbers in a torch file that tensors are views of. */
export class TorchStorage {
  constructor(
    readonly key: string,
    readonly bytes: number,
    /** Undefined for an untyped one, whose tensors say their type themselves. */
    readonly dtype: WeightDType | undefined,
  ) {}
}

/** A tensor as torch pickles it: a view of a storage. Its shape, strides and reach have been checked. */
export class TorchTensor {
  constructor(
    readonly storage: TorchStorage,
    readonly dtype: WeightDType,
    readonly shape: readonly number[],
    /** In elements. */
    readonly strides: readonly number[],
    /** First element, counted from the storage's start. */
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
const MAX_RANK = 64

/** What a pickle of tensors may name, for `unpickle`: tensors, their parts, and the ordered dictionary. */
export class TorchObjects {
  readonly storages = new Map<string, TorchStorage>()
  readonly #globals = new Map<string, PickleGlobal>()

  /**
   * @param source the file, for messages
   * @param isInert names further classes that a pickle may mention; nothing is made of their objects
   */
  constructor(
    private readonly source: string,
    private readonly isInert: (name: string) => boolean = () => false,
  ) {
    const allow = (name: string, call?: (args: unknown[]) => unknown) =>
      this.#globals.set(name, new PickleGlobal(name, call))
    allow('collections.OrderedDict', (args) => this.#orderedDict(args))
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
    allow('torch._utils._rebuild_parameter', ([data]) => this.#parameter(data))
    allow('torch._utils._rebuild_parameter_with_state', ([data]) => this.#parameter(data))
    for (const name of [...STORAGE_DTYPES.keys(), UNTYPED_STORAGE]) allow(name)
    for (const dtype of Object.keys(DTYPE_BYTES)) allow(`torch.${dtype}`)
  }

  findGlobal(name: string): PickleGlobal | undefined {
    const known = this.#globals.get(name)
    if (known || !this.isInert(name)) return known
    return new PickleGlobal(name, () => new InertObject(name))
  }

  /** `('storage', type, key, location, numel)`; the legacy form adds a view of another storage, or None. */
  loadPersistent(id: unknown): TorchStorage {
    const [kind, type, key, location, count, view = null] = Array.isArray(id) ? id : []
    const known = kind === 'storage' && type instanceof PickleGlobal && typeof key === 'string'
    if (!known || !Number.isSafeInteger(count) || count < 0) throw this.#error('describes a storage in an unknown way')
    if (location === 'meta') throw this.#error('holds tensors on the meta device, which have no values')
    if (view !== null) throw this.#error('has storages within storages, as torch before 0.4 wrote them')
    const dtype = STORAGE_DTYPES.get(type.name)
    if (!dtype && type.name !== UNTYPED_STORAGE) throw this.#error(`names ${type.name} as the type of a storage`)
    const bytes = count * (dtype ? DTYPE_BYTES[dtype] : 1)

    const before = this.storages.get(key)
    if (before?.bytes === bytes && before.dtype === dtype) return before
    if (before) throw this.#error(`gives two sizes or types for storage ${key}`)
    const storage = new TorchStorage(key, bytes, dtype)
    this.storages.set(key, storage)
    return storage
  }

  #tensor(storage: unknown, offset: unknown, shape: unknown, strides: unknown, dtypeName?: unknown): TorchTensor {
    if (!(storage instanceof TorchStorage)) throw this.#error('builds a tensor on something that is not a storage')
    const dtype = dtypeName === undefined ? storage.dtype : this.#dtype(dtypeName)
    if (!dtype) throw this.#error('builds a tensor of no type')
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

  #parameter(data: unknown): TorchTensor {
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
