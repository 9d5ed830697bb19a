import { DataError } from '../errors.js'
import { fieldNames, resolveField } from './fields.js'
import { DataNotes } from './notes.js'
import { missingField } from './other-forms.js'
import { type Row, readRows } from './rows.js'
import { type DataSource, fileSource } from './text-file.js'
import { isObject, typeName } from './values.js'

/** A row in the format of Stanford Alpaca, as training takes it. */
export interface Instruction {
  /** What to do. */
  instruction: string
  /** Context or input for the task; empty when there is none. */
  input: string
  /** The answer that is learned. */
  output: string
}

/** A row of a data set with Alpaca's names, dolly's names, or some of each. */
export interface InstructionRow {
  /** What to do. */
  instruction: string
  /** Context or input for the task. */
  input?: string | null
  /** Another name of `input`. */
  context?: string | null
  /** The answer that is learned. */
  output?: string | null
  /** Another name of `output`. */
  response?: string | null
}

/** A data set as training takes it. */
export interface Dataset {
  rows: Instruction[]
  /** What a person should know about the rows. */
  notes: DataNotes
}

/**
 * Reads a data set of `{ instruction, input?, output }` or `{ instruction, context?, response }`: a JSON list, JSON
 * lines, or CSV, also with gzip. Further fields are ignored.
 *
 * @throws DataError that names the file, the row and the field
 */
export async function readInstructions(path: string): Promise<Instruction[]> {
  return (await readDataset(fileSource(path))).rows
}

/** `readInstructions`, and what is to be said about the rows. */
export async function readDataset(source: DataSource): Promise<Dataset> {
  const notes = new DataNotes()
  const rows: Instruction[] = []
  for await (const row of readRows(source)) rows.push(toInstruction(row, notes))
  notes.check(source.name)
  return { rows, notes }
}

/**
 * A data set whose rows are in memory.
 *
 * @throws DataError that names the row and the field
 */
export function toDataset(values: readonly unknown[], name = 'data'): Dataset {
  const notes = new DataNotes()
  const rows = values.map((value, index) =>
    toInstruction({ value, index, where: () => `${name}: row ${index + 1} (index ${index})` }, notes),
  )
  notes.check(name)
  return { rows, notes }
}

/** @throws DataError for a row that is no instruction with an answer */
export function toInstruction({ value, index, where }: Row, notes: DataNotes): Instruction {
  if (!isObject(value)) throw new DataError(`${where()} must be an object, got ${typeName(value)}`)
  const instruction = {
    instruction: resolveField(value, 'instruction', where) ?? missingField(value, fieldNames.instruction, where()),
    input: resolveField(value, 'input', where) ?? '',
    output: resolveField(value, 'output', where) ?? missingField(value, fieldNames.output, where()),
  }
  notes.add(index, value, instruction)
  return instruction
}
