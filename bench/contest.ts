import path from 'node:path'
import { Child, type Message } from './child.js'
import { deviceName } from './device.js'

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
  /** Bytes of memory at its largest: the process's, or on a GPU the device's. */
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

/** The figures of a contender: of itself, of each repetition, and the peak of its memory. */
interface Outcome {
  facts: Message
  figures: Message[]
  peakMemory: number
}

/** In turns, a repetition each, so that what disturbs the machine disturbs all of them. */
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
 * Runs the contenders and the machine's limits: in turns, or one after another on a GPU, whose memory has room for one
 * and which nobody else disturbs.
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
