import path from 'node:path'
import { Readable } from 'node:stream'
import { afterEach, expect, it, vi } from 'vitest'
import { runProgram } from '../../lib/cli/program.js'
import { fixtures } from '../support/fixtures.js'

afterEach(() => {
  vi.restoreAllMocks()
  process.exitCode = undefined
})

/** The standard output of `sample`. */
async function sample(...flags: string[]): Promise<string> {
  let text = ''
  vi.spyOn(console, 'log').mockImplementation((line: string) => {
    text += `${line}\n`
  })
  vi.spyOn(process.stdout, 'write').mockImplementation((piece) => {
    text += piece
    return true
  })
  const model = ['--model_path', path.join(fixtures, 'd100'), '--device', 'cpu', '--dtype', 'float32']
  await runProgram(['sample', ...model, '--instruction', 'Name three colours.', '--generate_len', '12', ...flags])
  return text
}

it('sample streams an answer, or with --json prints the same text as one object', async () => {
  const text = await sample('--greedy')
  const answer = JSON.parse(await sample('--greedy', '--json'))
  expect(`${answer.text}\n`).toBe(text)
  expect(answer).toMatchObject({ prompt_tokens: expect.any(Number), tokens: 12 })
  expect(await sample('--seed', '1')).not.toBe(text)
})

it('sample stops before a stop string', async () => {
  const { text } = JSON.parse(await sample('--greedy', '--json'))
  const stop = text.slice(5, 7)
  expect(await sample('--greedy', '--stop', stop)).toBe(`${text.slice(0, text.indexOf(stop))}\n`)
})

it('sample reads an instruction or an input from standard input', async () => {
  const expected = JSON.parse(await sample('--greedy', '--json', '--input', 'Two lines.\nOf text.'))
  const stdin = Object.getOwnPropertyDescriptor(process, 'stdin')!
  const given = async (text: string, ...flags: string[]) => {
    Object.defineProperty(process, 'stdin', { value: Readable.from([text]), configurable: true })
    try {
      return JSON.parse(await sample('--greedy', '--json', ...flags))
    } finally {
      Object.defineProperty(process, 'stdin', stdin)
    }
  }
  const answer = ({ text, prompt_tokens }: { text: string; prompt_tokens: number }) => ({ text, prompt_tokens })
  expect(answer(await given('Two lines.\nOf text.\n', '--input', '-'))).toEqual(answer(expected))
  const input = ['--input', 'Two lines.\nOf text.']
  expect(answer(await given('Name three colours.\r\n', '--instruction', '-', ...input))).toEqual(answer(expected))
})

it('sample rejects an empty instruction, and standard input for two texts', async () => {
  await expect(sample('--instruction', ' ')).rejects.toThrow('the instruction is empty')
  await expect(sample('--instruction', '-', '--input', '-')).rejects.toThrow('cannot both be read from standard input')
})

it('sample --temperature 0 is equivalent to sample --greedy', async () => {
  expect(await sample('--temperature', '0', '--seed', '3')).toBe(await sample('--greedy'))
})

it.each([
  [['--stop', ''], /stop .* not empty/],
  [['--temperature', '-1'], /temperature .* at least 0/],
  [['--top_p', '0'], /top_p .* above 0/],
  [['--top_p', '1.5'], /top_p .* at most 1/],
  [['--repetition_penalty', '0'], /repetition_penalty .* above 0/],
])('sample rejects %j', async (flags, message) => {
  await expect(sample(...flags)).rejects.toThrow(message)
})
