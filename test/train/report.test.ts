import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { TrainEvent } from '../../lib/train/events.js'
import { TrainingLog } from '../../lib/train/log.js'
import { renderCurveSvg, writeReport } from '../../lib/train/report/index.js'
import { type Point, smooth, thin, ticks } from '../../lib/train/report/series.js'
import { startEvent, stretch } from './run.js'

const directory = mkdtempSync(join(tmpdir(), 'report-'))
afterAll(() => rmSync(directory, { recursive: true }))

function logOf(name: string, events: TrainEvent[]): string {
  const log = new TrainingLog(join(directory, name))
  for (const event of events) log.handle(event)
  log.close()
  return log.path
}

function report(name: string, events: TrainEvent[]): string {
  const html = join(directory, `${name}.html`)
  writeReport(logOf(name, events), html)
  return readFileSync(html, 'utf8')
}

/** The vertices of the first curve of a class, in the drawing's own units. */
function vertices(markup: string, className: string): number[][] {
  const path = new RegExp(`<path class="line ${className}" d="M([^"]*)"`).exec(markup)![1]
  return path.split('L').map((vertex) => vertex.split(' ').map(Number))
}

const run: TrainEvent[] = [
  startEvent(),
  ...stretch(1, 100),
  { type: 'sample', step: 50, instruction: '</script> & "more"', output: 'early' },
  { type: 'sample', step: 100, instruction: '</script> & "more"', output: '<b>late</b>' },
  { type: 'evaluation', step: 100, correct: 9, total: 10, skills: [] },
  { type: 'end', step: 100, reason: 'completed', seconds: 60 },
]

describe('the report', () => {
  let html: string
  beforeAll(() => {
    html = report('whole', run)
  })

  test('refers to nothing outside itself', () => {
    expect(html).not.toMatch(/https?:|\/\/[\w.]+\/|<link|@import|url\(|\ssrc=/)
  })

  test('draws each point of the loss where it belongs', () => {
    const points = vertices(html, 'noise')
    expect(points).toHaveLength(100)
    // The loss falls in a straight line, so the drawn points are as evenly spaced as the steps.
    for (const [i, [x, y]] of points.entries()) {
      expect(x).toBeCloseTo(points[0][0] + (i / 99) * (points[99][0] - points[0][0]), 0)
      expect(y).toBeCloseTo(points[0][1] + (i / 99) * (points[99][1] - points[0][1]), 0)
    }
    expect(points[99][1]).toBeGreaterThan(points[0][1]) // downwards
    expect(vertices(html, 'validation')).toHaveLength(10)
  })

  test('keeps grid and curves within each drawing', () => {
    const falling = report(
      'falling',
      [startEvent(), ...stretch(1, 60)].map((event) =>
        event.type === 'step' ? { ...event, loss: 6.7 - 0.08 * event.step } : event,
      ),
    )
    for (const [, height, drawing] of falling.matchAll(/viewBox="0 0 \d+ (\d+)"(.*?)<\/svg>/gs)) {
      const heights = [...drawing.matchAll(/ (?:y1|y2|y|cy)="([^"]+)"/g)].map(([, y]) => Number(y))
      expect(heights.length).toBeGreaterThan(8)
      expect(Math.min(...heights)).toBeGreaterThanOrEqual(0)
      expect(Math.max(...heights)).toBeLessThanOrEqual(Number(height))
    }
  })

  test('sums the run up', () => {
    const text = html.replace(/<(style|script)>.*?<\/\1>/gs, '').replace(/<[^>]*>/g, '|')
    for (const tile of [
      '100 / 100||steps',
      '100k||tokens',
      '2k||tokens per second',
      '50 s||time',
      '2.5||validation loss',
    ]) {
      expect(text).toContain(tile)
    }
    expect(text).toContain('90.0 %||right on new instructions')
    for (const title of ['Loss', 'Token accuracy', 'Learning rate', 'Gradient norm', 'Tokens per second']) {
      expect(text).toContain(`|${title}|`)
    }
    expect(text).toContain('learning_rate||2e-5|')
  })

  test('shows what the run wrote as text, never as markup', () => {
    expect(html).toContain('a &lt;small&gt; CPU')
    expect(html).toContain('&lt;/script&gt; &amp; &quot;more&quot;')
    expect(html).toContain('&lt;b&gt;late&lt;/b&gt;')
    expect(html.indexOf('late')).toBeLessThan(html.indexOf('early'))
  })

  test('carries the points for the pointer as JSON', () => {
    const [, escaped] = /data-series="([^"]*)"/.exec(html)!
    const [training, validation] = JSON.parse(escaped.replaceAll('&quot;', '"'))
    expect(training[0]).toEqual([1, '3.98'])
    expect(validation.at(-1)).toEqual([100, '2.5'])
  })

  test('of a run that failed says so', () => {
    const failed: TrainEvent = { type: 'end', step: 3, reason: 'failed', seconds: 1, message: 'the loss is NaN' }
    expect(report('failed', [startEvent(), ...stretch(1, 3), failed])).toContain('failed at step 3: the loss is NaN')
    expect(html).not.toContain('class="notice"')
  })

  test('of a run of one step is drawn too', () => {
    const one = report('one', [startEvent(), ...stretch(1, 1)])
    expect(one).not.toMatch(/NaN|Infinity/)
  })

  test('needs at least one step', () => {
    expect(() => report('none', [startEvent()])).toThrow(/has no training step to report yet/)
  })

  test('has the loss as a figure of its own', () => {
    const svg = renderCurveSvg(logOf('figure', run), { title: 'Loss & more', width: 640, height: 320 })
    expect(svg).toMatch(/^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" [^>]*viewBox="0 0 640 320"/)
    expect(svg.match(/https?:/g)).toHaveLength(1)
    expect(svg).toContain('<title>Loss &amp; more</title>')
    for (const [x, y] of vertices(svg, 'train')) {
      expect(x).toBeGreaterThan(0)
      expect(x).toBeLessThan(640)
      expect(y).toBeGreaterThan(0)
      expect(y).toBeLessThan(320)
    }
  })
})

