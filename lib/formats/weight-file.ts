import { type FileHandle, open, stat } from 'node:fs/promises'
import { CheckpointError } from '../errors.js'
import { DirectReader } from '../io/direct-io.js'
import { isLfsPointer, lfsAdvice } from '../io/lfs.js'

/** An open file. */
interface Reader {
  /** @returns the number of bytes read, at least one before the end of the file */
  read(position: number, into: Uint8Array): Promise<number>
  close(): Promise<void>
}

/** Keeps at most `limit` files open; beyond that, it closes the least recently used idle one. */
export class HandlePool {
  readonly #entries = new Map<string, { handle: Promise<Reader>; users: number }>()

  /** @param direct reads large files from the disk, bypassing the page cache; see DirectReader */
  constructor(
    readonly limit = 16,
    readonly direct = false,
  ) {}

  /** Runs `task` with the file open. */
  async use<T>(path: string, openFile: () => Promise<Reader>, task: (handle: Reader) => Promise<T>) {
    const entry = this.#entries.get(path) ?? { handle: openFile(), users: 0 }
    this.#entries.delete(path)
    this.#entries.set(path, entry)
    entry.users++
    try {
      const handle = await entry.handle.catch((error) => {
        if (this.#entries.get(path) === entry) this.#entries.delete(path)
        throw error
      })
      await this.#evict()
      return await task(handle)
    } finally {
      entry.users--
    }
  }

  /** Closes one file, or all of them, after their pending reads. */
  async close(path?: string): Promise<void> {
    for (const key of path === undefined ? [...this.#entries.keys()] : [path]) {
      const entry = this.#entries.get(key)
      this.#entries.delete(key)
      await entry?.handle.then(
        (handle) => handle.close(),
        () => {}, // it never opened
      )
    }
  }

  async #evict(): Promise<void> {
    if (this.#entries.size <= this.limit) return
    const idle = [...this.#entries].find(([, entry]) => entry.users === 0)
    if (idle) await this.close(idle[0])
  }
}

class CachedReader implements Reader {
  constructor(private readonly handle: FileHandle) {}

  async read(position: number, into: Uint8Array): Promise<number> {
    return (await this.handle.read(into, 0, into.length, position)).bytesRead
  }

  close(): Promise<void> {
    return this.handle.close()
  }
}

/** A weight file, opened when it is read and read by position, so that pieces can be read in any order at once. */
export class WeightFile {
  #closed = false

  private constructor(
    readonly path: string,
    /** Bytes. */
    readonly size: number,
    private readonly modified: number,
    private readonly pool: HandlePool,
  ) {}

  /** @throws {CheckpointError} for a missing file, or a Git LFS pointer instead of the weights */
  static async open(path: string, pool = new HandlePool()): Promise<WeightFile> {
    const stats = await stat(path).catch((error) => {
      throw readError(path, error)
    })
    if (!stats.isFile()) throw new CheckpointError(`${path} is not a file; weights were expected in it`)
    const file = new WeightFile(path, stats.size, stats.mtimeMs, pool)
    if (isLfsPointer(await file.readStart(64))) {
      await file.close()
      throw new CheckpointError(lfsAdvice(path))
    }
    return file
  }

  /** The first `length` bytes, or all of a shorter file. */
  async readStart(length: number): Promise<Buffer> {
    const start = Buffer.alloc(Math.min(length, this.size))
    await this.read(0, start)
    return start
  }

  /**
   * Fills `into` from `position` on.
   * @throws {CheckpointError} for a file that ends before, or cannot be read
   */
  async read(position: number, into: Uint8Array): Promise<void> {
    if (this.#closed) throw new CheckpointError(`${this.path} was closed; open it again to read from it`)
    if (into.length === 0) return
    if (position + into.length > this.size) throw this.cutShort(position + into.length)
    await this.pool.use(
      this.path,
      () => this.#openUnchanged(),
      async (handle) => {
        for (let done = 0; done < into.length; ) {
          const bytesRead = await handle.read(position + done, into.subarray(done)).catch((error) => {
            throw readError(this.path, error)
          })
          if (bytesRead === 0) throw this.cutShort(position + into.length)
          done += bytesRead
        }
      },
    )
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.pool.close(this.path)
  }

  /** The error for a file that ends before `end`. */
  cutShort(end: number): CheckpointError {
    return new CheckpointError(
      `${this.path} is cut short: it should have at least ${end} bytes and has ${this.size}; download or copy it again`,
    )
  }

  async #openUnchanged(): Promise<Reader> {
    const handle = await open(this.path, 'r').catch((error) => {
      throw readError(this.path, error)
    })
    const { size, mtimeMs } = await handle.stat()
    if (size === this.size && mtimeMs === this.modified) {
      const direct = this.pool.direct ? await DirectReader.open(this.path, handle, size) : undefined
      return direct ?? new CachedReader(handle)
    }
    await handle.close()
    throw new CheckpointError(`${this.path} was changed by another program while it was read; try again`)
  }
}

/** Turns a system error on reading into one sentence that names the file. */
export function readError(path: string, cause: NodeJS.ErrnoException): CheckpointError {
  const reasons: Record<string, string> = {
    ENOENT: 'there is no such file',
    ENOTDIR: 'a part of its path is not a directory',
    EACCES: 'this user may not read it',
    EPERM: 'this user may not read it',
    EISDIR: 'it is a directory',
    EIO: 'the disk reports a read error',
  }
  return new CheckpointError(`Cannot read ${path}: ${reasons[cause.code ?? ''] ?? cause.message}`, { cause })
}
