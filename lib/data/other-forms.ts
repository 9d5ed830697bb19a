import { DataError } from '../errors.js'

/** Other data sets' names for an instruction and for its answer. */
const synonyms: Readonly<Record<string, readonly string[]>> = {
  instruction: ['instructions', 'prompt', 'question', 'query', 'problem', 'task'],
  output: ['outputs', 'completion', 'answer', 'target', 'solution', 'responses', 'chosen'],
}

const chatFields = ['messages', 'conversations', 'conversation', 'dialog', 'dialogue']
const fieldsShown = 8

/**
 * Rejects a row that lacks a field, with the fields that it has, the format they suggest, and advice.
 * @param names the possible names of the field
 * @throws {DataError} for every call
 */
export function missingField(row: Readonly<Record<string, unknown>>, names: readonly string[], where: string): never {
  const has = Object.keys(row)
  const given = names.find((name) => row[name] === null)
  if (given) throw new DataError(`${where}: "${given}" must be a string, got null: fill it in, or remove the row`)
  const shown = has.slice(0, fieldsShown).map((field) => `"${field}"`)
  const fields = has.length === 0 ? 'no fields' : shown.join(', ') + (has.length > fieldsShown ? ', …' : '')
  throw new DataError(
    `${where}: ${names.map((name) => `"${name}"`).join(' or ')} is missing: the row has ${fields}; ` +
      `expected "instruction", "input" (or "context"), and "output" (or "response")${adviceFor(row)}`,
  )
}

function adviceFor(row: Readonly<Record<string, unknown>>): string {
  const has = Object.keys(row)
  const chat = chatFields.find((field) => Array.isArray(row[field]))
  if (chat) return `: "${chat}" is chat data, which is not supported; write a row for each question and answer`
  if (has.includes('chosen') && has.includes('rejected')) {
    return ': "chosen" and "rejected" are preference data, which is not supported; "chosen" may serve as "output"'
  }
  if (has.length === 1 && has[0] === 'text') {
    return ': "text" alone is plain text, which is not supported; split it into instruction and output'
  }
  const renames = Object.entries(synonyms).flatMap(([field, others]) => {
    if (has.includes(field)) return []
    const other =
      has.find((name) => isSpelledAs(name, field)) ?? has.find((name) => others.some((it) => isSpelledAs(name, it)))
    return other === undefined ? [] : [`"${other}" to "${field}"`]
  })
  return renames.length > 0 ? `: rename ${renames.join(' and ')}` : ''
}

const isSpelledAs = (name: string, field: string): boolean => name.trim().toLowerCase() === field
