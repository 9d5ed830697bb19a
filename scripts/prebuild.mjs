#!/usr/bin/env node
// Makes prebuilds/<platform>-<arch>/, which the published package contains: the addon with both devices, the libraries
// that a machine may lack, their notices, and build.json, which records the sources and tools. The CUDA device is
// compiled by the nvcc of cuda/requirements.txt, regardless of the machine's; OPENALPACA_CUDA=OFF leaves it out.

import { spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import prebuildify from 'prebuildify'
import { pinnedNvcc, pinnedVersion } from './cuda-packages.mjs'
import { baseLibraries, dynamicSection, isNewer, oldestSystem } from './elf.mjs'
import { notices } from './notices.mjs'
import { builtAddon, openmp, folder as portable, staticLibraries } from './portable.mjs'
import { addonSources, nativeSources } from './state.mjs'
import { root } from './toolchain.mjs'

const fetchCuda = path.join(root, 'scripts', 'fetch-cuda.mjs')
const staging = path.join(root, 'build', 'prebuild')
const folder = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`)
const { name, version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
/** Required by Node.js's official builds. */
const oldestGlibc = '2.28'
const addon = path.join(folder, `${name}.glibc.node`)

/** Fails unless the folder has everything that its files need, and they look for it there. */
function checkNeeds(files) {
  const neighbors = new Set(files.map((file) => path.basename(file)))
  for (const file of files) {
    const { needs, rpath, runpath } = dynamicSection(file)
    const missing = needs.filter((need) => !baseLibraries.test(need) && !neighbors.has(need))
    if (missing.length > 0) throw new Error(`${file} needs ${missing.join(', ')}, which would not be in the package`)
    const wanted = file === addon ? '$ORIGIN' : ''
    if (rpath.join() !== wanted || runpath.length > 0) {
      throw new Error(`${file} looks for libraries in "${[...rpath, ...runpath]}", which is not "${wanted}"`)
    }
  }
}

/** Before the minutes that oneDNN takes. */
function choosePinnedCompiler() {
  const { status } = spawnSync(process.execPath, [fetchCuda], { stdio: 'inherit' })
  if (status !== 0) throw new Error('there is no pinned CUDA compiler; OPENALPACA_CUDA=OFF leaves the CUDA device out')
  const { CUDACXX, CUDA_HOME, CUDA_PATH } = process.env
  const other = CUDACXX ?? CUDA_HOME ?? CUDA_PATH
  if (other) console.error(`prebuild: the CUDA device is compiled by nvcc ${pinnedVersion()} and not by ${other}`)
  for (const name of ['CUDA_HOME', 'CUDA_PATH', 'NCCL_HOME']) delete process.env[name]
  Object.assign(process.env, { OPENALPACA_CUDA: 'ON', CUDACXX: pinnedNvcc })
}

async function main() {
  if (process.env.OPENALPACA_CUDA?.toUpperCase() !== 'OFF') choosePinnedCompiler()
  rmSync(staging, { recursive: true, force: true })
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(staging, { recursive: true })
  const nodeGyp = path.join(root, 'scripts', 'prebuild-addon.mjs')
  const options = { name, cwd: staging, out: root, nodeGyp, strip: true, napi: true, tagLibc: true }
  await new Promise((resolve, reject) => prebuildify(options, (error) => (error ? reject(error) : resolve())))

  const libraries = dynamicSection(builtAddon).needs.includes('libgomp.so.1') ? [openmp()] : []
  for (const { name, file } of libraries) {
    copyFileSync(file, path.join(folder, name))
    chmodSync(path.join(folder, name), 0o755)
  }
  const files = [addon, ...libraries.map(({ name }) => path.join(folder, name))]
  checkNeeds(files)

  const choice = readFileSync(path.join(portable, 'configure-addon.log'), 'utf8')
  const [, cuda, nvcc] = /^-- CUDA device: yes, for (.*), by \S+ ([\d.]+), /m.exec(choice) ?? []
  if (cuda && nvcc !== pinnedVersion()) throw new Error(`nvcc ${nvcc} compiled the CUDA device, not ${pinnedVersion()}`)
  writeFileSync(path.join(folder, 'THIRD-PARTY-NOTICES.txt'), notices(libraries, staticLibraries(), cuda !== undefined))
  const needs = oldestSystem(files)
  if (isNewer(needs.GLIBC, oldestGlibc))
    throw new Error(`what was built needs glibc ${needs.GLIBC}, not ${oldestGlibc}`)
  const described = libraries.map(({ name, origin }) => ({ name, package: origin.package, version: origin.version }))
  const inside = staticLibraries().map(({ name, version }) => ({ name, version }))
  const build = {
    version,
    sources: nativeSources(addonSources),
    cuda: cuda ?? null,
    nvcc: nvcc ?? null,
    needs,
    inside,
    libraries: described,
  }
  writeFileSync(path.join(folder, 'build.json'), `${JSON.stringify(build, null, 2)}\n`)

  console.log(`\nprebuilds/${path.basename(folder)}: CUDA device ${cuda ? `for ${cuda}` : 'left out'}`)
  for (const file of files) {
    const mebibytes = (statSync(file).size / 2 ** 20).toFixed(2)
    console.log(`${mebibytes.padStart(8)} MiB  ${path.basename(file)}`)
  }
  const cxx = needs.GLIBCXX ? `, and libstdc++ with GLIBCXX_${needs.GLIBCXX}` : ''
  console.log(`needs glibc ${needs.GLIBC} or newer${cxx}`)
}

main().catch((error) => {
  if (existsSync(folder)) rmSync(folder, { recursive: true }) // an existing folder must be complete
  console.error(`prebuild: ${error.message}`)
  process.exit(1)
})
