import { constants } from 'node:os'
import { stopSignals } from '../parallel/launcher.js'

type StopSignal = (typeof stopSignals)[number]

/** One press of Ctrl-C may come twice, from the terminal and forwarded by npm. */
const samePress = 500 // milliseconds

/**
 * Listens for SIGINT, SIGTERM and SIGHUP while it lives. The first aborts `signal`, so that work may end in order; a second
 * ends the process at once, unless it only says once more that the terminal has gone.
 */
export class StopRequest implements Disposable {
  /** The exit code that tells of the signal, 128 plus its number; undefined while none has come. */
  exitCode: number | undefined
  private readonly controller = new AbortController()
  private requestedAt = 0
  private listening = false

  /** Tidies up before a second signal ends the process, which runs no handlers of `exit`. */
  onQuit = (): void => {}

  constructor() {
    this.listen()
  }

  /** Listens again after a release; a second call changes nothing, for a signal on its way to a listener is lost with it. */
  listen(): void {
    if (this.listening) return
    this.listening = true
    for (const name of stopSignals) process.on(name, this.receive)
  }

  /** Leaves signals to Node.js, where nothing would be lost: they end the process at once, whatever it is doing. */
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
 * Does work that can be stopped: the first Ctrl-C aborts its signal, and what it throws then is not told as an error.
 * Returns the exit code, 0 where it was not stopped.
 *
 * @param stopped what to say on stderr where it was; nothing when left out
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
