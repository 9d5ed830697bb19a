import { DataError } from '../errors.js'
import { fieldNames, resolveField } from './fields.js'
import { DataNotes } from './notes.js'
import { missingField } from './other-forms.js'
import { type Row, readRows } from './rows.js'
import { type DataSource, fileSource } from './text-file.js'
import { isObject, typeName } from './values.js'

/** A row in the format of Stanford Alpaca, for training. */
export interface Instruction {
  /** The task. */
  instruction: string
  /** Context or input for the task; empty for none. */
  input: string
  /** The answer to learn. */
  output: string
}

/** A row of a data set with Alpaca's names, dolly's names, or a mix. */
export interface InstructionRow {
  /** The task. */
  instruction: string
  /** Context or input for the task. */
  input?: string | null
  /** An alias of `input`. */
  context?: string | null
  /** The answer to learn. */
  output?: string | null
  /** An alias of `output`. */
  response?: string | null
}

/** A data set for training. */
export interface Dataset {
  rows: Instruction[]
  /** Notes on the rows for the user. */
  notes: DataNotes
}

/**
 * Reads a data set of `{ instruction, input?, output }` or `{ instruction, context?, response }`: a JSON list, JSON
 * lines, or CSV, optionally with gzip. Other fields are ignored.
 * @throws {DataError} for an invalid file, row, or field, with its name
 */
export async function readInstructions(path: string): Promise<Instruction[]> {
  return (await readDataset(fileSource(path))).rows
}

/** `readInstructions`, with notes on the rows. */
export async function readDataset(source: DataSource): Promise<Dataset> {
  const notes = new DataNotes()
  const rows: Instruction[] = []
  for await (const row of readRows(source)) rows.push(toInstruction(row, notes))
  notes.check(source.name)
  return { rows, notes }
}

/**
 * A data set from rows in memory.
 * @throws {DataError} for an invalid row or field, with its name
 */
export function toDataset(values: readonly unknown[], name = 'data'): Dataset {
  const notes = new DataNotes()
  const rows = values.map((value, index) =>
    toInstruction({ value, index, where: () => `${name}: row ${index + 1} (index ${index})` }, notes),
  )
  notes.check(name)
  return { rows, notes }
}

/** @throws {DataError} for a row that is not an instruction with an answer */
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
