import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { fixtures } from '../support/fixtures.js'
import { createTargets, runCase } from './targets.js'

const root = mkdtempSync(path.join(tmpdir(), 'openalpaca-fuzz-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const targets = createTargets(fixtures)

describe('damaged files', () => {
  it.each(Object.keys(targets))(
    'damaged %s files are read, or rejected with an error that names them',
    async (name) => {
      const results = { read: 0, refused: 0 }
      for (let seed = 0; seed < 150; seed++) {
        const { result, fault } = await runCase(targets[name]!, seed, path.join(root, 'case'))
        expect(fault, `${name} ${seed}`).toBeUndefined()
        results[result]++
      }
      expect(results.refused).toBeGreaterThan(20) // the damage reaches the checked parts
    },
  )

  it.each([
    ['a reader that fails on its own', async () => (undefined as never as { x: string }).x],
    ['a writer outside its directory', outside],
  ] as [string, (directory: string) => Promise<unknown>][])('the fuzz harness detects %s', async (_, use) => {
    const broken = { ...targets.config!, use }
    const { fault } = await runCase(broken, 1, path.join(root, 'case'))
    expect(fault).toMatch(/not an error for a user|it wrote stray/)
  })
})

async function outside(directory: string): Promise<void> {
  mkdirSync(path.join(directory, '../../stray'))
}
