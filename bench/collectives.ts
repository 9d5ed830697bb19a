/**
 * all_gather and reduce_scatter among processes of this machine, compared with torch.distributed and the loopback
 * limit.
 */
import path from 'node:path'
import { median, ours, type RunOptions } from './contest.js'
import { deviceName } from './device.js'
import { type Presentation, percent, sameDigits, times } from './report.js'
import { type Member, rankCounts, Team, threadsOf } from './team.js'

const MiB = 2 ** 20
/** Bytes of the full tensor, over all ranks. */
const sizes = deviceName === 'cuda' ? [MiB, 64 * MiB, 512 * MiB] : [MiB, 32 * MiB]
/** The minimum number of bytes moved per repetition. */
const volume = deviceName === 'cuda' ? 2048 * MiB : 128 * MiB

export interface CollectiveScore {
  collective: 'all_gather' | 'reduce_scatter'
  ranks: number
  bytes: number
  /**
   * Bytes per second that each rank sends, and receives: (N − 1) / N of the full tensor over the time, NCCL's busbw.
   */
  rate: number
  peerRate?: number
  /** The TCP rate of processes in a ring; between GPUs the limit is the peer, which is NCCL. */
  limit?: number
}

/** A rank of ours, of the peer, or of the ring. */
const own = (name: string) => (member: Member) => ours(name, member)
const peer = (python: string) => (member: Member) => {
  const script = path.join(__dirname, '../../bench/python/collectives.py')
  return {
    command: python,
    args: [script, JSON.stringify({ ...member, threads: threadsOf(member.size), device: deviceName })],
  }
}

export async function collectivesBenchmark(
  { repetitions, python }: RunOptions,
  progress: (what: string) => void,
): Promise<CollectiveScore[]> {
  const scores: CollectiveScore[] = []
  for (const ranks of rankCounts().filter((count) => count > 1)) {
    progress(`${ranks} ranks meet`)
    const teams: Partial<Record<'ours' | 'peer' | 'ring', Team>> = {}
    try {
      teams.ours = await Team.start('ours', ranks, own('collectives'))
      if (python) teams.peer = await Team.start('torch.distributed', ranks, peer(python))
      if (deviceName === 'cpu') teams.ring = await Team.start('the ring', ranks, own('ring'))
      for (const collective of ['all_gather', 'reduce_scatter'] as const) {
        for (const bytes of sizes) {
          const count = Math.max(4, volume / bytes)
          const sent = (bytes * (ranks - 1)) / ranks
          const seconds: Record<keyof typeof teams, number[]> = { ours: [], peer: [], ring: [] }
          for (let repetition = 1; repetition <= repetitions; repetition++) {
            progress(
              `${collective} of ${bytes / MiB} MiB on ${ranks} ranks, repetition ${repetition} of ${repetitions}`,
            )
            for (const name of ['ours', 'peer', 'ring'] as const) {
              const line = name === 'ring' ? `${sent} ${count}` : `${collective} ${bytes} ${count}`
              const answers = (await teams[name]?.run(line)) ?? []
              if (answers.length > 0) seconds[name].push(Math.max(...answers.map((answer) => answer.seconds as number)))
            }
          }
          const rate = (name: keyof typeof teams) => (teams[name] ? sent / median(seconds[name]) : undefined)
          scores.push({ collective, ranks, bytes, rate: rate('ours')!, peerRate: rate('peer'), limit: rate('ring') })
        }
      }
    } finally {
      for (const team of Object.values(teams)) team.kill()
    }
  }
  return scores
}

export function presentCollectives(scores: CollectiveScore[]): Presentation {
  const backend = deviceName === 'cuda' ? 'NCCL' : 'Gloo'
  const [first] = scores
  const rates = scores.flatMap(({ rate, peerRate = 0, limit = 0 }) => [rate, peerRate, limit])
  const digits = sameDigits(rates.map((rate) => rate / 1e9))
  const GB = (rate?: number) => (rate === undefined ? '' : digits(rate / 1e9))
  const rows = scores.map(({ collective, ranks, bytes, rate, peerRate, limit }) => [
    `${collective}, ${ranks} ranks, ${bytes / MiB} MiB`,
    GB(rate),
    GB(peerRate),
    peerRate ? times(rate / peerRate) : '',
    GB(limit),
    limit ? percent(rate / limit) : '',
  ])
  const withPeer = first.peerRate !== undefined
  const header = [
    '',
    'GB/s',
    withPeer ? `torch, ${backend}` : '',
    withPeer ? 'to the peer' : '',
    first.limit ? 'TCP' : '',
    first.limit ? 'of it' : '',
  ]
  return {
    title: 'collectives, float32: bytes that a rank sends a second',
    header,
    rows,
    notes: first.limit ? ['TCP: as many processes in a ring, each sending to the next over the loopback.'] : [],
    ratios: {
      peer: scores.flatMap(({ rate, peerRate }) => (peerRate === undefined ? [] : [rate / peerRate])),
      limit: scores.flatMap(({ rate, limit }) => (limit === undefined ? [] : [rate / limit])),
    },
    chart: {
      unit: 'GB/s',
      scale: 'linear',
      bars: scores.flatMap(({ collective, ranks, bytes, rate, peerRate }) => {
        const label = `${collective}, ${ranks} ranks, ${bytes / MiB} MiB`
        const bar = { label, value: rate / 1e9, text: GB(rate), isOurs: true }
        if (peerRate === undefined) return [bar]
        return [bar, { label: `torch, ${backend}`, value: peerRate / 1e9, text: GB(peerRate), isOurs: false }]
      }),
    },
  }
}
