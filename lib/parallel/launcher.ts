/** Starts the ranks of one machine as processes, shows their output, and ends all of them when one fails. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import os from 'node:os'
import { createInterface } from 'node:readline'
import { ParallelError } from '../errors.js'
import { checkAddress } from './address.js'

export interface LaunchOptions {
  /** Script and arguments of each rank. */
  args: string[]
  /** Ranks of this machine. */
  ranks: number
  /** GPUs of this machine, assigned to the ranks round-robin; 0 if unused. */
  gpus: number
  /** This machine among those of the run. */
  nodes?: { count: number; rank: number; address: string; port: number }
  /** The number of restarts of a run that lost a rank; `restartArgs` are added. */
  maxRestarts: number
  restartArgs: string[]
  /** Reports progress. */
  say(text: string): void
}

/** A rank's report of its error to the launcher. */
export interface RankReport {
  error: { code?: string; line: string; exitCode: number }
}

/**
 * Signals that end a run in order: Ctrl-C, the signal that schedulers send, and a closed terminal (Node.js does not
 * ignore SIGHUP under nohup).
 */
export const stopSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

const launchedBy = 'OPENALPACA_LAUNCHER'

/** In a rank: ends the process when its launcher is gone, since nothing else would show or stop it. */
export function endWithLauncher(): void {
  if (process.env[launchedBy] === undefined || !process.channel) return
  process.once('disconnect', () => process.exit(1))
  process.channel.unref()
}

/** In a rank: reports an error to the launcher; false without a launcher, and the error must be printed. */
export function reportToLauncher(error: RankReport['error']): boolean {
  return process.env[launchedBy] !== undefined && process.send?.({ error }) === true
}

/** Seconds for the other ranks to end by themselves after one has failed. */
const grace = 20

/** Seconds to wait for the name of another machine's pod. */
const podPatience = 300

/** Transient errors, which a restart may avoid. */
const passing = new Set(['RANK_LOST', 'COLLECTIVE_TIMEOUT', 'CONNECTION_FAILED', 'OUT_OF_MEMORY'])

interface Failure {
  line: string
  exitCode: number
  /** Transient: a retry may succeed. */
  passing: boolean
  /** A consequence of another rank's end. */
  echo: boolean
  /** The signal that ended it. */
  signal?: string
}

/**
 * Runs the ranks to their end.
 * @returns the exit code
 * @throws {ParallelError} `RANK_FAILED` for a failed run, with the number of the rank that failed first, and its error
 */
export async function launch(options: LaunchOptions): Promise<number> {
  let { args } = options
  if (options.nodes) await checkAddress(options.nodes.address, { appearsWithin: podPatience })
  for (let restarts = 0; ; restarts++) {
    const outcome = await runRanks({ ...options, args })
    if (typeof outcome === 'number') return outcome
    if (!outcome.passing || restarts === options.maxRestarts) throw new LaunchError(outcome)
    args = [...options.args, ...options.restartArgs]
    options.say(`${outcome.line}; starting again (${restarts + 1} of ${options.maxRestarts})`)
  }
}

/** A failed run; the exit code is that of the rank that failed first. */
export class LaunchError extends ParallelError {
  readonly exitCode: number

  constructor({ line, exitCode }: Failure) {
    super('RANK_FAILED', line)
    this.exitCode = exitCode
  }
}

