/** Runs a script of this folder as the ranks of a run: real processes, over a rendezvous of their own. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import path from 'node:path'

export interface RankEnd {
  code: number | null
  signal: string | null
  /** The lines of JSON that it printed. */
  lines: unknown[]
  errors: string
}

/** A port that is free at the moment. */
export async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** One rank; `options` is what the script gets as JSON in its first argument, with rank, size and port. */
export function startRank(script: string, options: object): { child: ChildProcess; end: Promise<RankEnd> } {
  const child = spawn(process.execPath, [path.join(__dirname, script), JSON.stringify(options)], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, OMP_NUM_THREADS: '1' },
  })
  let [output, errors] = ['', '']
  child.stdout.on('data', (text) => {
    output += text
  })
  child.stderr.on('data', (text) => {
    errors += text
  })
  const end = once(child, 'close').then(([code, signal]) => ({
    code,
    signal,
    errors,
    lines: output
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line)),
  }))
  return { child, end }
}

/** All ranks, to their ends. */
export async function runRanks(script: string, size: number, options: object = {}): Promise<RankEnd[]> {
  const port = await freePort()
  return await Promise.all(
    Array.from({ length: size }, (_, rank) => startRank(script, { rank, size, port, ...options }).end),
  )
}
