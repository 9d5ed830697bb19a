import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { frameRecord, TensorBoardWriter } from '../../lib/train/tensorboard.js'
import { startEvent, stepEvent } from './run.js'

const directory = mkdtempSync(join(tmpdir(), 'tensorboard-'))
afterAll(() => rmSync(directory, { recursive: true }))

/** CRC-32C one bit at a time, from its definition. */
function slowCrc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    for (let bit = 0; bit < 8; bit++) {
      const isOdd = ((crc ^ (byte >>> bit)) & 1) === 1
      crc = (crc >>> 1) ^ (isOdd ? 0x82f63b78 : 0)
    }
  }
  return ~crc >>> 0
}

function masked(bytes: Uint8Array): number {
  const crc = BigInt(slowCrc32c(bytes))
  return Number((((crc >> 15n) | (crc << 17n)) + 0xa282ead8n) & 0xffffffffn)
}

/** The records of a TFRecord file; throws if a length or a checksum is wrong. */
function records(file: Buffer): Buffer[] {
  const found: Buffer[] = []
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at))
    expect(file.readUInt32LE(at + 8)).toBe(masked(file.subarray(at, at + 8)))
    const data = file.subarray(at + 12, at + 12 + length)
    expect(file.readUInt32LE(at + 12 + length)).toBe(masked(data))
    found.push(data)
    at += 16 + length
  }
  return found
}

type Field = bigint | number | Buffer

/** The fields of a protobuf message: number → values in order. */
function decode(message: Buffer): Map<number, Field[]> {
  const fields = new Map<number, Field[]>()
  let at = 0
  const varint = (): bigint => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++]
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
  }
  const read = (type: number): Field => {
    if (type === 0) return varint()
    const size = type === 1 ? 8 : type === 5 ? 4 : Number(varint())
    at += size
    if (type === 1) return message.readDoubleLE(at - size)
    if (type === 5) return message.readFloatLE(at - size)
    expect(type).toBe(2)
    expect(at).toBeLessThanOrEqual(message.length)
    return message.subarray(at - size, at)
  }
  while (at < message.length) {
    const key = Number(varint())
    fields.set(key >>> 3, [...(fields.get(key >>> 3) ?? []), read(key & 7)])
  }
  return fields
}

const inner = (fields: Map<number, Field[]>, number: number) => decode(fields.get(number)![0] as Buffer)
const string = (field: Field) => (field as Buffer).toString()

describe('TensorBoard events', () => {
  test('frames TensorBoard events as TFRecords', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 300 })), (parts) => {
        const read = records(Buffer.concat(parts.map(frameRecord)))
        expect(read.map((part) => [...part])).toEqual(parts.map((part) => [...part]))
      }),
      { seed: 5, numRuns: 30 },
    )
  })

  test('writes the scalars and answers of a run', () => {
    const writer = new TensorBoardWriter(directory)
    writer.handle(startEvent(300))
    writer.handle({ ...stepEvent(302), loss: 1.5 })
    writer.handle({ type: 'validation', step: 302, loss: 2.25, token_accuracy: 0.5 })
    writer.handle({ type: 'sample', step: 302, instruction: 'Hello?', output: 'Grüße ♥' })
    writer.handle({ type: 'evaluation', step: 302, correct: 3, total: 4, skills: [] })
    writer.close()

    const [name] = readdirSync(directory)
    expect(name).toMatch(/^events\.out\.tfevents\.\d+/)
    const [version, session, step, validation, sample, evaluation] = records(readFileSync(join(directory, name))).map(
      decode,
    )
    for (const event of [version, session, step]) {
      expect(Math.abs((event.get(1)![0] as number) - Date.now() / 1000)).toBeLessThan(3600)
    }
    expect(string(version.get(3)![0])).toBe('brain.Event:2')
    // A session start at the next step hides what an earlier run wrote after the checkpoint.
    expect(session.get(2)).toEqual([301n])
    expect(inner(session, 7).get(1)).toEqual([1n])

    const scalars = (event: Map<number, Field[]>) =>
      Object.fromEntries(
        inner(event, 5)
          .get(1)!
          .map((value) => decode(value as Buffer))
          .map((value) => [string(value.get(1)![0]), value.get(2)![0]]),
      )
    expect(step.get(2)).toEqual([302n])
    expect(scalars(step)).toEqual({
      'train/loss': 1.5,
      'train/token_accuracy': Math.fround(302 / 200),
      'train/grad_norm': 3,
      'train/learning_rate': Math.fround(1e-4),
      'throughput/tokens_per_second': 2000,
      'throughput/utilization': Math.fround(0.4),
    })
    expect(scalars(validation)).toEqual({ 'validation/loss': 2.25, 'validation/token_accuracy': 0.5 })
    expect(scalars(evaluation)).toEqual({ 'evaluation/accuracy': 0.75 })

    const text = inner(inner(sample, 5), 1)
    expect(string(text.get(1)![0])).toBe('sample/Hello?')
    expect(string(inner(inner(text, 9), 1).get(1)![0])).toBe('text') // the plugin that shows it
    expect(inner(text, 8).get(1)).toEqual([7n]) // DT_STRING
    expect(string(inner(text, 8).get(8)![0])).toBe('Grüße ♥')
  })
})
