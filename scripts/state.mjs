// What the built files are made from, as hashes: a file is current when the hash that was kept with it is still right.

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
export const addonSources = ['CMakeLists.txt', 'core', 'cpu', 'cuda', 'binding']

export const nativeSources = (names) => hashFiles(names, /\.(txt|cmake|cpp|h|cu|cuh)$/)

export const typescriptStamp = path.join(root, 'build', '.typescript-stamp')

export const typescriptState = () =>
  hashFiles(
    [
      ...['tsconfig.json', 'tsconfig.build.json', 'tsconfig.bench.json', 'tsconfig.fuzz.json', 'package-lock.json'],
      ...['lib', 'bench', 'test/fuzz'],
    ],
    /\.(json|m?ts)$/,
  )

export const typescriptIsCurrent = () => {
  const built = [typescriptStamp, path.join(root, 'dist', 'cli', 'main.js')].every((file) => fs.existsSync(file))
  return built && fs.readFileSync(typescriptStamp, 'utf8') === typescriptState()
}