async function runRanks(options: LaunchOptions): Promise<number | Failure> {
  const { ranks, nodes } = options
  const size = ranks * (nodes?.count ?? 1)
  const port = nodes?.port ?? (await freePort())
  const children: { rank: number; child: ChildProcess }[] = []
  const failures: Failure[] = []
  let killer: NodeJS.Timeout | undefined
  const signal = (name: NodeJS.Signals) => {
    for (const { child } of children) child.kill(name)
  }
  // Ctrl-C in a terminal reaches the ranks as well; they treat both signals as one.
  let asked: NodeJS.Signals | undefined
  const forward = (name: NodeJS.Signals) => {
    asked ??= name
    signal(name)
  }
  for (const name of stopSignals) process.on(name, forward) // before any rank that could be left behind
  try {
    for (let localRank = 0; localRank < ranks; localRank++) {
      const rank = (nodes?.rank ?? 0) * ranks + localRank
      const place = { rank, localRank, size, address: nodes?.address ?? '127.0.0.1', port }
      children.push({ rank, child: start(options, place) })
    }
    const codes = await Promise.all(
      children.map(async ({ rank, child }) => {
        const outcome = await ended(child, `rank ${rank} of ${size}`)
        if (typeof outcome === 'number') return outcome
        failures.push(outcome)
        // The other ranks notify each other, and have time to end in order.
        killer ??= setTimeout(() => signal('SIGKILL'), 1000 * grace)
        return outcome.exitCode
      }),
    )
    // Ranks that are not listening yet, or wait for such a rank, end on the signal without a report.
    const isObeyed = ({ signal, echo }: Failure) => echo || signal === asked
    if (asked && failures.length > 0 && failures.every(isObeyed)) return 128 + os.constants.signals[asked]
    const failure = failures.find(({ echo }) => !echo) ?? failures[0]
    return failure ? { ...failure, passing: failure.passing && !asked } : Math.max(...codes)
  } finally {
    clearTimeout(killer)
    for (const name of stopSignals) process.off(name, forward)
  }
}

interface Place {
  rank: number
  localRank: number
  size: number
  address: string
  port: number
}

function start({ args, ranks, gpus }: LaunchOptions, { rank, localRank, size, address, port }: Place): ChildProcess {
  const threads = Math.max(1, Math.floor(os.availableParallelism() / ranks))
  const visible = process.env.CUDA_VISIBLE_DEVICES?.split(',')
  const gpu = localRank % gpus
  const child = spawn(process.execPath, args, {
    // Rank 0 has the display; the output of the others is shown line by line, with their rank.
    stdio: ['ignore', rank === 0 ? 'inherit' : 'pipe', 'pipe', 'ipc'],
    env: {
      OMP_NUM_THREADS: String(threads),
      ...process.env,
      RANK: String(rank),
      WORLD_SIZE: String(size),
      LOCAL_RANK: String(localRank),
      LOCAL_WORLD_SIZE: String(ranks),
      MASTER_ADDR: address,
      MASTER_PORT: String(port),
      TORCHELASTIC_USE_AGENT_STORE: undefined,
      [launchedBy]: String(process.pid),
      ...(gpus > 0 && { CUDA_VISIBLE_DEVICES: visible?.[gpu] ?? String(gpu) }),
    },
  })
  for (const [from, to] of [
    [child.stdout, process.stdout],
    [child.stderr, process.stderr],
  ] as const) {
    if (from) createInterface({ input: from }).on('line', (line) => to.write(`rank ${rank}: ${line}\n`))
  }
  return child
}

/** The exit code, or the failure. */
async function ended(child: ChildProcess, who: string): Promise<number | Failure> {
  let report: RankReport['error'] | undefined
  child.on('message', (message: RankReport) => {
    report = message.error
  })
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  if (signal !== null) {
    const advice = signal === 'SIGKILL' ? ' (by hand, or by the system when memory runs out)' : ''
    return { line: `${who} was ended by ${signal}${advice}`, exitCode: 1, passing: true, echo: false, signal }
  }
  if (report) {
    const { code: kind = '', line, exitCode } = report
    return { line: `${who}: ${line}`, exitCode, passing: passing.has(kind), echo: kind === 'RANK_LOST' }
  }
  // Codes above 128 mean that the process exited on a signal.
  if (code === 0 || code! > 128) return code!
  return { line: `${who} ended with code ${code}`, exitCode: code!, passing: false, echo: false }
}

/** A port of this machine that is currently free. */
export async function freePort(): Promise<number> {
  const server = net.createServer().listen(0)
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
