import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readDataset, readInstructions, toDataset } from '../../lib/data/instructions.js'
import { readRows } from '../../lib/data/rows.js'
import { DataError } from '../../lib/errors.js'

const rows = [
  { instruction: 'a, "b"\n', input: 'é', output: 'c' },
  { instruction: 'd', input: '', output: '🦙\\' },
]
const json = JSON.stringify(rows)
const pretty = JSON.stringify(rows, null, 2)
const lines = `${rows.map((row) => JSON.stringify(row)).join('\n')}\n`
const utf16be = Buffer.from(`\uFEFF${json}`, 'utf16le').swap16()

let scratch: string

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'readers-'))
})
afterAll(() => rm(scratch, { recursive: true }))

async function file(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(scratch, name)
  await writeFile(path, content)
  return path
}

async function refusal(name: string, content: string | Uint8Array): Promise<string> {
  const path = await file(name, content)
  const error = await readInstructions(path).catch((error) => error)
  expect(error).toBeInstanceOf(DataError)
  expect(error.message).toContain(path)
  return error.message
}

describe('data files', () => {
  it.each<[name: string, content: string | Uint8Array]>([
    ['list.json', json],
    ['pretty.json', pretty],
    ['lines.jsonl', lines],
    ['lines.ndjson', lines],
    ['LINES.JSONL', lines],
    ['lines in a list file.json', lines],
    ['list in a lines file.jsonl', json],
    ['pretty list in a lines file.jsonl', pretty],
    ['pretty objects.jsonl', rows.map((row) => JSON.stringify(row, null, 2)).join('\n')],
    ['objects on one line.jsonl', rows.map((row) => JSON.stringify(row)).join(' ')],
    ['empty lines and CRLF.jsonl', `\r\n${lines.replaceAll('\n', '\r\n\r\n')}`],
    ['no line break at the end.jsonl', lines.trimEnd()],
    ['no extension', lines],
    ['mark.json', `\uFEFF${json}`],
    ['mark.jsonl', `\uFEFF${lines}`],
    ['utf16le.json', Buffer.from(`\uFEFF${json}`, 'utf16le')],
    ['utf16le without a mark.jsonl', Buffer.from(lines, 'utf16le')],
    ['utf16be.json', utf16be],
    ['packed.json.gz', gzipSync(json)],
    ['packed without saying so.jsonl', gzipSync(lines)],
    ['packed in two members.jsonl.gz', Buffer.concat(lines.split(/(?<=\n)/).map((line) => gzipSync(line)))],
    ['wrapped.json', JSON.stringify({ version: '1', data: rows })],
    ['wrapped in lines.jsonl', JSON.stringify({ rows, test: [] })],
    ['table.csv', 'instruction,input,output\n"a, ""b""\n",é,c\nd,,🦙\\\n'],
    ['TABLE.CSV', '\uFEFFinstruction , input,output\r\n"a, ""b""\n",é,c\r\nd,,🦙\\'],
    ['semicolons.csv', 'instruction;output;input\n"a, ""b""\n";c;é\n\nd;🦙\\;\n'],
    ['tabs.tsv', 'input\tinstruction\toutput\né\t"a, ""b""\n"\tc\n\td\t🦙\\\n'],
    ['packed.csv.gz', gzipSync('instruction,input,output\n"a, ""b""\n",é,c\nd,,🦙\\\n')],
    ['json in a table file.csv', json],
  ])('reads %s', async (name, content) => {
    expect(await readInstructions(await file(name, content))).toEqual(rows)
  })

  it('reads the same rows for any split of the file into chunks', async () => {
    for (const text of [json, pretty, lines, `{"data": ${json}}`]) {
      const bytes = Buffer.from(text)
      for (const size of [1, 2, 7]) {
        const source = {
          name: 'data.json',
          async *open() {
            for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
          },
        }
        expect((await readDataset(source)).rows).toEqual(rows)
      }
    }
  })

  it.each<[name: string, content: string | Uint8Array, message: string]>([
    ['empty.json', '', 'is empty'],
    ['blank.jsonl', ' \n\n', 'is empty'],
    ['empty.json.gz', gzipSync(''), 'is empty within its gzip'],
    ['none.json', '[]', 'holds no rows'],
    ['none.csv', 'instruction,output\n', 'holds no rows'],
    ['wrapped none.json', '{"data": []}', 'holds no rows'],
    ['number.json', '7', 'begins with "7"; expected JSON'],
    ['comment.jsonl', `// my data\n${lines}`, 'begins with "// my data'],
    ['text.txt', 'instruction,output\na,b\n', '(CSV in a file with the extension .csv)'],
    ['page.json', '\n<!DOCTYPE html><html><body>Sign in</body></html>', 'is an HTML or XML page'],
    ['pointer.jsonl', 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n', 'run "git lfs pull"'],
    ['rows.parquet', Buffer.from('PAR1\0\0\0\0PAR1'), 'is a Parquet file; expected JSON, JSON lines, or CSV'],
    ['rows.arrow', 'ARROW1\0\0', 'is an Arrow file'],
    ['rows.zip', 'PK\x03\x04', 'is a zip archive or an Excel file'],
    ['rows.json.zst', Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), 'is a zstd archive'],
    ['cut.json.gz', gzipSync(json).subarray(0, 60), 'its gzip data ends too early'],
    ['damaged.json.gz', gzipSync(json).fill(7, 20, 30), 'its gzip data is damaged'],
    ['utf32.json', Buffer.from([0xff, 0xfe, 0, 0, 0x5b, 0, 0, 0]), 'is UTF-32 text: save it as UTF-8'],
    ['latin1.jsonl', Buffer.from(lines, 'latin1'), 'row 1 (index 0, line 1) is not UTF-8 text'],
    ['latin1.csv', Buffer.from('instruction,output\né,c', 'latin1'), 'is not UTF-8 text after line 1'],
    ['zeros.jsonl', `${lines}\0\0\0\0`, 'row 3 (index 2, line 3) is not valid JSON'],
    ['zeros.csv', 'instruction,output\na,\0\n', 'has null bytes'],
    ['cut.json', '[{"instruction": "a", "out', 'line 1 is not valid JSON: the row that begins there does not end'],
    ['cut between.json', `${json.slice(0, -1)},\n`, 'line 2 is not valid JSON: the list does not end'],
    ['cut.jsonl', `${lines}\n{"instruction": "a"`, 'line 4 is not valid JSON: the row that begins there does not end'],
    [
      'open.jsonl',
      `{"instruction": "a"\n${lines}`,
      'line 1 is not valid JSON: the row that begins there is not complete',
    ],
    ['quote.jsonl', `{"instruction": "a}\n${lines}`, 'line 1 is not valid JSON: a string that begins there'],
    ['comma.json', `${json.slice(0, -1)},]`, 'no row follows the last comma'],
    ['commas.jsonl', lines.replaceAll('\n', ',\n'), 'JSON lines have no commas between them'],
    ['no comma.json', json.replace('},{', '}{'), 'a comma is missing between two rows'],
    ['two commas.json', json.replace('},{', '},,{'), 'a row is missing before a comma'],
    ['two lists.jsonl', `${json}\n${json}`, 'line 2 is not valid JSON: there is more text after the end of the list'],
    ['nan.json', '[{"instruction": "a", "output": NaN}]', 'call df.fillna("")'],
    ['inner comment.jsonl', `${lines}# more\n`, 'JSON has no comments'],
    ['python.jsonl', "{'instruction': 'a'}", 'JSON has double quotes'],
    ['strings.json', '["a"]', 'row 1 (index 0, line 1) must be an object, got a string'],
    ['null.jsonl', `${lines}null`, 'row 3 (index 2, line 3) must be an object, got null'],
    ['lists.json', '[[{"from": "human"}]]', 'row 1 (index 0, line 1) must be an object, got a list'],
    ['splits.json', JSON.stringify({ train: rows, test: rows }), 'holds several lists of rows ("train", "test")'],
    ['columns.json', '{"instruction": ["a"], "output": ["b"]}', 'holds one object of columns'],
    ['pandas.json', '{"instruction": {"0": "a"}, "output": {"0": "b"}}', 'df.to_json(path, orient="records")'],
    ['numbered.json', JSON.stringify({ 0: rows[0], 1: rows[1] }), 'holds one object of numbered rows'],
    ['nested.json', '{"train": {"data": []}}', 'holds one object ("train"); expected a list of rows'],
    ['ragged.csv', 'instruction,output\na\n', 'is not valid CSV (Invalid Record Length'],
    ['quote.csv', 'instruction,output\na,"b\n', 'is not valid CSV (Quote Not Closed'],
    ['twice.csv', 'instruction,output,output\na,b,c\n', 'has two columns "output"'],
  ])('rejects %s', async (name, content, message) => {
    expect(await refusal(name, content)).toContain(message)
  })

  it('names a missing file, and the files of a directory', async () => {
    await expect(readInstructions(join(scratch, 'nowhere.json'))).rejects.toThrow(/nowhere\.json does not exist/)
    const folder = join(scratch, 'folder')
    await mkdir(folder)
    await expect(readInstructions(folder)).rejects.toThrow('is a directory: name a file of instructions')
    await writeFile(join(folder, 'train.jsonl'), lines)
    await expect(readInstructions(folder)).rejects.toThrow('is a directory: name one of its files (train.jsonl)')
    await writeFile(join(folder, 'data-00000-of-00001.arrow'), '')
    await expect(readInstructions(folder)).rejects.toThrow('as save_to_disk writes it: convert it in Python')
  })

  it('names the row and the line of an error', async () => {
    const bad = { instruction: 'x', output: 3 }
    const wrong = '"output" must be a string, got a number'
    const withBad = [...rows, bad]
    expect(await refusal('a.json', JSON.stringify(withBad, null, 1))).toContain(`row 3 (index 2, line 12): ${wrong}`)
    expect(await refusal('b.jsonl', `${lines}\n\r\n${JSON.stringify(bad)}`)).toContain(
      `row 3 (index 2, line 5): ${wrong}`,
    )
    expect(await refusal('c.json', JSON.stringify({ data: withBad }))).toContain(`row 3 (index 2): ${wrong}`)
    const table = 'instruction,context,input,response\n"a\nb",c,c,d\n\ne,f,g,h\n'
    expect(await refusal('d.csv', table)).toContain('row 2 (index 1, line 5): "input" and "context" have different')
  })

  it('keeps at most one row of a list in memory', async () => {
    const row = { instruction: 'a'.repeat(1000), output: 'b' }
    let [made, most] = [0, 0]
    const source = {
      name: 'data.json',
      async *open() {
        yield Buffer.from('[')
        for (; made < 1000; made++) yield Buffer.from(`${made === 0 ? '' : ','}${JSON.stringify(row)}`)
        yield Buffer.from(']')
      },
    }
    for await (const { index } of readRows(source)) most = Math.max(most, made - index)
    expect(most).toBeLessThan(5)
  })
})

