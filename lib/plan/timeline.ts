/** When simulated work runs: each stream takes its work in order, and the host enqueues it one call after another. */

/** `host` computes what is offloaded to the CPU, `transfer` carries it there and back. */
export type Lane = 'compute' | 'communication' | 'host' | 'transfer'

interface Interval {
  start: number
  end: number
}

/** How a span of time divides, in seconds. */
export interface Usage {
  /** Of the whole span. */
  total: number
  compute: number
  communication: number
  /** Communication while nothing is computed. */
  exposed: number
  /** Communication while something is computed. */
  hidden: number
  /** The CPU's part of the work, with the copies to it and back, while neither is going on. */
  offload: number
  /** Nothing is going on: the host is behind with its calls, or waits. */
  idle: number
}

export class Timeline {
  /** The host's clock, in seconds. */
  now = 0
  private readonly lanes: Record<Lane, Interval[]> = { compute: [], communication: [], host: [], transfer: [] }
  private busyUntil = 0

  /** @param shared lanes take turns: communication runs on the cores that compute, and hides nothing */
  constructor(private readonly shared = false) {}

  /**
   * Puts work on a lane, where it begins once the host has called for it and its stream, at `free`, is done with what
   * came before.
   * @returns when it is done
   */
  run(lane: Lane, free: number, seconds: number): number {
    const start = Math.max(this.now, free, this.shared ? this.busyUntil : 0)
    const end = start + seconds
    if (seconds > 0) this.lanes[lane].push({ start, end })
    this.busyUntil = Math.max(this.busyUntil, end)
    return end
  }

  /** Between two moments of the host's clock. */
  usage(start: number, end: number): Usage {
    const compute = clipped(this.lanes.compute, start, end)
    const communication = clipped(this.lanes.communication, start, end)
    const hidden = overlap(compute, communication)
    const device = clipped([...compute, ...communication], start, end)
    const all = clipped([...device, ...this.lanes.host, ...this.lanes.transfer], start, end)
    const [total, computing, communicating] = [end - start, length(compute), length(communication)]
    return {
      total,
      compute: computing,
      communication: communicating,
      exposed: communicating - hidden,
      hidden,
      offload: length(all) - length(device),
      idle: total - length(all),
    }
  }
}

/** What of them lies between two moments, in order of time, those that touch as one. */
function clipped(intervals: Interval[], from: number, to: number): Interval[] {
  const merged: Interval[] = []
  for (const one of [...intervals].sort((a, b) => a.start - b.start)) {
    const [start, end] = [Math.max(one.start, from), Math.min(one.end, to)]
    const last = merged[merged.length - 1]
    if (end <= start) continue
    if (last && start <= last.end) last.end = Math.max(last.end, end)
    else merged.push({ start, end })
  }
  return merged
}

const length = (intervals: Interval[]) => intervals.reduce((sum, { start, end }) => sum + end - start, 0)

/** Seconds in which both are busy. */
function overlap(a: Interval[], b: Interval[]): number {
  let [i, j, sum] = [0, 0, 0]
  while (i < a.length && j < b.length) {
    sum += Math.max(0, Math.min(a[i].end, b[j].end) - Math.max(a[i].start, b[j].start))
    if (a[i].end < b[j].end) i++
    else j++
  }
  return sum
}
