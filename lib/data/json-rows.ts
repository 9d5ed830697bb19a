/** Reads JSON lists, JSON lines, and consecutive objects row by row: a file may be larger than the longest string. */
import { constants, isUtf8 } from 'node:buffer'
import { DataError } from '../errors.js'
import { isObject } from './values.js'

/** A parsed row. */
export interface ParsedRow {
  value: unknown
  /** Its first line, from one, if that says more than its number. */
  line?: number
}

const [TAB, LINE_FEED, RETURN, SPACE] = [9, 10, 13, 32]
const [QUOTE, BACKSLASH, COMMA, COLON] = [...Buffer.from('"\\,:')]
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [...Buffer.from('[]{}')]
const isSpace = (byte: number): boolean => byte === SPACE || byte === LINE_FEED || byte === RETURN || byte === TAB

/**
 * The rows of JSON text, whatever the file's name: the elements of a list, or else consecutive objects, each on one or
 * several lines. A single object that wraps a list of rows, such as `{"data": [...]}`, yields that list's rows.
 * @param name the file's name, for errors
 * @throws {DataError} for text that is not JSON, with the line
 */
export async function* jsonRows(chunks: AsyncIterable<Uint8Array>, name: string): AsyncGenerator<ParsedRow> {
  const splitter = new Splitter(name)
  let first: ParsedRow | undefined
  let count = 0
  const parse = (piece: Piece): ParsedRow => ({ value: parseRow(piece, name, count), line: piece.line })
  for await (const chunk of chunks) {
    for (const piece of splitter.push(chunk)) {
      const row = parse(piece)
      count++
      // Whether a first object is a row or wraps all rows is known once it is the only one.
      if (count === 1 && !splitter.inList) first = row
      else {
        if (first) yield first
        first = undefined
        yield row
      }
    }
  }
  for (const piece of splitter.end()) {
    const row = parse(piece)
    if (first) yield first
    first = row
  }
  if (first) yield* unwrapped(first, name)
}

/** A piece of the text that should be one value. */
interface Piece {
  bytes: Buffer
  line: number
}

/** Splits JSON text into its rows by counting brackets, without parsing them. */
class Splitter {
  /** Whether the text is a list, to be split into its elements. */
  inList = false
  private started = false
  private ended = false
  private line = 1
  private afterReturn = false
  private depth = 0
  private inString = false
  private escaped = false
  /** The last byte outside of strings that is not white space. */
  private previous = 0
  private parts: Buffer[] = []
  /** First line of the current row; 0 between rows. */
  private rowLine = 0
  private isScalar = false

  constructor(private readonly name: string) {}

  *push(chunk: Uint8Array): Generator<Piece> {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    let start = 0
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i]!
      const isBreak = byte === RETURN || (byte === LINE_FEED && !this.afterReturn)
      if (this.inString) {
        if (byte === LINE_FEED || byte === RETURN) {
          this.fail(
            this.line,
            'a string that begins there does not end in its line: close it, and write a line break as \\n',
          )
        }
        if (this.escaped) this.escaped = false
        else if (byte === BACKSLASH) this.escaped = true
        else if (byte === QUOTE) this.inString = false
        continue
      }
      if (isBreak) this.line++
      this.afterReturn = byte === RETURN
      if (this.rowLine === 0) {
        if (isSpace(byte)) continue
        start = i
        if (!this.beginRow(byte)) continue
      }
      if (this.isScalar) {
        const ends = isBreak || (this.inList && (byte === COMMA || byte === CLOSE_LIST))
        if (!ends) {
          if (byte === QUOTE) this.inString = true
          continue
        }
        yield this.take(bytes.subarray(start, i))
        if (byte === CLOSE_LIST) this.ended = true
        this.previous = byte
        continue
      }
      if (isSpace(byte)) continue
      if (byte === QUOTE) this.inString = true
      else if (byte === OPEN_OBJECT || byte === OPEN_LIST) {
        if (this.depth > 0 && ![COMMA, COLON, OPEN_LIST].includes(this.previous)) {
          this.fail(this.rowLine, 'the row that begins there is not complete: close its brackets')
        }
        this.depth++
      } else if (byte === CLOSE_OBJECT || byte === CLOSE_LIST) {
        this.depth--
        if (this.depth === 0) yield this.take(bytes.subarray(start, i + 1))
      }
      this.previous = byte
    }
    if (this.rowLine > 0) this.parts.push(Buffer.from(bytes.subarray(start)))
  }

  /** The rest of the text at its end. */
  *end(): Generator<Piece> {
    if (this.rowLine > 0 && this.isScalar && !this.inList) yield this.take(Buffer.alloc(0))
    else if (this.rowLine > 0) this.fail(this.rowLine, 'the row that begins there does not end: the file is cut short')
    if (this.inList && !this.ended) this.fail(this.line, 'the list does not end: the file is cut short')
  }

  /** Handles the first byte of a row, or a byte between rows. Returns whether a row begins. */
  private beginRow(byte: number): boolean {
    if (!this.started) {
      this.started = true
      if (byte === OPEN_LIST) {
        this.inList = true
        this.previous = byte
        return false
      }
      if (byte !== OPEN_OBJECT) this.fail(this.line, 'expected a list of rows, or an object on each line')
    } else if (this.ended) {
      this.fail(
        this.line,
        'there is more text after the end of the list: put all rows into one list, or one on each line',
      )
    } else if (this.inList) {
      if (byte === CLOSE_LIST) {
        if (this.previous === COMMA) this.fail(this.line, 'no row follows the last comma: remove the comma')
        this.ended = true
        return false
      }
      if (byte === COMMA) {
        if (this.previous === COMMA || this.previous === OPEN_LIST)
          this.fail(this.line, 'a row is missing before a comma')
        this.previous = byte
        return false
      }
      if (this.previous !== COMMA && this.previous !== OPEN_LIST)
        this.fail(this.line, 'a comma is missing between two rows')
    } else if (byte === COMMA) {
      this.fail(this.line, 'JSON lines have no commas between them: remove them, or put all rows within [ and ]')
    }
    this.rowLine = this.line
    this.isScalar = byte !== OPEN_OBJECT && byte !== OPEN_LIST
    if (!this.isScalar) this.previous = COLON // a bracket may follow
    return true
  }

  private take(last: Buffer): Piece {
    const piece = { bytes: this.parts.length === 0 ? last : Buffer.concat([...this.parts, last]), line: this.rowLine }
    this.parts = []
    this.rowLine = 0
    this.depth = 0
    this.isScalar = false
    this.previous = 0
    return piece
  }

  private fail(line: number, why: string): never {
    throw new DataError(`${this.name}: line ${line} is not valid JSON: ${why}`)
  }
}

