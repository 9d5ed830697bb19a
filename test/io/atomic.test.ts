import { execFileSync, spawn, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import path from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { finishInterruptedReplacement, replaceFilesAtomically, writeDirectoryAtomically } from '../../lib/io/atomic.js'
import { rejection, temporaryDirectory } from '../formats/helpers.js'

const root = temporaryDirectory()
const fresh = () => mkdtempSync(path.join(root, 'case-'))
const deadProcess = spawnSync(process.execPath, ['-e', '']).pid
const leftBy = (pid: number, host = hostname()) => `${host}-${pid}-0123abcd`

function write(directory: string, files: Record<string, string>): string {
  mkdirSync(directory, { recursive: true })
  for (const [name, contents] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(directory, name)), { recursive: true })
    writeFileSync(path.join(directory, name), contents)
  }
  return directory
}

/** Every file below a directory, with its contents. */
function tree(directory: string): Record<string, string> {
  const files = readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) => !entry.isDirectory())
  const names = files.map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name))).sort()
  return Object.fromEntries(names.map((name) => [name, readFileSync(path.join(directory, name), 'utf8')]))
}

const writing = (files: Record<string, string>) => async (temporary: string) => {
  write(temporary, files)
}

describe('writing a directory', () => {
  it('renames a directory to its final name when it is complete', async () => {
    const parent = fresh()
    const target = path.join(parent, 'runs/a/checkpoint-10')
    const result = await writeDirectoryAtomically(target, async (temporary) => {
      expect(path.dirname(temporary)).toBe(path.dirname(target))
      expect(path.basename(temporary)).toMatch(/^checkpoint-10\.tmp-/)
      expect(existsSync(target)).toBe(false)
      write(temporary, { 'manifest.json': '{}', 'rank/0': 'zero' })
      return 7
    })
    expect(result).toBe(7)
    expect(tree(parent)).toEqual({ 'runs/a/checkpoint-10/manifest.json': '{}', 'runs/a/checkpoint-10/rank/0': 'zero' })
  })

  it('replaces an entire directory', async () => {
    const parent = fresh()
    const target = write(path.join(parent, 'model'), { old: '1', both: '1' })
    await writeDirectoryAtomically(target, async (temporary) => {
      expect(tree(target)).toEqual({ old: '1', both: '1' })
      write(temporary, { both: '2', new: '2' })
    })
    expect(tree(parent)).toEqual({ 'model/both': '2', 'model/new': '2' })
  })

  it('follows a symbolic link to the target directory', async () => {
    const parent = fresh()
    write(path.join(parent, 'disk/model'), { old: '1' })
    symlinkSync('disk/model', path.join(parent, 'link'))
    await writeDirectoryAtomically(path.join(parent, 'link'), writing({ new: '2' }))
    expect(tree(path.join(parent, 'disk'))).toEqual({ 'model/new': '2' })
  })

  it('leaves everything unchanged when the producer fails, and rethrows its error', async () => {
    const parent = fresh()
    const target = write(path.join(parent, 'model'), { old: '1' })
    const failing = async (temporary: string) => {
      write(temporary, { half: '2' })
      throw new TypeError('no such tensor')
    }
    await expect(writeDirectoryAtomically(target, failing)).rejects.toThrow(new TypeError('no such tensor'))
    await expect(writeDirectoryAtomically(path.join(parent, 'x/y/z'), failing)).rejects.toThrow('no such tensor')
    expect(tree(parent)).toEqual({ 'model/old': '1' })
    expect(readdirSync(parent)).toEqual(['model'])
  })

  it('reports a full disk, and the free space', async () => {
    const parent = fresh()
    const target = path.join(parent, 'model')
    const fill = async (temporary: string) => {
      symlinkSync('/dev/full', path.join(temporary, 'weights'))
      await writeFile(path.join(temporary, 'weights'), 'x')
    }
    const { message } = await rejection(writeDirectoryAtomically(target, fill, { bytesNeeded: 1500 }))
    expect(message).toMatch(
      /^Cannot save .*model: the disk is full \(1\.5 KB are needed, .* are free\); nothing was changed/,
    )
    expect(readdirSync(parent)).toEqual([])
  })

  it('does not start a write that needs more than the free space', async () => {
    const parent = fresh()
    let begun = false
    const produce = async () => {
      begun = true
    }
    const error = await rejection(writeDirectoryAtomically(path.join(parent, 'model'), produce, { bytesNeeded: 1e18 }))
    expect(error.message).toMatch(/it needs 1000\.0 PB, and .* are free; nothing was changed/)
    expect(begun).toBe(false)
    expect(readdirSync(parent)).toEqual([])
  })

  it('explains why a path cannot be written', async () => {
    const parent = write(fresh(), { file: '' })
    expect((await rejection(writeDirectoryAtomically(path.join(parent, 'file'), writing({})))).message).toMatch(
      /a file has that name/,
    )
    const below = path.join(parent, 'file/model')
    expect((await rejection(writeDirectoryAtomically(below, writing({})))).message).toMatch(
      /a part of its path is a file/,
    )
    const readOnly = await rejection(writeDirectoryAtomically('/proc/model', writing({})))
    expect(readOnly.message).toMatch(/^Cannot save \/proc\/model: /)
  })

  it.each([
    ['EROFS', /the file system is read-only; nothing was changed, so put that right/],
    ['EACCES', /this user may not write there/],
    ['EDQUOT', /disk quota is used up .*free some space/],
    ['EIO', /the disk reports a write error/],
  ])('reports the system error %s in one sentence, and keeps it as the cause', async (code, message) => {
    const target = path.join(fresh(), 'model')
    const cause = Object.assign(new Error(code), { code, syscall: 'write' })
    const error = await rejection(writeDirectoryAtomically(target, () => Promise.reject(cause)))
    expect(error.message).toMatch(message)
    expect(error.message).toContain(target)
    expect(error.cause).toBe(cause)
  })

  it('deletes the leftovers of dead processes under its name, and nothing else', async () => {
    const parent = fresh()
    const kept = {
      [`model.tmp-${leftBy(process.ppid)}/x`]: 'alive',
      [`model.tmp-${leftBy(deadProcess, 'elsewhere')}/x`]: 'on another host, today',
      [`model2.tmp-${leftBy(deadProcess)}/x`]: 'of another name',
      'model.tmp-notes/x': 'not ours',
    }
    write(parent, {
      ...kept,
      [`model.tmp-${leftBy(deadProcess)}/x`]: 'dead',
      [`model.tmp-${leftBy(process.pid)}/x`]: 'before a restart',
    })
    const old = path.join(parent, `model.tmp-${leftBy(1, 'long-gone')}`)
    write(old, { x: 'of last week' })
    utimesSync(old, 1e9, 1e9)
    await writeDirectoryAtomically(path.join(parent, 'model'), writing({ new: '1' }))
    expect(tree(parent)).toEqual({ ...kept, 'model/new': '1' })
  })

  it('restores a directory whose replacement was interrupted between two renames', async () => {
    const parent = write(fresh(), {
      [`model.old-${leftBy(deadProcess)}/weights`]: 'old',
      [`model.tmp-${leftBy(deadProcess)}/weights`]: 'new?',
    })
    const failing = async () => {
      throw new Error('stop')
    }
    await expect(writeDirectoryAtomically(path.join(parent, 'model'), failing)).rejects.toThrow('stop')
    expect(tree(parent)).toEqual({ 'model/weights': 'old' })
  })

  it('isolates two writers of one directory', async () => {
    const target = path.join(fresh(), 'model')
    const slow = (value: string) => async (temporary: string) => {
      write(temporary, { a: value })
      await new Promise((resolve) => setTimeout(resolve, 10))
      write(temporary, { b: value })
    }
    await writeDirectoryAtomically(target, slow('0'))
    const results = await Promise.allSettled([
      writeDirectoryAtomically(target, slow('1')),
      writeDirectoryAtomically(target, slow('2')),
    ])
    expect(results.some(({ status }) => status === 'fulfilled')).toBe(true)
    const { a, b } = tree(target)
    expect(a).toBe(b)
  })
})

