import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

export type Message = Record<string, unknown>

/**
 * One contender in a separate process, which gives it its own peak memory. It prints a line of JSON when it is warm,
 * one for each line that it receives, and one with its peak memory at the end (ours/serve.ts and python/protocol.py).
 */
export class Child {
  private readonly process: ChildProcessWithoutNullStreams
  private readonly messages: AsyncIterator<string>
  private errors = ''

  constructor(
    private readonly label: string,
    command: string,
    args: string[],
    threads: number,
    env: NodeJS.ProcessEnv = {},
  ) {
    this.process = spawn(command, args, { env: { ...process.env, OMP_NUM_THREADS: String(threads), ...env } })
    this.process.stderr.on('data', (chunk: Buffer) => {
      this.errors = `${this.errors}${chunk}`.slice(-4000)
    })
    this.process.on('error', (error) => {
      this.errors += error.message
    })
    this.process.stdin.on('error', () => {}) // it has exited, which `next` reports
    this.messages = createInterface({ input: this.process.stdout })[Symbol.asyncIterator]()
  }

  /** Waits until it is warm, and returns the facts that it reports. */
  ready(): Promise<Message> {
    return this.next()
  }

  /** One repetition. */
  run(line = 'run'): Promise<Message> {
    this.process.stdin.write(`${line}\n`)
    return this.next()
  }

  /** Stops it, and returns its peak resident memory in bytes. */
  async end(): Promise<number> {
    this.process.stdin.end()
    const { peak_memory } = await this.next()
    if (this.process.exitCode === null) await once(this.process, 'exit')
    return peak_memory as number
  }

  kill(): void {
    this.process.kill('SIGKILL')
  }

  private async next(): Promise<Message> {
    for (;;) {
      const { value, done } = await this.messages.next()
      if (done) throw new Error(`${this.label} ended early:\n${this.errors.trim()}`)
      if (value.startsWith('{')) return JSON.parse(value) as Message
    }
  }
}
