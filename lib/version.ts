import { readFileSync } from 'node:fs'
import path from 'node:path'

/** The version in package.json. */
export const packageVersion: string = JSON.parse(
  readFileSync(path.join(__dirname, '..', 'package.json'), 'utf8'),
).version
