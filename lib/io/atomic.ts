/**
 * Directories and sets of files that appear completely or not at all, whenever the process or the machine stops:
 * everything is written under another name, flushed to disk, and only then renamed.
 */
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, realpath, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from '../errors.js'
import { ensureSpace, flush, flushTree, writeError } from './disk.js'
import { findAbandoned, renamed, withStagingName } from './staging.js'

export interface AtomicOptions {
  /** Bytes to be written, if known: without space for them nothing is written. */
  bytesNeeded?: number
}

export interface AtomicFileOptions extends AtomicOptions {
  /** Whether to create the file's directory if it is missing. @default true */
  makeDirectory?: boolean
}

/**
 * Writes a directory: `produce` fills a sibling, `<name>.tmp-…`, which is then renamed. An existing directory of that
 * name stays unchanged until the new one is complete, and is then replaced. First recovers from writes by processes
 * that died.
 * @returns the result of `produce`
 * @throws {CheckpointError} for a full or read-only disk; nothing has changed then
 */
export async function writeDirectoryAtomically<T>(
  directory: string,
  produce: (temporary: string) => Promise<T>,
  { bytesNeeded = 0 }: AtomicOptions = {},
): Promise<T> {
  const target = await resolveTarget(directory)
  const parent = path.dirname(target)
  const [temporaryPrefix, oldPrefix] = [`${path.basename(target)}.tmp`, `${path.basename(target)}.old`]
  return reportingErrors(target, bytesNeeded, () =>
    withParent(parent, async () => {
      await clearAbandoned(target, temporaryPrefix, oldPrefix)
      await ensureSpace(target, parent, bytesNeeded)
      return withStagingName(temporaryPrefix, async (name) => {
        const temporary = path.join(parent, name)
        const old = path.join(parent, renamed(name, temporaryPrefix, oldPrefix))
        try {
          const result = await fill(temporary, produce)
          await swap(target, temporary, old)
          return result
        } finally {
          await rm(temporary, { recursive: true, force: true })
        }
      })
    }),
  )
}

/**
 * Writes a file: `produce` writes a sibling, `<name>.tmp-…`, which is then renamed and replaces an existing file.
 * @throws {CheckpointError} for a full or read-only disk; nothing has changed then
 */
export async function writeFileAtomically<T>(
  file: string,
  produce: (temporary: string) => Promise<T>,
  { bytesNeeded = 0, makeDirectory = true }: AtomicFileOptions = {},
): Promise<T> {
  const target = await realpath(file).catch(() => path.resolve(file))
  if (await isDirectory(target)) {
    throw new CheckpointError(`Cannot save ${target}: a directory has that name; choose another path`)
  }
  const parent = path.dirname(target)
  if (!makeDirectory && !existsSync(parent)) {
    throw new CheckpointError(
      `Cannot save ${target}: there is no directory ${parent}; create it, or choose another path`,
    )
  }
  const prefix = `${path.basename(target)}.tmp`
  return reportingErrors(target, bytesNeeded, () =>
    withParent(parent, async () => {
      for (const name of await findAbandoned(parent, prefix)) await remove(path.join(parent, name))
      await ensureSpace(target, parent, bytesNeeded)
      return withStagingName(prefix, async (name) => {
        const temporary = path.join(parent, name)
        try {
          const result = await produce(temporary)
          await flush(temporary)
          await rename(temporary, target)
          await flush(parent)
          return result
        } finally {
          await remove(temporary)
        }
      })
    }),
  )
}

export interface ReplaceOptions extends AtomicOptions {
  /**
   * The existing files to remove before the first new one is placed, so that old and new files never look like one set.
   */
  obsolete(existing: readonly string[], written: readonly string[]): readonly string[]
  /** The files through which a reader finds the others: the first to be removed, and the last to be placed. */
  entryPoints: readonly string[]
}

const TEMPORARY = '.tmp'
const COMPLETE = '.complete'
const JOURNAL = 'journal.json'

/** The work that remains when all new files are on disk. It is idempotent. */
interface Journal {
  remove: string[]
  place: string[]
}

/**
 * Writes files into a directory that exists and may hold others, which are kept. `produce` fills a directory within it;
 * when everything is on disk, one rename commits the replacement, and the files are moved into place. If the process
 * dies before the commit, nothing has changed; if it dies later, the next process to read or write the directory
 * completes the work: see `finishInterruptedReplacement`. The directory itself stays, as it may be a mount point.
 * @throws {CheckpointError} for a full or read-only disk; nothing has changed then
 */
export async function replaceFilesAtomically(
  directory: string,
  produce: (temporary: string) => Promise<void>,
  { bytesNeeded = 0, obsolete, entryPoints }: ReplaceOptions,
): Promise<void> {
  await finishInterruptedReplacement(directory)
  await reportingErrors(directory, bytesNeeded, async () => {
    for (const name of await findAbandoned(directory, TEMPORARY)) await remove(path.join(directory, name))
    await ensureSpace(directory, directory, bytesNeeded)
    await withStagingName(TEMPORARY, async (name) => {
      const temporary = path.join(directory, name)
      const complete = path.join(directory, renamed(name, TEMPORARY, COMPLETE))
      try {
        await fill(temporary, async () => {
          await produce(temporary)
          const journal = await planReplacement(directory, await readdir(temporary), { obsolete, entryPoints })
          await writeFile(path.join(temporary, JOURNAL), JSON.stringify(journal))
        })
        await rename(temporary, complete)
      } finally {
        await remove(temporary)
      }
      await carryOut(directory, complete)
    })
  })
}

