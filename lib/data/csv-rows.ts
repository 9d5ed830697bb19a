import { Readable } from 'node:stream'
import { parse } from 'csv-parse'
import { DataError } from '../errors.js'
import type { ParsedRow } from './json-rows.js'
import { peek } from './text-file.js'

const delimiters = [',', ';', '\t', '|']

/**
 * The rows of a table with a header, which determines the delimiter.
 * @param name the file's name, for errors
 * @throws {DataError} for a damaged table, with the line
 */
export async function* csvRows(chunks: AsyncIterable<Uint8Array>, name: string): AsyncGenerator<ParsedRow> {
  const [head, all] = await peek(chunks)
  const parser = parse({
    delimiter: delimiterOf(head),
    columns: (header: string[]) => checkedHeader(header, name),
    info: true,
    skip_empty_lines: true,
  })
  const text = Readable.from(checkedText(all, name))
  text.on('error', (error) => parser.destroy(error))
  try {
    for await (const { record, info } of text.pipe(parser) as AsyncIterable<{
      record: Record<string, string>
      info: { lines: number }
    }>) {
      // csv-parse reports the end of a row.
      const breaks =
        Object.values(record)
          .join('')
          .match(/\r\n|\r|\n/g)?.length ?? 0
      yield { value: record, line: info.lines - breaks }
    }
  } catch (cause) {
    if (cause instanceof DataError || !(cause as { code?: string }).code?.includes('CSV')) throw cause
    throw new DataError(`${name} is not valid CSV (${(cause as Error).message}): ${quoting}`, { cause })
  } finally {
    text.destroy()
  }
}

const quoting =
  'enclose fields that hold a delimiter, a quote, or a line break in quotes, and double the quotes in them'

/** The most frequent delimiter in the header. */
function delimiterOf(head: Buffer): string {
  const header = head
    .toString()
    .split(/[\r\n]/, 1)[0]!
    .replace(/"[^"]*"/g, '')
  const counts = delimiters.map((delimiter) => header.split(delimiter).length)
  return delimiters[counts.indexOf(Math.max(...counts))]!
}

function checkedHeader(header: string[], name: string): string[] {
  const names = header.map((field) => field.trim())
  const twice = names.find((field, i) => names.indexOf(field) < i)
  if (twice === undefined) return names
  throw new DataError(`${name} has two columns "${twice}": rename or remove one`)
}

async function* checkedText(chunks: AsyncIterable<Uint8Array>, name: string): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let line = 1
  const decoded = (chunk?: Uint8Array): string => {
    try {
      return decoder.decode(chunk, { stream: chunk !== undefined })
    } catch (cause) {
      throw new DataError(
        `${name} is not UTF-8 text after line ${line}: save the file as UTF-8, as iconv -f LATIN1 -t UTF-8 does`,
        { cause },
      )
    }
  }
  for await (const chunk of chunks) {
    const text = decoded(chunk)
    if (text.includes('\0')) throw new DataError(`${name} has null bytes: download or copy it again`)
    line += text.split('\n').length - 1
    yield text
  }
  yield decoded()
}
