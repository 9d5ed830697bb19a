/** A point of a curve: the optimizer step and the value there. */
export type Point = readonly [x: number, y: number]

/**
 * The mean over a window of neighbours on both sides, so that a smoothed curve does not lag behind. Near the start,
 * where a loss falls steeply, the window is cut alike on both sides; at the end it keeps its earlier half.
 */
export function smooth(points: readonly Point[], radius: number): Point[] {
  const sums = [0]
  for (const [, y] of points) sums.push(sums[sums.length - 1] + y)
  return points.map(([x], i) => {
    const first = i - Math.min(radius, i)
    const last = Math.min(i + Math.min(radius, i), points.length - 1)
    return [x, (sums[last + 1] - sums[first]) / (last + 1 - first)]
  })
}

/** The window that `smooth` takes for a curve of so many points: a thirtieth of them on each side. */
export function smoothingRadius(points: number): number {
  return Math.round(points / 30)
}

/** At most about `limit` points of a curve: the lowest and the highest of each stretch, so that spikes stay. */
export function thin(points: readonly Point[], limit: number): readonly Point[] {
  if (points.length <= limit) return points
  const stretch = Math.ceil((2 * points.length) / limit)
  const kept: Point[] = []
  for (let start = 0; start < points.length; start += stretch) {
    const part = points.slice(start, start + stretch)
    const lowest = part.reduce((best, point) => (point[1] < best[1] ? point : best))
    const highest = part.reduce((best, point) => (point[1] > best[1] ? point : best))
    kept.push(...(lowest === highest ? [lowest] : [lowest, highest].sort((a, b) => a[0] - b[0])))
  }
  return kept
}

/** About `count` round values (1, 2 or 5 times a power of ten) from at most `low` to at least `high`. */
export function ticks(low: number, high: number, count: number): number[] {
  const magnitude = Math.max(Math.abs(low), Math.abs(high))
  const isFlat = high - low <= 1e-9 * magnitude || magnitude < 1e-30 // finer marks would fall together
  const span = isFlat ? (magnitude < 1e-30 ? 1 : magnitude) : high - low
  const power = 10 ** Math.floor(Math.log10(span / count))
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => span / candidate <= count)!
  const first = Math.floor(low / step + 1e-9)
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9))
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)))
}
