import { writeFileAtomically } from '../../io/atomic.js'
import { type FileSink, writeFlushed, writeTensorData } from '../../io/file-sink.js'
import {
  align,
  DEFAULT_ALIGNMENT,
  GGUF_MAGIC,
  GGUF_VERSION,
  type GgufTensorType,
  ggufTensorBytes,
  TENSOR_TYPES,
  VALUE_TYPES,
} from './gguf-format.js'

/** A metadata value, with the type that llama.cpp expects for its key. */
export type GgufValue =
  | { readonly type: 'uint32' | 'int32' | 'float32'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'array'; readonly of: 'string'; readonly value: readonly string[] }
  | { readonly type: 'array'; readonly of: 'int32' | 'float32'; readonly value: readonly number[] }

/** A tensor to write, and the source of its bytes. */
export interface GgufTensorToWrite {
  readonly name: string
  readonly type: GgufTensorType
  /** Row-major, as in PyTorch; the file has the reverse order. */
  readonly shape: readonly number[]
  /**
   * Its bytes in order; called once, when the writer reaches the tensor. A piece may be reused when the next is
   * requested.
   */
  data(): AsyncIterable<Uint8Array> | Uint8Array
}

export interface GgufContents {
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly tensors: readonly GgufTensorToWrite[]
  /** Called after everything is written, before the file gets its name; if it throws, nothing has changed. */
  onWritten?(): void
}

/**
 * Writes a GGUF file tensor by tensor under a temporary name, flushes it to disk, and renames it: readers find the old
 * file, or none, until the new one is complete.
 * @returns the size of the file in bytes
 * @throws {RangeError} for a tensor of an invalid shape, before anything is written
 * @throws {CheckpointError} for a full disk, or a tensor whose bytes do not match its shape
 */
export async function writeGguf(path: string, { metadata, tensors, onWritten }: GgufContents): Promise<number> {
  const placed = placeTensors(tensors)
  const header = buildHeader(metadata, placed)
  const total = header.length + placed.reduce((sum, { bytes }) => sum + align(bytes, DEFAULT_ALIGNMENT), 0)
  const produce = async (sink: FileSink) => {
    await sink.write(header)
    for (const { tensor, bytes } of placed) {
      await writeTensorData(sink, tensor, bytes)
      await sink.write(Buffer.alloc(align(bytes, DEFAULT_ALIGNMENT) - bytes))
    }
    onWritten?.()
  }
  const options = { bytesNeeded: total }
  await writeFileAtomically(path, (temporary) => writeFlushed(temporary, produce, options), options)
  return total
}

interface Placed {
  tensor: GgufTensorToWrite
  bytes: number
  /** From the start of the tensor data. */
  offset: number
}

function placeTensors(tensors: readonly GgufTensorToWrite[]): Placed[] {
  let offset = 0
  return tensors.map((tensor) => {
    const bytes = ggufTensorBytes(tensor.shape, tensor.type)
    if (bytes === undefined)
      throw new RangeError(`${tensor.name} cannot be ${tensor.type} in the shape [${tensor.shape}]`)
    const placed = { tensor, bytes, offset }
    offset += align(bytes, DEFAULT_ALIGNMENT)
    return placed
  })
}

function buildHeader(metadata: GgufContents['metadata'], placed: readonly Placed[]): Buffer {
  const out = new HeaderBuilder()
  out.uint32(GGUF_MAGIC)
  out.uint32(GGUF_VERSION)
  out.uint64(placed.length)
  out.uint64(metadata.size)
  for (const [key, value] of metadata) {
    out.string(key)
    out.value(value)
  }
  for (const { tensor, offset } of placed) {
    out.string(tensor.name)
    out.uint32(tensor.shape.length)
    for (const size of [...tensor.shape].reverse()) out.uint64(size)
    out.uint32(TENSOR_TYPES[tensor.type].id)
    out.uint64(offset)
  }
  return out.finish(DEFAULT_ALIGNMENT)
}

/** Builds a header from small parts. */
class HeaderBuilder {
  readonly #parts: Buffer[] = []

  uint32(value: number): void {
    const part = Buffer.alloc(4)
    part.writeUInt32LE(value)
    this.#parts.push(part)
  }

  uint64(value: number): void {
    const part = Buffer.alloc(8)
    part.writeBigUInt64LE(BigInt(value))
    this.#parts.push(part)
  }

  string(text: string): void {
    const bytes = Buffer.from(text, 'utf8')
    this.uint64(bytes.length)
    this.#parts.push(bytes)
  }

  value(value: GgufValue): void {
    this.uint32(VALUE_TYPES[value.type])
    switch (value.type) {
      case 'string':
        this.string(value.value)
        break
      case 'bool':
        this.#parts.push(Buffer.of(value.value ? 1 : 0))
        break
      case 'array':
        this.uint32(VALUE_TYPES[value.of])
        this.uint64(value.value.length)
        if (value.of === 'string') for (const text of value.value) this.string(text)
        else this.numbers(value.of, value.value)
        break
      default:
        this.numbers(value.type, [value.value])
    }
  }

  numbers(type: 'uint32' | 'int32' | 'float32', values: readonly number[]): void {
    const constructors = { uint32: Uint32Array, int32: Int32Array, float32: Float32Array }
    this.#parts.push(Buffer.from(constructors[type].from(values).buffer))
  }

  /** The header, padded with zeros. */
  finish(alignment: number): Buffer {
    const header = Buffer.concat(this.#parts)
    return Buffer.concat([header], align(header.length, alignment))
  }
}
