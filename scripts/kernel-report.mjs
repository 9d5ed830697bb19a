#!/usr/bin/env node
// Reports the resources of each compiled CUDA kernel: registers, spills, static shared memory, and the number of warps
// per multiprocessor that its registers allow (dynamic shared memory and the block's size may allow fewer). Reads the
// output of ptxas from the build of the CUDA device, in build/cuda or the given folder.
//
//   node scripts/kernel-report.mjs [--check] [folder]
//
// With --check it prints only kernels that spill, and fails if training or generation uses one of them.

import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { pinnedVersion } from './cuda-packages.mjs'
import { root } from './toolchain.mjs'

// Kernels that may spill: attention at head sizes that no published LLaMA has, or on misaligned tensors. The template's
// arguments are the head size it computes with and the bytes of an access: head sizes of 64 and 128 use accesses of 16,
// that of 100 is computed as 104 with accesses of 8.
const rare = /^(attention|dq|dkv)_kernel<\w+, (?!(64|128), 16\b|104, 8\b)/

const check = process.argv.includes('--check')
const folder = process.argv.slice(2).find((argument) => !argument.startsWith('--')) ?? path.join(root, 'build', 'cuda')
const logs = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.cu.o.log')) : []
if (logs.length === 0) {
  console.error(`${folder} holds no report of the CUDA compiler; build with OPENALPACA_CUDA=ON first`)
  process.exit(1)
}

/** Parses the kernels from ptxas's output for one file. */
function kernelsIn(log, source) {
  const kernels = []
  for (const line of log.split('\n')) {
    const entry = /Compiling entry function '(\w+)' for '(\w+)'/.exec(line)
    if (entry) kernels.push({ source, symbol: entry[1], chip: entry[2], spills: 0, registers: 0, shared: 0 })
    const kernel = kernels.at(-1)
    const spills = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line)
    if (spills && kernel) kernel.spills = Number(spills[1]) + Number(spills[2])
    const used = /Used (\d+) registers/.exec(line)
    if (used) kernel.registers = Number(used[1])
    const shared = /(\d+) bytes smem/.exec(line)
    if (shared) kernel.shared = Number(shared[1])
  }
  return kernels
}

/** A function's name with its template arguments: up to the first parenthesis outside of them. */
function withoutParameters(name) {
  let depth = 0
  for (let i = 0; i < name.length; i++) {
    if (name[i] === '<') depth++
    else if (name[i] === '>') depth--
    else if (name[i] === '(' && depth === 0) return name.slice(0, i)
  }
  return name
}

/** Of 64 warps: a warp gets registers in units of 256, of the multiprocessor's 65536. */
const warps = (registers) => Math.min(64, Math.floor(65536 / (Math.ceil((registers * 32) / 256) * 256)))

const kernels = logs.flatMap((log) =>
  kernelsIn(readFileSync(path.join(folder, log), 'utf8'), log.replace('.o.log', '')),
)
const symbols = kernels.map(({ symbol }) => symbol)
const names = execFileSync('c++filt', { input: symbols.join('\n'), encoding: 'utf8' }).split('\n')
kernels.forEach((kernel, i) => {
  const short = names[i].replaceAll('openalpaca::cuda::', '').replaceAll('(anonymous namespace)::', '')
  kernel.name = withoutParameters(short.replace(/^void /, ''))
  kernel.warps = warps(kernel.registers)
})

const versionFile = path.join(folder, 'nvcc-version.txt')
const version = existsSync(versionFile) ? readFileSync(versionFile, 'utf8').trim() : 'of an unknown version'
if (version !== pinnedVersion()) console.error(`warning: nvcc ${version} compiled these, not ${pinnedVersion()}`)
const shown = check ? kernels.filter(({ spills }) => spills > 0) : kernels
if (shown.length > 0) console.log('chip      registers  spills  shared  warps of 64  kernel')
for (const { chip, registers, spills, shared, warps, source, name } of shown) {
  const columns = [String(registers).padStart(9), String(spills).padStart(7), String(shared).padStart(7)]
  console.log(`${chip.padEnd(8)} ${columns.join(' ')} ${String(warps).padStart(12)}  ${source}: ${name}`)
}
const bad = kernels.filter(({ spills, name }) => spills > 0 && !rare.test(name))
console.log(`${kernels.length} kernels, ${kernels.filter(({ spills }) => spills > 0).length} with spills`)
if (check && bad.length > 0) {
  console.error(`these must not spill: ${[...new Set(bad.map(({ name, chip }) => `${name} (${chip})`))].join('; ')}`)
  process.exit(1)
}
