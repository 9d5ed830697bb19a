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
 * Writes every event as a line of JSON to `<directory>/train.jsonl`, at once, so that a killed run loses nothing.
 *
 * A resumed run goes on in the same file, and what an earlier one wrote after the checkpoint is dropped, so the log
 * reads like that of one run. A new run in a used directory moves the old log aside, to train.1.jsonl and so on.
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
 * Reads a log back. A last line that was cut short by a crash is left out.
 *
 * @throws DataError when the file cannot be read, or another line is not an event
 */
export function readTrainingLog(path: string): TrainEvent[] {
  let lines: string[]
  try {
    lines = readFileSync(path, 'utf8').split('\n')
  } catch (cause) {
    throw new DataError(`cannot read the training log ${path}: ${(cause as NodeJS.ErrnoException).code}`, { cause })
  }
  lines.pop() // what follows the last line break: nothing, or a line cut short
  return lines.map((line, i) => {
    try {
      const event = JSON.parse(line)
      if (typeof event.type === 'string' && typeof event.step === 'number') return event as TrainEvent
    } catch {}
    throw new DataError(`${path}:${i + 1} is not a record of a training log`)
  })
}
