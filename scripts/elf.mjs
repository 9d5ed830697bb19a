// The requirements of a shared library on the machine that loads it, as reported by readelf of the compiler's binutils.

import { execFileSync } from 'node:child_process'

const readelf = (...args) => execFileSync('readelf', ['--wide', ...args], { encoding: 'utf8', env: { LC_ALL: 'C' } })

/** Libraries on every Linux machine with Node.js: the C library, and the C++ library that Node.js itself needs. */
export const baseLibraries =
  /^(ld-linux-x86-64\.so\.2|lib(c|m)\.so\.6|libdl\.so\.2|libpthread\.so\.0|librt\.so\.1|libstdc\+\+\.so\.6|libgcc_s\.so\.1)$/

/** { needs: the libraries it names, searchPaths: the directories in which they are searched }. */
export function dynamicSection(file) {
  const text = readelf('--dynamic', file)
  const values = (tags) =>
    [...text.matchAll(new RegExp(`\\((?:${tags})\\).*\\[(.*)\\]`, 'g'))].map(([, value]) => value)
  return { needs: values('NEEDED'), rpath: values('RPATH'), runpath: values('RUNPATH') }
}

const numbers = (version) => version.split('.').map(Number)

/** Whether version a, such as 2.34, is newer than b. */
export function isNewer(a, b) {
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
