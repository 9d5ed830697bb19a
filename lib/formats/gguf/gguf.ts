import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import { countElements } from '../../io/weight-source.js'
import { type HandlePool, WeightFile } from '../weight-file.js'
import {
  align,
  DEFAULT_ALIGNMENT,
  GGUF_MAGIC,
  type GgufTensorType,
  ggufTensorBytes,
  TENSOR_TYPES,
  VALUE_TYPES,
  type ValueType,
} from './gguf-format.js'

/**
 * Metadata as JavaScript values: 64-bit integers are bigints, lists of numbers are typed arrays (of bools too, as 0 and
 * 1).
 */
export type GgufMetadataValue =
  | number
  | bigint
  | boolean
  | string
  | readonly string[]
  | readonly GgufMetadataValue[]
  | NumberArray

type NumberArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array

export interface GgufTensorInfo {
  readonly name: string
  readonly type: GgufTensorType
  /** Row-major, as in PyTorch. */
  readonly shape: readonly number[]
  /** As stored. */
  readonly bytes: number
  /** From the start of the file. */
  readonly offset: number
}

/** The metadata and tensors of a GGUF file. */
export interface GgufSource {
  readonly version: number
  readonly metadata: ReadonlyMap<string, GgufMetadataValue>
  /** In file order. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>
  /**
   * Fills `into` with a tensor's stored bytes from `byteOffset` on.
   * @throws {RangeError} for a range outside the tensor
   */
  read(name: string, byteOffset: number, into: Uint8Array): Promise<void>
  close(): Promise<void>
}

/** Limit for metadata and tensor list together, which bounds the memory that a malicious file can take. */
const MAX_HEADER_BYTES = 100_000_000
/** Bytes per read. */
const WINDOW = 1 << 20
/** The format allows nested lists, but they are not used in practice. */
const MAX_DEPTH = 3

const NUMBER_ARRAYS = {
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  uint32: Uint32Array,
  int32: Int32Array,
  float32: Float32Array,
  bool: Uint8Array,
  uint64: BigUint64Array,
  int64: BigInt64Array,
  float64: Float64Array,
} as const

const VALUE_NAMES = new Map(Object.entries(VALUE_TYPES).map(([name, id]) => [id as number, name as ValueType]))
const TENSOR_NAMES = new Map(
  Object.entries(TENSOR_TYPES).map(([name, { id }]) => [id as number, name as GgufTensorType]),
)

/**
 * Opens a GGUF file (version 2 or 3, little-endian) and validates its header: counts and lengths against the size of
 * the file before memory is allocated, types, shapes, and that tensors are inside the file without overlap.
 * @throws {CheckpointError} for an invalid file, with its name and the reason
 */
export async function readGguf(path: string, pool?: HandlePool): Promise<GgufSource> {
  const file = await WeightFile.open(path, pool)
  try {
    const { version, metadata, tensors } = await readHeader(file)
    return {
      version,
      metadata,
      tensors,
      async read(name, byteOffset, into) {
        const info = tensors.get(name)
        if (!info) throw new RangeError(`there is no tensor ${name} to read`)
        if (!(byteOffset >= 0 && byteOffset + into.length <= info.bytes)) {
          throw new RangeError(
            `Bytes ${byteOffset} to ${byteOffset + into.length} are not within the ${info.bytes} bytes of ${name}`,
          )
        }
        await file.read(info.offset + byteOffset, into)
      },
      close: () => file.close(),
    }
  } catch (error) {
    await file.close()
    throw error
  }
}

async function readHeader(file: WeightFile) {
  const reader = new HeaderReader(file)
  const magic = await reader.number('uint32')
  if (magic !== GGUF_MAGIC) throw new CheckpointError(`${file.path} is not a GGUF file: it does not begin with "GGUF"`)
  const version = await reader.number('uint32')
  if (version !== 2 && version !== 3) {
    const big = version !== 0 && (version & 0xffff) === 0
    throw reader.fail(big ? 'it is in big-endian form, which is not read here' : `version ${version} is not 2 or 3`)
  }
  const tensorCount = await reader.count('tensors', 8 + 4 + 4 + 8)
  const keyCount = await reader.count('metadata keys', 8 + 4 + 1)
  const metadata = new Map<string, GgufMetadataValue>()
  for (let i = 0; i < keyCount; i++) {
    const key = await reader.string('a metadata key')
    if (metadata.has(key)) throw reader.fail(`it has the key ${key} twice`)
    metadata.set(key, await reader.value(key))
  }
  const alignment = metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT
  if (typeof alignment !== 'number' || !Number.isInteger(alignment) || alignment < 1 || alignment > 1 << 20) {
    throw reader.fail(`general.alignment is ${String(alignment)}`)
  }
  const entries: GgufTensorInfo[] = []
  for (let i = 0; i < tensorCount; i++) entries.push(await reader.tensor())
  return { version, metadata, tensors: place(entries, align(reader.position, alignment), alignment, file, reader) }
}

