// Everything between a fresh clone and a running program: npm packages, Debian packages, the native addon, the
// TypeScript. Runs the missing steps, reports each, and returns at once if there are none. With --packages, only the
// npm packages, which the linters need; with --javascript, nothing native, the state that `doctor` examines; with
// --compilers, no addon but the tools to compile one, for `prebuild`, which builds its own; with --bench or --fuzz,
// also the benchmarks or the fuzzer; with --tests, also those and the emulated GPU that tests run on.
//
// The Debian packages have whatever version the system provides, as for any program compiled on it; npm's are those of
// package-lock.json.

import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { addonSources, isCompiled, nativeSources, typescriptParts } from './state.mjs'
import { StepError, steps } from './steps.mjs'
import { cmakeJs, howToInstall, isDebian, jobs, missing, nameAll, root, sameButCuda, toolchain } from './toolchain.mjs'

const build = path.join(root, 'build')
const lockFile = path.join(root, '.setup.lock')

const { run, say } = steps('setup')
const readText = (file) => (fs.existsSync(file) ? fs.readFileSync(file, 'utf8') : undefined)

// ---- current state ------------------------------------------------------------------------------------------------

// npm keeps a copy of the lock file in node_modules, without the skipped packages.
function packagesAreCurrent() {
  const installed = readText(path.join(root, 'node_modules', '.package-lock.json'))
  if (!installed) return false
  const have = JSON.parse(installed).packages
  const want = JSON.parse(readText(path.join(root, 'package-lock.json'))).packages
  return Object.entries(want).every(([where, { version, optional, peer }]) => {
    return where === '' || optional || peer || have[where]?.version === version
  })
}

const release = (name) => path.join(build, 'Release', name)
const nativeAddon = {
  name: 'the native addon',
  target: 'openalpaca',
  file: release('openalpaca.node'),
  stamp: path.join(build, '.native-stamp'),
  sources: addonSources,
}
const emulatedGpu = {
  name: 'the emulated GPU of the tests',
  target: 'emulated',
  file: release('libopenalpaca_emulated.so'),
  stamp: path.join(build, '.emulated-stamp'),
  sources: [...addonSources, 'emulator'],
}
const nativeState = ({ sources }) => ({
  toolchain: toolchain(),
  sources: nativeSources(sources),
})
const nativeIsCurrent = (native) =>
  fs.existsSync(native.file) && readText(native.stamp) === JSON.stringify(nativeState(native))

// ---- steps --------------------------------------------------------------------------------------------------------

function checkNode() {
  const { devEngines } = JSON.parse(readText(path.join(root, 'package.json')))
  const wanted = /[\d.]+/.exec(devEngines.runtime.version)[0] // the package itself supports older ones
  if (process.versions.node.localeCompare(wanted, 'en', { numeric: true }) < 0) {
    throw new StepError(`this is Node.js ${process.versions.node}; install ${wanted} or newer from https://nodejs.org`)
  }
}

async function installPackages() {
  const args = ['ci', '--ignore-scripts', '--include=dev', '--no-audit', '--no-fund']
  const npm = process.env.npm_execpath // set when npm runs this script
  const [command, ...before] = npm?.endsWith('.js') ? [process.execPath, npm] : ['npm']
  await run('installing the npm packages', command, [...before, ...args], path.join(build, 'npm.log'))
}

async function installSystemPackages() {
  const lacking = missing()
  if (lacking.length === 0) return
  if (!isDebian() || process.getuid() !== 0) {
    throw new StepError(`the native addon needs ${nameAll(lacking)}; type: ${howToInstall(lacking)}`)
  }
  const packages = lacking.map(({ debian }) => debian)
  const apt = (what, args, log) => {
    return run(what, 'apt-get', args, path.join(build, log), { DEBIAN_FRONTEND: 'noninteractive' })
  }
  const install = () => apt(`installing ${packages.join(' ')} with apt-get`, ['install', '-y', ...packages], 'apt.log')
  try {
    await install()
  } catch (error) {
    if (!(error instanceof StepError)) throw error
    await apt('that failed; updating the package lists first', ['update'], 'apt-update.log')
    await install()
  }
}

