/**
 * Locks of directories that one process at a time may write to, here or on another machine that shares them. A file
 * `.run.lock` says who holds one; the holder rewrites it every few seconds, so that others can see whether it still lives.
 */
import { readFileSync, readlinkSync, unlinkSync } from 'node:fs'
import { type FileHandle, link, mkdir, open, readFile, realpath, rename, rmdir, stat, unlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import { OpenAlpacaError } from '../errors.js'
import { writeError } from './disk.js'

const fileName = '.run.lock'
const beatEvery = 10 // seconds
/** Seconds without a sign of life after which a holder that cannot be asked counts as gone. */
const silence = 120

/** A process, such that another that has its number later is told from it. */
export interface Holder {
  pid: number
  host: string
  /** When it took the lock, ISO 8601. */
  since: string
  /** Changes when the machine starts again. */
  boot: string
  /** Containers may have processes of the same number. */
  namespace: string
  /** When the process began, in ticks since the machine did. */
  start: string
}

const attempt = <T>(read: () => T): T | undefined => {
  try {
    return read()
  } catch {
    return undefined
  }
}

/** When a process began; undefined where there is none, or only what is left of one. */
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

/** Whether a holder is gone; `age` is how many seconds ago it gave a sign of life. */
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

/** Locks of this process by their directories. */
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
    // A write through the handle reaches this lock's own file, also if others have moved it away.
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
      taking.catch(() => held.delete(target)) // for those who try again
      return await taking
    } catch (error) {
      throw await writeError(path.resolve(directory), error, 0)
    }
  }

  /** Gives the lock back when it was taken once; a directory that is still empty goes with it. */
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
 * Does work while this process holds the locks of directories, which are made where they are missing; one within another
 * needs none of its own. Within a process, locks can be taken several times.
 * @throws {OpenAlpacaError} `IN_USE` while another process holds one of them
 * @throws {CheckpointError} when a directory cannot be made or written
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
    if (found === undefined) continue // it was given back at this moment
    const age = await secondsSince(file)
    const holder = parseHolder(found)
    if (!isGone(holder, age)) throw inUse(directory, holder, age)
    await removeStale(file, found)
  }
}

/** undefined for a lock that is being written at this moment, or is damaged. */
function parseHolder(text: string): Holder | undefined {
  const holder = attempt(() => JSON.parse(text) as Partial<Holder> | null)
  return holder && typeof holder.pid === 'number' && typeof holder.host === 'string' ? (holder as Holder) : undefined
}

/** Removes a lock whose holder is gone, unless another process does so, and takes it, at the same moment. */
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

/** How long ago a file was written, by the clock of its file system. */
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