/** Converts offsets within the data to file positions, and checks them. */
function place(
  entries: readonly GgufTensorInfo[],
  dataStart: number,
  alignment: number,
  file: WeightFile,
  reader: HeaderReader,
): Map<string, GgufTensorInfo> {
  const tensors = new Map<string, GgufTensorInfo>()
  for (const entry of entries) {
    if (tensors.has(entry.name)) throw reader.fail(`it has the tensor ${entry.name} twice`)
    if (entry.offset % alignment !== 0) {
      throw reader.fail(`${entry.name} begins at ${entry.offset}, which is not a multiple of ${alignment}`)
    }
    tensors.set(entry.name, { ...entry, offset: dataStart + entry.offset })
  }
  const byOffset = [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let [end, before] = [dataStart, '']
  for (const { name, offset, bytes } of byOffset) {
    if (offset < end && bytes > 0) throw reader.fail(`${name} begins within ${before}`)
    end = Math.max(end, offset + bytes)
    before = name
  }
  if (end > file.size) throw file.cutShort(end)
  return tensors
}

/** Reads a header sequentially, never past the end of the file or the header limit. */
class HeaderReader {
  position = 0
  #window = Buffer.alloc(0)
  #windowStart = 0

  constructor(private readonly file: WeightFile) {}

  fail(what: string): CheckpointError {
    return new CheckpointError(`${this.file.path} has an invalid GGUF header: ${forError(what)}`)
  }

  /** The next bytes, valid until the next call. */
  async take(length: number): Promise<Buffer> {
    const end = this.position + length
    if (end > this.file.size) throw this.file.cutShort(end)
    if (end > MAX_HEADER_BYTES) throw this.fail(`it is larger than ${MAX_HEADER_BYTES} bytes`)
    if (end > this.#windowStart + this.#window.length) {
      this.#window = Buffer.alloc(Math.min(Math.max(length, WINDOW), this.file.size - this.position))
      this.#windowStart = this.position
      await this.file.read(this.position, this.#window)
    }
    const start = this.position - this.#windowStart
    this.position = end
    return this.#window.subarray(start, start + length)
  }

  async number(type: Exclude<ValueType, 'string' | 'array' | 'bool' | 'uint64' | 'int64'>): Promise<number> {
    return (await this.numbers(type, 1))[0] as number
  }

  async numbers(type: keyof typeof NUMBER_ARRAYS, count: number): Promise<NumberArray> {
    const NumbersOf = NUMBER_ARRAYS[type]
    const bytes = await this.take(count * NumbersOf.BYTES_PER_ELEMENT)
    // A copy, since the bytes are not aligned to the element size.
    return new NumbersOf(new Uint8Array(bytes).buffer as ArrayBuffer)
  }

  /** A 64-bit size. */
  async size(what: string): Promise<number> {
    const [value] = await this.numbers('uint64', 1)
    const size = Number(value)
    if (!Number.isSafeInteger(size)) throw this.fail(`${what} is ${value}`)
    return size
  }

  /** A 64-bit count of items that take at least `leastBytes` bytes each. */
  async count(what: string, leastBytes: number): Promise<number> {
    const count = await this.size(`the number of ${what}`)
    const room = Math.min(this.file.size, MAX_HEADER_BYTES) - this.position
    if (count * leastBytes > room) throw this.fail(`${count} ${what} do not fit into the ${room} bytes that follow`)
    return count
  }

  async string(what: string): Promise<string> {
    return (await this.take(await this.count(`bytes of ${what}`, 1))).toString('utf8')
  }

  async value(key: string, depth = 0): Promise<GgufMetadataValue> {
    return await this.valueOf(await this.type(key), key, depth)
  }

  private async type(key: string): Promise<ValueType> {
    const id = await this.number('uint32')
    const type = VALUE_NAMES.get(id)
    if (!type) throw this.fail(`${key} has the unknown type ${id}`)
    return type
  }

  private async valueOf(type: ValueType, key: string, depth: number): Promise<GgufMetadataValue> {
    if (type === 'string') return await this.string(key)
    if (type === 'array') return await this.list(key, depth + 1)
    const [value] = await this.numbers(type, 1)
    return type === 'bool' ? value !== 0 : value!
  }

  private async list(key: string, depth: number): Promise<GgufMetadataValue> {
    if (depth > MAX_DEPTH) throw this.fail(`${key} is nested too deeply`)
    const type = await this.type(key)
    if (type === 'array' || type === 'string') {
      const count = await this.count(`elements of ${key}`, type === 'array' ? 12 : 8)
      const values: GgufMetadataValue[] = []
      for (let i = 0; i < count; i++) values.push(await this.valueOf(type, key, depth))
      return values
    }
    const count = await this.count(`elements of ${key}`, NUMBER_ARRAYS[type].BYTES_PER_ELEMENT)
    return await this.numbers(type, count)
  }

  /** A tensor's entry, with its offset from the start of the data. */
  async tensor(): Promise<GgufTensorInfo> {
    const name = await this.string('the name of a tensor')
    const dimensions = await this.number('uint32')
    if (dimensions > 4) throw this.fail(`${name} has ${dimensions} dimensions; 4 is the limit`)
    const shape: number[] = []
    for (let i = 0; i < dimensions; i++) shape.unshift(await this.size(`a size of ${name}`))
    const id = await this.number('uint32')
    const type = TENSOR_NAMES.get(id)
    if (!type) throw this.fail(`${name} has the unknown type ${id}`)
    const bytes = countElements(shape) === undefined ? undefined : ggufTensorBytes(shape, type)
    if (bytes === undefined) throw this.fail(`${name} is ${type} in the impossible shape [${shape}]`)
    return { name, type, shape, bytes, offset: await this.size(`the offset of ${name}`) }
  }
}
