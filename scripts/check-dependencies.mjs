#!/usr/bin/env node
// What is promised of the packages that this one stands on: none runs a script when it is installed, none is deprecated,
// every licence is one that can be lived with, and docs/dependencies.md says why each direct one is there.

import { readFileSync } from 'node:fs'
import path from 'node:path'
import { root } from './toolchain.mjs'

const read = (...names) => readFileSync(path.join(root, ...names), 'utf8')
const { dependencies, devDependencies } = JSON.parse(read('package.json'))
const { packages } = JSON.parse(read('package-lock.json'))
const reasons = read('docs', 'dependencies.md')

/** Licences that ask for a notice at most; MPL-2.0 holds for changed files of the package alone, and is for tools only. */
const permissive = /^(MIT|ISC|Apache-2\.0|BSD-[23]-Clause|0BSD|BlueOak-1\.0\.0|CC0-1\.0|Python-2\.0)$/
const isAllowed = (licence, dev) =>
  (licence ?? '').split(/[()]| OR /).some((name) => permissive.test(name) || (dev && name === 'MPL-2.0'))

const problems = []
for (const [where, entry] of Object.entries(packages)) {
  const name = where === '' ? 'this package' : where.replace(/^.*node_modules\//, '')
  // fsevents and its like are for other systems: npm never installs them where this package runs.
  const isForeign = entry.os && !entry.os.includes('linux')
  if (entry.hasInstallScript && !isForeign) problems.push(`${name} runs a script when it is installed`)
  if (entry.deprecated) problems.push(`${name} ${entry.version} is deprecated: ${entry.deprecated}`)
  if (!isAllowed(entry.license, entry.dev || entry.devOptional))
    problems.push(`${name} has the licence ${entry.license}`)
}
for (const name of Object.keys({ ...dependencies, ...devDependencies })) {
  const isNamed = reasons.includes(`\`${name}\``)
  if (!isNamed) problems.push(`docs/dependencies.md has no line for ${name}`)
}
const unused = [...reasons.matchAll(/^\| `([^`]+)`/gm)].map(([, name]) => name)
for (const name of unused.filter((it) => !{ ...dependencies, ...devDependencies }[it] && !it.startsWith('lib'))) {
  problems.push(`docs/dependencies.md has a line for ${name}, which package.json has not`)
}

for (const problem of problems) console.error(`dependencies: ${problem}`)
process.exitCode = problems.length === 0 ? 0 : 1
