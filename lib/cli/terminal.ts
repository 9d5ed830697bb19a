import type { WriteStream } from 'node:tty'
import { styleText } from 'node:util'

type Format = Parameters<typeof styleText>[0]

/** Colours text where the stream is a terminal that has colours and NO_COLOR does not forbid them. */
export function paint(stream: NodeJS.WriteStream, format: Format, text: string): string {
  return hasColors(stream) ? styleText(format, text) : text
}

export function hasColors(stream: NodeJS.WriteStream): boolean {
  return stream.isTTY === true && (stream as WriteStream).hasColors()
}
