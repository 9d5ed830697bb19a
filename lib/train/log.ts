import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { DataError, OpenAlpacaError } from '../errors.js'
import type { TrainEvent, TrainSubscriber } from './events.js'

const fileName = 'train.jsonl'

/** The path of the log in a log directory. */
export function trainingLogPath(directory: string): string {
  return join(directory, fileName)
}

/**
 * Appends every event as a line of JSON to `<directory>/train.jsonl` at once, so that a killed run loses nothing.
 *
 * A resumed run continues the same file and drops the events after its checkpoint, so that the log reads like that of
 * one run. A new run in a used directory first renames the old log to train.1.jsonl and so on.
 */
export class TrainingLog implements TrainSubscriber {
  readonly path: string
  private file: number | undefined

  constructor(private readonly directory: string) {
    this.path = trainingLogPath(directory)
  }

  handle(event: TrainEvent): void {
    try {
      if (event.type === 'start') this.open(event.step)
      if (this.file === undefined) throw new Error('the first event must be a start')
      writeSync(this.file, `${JSON.stringify(event)}\n`)
    } catch (cause) {
      throw new OpenAlpacaError('LOG_FAILED', `cannot write ${this.path}: ${(cause as Error).message}`, { cause })
    }
  }

  close(): void {
    if (this.file !== undefined) closeSync(this.file)
    this.file = undefined
  }

  private open(resumedStep: number): void {
    this.close()
    mkdirSync(this.directory, { recursive: true })
    if (existsSync(this.path)) {
      if (resumedStep > 0) dropAfter(this.path, resumedStep)
      else renameSync(this.path, unusedName(this.directory))
    }
    this.file = openSync(this.path, 'a')
  }
}

function dropAfter(path: string, step: number): void {
  const kept = readTrainingLog(path).filter((event) => event.step <= step)
  const partial = `${path}.partial`
  writeFileSync(partial, kept.map((event) => `${JSON.stringify(event)}\n`).join(''))
  renameSync(partial, path)
}

function unusedName(directory: string): string {
  for (let i = 1; ; i++) {
    const path = join(directory, fileName.replace('.', `.${i}.`))
    if (!existsSync(path)) return path
  }
}

/**
 * Reads a log, without a last line that a crash cut short.
 * @throws {DataError} for a file that cannot be read, or another line that is not an event
 */
export function readTrainingLog(path: string): TrainEvent[] {
  let lines: string[]
  try {
    lines = readFileSync(path, 'utf8').split('\n')
  } catch (cause) {
    throw new DataError(`cannot read the training log ${path}: ${(cause as NodeJS.ErrnoException).code}`, { cause })
  }
  lines.pop() // after the last line break: nothing, or an incomplete line
  return lines.map((line, i) => {
    try {
      const event = JSON.parse(line)
      if (typeof event.type === 'string' && typeof event.step === 'number') return event as TrainEvent
    } catch {}
    throw new DataError(`${path}:${i + 1} is not a record of a training log`)
  })
}
