#!/usr/bin/env node
// prebuildify calls this in place of node-gyp: cmake-js builds the addon for systems older than this one
// (scripts/portable.mjs) in a separate folder, and the result, the only .node, is copied to the place where prebuildify
// looks.

import { copyFileSync, mkdirSync } from 'node:fs'
import path from 'node:path'
import { builtAddon, folder, portableToolchain } from './portable.mjs'
import { steps } from './steps.mjs'
import { cmakeJs, jobs } from './toolchain.mjs'

const destination = path.resolve('build', 'Release') // in prebuildify's working directory
const { run, say } = steps('prebuild')

try {
  const { OPENALPACA_CUDA = 'AUTO', OPENALPACA_NVCC_FLAGS = '' } = process.env
  const choices = { ...(await portableToolchain()), OPENALPACA_CUDA, OPENALPACA_NVCC_FLAGS }
  const options = Object.entries(choices).map(([name, value]) => `--CD${name}=${value}`)
  const cmake = (what, command, ...more) => {
    const args = [cmakeJs(), command, '--out', path.dirname(path.dirname(builtAddon)), ...options, ...more]
    return run(what, process.execPath, args, path.join(folder, `${command}-addon.log`))
  }
  await cmake('configuring the addon', 'configure')
  await cmake(`building the addon (${jobs} at a time)`, 'build', '--parallel', String(jobs), '--target', 'openalpaca')
  mkdirSync(destination, { recursive: true })
  copyFileSync(builtAddon, path.join(destination, 'openalpaca.node'))
} catch (error) {
  say(error.message)
  process.exit(1)
}
