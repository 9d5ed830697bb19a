import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'

/** A fake npm that logs its arguments, and installs `installs`. */
const fakeNpm = (installs: object) => `
  const fs = require('node:fs')
  fs.appendFileSync('npm-calls', process.argv.slice(2).join(' ') + '\\n')
  fs.mkdirSync('node_modules', { recursive: true })
  fs.writeFileSync('node_modules/.package-lock.json', ${JSON.stringify(JSON.stringify(installs))})`

/** A fake cmake-js that logs its arguments, and creates the addon. */
const fakeCmakeJs = `
  const fs = require('node:fs')
  fs.appendFileSync('cmake-calls', process.argv.slice(2).join(' ') + '\\n')
  if (process.argv[2] === 'configure') console.log('-- CUDA device: no; it is a test')
  fs.mkdirSync('build/Release', { recursive: true })
  fs.writeFileSync('build/Release/openalpaca.node', '')`

/** A fake compiler that creates the main output file. */
const fakeTsc = `
  const fs = require('node:fs')
  const part = /tsconfig\\.(\\w+)\\.json/.exec(process.argv.join(' '))[1]
  const folder = { build: 'dist/cli', bench: 'dist/bench', fuzz: 'dist/fuzz' }[part]
  fs.mkdirSync(folder, { recursive: true })
  fs.writeFileSync(folder + '/main.js', '')
  fs.appendFileSync('tsc-calls', part + '\\n')`

const locked = (version: string) => ({ packages: { '': {}, 'node_modules/a': { version } } })

describe('setup', () => {
  let root: string
  const write = (name: string, content: string | object) => {
    mkdirSync(path.dirname(path.join(root, name)), { recursive: true })
    writeFileSync(path.join(root, name), typeof content === 'string' ? content : JSON.stringify(content))
  }
  const setUp = (args: string[], env: Record<string, string> = {}) => {
    const npm_execpath = path.join(root, 'npm.js')
    const { status, stderr } = spawnSync(process.execPath, ['scripts/setup.mjs', ...args], {
      cwd: root,
      env: { ...process.env, npm_execpath, ...env },
      encoding: 'utf8',
    })
    return { status, stderr }
  }

  beforeEach(() => {
    root = mkdtempSync(path.join(os.tmpdir(), 'openalpaca-setup-'))
    for (const name of ['scripts', 'core/ops.h', 'lib/ops.ts']) {
      cpSync(path.join(__dirname, '../..', name), path.join(root, name), { recursive: true })
    }
    write('package.json', { devEngines: { runtime: { name: 'node', version: '>=20.19' } } })
    write('package-lock.json', locked('1.0.0'))
    write('npm.js', fakeNpm(locked('1.0.0')))
  })
  afterEach(() => rmSync(root, { recursive: true }))

  it('setup names the required Node.js', () => {
    write('package.json', { devEngines: { runtime: { name: 'node', version: '>=99.1' } } })
    const { status, stderr } = setUp([])
    expect(status).toBe(1)
    expect(stderr).toBe(
      `setup: this is Node.js ${process.versions.node}; install 99.1 or newer from https://nodejs.org\n`,
    )
  })

  it('setup installs the packages once, and again when the lock file requires another version', () => {
    expect(setUp(['--packages'])).toMatchObject({ status: 0, stderr: expect.stringContaining('npm packages: done') })
    expect(setUp(['--packages'])).toEqual({ status: 0, stderr: '' })
    write('package-lock.json', locked('1.0.1'))
    write('npm.js', fakeNpm(locked('1.0.1')))
    expect(setUp(['--packages']).status).toBe(0)
    const calls = readFileSync(path.join(root, 'npm-calls'), 'utf8').trim().split('\n')
    expect(calls).toHaveLength(2)
    expect(calls[0]).toMatch(/^ci --ignore-scripts /)
  })

  it('setup ignores packages of other platforms when it looks for missing ones', () => {
    const other = { 'node_modules/b': { version: '1.0.0', optional: true } }
    write('package-lock.json', { packages: { ...locked('1.0.0').packages, ...other } })
    setUp(['--packages'])
    expect(setUp(['--packages'])).toEqual({ status: 0, stderr: '' })
  })

  it('setup shows the error of a failing step, and the path of its log', () => {
    write('npm.js', 'console.log("fetching"); console.error("npm error no such package"); process.exit(7)')
    const { status, stderr } = setUp(['--packages'])
    expect(status).toBe(1)
    expect(stderr).toContain('installing the npm packages failed: node ended with 7\n  npm error no such package\n')
    expect(stderr).toContain(path.join(root, 'build', 'npm.log'))
    expect(existsSync(path.join(root, '.setup.lock'))).toBe(false)
  })

  it('setup takes over the lock of a dead setup process', () => {
    const { pid } = spawnSync(process.execPath, ['-e', ''])
    write('.setup.lock', String(pid))
    expect(setUp(['--packages']).status).toBe(0)
    expect(existsSync(path.join(root, '.setup.lock'))).toBe(false)
  })

  describe('with its tools', () => {
    const calls = (name: string) => {
      const file = path.join(root, `${name}-calls`)
      const lines = existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : []
      rmSync(file, { force: true })
      return lines
    }
    const build = (args: string[], OPENALPACA_CUDA = '') => {
      expect(setUp(args, { OPENALPACA_CUDA }).stderr).not.toMatch(/failed/)
    }

    beforeEach(() => {
      for (const name of ['cmake-js', 'node-addon-api', 'node-api-headers', 'typescript']) {
        write(`node_modules/${name}/package.json`, { version: '1.0.0' })
      }
      write('node_modules/.package-lock.json', locked('1.0.0'))
      write('node_modules/cmake-js/bin/cmake-js', fakeCmakeJs)
      write('node_modules/typescript/bin/tsc', fakeTsc)
    })

    it('setup compiles benchmarks and fuzzer only on request', () => {
      build(['--javascript'])
      expect(calls('tsc')).toEqual(['build'])
      build(['--javascript', '--bench'])
      expect(calls('tsc')).toEqual(['bench'])
      build(['--javascript', '--fuzz'])
      build(['--javascript', '--bench', '--fuzz'])
      expect(calls('tsc')).toEqual(['fuzz'])
      write('lib/a.ts', 'export {}')
      build(['--javascript', '--bench'])
      expect(calls('tsc')).toEqual(['build', 'bench'])
    })

    it('setup keeps the build when the CUDA setting changes, and builds nothing when that has no effect', () => {
      build([])
      expect(calls('cmake')).toHaveLength(2)
      build([], 'OFF')
      build([], 'AUTO')
      expect(calls('cmake')).toEqual([])
      write('build/Release/kept', '')
      build([], 'ON')
      expect(calls('cmake')[0]).toMatch(/^configure .*--CDOPENALPACA_CUDA=ON /)
      expect(existsSync(path.join(root, 'build/Release/kept'))).toBe(true)
      write('node_modules/node-addon-api/package.json', { version: '1.0.1' })
      build([], 'ON')
      expect(existsSync(path.join(root, 'build/Release/kept'))).toBe(false)
    })
  })

  it('setup lists the packages to install if it cannot install them', () => {
    const { status, stderr } = setUp([], { PATH: root, CXX: '' })
    expect(status).toBe(1)
    const lines = stderr.trim().split('\n')
    expect(lines.at(-1)).toMatch(
      /^setup: the native addon needs a C\+\+20 compiler, CMake 3\.18 or newer, make or ninja/,
    )
    expect(lines.at(-1)).toContain("(Debian's names: g++ cmake make")
  })
})
