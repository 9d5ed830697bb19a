/**
 * Connects the ranks of a run: rank 0 listens on a TCP port known to all, and the others connect to it. Over these
 * connections, which stay open, ranks exchange small values and learn when a rank is lost.
 *
 * The protocol is one JSON object per line.
 */
import { once } from 'node:events'
import net from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { ParallelError } from '../errors.js'

export interface RendezvousOptions {
  rank: number
  /** The number of ranks. */
  size: number
  /** Address of rank 0. */
  address: string
  port: number
  /** Seconds to wait for the other ranks. @default 300 */
  timeout?: number
  /** Ends the wait for the other ranks, with its reason. */
  signal?: AbortSignal
}

type ToServer =
  | { join: number; size: number }
  | { key: string; value: unknown }
  | { stuck: string | null }
  | { failed: string }
  | { leaving: true }
type ToClient =
  | { addresses: string[] }
  | { refused: string; code: string }
  | { key: string; values: unknown[] }
  | { key: string; missing: number[] }
  | { silent: number[]; complaint: string }
  | { lost: number; message: string; code: string }
  | { leaving: true }

function send(socket: net.Socket, message: ToServer | ToClient): void {
  if (socket.writable) socket.write(`${JSON.stringify(message)}\n`)
}

/** Calls back with each message; ends silently with the connection. */
function receive<Message>(socket: net.Socket, handle: (message: Message) => void): void {
  socket.setNoDelay(true)
  socket.setKeepAlive(true, 10_000)
  socket.on('error', () => {}) // the end of the connection is reported separately
  const lines = createInterface({ input: socket })
  lines.on('error', () => {})
  lines.on('line', (line) => {
    let message: Message
    try {
      message = JSON.parse(line) as Message
    } catch {
      socket.destroy() // not a rank of this run
      return
    }
    handle(message)
  })
}

/** Seconds for live ranks to report that they wait as well, after one has timed out. */
const patience = 15

const listed = (ranks: number[]) => `rank${ranks.length > 1 ? 's' : ''} ${ranks.join(', ')}`

/** Rank 0's side. */
class Server {
  private readonly sockets: (net.Socket | undefined)[]
  private readonly left = new Set<number>()
  private readonly exchanges = new Map<string, Map<number, unknown>>()
  /** Ranks whose collectives have failed: they are alive, and not the cause. */
  private readonly stuck = new Set<number>()
  /** The message of the first rank whose collective timed out. */
  private complaint?: string
  private verdict?: ToClient
  private readonly timers = new Set<NodeJS.Timeout>()
  /** Connections that no rank has claimed yet. */
  private readonly strangers = new Set<net.Socket>()
  private closed = false

  private constructor(
    private readonly server: net.Server,
    private readonly size: number,
    private readonly timeout: number,
  ) {
    this.sockets = Array.from({ length: size })
    server.on('connection', (socket) => this.accept(socket))
    this.after(timeout, () => {
      const missing = [...this.sockets.keys()].filter((rank) => !this.sockets[rank])
      if (missing.length === 0) return
      const refused = `${listed(missing)} of ${size} did not reach the rendezvous within ${timeout} s`
      for (const socket of this.sockets) if (socket) send(socket, { refused, code: 'NO_ANSWER' })
    })
  }

  static async listen({ port, size, timeout = 300 }: RendezvousOptions): Promise<Server> {
    const server = net.createServer()
    server.listen(port)
    try {
      await once(server, 'listening')
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw cause
      throw new ParallelError(
        'PORT_IN_USE',
        `port ${port} of this machine is in use, and rank 0 needs it to meet the other ranks: is another run active? ` +
          'Set MASTER_PORT to another port',
        { cause },
      )
    }
    return new Server(server, size, timeout)
  }

  private after(seconds: number, then: () => void): void {
    const timer = setTimeout(() => {
      this.timers.delete(timer)
      then()
    }, 1000 * seconds)
    this.timers.add(timer)
  }

