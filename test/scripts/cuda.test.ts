import { spawnSync } from 'node:child_process'
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { root as repository } from '../support/typescript.js'

/**
 * A fake python3 that logs its arguments and the requirements that it gets, and installs one file per directory of
 * NVIDIA's packages, unless it is restricted to local directories or FAIL is set.
 */
const fakePython = `#!/bin/sh
echo "$@" >> "$LOG"
[ -n "$FAIL" ] && { echo "no matching distribution"; exit 1; }
case "$*" in *--no-index*) [ -z "$LOCAL" ] && exit 1 ;; esac
while [ "$1" != --target ]; do shift; done
cat "$2/requirements.txt" >> "$LOG"
mkdir -p "$2/nvidia/cu13/bin" "$2/nvidia/cu13/include" "$2/nvidia/cu13/lib"
touch "$2/nvidia/cu13/bin/nvcc" "$2/nvidia/cu13/include/cublasLt.h" "$2/nvidia/cu13/lib/libcublasLt.so.13"
`

describe('fetch-cuda', () => {
  let root: string
  const at = (...names: string[]) => path.join(root, ...names)
  const log = () => readFileSync(at('log'), 'utf8')
  const fetch = (args: string[] = [], env: Record<string, string> = {}) => {
    const PATH = `${at('bin')}:${process.env.PATH}`
    const { status, stdout, stderr } = spawnSync(process.execPath, ['scripts/fetch-cuda.mjs', ...args], {
      cwd: root,
      env: { ...process.env, PATH, LOG: at('log'), ...env },
      encoding: 'utf8',
    })
    return { status, stdout, stderr }
  }

  beforeEach(() => {
    root = mkdtempSync(path.join(os.tmpdir(), 'openalpaca-cuda-'))
    for (const name of ['scripts', 'cuda/requirements.txt']) {
      cpSync(path.join(repository, name), at(name), { recursive: true })
    }
    mkdirSync(at('bin'))
    writeFileSync(at('bin', 'python3'), fakePython)
    writeFileSync(at('bin', 'nvcc'), '#!/bin/sh\n')
    for (const name of ['python3', 'nvcc']) chmodSync(at('bin', name), 0o755)
  })
  afterEach(() => rmSync(root, { recursive: true }))

  it('fetch-cuda installs exact versions with hashes, even if another nvcc is on the PATH', () => {
    expect(fetch()).toMatchObject({ status: 0, stderr: '' })
    expect(existsSync(at('.cuda/compiler/nvidia/cu13/bin/nvcc'))).toBe(true)
    const requirements = log().match(/^nvidia-\S+.*$/gm)!
    expect(requirements.map((line) => line.split('==')[0])).toEqual([
      ...['nvidia-cuda-nvcc', 'nvidia-cuda-crt', 'nvidia-nvvm', 'nvidia-cuda-runtime', 'nvidia-cuda-cccl'],
      ...['nvidia-cublas', 'nvidia-nccl-cu13'],
    ])
    for (const line of requirements) expect(line).toMatch(/^\S+==[\d.]+ +--hash=sha256:[0-9a-f]{64} /)
    expect(log()).toMatch(/--require-hashes/)
  })

  it('fetch-cuda asks the index only for packages that no local directory has', () => {
    fetch(['compiler'], { LOCAL: '1' })
    expect(log().match(/^-m pip.*$/gm)).toEqual([expect.stringContaining('--no-index')])
    rmSync(at('log'))
    fetch(['nccl'])
    const [first, second] = log().match(/^-m pip.*$/gm)!
    expect(first).toContain('--no-index')
    expect(second).not.toContain('--no-index')
  })

  it('fetch-cuda keeps no libraries if only a header is needed', () => {
    fetch(['headers', 'cublas'])
    expect(existsSync(at('.cuda/headers/nvidia/cu13/include/cublasLt.h'))).toBe(true)
    expect(existsSync(at('.cuda/headers/nvidia/cu13/lib'))).toBe(false)
    expect(existsSync(at('.cuda/cublas/nvidia/cu13/lib/libcublasLt.so.13'))).toBe(true)
    expect(existsSync(at('.cuda/compiler'))).toBe(false)
  })

  it('fetch-cuda fetches a part again only when its pins change', () => {
    expect(fetch(['--check']).status).toBe(1)
    fetch()
    expect(fetch(['--check'])).toEqual({ status: 0, stdout: '', stderr: '' })
    expect(fetch()).toEqual({ status: 0, stdout: '', stderr: '' })
    const pins = readFileSync(at('cuda/requirements.txt'), 'utf8')
    writeFileSync(at('cuda/requirements.txt'), pins.replace(/nvidia-cublas==[\d.]+/, 'nvidia-cublas==13.9.9.9'))
    expect(fetch(['--check'])).toEqual({ status: 1, stdout: '', stderr: 'missing: the header of cuBLASLt\n' })
    expect(fetch().stdout).toMatch(/^fetching the header of cuBLASLt: nvidia-cublas==13\.9\.9\.9\n$/)
  })

  it('fetch-cuda leaves nothing that looks complete when pip fails', () => {
    const { status, stdout, stderr } = fetch([], { FAIL: '1' })
    expect(status).toBe(1)
    expect(stdout + stderr).toMatch(/no matching distribution[\s\S]*could not be fetched: pip failed/)
    expect(fetch(['--check']).status).toBe(1)
  })
})

