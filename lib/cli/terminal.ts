import type { WriteStream } from 'node:tty'
import { styleText } from 'node:util'

type Format = Parameters<typeof styleText>[0]

/** Colours text where the stream is to have colours. */
export function paint(stream: NodeJS.WriteStream, format: Format, text: string): string {
  // The choice is made here: by itself, styleText asks about stdout whatever it is that the text is for.
  return hasColors(stream) ? styleText(format, text, { validateStream: false }) : text
}

/** Prints what a command has found or done: as text, or for programs as JSON. Both go to stdout, alone. */
export function printResult(result: object, json: boolean | undefined, text: () => string): void {
  console.log(json ? JSON.stringify(result, null, 2) : text())
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
