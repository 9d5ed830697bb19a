import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { type Holder, isGone, thisProcess, withLocks } from '../../lib/io/lock.js'
import { temporaryDirectory } from '../formats/helpers.js'

const root = temporaryDirectory()
let directory: string
let file: string
beforeEach(() => {
  directory = mkdtempSync(path.join(root, 'run-'))
  file = path.join(directory, '.run.lock')
})

/** A lock that was written some seconds ago. */
function leave(holder: Partial<Holder> | string, age = 0): void {
  writeFileSync(file, typeof holder === 'string' ? holder : JSON.stringify({ ...thisProcess(), ...holder }))
  const then = Date.now() / 1000 - age
  utimesSync(file, then, then)
}

/** The result for a run that starts now: true, or its error. */
const begin = () =>
  withLocks([directory], async () => JSON.parse(readFileSync(file, 'utf8')).pid === process.pid).catch(
    (error: Error & { code: string }) => `${error.code}: ${error.message}`,
  )

/** Another process of this machine. */
const other = { pid: process.ppid, start: startOf(process.ppid) }
function startOf(pid: number): string {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]!
}

describe('the lock of a directory', () => {
  it('the lock is held during a run, several times by one process, and removed afterwards', async () => {
    await withLocks([directory], async () => {
      await withLocks([directory, `${directory}/.`], async () => expect(existsSync(file)).toBe(true))
      expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({ pid: process.pid, start: startOf(process.pid) })
    })
    expect(readdirSync(directory)).toEqual([])
    await expect(withLocks([directory], () => Promise.reject(new Error('mine')))).rejects.toThrow('mine')
    expect(readdirSync(directory)).toEqual([])
  })

  it('the lock leaves no directory behind if nothing was written', async () => {
    const deep = path.join(directory, 'a/b')
    await withLocks([deep, path.join(deep, 'logs')], async () => {
      expect(existsSync(path.join(deep, '.run.lock'))).toBe(true)
      expect(existsSync(path.join(deep, 'logs'))).toBe(false) // the lock of the parent directory is enough
    })
    expect(readdirSync(directory)).toEqual([])
    await withLocks([deep], async () => writeFileSync(path.join(deep, 'model'), ''))
    expect(readdirSync(deep)).toEqual(['model'])
  })

  it('the lock rejects another process, and names the holder', async () => {
    const script = `import { withLocks } from '#lib/io/lock.js'
      await withLocks([process.argv[1]], async () => {}).then(() => console.log('free'), ({ code, message }) => console.log(code, message))`
    const elsewhere = async () => {
      const args = ['--input-type=module', '-e', script, directory]
      return (await promisify(execFile)(process.execPath, args)).stdout.trim()
    }
    const refused = await withLocks([directory], elsewhere)
    expect(refused).toMatch(
      /^IN_USE .*run-\w+ is in use by another run \(process \d+ on .+, since 20.*Z\): wait for its end, or/,
    )
    expect(refused).toContain(`process ${process.pid} on `)
    expect(await elsewhere()).toBe('free')
  })

  it('an unwritable directory is reported with the message of the file system', async () => {
    writeFileSync(path.join(directory, 'file'), '')
    await expect(withLocks([path.join(directory, 'file', 'x')], async () => {})).rejects.toThrow(
      /Cannot save .*: a part of its path is a file/,
    )
  })
})

describe('a stale lock', () => {
  it.each<[string, Partial<Holder>]>([
    ['whose process has exited', { pid: 2 ** 22 + 1 }],
    ['whose process id another process has now', { ...other, start: '1' }],
    ['with this process’s id, from an earlier process', { start: '1' }],
  ])('a lock on this machine, %s, does not count', async (_, holder) => {
    leave(holder)
    expect(await begin()).toBe(true)
    expect(readdirSync(directory)).toEqual([])
  })

  it('a lock counts while its process lives, however long it has been silent', async () => {
    leave(other, 9999)
    expect(await begin()).toMatch(/^IN_USE: .*is in use by another run \(process \d+/)
    expect(readdirSync(directory)).toEqual(['.run.lock'])
  })

  it.each<[string, Partial<Holder>]>([
    ['from another machine', { host: 'node-b' }],
    ['from before a restart', { boot: 'another' }],
    ['from another container', { namespace: 'pid:[1]' }],
  ])('a lock %s counts for two minutes after its last heartbeat', async (_, holder) => {
    leave({ ...other, ...holder }, 60)
    expect(await begin()).toMatch(/^IN_USE/)
    leave({ ...other, ...holder }, 130)
    expect(await begin()).toBe(true)
  })

  it.each(['', '{"pid": 1', 'null', '7'])('a lock file with the text %j counts for two minutes', async (text) => {
    leave(text, 1)
    expect(await begin()).toMatch(/^IN_USE: .*\(another process, since 1 s ago\)/)
    leave(text, 130)
    expect(await begin()).toBe(true)
  })

  it('the lock error names the machine and the remaining wait', async () => {
    leave({ ...other, host: 'node-b' })
    expect(await begin()).toMatch(
      / on node-b, .*or try again in 120 s if that run is gone, or choose another save_path$/,
    )
  })

  it('a stale lock is replaced by one that several users in this process share', async () => {
    leave({ pid: 2 ** 22 + 1 })
    expect(await Promise.all(Array.from({ length: 8 }, begin))).toEqual(Array(8).fill(true))
    expect(readdirSync(directory)).toEqual([])
  })
})

describe('the holder of a lock', () => {
  it('the holder of a lock sends heartbeats', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    try {
      await withLocks([directory], async () => {
        utimesSync(file, 1, 1)
        vi.advanceTimersByTime(10_000)
        await vi.waitFor(() => expect(statSync(file).mtimeMs).toBeGreaterThan(1e6))
        expect(JSON.parse(readFileSync(file, 'utf8')).pid).toBe(process.pid)
      })
    } finally {
      vi.useRealTimers()
    }
  })

  it('the current process counts as alive', () => {
    expect(isGone(thisProcess(), 9999)).toBe(false)
  })
})
