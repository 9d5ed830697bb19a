import { CheckpointError } from '../errors.js'
import { type TensorInfo, tensorForRead, type WeightSource } from '../io/weight-source.js'

/** A range of a tensor's bytes in some file. */
export interface Segment {
  readonly source: WeightSource
  readonly name: string
  /** Bytes. */
  readonly offset: number
  readonly length: number
}

/** A tensor spread over several files, with the segments in byte order. */
export interface SegmentedTensor extends TensorInfo {
  readonly segments: readonly Segment[]
}

/**
 * Tensors assembled from parts of others, such as the shards of a training checkpoint's ranks. Reads only the requested
 * parts.
 */
export class SegmentedSource implements WeightSource {
  readonly tensors: ReadonlyMap<string, TensorInfo>
  readonly #segments = new Map<string, readonly Segment[]>()

  /** @param closeAll closes the files */
  constructor(
    tensors: Iterable<SegmentedTensor>,
    private readonly closeAll: () => Promise<unknown>,
  ) {
    const infos = new Map<string, TensorInfo>()
    for (const { segments, ...info } of tensors) {
      if (infos.has(info.name)) throw new CheckpointError(`The checkpoint describes ${info.name} twice`)
      const bytes = segments.reduce((sum, { length }) => sum + length, 0)
      if (bytes !== info.bytes) throw new RangeError(`${info.name} has ${info.bytes} bytes, and its parts ${bytes}`)
      infos.set(info.name, info)
      this.#segments.set(info.name, segments)
    }
    this.tensors = infos
  }

  async read(name: string, byteOffset: number, into: Uint8Array): Promise<void> {
    tensorForRead(this.tensors, name, byteOffset, into.length)
    let start = 0
    const reads: Promise<void>[] = []
    for (const { source, name: part, offset, length } of this.#segments.get(name)!) {
      const from = Math.max(byteOffset, start)
      const to = Math.min(byteOffset + into.length, start + length)
      if (from < to)
        reads.push(source.read(part, offset + from - start, into.subarray(from - byteOffset, to - byteOffset)))
      start += length
    }
    const failed = (await Promise.allSettled(reads)).find((result) => result.status === 'rejected')
    if (failed) throw failed.reason
  }

  async close(): Promise<void> {
    await this.closeAll()
  }
}

/**
 * The `length` bytes from `start` on, of the concatenation of several tensors.
 * @throws {RangeError} for a range beyond their end
 */
export function sliceOf(parts: readonly Segment[], start: number, length: number): Segment[] {
  const slice: Segment[] = []
  let at = 0
  for (const part of parts) {
    const from = Math.max(start, at)
    const to = Math.min(start + length, at + part.length)
    if (from < to) slice.push({ ...part, offset: part.offset + from - at, length: to - from })
    at += part.length
  }
  if (start + length > at) throw new RangeError(`Bytes ${start} to ${start + length} of ${at} were asked for`)
  return slice
}

/** A full tensor. */
export function wholeOf(source: WeightSource, name: string): Segment {
  return { source, name, offset: 0, length: source.tensors.get(name)!.bytes }
}
