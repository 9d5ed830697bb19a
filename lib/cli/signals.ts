import { constants } from 'node:os'

const names = ['SIGINT', 'SIGTERM'] as const
type StopSignal = (typeof names)[number]

/** One press of Ctrl-C may come twice, from the terminal and forwarded by npm. */
const samePress = 500 // milliseconds

/**
 * Listens for SIGINT and SIGTERM while it lives. The first aborts `signal`, so that work may end in order; a second
 * ends the process at once.
 */
export class StopRequest implements Disposable {
  /** The exit code that tells of the signal, 128 plus its number; undefined while none has come. */
  exitCode: number | undefined
  private readonly controller = new AbortController()
  private requestedAt = 0

  /**
   * @param onStop called at the first signal
   * @param onQuit called just before the process ends, to tidy up the terminal
   */
  constructor(
    private readonly onStop: (name: StopSignal) => void,
    private readonly onQuit: () => void = () => {},
  ) {
    for (const name of names) process.on(name, this.receive)
  }

  get signal(): AbortSignal {
    return this.controller.signal
  }

  private readonly receive = (name: StopSignal): void => {
    if (this.exitCode === undefined) {
      this.exitCode = 128 + constants.signals[name]
      this.requestedAt = performance.now()
      this.onStop(name)
      this.controller.abort()
    } else if (performance.now() - this.requestedAt > samePress) {
      this.onQuit()
      process.exit(this.exitCode)
    }
  };

  [Symbol.dispose](): void {
    for (const name of names) process.off(name, this.receive)
  }
}
