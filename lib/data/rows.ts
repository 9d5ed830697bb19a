import { DataError } from '../errors.js'

/** The rows of a JSON list or of JSON lines, and words for where one of them is. */
export interface Rows {
  rows: unknown[]
  /** `openalpaca.json: row 18 (index 17)`: counted from one for people, from zero as instance ids are. */
  where(index: number): string
}

/**
 * Parses UTF-8 (a byte order mark is let pass) that holds a JSON list, or one JSON value a line when `name` ends in
 * `.jsonl`.
 *
 * @param name the file's name, for errors
 * @throws DataError when the bytes are no such list, or an empty one
 */
export function parseRows(bytes: Uint8Array, name: string): Rows {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new DataError(`${name} is not UTF-8 text: save it as UTF-8`, { cause })
  }
  if (text.trim() === '') throw new DataError(`${name} is empty`)
  const { rows, where } = name.endsWith('.jsonl') ? parseLines(text, name) : parseList(text, name)
  if (rows.length === 0) throw new DataError(`${name} holds no rows`)
  return { rows, where }
}

function parseList(text: string, name: string): Rows {
  const value = parseJson(text, name, 'if it is cut short, make it again; JSON lines belong in a .jsonl file')
  if (!Array.isArray(value)) throw new DataError(`${name} must hold a list of rows, got ${typeName(value)}`)
  return { rows: value, where: (index) => `${name}: row ${index + 1} (index ${index})` }
}

function parseLines(text: string, name: string): Rows {
  const rows: unknown[] = []
  const lineOfRow: number[] = []
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue
    rows.push(parseJson(line, `${name}: line ${index + 1}`, 'it must hold one JSON object, whole'))
    lineOfRow.push(index + 1)
  }
  return { rows, where: (index) => `${name}: row ${index + 1} (index ${index}, line ${lineOfRow[index]})` }
}

function parseJson(text: string, where: string, advice: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new DataError(`${where} is not valid JSON (${(cause as Error).message}): ${advice}`, { cause })
  }
}

/** @throws DataError when a row is not an object */
export function asObject(row: unknown, where: string): Record<string, unknown> {
  if (typeof row === 'object' && row !== null && !Array.isArray(row)) return row as Record<string, unknown>
  throw new DataError(`${where} must be an object, got ${typeName(row)}`)
}

/**
 * The string in a field.
 *
 * @param absent what a missing or null field counts as; undefined when the field is required
 * @throws DataError when the field holds anything else
 */
export function stringField(row: Record<string, unknown>, field: string, where: string, absent?: string): string {
  const value = row[field]
  if (typeof value === 'string') return value
  if (absent !== undefined && (value === undefined || value === null)) return absent
  if (value === undefined) throw new DataError(`${where}: "${field}" is missing`)
  throw new DataError(`${where}: "${field}" must be a string, got ${typeName(value)}`)
}

function typeName(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'a list'
  return typeof value === 'object' ? 'an object' : typeof value
}
