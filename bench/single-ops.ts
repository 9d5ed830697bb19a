import { Child } from './child.js'
import { shapes } from './configs.js'
import { median, ours, peers, type RunOptions } from './contest.js'
import { deviceName } from './device.js'
import { allOps } from './ops/all.js'
import { type Presentation, percent, times } from './report.js'

/** The result of one op. */
export interface OpScore {
  op: string
  /** Medians. */
  seconds: number
  peerSeconds?: number
  /** Bytes or operations per second, depending on the limit. */
  rate: number
  unit: 'GB/s' | 'GFLOP/s'
  /** The rate divided by the machine's, measured in the same run. */
  ofLimit: number
}

/** Every op at the shapes of a training step, alternating between ours and PyTorch's. */
export async function opsBenchmark(options: RunOptions, progress: (what: string) => void): Promise<OpScore[]> {
  const limiter = { ...ours('limits', {}), label: 'the limits' }
  const contenders = [ours('ops', {}), limiter, ...peers('ops', { 'PyTorch, eager': shapes }, options)]
  const children = contenders.map(({ label, command, args }) => new Child(label, command, args, options.threads))
  const [own, limits, peer] = children as [Child, Child, Child | undefined]
  try {
    for (const child of children) await child.ready()
    const scores: OpScore[] = []
    for (const { op, bytes, flops } of allOps) {
      progress(op)
      const seconds: Record<'own' | 'peer' | 'limit', number[]> = { own: [], peer: [], limit: [] }
      for (let repetition = 0; repetition < options.repetitions; repetition++) {
        seconds.own.push((await own.run(op)).seconds as number)
        if (peer) seconds.peer.push((await peer.run(op)).seconds as number)
        const limit = (await limits.run()) as { bandwidth: number; flops: number }
        seconds.limit.push(flops ? flops / limit.flops : bytes / limit.bandwidth)
      }
      const took = median(seconds.own)
      scores.push({
        op,
        seconds: took,
        peerSeconds: peer && median(seconds.peer),
        rate: (flops || bytes) / took / 1e9,
        unit: flops ? 'GFLOP/s' : 'GB/s',
        ofLimit: median(seconds.limit) / took,
      })
    }
    return scores
  } finally {
    for (const child of children) child.kill()
  }
}

export function presentOps(scores: OpScore[]): Presentation {
  const { T, C, H, D, F, V } = shapes
  const rows = scores.map(({ op, seconds, peerSeconds, rate, unit, ofLimit }) => [
    op,
    (seconds * 1000).toFixed(3),
    `${rate.toFixed(1)} ${unit.padEnd(7)}`,
    peerSeconds === undefined ? '' : (peerSeconds * 1000).toFixed(3),
    peerSeconds === undefined ? '' : times(peerSeconds / seconds),
    percent(ofLimit),
  ])
  const withPeer = scores.some(({ peerSeconds }) => peerSeconds !== undefined)
  const bars = scores.map(({ op, seconds, peerSeconds, ofLimit }) => {
    if (withPeer) {
      const ratio = (peerSeconds ?? seconds) / seconds
      return { label: op, value: ratio, text: times(ratio), isOurs: true }
    }
    return { label: op, value: ofLimit, text: percent(ofLimit), isOurs: true }
  })
  return {
    title: `single ops, bfloat16: ${T} tokens, hidden ${C}, ${H} heads of ${D}, intermediate ${F}, vocabulary ${V}`,
    header: ['', 'ms', 'rate', withPeer ? 'PyTorch ms' : '', withPeer ? 'speed to it' : '', 'of the limit'],
    rows,
    notes: [
      `The limit is memory ${deviceName === 'cpu' ? 'read in a loop' : 'copied'}, or a large matrix product; above 100 % the operands stayed in the cache.`,
    ],
    ratios: {
      peer: scores.flatMap(({ seconds, peerSeconds }) => (peerSeconds === undefined ? [] : [peerSeconds / seconds])),
      limit: scores.map(({ ofLimit }) => ofLimit),
    },
    chart: withPeer
      ? { unit: 'speedup over PyTorch', scale: 'log', bars, mark: { value: 1, label: 'PyTorch' } }
      : { unit: 'share of the limit', scale: 'linear', bars, mark: { value: 1, label: 'the limit' } },
  }
}
