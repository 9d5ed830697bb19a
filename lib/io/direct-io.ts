/**
 * Large files bypass the page cache (O_DIRECT): their bytes would only evict other data, and where memory is slow to
 * obtain, as on virtual machines that return it to their host, filling the cache takes longer than the disk.
 */
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'

/**
 * Positions, lengths and memory must be multiples of the disk's block; this is a multiple of every disk's block size.
 */
const BLOCK = 4096
const WASM_PAGE = 65536
const PIECE = 8 << 20
/** Below this, the page cache is as fast. */
const LARGE = 2 * PIECE

declare const WebAssembly: { Memory: new (size: { initial: number }) => { readonly buffer: ArrayBuffer } }

/** Page-aligned memory, which in JavaScript only WebAssembly guarantees. */
function alignedBuffer(bytes: number): Buffer {
  return Buffer.from(new WebAssembly.Memory({ initial: Math.ceil(bytes / WASM_PAGE) }).buffer, 0, bytes)
}

/** Opens an existing file for direct I/O; undefined if its file system does not support it. */
async function openDirect(path: string, access: number): Promise<FileHandle | undefined> {
  return open(path, access | constants.O_DIRECT).catch((error) => {
    if (error.code === 'EINVAL' || error.code === 'ENOTSUP') return undefined
    throw error
  })
}

/** Writes all of `bytes` at a position. */
async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    at += (await handle.write(bytes, at, bytes.length - at, position + at)).bytesWritten
  }
}

/** Collects bytes into large pieces; one is written while the next is filled. */
export class DirectWriter {
  #pieces = [alignedBuffer(PIECE), alignedBuffer(PIECE)] as const
  #turn: 0 | 1 = 0
  #filled = 0
  /** Bytes in the file, or being written. */
  #written = 0
  #underWay: Promise<void> = Promise.resolve()

  private constructor(
    private readonly handle: FileHandle,
    private direct: FileHandle | undefined,
  ) {}

  /**
   * A writer for an empty file; undefined if direct I/O does not pay off or is not supported.
   * @param handle the same file, opened for plain writing; the caller closes it
   */
  static async open(path: string, handle: FileHandle, bytes: number): Promise<DirectWriter | undefined> {
    const direct = bytes < LARGE ? undefined : await openDirect(path, constants.O_WRONLY)
    return direct && new DirectWriter(handle, direct)
  }

  /** Writes bytes; the caller may reuse them when it resolves. */
  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const part = bytes.subarray(at, at + PIECE - this.#filled)
      this.#pieces[this.#turn].set(part, this.#filled)
      this.#filled += part.length
      at += part.length
      if (this.#filled === PIECE) await this.#send()
    }
  }

  /** Writes the remaining bytes, and waits until all are written. */
  async end(): Promise<void> {
    await this.#underWay
    await writeAll(this.handle, this.#pieces[this.#turn].subarray(0, this.#filled), this.#written)
    await this.close()
  }

  async close(): Promise<void> {
    await this.#underWay.catch(() => {}) // rethrown by the next write()
    await this.direct?.close()
    this.direct = undefined
  }

  async #send(): Promise<void> {
    await this.#underWay
    this.#underWay = this.#writePiece(this.#pieces[this.#turn], this.#written)
    this.#underWay.catch(() => {}) // the next wait for it reports the error
    this.#written += PIECE
    this.#filled = 0
    this.#turn = this.#turn === 0 ? 1 : 0
  }

  async #writePiece(piece: Buffer, position: number): Promise<void> {
    if (!this.direct) return writeAll(this.handle, piece, position)
    const { bytesWritten } = await this.direct.write(piece, 0, piece.length, position).catch((error) => {
      if (error.code === 'EINVAL') return { bytesWritten: 0 } // the file system does not support it after all
      throw error
    })
    // A nearly full disk accepts a part, and then reports an error.
    if (bytesWritten < piece.length) await writeAll(this.handle, piece.subarray(bytesWritten), position + bytesWritten)
  }
}

/**
 * Reads pieces of a file from the disk itself, so that a comparison with just-written data does not read the page
 * cache.
 */
export class DirectReader {
  #free: Buffer[] = []

  private constructor(
    private readonly handle: FileHandle,
    private readonly direct: FileHandle,
  ) {}

  /**
   * A reader; undefined if direct I/O does not pay off or is not supported.
   * @param handle the same file, opened for plain reading; the reader closes it
   */
  static async open(path: string, handle: FileHandle, bytes: number): Promise<DirectReader | undefined> {
    const direct = bytes < LARGE ? undefined : await openDirect(path, constants.O_RDONLY)
    return direct && new DirectReader(handle, direct)
  }

  /**
   * Fills `into`, or its beginning, from `position` on.
   * @returns the number of bytes; 0 at the end of the file
   */
  async read(position: number, into: Uint8Array): Promise<number> {
    const skipped = position % BLOCK
    const wanted = Math.min(into.length, PIECE - skipped)
    const piece = this.#free.pop() ?? alignedBuffer(PIECE)
    try {
      const length = Math.ceil((skipped + wanted) / BLOCK) * BLOCK
      const { bytesRead } = await this.direct.read(piece, 0, length, position - skipped)
      const count = Math.max(0, Math.min(bytesRead - skipped, wanted))
      into.set(piece.subarray(skipped, skipped + count))
      return count
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw error // the file system does not support it after all
      return (await this.handle.read(into, 0, wanted, position)).bytesRead
    } finally {
      this.#free.push(piece)
    }
  }

  async close(): Promise<void> {
    await this.direct.close()
    await this.handle.close()
  }
}
