/** A point of a curve: the optimizer step and its value. */
export type Point = readonly [x: number, y: number]

/**
 * The mean over a window of neighbors on both sides, so that a smoothed curve does not lag. A loss falls steeply at
 * first, and a mean over a wide window would lie above every point there, so the window is at most an eighth of the
 * steps so far on each side. At the end it keeps its earlier half. A `steady` curve, such as a speed, uses the full
 * window from the start, cut at the first point.
 */
export function smooth(points: readonly Point[], radius: number, steady = false): Point[] {
  const sums = [0]
  for (const [, y] of points) sums.push(sums[sums.length - 1] + y)
  return points.map(([x], i) => {
    const reach = steady ? radius : Math.min(radius, i >> 3)
    const first = Math.max(0, i - reach)
    const last = Math.min(i + reach, points.length - 1)
    return [x, (sums[last + 1] - sums[first]) / (last + 1 - first)]
  })
}

/** The window of `smooth` for a curve of `points` points: a thirtieth of them on each side. */
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
  const isFlat = high - low <= 1e-9 * magnitude || magnitude < 1e-30 // finer marks would coincide
  const span = isFlat ? (magnitude < 1e-30 ? 1 : magnitude) : high - low
  const power = 10 ** Math.floor(Math.log10(span / count))
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => span / candidate <= count)!
  const first = Math.floor(low / step + 1e-9)
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9))
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)))
}

/** Marks of a logarithmic axis from at most `low` to at least `high`, both above 0: the finest set of about eight. */
export function logTicks(low: number, high: number): number[] {
  for (const mantissas of [[1, 2, 5], [1, 3], [1]]) {
    const marks = logMarks(low, high, mantissas)
    if (marks.length <= 9) return marks
  }
  const decades = logMarks(low, high, [1])
  const stride = Math.ceil((decades.length - 1) / 7)
  const [first] = decades
  const count = Math.ceil((decades.length - 1) / stride) + 1
  return Array.from({ length: count }, (_, i) => Number((first * 10 ** (i * stride)).toPrecision(12)))
}

/** The mantissas times powers of ten that span `low` to `high`, with one mark at or beyond each end. */
function logMarks(low: number, high: number, mantissas: readonly number[]): number[] {
  const marks: number[] = []
  for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.log10(high) + 1; power++) {
    for (const mantissa of mantissas) marks.push(Number((mantissa * 10 ** power).toPrecision(12)))
  }
  const first = marks.filter((mark) => mark <= low * (1 + 1e-9)).length - 1
  const last = marks.findIndex((mark) => mark >= high * (1 - 1e-9))
  return marks.slice(first, last + 1)
}

/**
 * The labels of an axis's marks: on a linear axis, labels with the same unit (`0.5`, `1.0`; `1.5k`, `2.0k`) have the
 * same decimals.
 */
export function axisLabels(values: readonly number[], format: (value: number) => string, isLog = false): string[] {
  const texts = values.map(format)
  if (isLog) return texts
  const parts = texts.map((text) => /^(-?\d+)(?:\.(\d+))?(.*)$/s.exec(text))
  const decimals = new Map<string, number>()
  for (const part of parts) {
    if (part) decimals.set(part[3], Math.max(decimals.get(part[3]) ?? 0, part[2]?.length ?? 0))
  }
  return texts.map((text, i) => {
    const part = parts[i]
    const digits = part ? decimals.get(part[3])! : 0
    if (!part || digits === 0 || text === '0') return text
    return `${part[1]}.${(part[2] ?? '').padEnd(digits, '0')}${part[3]}`
  })
}
