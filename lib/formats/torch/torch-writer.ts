import {
  type FileSink,
  type TensorToWrite,
  type WrittenFile,
  writeFlushed,
  writeTensorData,
} from '../../io/file-sink.js'
import { countElements, DTYPE_BYTES, tensorBytes } from '../../io/weight-source.js'
import { STORAGE_DTYPES, UNTYPED_STORAGE } from './torch-objects.js'
import { StoredZipWriter } from './zip-writer.js'

export interface WriteTorchBinOptions {
  /** See StoredZipWriter; for tests. */
  zip64From?: number
  /** Called with the CRC-32 of each tensor's bytes, once for tied tensors. */
  onChecksum?(tensor: string, crc: number): void
}

/** A tensor and the storage that holds its values. */
interface Placed {
  tensor: TensorToWrite
  bytes: number
  /** The name of its storage in the file, shared by tied tensors. */
  key: string
}

const STORAGE_NAMES = new Map([...STORAGE_DTYPES].map(([storage, dtype]) => [dtype, storage]))

/**
 * Writes a state dict as torch.save does since 1.6, in the zip form, and flushes it to disk: `torch.load` reads it with
 * `weights_only=True`, mapped or not. Tensors keep their order; tied ones (`sameAs`) share a storage. Memory: the
 * tensors' current pieces, and a pickle of some 200 bytes per tensor.
 * @throws {RangeError} for a repeated name, a tie to nothing, or an invalid shape, before anything is written
 * @throws {CheckpointError} for a full disk, or a tensor whose bytes do not match its shape
 */
export async function writeTorchBin(
  path: string,
  tensors: Iterable<TensorToWrite>,
  { zip64From, onChecksum }: WriteTorchBinOptions = {},
): Promise<WrittenFile> {
  const placed = placeTensors([...tensors])
  const pickle = pickleStateDict(placed)
  const stored = placed.filter(({ tensor }) => tensor.sameAs === undefined)
  const produce = async (sink: FileSink) => {
    const zip = new StoredZipWriter(sink, zip64From)
    await zip.addBytes('archive/data.pkl', pickle)
    await zip.addBytes('archive/byteorder', Buffer.from('little'))
    for (const { tensor, bytes, key } of stored) {
      const crc = await zip.add(`archive/data/${key}`, bytes, (write) => writeTensorData({ write }, tensor, bytes))
      onChecksum?.(tensor.name, crc)
    }
    await zip.addBytes('archive/version', Buffer.from('3\n'))
    await zip.end()
  }
  const bytesNeeded = stored.reduce((sum, { bytes }) => sum + bytes, pickle.length)
  return writeFlushed(path, produce, { bytesNeeded })
}

function placeTensors(tensors: readonly TensorToWrite[]): Placed[] {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  if (byName.size < tensors.length) throw new RangeError('Two tensors have the same name')
  const keys = new Map<string, string>()
  for (const { name, sameAs } of tensors) if (sameAs === undefined) keys.set(name, String(keys.size))
  return tensors.map((tensor) => {
    const { name, shape, dtype, sameAs } = tensor
    const bytes = tensorBytes(shape, dtype)
    if (bytes === undefined) throw new RangeError(`${name} has the impossible shape [${shape}]`)
    const key = keys.get(sameAs ?? name)
    const owner = byName.get(sameAs ?? name)
    if (key === undefined || owner!.dtype !== dtype || owner!.shape.join() !== shape.join()) {
      throw new RangeError(`${name} is tied to ${sameAs}, which is not a tensor of the same type and shape with values`)
    }
    return { tensor, bytes, key }
  })
}

/** An OrderedDict of tensors, in the opcodes of protocol 2 (docs.python.org, pickletools). */
function pickleStateDict(placed: readonly Placed[]): Buffer {
  const memo = new Map<string, number>()
  // Repeated values are memoized at the first occurrence, and recalled from then on: PUT and GET.
  const once = (name: string, opcodes: () => Buffer): Buffer => {
    const index = memo.get(name)
    if (index !== undefined) return op('h', byte(index))
    memo.set(name, memo.size)
    return op(opcodes(), 'q', byte(memo.size - 1))
  }
  const global = (name: string) => {
    const dot = name.lastIndexOf('.')
    return once(name, () => op(`c${name.slice(0, dot)}\n${name.slice(dot + 1)}\n`))
  }
  const word = (value: string) => once(`'${value}'`, () => text(value))
  const orderedDict = () => op(global('collections.OrderedDict'), ')R')

  const dictionary = orderedDict() // before the items, as in the file
  const items = placed.map(({ tensor, bytes, key }) => {
    const { name, dtype, shape } = tensor
    const storage = STORAGE_NAMES.get(dtype)
    const numel = storage ? bytes / DTYPE_BYTES[dtype] : bytes
    const id = op('(', word('storage'), global(storage ?? UNTYPED_STORAGE), text(key), word('cpu'), integer(numel), 't')
    const view = op(id, 'Q', integer(0), tuple(shape), tuple(stridesOf(shape)), '\x89')
    // Types without a storage class came with torch 2, whose tensors state their type themselves.
    return storage
      ? op(text(name), global('torch._utils._rebuild_tensor_v2'), '(', view, orderedDict(), 'tR')
      : op(
          text(name),
          ...[global('torch._utils._rebuild_tensor_v3'), '(', view, orderedDict(), global(`torch.${dtype}`), 'tR'],
        )
  })
  return op('\x80\x02', dictionary, '(', ...items, 'u.')
}

/** Row-major, in elements, as torch counts them: a dimension without elements counts as one. */
function stridesOf(shape: readonly number[]): number[] {
  return shape.map((_, i) => countElements(shape.slice(i + 1).map((size) => Math.max(size, 1)))!)
}

function op(...parts: (string | Uint8Array)[]): Buffer {
  return Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)))
}

function byte(value: number): Buffer {
  return Buffer.of(value)
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(bytes.length)
  return op('X', length, bytes)
}

function tuple(values: readonly number[]): Buffer {
  return op('(', ...values.map(integer), 't')
}

/** The shortest form: BININT1, BININT2, BININT, or LONG1 beyond 2³¹. */
function integer(value: number): Buffer {
  if (value < 2 ** 8) return op('K', byte(value))
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  if (value < 2 ** 16) return op('M', bytes.subarray(0, 2))
  if (value < 2 ** 31) return op('J', bytes.subarray(0, 4))
  return op('\x8a\x08', bytes)
}
