import { open, readdir, statfs } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../errors.js'
import { formatBytes } from '../format.js'

/** Bytes available in the file system of a directory, as df shows them; undefined if unknown. */
async function freeBytes(directory: string): Promise<number | undefined> {
  const { blocks, bavail, bsize } = await statfs(directory)
  return blocks === 0 ? undefined : bavail * bsize
}

/** Flushes `directory` and every file and directory below it to disk. */
export async function flushTree(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const child = path.join(directory, entry.name)
    if (entry.isDirectory()) await flushTree(child)
    else if (entry.isFile()) await flush(child)
  }
  await flush(directory)
}

/** Flushes one file, or the names in one directory. */
export async function flush(file: string): Promise<void> {
  const handle = await open(file, 'r')
  try {
    await handle.sync().catch((error) => {
      if (error.code !== 'EINVAL') throw error // a file system without flushing
    })
  } finally {
    await handle.close()
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full',
  EDQUOT: "this user's disk quota is used up",
  EFBIG: 'a file would be larger than the file system, or the ulimit of this shell, allows',
  EROFS: 'the file system is read-only',
  EACCES: 'this user may not write there',
  EPERM: 'this user may not write there',
  ENOTDIR: 'a part of its path is a file',
  EEXIST: 'a part of its path is a file',
  EBUSY: 'the directory is in use as a mount point',
  EIO: 'the disk reports a write error',
}

/** A system error in saving, which states that nothing was changed. */
class SaveError extends CheckpointError {}

/**
 * Turns a system error into one sentence about `target`. Other errors, such as the producer's, are unchanged. An error
 * already reported for a part of `target` is rewritten for `target`.
 */
export async function writeError(target: string, error: unknown, bytesNeeded: number): Promise<unknown> {
  const cause = error instanceof SaveError ? error.cause : error
  const { code, syscall, message } = cause as NodeJS.ErrnoException
  if (typeof code !== 'string' || typeof syscall !== 'string') return error
  const full = code === 'ENOSPC' || code === 'EDQUOT'
  const space = full ? await describeSpace(path.dirname(target), bytesNeeded) : ''
  return new SaveError(
    `Cannot save ${target}: ${REASONS[code] ?? message}${space}; ` +
      `nothing was changed, so ${full ? 'free some space' : 'put that right'} or choose another place`,
    { cause },
  )
}

/**
 * @throws {CheckpointError} for a file system of `directory` without space for `bytesNeeded`, before anything is
 *   written
 */
export async function ensureSpace(target: string, directory: string, bytesNeeded: number): Promise<void> {
  const free = await freeBytes(directory)
  if (free === undefined || free >= bytesNeeded) return
  throw new CheckpointError(
    `Cannot save ${target}: it needs ${formatBytes(bytesNeeded)}, and ${formatBytes(free)} are free; ` +
      'nothing was changed, so free some space or choose another place',
  )
}

async function describeSpace(directory: string, bytesNeeded: number): Promise<string> {
  const free = await freeBytes(directory).catch(() => undefined)
  const parts = [
    ...(bytesNeeded > 0 ? [`${formatBytes(bytesNeeded)} are needed`] : []),
    ...(free === undefined ? [] : [`${formatBytes(free)} are free`]),
  ]
  return parts.length > 0 ? ` (${parts.join(', ')})` : ''
}
