import path from 'node:path'
import { Child, type Message } from './child.js'
import { deviceName } from './device.js'

export interface Contender {
  label: string
  command: string
  args: string[]
  /** The contender that ratios refer to; with several peers, the fastest of those marked. */
  peer?: boolean
}

export interface Score {
  label: string
  /** Medians over the repetitions, in the benchmark's unit. */
  rate: number
  /** Values of all repetitions. */
  rates: number[]
  /** Peak memory in bytes: of the process, or on a GPU of the device. */
  peakMemory: number
  version?: string
  peer: boolean
}

/** Operations and bytes per second that the machine reached in the same run. */
export interface Limits {
  flops: number
  bandwidth: number
}

export interface RunOptions {
  repetitions: number
  threads: number
  /** A Python that has torch and transformers; without it there are no peers. */
  python?: string
}

export function ours(name: string, options: object): Contender {
  const script = path.join(__dirname, 'ours', `${name}.js`)
  return { label: 'openalpaca-native', command: process.execPath, args: [script, JSON.stringify(options)] }
}

/** A peer's script, if there is a Python to run it. */
export function peers(name: string, variants: Record<string, object>, { python, threads }: RunOptions): Contender[] {
  if (!python || deviceName === 'emulated') return []
  const script = path.join(__dirname, '../../bench/python', `${name}.py`)
  return Object.entries(variants).map(([label, options]) => {
    return {
      label,
      command: python,
      args: [script, JSON.stringify({ ...options, threads, device: deviceName })],
      peer: true,
    }
  })
}

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** The results of a contender: its facts, the figures of each repetition, and its peak memory. */
interface Outcome {
  facts: Message
  figures: Message[]
  peakMemory: number
}

/** Alternates contenders after each repetition, so that disturbances on the machine affect all of them. */
async function inTurns(all: Contender[], { repetitions, threads }: RunOptions, progress: (what: string) => void) {
  const children: Child[] = []
  try {
    const outcomes: Outcome[] = []
    for (const { label, command, args } of all) {
      progress(`${label} warms up`)
      const child = new Child(label, command, args, threads)
      children.push(child)
      outcomes.push({ facts: await child.ready(), figures: [], peakMemory: 0 })
    }
    for (let repetition = 1; repetition <= repetitions; repetition++) {
      progress(`repetition ${repetition} of ${repetitions}`)
      for (const [i, child] of children.entries()) outcomes[i].figures.push(await child.run())
    }
    for (const [i, child] of children.entries()) outcomes[i].peakMemory = await child.end()
    return outcomes
  } finally {
    for (const child of children) child.kill()
  }
}

/**
 * Runs the contenders and the machine's limits: alternating, or one after another on a GPU, whose memory fits only one
 * and which no other program uses.
 */
export async function contest(
  contenders: Contender[],
  options: RunOptions,
  progress: (what: string) => void,
): Promise<{ scores: Score[]; limits: Limits }> {
  const all = [...contenders, { ...ours('limits', {}), label: 'the limits' }]
  const outcomes: Outcome[] = []
  if (deviceName === 'cuda') for (const one of all) outcomes.push(...(await inTurns([one], options, progress)))
  else outcomes.push(...(await inTurns(all, options, progress)))
  const over = ({ figures }: Outcome, key: string) => figures.map((figure) => figure[key] as number)
  const scores = contenders.map(({ label, peer = false }, i): Score => {
    const { facts, peakMemory } = outcomes[i]
    const rates = over(outcomes[i], 'rate')
    return { label, rate: median(rates), rates, peakMemory, version: facts.version as string, peer }
  })
  const limits = outcomes[contenders.length]
  return { scores, limits: { flops: median(over(limits, 'flops')), bandwidth: median(over(limits, 'bandwidth')) } }
}
