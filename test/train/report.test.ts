import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { formatCount, formatNumber } from '../../lib/format.js'
import type { StartEvent, TrainEvent } from '../../lib/train/events.js'
import { TrainingLog } from '../../lib/train/log.js'
import { recipeFacts, shownPath } from '../../lib/train/report/facts.js'
import { renderCurveSvg, writeReport } from '../../lib/train/report/index.js'
import { axisLabels, logTicks, type Point, smooth, thin, ticks } from '../../lib/train/report/series.js'
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

/** The vertices of the first curve of a class, in the drawing's coordinates. */
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

  test('shows the verdict on a run that was all warm-up, and the number of truncated answers', () => {
    const start = { ...startEvent(0, { name: 'slow', warmup_steps: 100 }), truncated_instances: 17 }
    const slow = report('slow', [start, ...stretch(1, 100)])
    expect(slow).toContain('<p class="notice">All warm-up: the warm-up of 100 steps is as long as the run of 100')
    expect(slow).toMatch(/answers cut at max_length<[^\d]*17</)
    expect(html).not.toMatch(/class="notice"|answers cut/)
  })

  test('refers to nothing outside the report', () => {
    expect(html).not.toMatch(/https?:|\/\/[\w.]+\/|<link|@import|url\(|\ssrc=/)
  })

  test('draws each point of the loss at its position', () => {
    const points = vertices(html, 'noise')
    expect(points).toHaveLength(100)
    // The loss falls in a straight line, so the points are as evenly spaced as the steps.
    for (const [i, [x, y]] of points.entries()) {
      expect(x).toBeCloseTo(points[0][0] + (i / 99) * (points[99][0] - points[0][0]), 0)
      expect(y).toBeCloseTo(points[0][1] + (i / 99) * (points[99][1] - points[0][1]), 0)
    }
    expect(points[99][1]).toBeGreaterThan(points[0][1]) // downward
    expect(vertices(html, 'validation')).toHaveLength(10)
  })

  test('keeps grid and curves within each drawing', () => {
    const falling = report(
      'falling',
      [startEvent(), ...stretch(1, 60)].map((event) =>
        event.type === 'step' ? { ...event, loss: 6.7 - 0.08 * event.step } : event,
      ),
    )
    for (const [, drawing] of falling.matchAll(/<svg class="chart"(.*?)<line class="cursor"/gs)) {
      const heights = [...drawing.matchAll(/ (?:y1|y2|y|cy)="([\d.]+)%"/g)].map(([, y]) => Number(y))
      expect(heights.length).toBeGreaterThan(8)
      expect(Math.min(...heights)).toBeGreaterThanOrEqual(0)
      expect(Math.max(...heights)).toBeLessThanOrEqual(100)
      const [, line] = /<path class="line train" d="M([^"]*)"/.exec(drawing)!
      for (const vertex of line.split('L')) {
        const [x, y] = vertex.split(' ').map(Number)
        expect(x >= 0 && x <= 1000 && y >= 0 && y <= 300).toBe(true)
      }
    }
  })

  test('keeps the size of text on screens of any width', () => {
    // A view box on the drawing itself would scale its text.
    const drawings = html.match(/<svg class="chart"[^>]*>/g)!
    expect(drawings).toHaveLength(6)
    for (const drawing of drawings) expect(drawing).not.toContain('viewBox')
  })

  test('uses a logarithmic axis for a loss that falls by a decade or more', () => {
    const halved = [startEvent(), ...stretch(1, 10)].map((event) =>
      event.type === 'step' ? { ...event, loss: 8 / 2 ** event.step } : event,
    )
    const text = report('halved', halved)
    expect(text).toContain('Loss (logarithmic)')
    expect(html).not.toContain('Loss (logarithmic)')
    const heights = vertices(text, 'train').map(([, y]) => y)
    for (const [i, y] of heights.entries()) {
      expect(y - heights[0]).toBeCloseTo((i / 9) * (heights[9] - heights[0]), 0)
    }
    const zero = halved.map((event) => (event.type === 'step' && event.step === 10 ? { ...event, loss: 0 } : event))
    expect(report('zero', zero)).not.toMatch(/Loss \(logarithmic\)|NaN|Infinity/)
  })

  test('summarizes the run', () => {
    const text = html.replace(/<(style|script)>.*?<\/\1>/gs, '').replace(/<[^>]*>/g, '|')
    for (const tile of [
      '100||steps',
      '100k||tokens',
      '2k||tokens per second',
      '50 s||time',
      '2.0300||training loss, last 4 steps',
      '2.5000||validation loss',
      '49.3 %||training token accuracy, last 4 steps',
      '40.0 %||validation token accuracy',
    ]) {
      expect(text).toContain(tile)
    }
    expect(text).toContain('90.0 %||right on new instructions')
    for (const title of ['Loss', 'Token accuracy', 'Learning rate', 'Gradient norm', 'Tokens per second']) {
      expect(text).toContain(`|${title}|`)
    }
    expect(text).toContain('learning_rate||2e-5|')
  })

  test('shows text from the run as text, never as markup', () => {
    expect(html).toContain('a &lt;small&gt; CPU')
    expect(html).toContain('&lt;/script&gt; &amp; &quot;more&quot;')
    expect(html).toContain('&lt;b&gt;late&lt;/b&gt;')
    expect(html.indexOf('late')).toBeLessThan(html.indexOf('early'))
  })

  test('contains the points for the pointer as JSON', () => {
    const [, escaped] = /data-series="([^"]*)"/.exec(html)!
    const [training, validation] = JSON.parse(escaped.replaceAll('&quot;', '"'))
    expect(training[0]).toEqual([1, '3.9800'])
    expect(validation.at(-1)).toEqual([100, '2.5000'])
  })

  test('omits recipe keys without effect', () => {
    const shown = (recipe: Record<string, unknown>, event: Partial<StartEvent> = {}) =>
      recipeFacts({ ...startEvent(0, recipe), ...event }).map(([key]) => key)
    const alone = shown({ validation_size: 0, checkpoint_every: 0, warmup_steps: 5 })
    const absent = ['backend', 'zero_stage', 'prefetch_blocks', 'collective_timeout', 'max_restarts', 'offload']
    absent.push(
      'validation_every',
      'keep_last',
      'keep_checkpoints',
      'checkpoint_in_background',
      'warmup_ratio',
      'warmup_min',
    )
    absent.push('sample_every', 'sample_prompts', 'sample_length', 'resume', 'overwrite', 'threads', 'model')
    expect(alone.filter((key) => absent.includes(key))).toEqual([])
    expect(alone).toEqual(expect.arrayContaining(['learning_rate', 'warmup_steps', 'batch_size', 'seed']))
    const sharded = shown({ validation_size: 0.1, zero_stage: 2, keep_last: 3 }, { world_size: 4 })
    expect(sharded).toEqual(expect.arrayContaining(['zero_stage', 'backend', 'validation_every', 'keep_last']))
    expect(sharded).not.toContain('prefetch_blocks')
  })

  test('shows no directories of this machine', () => {
    const paths = {
      model_path: '/home/alice/models/open_llama_3b/',
      tokenizer_path: join(process.cwd(), 'recipes/quickstart'),
      data_path: '../../private/data.json',
      save_path: 'runs/mine',
    }
    const end: TrainEvent = {
      type: 'end',
      step: 3,
      reason: 'failed',
      seconds: 1,
      message: 'cannot write /home/alice/runs/x/logs/train.jsonl: ENOSPC (see https://example.com/a/b, 4/5)',
    }
    const text = report('paths', [startEvent(0, { name: 'tiny', ...paths }), ...stretch(1, 3), end])
    expect(text).not.toMatch(/alice|private/)
    expect(text).not.toContain(process.cwd())
    expect(text).toContain('<dt>model_path</dt><dd>open_llama_3b</dd>')
    expect(text).toContain('<dt>tokenizer_path</dt><dd>recipes/quickstart</dd>')
    expect(text).toContain('<dt>data_path</dt><dd>data.json</dd>')
    expect(text).toContain('<dt>save_path</dt><dd>runs/mine</dd>')
    expect(text).toContain('cannot write train.jsonl: ENOSPC (see https://example.com/a/b, 4/5)')
    expect(shownPath('openlm-research/open_llama_3b')).toBe('openlm-research/open_llama_3b')
  })

  test('shows that a run failed', () => {
    const failed: TrainEvent = { type: 'end', step: 3, reason: 'failed', seconds: 1, message: 'the loss is NaN' }
    expect(report('failed', [startEvent(), ...stretch(1, 3), failed])).toContain('failed at step 3: the loss is NaN')
    expect(html).not.toContain('class="notice"')
  })

  test('draws a run of one step', () => {
    const one = report('one', [startEvent(), ...stretch(1, 1)])
    expect(one).not.toMatch(/NaN|Infinity/)
  })

  test('throws without any step', () => {
    expect(() => report('none', [startEvent()])).toThrow(/has no training step to report yet/)
  })

  test('shows the loss as a separate figure', () => {
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

  test('smooths curves by the mean of neighboring points', () => {
    const points: Point[] = [8, 0, 4, 2, 6].map((y, x) => [x, y])
    expect(smooth(points, 1, true).map(([, y]) => y)).toEqual([4, 4, 2, 4, 4])
    expect(smooth(points, 1)).toEqual([...points.slice(0, -1), [4, 6]])
    fc.assert(
      fc.property(values, fc.nat(10), fc.boolean(), (ys, radius, steady) => {
        const smoothed = smooth(
          ys.map((y, x): Point => [x, y]),
          radius,
          steady,
        )
        for (const [x, y] of smoothed) {
          const reach = steady ? radius : Math.min(radius, Math.floor(x / 8))
          const window = ys.slice(Math.max(0, x - reach), x + reach + 1)
          const mean = window.reduce((sum, value) => sum + value, 0) / window.length
          expect(y).toBeCloseTo(mean, 5)
        }
      }),
      { seed: 6 },
    )
  })

  test('keeps the smoothed curve among the points when the loss falls steeply at the start', () => {
    const falls = [
      (i: number) => 7.5 / (1 + i),
      (i: number) => 0.1 + 7.5 * Math.exp(-i / 20),
      (i: number) => 8 - i / 200,
    ]
    for (const fall of falls) {
      const points = Array.from({ length: 1200 }, (_, i): Point => [i, fall(i)])
      for (const [x, y] of smooth(points, 40).slice(0, 600)) expect(Math.abs(y / fall(x) - 1)).toBeLessThan(0.03)
    }
  })

  test('keeps extremes when it thins curves', () => {
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

  test('picks round tick marks that span the curve', () => {
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

  test('picks logarithmic tick marks that span the curve', () => {
    expect(logTicks(0.03, 7.5)).toEqual([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10])
    expect(logTicks(0.016, 7.5)).toEqual([0.01, 0.03, 0.1, 0.3, 1, 3, 10])
    expect(logTicks(1e-9, 1e3)).toEqual([1e-9, 1e-7, 1e-5, 1e-3, 0.1, 10, 1000])
    const exponent = fc.double({ min: -12, max: 12, noNaN: true })
    fc.assert(
      fc.property(exponent, exponent, (a, b) => {
        const [low, high] = [10 ** Math.min(a, b), 10 ** Math.max(a, b)]
        const marks = logTicks(low, high * 10)
        expect(marks[0]).toBeLessThanOrEqual(low * (1 + 1e-6))
        expect(marks.at(-1)).toBeGreaterThanOrEqual(high * 10 * (1 - 1e-6))
        expect(marks.length).toBeGreaterThanOrEqual(2)
        expect(marks.length).toBeLessThanOrEqual(9)
      }),
      { seed: 9 },
    )
  })

  test('prints tick marks with the same number of decimals', () => {
    expect(axisLabels([0, 0.5, 1, 1.5], String)).toEqual(['0', '0.5', '1.0', '1.5'])
    expect(axisLabels([500, 1000, 1500], formatCount)).toEqual(['500', '1.0k', '1.5k'])
    expect(axisLabels([1e-5, 1.5e-5], formatNumber)).toEqual(['1.0e-5', '1.5e-5'])
    expect(axisLabels([0.1, 1], String, true)).toEqual(['0.1', '1'])
  })
})
