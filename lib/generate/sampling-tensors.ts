import type { Device } from '../device.js'
import type { SampleArgs } from '../ops.js'
import type { HostArray, Tensor } from '../tensor.js'

/** Sampling settings of one sequence. */
export interface SamplingSettings {
  /** Divides the logits; 0 takes the most likely token. */
  temperature: number
  /** 1 disables. */
  topP: number
  /** 0 disables. */
  topK: number
  /** 1 disables. */
  repetitionPenalty: number
  /** An integer of at most 53 bits. */
  seed: number
}

/** The settings of a batch, one for each sequence, as arguments of `ops.sample`. The caller disposes of the tensors. */
export function samplingTensors(
  device: Device,
  settings: readonly SamplingSettings[],
): Pick<SampleArgs, keyof Omit<SamplingSettings, 'seed'> | 'seeds'> {
  const upload = (dtype: 'float32' | 'int32', shape: number[], data: HostArray): Tensor => {
    const tensor = device.tensor(dtype, shape)
    device.stream.write(tensor, data)
    return tensor
  }
  const size = settings.length
  const floats = (value: (one: SamplingSettings) => number) =>
    upload('float32', [size], Float32Array.from(settings, value))
  const seeds = BigInt64Array.from(settings, ({ seed }) => BigInt(seed))
  return {
    temperature: floats(({ temperature }) => temperature),
    topP: floats(({ topP }) => topP),
    topK: upload(
      'int32',
      [size],
      Int32Array.from(settings, ({ topK }) => Math.min(topK, 2 ** 31 - 1)),
    ),
    repetitionPenalty: floats(({ repetitionPenalty }) => repetitionPenalty),
    seeds: upload('int32', [size, 2], new Int32Array(seeds.buffer)),
  }
}
