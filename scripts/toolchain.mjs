// The system tools that building the addon needs, where they are, and how to get them.

import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
export const cmakeJs = () => path.join(path.dirname(findModule('cmake-js')), 'bin', 'cmake-js')
export const jobs = Math.max(1, Math.min(os.cpus().length, Math.floor(os.totalmem() / 2 ** 30)))

/** The package.json of an installed package: in node_modules here, or above if this package is a dependency. */
export function findModule(name) {
  for (let dir = root; ; dir = path.dirname(dir)) {
    const file = path.join(dir, 'node_modules', name, 'package.json')
    if (existsSync(file) || dir === path.dirname(dir)) return file
  }
}

function which(...names) {
  for (const name of names) {
    for (const dir of (process.env.PATH ?? '').split(path.delimiter)) {
      const file = path.resolve(dir, name)
      if (existsSync(file)) return file
    }
  }
}

function header(name) {
  const prefixes = [...(process.env.CMAKE_PREFIX_PATH ?? '').split(path.delimiter), '/usr/local', '/usr']
  const folders = (process.env.CPATH ?? '').split(path.delimiter)
  for (const prefix of prefixes.filter(Boolean)) folders.push(path.join(prefix, 'include'))
  return folders.map((folder) => path.join(folder, name)).find(existsSync)
}

// The Debian package, its name elsewhere, and the location of the required part.
const requirements = [
  { debian: 'g++', elsewhere: 'a C++20 compiler', find: () => which(process.env.CXX || 'c++', 'g++', 'clang++') },
  { debian: 'cmake', elsewhere: 'CMake 3.18 or newer', find: () => which('cmake') },
  { debian: 'make', elsewhere: 'make or ninja', find: () => which('ninja', 'ninja-build', 'make') },
  { debian: 'libdnnl-dev', elsewhere: 'oneDNN 2.6 or newer with its headers', find: () => header('dnnl.hpp') },
  { debian: 'libgloo-dev', elsewhere: 'Gloo with its headers', find: () => header('gloo/context.h') },
]

export const isDebian = () => existsSync('/etc/debian_version') && which('apt-get') !== undefined

/** The requirements that the system lacks. */
export const missing = () => requirements.filter(({ find }) => !find())

/** Their names, for users. */
export const nameAll = (lacking) => lacking.map(({ elsewhere }) => elsewhere).join(', ')

/** The command that installs them, or what to look for. */
export function howToInstall(lacking) {
  const packages = lacking.map(({ debian }) => debian).join(' ')
  return isDebian() ? `sudo apt-get install ${packages}` : `install ${nameAll(lacking)} (Debian's names: ${packages})`
}

/** Files that exist only with an NVIDIA driver; cuda/build.cmake looks for the same ones. */
const drivers = ['/dev/nvidiactl', '/proc/driver/nvidia/version', '/dev/dxg']

/** The inputs of cuda/build.cmake's choice. If it builds no CUDA device, the rest makes no difference. */
export function cudaChoice({ env = process.env, exists = existsSync, fetched = fetchedCuda } = {}) {
  const mode = (env.OPENALPACA_CUDA || 'AUTO').toUpperCase()
  const found = [...drivers, '/usr/local/cuda/bin/nvcc'].map((file) => exists(file))
  const isOut = mode === 'OFF' || (mode === 'AUTO' && !drivers.some((file) => exists(file)))
  if (isOut) return ['AUTO', '', '', ...found.map(() => false), []]
  const nvcc = env.CUDACXX || env.CUDA_HOME || env.CUDA_PATH || which('nvcc') || ''
  return [mode, env.OPENALPACA_NVCC_FLAGS ?? '', nvcc, ...found, fetched()]
}

/** The parts that scripts/fetch-cuda.mjs has fetched, with their versions. */
function fetchedCuda() {
  const folder = path.join(root, '.cuda')
  const parts = existsSync(folder) ? readdirSync(folder).sort() : []
  return parts.map((part) => {
    const pins = path.join(folder, part, 'requirements.txt')
    return existsSync(pins) ? `${part} ${readFileSync(pins, 'utf8')}` : part
  })
}

/** Changes with the tools: another compiler, another oneDNN, another location, another choice about CUDA. */
export function toolchain() {
  const identify = (file) => {
    const real = realpathSync(file)
    const { size, mtimeMs } = statSync(real)
    return [file, real, size, mtimeMs]
  }
  const packages = ['cmake-js', 'node-addon-api', 'node-api-headers'].map(
    (name) => JSON.parse(readFileSync(findModule(name), 'utf8')).version,
  )
  return JSON.stringify([
    root,
    cudaChoice(),
    process.arch,
    packages,
    requirements
      .map(({ find }) => find())
      .filter(Boolean)
      .map(identify),
  ])
}

/** Whether two toolchains differ only in the choice about CUDA, which CMake can change in the same folder. */
export function sameButCuda(a, b) {
  const withoutCuda = (state) => JSON.stringify(JSON.parse(state).toSpliced(1, 1))
  return a !== undefined && withoutCuda(a) === withoutCuda(b)
}
