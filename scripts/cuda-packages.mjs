// The pinned CUDA packages of cuda/requirements.txt, and the folders that scripts/fetch-cuda.mjs puts them in.

import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { root } from './toolchain.mjs'

export const requirements = path.join(root, 'cuda', 'requirements.txt')
export const folder = path.join(root, '.cuda')
/** The nvcc for releases and the kernel check, once it is fetched. */
export const pinnedNvcc = path.join(folder, 'compiler', 'nvidia', 'cu13', 'bin', 'nvcc')

/** The pins by package: { 'nvidia-cuda-nvcc': { version, line } }. */
export function pins(text = readFileSync(requirements, 'utf8')) {
  const pinned = text.replaceAll('\\\n', '').matchAll(/^([\w-]+)==(\S+).*$/gm)
  return Object.fromEntries(Array.from(pinned, ([line, name, version]) => [name, { version, line }]))
}

/** The version of the pinned nvcc, such as 13.0.88. */
export const pinnedVersion = () => pins()['nvidia-cuda-nvcc'].version

const compiler = ['nvidia-cuda-nvcc', 'nvidia-cuda-crt', 'nvidia-nvvm', 'nvidia-cuda-runtime', 'nvidia-cuda-cccl']

/** The parts to fetch. `leaveOut` names folders to delete. */
export const parts = {
  compiler: { what: 'nvcc with its headers, and the CUDA runtime', packages: compiler },
  headers: { what: 'the header of cuBLASLt', packages: ['nvidia-cublas'], leaveOut: ['lib'] },
  'nccl-header': { what: 'the header of NCCL', packages: ['nvidia-nccl-cu13'], leaveOut: ['lib'] },
  nccl: { what: 'NCCL', packages: ['nvidia-nccl-cu13'] },
  cublas: { what: 'cuBLASLt', packages: ['nvidia-cublas'] },
}

/** The parts that building the CUDA device needs. */
export const buildParts = ['compiler', 'headers', 'nccl-header']

/** The pins of a part, in pip's format. */
export function pinsOf(name) {
  const pinned = pins()
  return parts[name].packages.map((it) => `${pinned[it].line}\n`).join('')
}

/** A part keeps the pins that it was fetched with, so that a changed pin is fetched again. */
export const pinsFile = (directory) => path.join(directory, 'requirements.txt')

/** Whether a part is present in the pinned version. */
export function isFetched(name) {
  const file = pinsFile(path.join(folder, name))
  return existsSync(file) && readFileSync(file, 'utf8') === pinsOf(name)
}