describe('replacing files', () => {
  const options = {
    obsolete: (existing: readonly string[]) => existing.filter((name) => name.startsWith('shard')),
    entryPoints: ['index'],
  }

  it('adds new files, removes obsolete ones, and keeps the rest', async () => {
    const directory = write(fresh(), { index: '1', 'shard-1': '1', 'shard-2': '1', notes: 'mine', 'logs/a': 'mine' })
    const produce = async (temporary: string) => {
      expect(tree(directory)).toMatchObject({ index: '1', 'shard-2': '1' })
      write(temporary, { index: '2', 'shard-1': '2' })
    }
    await replaceFilesAtomically(directory, produce, options)
    expect(tree(directory)).toEqual({ index: '2', 'shard-1': '2', notes: 'mine', 'logs/a': 'mine' })
    expect(readdirSync(directory).sort()).toEqual(['index', 'logs', 'notes', 'shard-1'])
  })

  it('leaves everything unchanged when the producer fails or a directory is in the way', async () => {
    const directory = write(fresh(), { index: '1', 'shard-1': '1', 'logs/a': 'mine' })
    const failing = async (temporary: string) => {
      write(temporary, { index: '2' })
      throw new Error('stop')
    }
    await expect(replaceFilesAtomically(directory, failing, options)).rejects.toThrow('stop')
    const { message } = await rejection(replaceFilesAtomically(directory, writing({ index: '2', logs: '2' }), options))
    expect(message).toMatch(/logs in it is a directory/)
    expect(tree(directory)).toEqual({ index: '1', 'shard-1': '1', 'logs/a': 'mine' })
  })

  /** The state of a directory after each step of the replacement. */
  const complete = `.complete-${leftBy(deadProcess)}`
  const journal = JSON.stringify({ remove: ['index', 'shard-2'], place: ['config', 'shard-1', 'index'] })
  const steps: [string, Record<string, string>][] = [
    [
      'when it has been decided',
      {
        config: '1',
        index: '1',
        'shard-1': '1',
        'shard-2': '1',
        [`${complete}/config`]: '2',
        [`${complete}/shard-1`]: '2',
        [`${complete}/index`]: '2',
      },
    ],
    [
      'when an obsolete file is gone',
      {
        config: '1',
        'shard-1': '1',
        'shard-2': '1',
        [`${complete}/config`]: '2',
        [`${complete}/shard-1`]: '2',
        [`${complete}/index`]: '2',
      },
    ],
    ['when some are in place', { config: '2', 'shard-1': '2', [`${complete}/index`]: '2' }],
    ['when all are in place', { config: '2', 'shard-1': '2', index: '2' }],
  ]
  it.each(steps)('completes a replacement after a process died %s', async (_, state) => {
    const directory = write(fresh(), { ...state, [`${complete}/journal.json`]: journal })
    await finishInterruptedReplacement(directory)
    expect(tree(directory)).toEqual({ config: '2', 'shard-1': '2', index: '2' })
    expect(existsSync(path.join(directory, complete))).toBe(false)
  })

  it('completes a replacement whose removal had started', async () => {
    const directory = write(fresh(), { index: '2' })
    mkdirSync(path.join(directory, complete))
    await finishInterruptedReplacement(directory)
    expect(readdirSync(directory)).toEqual(['index'])
  })

  it('does not touch files that a living process is about to put in place', async () => {
    const alive = `.complete-${leftBy(process.ppid)}`
    const state = { index: '1', [`${alive}/index`]: '2', [`${alive}/journal.json`]: '{"remove":[],"place":["index"]}' }
    const directory = write(fresh(), state)
    await finishInterruptedReplacement(directory)
    expect(tree(directory)).toEqual(state)
  })

  it.each(['../secret', '..', '.', '', '/etc/secret', 3])('rejects a journal that refers to %j', async (name) => {
    const directory = write(fresh(), { 'model/index': '1', secret: 'mine' })
    for (const journal of [
      { remove: [name], place: [] },
      { remove: [], place: [name] },
    ]) {
      write(path.join(directory, 'model', complete), { 'journal.json': JSON.stringify(journal) })
      const { message } = await rejection(finishInterruptedReplacement(path.join(directory, 'model')))
      expect(message).toMatch(/could not be moved into place/)
      expect(tree(directory)).toMatchObject({ 'model/index': '1', secret: 'mine' })
    }
  })
})

