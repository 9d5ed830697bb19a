/**
 * Locks of directories that one process at a time may write to, on this machine or another one that shares them. A file
 * `.run.lock` identifies the holder, which rewrites it every few seconds to show that it is alive.
 */
import { readFileSync, readlinkSync, unlinkSync } from 'node:fs'
import { type FileHandle, link, mkdir, open, readFile, realpath, rename, rmdir, stat, unlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import { OpenAlpacaError } from '../errors.js'
import { writeError } from './disk.js'

const fileName = '.run.lock'
const beatEvery = 10 // seconds
/** Seconds of silence after which a holder that cannot be checked counts as gone. */
const silence = 120

/** Identifies a process, and distinguishes it from a later one with the same number. */
export interface Holder {
  pid: number
  host: string
  /** When it took the lock, ISO 8601. */
  since: string
  /** Changes when the machine restarts. */
  boot: string
  /** Containers may have processes with the same number. */
  namespace: string
  /** When the process began, in ticks since boot. */
  start: string
}

const attempt = <T>(read: () => T): T | undefined => {
  try {
    return read()
  } catch {
    return undefined
  }
}

/** When a process began; undefined if there is none, or only a zombie. */
function startOf(pid: number | 'self'): string | undefined {
  const text = attempt(() => readFileSync(`/proc/${pid}/stat`, 'latin1'))
  const [state, ...fields] = text?.slice(text.lastIndexOf(')') + 2).split(' ') ?? []
  return state === undefined || /[ZXx]/.test(state) ? undefined : fields[18]
}

/** This process. */
export function thisProcess(): Holder {
  return {
    pid: process.pid,
    host: hostname(),
    since: new Date().toISOString(),
    boot: attempt(() => readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()) ?? '',
    namespace: attempt(() => readlinkSync('/proc/self/ns/pid')) ?? '',
    start: startOf('self') ?? '',
  }
}

/** Whether a holder is gone; `age` is the number of seconds since its last sign of life. */
export function isGone(holder: Holder | undefined, age: number): boolean {
  const self = thisProcess()
  const canAsk =
    holder !== undefined &&
    holder.host === self.host &&
    holder.boot === self.boot &&
    holder.namespace === self.namespace &&
    self.start !== ''
  return canAsk ? startOf(holder.pid) !== holder.start : age > silence
}

/** Locks of this process, by directory. */
const held = new Map<string, Promise<DirectoryLock>>()

class DirectoryLock {
  private uses = 1
  private readonly timer: NodeJS.Timeout

  private constructor(
    private readonly directory: string,
    private readonly handle: FileHandle,
    private readonly text: string,
    private readonly firstMade: string | undefined,
  ) {
    // A write through the handle reaches this lock's file even after others have moved it away.
    const beat = () => void handle.write(text, 0).catch(() => {})
    this.timer = setInterval(beat, 1000 * beatEvery).unref()
    process.once('exit', this.leave)
  }

  static async take(directory: string): Promise<DirectoryLock> {
    try {
      const firstMade = await mkdir(directory, { recursive: true })
      const target = await realpath(directory)
      for (;;) {
        const own = held.get(target)
        if (!own) break
        const lock = await own
        if (lock.uses > 0) {
          lock.uses++
          return lock
        }
      }
      const text = JSON.stringify(thisProcess())
      const taking = create(directory, path.join(target, fileName), text).then(
        (handle) => new DirectoryLock(target, handle, text, firstMade && path.resolve(firstMade)),
      )
      held.set(target, taking)
      taking.catch(() => held.delete(target)) // allows another try
      return await taking
    } catch (error) {
      throw await writeError(path.resolve(directory), error, 0)
    }
  }

  /** Releases the lock if it was taken once; also removes the directory if it is still empty. */
  async release(): Promise<void> {
    if (--this.uses > 0) return
    held.delete(this.directory)
    clearInterval(this.timer)
    process.off('exit', this.leave)
    await this.handle.close()
    const file = path.join(this.directory, fileName)
    if ((await readFile(file, 'utf8').catch(() => '')) === this.text) await unlink(file).catch(() => {})
    const { firstMade } = this
    for (let made = this.directory; firstMade && made.length >= firstMade.length; made = path.dirname(made)) {
      const isRemoved = await rmdir(made).then(
        () => true,
        () => false,
      )
      if (!isRemoved) break
    }
  }

  private readonly leave = (): void => {
    const file = path.join(this.directory, fileName)
    if (attempt(() => readFileSync(file, 'utf8')) === this.text) attempt(() => unlinkSync(file))
  }
}

/**
 * Runs `work` while this process holds the locks of directories, which are created if missing; a nested directory needs
 * no separate lock. Within a process, locks are reentrant.
 * @throws {OpenAlpacaError} `IN_USE` for a directory that another process has locked
 * @throws {CheckpointError} for a directory that cannot be created or written
 */
export async function withLocks<T>(directories: readonly string[], work: () => Promise<T>): Promise<T> {
  const whole = directories.filter((directory) => !directories.some((other) => isWithin(directory, other)))
  const locks: DirectoryLock[] = []
  try {
    for (const directory of new Set(whole)) locks.push(await DirectoryLock.take(directory))
    return await work()
  } finally {
    for (const lock of locks.reverse()) await lock.release()
  }
}

function isWithin(directory: string, other: string): boolean {
  const relative = path.relative(other, directory)
  return relative !== '' && relative !== '..' && !relative.startsWith(`..${path.sep}`) && !path.isAbsolute(relative)
}

async function create(directory: string, file: string, text: string): Promise<FileHandle> {
  for (;;) {
    const handle = await open(file, 'wx').catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error
    })
    if (handle) {
      await handle.write(text, 0)
      return handle
    }
    const found = await readFile(file, 'utf8').catch(() => undefined)
    if (found === undefined) continue // it was just released
    const age = await secondsSince(file)
    const holder = parseHolder(found)
    if (!isGone(holder, age)) throw inUse(directory, holder, age)
    await removeStale(file, found)
  }
}

/** undefined for a lock that is being written, or is damaged. */
function parseHolder(text: string): Holder | undefined {
  const holder = attempt(() => JSON.parse(text) as Partial<Holder> | null)
  return holder && typeof holder.pid === 'number' && typeof holder.host === 'string' ? (holder as Holder) : undefined
}

/** Removes a lock whose holder is gone, unless another process removes and takes it at the same moment. */
async function removeStale(file: string, found: string): Promise<void> {
  const aside = `${file}.${process.pid}.stale`
  try {
    await rename(file, aside)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  const isSame = (await readFile(aside, 'utf8')) === found
  if (!isSame) await link(aside, file).catch(() => {})
  await unlink(aside)
}

/** Seconds since a file was written, by the clock of its file system. */
async function secondsSince(file: string): Promise<number> {
  const probe = `${file}.${process.pid}.now`
  try {
    await (await open(probe, 'w')).close()
    const [now, then] = await Promise.all([stat(probe), stat(file)])
    return (now.mtimeMs - then.mtimeMs) / 1000
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0
    throw error
  } finally {
    await unlink(probe).catch(() => {})
  }
}

function inUse(directory: string, holder: Holder | undefined, age: number): OpenAlpacaError {
  const { pid, host, since } = holder ?? {}
  const who = holder ? `process ${pid} on ${host}, since ${since}` : `another process, since ${Math.round(age)} s ago`
  const isHere = host === hostname()
  const gone = isHere ? '' : `, or try again in ${silence} s if that run is gone`
  return new OpenAlpacaError(
    'IN_USE',
    `${directory} is in use by another run (${who}): wait for its end${gone}, or choose another save_path`,
  )
}
