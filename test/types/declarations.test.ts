import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { compile, root } from '../support/typescript.js'

describe('the declarations in dist/', () => {
  let directory: string

  /** A project that has the package, and of its dependencies only the types of Node.js. */
  beforeAll(() => {
    directory = mkdtempSync(path.join(os.tmpdir(), 'openalpaca-types-'))
    mkdirSync(path.join(directory, 'node_modules'))
    symlinkSync(root, path.join(directory, 'node_modules', 'openalpaca-native'))
    for (const name of ['@types', 'expect-type', 'undici-types']) {
      symlinkSync(path.join(root, 'node_modules', name), path.join(directory, 'node_modules', name))
    }
    writeFileSync(path.join(directory, 'package.json'), '{ "private": true }')
  })
  afterAll(() => rmSync(directory, { recursive: true }))

  const resolutions = [
    { kind: 'CommonJS', file: 'program.cts', module: 'node16', moduleResolution: 'node16' },
    { kind: 'an ES module', file: 'program.mts', module: 'node16', moduleResolution: 'node16' },
    { kind: 'a bundler', file: 'program.ts', module: 'esnext', moduleResolution: 'bundler' },
  ]
  it.each(resolutions)(
    'the declarations in dist/ compile with a strict program, for $kind',
    async ({ file, ...options }) => {
      copyFileSync(path.join(__dirname, 'public-api.ts'), path.join(directory, file))
      const { kind: _, ...compilerOptions } = options
      // The declarations themselves are checked too: not every user sets skipLibCheck.
      expect(await compile(directory, [file], { ...compilerOptions, skipLibCheck: false })).toBe('')
    },
  )
})