  private accept(socket: net.Socket): void {
    let rank = -1
    this.strangers.add(socket)
    receive<ToServer>(socket, (message) => {
      if (this.closed) return // data still in transit
      if ('join' in message) {
        const refused = this.refusal(message.join, message.size)
        if (refused) {
          send(socket, { refused, code: 'RANKS_DISAGREE' })
          return
        }
        rank = message.join
        this.sockets[rank] = socket
        this.strangers.delete(socket)
        if (!this.sockets.includes(undefined)) this.welcome()
      } else if (rank < 0) {
        socket.destroy()
      } else if ('key' in message) {
        this.collect(rank, message.key, message.value)
      } else if ('stuck' in message) {
        this.hear(rank, message.stuck)
      } else if ('failed' in message) {
        this.left.add(rank)
        this.tellLost(rank, `failed: ${message.failed}`)
      } else {
        this.left.add(rank)
        for (const values of this.exchanges.values()) this.checkLeft(values)
      }
    })
    socket.on('close', () => {
      this.strangers.delete(socket)
      if (rank >= 0 && !this.left.has(rank)) {
        this.left.add(rank)
        this.tellLost(rank, 'is gone: its process ended')
      }
    })
  }

  private refusal(rank: number, size: number): string | undefined {
    if (size !== this.size) return `rank 0 was started with ${this.size} ranks, and rank ${rank} with ${size}`
    if (!Number.isInteger(rank) || rank < 0 || rank >= size) return `there is no rank ${rank} among ${size}`
    return this.sockets[rank] ? `two processes were started as rank ${rank}` : undefined
  }

  /** All ranks have connected. */
  private welcome(): void {
    const sockets = this.sockets as net.Socket[]
    const isLocal = (address = '') => /^(::ffff:)?127\.|^::1$/.test(address)
    // Ranks on rank 0's machine may connect over the loopback, IPv4 or IPv6; other machines reach them at rank 0's
    // outside address.
    const outside = sockets.find((socket) => !isLocal(socket.remoteAddress))?.localAddress
    const addresses = sockets.map(({ remoteAddress = '' }) =>
      (isLocal(remoteAddress) ? (outside ?? '127.0.0.1') : remoteAddress).replace(/^::ffff:/, ''),
    )
    for (const socket of sockets) send(socket, { addresses })
  }

  private collect(rank: number, key: string, value: unknown): void {
    let values = this.exchanges.get(key)
    if (!values) {
      const fresh = new Map<number, unknown>()
      values = fresh
      this.exchanges.set(key, fresh)
      this.after(this.timeout, () => {
        const missing = [...this.sockets.keys()].filter((other) => !fresh.has(other))
        if (missing.length === 0) return
        const silent = missing.filter((other) => !this.stuck.has(other))
        this.broadcast({ key, missing: silent.length > 0 ? silent : missing })
      })
    }
    values.set(rank, value)
    this.checkLeft(values)
    if (values.size < this.size) return
    this.exchanges.delete(key)
    this.broadcast({ key, values: [...this.sockets.keys()].map((other) => values.get(other)) })
  }

  /** Fails the exchanges that wait for a value from a rank that has left. */
  private checkLeft(values: Map<number, unknown>): void {
    const rank = [...this.left].find((other) => !values.has(other))
    if (rank !== undefined) this.tellLost(rank, 'has left the run')
  }

  /**
   * Handles a rank's failed collective; `complaint` is its message if it timed out. That rank cannot tell a hung rank
   * from one that waits for a third. The ranks to name are those that do not report that they wait.
   */
  private hear(rank: number, complaint: string | null): void {
    this.stuck.add(rank)
    if (this.verdict) send(this.sockets[rank]!, this.verdict)
    else if (complaint !== null && this.complaint === undefined) {
      this.complaint = complaint
      this.after(Math.min(this.timeout, patience), () => this.judge())
    }
    if (this.silent().length <= 1) this.judge()
  }

  /** The ranks not known to wait in a collective or an exchange. */
  private silent(): number[] {
    const waiting = new Set([...this.stuck, ...[...this.exchanges.values()].flatMap((values) => [...values.keys()])])
    return [...this.sockets.keys()].filter((rank) => !waiting.has(rank))
  }

  private judge(): void {
    if (this.verdict || this.complaint === undefined) return
    this.verdict = { silent: this.silent(), complaint: this.complaint }
    this.broadcast(this.verdict)
  }

  tellLost(rank: number, what: string): void {
    this.broadcast({ lost: rank, code: 'RANK_LOST', message: `rank ${rank} of ${this.size} ${what}` })
  }

  private broadcast(message: ToClient): void {
    for (const socket of this.sockets) if (socket) send(socket, message)
  }

