#!/usr/bin/env node
// Fetches what building the CUDA device needs and this machine lacks, as NVIDIA's Python packages, into .cuda/ here. No
// root is needed, and nothing outside of the folder is touched. CMake finds it there (cuda/build.cmake).
//
//   node scripts/fetch-cuda.mjs            what a build needs: compiler, runtime, the headers of cuBLASLt and NCCL
//   node scripts/fetch-cuda.mjs cublas     cuBLASLt itself too, for a machine with a GPU that has a driver only
//   node scripts/fetch-cuda.mjs nccl       NCCL itself too, for one with several GPUs
//   node scripts/fetch-cuda.mjs --check    names what is missing, fetches nothing, and fails if anything is

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, realpathSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import { root } from './toolchain.mjs'

const folder = path.join(root, '.cuda')
const cuda13 = (...names) => names.map((name) => `${name}>=13,<14`)

/** The folders of a CUDA toolkit: where nvcc is, the usual place, and what was fetched. */
function toolkits() {
  const found = [process.env.CUDA_HOME, process.env.CUDA_PATH, '/usr/local/cuda'].filter(Boolean)
  const compilers = [process.env.CUDACXX ?? 'nvcc', '/usr/local/cuda/bin/nvcc']
  for (const nvcc of compilers) {
    try {
      const empty = ['--dryrun', '-c', '-x', 'cu', '/dev/null', '-o', '/dev/null']
      const dryRun = execFileSync('sh', ['-c', '"$0" "$@" 2>&1', nvcc, ...empty], { encoding: 'utf8' })
      const top = /^#\$ TOP=(.*)$/m.exec(dryRun)
      if (top) found.push(realpathSync(top[1]))
    } catch {} // there is none
  }
  if (existsSync(folder)) found.push(...list(folder, '*', 'nvidia', 'cu*'), ...list(folder, '*', 'nvidia', 'nccl'))
  return found
}

/** The paths below a folder that match, a pattern with * a path segment. */
function list(top, ...pattern) {
  let found = [top]
  for (const segment of pattern.flatMap((part) => part.split('/'))) {
    const name = new RegExp(`^${segment.replaceAll('.', '\\.').replaceAll('*', '.*')}$`)
    found = found.flatMap((dir) => {
      if (!segment.includes('*')) return existsSync(path.join(dir, segment)) ? [path.join(dir, segment)] : []
      const entries = readdirSync(dir, { withFileTypes: true }).filter((entry) => name.test(entry.name))
      return entries.map((entry) => path.join(dir, entry.name))
    })
  }
  return found
}

const has = (...files) => {
  const folders = toolkits()
  return files.every((file) => folders.some((top) => existsSync(top) && list(top, file).length > 0))
}

const parts = {
  compiler: {
    what: 'nvcc with its headers, and the CUDA runtime',
    packages: cuda13('nvidia-cuda-nvcc', 'nvidia-cuda-crt', 'nvidia-nvvm', 'nvidia-cuda-runtime', 'nvidia-cuda-cccl'),
    isThere: () => has('bin/nvcc', 'include/cuda_runtime.h', 'lib*/libcudart_static.a'),
  },
  headers: {
    what: 'the header of cuBLASLt',
    packages: cuda13('nvidia-cublas'),
    isThere: () => has('include/cublasLt.h'),
    leaveOut: ['lib'],
  },
  'nccl-header': {
    what: 'the header of NCCL',
    packages: ['nvidia-nccl-cu13'],
    isThere: () => has('include/nccl.h') || existsSync('/usr/include/nccl.h'),
    leaveOut: ['lib'],
  },
  nccl: {
    what: 'NCCL',
    packages: ['nvidia-nccl-cu13'],
    isThere: () => has('lib*/libnccl.so.2'),
  },
  cublas: {
    what: 'cuBLASLt',
    packages: cuda13('nvidia-cublas'),
    isThere: () => has('lib*/libcublasLt.so.13'),
  },
}

function fetchPart(name) {
  const { what, packages, leaveOut = [] } = parts[name]
  console.log(`fetching ${what}: pip install ${packages.join(' ')}`)
  const target = path.join(folder, name)
  const partial = `${target}.partial` // an interrupted download is not taken for a whole one
  rmSync(partial, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const pip = ['-m', 'pip', 'install', '--quiet', '--no-deps', '--only-binary=:all:', '--target', partial, ...packages]
  try {
    execFileSync('python3', pip, { stdio: ['ignore', 'inherit', 'inherit'] })
  } catch (error) {
    const why = error.code === 'ENOENT' ? 'there is no python3' : 'pip failed; what it said is above'
    console.error(
      `${what} could not be fetched: ${why}. It takes Python 3 with pip and a connection to a package index; or install ` +
        "NVIDIA's CUDA toolkit 13 by other means, and set CUDA_HOME if it is not in /usr/local/cuda",
    )
    process.exit(1)
  }
  for (const part of leaveOut) for (const dir of list(partial, 'nvidia', '*', part)) rmSync(dir, { recursive: true })
  rmSync(target, { recursive: true, force: true })
  renameSync(partial, target)
}

const flags = process.argv.slice(2).filter((argument) => argument.startsWith('--'))
const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith('--'))
if (flags.some((flag) => flag !== '--check') || wanted.some((name) => !(name in parts))) {
  console.error(`usage: fetch-cuda.mjs [--check] [${Object.keys(parts).join('] [')}]`)
  process.exit(2)
}
for (const name of new Set(['compiler', 'headers', 'nccl-header', ...wanted])) {
  if (parts[name].isThere()) continue
  if (flags.includes('--check')) {
    console.error(`missing: ${parts[name].what}`)
    process.exitCode = 1
  } else {
    fetchPart(name)
  }
}
