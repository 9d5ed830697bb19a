import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { readInstructions } from '../../lib/data/instructions.js'
import { countWords, processDataset } from '../../lib/data/process-dataset.js'
import { DataError, HubError } from '../../lib/errors.js'
import { HubServer } from '../support/hub-server.js'

const dolly = [
  { instruction: 'Wann fährt der Zug?', context: '', response: 'Um zehn.', category: 'open_qa' },
  { instruction: 'Summarise.', context: 'A long story.', response: 'Short.', category: 'summarization' },
]
const alpaca = [
  { instruction: 'Wann fährt der Zug?', input: '', output: 'Um zehn.' },
  { instruction: 'Summarise.', input: 'A long story.', output: 'Short.' },
]
const lines = (rows: unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('')
const words = (count: number): string => new Array(count).fill('word').join(' \n')

let scratch: string
let output: string

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'process-dataset-'))
  output = join(scratch, 'out/openalpaca.json')
})

beforeEach(() => mkdir(join(scratch, 'out')))
afterEach(() => rm(join(scratch, 'out'), { recursive: true, force: true }))
afterAll(() => rm(scratch, { recursive: true }))

async function file(name: string, content: string): Promise<string> {
  const path = join(scratch, name)
  await writeFile(path, content)
  return path
}

describe('process-dataset on a local file', () => {
  it('process-dataset writes dolly in Alpaca format, as UTF-8 with an indentation of four spaces', async () => {
    const input = await file('dolly.jsonl', lines(dolly))
    expect(await processDataset({ input, output })).toMatchObject({ written: 2, leftOut: 0 })
    const text = await readFile(output, 'utf8')
    expect(text).toBe(`${JSON.stringify(alpaca, null, 4)}\n`)
    expect(text).toContain('fährt')
    expect(await readInstructions(output)).toEqual(alpaca)
  })

  it('process-dataset accepts a JSON list, rows without a context, and rows already in Alpaca format', async () => {
    const { context, ...bare } = dolly[0]
    const input = await file('mixed.json', JSON.stringify([bare, alpaca[1]]))
    await processDataset({ input, output })
    expect(await readInstructions(output)).toEqual(alpaca)
    await processDataset({ input: output, output })
    expect(await readInstructions(output)).toEqual(alpaca)
  })

  it('process-dataset writes JSON lines if the file name requires it', async () => {
    const input = await file('dolly.jsonl', lines(dolly))
    await processDataset({ input, output: join(scratch, 'out/a.jsonl') })
    expect(await readFile(join(scratch, 'out/a.jsonl'), 'utf8')).toBe(lines(alpaca))
  })

  it('process-dataset keeps the text under either name, and counts dropped fields and empty answers', async () => {
    const input = await file(
      'mixed-names.jsonl',
      lines([
        { instruction: 'a', context: 'b', output: 'c', category: 'x' },
        { instruction: 'd', input: 'e', response: 'f', system: 'Be brief.', category: 'y' },
        { instruction: 'g', response: ' ' },
      ]),
    )
    const { notes } = await processDataset({ input, output })
    expect(notes.toJSON()).toEqual({ unused_fields: { category: 2, system: 1 }, empty_answers: 1 })
    expect(await readInstructions(output)).toEqual([
      { instruction: 'a', input: 'b', output: 'c' },
      { instruction: 'd', input: 'e', output: 'f' },
      { instruction: 'g', input: '', output: ' ' },
    ])
  })

  it('process-dataset drops instances of more than 2000 words in all three fields together', async () => {
    const row = (context: number, response: number) => ({
      instruction: 'one two',
      context: words(context),
      response: words(response),
    })
    const input = await file('long.jsonl', lines([row(1000, 998), row(1000, 999), row(0, 1998), row(0, 1999)]))
    expect(await processDataset({ input, output })).toMatchObject({ written: 2, leftOut: 2 })
    expect((await readInstructions(output)).map(countWords)).toEqual([2000, 2000])
    expect(await processDataset({ input, output, maxWords: 5000 })).toMatchObject({ written: 4, leftOut: 0 })
  })

  it.each([
    [
      'response.jsonl',
      lines([dolly[0], { instruction: 'a', context: '' }]),
      'row 2 (index 1, line 2): "output" or "response" is missing: the row has "instruction", "context"',
    ],
    [
      'context.jsonl',
      lines([{ ...dolly[0], context: 5 }]),
      'row 1 (index 0, line 1): "context" must be a string, got a number',
    ],
    [
      'output.json',
      JSON.stringify([{ ...alpaca[0], output: null }]),
      'row 1 (index 0, line 1): "output" must be a string, got null',
    ],
    [
      'cut.jsonl',
      `${lines(dolly)}{"instruction": "a", "con`,
      'line 3 is not valid JSON: the row that begins there does not end',
    ],
    ['empty.jsonl', '', 'is empty'],
    ['all-long.jsonl', lines([{ ...dolly[0], context: words(3000) }]), 'all 1 rows have more than 2000 words'],
  ])('process-dataset rejects %s and leaves an earlier output unchanged', async (name, content, message) => {
    await processDataset({ input: await file('dolly.jsonl', lines(dolly)), output })
    const before = await readFile(output)
    const error = await processDataset({ input: await file(name, content), output }).catch((error) => error)
    expect(error).toBeInstanceOf(DataError)
    expect(error.message).toContain(message)
    expect(await readFile(output)).toEqual(before)
    expect(await readdir(join(scratch, 'out'))).toEqual(['openalpaca.json'])
  })

  it('process-dataset names a missing input, an unwritable output, and an invalid word limit', async () => {
    await expect(processDataset({ input: './nowhere/dolly.jsonl', output })).rejects.toThrow(
      /dolly\.jsonl does not exist/,
    )
    const input = await file('dolly.jsonl', lines(dolly))
    await expect(processDataset({ input, output: join(input, 'x.json') })).rejects.toThrow(
      /Cannot save .*x\.json: a part of its path is a file/,
    )
    await expect(processDataset({ input, output: scratch })).rejects.toThrow(
      /Cannot save .*: a directory has that name/,
    )
    await expect(processDataset({ input, output: join(scratch, 'missing/x.json') })).rejects.toThrow(
      /Cannot save .*x\.json: there is no directory .*missing; create it/,
    )
    expect((await readdir(scratch)).filter((name) => name.includes('.tmp') || name === 'missing')).toEqual([])
    await expect(processDataset({ input, output, maxWords: 0 })).rejects.toThrow(RangeError)
  })
})

