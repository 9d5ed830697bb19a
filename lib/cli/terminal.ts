import type { WriteStream } from 'node:tty'
import { inspect } from 'node:util'
import { forTerminal } from '../format.js'

type Format = 'bold' | 'dim' | 'italic' | 'green' | 'red' | 'yellow'

/** Colors text if the stream supports it. */
export function paint(stream: NodeJS.WriteStream, format: Format, text: string): string {
  if (!hasColors(stream)) return text
  const [on, off] = inspect.colors[format]!
  return `\x1b[${on}m${text}\x1b[${off}m`
}

/** Prints a command's result to stdout: as text, or as JSON for programs. */
export function printResult(result: object, json: boolean | undefined, text: () => string): void {
  console.log(json ? JSON.stringify(result, null, 2) : text())
}

/** Prints remarks on stderr, so that programs that read the result do not see them. */
export function printNotes(lines: readonly string[], print: (line: string) => void = console.error): void {
  for (const line of lines) print(`note: ${line}`)
}

/**
 * Whether to color output to a stream: as FORCE_COLOR says, else not if NO_COLOR is set, else if it is a terminal with
 * colors.
 */
export function hasColors(stream: NodeJS.WriteStream): boolean {
  const { FORCE_COLOR, NO_COLOR } = process.env
  if (FORCE_COLOR !== undefined) return !/^(0|false)$/.test(FORCE_COLOR)
  return !NO_COLOR && stream.isTTY === true && (stream as WriteStream).hasColors()
}

/** On standard error, to keep output for programs unchanged. */
export function printWarnings(warnings: readonly string[]): void {
  for (const warning of warnings) console.error(`warning: ${forTerminal(warning)}`)
}
