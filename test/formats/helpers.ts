import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, expect } from 'vitest'
import { CheckpointError } from '../../lib/errors.js'
import type { TensorToWrite } from '../../lib/formats/safetensors/safetensors-writer.js'
import { readTensor } from '../../lib/io/stream.js'
import type { WeightDType, WeightSource } from '../../lib/io/weight-source.js'

export const fixtures = path.join(__dirname, '../fixtures')

/** A directory for one test file, deleted when its tests are done. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'openalpaca-test-'))
  afterAll(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Every tensor of a source as type, shape, and bytes in hexadecimal. */
export async function contentsOf(source: WeightSource) {
  const entries = await Promise.all(
    [...source.tensors.values()].map(async ({ name, dtype, shape }) => {
      return [name, { dtype, shape: [...shape], bytes: (await readTensor(source, name)).toString('hex') }] as const
    }),
  )
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
}

export function tensor(name: string, dtype: WeightDType, shape: number[], bytes: Uint8Array): TensorToWrite {
  return { name, dtype, shape, data: () => bytes }
}

export function float32(name: string, shape: number[], values: number[]): TensorToWrite {
  return tensor(name, 'float32', shape, Buffer.from(new Float32Array(values).buffer))
}

/** The CheckpointError that a promise rejects with. */
export async function rejection(promise: Promise<unknown>): Promise<CheckpointError> {
  const error = await promise.then(
    () => new Error('it was accepted'),
    (reason) => reason,
  )
  expect(error).toBeInstanceOf(CheckpointError)
  return error
}
