import {
  type FileSink,
  type TensorToWrite,
  type WrittenFile,
  writeFlushed,
  writeTensorData,
} from '../../io/file-sink.js'
import { tensorBytes } from '../../io/weight-source.js'
import { MAX_HEADER_BYTES, SAFETENSORS_DTYPES } from './safetensors.js'

export type { TensorToWrite, WrittenFile } from '../../io/file-sink.js'

export interface WriteSafetensorsOptions {
  /** Metadata strings. Transformers requires `format: pt`. */
  metadata?: Readonly<Record<string, string>>
  /** Also computes the SHA-256 of the file during the write. */
  checksum?: boolean
}

/**
 * Writes a safetensors file, tensor by tensor, and flushes it to disk: byte-identical to the reference implementation
 * (tensors by falling alignment, then name; header padded with spaces to 8 bytes). On an error, the partial file is
 * removed.
 * @throws {RangeError} for an invalid or repeated name, or an invalid shape, before anything is written
 * @throws {CheckpointError} for a full disk, or a tensor whose bytes do not match its shape
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  { metadata = { format: 'pt' }, checksum = false }: WriteSafetensorsOptions = {},
): Promise<WrittenFile> {
  const sorted = sortForFile(tensors)
  const header = buildHeader(sorted, metadata)
  const total = header.length + sorted.reduce((sum, { bytes }) => sum + bytes, 0)
  const produce = async (sink: FileSink) => {
    await sink.write(header)
    for (const { tensor, bytes } of sorted) await writeTensorData(sink, tensor, bytes)
  }
  return writeFlushed(path, produce, { checksum, bytesNeeded: total })
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
