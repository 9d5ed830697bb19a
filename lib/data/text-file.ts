/** Data files as UTF-8 text: compression and encoding are recognized by the first bytes, never by the name. */
import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { DataError } from '../errors.js'
import { isDataFile } from '../hub/dataset.js'

/** Bytes of a data set, and their name in messages. */
export interface DataSource {
  /** A path, or a file of the Hub; the extension distinguishes CSV from JSON if the text does not. */
  name: string
  open(): AsyncIterable<Uint8Array>
}

/** The data file at a path. */
export function fileSource(path: string, name = path): DataSource {
  return { name, open: () => readBytes(path) }
}

/** The readable formats, for messages. */
export const readableForms = 'JSON, JSON lines, or CSV, also with gzip'

/**
 * The text of a data set as UTF-8 bytes, without a byte order mark.
 * @throws {DataError} for a file that is missing, empty, damaged, or of a format that is not text
 */
export async function* openText(source: DataSource): AsyncGenerator<Uint8Array> {
  const { name } = source
  const [head, bytes] = await peek(source.open())
  if (head.length === 0) throw new DataError(`${name} is empty: expected ${readableForms}`)
  if (!hasPrefix(head, gzipMagic)) return yield* decode(name, head, bytes)
  const [innerHead, inner] = await peek(gunzip(name, bytes))
  if (innerHead.length === 0) throw new DataError(`${name} is empty within its gzip: expected ${readableForms}`)
  yield* decode(name, innerHead, inner)
}

async function* readBytes(path: string): AsyncGenerator<Uint8Array> {
  try {
    if ((await stat(path)).isDirectory()) throw await directoryError(path)
    yield* createReadStream(path, { highWaterMark: 1 << 18 })
  } catch (cause) {
    if (cause instanceof DataError) throw cause
    const { code, message } = cause as NodeJS.ErrnoException
    const why = code === 'ENOENT' ? 'does not exist' : `cannot be read (${message})`
    throw new DataError(`${path} ${why}: name a file of instructions (${readableForms})`, { cause })
  }
}

async function directoryError(path: string): Promise<DataError> {
  const names = (await readdir(path)).sort()
  const arrow = names.some((name) => name.endsWith('.arrow'))
  if (arrow) return new DataError(`${path} is a directory of Arrow files, as save_to_disk writes it: ${arrowAdvice}`)
  const files = names.filter(isDataFile)
  const shown = files.slice(0, 3).join(', ') + (files.length > 3 ? ', …' : '')
  const advice =
    files.length > 0 ? `name one of its files (${shown})` : `name a file of instructions (${readableForms})`
  return new DataError(`${path} is a directory: ${advice}`)
}

/** The first bytes, at least 512 if available, and all of them. */
export async function peek(chunks: AsyncIterable<Uint8Array>): Promise<[Buffer, AsyncGenerator<Uint8Array>]> {
  const iterator = chunks[Symbol.asyncIterator]()
  const first: Uint8Array[] = []
  let length = 0
  while (length < 512) {
    const { value, done } = await iterator.next()
    if (done) break
    first.push(value)
    length += value.length
  }
  return [Buffer.concat(first), rest()]

  async function* rest(): AsyncGenerator<Uint8Array> {
    try {
      yield* first
      for (;;) {
        const { value, done } = await iterator.next()
        if (done) return
        yield value
      }
    } finally {
      await iterator.return?.()
    }
  }
}

async function* gunzip(name: string, bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const packed = Readable.from(bytes, { objectMode: false })
  const plain = createGunzip()
  packed.on('error', (error) => plain.destroy(error))
  try {
    yield* packed.pipe(plain)
  } catch (cause) {
    if (cause instanceof DataError) throw cause
    const { code, message } = cause as NodeJS.ErrnoException
    const why = code === 'Z_BUF_ERROR' ? 'its gzip data ends too early' : `its gzip data is damaged: ${message}`
    throw new DataError(`${name} is incomplete or damaged (${why}): download or copy it again`, { cause })
  } finally {
    packed.destroy()
  }
}

const gzipMagic = [0x1f, 0x8b]
const arrowAdvice = toJsonLines('datasets', 'load_from_disk(path).to_json("data.jsonl")')
const unpack = 'unpack it, and name the file inside'

