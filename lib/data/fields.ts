import { DataError } from '../errors.js'
import { typeName } from './values.js'

/** The names of each field of an instruction, in Stanford Alpaca and in databricks-dolly-15k. */
export const fieldNames = {
  instruction: ['instruction'],
  input: ['input', 'context'],
  output: ['output', 'response'],
} as const

/**
 * The text of a field under any of its names; undefined if there is none. A text under one name overrides an empty text
 * under the other.
 * @throws {DataError} for two different texts, or a value that is not a text
 */
export function resolveField(row: object, field: keyof typeof fieldNames, where: () => string): string | undefined {
  let found: { name: string; text: string } | undefined
  for (const name of fieldNames[field]) {
    const text = (row as Record<string, unknown>)[name]
    if (text === undefined || text === null) continue
    if (typeof text !== 'string') throw new DataError(`${where()}: "${name}" must be a string, got ${typeName(text)}`)
    if (found && found.text !== text && found.text !== '' && text !== '') {
      throw new DataError(
        `${where()}: "${found.name}" and "${name}" have different texts; expected one of them: remove the other`,
      )
    }
    if (!found || found.text === '') found = { name, text }
  }
  return found?.text
}
