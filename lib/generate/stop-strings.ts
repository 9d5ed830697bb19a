/**
 * Cuts a streamed text before the first stop string that is complete. Text that may be the start of a stop string is
 * held back until that is decided, so the result does not depend on how the text is divided.
 */
export class StopStrings {
  private held = ''
  private found = false

  constructor(private readonly strings: readonly string[]) {}

  /** Whether a stop string has occurred; no text passes after it. */
  get stopped(): boolean {
    return this.found
  }

  /** @returns the text that certainly precedes any stop string */
  push(piece: string): string {
    if (this.found) return ''
    const text = this.held + piece
    const start = this.find(text)
    this.found = start !== undefined
    const safe = start ?? text.length - this.pending(text)
    this.held = this.found ? '' : text.slice(safe)
    return text.slice(0, safe)
  }

  /** @returns the text held back, at the end of the text */
  flush(): string {
    const rest = this.held
    this.held = ''
    return rest
  }

  /** The start of the stop string that ends first; of several, the longest. */
  private find(text: string): number | undefined {
    const matches = this.strings
      .map((string) => ({ start: text.indexOf(string), length: string.length }))
      .filter(({ start }) => start >= 0)
      .sort((a, b) => a.start + a.length - (b.start + b.length) || a.start - b.start)
    return matches[0]?.start
  }

  /** Length of the longest suffix of the text that is a prefix of a stop string. */
  private pending(text: string): number {
    const lengths = this.strings.map((string) => {
      let length = Math.min(string.length - 1, text.length)
      while (length > 0 && !text.endsWith(string.slice(0, length))) length--
      return Math.max(0, length)
    })
    return Math.max(0, ...lengths)
  }
}
