/** When simulated work runs: each stream takes its work in order, and the host enqueues it one call after another. */

export type Lane = 'compute' | 'communication'

interface Interval {
  start: number
  end: number
}

/** How the time of a lane divides, in seconds. */
export interface Usage {
  /** From the first call to the moment the host has waited for all of it. */
  total: number
  compute: number
  communication: number
  /** Communication while nothing is computed. */
  exposed: number
  /** Communication while something is computed. */
  hidden: number
  /** Neither is going on: the host is behind with its calls, or waits. */
  idle: number
}

export class Timeline {
  /** The host's clock, in seconds. */
  now = 0
  private readonly lanes: Record<Lane, Interval[]> = { compute: [], communication: [] }

  /**
   * Puts work on a lane, where it begins once the host has called for it and `free`, when the stream is done with what
   * came before.
   * @returns when it is done
   */
  run(lane: Lane, free: number, seconds: number): number {
    const start = Math.max(this.now, free)
    const intervals = this.lanes[lane]
    const last = intervals[intervals.length - 1]
    // What follows without a pause is one interval with what came before.
    if (last && start <= last.end) last.end = Math.max(last.end, start + seconds)
    else intervals.push({ start, end: start + seconds })
    return start + seconds
  }

  /** Between two moments of the host's clock. */
  usage(start: number, end: number): Usage {
    const compute = clipped(this.lanes.compute, start, end)
    const communication = clipped(this.lanes.communication, start, end)
    const hidden = overlap(compute, communication)
    const [total, computing, communicating] = [end - start, length(compute), length(communication)]
    return {
      total,
      compute: computing,
      communication: communicating,
      exposed: communicating - hidden,
      hidden,
      idle: total - computing - communicating + hidden,
    }
  }
}

function clipped(intervals: Interval[], start: number, end: number): Interval[] {
  return intervals
    .map((one) => ({ start: Math.max(one.start, start), end: Math.min(one.end, end) }))
    .filter((one) => one.end > one.start)
}

const length = (intervals: Interval[]) => intervals.reduce((sum, { start, end }) => sum + end - start, 0)

/** Seconds in which both are busy; each is in order of time and without overlaps of its own. */
function overlap(a: Interval[], b: Interval[]): number {
  let [i, j, sum] = [0, 0, 0]
  while (i < a.length && j < b.length) {
    sum += Math.max(0, Math.min(a[i].end, b[j].end) - Math.max(a[i].start, b[j].start))
    if (a[i].end < b[j].end) i++
    else j++
  }
  return sum
}
