import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { crc32c } from '../io/crc.js'
import type { TrainEvent, TrainSubscriber } from './events.js'

/**
 * Writes the curves and sample answers of a run as a TensorBoard event file.
 *
 * The file is a sequence of TFRecords (tensorflow/core/lib/io/record_writer.h), each a `tensorflow.Event` in protobuf
 * (tensorflow/core/util/event.proto). A resumed run begins a new file with a session start at its first step, which
 * makes TensorBoard hide later steps in the directory's older files.
 */
export class TensorBoardWriter implements TrainSubscriber {
  private file: number | undefined

  constructor(private readonly directory: string) {}

  handle(event: TrainEvent): void {
    switch (event.type) {
      case 'start':
        this.open(event.step + 1)
        break
      case 'step':
        this.scalars(event.step, {
          'train/loss': event.loss,
          'train/token_accuracy': event.token_accuracy,
          'train/grad_norm': event.grad_norm,
          'train/learning_rate': event.learning_rate,
          'throughput/tokens_per_second': event.tokens_per_second,
          ...(event.utilization !== null && { 'throughput/utilization': event.utilization }),
        })
        break
      case 'validation':
        this.scalars(event.step, { 'validation/loss': event.loss, 'validation/token_accuracy': event.token_accuracy })
        break
      case 'evaluation':
        this.scalars(event.step, { 'evaluation/accuracy': event.correct / event.total })
        break
      case 'sample':
        this.write(event.step, message(5, textValue(`sample/${event.instruction}`, event.output)))
        break
    }
  }

  close(): void {
    if (this.file !== undefined) closeSync(this.file)
    this.file = undefined
  }

  private open(firstStep: number): void {
    this.close()
    mkdirSync(this.directory, { recursive: true })
    const time = (Date.now() / 1000).toFixed(3)
    this.file = openSync(join(this.directory, `events.out.tfevents.${time}.${hostname()}.${process.pid}`), 'a')
    this.write(0, text(3, 'brain.Event:2'))
    this.write(firstStep, message(7, integer(1, 1))) // session_log { status: START }
  }

  private scalars(step: number, values: Record<string, number>): void {
    const summary = Object.entries(values).map(([tag, value]) => message(1, text(1, tag), float(2, value)))
    this.write(step, message(5, ...summary))
  }

  private write(step: number, content: Buffer): void {
    if (this.file === undefined) throw new Error('the first event must be a start')
    const event = Buffer.concat([double(1, Date.now() / 1000), integer(2, step), content])
    writeSync(this.file, frameRecord(event))
  }
}

/** A summary value for TensorBoard's text plugin: a tensor of one string. */
function textValue(tag: string, value: string): Buffer {
  const dtString = 7
  const shape = message(2, message(2, integer(1, 1)))
  const tensor = message(8, integer(1, dtString), shape, text(8, value))
  const metadata = message(9, message(1, text(1, 'text')))
  return message(1, text(1, tag), tensor, metadata)
}

/** A TFRecord: the length (u64), its checksum, the data and its checksum, little-endian. */
export function frameRecord(data: Uint8Array): Buffer {
  const header = Buffer.alloc(12)
  header.writeBigUInt64LE(BigInt(data.length))
  header.writeUInt32LE(maskedCrc32c(header.subarray(0, 8)), 8)
  const footer = Buffer.alloc(4)
  footer.writeUInt32LE(maskedCrc32c(data))
  return Buffer.concat([header, data, footer])
}

/** A CRC of data that may itself contain CRCs is stored rotated by 15 bits, plus a constant. */
function maskedCrc32c(data: Uint8Array): number {
  const crc = crc32c(data)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

// Protobuf's wire format: a field is (number << 3 | type), then a varint (0), 8 bytes (1), a length and bytes (2), or
// 4 bytes (5).

function varint(value: number): Buffer {
  const bytes: number[] = []
  for (; value >= 0x80; value = Math.floor(value / 0x80)) bytes.push((value % 0x80) | 0x80)
  return Buffer.from([...bytes, value])
}

function integer(field: number, value: number): Buffer {
  return Buffer.concat([varint(field << 3), varint(value)])
}

function double(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeDoubleLE(value)
  return Buffer.concat([varint((field << 3) | 1), bytes])
}

function float(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return Buffer.concat([varint((field << 3) | 5), bytes])
}

function text(field: number, value: string): Buffer {
  return message(field, Buffer.from(value))
}

function message(field: number, ...parts: Buffer[]): Buffer {
  const content = Buffer.concat(parts)
  return Buffer.concat([varint((field << 3) | 2), varint(content.length), content])
}
