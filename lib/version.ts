import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'

// With `require` and a literal path, which bundlers follow: the manifest goes into a bundle.
const manifest = require('../package.json') as {
  name: string
  version: string
  engines: { node: string }
  repository?: string | { url: string }
}

/** Whether a directory is this package's root. */
export function isPackageRoot(directory: string): boolean {
  const file = path.join(directory, 'package.json')
  return existsSync(file) && JSON.parse(readFileSync(file, 'utf8')).name === manifest.name
}

/**
 * The package's directory. In a program's bundle it is that of the installed package, if there is one in the bundle's
 * directory or above, else the bundle's directory, into which the program's author may have copied `prebuilds`.
 * @param here the directory of this file, or of the bundle that it is part of
 */
export function findPackageRoot(here: string): string {
  const parent = path.resolve(here, '..')
  if (isPackageRoot(parent)) return parent // which contains dist/ or, in the tests, lib/
  for (let directory = here; ; directory = path.dirname(directory)) {
    const installed = path.join(directory, 'node_modules', manifest.name)
    if (isPackageRoot(installed)) return installed
    if (directory === path.dirname(directory)) return here
  }
}

// A bundle in the form of an ES module has no __dirname.
export const packageRoot = findPackageRoot(
  typeof __dirname === 'string' ? __dirname : path.dirname(process.argv[1] ?? '.'),
)

/** The version in package.json. */
export const packageVersion = manifest.version

/** The repository to clone, if package.json has one. */
export const repository =
  typeof manifest.repository === 'object' ? manifest.repository.url : (manifest.repository ?? null)

/** The oldest supported Node.js, such as `20`. */
export const oldestNode = /[\d.]+/.exec(manifest.engines.node)![0]
