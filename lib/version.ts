import { readFileSync } from 'node:fs'
import path from 'node:path'

/** The package's folder, which holds dist/ (or, in the tests, lib/). */
export const packageRoot = path.resolve(__dirname, '..')

const manifest = JSON.parse(readFileSync(path.join(packageRoot, 'package.json'), 'utf8')) as {
  version: string
  engines: { node: string }
}

/** The version in package.json. */
export const packageVersion = manifest.version

/** The oldest Node.js that it is for, such as `20`. */
export const oldestNode = /[\d.]+/.exec(manifest.engines.node)![0]
