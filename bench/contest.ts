import path from 'node:path'
import { Child, type Message } from './child.js'

export interface Contender {
  label: string
  command: string
  args: string[]
  /** Whose rate the ratios are to, where there are several peers: the fastest of those marked. */
  peer?: boolean
}

export interface Score {
  label: string
  /** Medians over the repetitions, in the benchmark's unit. */
  rate: number
  /** Every repetition's. */
  rates: number[]
  /** Bytes of resident memory at its largest. */
  peakMemory: number
  version?: string
  peer: boolean
}

/** Operations and bytes a second that the machine reached in the same run. */
export interface Limits {
  flops: number
  bandwidth: number
}

export interface RunOptions {
  repetitions: number
  threads: number
  /** A Python that has torch and transformers; no peers when left out. */
  python?: string
}

export function ours(name: string, options: object): Contender {
  const script = path.join(__dirname, 'ours', `${name}.js`)
  return { label: 'openalpaca-native', command: process.execPath, args: [script, JSON.stringify(options)] }
}

/** A peer's script, when there is a Python to run it. */
export function peers(name: string, variants: Record<string, object>, { python, threads }: RunOptions): Contender[] {
  if (!python) return []
  const script = path.join(__dirname, '../../bench/python', `${name}.py`)
  return Object.entries(variants).map(([label, options]) => {
    return { label, command: python, args: [script, JSON.stringify({ ...options, threads })], peer: true }
  })
}

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/**
 * Runs the contenders and the machine's limits in turns, a repetition each, so that what disturbs the machine disturbs
 * all of them.
 */
export async function contest(
  contenders: Contender[],
  { repetitions, threads }: RunOptions,
  progress: (what: string) => void,
): Promise<{ scores: Score[]; limits: Limits }> {
  const limiter = { ...ours('limits', {}), label: 'the limits' }
  const children: Child[] = []
  try {
    const facts: Message[] = []
    for (const { label, command, args } of [...contenders, limiter]) {
      progress(`${label} warms up`)
      const child = new Child(label, command, args, threads)
      children.push(child)
      facts.push(await child.ready())
    }
    const figures: Message[][] = children.map(() => [])
    for (let repetition = 1; repetition <= repetitions; repetition++) {
      progress(`repetition ${repetition} of ${repetitions}`)
      for (const [i, child] of children.entries()) figures[i].push(await child.run())
    }
    const over = (i: number, key: string) => figures[i].map((figure) => figure[key] as number)
    const scores: Score[] = []
    for (const [i, { label, peer = false }] of contenders.entries()) {
      const rates = over(i, 'rate')
      const peakMemory = await children[i].end()
      scores.push({ label, rate: median(rates), rates, peakMemory, version: facts[i].version as string, peer })
    }
    const last = contenders.length
    return { scores, limits: { flops: median(over(last, 'flops')), bandwidth: median(over(last, 'bandwidth')) } }
  } finally {
    for (const child of children) child.kill()
  }
}
