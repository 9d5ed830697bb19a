import { DataError } from '../errors.js'
import { csvRows } from './csv-rows.js'
import { jsonRows } from './json-rows.js'
import { type DataSource, openText, peek, readableForms } from './text-file.js'

/** A row of a data set, and its location. */
export interface Row {
  value: unknown
  /** From zero, like instance ids. */
  index: number
  /** `openalpaca.json: row 18 (index 17, line 19)`, for errors. */
  where(): string
}

/**
 * Reads a data set row by row: JSON, JSON lines, or CSV, recognized by the text itself; for CSV also by a `.csv` or
 * `.tsv` name.
 * @throws {DataError} for a file that cannot be read, has another format, or has no rows
 */
export async function* readRows(source: DataSource): AsyncGenerator<Row> {
  const { name } = source
  const [head, text] = await peek(openText(source))
  const start = head.toString('latin1').trimStart()
  const isTable = /\.[ct]sv(\.gz)?$/i.test(name) && !/^[[{]/.test(start)
  if (!isTable && start !== '' && !/^[[{]/.test(start)) {
    const shown = JSON.stringify(head.toString().trimStart().slice(0, 40))
    throw new DataError(
      `${name} begins with ${shown}; expected ${readableForms} (CSV in a file with the extension .csv)`,
    )
  }
  let index = 0
  for await (const { value, line } of isTable ? csvRows(text, name) : jsonRows(text, name)) {
    const at = index++
    const where = () => `${name}: row ${at + 1} (index ${at}${line === undefined ? '' : `, line ${line}`})`
    yield { value, index: at, where }
  }
  if (index === 0)
    throw new DataError(`${name} ${start === '' ? 'is empty' : 'holds no rows'}: expected ${readableForms}`)
}