describe('a process killed in the middle', () => {
  const compiled = path.join(root, 'compiled')
  const repository = path.join(__dirname, '../..')

  beforeAll(() => {
    process.env.NODE_PATH = path.join(repository, 'node_modules') // for modules compiled elsewhere
    const compiler = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin/tsc')
    const source = path.join(repository, 'lib/formats/model-directory.ts')
    const settings = ['--ignoreConfig', '--module', 'node16', '--target', 'es2022', '--types', 'node', '--skipLibCheck']
    execFileSync(
      process.execPath,
      [compiler, ...settings, '--rootDir', path.join(repository, 'lib'), '--outDir', compiled, source],
      { cwd: repository },
    )
  })

  /** A program that saves a model of one megabyte into `directory`, or waits in the middle of it. */
  const program = (directory: string, stay: boolean) => `
    const { writeModelDirectory } = require(${JSON.stringify(path.join(compiled, 'formats/model-directory.js'))})
    async function* data() {
      yield new Uint8Array(500000)
      if (${stay}) {
        console.log('in the middle')
        await new Promise((resolve) => setTimeout(resolve, 600000))
      }
      yield new Uint8Array(500000)
    }
    const tensors = [{ name: 'w', dtype: 'uint8', shape: [1000000], data }]
    writeModelDirectory(${JSON.stringify(directory)}, { config: {}, tensors }).catch((error) => {
      console.log(error.message)
      process.exitCode = 1
    })`

  it.each(['new', 'existing'])(
    'a killed save keeps the directory (%s), and the next save deletes the leftovers',
    async (kind) => {
      const parent = fresh()
      const directory = path.join(parent, 'model')
      const before: Record<string, string> =
        kind === 'new' ? {} : { 'model/config.json': 'old', 'model/model.safetensors': 'old' }
      write(parent, before)
      const child = spawn(process.execPath, ['-e', program(directory, true)], { stdio: ['ignore', 'pipe', 'inherit'] })
      await new Promise((resolve) => child.stdout.once('data', resolve))
      child.kill('SIGKILL')
      await new Promise((resolve) => child.once('exit', resolve))

      const left = tree(parent)
      const temporary = Object.keys(left).filter((name) => name.includes('tmp-'))
      expect(temporary.length).toBeGreaterThan(0)
      for (const name of temporary) delete left[name]
      expect(left).toEqual(before)

      execFileSync(process.execPath, ['-e', program(directory, false)])
      expect(Object.keys(tree(parent))).toEqual(['model/config.json', 'model/model.safetensors'])
    },
  )

  it('leaves an existing directory unchanged at a file size limit', () => {
    const directory = write(fresh(), { 'config.json': 'old', 'model.safetensors': 'old' })
    const shell = spawnSync('sh', [
      '-c',
      'ulimit -f 100 && exec "$0" -e "$1"',
      process.execPath,
      program(directory, false),
    ])
    expect(shell.status).toBe(1)
    expect(shell.stdout.toString()).toMatch(
      /^Cannot save .*: a file would be larger than .* allows; nothing was changed/,
    )
    expect(tree(directory)).toEqual({ 'config.json': 'old', 'model.safetensors': 'old' })
    expect(readdirSync(directory).length).toBe(2)
  })
})
