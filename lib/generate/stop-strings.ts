/**
 * Ends a text that comes in pieces before the first of some strings to be complete. What could still become one of them
 * is held back until it is known, so the result does not depend on how the text is divided.
 */
export class StopStrings {
  private held = ''
  private found = false

  constructor(private readonly strings: readonly string[]) {}

  /** Whether one of the strings has come; nothing is let through after it. */
  get stopped(): boolean {
    return this.found
  }

  /** @returns the text that is certain to come before any of the strings */
  push(piece: string): string {
    if (this.found) return ''
    const text = this.held + piece
    const start = this.find(text)
    this.found = start !== undefined
    const safe = start ?? text.length - this.pending(text)
    this.held = this.found ? '' : text.slice(safe)
    return text.slice(0, safe)
  }

  /** @returns what was held back, at the end of the text */
  flush(): string {
    const rest = this.held
    this.held = ''
    return rest
  }

  /** Where the string begins that ends first; of several, the longest. */
  private find(text: string): number | undefined {
    const matches = this.strings
      .map((string) => ({ start: text.indexOf(string), length: string.length }))
      .filter(({ start }) => start >= 0)
      .sort((a, b) => a.start + a.length - (b.start + b.length) || a.start - b.start)
    return matches[0]?.start
  }

  /** Length of the longest end of the text that is the beginning of one of the strings. */
  private pending(text: string): number {
    const lengths = this.strings.map((string) => {
      let length = Math.min(string.length - 1, text.length)
      while (length > 0 && !text.endsWith(string.slice(0, length))) length--
      return Math.max(0, length)
    })
    return Math.max(0, ...lengths)
  }
}
