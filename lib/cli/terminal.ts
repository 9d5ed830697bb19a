import type { WriteStream } from 'node:tty'
import { inspect } from 'node:util'
import { forTerminal } from '../format.js'

type Format = 'bold' | 'dim' | 'italic' | 'green' | 'red' | 'yellow'

/** Colours text where the stream is to have colours. */
export function paint(stream: NodeJS.WriteStream, format: Format, text: string): string {
  if (!hasColors(stream)) return text
  const [on, off] = inspect.colors[format]!
  return `\x1b[${on}m${text}\x1b[${off}m`
}

/** Prints what a command has found or done: as text, or for programs as JSON. Both go to stdout, alone. */
export function printResult(result: object, json: boolean | undefined, text: () => string): void {
  console.log(json ? JSON.stringify(result, null, 2) : text())
}

/** Prints remarks that are not the result: on stderr, where programs do not read it. */
export function printNotes(lines: readonly string[], print: (line: string) => void = console.error): void {
  for (const line of lines) print(`note: ${line}`)
}

/**
 * Whether to colour what goes to a stream: as FORCE_COLOR says, else not where NO_COLOR is set, else where it is a
 * terminal that has colours.
 */
export function hasColors(stream: NodeJS.WriteStream): boolean {
  const { FORCE_COLOR, NO_COLOR } = process.env
  if (FORCE_COLOR !== undefined) return !/^(0|false)$/.test(FORCE_COLOR)
  return !NO_COLOR && stream.isTTY === true && (stream as WriteStream).hasColors()
}

/** On standard error, so that output for programs stays as it is. */
export function printWarnings(warnings: readonly string[]): void {
  for (const warning of warnings) console.error(`warning: ${forTerminal(warning)}`)
}
