import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import {
  type TensorInfo,
  tensorBytes,
  tensorForRead,
  type WeightDType,
  type WeightSource,
} from '../../io/weight-source.js'
import { type HandlePool, WeightFile } from '../weight-file.js'

/** The format's limit, which bounds the memory that a malicious file can take. */
export const MAX_HEADER_BYTES = 100_000_000

/**
 * The format's names for element types, by falling alignment: the order in which the reference writer sorts tensors
 * (github.com/huggingface/safetensors). Types of less than a byte, and complex numbers, are not supported.
 */
export const SAFETENSORS_DTYPES: ReadonlyMap<string, WeightDType> = new Map([
  ['U64', 'uint64'],
  ['I64', 'int64'],
  ['F64', 'float64'],
  ['F32', 'float32'],
  ['U32', 'uint32'],
  ['I32', 'int32'],
  ['BF16', 'bfloat16'],
  ['F16', 'float16'],
  ['U16', 'uint16'],
  ['I16', 'int16'],
  ['F8_E4M3', 'float8_e4m3fn'],
  ['F8_E5M2', 'float8_e5m2'],
  ['I8', 'int8'],
  ['U8', 'uint8'],
  ['BOOL', 'bool'],
])

/** The tensors and metadata strings of a safetensors file. */
export interface SafetensorsSource extends WeightSource {
  readonly metadata: ReadonlyMap<string, string>
}

interface Placed extends TensorInfo {
  /** Start and end of its bytes, from the end of the header. */
  readonly begin: number
  readonly end: number
}

/**
 * Opens a safetensors file and validates its header: sizes, offsets without gap or overlap, and data that ends with the
 * file.
 * @throws {CheckpointError} for an invalid file, with its name and the reason
 */
export async function openSafetensors(path: string, pool?: HandlePool): Promise<SafetensorsSource> {
  const file = await WeightFile.open(path, pool)
  try {
    const { text, dataStart } = await readHeader(file)
    const { tensors, metadata } = parseHeader(path, text, file.size - dataStart)
    return {
      tensors,
      metadata,
      async read(name, byteOffset, into) {
        tensorForRead(tensors, name, byteOffset, into.length)
        await file.read(dataStart + tensors.get(name)!.begin + byteOffset, into)
      },
      close: () => file.close(),
    }
  } catch (error) {
    await file.close()
    throw error
  }
}

async function readHeader(file: WeightFile): Promise<{ text: string; dataStart: number }> {
  if (file.size < 8) throw file.cutShort(8)
  const declared = (await file.readStart(8)).readBigUInt64LE()
  if (declared > MAX_HEADER_BYTES) {
    throw new CheckpointError(
      `${file.path} is not a safetensors file: its header would be ${declared} bytes, and ${MAX_HEADER_BYTES} is the limit`,
    )
  }
  const length = Number(declared)
  if (8 + length > file.size) throw file.cutShort(8 + length)
  const bytes = Buffer.alloc(length)
  await file.read(8, bytes)
  try {
    return { text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes), dataStart: 8 + length }
  } catch (cause) {
    throw new CheckpointError(`${file.path} has a safetensors header that is not UTF-8 text`, { cause })
  }
}

function parseHeader(path: string, text: string, dataBytes: number) {
  const fail = (what: string, cause?: unknown) =>
    new CheckpointError(`${path} has an invalid safetensors header: ${forError(what)}`, { cause })
  const scanned = scanJson(text)
  if (scanned.depth > 3) throw fail('it is nested more deeply than the format allows')
  let header: unknown
  try {
    header = JSON.parse(text)
  } catch (cause) {
    throw fail('it is not JSON', cause)
  }
  if (!isRecord(header) || !text.startsWith('{')) throw fail('it is not a JSON object')
  // JSON.parse silently keeps the last of equal keys.
  if (countKeys(header) !== scanned.keys) throw fail('it names a tensor or one of its fields twice')

  const metadata = new Map<string, string>()
  const placed: Placed[] = []
  for (const [name, entry] of Object.entries(header)) {
    if (name !== '__metadata__') placed.push(parseEntry(name, entry, fail))
    else if (!isRecord(entry)) throw fail('__metadata__ is not an object')
    else {
      for (const [key, value] of Object.entries(entry)) {
        if (typeof value !== 'string') throw fail(`__metadata__.${key} is not a string`)
        metadata.set(key, value)
      }
    }
  }

  placed.sort((a, b) => a.begin - b.begin || a.end - b.end)
  let end = 0
  for (const tensor of placed) {
    if (tensor.begin !== end) {
      throw fail(`${tensor.name} begins at byte ${tensor.begin}, and the tensor before it ends at ${end}`)
    }
    end = tensor.end
  }
  if (end > dataBytes) {
    throw new CheckpointError(
      `${path} is cut short: its tensors take ${end} bytes and ${dataBytes} are there; download or copy it again`,
    )
  }
  if (end < dataBytes) throw fail(`its tensors take ${end} bytes, and ${dataBytes} follow it`)
  return { tensors: new Map(placed.map((tensor) => [tensor.name, tensor])), metadata }
}

function parseEntry(name: string, entry: unknown, fail: (what: string) => CheckpointError): Placed {
  if (!isRecord(entry)) throw fail(`${name} is not an object`)
  const { dtype: code, shape, data_offsets: offsets } = entry
  const dtype = typeof code === 'string' ? SAFETENSORS_DTYPES.get(code) : undefined
  if (!dtype) {
    throw fail(
      `${name} has the type ${JSON.stringify(code)}, and ${[...SAFETENSORS_DTYPES.keys()].join(', ')} are known`,
    )
  }
  const bytes = tensorBytes(shape, dtype)
  if (bytes === undefined) throw fail(`${name} has a shape that is not a list of sizes, or is too large`)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every((o) => Number.isSafeInteger(o) && o >= 0)) {
    throw fail(`${name} has data_offsets that are not two byte positions`)
  }
  const [begin, end] = offsets as [number, number]
  if (end - begin !== bytes) {
    throw fail(`${name} needs ${bytes} bytes for its shape and type, and its data_offsets span ${end - begin}`)
  }
  return { name, dtype, shape: shape as number[], bytes, begin, end }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Counts keys (the colons outside strings) and the deepest nesting, without building anything. */
function scanJson(text: string): { keys: number; depth: number } {
  let [keys, depth, level, quoted] = [0, 0, 0, false]
  for (let i = 0; i < text.length; i++) {
    const char = text[i]
    if (char === '"') quoted = !quoted
    else if (char === '\\') i++
    else if (quoted) continue
    else if (char === ':') keys++
    else if (char === '{' || char === '[') depth = Math.max(depth, ++level)
    else if (char === '}' || char === ']') level--
  }
  return { keys, depth }
}

function countKeys(value: unknown): number {
  if (!isRecord(value)) return 0
  return Object.values(value).reduce((sum: number, child) => sum + 1 + countKeys(child), 0)
}
