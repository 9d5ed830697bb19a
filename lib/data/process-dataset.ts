import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { DataError } from '../errors.js'
import { writeFileAtomically } from '../io/atomic.js'
import { downloadDataset, parseHubName } from './hub.js'
import { type Instruction, readDataFile } from './instructions.js'
import { asObject, parseRows, type Rows, stringField } from './rows.js'

export interface ProcessDatasetOptions {
  /**
   * A `.json` or `.jsonl` file, or a data set on the Hugging Face Hub: `databricks/databricks-dolly-15k`, or
   * `hf://datasets/owner/name/path/in/it.jsonl` where it has several files. A local file of that name goes first.
   */
  input: string
  /** The `.json` file to write. */
  output: string
  /** Instances with more words than this in instruction, input and output together are left out. @default 2000 */
  maxWords?: number
  /** Bytes of the download so far, and of the whole. */
  onDownload?: (received: number, total: number) => void
  /** @default HF_ENDPOINT of the environment, else https://huggingface.co */
  hubUrl?: string
  /** @default HF_TOKEN of the environment */
  accessToken?: string
  /** Ends the work with its reason; the output is not changed then. */
  signal?: AbortSignal
}

export interface ProcessDatasetResult {
  /** Instances written. */
  written: number
  /** Instances with too many words. */
  leftOut: number
}

/**
 * Turns a data set in dolly's format (`instruction, context, response`), or one that is in Alpaca's format already, into
 * the Alpaca format that training reads, as OpenAlpaca's process_dataset.py does. The output appears whole or not at
 * all.
 *
 * @throws DataError that says which row and field, file or name on the Hub is wrong
 */
export async function processDataset(options: ProcessDatasetOptions): Promise<ProcessDatasetResult> {
  const { output, maxWords = 2000 } = options
  if (!Number.isInteger(maxWords) || maxWords < 1) {
    throw new RangeError(`maxWords must be a positive integer, got ${maxWords}`)
  }
  const all = toAlpaca(await readRows(options))
  const kept = all.filter((row) => countWords(row) <= maxWords)
  if (kept.length === 0)
    throw new DataError(`${options.input}: all ${all.length} rows have more than ${maxWords} words`)
  options.signal?.throwIfAborted()
  await writeWhole(output, `${JSON.stringify(kept, null, 4)}\n`)
  return { written: kept.length, leftOut: all.length - kept.length }
}

async function readRows(options: ProcessDatasetOptions): Promise<Rows> {
  const hubName = existsSync(options.input) ? undefined : parseHubName(options.input)
  if (hubName === undefined) return parseRows(await readDataFile(options.input), options.input)
  const {
    hubUrl = process.env.HF_ENDPOINT || 'https://huggingface.co',
    accessToken = process.env.HF_TOKEN || undefined,
    onDownload,
    signal,
  } = options
  const file = await downloadDataset(hubName, { hubUrl: hubUrl.replace(/\/+$/, ''), accessToken, onDownload, signal })
  return parseRows(file.bytes, file.name)
}

function toAlpaca({ rows, where }: Rows): Instruction[] {
  return rows.map((value, index) => {
    const row = asObject(value, where(index))
    const isAlpaca = row.output !== undefined
    return {
      instruction: stringField(row, 'instruction', where(index)),
      input: stringField(row, isAlpaca ? 'input' : 'context', where(index), ''),
      output: stringField(row, isAlpaca ? 'output' : 'response', where(index)),
    }
  })
}

/** Words are what stands between white space; those of the three fields are added up. */
export function countWords({ instruction, input, output }: Instruction): number {
  const words = (text: string): number => text.match(/\S+/g)?.length ?? 0
  return words(instruction) + words(input) + words(output)
}

/** A crash leaves the old file or the new one. */
async function writeWhole(path: string, text: string): Promise<void> {
  try {
    await writeFileAtomically(path, (temporary) => writeFile(temporary, text))
  } catch (cause) {
    throw new DataError((cause as Error).message, { cause })
  }
}
