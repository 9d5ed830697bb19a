#!/usr/bin/env node
// Runs before npm packs: fails if the prebuilt addon is missing, incomplete, or not built from these sources, or if the
// compiled TypeScript is not.

import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { addonSources, isCompiled, nativeSources, typescriptParts } from './state.mjs'
import { root } from './toolchain.mjs'

const { name, version, repository } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
const folder = path.join(root, 'prebuilds', 'linux-x64')

const prebuild = 'npm run prebuild'

/** The problem and its fix; or undefined. */
function problem() {
  const manifest = path.join(folder, 'build.json')
  if (!existsSync(manifest)) return ['prebuilds/linux-x64 is missing', prebuild]
  const build = JSON.parse(readFileSync(manifest, 'utf8'))
  const files = [`${name}.glibc.node`, 'THIRD-PARTY-NOTICES.txt', ...build.libraries.map((library) => library.name)]
  const lacking = files.filter((file) => !existsSync(path.join(folder, file)))
  if (lacking.length > 0) return [`prebuilds/linux-x64 is missing ${lacking.join(', ')}`, prebuild]
  if (build.cuda === null && process.env.OPENALPACA_CUDA !== 'OFF') {
    const remedy = `${prebuild} (with OPENALPACA_CUDA=OFF it is packed as it is)`
    return ['the prebuilt addon has no CUDA device', remedy]
  }
  if (build.version !== version) return [`the prebuilt addon is of version ${build.version}, not ${version}`, prebuild]
  if (build.sources !== nativeSources(addonSources)) return ['the prebuilt addon is not of these sources', prebuild]
  if (!isCompiled(typescriptParts[0])) return ['dist/ is not made from these sources', prebuild]
}

if (!repository) {
  console.error('pack: package.json has no "repository"; with it, npm and the messages of the package link there')
}
const found = problem()
if (found) {
  console.error(`pack: ${found[0]}; type: ${found[1]}`)
  process.exit(1)
}
