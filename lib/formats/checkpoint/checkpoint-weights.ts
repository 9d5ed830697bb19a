import path from 'node:path'
import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import { tensorBytes, type WeightSource } from '../../io/weight-source.js'
import { openSafetensors } from '../safetensors/safetensors.js'
import { SegmentedSource, type SegmentedTensor, sliceOf, wholeOf } from '../segments.js'
import { HandlePool } from '../weight-file.js'
import { readManifest } from './manifest.js'

/**
 * Opens the float32 masters of a training checkpoint under Hugging Face's names. A unit's flat buffer is split into one
 * part per rank; concatenated in the order of the ranks' files, the parts are the buffer, followed by padding.
 * @throws {CheckpointError} for a missing file, or parts that do not make up the units
 */
export async function openCheckpointWeights(directory: string): Promise<WeightSource> {
  const manifest = await readManifest(directory)
  const fail = (what: string) =>
    new CheckpointError(`${directory} is incomplete or damaged: ${forError(what)}; use another checkpoint`)
  const files = Object.keys(manifest.files).filter((name) => /^rank-\d{5}-of-\d{5}\.safetensors$/.test(name))
  if (files.length !== manifest.world_size) {
    throw fail(`its manifest lists files of only ${files.length} of its ${manifest.world_size} ranks`)
  }
  const pool = new HandlePool()
  const ranks: WeightSource[] = []
  const close = () => Promise.all(ranks.map((rank) => rank.close()))
  try {
    for (const file of files.sort()) ranks.push(await openSafetensors(path.join(directory, file), pool))
    const tensors = manifest.units.flatMap((unit) => {
      const name = `master.${unit.name}`
      const parts = ranks.map((rank) => {
        if (rank.tensors.get(name)?.dtype !== 'float32') throw fail(`a rank has no ${name} in float32`)
        return wholeOf(rank, name)
      })
      return unit.parameters.map(({ name, shape, offset }): SegmentedTensor => {
        const bytes = tensorBytes(shape, 'float32')
        if (bytes === undefined || !Number.isSafeInteger(4 * offset)) throw fail(`${name} has an impossible size`)
        try {
          return { name, dtype: 'float32', shape, bytes, segments: sliceOf(parts, 4 * offset, bytes) }
        } catch {
          throw fail(`${name} reaches past the end of its unit`)
        }
      })
    })
    return new SegmentedSource(tensors, close)
  } catch (error) {
    await close()
    throw error
  }
}
