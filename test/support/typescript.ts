/** Runs the TypeScript compiler like a user of the package. */
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import path from 'node:path'

/** The root directory of the repository. */
export const root = path.resolve(__dirname, '..', '..')

/** Compiles files of a directory with strict options. @returns the compiler's output; empty on success */
export function compile(directory: string, files: string[], options: object): Promise<string> {
  const compilerOptions = {
    target: 'ES2022',
    lib: ['ES2022', 'ESNext.Disposable'],
    types: ['node'],
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    noEmit: true,
    ...options,
  }
  const project = path.join(directory, `tsconfig.${path.basename(files[0])}.json`)
  writeFileSync(project, JSON.stringify({ compilerOptions, files }))
  const tsc = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc')
  return new Promise((resolve) => {
    execFile(process.execPath, [tsc, '-p', project, '--pretty', 'false'], (error, stdout, stderr) => {
      resolve(`${stdout}${stderr}` || (error ? error.message : ''))
    })
  })
}
