import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { alpacaChatTemplate } from '../../lib/data/chat-template.js'
import { readDataset } from '../../lib/data/instructions.js'
import { fileSource } from '../../lib/data/text-file.js'
import { DataError } from '../../lib/errors.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import type { StartEvent, TrainEvent } from '../../lib/train/events.js'
import { Trainer, type TrainerOptions } from '../../lib/train/trainer.js'
import { fixtures } from '../support/fixtures.js'

const rows = [
  { instruction: 'Summarize.', context: 'Alpacas hum.', output: 'Humming.', system: 'Be brief.' },
  { instruction: 'Summarize.', input: 'Alpacas eat.', response: 'Eating.' },
  { instruction: 'Say nothing.', response: '' },
]

let tokenizer: LlamaTokenizer
let scratch: string

beforeAll(async () => {
  scratch = mkdtempSync(path.join(tmpdir(), 'trainer-data-'))
  tokenizer = await LlamaTokenizer.fromPretrained(path.join(fixtures, 'd100'))
})
afterAll(() => rmSync(scratch, { recursive: true }))

const newModel = () => LlamaForCausalLM.fromPretrained(path.join(fixtures, 'd100'), { device: 'cpu', dtype: 'float32' })

/** Trains a new copy of the model for one step; returns the start event, the loss, and the warnings of the process. */
async function train(
  options: Partial<TrainerOptions>,
): Promise<{ start: StartEvent; loss: number; warnings: string[] }> {
  const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
  try {
    using model = await newModel()
    const fixed = { batchSize: 3, epochs: 1, maxSteps: 1, maxLength: 224, warmupSteps: 0 }
    const events: TrainEvent[] = []
    const trainer = new Trainer({ model, tokenizer, ...fixed, ...options })
    const { loss } = await trainer.train({ subscribers: [{ handle: (event) => void events.push(event), close() {} }] })
    const start = events.find((event): event is StartEvent => event.type === 'start')!
    return { start, loss, warnings: warn.mock.calls.map(([message]) => String(message)) }
  } finally {
    warn.mockRestore()
  }
}

describe('the data of a trainer', () => {
  const plain = [
    { instruction: 'Summarize.', input: 'Alpacas hum.', output: 'Humming.' },
    { instruction: 'Summarize.', input: 'Alpacas eat.', output: 'Eating.' },
    { instruction: 'Say nothing.', input: '', output: '' },
  ]
  const notes = [
    'fields that are not used: "system" (1 row)',
    '1 row with an empty answer, which teaches the end token alone: row 3',
  ]

  it('warns about unused data, unless the program has shown the notes', async () => {
    const fromRows = await train({ data: rows })
    expect(fromRows.start).toMatchObject({ unused_fields: { system: 1 }, empty_answers: 1 })
    expect(fromRows.warnings).toEqual(notes)
    expect(tokenizer.chatTemplate).toBe(alpacaChatTemplate) // of the model that is saved after training

    const dataPath = path.join(scratch, 'rows.jsonl')
    writeFileSync(dataPath, rows.map((row) => JSON.stringify(row)).join('\n'))
    const dataset = await readDataset(fileSource(dataPath))
    expect(dataset.rows).toEqual(plain)
    expect(dataset.notes.lines()).toEqual(notes)
    const shown = await train({ data: dataset.rows, notes: dataset.notes })
    expect(shown.start).toMatchObject({ unused_fields: { system: 1 }, empty_answers: 1 })
    expect(shown.warnings).toEqual([])
    expect(shown.loss).toBe(fromRows.loss)
  })

  it('rejects a row that is not an instruction, before training starts', async () => {
    using model = await newModel()
    const bad = [...plain, { instruction: 'a', input: 'b', context: 'c', output: 'd' }]
    expect(() => new Trainer({ model, tokenizer, data: bad })).toThrow(DataError)
    expect(() => new Trainer({ model, tokenizer, data: bad })).toThrow('data: row 4 (index 3): "input" and "context"')
  })
})
