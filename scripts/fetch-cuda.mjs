#!/usr/bin/env node
// Fetches the CUDA packages of cuda/requirements.txt, which are NVIDIA's Python packages in exact versions, into .cuda/
// here. Root is not needed, and nothing outside the folder changes. Other CUDA versions on the machine do not matter:
// releases and their checks use the same files everywhere. CMake finds them (cuda/build.cmake).
//
//   node scripts/fetch-cuda.mjs            the parts for a build: compiler, runtime, the headers of cuBLASLt and NCCL
//   node scripts/fetch-cuda.mjs cublas     cuBLASLt itself, for a GPU machine with only a driver
//   node scripts/fetch-cuda.mjs nccl       NCCL itself, for a machine with several GPUs
//   node scripts/fetch-cuda.mjs --check    fetches nothing; lists missing parts, and fails if there are any

import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { buildParts, folder, isFetched, parts, pinsFile, pinsOf } from './cuda-packages.mjs'

/** Runs pip; returns the reason of a failure, or undefined. */
function pip(target, how, output) {
  const install = ['install', '--quiet', '--no-deps', '--only-binary=:all:', '--require-hashes', '--target', target]
  const args = ['-m', 'pip', ...install, ...how, '--requirement', pinsFile(target)]
  const { error, status, signal } = spawnSync('python3', args, { stdio: ['ignore', output, output] })
  if (error) return error.code === 'ENOENT' ? 'there is no python3' : error.message
  if (signal) process.exit(130)
  return status === 0 ? undefined : 'pip failed; its message is above'
}

function fetchPart(name) {
  const { what, packages, leaveOut = [] } = parts[name]
  console.log(`fetching ${what}: ${pinsOf(name).match(/^\S+/gm).join(' ')}`)
  const target = path.join(folder, name)
  const partial = path.join(folder, `${name}.partial`) // an interrupted download must not look like a complete one
  rmSync(partial, { recursive: true, force: true })
  mkdirSync(partial, { recursive: true })
  writeFileSync(pinsFile(partial), pinsOf(name))
  // pip asks its index first and waits for it, minutes if it cannot be reached, even if pip's find-links names a folder
  // that has the packages. So that folder is tried first; without one, this fails in a second.
  const reason = pip(partial, ['--no-index'], 'ignore') && pip(partial, [], 'inherit')
  if (reason) {
    console.error(
      `${what} could not be fetched: ${reason}. It takes Python 3 with pip and a connection to a package index, or a ` +
        `folder that PIP_FIND_LINKS names, with ${packages.join(', ')} in the versions of cuda/requirements.txt`,
    )
    process.exit(1)
  }
  for (const unused of leaveOut) {
    for (const library of readdirSync(path.join(partial, 'nvidia'))) {
      rmSync(path.join(partial, 'nvidia', library, unused), { recursive: true, force: true })
    }
  }
  rmSync(target, { recursive: true, force: true })
  renameSync(partial, target)
}

const flags = process.argv.slice(2).filter((argument) => argument.startsWith('--'))
const named = process.argv.slice(2).filter((argument) => !argument.startsWith('--'))
if (flags.some((flag) => flag !== '--check') || named.some((name) => !Object.hasOwn(parts, name))) {
  console.error(`usage: fetch-cuda.mjs [--check] [${Object.keys(parts).join('] [')}]`)
  process.exit(2)
}
for (const name of named.length > 0 ? named : buildParts) {
  if (isFetched(name)) continue
  if (flags.includes('--check')) {
    console.error(`missing: ${parts[name].what}`)
    process.exitCode = 1
  } else {
    fetchPart(name)
  }
}