describe('curves', () => {
  const values = fc.array(fc.double({ min: -1e6, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 60 })

  test('are smoothed by the mean of their neighbours', () => {
    const points: Point[] = [8, 0, 4, 2, 6].map((y, x) => [x, y])
    expect(smooth(points, 1)).toEqual([
      [0, 8],
      [1, 4],
      [2, 2],
      [3, 4],
      [4, 4],
    ])
    fc.assert(
      fc.property(values, fc.nat(10), (ys, radius) => {
        const smoothed = smooth(
          ys.map((y, x): Point => [x, y]),
          radius,
        )
        for (const [x, y] of smoothed) {
          const window = ys.slice(x - Math.min(radius, x), x + Math.min(radius, x) + 1)
          const mean = window.reduce((sum, value) => sum + value, 0) / window.length
          expect(y).toBeCloseTo(mean, 5)
        }
      }),
      { seed: 6 },
    )
  })

  test('keep their extremes when they are thinned', () => {
    fc.assert(
      fc.property(values, fc.integer({ min: 2, max: 20 }), (ys, limit) => {
        const points = ys.map((y, x): Point => [x, y])
        const kept = thin(points, limit)
        const heights = kept.map(([, y]) => y)
        expect(Math.max(...heights)).toBe(Math.max(...ys))
        expect(Math.min(...heights)).toBe(Math.min(...ys))
        expect(kept.length).toBeLessThanOrEqual(limit + 2)
        for (const [i, [x]] of kept.entries()) if (i > 0) expect(x).toBeGreaterThan(kept[i - 1][0])
      }),
      { seed: 7 },
    )
  })

  test('have round marks that span them', () => {
    expect(ticks(0.3, 4.2, 5)).toEqual([0, 1, 2, 3, 4, 5])
    expect(ticks(0, 2e-5, 5)).toEqual([0, 5e-6, 1e-5, 1.5e-5, 2e-5])
    const number = fc.double({ min: -1e9, max: 1e9, noNaN: true })
    fc.assert(
      fc.property(number, number, (a, b) => {
        const [low, high] = [Math.min(a, b), Math.max(a, b)]
        const marks = ticks(low, high, 5)
        const slack = 1e-6 * Math.max(Math.abs(low), Math.abs(high)) + 1e-29
        expect(marks[0]).toBeLessThanOrEqual(low + slack)
        expect(marks.at(-1)).toBeGreaterThanOrEqual(high - slack)
        expect(marks.length).toBeGreaterThanOrEqual(2)
        expect(marks.length).toBeLessThanOrEqual(8)
      }),
      { seed: 8 },
    )
  })
})