async function buildNative(native) {
  const state = nativeState(native)
  const before = JSON.parse(readText(native.stamp) ?? '{}')
  if (native === nativeAddon && !sameButCuda(before.toolchain, state.toolchain)) {
    for (const name of ['CMakeCache.txt', 'CMakeFiles', 'Release'])
      fs.rmSync(path.join(build, name), { recursive: true, force: true })
  }
  const cmake = (what, command, ...options) => {
    const args = [cmakeJs(), command, '--out', build, '--parallel', String(jobs), ...options]
    return run(what, process.execPath, args, path.join(build, `${command}-${native.target}.log`))
  }
  const { OPENALPACA_CUDA = 'AUTO', OPENALPACA_NVCC_FLAGS = '' } = process.env
  const choices = { OPENALPACA_CUDA, OPENALPACA_NVCC_FLAGS, OPENALPACA_EMULATOR: 'ON' } // the same for every target
  const options = Object.entries(choices).map(([name, value]) => `--CD${name}=${value}`)
  await cmake(`configuring ${native.name}`, 'configure', ...options)
  const log = readText(path.join(build, `configure-${native.target}.log`))
  if (native === nativeAddon) for (const [, choice] of log.matchAll(/^-- (CUDA device: .*)$/gm)) say(choice)
  fs.writeFileSync(native.stamp, JSON.stringify({ toolchain: state.toolchain })) // the existing build can be kept
  await cmake(`building ${native.name} (${jobs} at a time)`, 'build', ...options, '--target', native.target)
  fs.writeFileSync(native.stamp, JSON.stringify(state))
}

async function compileTypeScript(part) {
  const state = part.state()
  // Removes outputs whose source is gone.
  fs.rmSync(path.join(root, part.output), { recursive: true, force: true })
  const tsc = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc')
  const log = path.join(build, `tsc-${part.name}.log`)
  await run(`compiling ${part.what}`, process.execPath, [tsc, '-p', `tsconfig.${part.name}.json`], log)
  fs.writeFileSync(part.stamp, state)
}

// ---- in order -----------------------------------------------------------------------------------------------------

function isAlive(pid) {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return error.code === 'EPERM'
  }
}

async function lock() {
  for (let told = false; ; told = true) {
    try {
      fs.writeFileSync(lockFile, String(process.pid), { flag: 'wx' })
      process.once('exit', () => fs.rmSync(lockFile, { force: true }))
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => process.exit(130))
      return
    } catch (error) {
      if (error.code !== 'EEXIST') throw new StepError(`cannot write to ${root}: ${error.message}`)
    }
    const holder = Number(readText(lockFile) ?? 0)
    if (!isAlive(holder)) fs.rmSync(lockFile, { force: true })
    else if (!told) say(`waiting for another set-up, process ${holder} (if it is not one, delete ${lockFile})`)
    await new Promise((resolve) => setTimeout(resolve, 300))
  }
}

async function setUp() {
  const has = (flag) => process.argv.includes(flag)
  const packagesOnly = has('--packages')
  const isNative = !packagesOnly && !has('--javascript') && !has('--compilers')
  const natives = isNative ? [nativeAddon, ...(has('--tests') ? [emulatedGpu] : [])] : []
  const parts = packagesOnly ? [] : typescriptParts.filter(({ flag }) => !flag || has(flag) || has('--tests'))
  const lacksCompilers = has('--compilers') && missing().length > 0
  checkNode()
  execFileSync(process.execPath, [path.join(root, 'scripts', 'generate-ops.mjs')]) // lib/ops.ts, from core/ops.h
  if (packagesAreCurrent() && natives.every(nativeIsCurrent) && parts.every(isCompiled) && !lacksCompilers) return
  await lock()
  if (natives.length > 0 && !fs.existsSync(nativeAddon.stamp)) {
    say('the first set-up compiles the native addon, which takes some minutes; later ones only what has changed')
  }
  if (!packagesAreCurrent()) await installPackages()
  if (packagesOnly) return
  if (lacksCompilers) await installSystemPackages()
  for (const native of natives) {
    if (nativeIsCurrent(native)) continue
    await installSystemPackages()
    await buildNative(native)
  }
  for (const part of parts) if (!isCompiled(part)) await compileTypeScript(part)
}

setUp().catch((error) => {
  if (!(error instanceof StepError)) throw error
  say(error.message)
  process.exit(1)
})
