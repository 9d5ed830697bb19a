/**
 * The ops in float64, as direct translations of the formulas in core/ops.h, without regard for speed. The gradients
 * come from the formulas' Jacobians; the tests compare them with finite differences.
 */

/** The rows of a matrix, as views. */
export function rowsOf(matrix: Float64Array, width: number): Float64Array[] {
  return Array.from({ length: width ? matrix.length / width : 0 }, (_, t) =>
    matrix.subarray(t * width, (t + 1) * width),
  )
}

function concatenate(rows: ArrayLike<number>[]): Float64Array {
  return Float64Array.from(rows.flatMap((row) => Array.from(row)))
}

// ---- RMSNorm --------------------------------------------------------------------------------------------------------

const inverseRms = (x: Float64Array, eps: number) => {
  return 1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + eps)
}

export function rmsNorm(x: Float64Array, w: Float64Array, eps: number) {
  const rows = rowsOf(x, w.length)
  const rstd = Float64Array.from(rows, (row) => inverseRms(row, eps))
  return { y: concatenate(rows.map((row, t) => row.map((value, i) => value * rstd[t] * w[i]))), rstd }
}

/** ∂yᵢ/∂xⱼ = wᵢ (δᵢⱼ r − xᵢ xⱼ r³ / C), where r is the row's rstd. */
export function rmsNormGradient(dy: Float64Array, x: Float64Array, w: Float64Array, eps: number) {
  const size = w.length
  const dx = new Float64Array(x.length)
  const dw = new Float64Array(size)
  rowsOf(x, size).forEach((row, t) => {
    const r = inverseRms(row, eps)
    for (let i = 0; i < size; i++) {
      const upstream = dy[t * size + i]
      dw[i] += upstream * row[i] * r
      for (let j = 0; j < size; j++) {
        dx[t * size + j] += upstream * w[i] * ((i === j ? r : 0) - (row[i] * row[j] * r ** 3) / size)
      }
    }
  })
  return { dx, dw }
}

// ---- matrix product -------------------------------------------------------------------------------------------------

export interface Product {
  m: number
  n: number
  k: number
  transposeA: boolean
  transposeB: boolean
}

/** op(a) · op(b), and the sums of the products' magnitudes, which bound the rounding errors of any summation order. */
export function matrixProduct(a: Float64Array, b: Float64Array, { m, n, k, transposeA, transposeB }: Product) {
  const product = new Float64Array(m * n)
  const magnitudes = new Float64Array(m * n)
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      for (let l = 0; l < k; l++) {
        const term = a[transposeA ? l * m + i : i * k + l] * b[transposeB ? j * k + l : l * n + j]
        product[i * n + j] += term
        magnitudes[i * n + j] += Math.abs(term)
      }
    }
  }
  return { product, magnitudes }
}

// ---- RoPE -----------------------------------------------------------------------------------------------------------

export interface Heads {
  numHeads: number
  numKvHeads: number
  headSize: number
}

/** The cosines and sines of `count` positions, D/2 of each per position. */
export function ropeTable(count: number, headSize: number, theta = 10_000) {
  const angles = Array.from({ length: (count * headSize) / 2 }, (_, i) => {
    const pair = i % (headSize / 2)
    return Math.floor(i / (headSize / 2)) * theta ** ((-2 * pair) / headSize)
  })
  return { cos: Float64Array.from(angles, Math.cos), sin: Float64Array.from(angles, Math.sin) }
}