function toJsonLines(library: string, call: string): string {
  return `convert it in Python with ${library}.${call}`
}

/** Formats that are not text, by their first bytes. */
const foreignFormats: readonly [magic: string | readonly number[], name: string, advice: string][] = [
  [
    'PAR1',
    'a Parquet file',
    toJsonLines('pandas', 'read_parquet(path).to_json("data.jsonl", orient="records", lines=True)'),
  ],
  ['ARROW1', 'an Arrow file', arrowAdvice],
  [[0xff, 0xff, 0xff, 0xff], 'an Arrow stream', arrowAdvice],
  ['PK\x03\x04', 'a zip archive or an Excel file', 'unpack it, or save the table as CSV'],
  [[0x28, 0xb5, 0x2f, 0xfd], 'a zstd archive', unpack],
  [[0xfd, 0x37, 0x7a, 0x58, 0x5a], 'an xz archive', unpack],
  ['BZh', 'a bzip2 archive', unpack],
  ['7z\xbc\xaf', 'a 7z archive', unpack],
  ['%PDF', 'a PDF', 'save the rows as JSON lines'],
  ['SQLite format 3', 'an SQLite database', 'save the rows as JSON lines'],
  [[0x80, 0x04, 0x95], 'a Python pickle', 'save the rows as JSON lines'],
  ['version https://git-lfs', 'a Git LFS pointer and not the file itself', 'run "git lfs pull" in its repository'],
]

function hasPrefix(bytes: Uint8Array, prefix: string | readonly number[]): boolean {
  return Buffer.from(prefix as string, 'latin1').every((byte, i) => bytes[i] === byte)
}

function refuseForeign(name: string, head: Buffer): void {
  const foreign = foreignFormats.find(([magic]) => hasPrefix(head, magic))
  if (foreign) throw new DataError(`${name} is ${foreign[1]}; expected ${readableForms}: ${foreign[2]}`)
  const start = head.toString('latin1').trimStart().slice(0, 100).toLowerCase()
  if (/^(<!doctype html|<html|<head|<\?xml|<!--)/.test(start)) {
    throw new DataError(
      `${name} is an HTML or XML page; expected ${readableForms}: ` +
        'a download from the Hub needs the address with /resolve/ in place of /blob/, and a token for private files',
    )
  }
}

async function* decode(name: string, head: Buffer, bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  refuseForeign(name, head)
  const encoding = encodingOf(head)
  if (encoding === 'utf-32') throw new DataError(`${name} is UTF-32 text: save it as UTF-8`)
  if (encoding !== 'utf-8') return yield* transcode(name, encoding, bytes)
  let skip = hasPrefix(head, [0xef, 0xbb, 0xbf]) ? 3 : 0
  for await (const chunk of bytes) {
    const start = Math.min(skip, chunk.length)
    skip -= start
    if (start < chunk.length) yield chunk.subarray(start)
  }
}

/**
 * The encoding, from a byte order mark or else from the positions of zeros in its first characters, which are ASCII.
 */
function encodingOf([a, b, c, d]: Buffer): 'utf-8' | 'utf-16le' | 'utf-16be' | 'utf-32' {
  if ((a === 0xff && b === 0xfe && c === 0 && d === 0) || (a === 0 && b === 0)) return 'utf-32'
  if (a !== 0 && b === 0 && c === 0 && d === 0) return 'utf-32'
  if ((a === 0xff && b === 0xfe) || (a !== 0 && b === 0)) return 'utf-16le'
  if ((a === 0xfe && b === 0xff) || (a === 0 && b !== 0)) return 'utf-16be'
  return 'utf-8'
}

async function* transcode(
  name: string,
  encoding: 'utf-16le' | 'utf-16be',
  bytes: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const decoder = new TextDecoder(encoding, { fatal: true })
  try {
    for await (const chunk of bytes) yield Buffer.from(decoder.decode(chunk, { stream: true }))
    yield Buffer.from(decoder.decode())
  } catch (cause) {
    if (cause instanceof DataError) throw cause
    throw new DataError(`${name} is damaged ${encoding.toUpperCase()} text: save it as UTF-8`, { cause })
  }
}