describe('fields of instructions', () => {
  const one = (row: object) => toDataset([row]).rows[0]

  it('reads each field under either of its names', () => {
    const expected = { instruction: 'a', input: 'b', output: 'c' }
    for (const input of ['input', 'context']) {
      for (const output of ['output', 'response']) {
        expect(one({ instruction: 'a', [input]: 'b', [output]: 'c' })).toEqual(expected)
      }
    }
    expect(one({ instruction: 'a', input: null, output: 'c' })).toEqual({ ...expected, input: '' })
    expect(one({ instruction: 'a', response: 'c' })).toEqual({ ...expected, input: '' })
  })

  it('accepts both names of a field if the texts are the same, or one is empty', () => {
    const expected = { instruction: 'a', input: 'b', output: 'c' }
    expect(one({ instruction: 'a', input: 'b', context: 'b', output: 'c', response: 'c' })).toEqual(expected)
    expect(one({ instruction: 'a', input: '', context: 'b', output: 'c', response: '' })).toEqual(expected)
    expect(one({ instruction: 'a', input: 'b', context: null, output: null, response: 'c' })).toEqual(expected)
  })

  it.each<[row: unknown, message: string]>([
    [{ instruction: 'a', input: 'b', context: 'c', output: 'd' }, '"input" and "context" have different texts'],
    [{ instruction: 'a', output: 'b', response: 'c' }, '"output" and "response" have different texts'],
    [{ instruction: 'a', context: 5, output: 'd' }, '"context" must be a string, got a number'],
    [{ instruction: 'a', input: '', context: ['x'], output: 'd' }, '"context" must be a string, got a list'],
    [{ instruction: null, output: 'd' }, '"instruction" must be a string, got null'],
    [{ instruction: 'a', output: null }, '"output" must be a string, got null'],
    [{ instruction: 'a', response: true }, '"response" must be a string, got a boolean'],
    [{ output: 'x' }, '"instruction" is missing: the row has "output"; expected "instruction", "input"'],
    [{}, '"instruction" is missing: the row has no fields'],
    [undefined, 'must be an object, got nothing'],
    [{ instruction: 'a', input: 'b' }, '"output" or "response" is missing: the row has "instruction", "input"'],
    [{ Instruction: 'a', Output: 'b' }, 'rename "Instruction" to "instruction" and "Output" to "output"'],
    [{ prompt: 'a', completion: 'b' }, 'rename "prompt" to "instruction" and "completion" to "output"'],
    [{ id: 1, question: 'a', answer: 'b' }, 'rename "question" to "instruction" and "answer" to "output"'],
    [{ messages: [{ role: 'user', content: 'a' }] }, '"messages" is chat data'],
    [{ conversations: [{ from: 'human', value: 'a' }] }, '"conversations" is chat data'],
    [{ prompt: 'a', chosen: 'b', rejected: 'c' }, '"chosen" and "rejected" are preference data'],
    [{ text: 'a' }, '"text" alone is plain text'],
  ])('rejects the fields of %j', (row, message) => {
    const good = { instruction: 'x', output: 'y' }
    expect(() => toDataset([good, row])).toThrow(DataError)
    expect(() => toDataset([good, row])).toThrow(/^data: row 2 \(index 1\)/)
    expect(() => toDataset([good, row])).toThrow(message)
  })
})

