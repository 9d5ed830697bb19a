import { constants } from 'node:os'
import { stopSignals } from '../parallel/launcher.js'

type StopSignal = (typeof stopSignals)[number]

/** One press of Ctrl-C may arrive twice, from the terminal and forwarded by npm. */
const samePress = 500 // milliseconds

/**
 * Listens for SIGINT, SIGTERM and SIGHUP until disposed. The first aborts `signal`, so that work can end in order; a
 * second ends the process at once, unless it only repeats that the terminal has closed.
 */
export class StopRequest implements Disposable {
  /** The exit code for the signal, 128 plus its number; undefined before a signal. */
  exitCode: number | undefined
  private readonly controller = new AbortController()
  private requestedAt = 0
  private listening = false

  /** Cleans up before a second signal ends the process, which runs no `exit` handlers. */
  onQuit = (): void => {}

  constructor() {
    this.listen()
  }

  /**
   * Listens again after a release. Repeated calls have no effect, since replacing a listener would lose a pending
   * signal.
   */
  listen(): void {
    if (this.listening) return
    this.listening = true
    for (const name of stopSignals) process.on(name, this.receive)
  }

  /** Returns signals to Node.js when no work can be lost: they end the process at once. */
  release(): void {
    this.listening = false
    for (const name of stopSignals) process.off(name, this.receive)
  }

  get signal(): AbortSignal {
    return this.controller.signal
  }

  private readonly receive = (name: StopSignal): void => {
    if (this.exitCode === undefined) {
      this.exitCode = 128 + constants.signals[name]
      this.requestedAt = performance.now()
      this.controller.abort(new DOMException(`stopped by ${name}`, 'AbortError'))
    } else if (name !== 'SIGHUP' && performance.now() - this.requestedAt > samePress) {
      this.onQuit()
      this.release()
      process.kill(process.pid, name) // process.exit() would wait for threads that wait for other ranks or for a disk
    }
  };

  [Symbol.dispose](): void {
    this.release()
  }
}

/**
 * Runs work that can be stopped: the first Ctrl-C aborts its signal, and later exceptions are not reported as errors.
 * Returns the exit code, 0 if it was not stopped.
 * @param stopped the message on stderr if it was stopped; none by default
 */
export async function stoppable(task: (signal: AbortSignal) => Promise<void>, stopped?: string): Promise<number> {
  using stop = new StopRequest()
  try {
    await task(stop.signal)
  } catch (error) {
    if (stop.exitCode === undefined) throw error
    if (stopped !== undefined) console.error(stopped)
  }
  return stop.exitCode ?? 0
}