/** Each pair (xᵢ, xᵢ₊D/2) of a query or key head, as a complex number, times cos + i·sin; direction −1 rotates back. */
export function rope(
  qkv: Float64Array,
  { cos, sin }: { cos: ArrayLike<number>; sin: ArrayLike<number> },
  positions: ArrayLike<number>,
  { numHeads, numKvHeads, headSize }: Heads,
  direction = 1,
): Float64Array {
  const half = headSize / 2
  const heads = numHeads + 2 * numKvHeads
  const rotated = qkv.slice()
  for (let t = 0; t < positions.length; t++) {
    for (let head = 0; head < numHeads + numKvHeads; head++) {
      for (let i = 0; i < half; i++) {
        const real = (t * heads + head) * headSize + i
        const c = cos[positions[t] * half + i]
        const s = direction * sin[positions[t] * half + i]
        rotated[real] = qkv[real] * c - qkv[real + half] * s
        rotated[real + half] = qkv[real] * s + qkv[real + half] * c
      }
    }
  }
  return rotated
}

// ---- attention ------------------------------------------------------------------------------------------------------

export interface Attention extends Heads {
  cuSeqlens: readonly number[]
  scale: number
  /** Only the last query of each sequence, which is all that decoding's tests need; the other results stay 0. */
  lastOnly?: boolean
}

const dotAt = (a: Float64Array, i: number, b: Float64Array, j: number, size: number) => {
  let sum = 0
  for (let d = 0; d < size; d++) sum += a[i + d] * b[j + d]
  return sum
}

/**
 * Calls `visit` for each query of each head, with its softmax over the visible keys and the offsets of its operands.
 */
function forEachQuery(
  qkv: Float64Array,
  { numHeads, numKvHeads, headSize, cuSeqlens, scale, lastOnly }: Attention,
  visit: (query: {
    /** The index of (token, head) in out, and of (head, token) in lse. */
    outIndex: number
    lseIndex: number
    q: number
    /** The offsets of the keys and values in qkv. */
    keys: number[]
    values: number[]
    probabilities: number[]
    lse: number
  }) => void,
): void {
  const tokens = cuSeqlens[cuSeqlens.length - 1]
  const at = (token: number, head: number) => (token * (numHeads + 2 * numKvHeads) + head) * headSize
  for (let s = 0; s + 1 < cuSeqlens.length; s++) {
    for (let t = lastOnly ? cuSeqlens[s + 1] - 1 : cuSeqlens[s]; t < cuSeqlens[s + 1]; t++) {
      for (let head = 0; head < numHeads; head++) {
        const kvHead = Math.floor(head / (numHeads / numKvHeads))
        const q = at(t, head)
        const seen = Array.from({ length: t - cuSeqlens[s] + 1 }, (_, i) => cuSeqlens[s] + i)
        const keys = seen.map((token) => at(token, numHeads + kvHead))
        const values = seen.map((token) => at(token, numHeads + numKvHeads + kvHead))
        const scores = keys.map((key) => scale * dotAt(qkv, q, qkv, key, headSize))
        const largest = Math.max(...scores)
        const lse = largest + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - largest), 0))
        const probabilities = scores.map((score) => Math.exp(score - lse))
        visit({
          outIndex: (t * numHeads + head) * headSize,
          lseIndex: head * tokens + t,
          q,
          keys,
          values,
          probabilities,
          lse,
        })
      }
    }
  }
}

/** Causal softmax attention over each sequence of a packed batch. */
export function attention(qkv: Float64Array, shape: Attention) {
  const { numHeads, headSize, cuSeqlens } = shape
  const tokens = cuSeqlens[cuSeqlens.length - 1]
  const out = new Float64Array(tokens * numHeads * headSize)
  const lse = new Float64Array(numHeads * tokens)
  forEachQuery(qkv, shape, (query) => {
    lse[query.lseIndex] = query.lse
    query.probabilities.forEach((p, i) => {
      for (let d = 0; d < headSize; d++) out[query.outIndex + d] += p * qkv[query.values[i] + d]
    })
  })
  return { out, lse }
}