describe('the CUDA setting', async () => {
  const { cudaChoice, sameButCuda } = await import(pathToFileURL(path.join(repository, 'scripts/toolchain.mjs')).href)
  const choice = (env: Record<string, string>, files: string[] = []) =>
    cudaChoice({ env, exists: (file: string) => files.includes(file), fetched: () => ['compiler'] })

  it('the CUDA setting is the same whether CUDA is disabled or there is no driver', () => {
    const none = choice({})
    expect(choice({ OPENALPACA_CUDA: 'OFF' })).toEqual(none)
    expect(choice({ OPENALPACA_CUDA: 'auto', CUDA_HOME: '/opt/cuda', OPENALPACA_NVCC_FLAGS: '-G' })).toEqual(none)
    expect(choice({ OPENALPACA_CUDA: 'OFF' }, ['/dev/nvidiactl'])).toEqual(none)
    expect(choice({ OPENALPACA_CUDA: 'ON' })).not.toEqual(none)
    expect(choice({}, ['/dev/nvidiactl'])).not.toEqual(none)
  })

  it('the CUDA setting changes with the compiler and its flags if there is a CUDA device', () => {
    const on = { OPENALPACA_CUDA: 'ON' }
    const all: Record<string, string>[] = [
      {},
      { CUDA_HOME: '/opt/cuda' },
      { CUDACXX: '/opt/nvcc' },
      { OPENALPACA_NVCC_FLAGS: '-G' },
    ]
    expect(new Set(all.map((env) => JSON.stringify(choice({ ...on, ...env })))).size).toBe(all.length)
  })

  it('the CUDA setting is the only difference between builds in one directory', () => {
    const state = (...parts: unknown[]) => JSON.stringify(parts)
    expect(sameButCuda(state('/a', ['AUTO'], 'x64'), state('/a', ['ON'], 'x64'))).toBe(true)
    expect(sameButCuda(state('/a', ['AUTO'], 'x64'), state('/b', ['AUTO'], 'x64'))).toBe(false)
    expect(sameButCuda(undefined, state('/a', ['AUTO'], 'x64'))).toBe(false)
  })
})

describe('the kernel report', () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'openalpaca-report-'))
  afterAll(() => rmSync(directory, { recursive: true }))
  const pinned = /^nvidia-cuda-nvcc==(\S+)/m.exec(
    readFileSync(path.join(repository, 'cuda/requirements.txt'), 'utf8'),
  )![1]

  /** Checks kernels [symbol, bytes of spills], compiled by this nvcc version. */
  const check = (version: string, ...kernels: [string, number][]) => {
    const log = kernels.map(
      ([symbol, spills]) =>
        `ptxas info    : Compiling entry function '${symbol}' for 'sm_90a'\n` +
        `    0 bytes stack frame, ${spills} bytes spill stores, 0 bytes spill loads\n` +
        'ptxas info    : Used 168 registers, used 1 barriers',
    )
    writeFileSync(path.join(directory, 'attention.cu.o.log'), log.join('\n'))
    writeFileSync(path.join(directory, 'nvcc-version.txt'), `${version}\n`)
    const script = path.join(repository, 'scripts/kernel-report.mjs')
    const { status, stderr } = spawnSync(process.execPath, [script, '--check', directory], { encoding: 'utf8' })
    return { status, stderr }
  }
  const attention = (head: number, access: number) => `_Z9dq_kernelI13__nv_bfloat16Li${head}ELi${access}EEvv`

  it('the kernel report fails on a spill in a kernel that models use, and names it', () => {
    expect(check(pinned, [attention(104, 8), 0], [attention(104, 4), 8])).toEqual({ status: 0, stderr: '' })
    const { status, stderr } = check(pinned, [attention(104, 8), 8], ['_Z12adamw_kernelv', 4])
    expect(status).toBe(1)
    expect(stderr).toBe('these must not spill: dq_kernel<__nv_bfloat16, 104, 8> (sm_90a); adamw_kernel (sm_90a)\n')
  })

  it('the kernel report warns if the compiler is not the pinned one', () => {
    const { status, stderr } = check('12.8.93', ['_Z12adamw_kernelv', 0])
    expect(status).toBe(0)
    expect(stderr).toBe(`warning: nvcc 12.8.93 compiled these, not ${pinned}\n`)
  })
})
