/** Schedules simulated work: each stream runs its work in order, and the host enqueues it one call at a time. */

/** `host` runs work offloaded to the CPU, `transfer` the copies to it and back. */
export type Lane = 'compute' | 'communication' | 'host' | 'transfer'

interface Interval {
  start: number
  end: number
}

/** Breakdown of a time span, in seconds. */
export interface Usage {
  /** The full span. */
  total: number
  compute: number
  communication: number
  /** Communication without simultaneous computation. */
  exposed: number
  /** Communication during computation. */
  hidden: number
  /** The CPU's part of the work, with the copies to it and back, without simultaneous computation or communication. */
  offload: number
  /** No work in progress: the host is behind with its calls, or waits. */
  idle: number
}

export class Timeline {
  /** The host's clock, in seconds. */
  now = 0
  private readonly lanes: Record<Lane, Interval[]> = { compute: [], communication: [], host: [], transfer: [] }
  private busyUntil = 0

  /** @param shared lanes run alternately: communication uses the cores that compute, and hides nothing */
  constructor(private readonly shared = false) {}

  /**
   * Adds work to a lane. It starts after the host's call, and after the stream finishes its earlier work, at `free`.
   * @returns when it finishes
   */
  run(lane: Lane, free: number, seconds: number): number {
    const start = Math.max(this.now, free, this.shared ? this.busyUntil : 0)
    const end = start + seconds
    if (seconds > 0) this.lanes[lane].push({ start, end })
    this.busyUntil = Math.max(this.busyUntil, end)
    return end
  }

  /** Between two times of the host's clock. */
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

/** The parts of the intervals between two times, sorted, with adjacent ones merged. */
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
