// Hashes of the inputs of built files: a file is current if the hash stored with it still matches.

import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { root } from './toolchain.mjs'

/** A hash over the names and contents of files, and of the files in folders whose names match. */
function hashFiles(names, pattern) {
  const hash = createHash('sha256')
  for (const name of names) {
    const file = path.join(root, name)
    const stat = fs.statSync(file, { throwIfNoEntry: false })
    if (stat?.isDirectory()) {
      const entries = fs.readdirSync(file).sort()
      const inside = entries.map((entry) => path.join(name, entry))
      hash.update(hashFiles(inside, pattern))
    } else if (stat && pattern.test(name)) hash.update(`${name}\0`).update(fs.readFileSync(file))
  }
  return hash.digest('hex')
}

/** Files and folders of the native addon. */
export const addonSources = ['CMakeLists.txt', 'core', 'cpu', 'cuda', 'collectives', 'binding', 'scripts/portable']

export const nativeSources = (names) => hashFiles(names, /\.(txt|cmake|cpp|h|cu|cuh)$/)

const typescriptHash = (part, folders) => () =>
  hashFiles(['tsconfig.json', `tsconfig.${part}.json`, 'package-lock.json', ...folders], /\.(json|m?ts)$/)

/**
 * The outputs of TypeScript: the package, and with a flag of setup.mjs the programs that use it. Their folders are
 * inside the package's, so they are recompiled when it is.
 */
export const typescriptParts = [
  { name: 'build', what: 'the TypeScript', output: 'dist', main: 'dist/cli/main.js', folders: ['lib'] },
  {
    name: 'bench',
    what: 'the benchmarks',
    output: 'dist/bench',
    main: 'dist/bench/main.js',
    folders: ['lib', 'bench'],
  },
  { name: 'fuzz', what: 'the fuzzer', output: 'dist/fuzz', main: 'dist/fuzz/main.js', folders: ['lib', 'test/fuzz'] },
].map((part) => ({
  ...part,
  flag: part.name === 'build' ? undefined : `--${part.name}`,
  stamp: path.join(root, 'build', part.name === 'build' ? '.typescript-stamp' : `.typescript-${part.name}-stamp`),
  state: typescriptHash(part.name, part.folders),
}))

export const isCompiled = ({ stamp, main, state }) =>
  [stamp, path.join(root, main)].every((file) => fs.existsSync(file)) && fs.readFileSync(stamp, 'utf8') === state()
