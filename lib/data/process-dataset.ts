import { createWriteStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { CheckpointError, DataError } from '../errors.js'
import { type DatasetOptions, resolveDatasetPath } from '../hub/dataset.js'
import { writeFileAtomically } from '../io/atomic.js'
import { type Instruction, toInstruction } from './instructions.js'
import { DataNotes } from './notes.js'
import { readRows } from './rows.js'
import { type DataSource, fileSource } from './text-file.js'

export interface ProcessDatasetOptions {
  /**
   * A file of JSON, JSON lines, or CSV, optionally with gzip, or a data set on the Hugging Face Hub:
   * `databricks/databricks-dolly-15k`, or `hf://datasets/owner/name/path/in/it.jsonl` if it has several files. A local
   * file of that name takes precedence.
   */
  input: string
  /** The output file: JSON lines if its name ends in `.jsonl`, else a JSON list. */
  output: string
  /** Instances with more words than this in instruction, input and output together are dropped. @default 2000 */
  maxWords?: number
  /** Settings for downloading a data set from the Hub. @default the environment's settings */
  hub?: DatasetOptions
  /** Stops the work with its reason, without changing the output. */
  signal?: AbortSignal
}

export interface ProcessDatasetResult {
  /** Instances written. */
  written: number
  /** Instances with too many words. */
  leftOut: number
  /** Notes on the rows for the user. */
  notes: DataNotes
}

/**
 * Converts a data set with dolly's fields (`instruction, context, response`), Alpaca's, or a mix to the Alpaca format,
 * as OpenAlpaca's process_dataset.py does, and drops long rows. Rows are streamed; the output appears complete or not
 * at all.
 * @throws {DataError} for an invalid row, field, or file, with its name
 * @throws {HubError} for a data set that cannot be downloaded
 */
export async function processDataset(options: ProcessDatasetOptions): Promise<ProcessDatasetResult> {
  const { output, maxWords = 2000 } = options
  if (!Number.isInteger(maxWords) || maxWords < 1) {
    throw new RangeError(`maxWords must be a positive integer, got ${maxWords}`)
  }
  const result = { written: 0, leftOut: 0, notes: new DataNotes() }
  const rows = keptRows(options, maxWords, result)
  const text = /\.(jsonl|ndjson)$/i.test(output) ? jsonLines(rows) : jsonList(rows)
  await writeComplete(output, text)
  return result
}

async function sourceOf({ input, hub, signal }: ProcessDatasetOptions): Promise<DataSource> {
  const { path, name } = await resolveDatasetPath(input, { ...hub, signal })
  return fileSource(path, name)
}

async function* keptRows(
  options: ProcessDatasetOptions,
  maxWords: number,
  result: ProcessDatasetResult,
): AsyncGenerator<Instruction> {
  const source = await sourceOf(options)
  for await (const row of readRows(source)) {
    options.signal?.throwIfAborted()
    const instruction = toInstruction(row, result.notes)
    if (countWords(instruction) > maxWords) result.leftOut++
    else {
      result.written++
      yield instruction
    }
  }
  result.notes.check(source.name)
  if (result.written > 0) return
  throw new DataError(`${source.name}: all ${result.leftOut} rows have more than ${maxWords} words`)
}

/** A list with an indent of four, as Python's json.dump writes it. */
async function* jsonList(rows: AsyncIterable<Instruction>): AsyncGenerator<string> {
  let before = '[\n'
  for await (const row of rows) {
    yield before + JSON.stringify(row, null, 4).replace(/^/gm, '    ')
    before = ',\n'
  }
  yield '\n]\n'
}

async function* jsonLines(rows: AsyncIterable<Instruction>): AsyncGenerator<string> {
  for await (const row of rows) yield `${JSON.stringify(row)}\n`
}

/** Words are separated by white space; those of the three fields are added up. */
export function countWords({ instruction, input, output }: Instruction): number {
  const words = (text: string): number => text.match(/\S+/g)?.length ?? 0
  return words(instruction) + words(input) + words(output)
}

/** A crash leaves the old file or the new one. */
async function writeComplete(path: string, text: AsyncIterable<string>): Promise<void> {
  try {
    await writeFileAtomically(path, (temporary) => pipeline(text, createWriteStream(temporary)), {
      makeDirectory: false,
    })
  } catch (cause) {
    if (!(cause instanceof CheckpointError)) throw cause
    throw new DataError(cause.message, { cause })
  }
}