describe('notes on a data set', () => {
  it('notes count unused text fields', () => {
    const { notes } = toDataset([
      { instruction: 'a', output: 'b', system: 'Be brief.', history: [], id: 5, number: '12' },
      { instruction: 'a', output: 'b', system: 'Be long.', history: [['q', 'a']], meta: { source: 'web' }, empty: ' ' },
    ])
    expect(Object.fromEntries(notes.unusedFields)).toEqual({ system: 2, history: 1, meta: 1 })
    expect(notes.lines()).toEqual(['fields that are not used: "system" (2 rows), "history" (1 row), "meta" (1 row)'])
  })

  it('notes count empty answers and empty prompts, with the numbers of the first rows', () => {
    const values = Array.from({ length: 10 }, (_, i) => ({
      instruction: i === 9 ? '' : 'a',
      output: i < 7 ? ' ' : 'b',
    }))
    expect(toDataset(values).notes.lines()).toEqual([
      '7 rows with an empty answer, which teaches the end token alone: rows 1, 2, 3, 4, 5, …',
      '1 row with an empty instruction and input: row 10',
    ])
  })

  it('a plain data set has no notes, and one with only empty answers is rejected', () => {
    expect(toDataset(rows).notes.lines()).toEqual([])
    expect(() => toDataset([{ instruction: 'a', output: '' }], 'x.json')).toThrow(
      'x.json: all 1 rows have an empty answer',
    )
  })
})
