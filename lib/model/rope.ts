import type { Device } from '../device.js'
import type { Tensor } from '../tensor.js'
import type { LlamaConfig } from './config.js'

/**
 * The angle per position of each pair of a head's dimensions: θ^(−2i/D), with Llama 3.1's scaling where the config has
 * it (wavelengths longer than the original context are stretched by `factor`, short ones kept, a ramp between).
 * In float32 as Transformers computes it, since the angle of position 2000 magnifies its last bits.
 */
export function inverseFrequencies(config: LlamaConfig): Float32Array {
  const half = config.headDim / 2
  const scaling = config.ropeScaling
  return Float32Array.from({ length: half }, (_, i) => {
    const frequency = 1 / Math.fround(config.ropeTheta ** ((2 * i) / config.headDim))
    if (!scaling) return frequency
    const wavelength = (2 * Math.PI) / frequency
    const low = scaling.originalMaxPositionEmbeddings / scaling.lowFreqFactor
    const high = scaling.originalMaxPositionEmbeddings / scaling.highFreqFactor
    if (wavelength > low) return frequency / scaling.factor
    if (wavelength < high) return frequency
    const smooth =
      (scaling.originalMaxPositionEmbeddings / wavelength - scaling.lowFreqFactor) /
      (scaling.highFreqFactor - scaling.lowFreqFactor)
    return ((1 - smooth) * frequency) / scaling.factor + smooth * frequency
  })
}

/** cos and sin of every angle: [positions, headDim / 2]. */
export function ropeTables(config: LlamaConfig, positions: number): { cos: Float32Array; sin: Float32Array } {
  const frequencies = inverseFrequencies(config)
  const half = frequencies.length
  const cos = new Float32Array(positions * half)
  const sin = new Float32Array(positions * half)
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * frequencies[i])
      cos[position * half + i] = Math.cos(angle)
      sin[position * half + i] = Math.sin(angle)
    }
  }
  return { cos, sin }
}

/** RoPE's tables on a device, grown when a longer context is asked for. */
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

  /** Makes room for positions 0 … positions − 1. */
  reserve(positions: number): void {
    if (positions <= this.positions) return
    this.dispose()
    const shape = [positions, this.config.headDim / 2]
    const { cos, sin } = ropeTables(this.config, positions)
    this.current = { cos: this.device.tensor('float32', shape), sin: this.device.tensor('float32', shape) }
    this.device.stream.write(this.current.cos, cos)
    this.device.stream.write(this.current.sin, sin)
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
