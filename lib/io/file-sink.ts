import { createHash } from 'node:crypto'
import { type FileHandle, open, rm } from 'node:fs/promises'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { CheckpointError } from '../errors.js'
import { DirectWriter } from './direct-io.js'
import { writeError } from './disk.js'
import type { WeightDType } from './weight-source.js'

/** A tensor to write, and the source of its bytes. */
export interface TensorToWrite {
  readonly name: string
  readonly dtype: WeightDType
  readonly shape: readonly number[]
  /**
   * The name of a tensor that it is tied to, with the same type, shape and bytes. Formats that can share a storage
   * write it once; the others write both.
   */
  readonly sameAs?: string
  /**
   * Its contiguous row-major bytes, at once or in pieces; called once, when the writer reaches the tensor. A piece may
   * be reused when the next is requested.
   */
  data(): AsyncIterable<Uint8Array> | Uint8Array
}

export interface WrittenFile {
  /** Size of the file. */
  readonly bytes: number
  /** In hexadecimal, if requested. */
  readonly sha256: string | undefined
}

const WRITE_BYTES = 16 << 20
const HASH_BYTES = 1 << 20

/** A file that is written sequentially. */
export class FileSink {
  /** Bytes written. */
  position = 0
  readonly #hash: ReturnType<typeof createHash> | undefined
  #patches: { position: number; bytes: Uint8Array }[] = []

  constructor(
    private readonly handle: FileHandle,
    private readonly direct: DirectWriter | undefined,
    checksum: boolean,
  ) {
    this.#hash = checksum ? createHash('sha256') : undefined
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.direct) await this.direct.write(bytes)
    for (let at = 0; !this.direct && at < bytes.length; ) {
      const { bytesWritten } = await this.handle.write(bytes, at, Math.min(WRITE_BYTES, bytes.length - at))
      at += bytesWritten
    }
    this.position += bytes.length
    if (!this.#hash) return
    for (let at = 0; at < bytes.length; at += HASH_BYTES) {
      this.#hash.update(bytes.subarray(at, at + HASH_BYTES))
      await nextTurn() // hashing is synchronous: let timers run in between
    }
  }

  /** Overwrites a few bytes at an earlier position, after all else is written. */
  patch(position: number, bytes: Uint8Array): void {
    if (this.#hash) throw new Error('The checksum covers what was written there before')
    this.#patches.push({ position, bytes })
  }

  /**
   * Writes the remaining bytes.
   * @returns the checksum, if requested
   */
  async end(): Promise<string | undefined> {
    await this.direct?.end()
    for (const { position, bytes } of this.#patches) await this.handle.write(bytes, 0, bytes.length, position)
    return this.#hash?.digest('hex')
  }
}

/**
 * Writes a file with `produce` and flushes it to disk. On an error, the partial file is removed.
 * @param bytesNeeded the approximate size, for messages, and to choose how to write
 * @throws {CheckpointError} for a full or read-only disk, and errors of `produce`
 */
export async function writeFlushed(
  path: string,
  produce: (sink: FileSink) => Promise<void>,
  { checksum = false, bytesNeeded = 0 } = {},
): Promise<WrittenFile> {
  try {
    const handle = await open(path, 'w')
    let direct: DirectWriter | undefined
    try {
      direct = await DirectWriter.open(path, handle, bytesNeeded)
      const sink = new FileSink(handle, direct, checksum)
      await produce(sink)
      const sha256 = await sink.end()
      await handle.sync()
      return { bytes: sink.position, sha256 }
    } catch (error) {
      await rm(path, { force: true })
      throw error
    } finally {
      await direct?.close()
      await handle.close()
    }
  } catch (error) {
    throw await writeError(path, error, bytesNeeded)
  }
}

/**
 * Writes a tensor's data, piece by piece.
 * @param bytes the size according to its type and shape
 * @throws {CheckpointError} for a tensor with more or fewer bytes
 */
export async function writeTensorData(
  sink: Pick<FileSink, 'write'>,
  tensor: Pick<TensorToWrite, 'name' | 'shape' | 'data'>,
  bytes: number,
): Promise<void> {
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
