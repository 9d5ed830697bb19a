#!/usr/bin/env node
// Checks the policy for dependencies: none runs an install script, none is deprecated, every license is acceptable, and
// docs/dependencies.md says why each direct one is needed.

import { readFileSync } from 'node:fs'
import path from 'node:path'
import { root } from './toolchain.mjs'

const read = (...names) => readFileSync(path.join(root, ...names), 'utf8')
const { dependencies, devDependencies } = JSON.parse(read('package.json'))
const { packages } = JSON.parse(read('package-lock.json'))
const reasons = read('docs', 'dependencies.md')

/**
 * Licenses that require at most a notice; MPL-2.0, which only covers changed files of the package, is allowed for
 * tools.
 */
const permissive = /^(MIT|ISC|Apache-2\.0|BSD-[23]-Clause|0BSD|BlueOak-1\.0\.0|CC0-1\.0|Python-2\.0)$/
const isAllowed = (license, dev) =>
  (license ?? '').split(/[()]| OR /).some((name) => permissive.test(name) || (dev && name === 'MPL-2.0'))

const problems = []
for (const [where, entry] of Object.entries(packages)) {
  const name = where === '' ? 'this package' : where.replace(/^.*node_modules\//, '')
  // fsevents and similar packages are for other systems: npm never installs them where this package runs.
  const isForeign = entry.os && !entry.os.includes('linux')
  if (entry.hasInstallScript && !isForeign) problems.push(`${name} runs a script when it is installed`)
  if (entry.deprecated) problems.push(`${name} ${entry.version} is deprecated: ${entry.deprecated}`)
  if (!isAllowed(entry.license, entry.dev || entry.devOptional))
    problems.push(`${name} has the license ${entry.license}`)
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
