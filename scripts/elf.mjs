// What a shared library asks of the machine that loads it, as readelf of the compiler's binutils tells it.

import { execFileSync } from 'node:child_process'
import { realpathSync } from 'node:fs'
import path from 'node:path'

const readelf = (...args) => execFileSync('readelf', ['--wide', ...args], { encoding: 'utf8', env: { LC_ALL: 'C' } })

/** What every Linux machine with Node.js has: the C library, and the C++ library that Node.js itself needs. */
export const baseLibraries =
  /^(ld-linux-x86-64\.so\.2|lib(c|m)\.so\.6|libdl\.so\.2|libpthread\.so\.0|librt\.so\.1|libstdc\+\+\.so\.6|libgcc_s\.so\.1)$/

/** { needs: the libraries it names, searchPaths: where it has them looked for }. */
export function dynamicSection(file) {
  const text = readelf('--dynamic', file)
  const values = (tags) =>
    [...text.matchAll(new RegExp(`\\((?:${tags})\\).*\\[(.*)\\]`, 'g'))].map(([, value]) => value)
  return { needs: values('NEEDED'), rpath: values('RPATH'), runpath: values('RUNPATH') }
}

/**
 * The libraries beside the base that a library needs, its needs' needs too.
 *
 * @returns Map of the name by which the loader looks for it → its file
 */
export function foreignLibraries(file) {
  const lines = execFileSync('ldd', [file], { encoding: 'utf8' }).split('\n')
  const found = new Map()
  for (const line of lines) {
    const [, name, where] = /^\s*(\S+) => (.*?)(?: \(0x[0-9a-f]+\))?$/.exec(line) ?? []
    if (!name || baseLibraries.test(path.basename(name))) continue
    if (where === 'not found') throw new Error(`${file} needs ${name}, which is not on this machine`)
    found.set(name, realpathSync(where))
  }
  return found
}

const numbers = (version) => version.split('.').map(Number)

function isNewer(a, b) {
  const [left, right] = [numbers(a), numbers(b)]
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    if ((left[i] ?? 0) !== (right[i] ?? 0)) return (left[i] ?? 0) > (right[i] ?? 0)
  }
  return false
}

/** The newest symbol versions of the base libraries that the files name: { GLIBC: '2.34', GLIBCXX: '3.4.30', … }. */
export function oldestSystem(files) {
  const newest = {}
  for (const file of files) {
    const needed = readelf('--version-info', file).split('Version needs section')[1] ?? ''
    for (const [, set, version] of needed.matchAll(/Name: (GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)\s/g)) {
      if (!newest[set] || isNewer(version, newest[set])) newest[set] = version
    }
  }
  return newest
}
