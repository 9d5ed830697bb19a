/** The values in test/fixtures/ops, which make.py there computes with PyTorch and Transformers. */
import { readFileSync } from 'node:fs'
import path from 'node:path'

const read = (name: string) => JSON.parse(readFileSync(path.join(__dirname, '../fixtures/ops', name), 'utf8'))

interface Heads {
  numHeads: number
  numKvHeads: number
  headSize: number
  qkv: number[]
}

export interface References {
  rmsnorm: {
    tokens: number
    channels: number
    eps: number
    x: number[]
    w: number[]
    dy: number[]
    y: number[]
    dx: number[]
    dw: number[]
  }
  /** cos and sin have one row per token, not per position. */
  rope: Heads & { positions: number[]; theta: number; cos: number[]; sin: number[]; rotated: number[] }
  attention: Heads & { cuSeqlens: number[]; out: number[]; dout: number[]; dqkv: number[] }
  crossEntropy: {
    tokens: number
    vocabulary: number
    logits: number[]
    labels: number[]
    weights: number[]
    losses: number[]
    correct: number[]
    gradient: number[]
  }
}

export interface AdamWTrajectory {
  beta1: number
  beta2: number
  eps: number
  weightDecay: number
  initial: number[]
  steps: { lr: number; grad: number[]; parameters: number[]; m: number[]; v: number[] }[]
}

export interface SampleCase {
  name: string
  logits: number[]
  history: number[]
  temperature: number
  topK: number
  topP: number
  repetitionPenalty: number
  probabilities: number[]
}

export const references: References = read('references.json')
export const adamWTrajectory: AdamWTrajectory = read('adamw.json')
export const sampleCases: SampleCase[] = read('sample.json')
