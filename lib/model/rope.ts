import type { Device } from '../device.js'
import type { Tensor } from '../tensor.js'
import type { LlamaConfig } from './config.js'
import type { Llama3RopeScaling, YarnRopeScaling } from './rope-config.js'

/**
 * The angle per position of each pair of a head's dimensions: θ^(−2i/D), with the config's scaling. float32 as in
 * Transformers, since the angle at position 2000 magnifies the last bits.
 */
export function inverseFrequencies(config: LlamaConfig): Float32Array {
  const { headDim, ropeScaling: scaling } = config
  const theta = scaling?.type === 'dynamic' ? dynamicTheta(config, scaling.factor) : config.ropeTheta
  const plain = Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / Math.fround(theta ** ((2 * i) / headDim)))
  switch (scaling?.type) {
    case 'linear':
      return plain.map((frequency) => frequency / scaling.factor)
    case 'llama3':
      return plain.map((frequency) => llama3Frequency(frequency, scaling))
    case 'yarn':
      return yarnFrequencies(plain, config, scaling)
    default:
      return plain
  }
}

/** The base for sequences up to `maxPositionEmbeddings`, the longest supported: θ itself, up to rounding. */
function dynamicTheta({ ropeTheta, headDim }: LlamaConfig, factor: number): number {
  return headDim === 2 ? ropeTheta : ropeTheta * (factor - (factor - 1)) ** (headDim / (headDim - 2))
}

/** Stretches wavelengths longer than the original context by `factor` and keeps short ones, with a ramp between. */
function llama3Frequency(frequency: number, scaling: Llama3RopeScaling): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings } = scaling
  const wavelength = (2 * Math.PI) / frequency
  if (wavelength > originalMaxPositionEmbeddings / lowFreqFactor) return frequency / factor
  if (wavelength < originalMaxPositionEmbeddings / highFreqFactor) return frequency
  const smooth = (originalMaxPositionEmbeddings / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor)
  return ((1 - smooth) * frequency) / factor + smooth * frequency
}

/**
 * A ramp over the dimensions, from those that rotate `betaFast` times within the original context to `betaSlow` times.
 */
function yarnFrequencies(plain: Float32Array, { ropeTheta, headDim }: LlamaConfig, scaling: YarnRopeScaling) {
  const { factor, betaFast, betaSlow, originalMaxPositionEmbeddings: original, truncate } = scaling
  const dimension = (turns: number) =>
    (headDim * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(ropeTheta))
  const [first, last] = [dimension(betaFast), dimension(betaSlow)]
  const low = Math.max(truncate ? Math.floor(first) : first, 0)
  const high = Math.min(truncate ? Math.ceil(last) : last, headDim - 1)
  const width = high === low ? 0.001 : high - low
  return plain.map((frequency, i) => {
    const ramp = Math.fround(Math.min(Math.max((i - low) / width, 0), 1))
    return (frequency / factor) * ramp + frequency * (1 - ramp)
  })
}

/** Multiplies cos and sin. */
export function ropeAmplitude({ ropeScaling }: LlamaConfig): number {
  return ropeScaling?.type === 'yarn' ? ropeScaling.attentionFactor : 1
}

/** cos and sin of every angle: [positions, headDim / 2]. */
export function ropeTables(config: LlamaConfig, positions: number): { cos: Float32Array; sin: Float32Array } {
  const frequencies = inverseFrequencies(config)
  const amplitude = ropeAmplitude(config)
  const half = frequencies.length
  const cos = new Float32Array(positions * half)
  const sin = new Float32Array(positions * half)
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * frequencies[i])
      cos[position * half + i] = Math.cos(angle) * amplitude
      sin[position * half + i] = Math.sin(angle) * amplitude
    }
  }
  return { cos, sin }
}

/** RoPE's tables on a device; they grow for longer contexts. */
export class RopeCache implements Disposable {
  private positions = 0
  private current?: { cos: Tensor; sin: Tensor }

  constructor(
    private readonly device: Device,
    private readonly config: LlamaConfig,
  ) {
    this.reserve(Math.min(config.maxPositionEmbeddings, 2048))
  }

  /** [positions, headDim / 2] each. */
  get tables(): { cos: Tensor; sin: Tensor } {
    return this.current!
  }

  /** Grows the tables to positions 0 … positions − 1. */
  reserve(positions: number): void {
    if (positions <= this.positions) return
    const shape = [positions, this.config.headDim / 2]
    const { cos, sin } = ropeTables(this.config, positions)
    const grown = this.device.allocating(() => {
      return { cos: this.device.tensor('float32', shape), sin: this.device.tensor('float32', shape) }
    })
    this.device.stream.write(grown.cos, cos)
    this.device.stream.write(grown.sin, sin)
    this.dispose() // only now: if the allocation fails, the old tables remain usable
    this.current = grown
    this.positions = positions
  }

  dispose(): void {
    this.current?.cos.dispose()
    this.current?.sin.dispose()
    this.positions = 0
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