/** ∂Pᵢ/∂Sⱼ = Pᵢ (δᵢⱼ − Pⱼ); S = scale · q kᵀ; out = P v. */
export function attentionGradient(dout: Float64Array, qkv: Float64Array, shape: Attention): Float64Array {
  const { headSize, scale } = shape
  const gradient = new Float64Array(qkv.length)
  forEachQuery(qkv, shape, ({ outIndex, q, keys, values, probabilities }) => {
    const dP = values.map((value) => dotAt(dout, outIndex, qkv, value, headSize))
    const mean = probabilities.reduce((sum, p, i) => sum + p * dP[i], 0)
    probabilities.forEach((p, i) => {
      const dS = p * (dP[i] - mean)
      for (let d = 0; d < headSize; d++) {
        gradient[values[i] + d] += p * dout[outIndex + d]
        gradient[q + d] += scale * dS * qkv[keys[i] + d]
        gradient[keys[i] + d] += scale * dS * qkv[q + d]
      }
    })
  })
  return gradient
}

// ---- SwiGLU ---------------------------------------------------------------------------------------------------------

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))

export function swiglu(gateUp: Float64Array, size: number): Float64Array {
  return concatenate(
    rowsOf(gateUp, 2 * size).map((row) => row.subarray(0, size).map((gate, i) => gate * sigmoid(gate) * row[size + i])),
  )
}

export function swigluGradient(dh: Float64Array, gateUp: Float64Array, size: number): Float64Array {
  const slope = (x: number) => sigmoid(x) * (1 + x * sigmoid(-x))
  return concatenate(
    rowsOf(gateUp, 2 * size).map((row, t) =>
      row.map((value, i) => {
        if (i < size) return dh[t * size + i] * row[size + i] * slope(value)
        return dh[t * size + i - size] * row[i - size] * sigmoid(row[i - size])
      }),
    ),
  )
}

// ---- cross-entropy --------------------------------------------------------------------------------------------------

export function softmax(row: Float64Array): Float64Array {
  const largest = row.reduce((max, value) => Math.max(max, value), Number.NEGATIVE_INFINITY)
  const powers = row.map((value) => Math.exp(value - largest))
  const total = powers.reduce((sum, value) => sum + value, 0)
  return powers.map((value) => value / total)
}

/** A negative label is ignored. */
export function crossEntropy(
  logits: Float64Array,
  labels: ArrayLike<number>,
  weights: ArrayLike<number>,
  vocabulary: number,
) {
  const rows = rowsOf(logits, vocabulary)
  const losses = new Float64Array(rows.length)
  const correct = new Float64Array(rows.length)
  const gradient = new Float64Array(logits.length)
  rows.forEach((row, t) => {
    const label = labels[t]
    if (label < 0) return
    const largest = row.reduce((max, value) => Math.max(max, value), Number.NEGATIVE_INFINITY)
    losses[t] = Math.log(row.reduce((sum, value) => sum + Math.exp(value - largest), 0)) + largest - row[label]
    correct[t] = row.indexOf(largest) === label ? 1 : 0
    softmax(row).forEach((p, i) => {
      gradient[t * vocabulary + i] = weights[t] * (p - (i === label ? 1 : 0))
    })
  })
  return { losses, correct, gradient }
}

// ---- AdamW ----------------------------------------------------------------------------------------------------------

export interface AdamWOptions {
  lr: number
  beta1: number
  beta2: number
  eps: number
  weightDecay: number
  gradScale: number
  step: number
}

/** One step for one parameter (Loshchilov & Hutter, arXiv:1711.05101, algorithm 2). */
export function adamW(master: number, m: number, v: number, grad: number, options: AdamWOptions) {
  const { lr, beta1, beta2, eps, weightDecay, gradScale, step } = options
  const g = gradScale * grad
  const newM = beta1 * m + (1 - beta1) * g
  const newV = beta2 * v + (1 - beta2) * g * g
  const unbiasedM = newM / (1 - beta1 ** step)
  const unbiasedV = newV / (1 - beta2 ** step)
  return { master: master - lr * (unbiasedM / (Math.sqrt(unbiasedV) + eps) + weightDecay * master), m: newM, v: newV }
}
