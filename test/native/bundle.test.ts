import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { root } from '../support/typescript.js'

/** The bundler inside vite, which bundles like esbuild and rollup. */
interface Rolldown {
  rolldown(input: object): Promise<{ write(output: object): Promise<unknown>; close(): Promise<void> }>
}

const program = `
  import { backends, LlamaTokenizer } from 'openalpaca-native'
  const [cpu] = backends()
  LlamaTokenizer.fromPretrained(process.argv[2]).then(
    (tokenizer) => console.log(JSON.stringify([cpu.available, tokenizer.decode(tokenizer.encode('alpaca'))])),
  )`

/** Identifiers that bundlers leave undefined in an ES module (docs/api.md has the same for esbuild). */
const banner = 'const __filename = import.meta.filename'

describe('a bundled program', () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'openalpaca-bundle-'))
  const at = (...names: string[]) => path.join(directory, ...names)
  const run = (file: string) => {
    const tokenizer = path.join(root, 'recipes', 'quickstart')
    const { stdout, stderr } = spawnSync(process.execPath, [file, tokenizer], { cwd: directory, encoding: 'utf8' })
    return stdout.trim() || stderr
  }

  beforeAll(async () => {
    mkdirSync(at('app', 'node_modules'), { recursive: true })
    symlinkSync(root, at('app', 'node_modules', 'openalpaca-native'))
    writeFileSync(at('app', 'program.mjs'), program)
    const { rolldown } = createRequire(require.resolve('vite'))('rolldown') as Rolldown
    const bundle = await rolldown({ input: at('app', 'program.mjs'), platform: 'node', logLevel: 'silent' })
    await bundle.write({ file: at('app', 'out', 'bundle.cjs'), format: 'cjs', codeSplitting: false })
    await bundle.write({ file: at('app', 'out', 'bundle.mjs'), format: 'esm', codeSplitting: false, banner })
    await bundle.close()
    mkdirSync(at('alone'))
    copyFileSync(at('app', 'out', 'bundle.cjs'), at('alone', 'bundle.cjs'))
  })
  afterAll(() => rmSync(directory, { recursive: true }))

  it('a bundled program finds the addon of the installed package', () => {
    expect(run(at('app', 'out', 'bundle.cjs'))).toBe('[true,"alpaca"]')
    expect(run(at('app', 'out', 'bundle.mjs'))).toBe('[true,"alpaca"]')
  })

  it('a bundled program finds an addon copied next to it, and reports a missing one', () => {
    const bundle = at('alone', 'bundle.cjs')
    expect(run(bundle)).toMatch(/is a bundle without the package's files: mark openalpaca-native as external, or copy/)
    const addons = at('alone', 'prebuilds', `${process.platform}-${process.arch}`)
    mkdirSync(addons, { recursive: true })
    symlinkSync(
      path.join(root, 'build', 'Release', 'openalpaca.node'),
      path.join(addons, 'openalpaca-native.glibc.node'),
    )
    expect(run(bundle)).toBe('[true,"alpaca"]')
  })
})