  close(): void {
    this.closed = true
    for (const timer of this.timers) clearTimeout(timer)
    this.broadcast({ leaving: true })
    this.server.close()
    for (const socket of this.sockets) socket?.destroySoon()
    for (const socket of this.strangers) socket.destroy()
  }
}

/** A rank's connection to the others. */
export class Rendezvous {
  readonly rank: number
  readonly size: number
  /** The address at which other ranks reach this machine. */
  address = '127.0.0.1'
  private readonly controller = new AbortController()
  private readonly waiting = new Map<string, { resolve(values: unknown[]): void; reject(error: Error): void }>()
  private exchanges = 0
  private closed = false
  /** Aborted when the ranks that a timed-out collective waits for are known; the reason is that error. */
  private readonly judged = new AbortController()

  private constructor(
    private readonly options: RendezvousOptions,
    private readonly socket: net.Socket,
    private readonly server: Server | undefined,
  ) {
    this.rank = options.rank
    this.size = options.size
  }

  /** Aborted, with a `RANK_LOST` error as its reason, when another rank has failed or is gone. */
  get lost(): AbortSignal {
    return this.controller.signal
  }

  /**
   * Connects to the other ranks.
   * @throws {ParallelError} `PORT_IN_USE`, `NO_ANSWER` for missing ranks, or `RANKS_DISAGREE`
   */
  static async join(options: RendezvousOptions): Promise<Rendezvous> {
    const { signal } = options
    signal?.throwIfAborted()
    const server = options.rank === 0 ? await Server.listen(options) : undefined
    let socket: net.Socket | undefined
    try {
      socket = await connect(options)
      const rendezvous = new Rendezvous(options, socket, server)
      await rendezvous.unlessAborted(signal, () => rendezvous.enter())
      return rendezvous
    } catch (error) {
      socket?.destroySoon() // an open connection keeps the process alive
      server?.close()
      throw signal?.aborted ? signal.reason : error
    }
  }

