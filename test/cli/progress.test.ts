import { PassThrough } from 'node:stream'
import { describe, expect, test, vi } from 'vitest'
import { ProgressDisplay } from '../../lib/cli/progress.js'
import type { TrainEvent } from '../../lib/train/events.js'
import { startEvent, stepEvent } from '../train/run.js'

/** A stream that keeps its output, as a terminal of a given width or as a file. */
function capture(columns?: number): { stream: NodeJS.WriteStream; text: () => string } {
  const stream = new PassThrough({ encoding: 'utf8' })
  let text = ''
  stream.on('data', (part) => {
    text += part
  })
  const terminal = { isTTY: true, columns, hasColors: () => false, getWindowSize: () => [columns, 40] }
  return {
    stream: Object.assign(stream, columns === undefined ? {} : terminal) as unknown as NodeJS.WriteStream,
    text: () => text,
  }
}

const ESC = '\u001b'
/** A control sequence with its first number and its letter, or any other character. */
const outputPart = new RegExp(`${ESC}\\[\\??(\\d*)(?:;\\d+)?([A-Za-z])|[^${ESC}]`, 'gu')

/** The lines that a terminal shows after `output`: line feeds, columns, moving up, clearing. */
function screen(output: string): string[] {
  const lines = ['']
  let [row, column] = [0, 0]
  for (const [part, count, command] of output.matchAll(outputPart)) {
    if (part === '\n') {
      row++
      column = 0
      lines[row] ??= ''
    } else if (part === '\r') column = 0
    else if (command === 'G') column = Number(count || 1) - 1
    else if (command === 'A') row -= Number(count || 1)
    else if (command === 'K') lines[row] = count === '2' ? '' : lines[row].slice(0, column)
    else if (command === 'J') lines.splice(row + 1)
    else if (command === undefined) {
      lines[row] = lines[row].padEnd(column).slice(0, column) + part + lines[row].slice(column + 1)
      column++
    }
  }
  return lines.map((line) => line.trimEnd())
}

const run: TrainEvent[] = [
  { ...startEvent(0, { name: 'tiny', log_every: 2, max_length: 64 }), truncated_instances: 1 },
  stepEvent(1),
  stepEvent(2),
  { type: 'validation', step: 2, loss: 1.25, token_accuracy: 0.5 },
  { type: 'sample', step: 2, instruction: 'Say it.', input: 'it', output: 'first\nsecond\x1b[31m' },
  { type: 'checkpoint', step: 2, path: 'save/checkpoint-2', bytes: 8.4e6, seconds: 0.25 },
  stepEvent(3),
  { type: 'evaluation', step: 3, correct: 3, total: 4, skills: [{ skill: 'addition', correct: 3, total: 4 }] },
  { type: 'end', step: 3, reason: 'stopped', seconds: 61 },
]
const messages = [
  'tiny: 4.2M parameters in float32 on a <small> CPU',
  '400 instances, 20 held out for validation, 100 steps of 64',
  '3 instances skipped: their prompts fill max_length 64',
  '1 of 420 answers cut at max_length 64: without their end token, the model learns less when to stop',
  'step 2: validation loss 1.2500, token accuracy 50.0 %',
  'step 2: Say it. it',
  '  first',
  '  second␛[31m',
  'step 2: checkpoint save/checkpoint-2 (8.4 MB, 0.3 s)',
  'step 3: 3 of 4 new instructions right (75.0 %)',
  '  addition                 3 of 4',
  'stopped; continue with --resume (step 3, 1 min 01 s)',
]

describe('the progress of a run', () => {
  test('progress is plain lines without a terminal', () => {
    const { stream, text } = capture()
    const display = new ProgressDisplay(stream)
    for (const event of run) display.handle(event)
    display.close()
    expect(text()).not.toContain(ESC)
    expect(text()).not.toContain('\r')
    const lines = text().trimEnd().split('\n')
    const steps = lines.filter((line) => /^step \d+\/100 /.test(line))
    expect(lines.filter((line) => !steps.includes(line))).toEqual(messages)
    expect(steps.map((line) => Number.parseInt(line.slice(5), 10))).toContain(2)
    expect(steps.at(-1)).toMatch(/^step 2\/100 {2}loss 3\.9600 {2}acc 1\.0 % {2}2k tok\/s .*40\.0 % of peak/)
  })

  test('progress on a terminal is a bar, below messages that stay intact', () => {
    const { stream, text } = capture(100)
    const display = new ProgressDisplay(stream)
    for (const event of run) display.handle(event)
    display.close()
    const lines = screen(text()).filter((line) => line !== '')
    const bars = lines.filter((line) => /[█░]/.test(line))
    expect(bars).toHaveLength(1)
    expect(bars[0]).toMatch(/^ +3 % █?░+ 3\/100 +· loss 3\.9400 · acc 1\.5 % · 2k tok\/s/)
    expect(lines.filter((line) => !bars.includes(line))).toEqual(messages)
    expect(text().lastIndexOf(`${ESC}[?25h`)).toBeGreaterThan(text().lastIndexOf(`${ESC}[?25l`)) // cursor visible again
  })

  test('the progress bar is never wider than the terminal', () => {
    for (const columns of [40, 60, 80, 200]) {
      const { stream, text } = capture(columns)
      const display = new ProgressDisplay(stream)
      for (const event of run.slice(0, 3)) display.handle(event)
      display.close()
      const bars = screen(text()).filter((line) => /[█░]/.test(line))
      expect(bars[0].length).toBeLessThanOrEqual(columns)
    }
  })

  test('the progress bar keeps its columns while numbers become shorter and longer', () => {
    const display = new ProgressDisplay(capture(120).stream)
    display.handle(run[0]!)
    const bar = (step: number, tokens_per_second: number, token_accuracy: number) =>
      // biome-ignore lint/complexity/useLiteralKeys: private, and drawn only a few times per second
      display['barLine'](step / 100, { ...stepEvent(step), tokens_per_second, token_accuracy, utilization: 0.4 })
    const bars = [bar(9, 12_345, 0.1), bar(10, 2000, 0.05), bar(11, 9999, 0.0996)]
    display.close()
    const columns = bars.map((bar) => [' loss ', ' acc ', ' of peak', '░ '].map((text) => bar.indexOf(text)))
    expect(columns[0]!.every((column) => column > 0)).toBe(true)
    expect(columns).toEqual([columns[0], columns[0], columns[0]])
  })

  test('the remaining time is in integral units, and omitted until it is known', () => {
    const { stream, text } = capture()
    const display = new ProgressDisplay(stream)
    vi.useFakeTimers({ toFake: ['performance'] })
    try {
      display.handle(startEvent(0, { log_every: 1 }))
      for (const [step, milliseconds] of [
        [98, 2600],
        [99, 2600],
        [100, 1],
      ] as const) {
        vi.advanceTimersByTime(milliseconds)
        display.handle(stepEvent(step))
      }
    } finally {
      vi.useRealTimers()
    }
    display.close()
    const shown = text().match(/\d+ s left|about to end|\d\.\d s left/g)
    expect(shown).toEqual(['5 s left', '3 s left', 'about to end'])
  })
})
