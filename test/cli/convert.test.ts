import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest'
import { runProgram } from '../../lib/cli/program.js'
import { formatBytes } from '../../lib/format.js'
import { fixtures } from '../support/fixtures.js'

let scratch: string
beforeAll(() => {
  scratch = mkdtempSync(path.join(tmpdir(), 'convert-'))
})
afterAll(() => rmSync(scratch, { recursive: true }))
afterEach(() => {
  vi.restoreAllMocks()
  process.exitCode = undefined
})

async function convert(...flags: string[]): Promise<string> {
  const lines: string[] = []
  vi.spyOn(console, 'log').mockImplementation((line: string) => void lines.push(line))
  await runProgram(['convert', '--model_path', path.join(fixtures, 'd100'), ...flags])
  return lines.join('\n')
}

it('convert prints the size of its output', async () => {
  const output = path.join(scratch, 'new.gguf')
  expect(await convert('--output', output)).toBe(`gguf written to ${output} (${formatBytes(statSync(output).size)})`)
  const directory = path.join(scratch, 'model')
  const sizes = () => readdirSync(directory).map((name) => statSync(path.join(directory, name)).size)
  const text = await convert('--to', 'safetensors', '--output', directory)
  expect(text).toContain(`(${formatBytes(sizes().reduce((a, b) => a + b))})`)
})

it('convert replaces a file only with --overwrite', async () => {
  const output = path.join(scratch, 'old.gguf')
  writeFileSync(output, 'mine')
  await expect(convert('--output', output)).rejects.toThrow(`${output} exists: add --overwrite`)
  expect(statSync(output).size).toBe(4)
  await convert('--output', output, '--overwrite')
  expect(statSync(output).size).toBeGreaterThan(1000)
})

it('convert rejects a name that does not match the format, and a missing directory', async () => {
  const at = (name: string) => path.join(scratch, name)
  mkdirSync(at('runs'))
  await expect(convert('--output', at('runs/x'))).rejects.toThrow(/runs\/x does not end in \.gguf/)
  await expect(convert('--output', at('x.gguf'), '--to', 'bin')).rejects.toThrow('--to bin writes a directory')
  await expect(convert('--output', at('nowhere/x.gguf'))).rejects.toThrow(/there is no directory .*nowhere/)
  expect(readdirSync(at('runs'))).toEqual([])
})