  /** Runs work that waits for other ranks; if `signal` is aborted, all waiting ends with its reason. */
  async unlessAborted<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const giveUp = () => this.lose(new ParallelError('ABORTED', (signal!.reason as Error).message))
    signal?.addEventListener('abort', giveUp)
    try {
      signal?.throwIfAborted()
      const result = await work()
      signal?.throwIfAborted()
      return result
    } catch (error) {
      throw signal?.aborted ? signal.reason : error
    } finally {
      signal?.removeEventListener('abort', giveUp)
    }
  }

  private async enter(): Promise<void> {
    const { rank, size, socket } = this
    const addresses = new Promise<string[]>((resolve, reject) => {
      this.waiting.set('addresses', { resolve: resolve as (values: unknown[]) => void, reject })
    })
    receive<ToClient>(socket, (message) => this.handle(message))
    socket.on('close', () => {
      if (!this.closed) this.lose(this.withoutServer('is gone: its process ended'))
      else if (this.waiting.size > 0) this.lose(this.withoutServer('has left the run'))
    })
    send(socket, { join: rank, size })
    this.address = (await addresses)[rank]
  }

  private withoutServer(what: string): ParallelError {
    return new ParallelError('RANK_LOST', `rank 0 of ${this.size} ${what}`)
  }

  private handle(message: ToClient): void {
    if ('addresses' in message) this.settle('addresses', message.addresses)
    else if ('refused' in message) this.lose(new ParallelError(message.code, message.refused))
    else if ('values' in message) this.settle(message.key, message.values)
    else if ('missing' in message) {
      const text = `${listed(message.missing)} of ${this.size} did not reach "${message.key}"`
      this.lose(new ParallelError('COLLECTIVE_TIMEOUT', `${text} within ${this.options.timeout ?? 300} s`))
    } else if ('silent' in message) {
      if (!this.judged.signal.aborted) this.judged.abort(this.inArrears(message.silent, message.complaint))
    } else if ('lost' in message) {
      if (message.lost !== this.rank) this.lose(new ParallelError(message.code, message.message))
    } else this.closed = true
  }

  private settle(key: string, values: unknown[]): void {
    this.waiting.get(key)?.resolve(values)
    this.waiting.delete(key)
  }

  private lose(error: ParallelError): void {
    for (const { reject } of this.waiting.values()) reject(error)
    this.waiting.clear()
    if (!this.controller.signal.aborted) this.controller.abort(error)
  }

  /**
   * Sends `value` to all ranks, and returns the values of all ranks, by rank; every rank must call it, in the same
   * order. `what` names it in errors.
   * @param value anything that JSON can represent
   */
  exchange<T>(what: string, value: T): Promise<T[]> {
    if (this.lost.aborted) return Promise.reject(this.lost.reason)
    if (!this.socket.writable) return Promise.reject(this.withoutServer('has left the run'))
    const key = `${what} ${++this.exchanges}`
    const values = new Promise<unknown[]>((resolve, reject) => this.waiting.set(key, { resolve, reject }))
    send(this.socket, { key, value })
    return values as Promise<T[]>
  }

  /**
   * Checks that all ranks have the same values.
   * @throws {ParallelError} `RANKS_DISAGREE` for a value that differs, with its name, the ranks, and both values
   */
  async agree(values: Record<string, unknown>): Promise<void> {
    const mine = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, JSON.stringify(value) ?? '']))
    const all = await this.exchange('agreement', mine)
    for (const name of new Set(all.flatMap(Object.keys))) {
      const rank = all.findIndex((theirs) => theirs[name] !== all[0][name])
      if (rank < 0) continue
      throw new ParallelError(
        'RANKS_DISAGREE',
        `the ranks disagree on ${name}: rank 0 has ${all[0][name] || 'none'}, and rank ${rank} has ` +
          `${all[rank][name] || 'none'}; start all of them with the same flags, files, and version`,
      )
    }
  }

  /**
   * A failed collective's error as all ranks agree on it: it does not name a rank that only waits for a third one.
   * Returns any other error unchanged.
   */
  async explain(error: unknown): Promise<unknown> {
    const { code, message } = error as { code?: unknown; message: string }
    if (code !== 'COLLECTIVE_TIMEOUT' && code !== 'RANK_LOST') return error
    const { lost } = this
    const judged = this.judged.signal
    if (!lost.aborted && !judged.aborted && this.socket.writable) {
      const timedOut = code === 'COLLECTIVE_TIMEOUT'
      send(this.socket, { stuck: timedOut ? message : null })
      const limit = AbortSignal.timeout(1000 * Math.min(this.options.timeout ?? 300, patience) + 5000)
      await Promise.race([lost, judged, limit].map((signal) => once(signal, 'abort')))
      // Rank 0, which decides, has not answered.
      if (!lost.aborted && !judged.aborted && timedOut) return this.inArrears([0], message)
    }
    return judged.aborted ? judged.reason : lost.aborted ? lost.reason : error
  }

  /** @param complaint the message of a collective that timed out */
  private inArrears(ranks: number[], complaint: string): ParallelError {
    const those = /ranks? \d+(, \d+)* of \d+ did not arrive|not all of the \d+ ranks arrived/
    // If all ranks wait, each for others, the message of one of them is all that is known.
    const exact =
      ranks.length > 0 ? complaint.replace(those, `${listed(ranks)} of ${this.size} did not arrive`) : complaint
    return new ParallelError('COLLECTIVE_TIMEOUT', exact)
  }

  /** Reports to the other ranks why this one ends. */
  fail(message: string): void {
    this.closed = true
    if (this.server) this.server.tellLost(this.rank, `failed: ${message}`)
    else send(this.socket, { failed: message })
  }

  /** Leaves. Rank 0 must be the last to send anything. */
  close(): void {
    this.closed = true
    send(this.socket, { leaving: true })
    this.socket.destroySoon()
    this.server?.close()
  }
}

/** Rank 0 may start later. */
async function connect({ rank, size, address, port, timeout = 300, signal }: RendezvousOptions): Promise<net.Socket> {
  const host = rank === 0 ? '127.0.0.1' : address
  const deadline = performance.now() + 1000 * timeout
  for (let pause = 20; ; pause = Math.min(2 * pause, 1000)) {
    const socket = net.connect({ host, port })
    try {
      await once(socket, 'connect', { signal })
      return socket
    } catch (cause) {
      if (signal?.aborted) socket.destroy()
      signal?.throwIfAborted()
      if (performance.now() + pause > deadline) {
        throw new ParallelError(
          'NO_ANSWER',
          `rank ${rank} of ${size} got no answer from rank 0 at ${address}:${port} within ${timeout} s ` +
            `(${(cause as NodeJS.ErrnoException).code}); check that rank 0 runs, and that MASTER_ADDR and MASTER_PORT are its own`,
          { cause },
        )
      }
      await sleep(pause, undefined, { signal })
    }
  }
}
