import { createHash } from 'node:crypto'
import { type FileHandle, open, rm } from 'node:fs/promises'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { CheckpointError } from '../errors.js'
import { writeError } from './disk.js'
import { MAX_HEADER_BYTES, SAFETENSORS_DTYPES } from './safetensors.js'
import { tensorBytes, type WeightDType } from './types.js'

/** A tensor to write, and where its bytes come from. */
export interface TensorToWrite {
  readonly name: string
  readonly dtype: WeightDType
  readonly shape: readonly number[]
  /**
   * Its contiguous row-major bytes, at once or in pieces; called once, when its turn comes. A piece may be reused when
   * the next is asked for.
   */
  data(): AsyncIterable<Uint8Array> | Uint8Array
}

export interface WriteSafetensorsOptions {
  /** Texts beside the tensors. Transformers asks for `format: pt`. */
  metadata?: Readonly<Record<string, string>>
  /** Also computes the SHA-256 of the file while it is written. */
  checksum?: boolean
}

export interface WrittenFile {
  /** Size of the file. */
  readonly bytes: number
  /** In hexadecimal, when it was asked for. */
  readonly sha256: string | undefined
}

const WRITE_BYTES = 16 << 20
const HASH_BYTES = 1 << 20

/**
 * Writes a safetensors file, tensor by tensor, and flushes it to the disk: the bytes that the reference implementation
 * writes (tensors by falling alignment, then name; header padded with spaces to 8 bytes). What is half-written when an
 * error comes is removed.
 * @throws RangeError for a name that is not allowed or comes twice, or an impossible shape, before anything is written
 * @throws CheckpointError when the disk is full, or a tensor gives more or fewer bytes than its shape asks for
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  { metadata = { format: 'pt' }, checksum = false }: WriteSafetensorsOptions = {},
): Promise<WrittenFile> {
  const sorted = sortForFile(tensors)
  const header = buildHeader(sorted, metadata)
  const total = header.length + sorted.reduce((sum, { bytes }) => sum + bytes, 0)
  try {
    const handle = await open(path, 'w')
    try {
      const sink = new FileSink(handle, checksum)
      await sink.write(header)
      for (const { tensor, bytes } of sorted) await writeTensor(sink, tensor, bytes)
      await handle.sync()
      return { bytes: total, sha256: sink.digest() }
    } catch (error) {
      await rm(path, { force: true })
      throw error
    } finally {
      await handle.close()
    }
  } catch (error) {
    throw await writeError(path, error, total)
  }
}

interface Sized {
  tensor: TensorToWrite
  code: string
  bytes: number
}

function sortForFile(tensors: Iterable<TensorToWrite>): Sized[] {
  const codes = [...SAFETENSORS_DTYPES]
  const rank = (tensor: TensorToWrite) => codes.findIndex(([, dtype]) => dtype === tensor.dtype)
  const names = new Set<string>()
  const sized: (Sized & { rank: number })[] = []
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor.shape, tensor.dtype)
    if (bytes === undefined) throw new RangeError(`${tensor.name} has the impossible shape [${tensor.shape}]`)
    if (tensor.name === '__metadata__' || names.has(tensor.name)) {
      throw new RangeError(`A tensor is named ${tensor.name} ${names.has(tensor.name) ? 'a second time' : ''}`.trim())
    }
    names.add(tensor.name)
    sized.push({ tensor, bytes, rank: rank(tensor), code: codes[rank(tensor)]![0] })
  }
  return sized.sort((a, b) => a.rank - b.rank || (a.tensor.name < b.tensor.name ? -1 : 1))
}

function buildHeader(sorted: readonly Sized[], metadata: Readonly<Record<string, string>>): Buffer {
  // Built as text: an object would put names that look like numbers first.
  const entries = Object.keys(metadata).length > 0 ? [`"__metadata__":${JSON.stringify(metadata)}`] : []
  let begin = 0
  for (const { tensor, code, bytes } of sorted) {
    const entry = { dtype: code, shape: tensor.shape, data_offsets: [begin, begin + bytes] }
    entries.push(`${JSON.stringify(tensor.name)}:${JSON.stringify(entry)}`)
    begin += bytes
  }
  const json = Buffer.from(`{${entries.join(',')}}`)
  const length = Math.ceil(json.length / 8) * 8
  if (length > MAX_HEADER_BYTES) throw new RangeError(`${sorted.length} tensors are too many for one safetensors file`)
  const header = Buffer.alloc(8 + length, ' ')
  header.writeBigUInt64LE(BigInt(length))
  json.copy(header, 8)
  return header
}

async function writeTensor(sink: FileSink, tensor: TensorToWrite, bytes: number): Promise<void> {
  const wrong = (given: string) =>
    new CheckpointError(`${tensor.name} should give ${bytes} bytes for its shape [${tensor.shape}], and gave ${given}`)
  const data = tensor.data()
  let given = 0
  for await (const piece of data instanceof Uint8Array ? [data] : data) {
    given += piece.length
    if (given > bytes) throw wrong('more')
    await sink.write(piece)
  }
  if (given < bytes) throw wrong(`${given}`)
}

class FileSink {
  readonly #hash: ReturnType<typeof createHash> | undefined

  constructor(
    private readonly handle: FileHandle,
    checksum: boolean,
  ) {
    this.#hash = checksum ? createHash('sha256') : undefined
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = await this.handle.write(bytes, at, Math.min(WRITE_BYTES, bytes.length - at))
      at += bytesWritten
    }
    if (!this.#hash) return
    for (let at = 0; at < bytes.length; at += HASH_BYTES) {
      this.#hash.update(bytes.subarray(at, at + HASH_BYTES))
      await nextTurn() // hashing is synchronous: let timers run in between
    }
  }

  digest(): string | undefined {
    return this.#hash?.digest('hex')
  }
}
