import { DataError } from '../errors.js'
import { typeName } from './values.js'

/** The names that each field of an instruction goes by: those of Stanford Alpaca, and those of databricks-dolly-15k. */
export const fieldNames = {
  instruction: ['instruction'],
  input: ['input', 'context'],
  output: ['output', 'response'],
} as const

/**
 * The text of a field, by whichever of its names the row has; undefined where it has none. An empty text under one name
 * gives way to a text under the other.
 *
 * @throws DataError for two different texts, or what is no text
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
