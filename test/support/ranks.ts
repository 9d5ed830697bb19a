/** Runs a script of this directory as the ranks of a run: real processes with their own rendezvous. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { freePort } from '../../lib/parallel/launcher.js'

export interface RankEnd {
  code: number | null
  signal: string | null
  /** The JSON lines that it printed. */
  lines: unknown[]
  errors: string
}

/** One rank; the script receives `options` as JSON in its first argument, with rank, size, and port. */
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

/** Waits until all ranks have exited. */
export async function runRanks(script: string, size: number, options: object = {}): Promise<RankEnd[]> {
  const port = await freePort()
  return await Promise.all(
    Array.from({ length: size }, (_, rank) => startRank(script, { rank, size, port, ...options }).end),
  )
}
