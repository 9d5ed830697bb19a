import { DataError } from '../errors.js'
import { fieldNames } from './fields.js'
import type { Instruction } from './instructions.js'
import { isObject } from './values.js'

const usedFields = new Set<string>(Object.values(fieldNames).flat())
const rowsShown = 5

/** Counts unusual rows of a data set during reading. */
export class DataNotes {
  /** Rows with text in a field that training does not use, by field name. */
  readonly unusedFields = new Map<string, number>()
  /** Indices of rows with an empty answer. */
  readonly emptyAnswers: number[] = []
  /** Indices of rows with an empty instruction and input. */
  readonly emptyPrompts: number[] = []
  /** Number of rows. */
  rows = 0

  add(index: number, row: Readonly<Record<string, unknown>>, { instruction, input, output }: Instruction): void {
    this.rows++
    if (output.trim() === '') this.emptyAnswers.push(index)
    if (instruction.trim() === '' && input.trim() === '') this.emptyPrompts.push(index)
    for (const field of Object.keys(row)) {
      if (usedFields.has(field) || !hasText(row[field])) continue
      this.unusedFields.set(field, (this.unusedFields.get(field) ?? 0) + 1)
    }
  }

  /** @throws {DataError} for a data set without a single answer */
  check(name: string): void {
    if (this.rows > 0 && this.emptyAnswers.length === this.rows) {
      throw new DataError(
        `${name}: all ${this.rows} rows have an empty answer; expected text in "output" or "response"`,
      )
    }
  }

  /** For programs: counts, and the names of fields. */
  toJSON(): { unused_fields: Record<string, number>; empty_answers: number } {
    return { unused_fields: Object.fromEntries(this.unusedFields), empty_answers: this.emptyAnswers.length }
  }

  /** Lines for the user; empty if there is nothing to report. */
  lines(): string[] {
    const fields = [...this.unusedFields].map(([field, count]) => `"${field}" (${rowCount(count)})`)
    return [
      ...(fields.length > 0 ? [`fields that are not used: ${fields.join(', ')}`] : []),
      ...(this.emptyAnswers.length > 0
        ? [
            `${rowCount(this.emptyAnswers.length)} with an empty answer, which teaches the end token alone: ${numbers(this.emptyAnswers)}`,
          ]
        : []),
      ...(this.emptyPrompts.length > 0
        ? [`${rowCount(this.emptyPrompts.length)} with an empty instruction and input: ${numbers(this.emptyPrompts)}`]
        : []),
    ]
  }
}

const rowCount = (count: number): string => (count === 1 ? '1 row' : `${count} rows`)

/** Row numbers, counted from one as in files. */
function numbers(indices: readonly number[]): string {
  const shown = indices.slice(0, rowsShown).map((index) => index + 1)
  return `${indices.length === 1 ? 'row' : 'rows'} ${shown.join(', ')}${indices.length > rowsShown ? ', …' : ''}`
}

/** Whether a value is or contains a text that is not a number. */
function hasText(value: unknown): boolean {
  if (typeof value === 'string') return value.trim() !== '' && Number.isNaN(Number(value))
  if (Array.isArray(value)) return value.some(hasText)
  return isObject(value) && Object.values(value).some(hasText)
}
