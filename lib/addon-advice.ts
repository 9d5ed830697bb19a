import { existsSync } from 'node:fs'
import path from 'node:path'
import { isPackageRoot, repository } from './version.js'

/** The repository to clone if the published package has no addon for a machine. */
const source = `a clone of ${repository ?? 'the openalpaca-native repository'}, where "npm run setup" compiles it`

/**
 * Advice for an addon that cannot be loaded, for a clone or the published package.
 * @param root the package's folder
 * @param message the loader's message
 */
export function addonAdvice(root: string, message: string): string {
  if (existsSync(path.join(root, 'scripts', 'setup.mjs'))) return `run "npm run setup" in ${root}`
  if (/version .?(GLIBC|GLIBCXX|CXXABI)_[\d.]+.? not found/.test(message)) {
    const [needed] = /(GLIBC|GLIBCXX|CXXABI)_[\d.]+/.exec(message)!
    return `the C or C++ library of this system is too old (${needed} is missing): use one with glibc 2.28 or newer (RHEL 8, Debian 10, Ubuntu 20.04), or ${source}`
  }
  if (!isPackageRoot(root)) {
    return `the program is a bundle without the package's files: mark openalpaca-native as external, or copy its directory prebuilds to ${root} ("Bundlers" in docs/api.md)`
  }
  if (/No native build was found/.test(message)) {
    const libc = /libc=(\w+)/.exec(message)?.[1] ?? 'glibc'
    return `the package has an addon for Linux on x64 with glibc, and this is ${process.platform} on ${process.arch} with ${libc}: use ${source}`
  }
  return 'install the package again: npm install openalpaca-native'
}
