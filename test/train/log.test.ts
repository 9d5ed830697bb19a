import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { TrainEvent } from '../../lib/train/events.js'
import { readTrainingLog, TrainingLog, trainingLogPath } from '../../lib/train/log.js'
import { startEvent, stepEvent, stretch } from './run.js'

let directory: string
beforeEach(() => {
  directory = join(mkdtempSync(join(tmpdir(), 'log-')), 'logs')
})
afterEach(() => rmSync(join(directory, '..'), { recursive: true }))

function write(events: TrainEvent[]): void {
  const log = new TrainingLog(directory)
  for (const event of events) log.handle(event)
  log.close()
}

const steps = () => readTrainingLog(trainingLogPath(directory)).map(({ type, step }) => `${type} ${step}`)

describe('the training log', () => {
  test('writes each event immediately as a line of JSON', () => {
    const log = new TrainingLog(directory)
    const events = [startEvent(), ...stretch(1, 3)]
    for (const [i, event] of events.entries()) {
      log.handle(event)
      const lines = readFileSync(log.path, 'utf8').split('\n')
      expect(lines).toHaveLength(i + 2)
      expect(JSON.parse(lines[i])).toEqual(JSON.parse(JSON.stringify(event)))
    }
    log.close()
  })

  test('continues the log of a resumed run after the checkpoint, as if it had never been interrupted', () => {
    write([startEvent(), ...stretch(1, 25)])
    write([startEvent(20), ...stretch(21, 30)])
    const events = readTrainingLog(trainingLogPath(directory))
    const numbers = events.filter(({ type }) => type === 'step').map(({ step }) => step)
    expect(numbers).toEqual(Array.from({ length: 30 }, (_, i) => i + 1))
    expect(events.filter(({ type }) => type === 'validation').map(({ step }) => step)).toEqual([10, 20, 30])
    expect(events.filter(({ type }) => type === 'start').map(({ step }) => step)).toEqual([0, 20])
  })

  test('drops a line that a crash cut short', () => {
    write([startEvent(), ...stretch(1, 5)])
    const path = trainingLogPath(directory)
    truncateSync(path, readFileSync(path).length - 20)
    expect(steps().at(-1)).toBe('step 4')
    write([startEvent(3), stepEvent(4)])
    expect(steps()).toEqual(['start 0', 'step 1', 'step 2', 'step 3', 'start 3', 'step 4'])
  })

  test('keeps the log of an earlier run when a new run replaces it', () => {
    write([startEvent(), ...stretch(1, 3)])
    write([startEvent(), ...stretch(1, 2)])
    write([startEvent(), stepEvent(1)])
    expect(steps()).toEqual(['start 0', 'step 1'])
    expect(readdirSync(directory).sort()).toEqual(['train.1.jsonl', 'train.2.jsonl', 'train.jsonl'])
    expect(readTrainingLog(join(directory, 'train.1.jsonl'))).toHaveLength(4)
    expect(readTrainingLog(join(directory, 'train.2.jsonl'))).toHaveLength(3)
  })

  test('rejects a line that is not an event, with its number', () => {
    write([startEvent()])
    appendFileSync(trainingLogPath(directory), '{"loss": 1}\n{}\n')
    expect(steps).toThrow(/train\.jsonl:2 is not a record/)
  })

  test('throws when the log is missing', () => {
    expect(steps).toThrow(/cannot read the training log .*ENOENT/)
  })

  test('names the log file that cannot be written', () => {
    writeFileSync(directory, 'a file in the place of the directory')
    expect(() => write([startEvent()])).toThrow(expect.objectContaining({ code: 'LOG_FAILED' }))
  })
})