async function planReplacement(
  directory: string,
  written: string[],
  { obsolete, entryPoints }: ReplaceOptions,
): Promise<Journal> {
  const entries = await readdir(directory, { withFileTypes: true })
  const inTheWay = entries.find((entry) => entry.isDirectory() && written.includes(entry.name))
  if (inTheWay) throw new CheckpointError(`Cannot save ${directory}: ${inTheWay.name} in it is a directory`)
  const existing = entries.filter((entry) => !entry.isDirectory()).map((entry) => entry.name)
  const entryPointsLast = (a: string, b: string) => Number(entryPoints.includes(a)) - Number(entryPoints.includes(b))
  return {
    remove: [...obsolete(existing, written)].sort(entryPointsLast).reverse(),
    place: written.sort(entryPointsLast),
  }
}

/**
 * Completes a committed `replaceFilesAtomically` whose process died.
 * @throws {CheckpointError} for a replacement that cannot be completed, as on a read-only disk
 */
export async function finishInterruptedReplacement(directory: string): Promise<void> {
  for (const name of await findAbandoned(directory, COMPLETE)) await carryOut(directory, path.join(directory, name))
}

async function carryOut(directory: string, complete: string): Promise<void> {
  try {
    await flush(directory)
    const text = await readFile(path.join(complete, JOURNAL), 'utf8').catch((error) => {
      if (error.code === 'ENOENT') return '{"remove":[],"place":[]}' // complete, and partly removed
      throw error
    })
    const journal = JSON.parse(text) as Journal
    for (const name of [...journal.remove, ...journal.place]) {
      if (name !== path.basename(name) || ['', '.', '..'].includes(name)) throw new Error(`its journal names "${name}"`)
    }
    const waiting = await readdir(complete)
    for (const name of journal.remove) {
      const placed = journal.place.includes(name) && !waiting.includes(name)
      if (!placed) await rm(path.join(directory, name), { force: true })
    }
    for (const name of journal.place) {
      await rename(path.join(complete, name), path.join(directory, name)).catch((error) => {
        if (error.code !== 'ENOENT') throw error // it is in place
      })
    }
    await flush(directory)
    await remove(complete)
  } catch (cause) {
    throw new CheckpointError(
      `The new files for ${directory} are complete in its ${path.basename(complete)}, but could not be moved into place ` +
        `(${(cause as Error).message}): fix this, then save or load it again`,
      { cause },
    )
  }
}

async function fill<T>(temporary: string, produce: (temporary: string) => Promise<T>): Promise<T> {
  await mkdir(temporary)
  const result = await produce(temporary)
  await flushTree(temporary)
  return result
}

/** Replaces `target` with `temporary`; in between, the target has the name `old`. */
async function swap(target: string, temporary: string, old: string): Promise<void> {
  const replaces = await isDirectory(target)
  if (replaces) await rename(target, old)
  try {
    await rename(temporary, target)
  } catch (error) {
    if (replaces) await rename(old, target)
    throw error
  }
  await flush(path.dirname(target))
  if (replaces) await remove(old)
}

/** Removes half-written directories of dead processes, and restores a directory whose replacement was interrupted. */
async function clearAbandoned(target: string, temporaryPrefix: string, oldPrefix: string): Promise<void> {
  const parent = path.dirname(target)
  for (const name of await findAbandoned(parent, oldPrefix)) {
    if (await isDirectory(target)) await remove(path.join(parent, name))
    else await rename(path.join(parent, name), target)
  }
  for (const name of await findAbandoned(parent, temporaryPrefix)) await remove(path.join(parent, name))
}

/** Runs `task` with a parent directory that is created if missing, and removed again if the task fails. */
async function withParent<T>(parent: string, task: () => Promise<T>): Promise<T> {
  const firstMade = await mkdir(parent, { recursive: true })
  try {
    return await task()
  } catch (error) {
    for (let made = parent; firstMade && made.length >= firstMade.length; made = path.dirname(made)) {
      await rmdir(made).catch(() => {}) // another process has put something there
    }
    throw error
  }
}

async function reportingErrors<T>(target: string, bytesNeeded: number, task: () => Promise<T>): Promise<T> {
  try {
    return await task()
  } catch (error) {
    throw await writeError(target, error, bytesNeeded)
  }
}

/**
 * The directory that a path resolves to, through symbolic links.
 * @throws {CheckpointError} for a file
 */
async function resolveTarget(directory: string): Promise<string> {
  const target = await realpath(directory).catch(() => path.resolve(directory))
  const stats = await stat(target).catch(() => undefined)
  if (stats && !stats.isDirectory()) {
    throw new CheckpointError(`Cannot save ${target}: a file has that name; choose another path`)
  }
  return target
}

async function isDirectory(file: string): Promise<boolean> {
  return (await stat(file).catch(() => undefined))?.isDirectory() ?? false
}

function remove(file: string): Promise<void> {
  return rm(file, { recursive: true, force: true })
}
