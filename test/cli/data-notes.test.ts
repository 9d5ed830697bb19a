import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, expect, it, vi } from 'vitest'
import { runProgram } from '../../lib/cli/program.js'
import { temporaryDirectory } from '../formats/helpers.js'
import { fixtures } from '../support/fixtures.js'

const root = temporaryDirectory()

afterEach(() => {
  vi.restoreAllMocks()
  process.exitCode = undefined
})

/** The stdout and stderr of a command. */
async function printed(...argv: string[]): Promise<{ out: string; err: string }> {
  const [out, err]: [string[], string[]] = [[], []]
  vi.spyOn(console, 'log').mockImplementation((line: string) => void out.push(line))
  vi.spyOn(console, 'error').mockImplementation((line: string) => void err.push(line))
  await runProgram(argv)
  return { out: out.join('\n'), err: err.join('\n') }
}

it('preview and plan accept either name of the input, and note unused fields and empty answers', async () => {
  const data = path.join(root, 'rows.csv')
  const rows = ['Summarize.,Alpacas hum.,Humming.,Be brief.', 'Say nothing.,,,', 'Hi,,Hello.,']
  writeFileSync(data, ['instruction,context,response,system', ...rows].join('\n'))
  const notes = [
    'note: fields that are not used: "system" (1 row)',
    'note: 1 row with an empty answer, which teaches the end token alone: row 2',
  ]
  const flags = ['--model_path', path.join(fixtures, 'd100'), '--data_path', data, '--max_length', '224']
  const preview = await printed('train', ...flags, '--preview', '1')
  expect(preview.out).toContain('### Input:\nAlpacas hum.\n\n### Response:‹learned› Humming.</s>')
  expect(preview.err.split('\n')).toEqual(expect.arrayContaining(notes))
  const plan = await printed('plan', ...flags, '--gpus', '1', '--batch_size', '2', '--json')
  expect(JSON.parse(plan.out)).toMatchObject({ data: expect.stringMatching(/^3 instances/) })
  expect(plan.err.split('\n')).toEqual(expect.arrayContaining(notes))
})
