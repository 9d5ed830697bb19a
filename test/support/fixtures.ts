import { readFileSync } from 'node:fs'
import path from 'node:path'
import type { Instance } from '../../lib/data/instances.js'
import { openSafetensors } from '../../lib/formats/safetensors/safetensors.js'
import { readTensor } from '../../lib/io/stream.js'

/** Reference values from PyTorch; see README.md there. */
export const fixtures = path.join(__dirname, '..', 'fixtures')

/** The instances that PyTorch trained on (trajectory.json), including one without a label. */
export function readInstances(): Instance[] {
  const lines = readFileSync(path.join(fixtures, 'instances.jsonl'), 'utf8').trim().split('\n')
  return lines.map((line, id) => {
    const { input_ids, labels } = JSON.parse(line) as { input_ids: number[]; labels: number[] }
    return { id, inputIds: Int32Array.from(input_ids), labels: Int32Array.from(labels) }
  })
}

export interface FixtureTensor {
  shape: readonly number[]
  numbers: number[]
}

/** The tensors of a safetensors file (float32 or int64) as numbers. */
export async function readSafetensors(file: string): Promise<Map<string, FixtureTensor>> {
  const source = await openSafetensors(file)
  try {
    const result = new Map<string, FixtureTensor>()
    for (const { name, dtype, shape } of source.tensors.values()) {
      const bytes = new Uint8Array(await readTensor(source, name))
      const numbers =
        dtype === 'int64'
          ? Array.from(new BigInt64Array(bytes.buffer), Number)
          : Array.from(new Float32Array(bytes.buffer))
      result.set(name, { shape, numbers })
    }
    return result
  } finally {
    await source.close()
  }
}
