import { readFile } from 'node:fs/promises'
import { DataError } from '../errors.js'
import { asObject, parseRows, type Rows, stringField } from './rows.js'

/** A row in the format of Stanford Alpaca, as training takes it. */
export interface Instruction {
  /** What to do. */
  instruction: string
  /** Context or input for the task; empty when there is none. */
  input: string
  /** The answer that is learned. */
  output: string
}

/**
 * Reads a data set: a `.json` file with a list of `{ instruction, input?, output }`, or a `.jsonl` file with one a line.
 * Further fields are ignored.
 *
 * @throws DataError that names the file, the row and the field
 */
export async function readInstructions(path: string): Promise<Instruction[]> {
  return toInstructions(parseRows(await readDataFile(path), path))
}

/** @throws DataError that names the first row and field that are not an instruction's */
export function toInstructions({ rows, where }: Rows): Instruction[] {
  return rows.map((value, index) => {
    const row = asObject(value, where(index))
    if (row.output === undefined && typeof row.response === 'string') {
      throw new DataError(
        `${where(index)}: "output" is missing but there is a "response": convert the file with process-dataset first`,
      )
    }
    return {
      instruction: stringField(row, 'instruction', where(index)),
      input: stringField(row, 'input', where(index), ''),
      output: stringField(row, 'output', where(index)),
    }
  })
}

/** @throws DataError when the file cannot be read */
export async function readDataFile(path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (cause) {
    const error = cause as NodeJS.ErrnoException
    const why =
      error.code === 'ENOENT' ? 'does not exist' : error.code === 'EISDIR' ? 'is a directory' : 'cannot be read'
    throw new DataError(`${path} ${why}: name a .json or .jsonl file of instructions`, { cause })
  }
}