function parseRow({ bytes, line }: Piece, name: string, index: number): unknown {
  const where = `${name}: row ${index + 1} (index ${index}, line ${line})`
  if (!isUtf8(bytes)) {
    throw new DataError(`${where} is not UTF-8 text: save the file as UTF-8, as iconv -f LATIN1 -t UTF-8 does`)
  }
  if (bytes.length > constants.MAX_STRING_LENGTH) {
    throw new DataError(`${where} has ${bytes.length} bytes; expected a list of rows, or a row on each line`)
  }
  try {
    return JSON.parse(bytes.toString())
  } catch (cause) {
    throw new DataError(`${where} is not valid JSON (${(cause as Error).message})${advice(bytes)}`, { cause })
  }
}

function advice(bytes: Buffer): string {
  if (bytes.includes(0)) return ': it has null bytes, so the file is damaged; download or copy it again'
  const start = bytes.subarray(0, 20).toString()
  if (/^(\/\/|\/\*|#)/.test(start)) return ': JSON has no comments; remove them'
  if (/[:[,]\s*-?(NaN|Infinity)\b/.test(bytes.subarray(0, 1 << 20).toString())) {
    return ': NaN and Infinity are not JSON; write "" or null (in pandas, call df.fillna("") before saving)'
  }
  if (start.startsWith("{'")) return ": JSON has double quotes; write it with json.dumps, or another library's function"
  return ': write one whole object for each row'
}

/** Fields of a row whose lists belong to the row. */
const listFields = [
  'messages',
  'conversations',
  'conversation',
  'dialog',
  'dialogue',
  'chosen',
  'rejected',
  'prompt',
  'history',
]

/** The rows of a file's only value: itself, or the list that it wraps. */
function* unwrapped(only: ParsedRow, name: string): Generator<ParsedRow> {
  const { value } = only
  if (!isObject(value) || typeof value.instruction === 'string') return yield only
  const entries = Object.entries(value).filter(([key]) => !listFields.includes(key))
  const lists = entries.filter(
    (entry): entry is [string, unknown[]] => Array.isArray(entry[1]) && entry[1].every(isObject),
  )
  const filled = lists.filter(([, rows]) => rows.length > 0)
  if (filled.length === 1) {
    for (const row of filled[0]![1]) yield { value: row }
    return
  }
  const keys = Object.keys(value)
  const shown =
    keys
      .slice(0, 6)
      .map((key) => `"${key}"`)
      .join(', ') + (keys.length > 6 ? ', …' : '')
  if (filled.length > 1) {
    throw new DataError(
      `${name} holds several lists of rows (${shown}); expected one: save the one to train on as a file`,
    )
  }
  if (lists.length > 0) throw new DataError(`${name} holds no rows`)
  const columns = ['instruction', 'output', 'response'].some((key) => Array.isArray(value[key]) || isObject(value[key]))
  const isIndexed = keys.length > 0 && keys.every((key) => /^\d+$/.test(key) && isObject(value[key]))
  if (columns || isIndexed) {
    throw new DataError(
      `${name} holds one object of ${columns ? 'columns' : 'numbered rows'} (${shown}); expected a list of rows: ` +
        'in pandas, write it with df.to_json(path, orient="records")',
    )
  }
  const hasText = Object.values(value).some((field) => typeof field === 'string')
  if (keys.length > 0 && entries.length === keys.length && !hasText) {
    throw new DataError(`${name} holds one object (${shown}); expected a list of rows, or a row on each line`)
  }
  yield only
}