describe('process-dataset on the Hub', () => {
  let hub: HubServer
  const settings = () => ({ endpoint: hub.url, token: undefined, cacheDir: join(scratch, 'cache'), offline: false })
  beforeAll(async () => {
    hub = await new HubServer().start()
  })
  afterAll(() => hub.stop())

  it('process-dataset converts the data file of a Hub data set', async () => {
    hub.add('datasets/acme/chats', { 'README.md': '# Chats', 'data/chats.jsonl': lines(dolly) })
    expect(await processDataset({ input: 'acme/chats', output, hub: settings() })).toMatchObject({ written: 2 })
    expect(await readInstructions(output)).toEqual(alpaca)
  })

  it('process-dataset names a wrong row by its file on the Hub', async () => {
    hub.add('datasets/acme/wrong', { 'chats.jsonl': lines([{ ...dolly[0], response: 1 }]) })
    await expect(processDataset({ input: 'acme/wrong', output, hub: settings() })).rejects.toThrow(
      'acme/wrong/chats.jsonl: row 1 (index 0, line 1): "response" must be a string, got a number',
    )
  })

  it('process-dataset writes nothing if the data set does not exist', async () => {
    const converting = processDataset({ input: 'acme/none', output, hub: settings() })
    await expect(converting).rejects.toBeInstanceOf(HubError)
    expect(await readdir(join(scratch, 'out'))).toEqual([])
  })
})
