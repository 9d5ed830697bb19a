/** Checks arguments from JavaScript callers, which types do not guard: `expected X, got Y`. */
import { nearest } from './nearest.js'

/** A value in an error message: short, on one line. */
export function shown(value: unknown): string {
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value.constructor?.name && value.constructor !== Object ? `a ${value.constructor.name}` : 'an object'
  }
  const text = typeof value === 'string' || Array.isArray(value) ? JSON.stringify(value) : String(value)
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}

/** @throws {TypeError} for options that are not an object, or have an unknown key; it names the nearest known one */
export function checkOptions(caller: string, options: unknown, known: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new TypeError(`${caller}: expected an object of options, got ${shown(options)}`)
  }
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || known.includes(key)) continue
    const near = nearest(key.replaceAll('_', ''), known)
    throw new TypeError(
      `${caller}: unknown option ${key}; ${near ? `did you mean ${near}?` : `there are ${known.join(', ')}`}`,
    )
  }
}

/** @throws {TypeError} for a value that is not a string; `advice` adds what to do */
export function checkText(what: string, value: unknown, advice = ''): void {
  if (typeof value !== 'string') throw new TypeError(`${what}: expected a string, got ${shown(value)}${advice}`)
}

/** An array, or a typed array as returned by other packages' tokenizers. */
export function isList(value: unknown): value is ArrayLike<unknown> {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView))
}

/** @throws {TypeError} for a value that is not a list of token ids, or, with `lists`, of such lists */
export function checkIds(what: string, value: unknown, { lists = false }: { lists?: boolean } = {}): void {
  const expected = lists ? 'a list of token ids, or of such lists' : 'a list of token ids'
  const wrong = (got: unknown) => {
    const advice = typeof got === 'string' ? ': encode the text with tokenizer.encode first' : ''
    return new TypeError(`${what}: expected ${expected}, got ${shown(got)}${advice}`)
  }
  if (!isList(value)) throw wrong(value)
  const nested = lists && value.length > 0 && isList(value[0])
  for (const entry of Array.from(value)) {
    if (nested ? !isList(entry) : typeof entry !== 'number') throw wrong(nested ? entry : value)
    if (nested) checkIds(what, entry)
  }
}
