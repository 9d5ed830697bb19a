#!/usr/bin/env node
// Before npm packs: refuses where the prebuilt addon is missing, in pieces, or not of these sources, or where the
// compiled TypeScript is not.

import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { addonSources, nativeSources, typescriptIsCurrent } from './state.mjs'
import { root } from './toolchain.mjs'

const { name, version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
const folder = path.join(root, 'prebuilds', 'linux-x64')

/** What is wrong, or undefined. */
function problem() {
  const manifest = path.join(folder, 'build.json')
  if (!existsSync(manifest)) return 'prebuilds/linux-x64 is missing'
  const build = JSON.parse(readFileSync(manifest, 'utf8'))
  const files = [`${name}.glibc.node`, 'THIRD-PARTY-NOTICES.txt', ...build.libraries.map((library) => library.name)]
  const lacking = files.filter((file) => !existsSync(path.join(folder, file)))
  if (lacking.length > 0) return `prebuilds/linux-x64 lacks ${lacking.join(', ')}`
  if (build.version !== version) return `the prebuilt addon is of version ${build.version}, and this is ${version}`
  if (build.sources !== nativeSources(addonSources)) return 'the prebuilt addon is not made from these sources'
  if (!typescriptIsCurrent()) return 'dist/ is not made from these sources'
}

const reason = problem()
if (reason) {
  console.error(`pack: ${reason}; type: npm run prebuild`)
  process.exit(1)
}
