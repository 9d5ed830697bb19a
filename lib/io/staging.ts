/**
 * Temporary names for unfinished files, which show a later process what was abandoned: `<prefix>-<host>-<process
 * id>-<random>`.
 */
import { randomBytes } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'

const DAY = 24 * 60 * 60 * 1000

/** Names that this process is writing. */
const active = new Set<string>()

/** Runs `task` with a new name beginning with `prefix`, which counts as in use until the task ends. */
export async function withStagingName<T>(prefix: string, task: (name: string) => Promise<T>): Promise<T> {
  const owner = `${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`
  active.add(owner)
  try {
    return await task(`${prefix}-${owner}`)
  } finally {
    active.delete(owner)
  }
}

/** The same owner's name with another prefix. */
export function renamed(name: string, prefix: string, newPrefix: string): string {
  return newPrefix + name.slice(prefix.length)
}

/**
 * Names in `directory` that begin with `prefix` and whose process has died. A process on another host cannot be
 * checked, so its files count as abandoned after a day.
 */
export async function findAbandoned(directory: string, prefix: string): Promise<string[]> {
  const names = await readdir(directory).catch(() => [])
  const abandoned: string[] = []
  for (const name of names) {
    if (!name.startsWith(`${prefix}-`)) continue
    const owner = name.slice(prefix.length + 1)
    const [, host, pid] = /^(.+)-(\d+)-[0-9a-f]{8}$/.exec(owner) ?? []
    if (host === undefined || active.has(owner)) continue
    const own = host === hostname()
    const dead = own ? Number(pid) === process.pid || !isAlive(Number(pid)) : await isOld(path.join(directory, name))
    if (dead) abandoned.push(name)
  }
  return abandoned
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0) // signal 0 only checks that the process exists
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function isOld(file: string): Promise<boolean> {
  const stats = await stat(file).catch(() => undefined)
  return stats !== undefined && Date.now() - stats.mtimeMs > DAY
}
