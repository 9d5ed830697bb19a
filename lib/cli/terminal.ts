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

/** Control characters other than tab and line break as pictures (␛): text from a model must not steer the terminal. */
export function printable(text: string): string {
  return text.replace(/[^\P{Cc}\n\t]/gu, (character) => {
    const code = character.charCodeAt(0)
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : '\ufffd'
  })
}
