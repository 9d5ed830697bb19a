import { formatBytes, formatPercent } from '../format.js'

/** Milliseconds between two lines: on a terminal, where they overwrite each other, and elsewhere. */
const redrawEvery = 200
const lineEvery = 30_000

/** Shows progress in bytes: in one line that is redrawn on a terminal, else in occasional lines. */
class ByteProgress {
  private shownAt = performance.now()
  private drawn = false

  constructor(
    private readonly what: string,
    private readonly stream: NodeJS.WriteStream = process.stderr,
  ) {}

  readonly update = (done: number, total: number): void => {
    const now = performance.now()
    if (now - this.shownAt < (this.stream.isTTY ? redrawEvery : lineEvery)) return
    this.shownAt = now
    const line = `${this.what}: ${formatBytes(done)} of ${formatBytes(total)}, ${formatPercent(done / Math.max(total, 1))}`
    this.stream.write(this.stream.isTTY ? `\r\x1b[K${line.slice(0, (this.stream.columns || 80) - 1)}` : `${line}\n`)
    this.drawn = true
  }

  /** Clears the line before other output. */
  close(): void {
    if (this.drawn && this.stream.isTTY) this.stream.write('\r\x1b[K')
  }
}

/** Runs work that counts bytes, and shows its progress. */
export async function withByteProgress<T>(
  what: string,
  work: (update: (done: number, total: number) => void) => Promise<T>,
): Promise<T> {
  const progress = new ByteProgress(what)
  try {
    return await work(progress.update)
  } finally {
    progress.close()
  }
}
