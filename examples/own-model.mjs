// A custom model built from the ops: one block of attention, trained to repeat its input.
//
//   npm install openalpaca-native (in a clone, npm run setup)
//   node examples/own-model.mjs [STEPS]
//
// A sequence is eight random letters, a separator, and the same letters again. Everything below runs on the available
// device; `shape` alone determines the model's size. docs/api.md lists the ops.
import { openDevice, ops } from 'openalpaca-native'

const steps = Number(process.argv[2] ?? 150)
const device = openDevice()
const { stream } = device
const shape = { vocabulary: 27, width: 64, heads: 2, letters: 8, sequences: 16 }

const { vocabulary: V, width: C, heads: H } = shape
const D = C / H
const length = 2 * shape.letters
const T = shape.sequences * length // tokens of a batch; the sequences are concatenated

// ---- memory: all of it is allocated here, and reused in every step ------------------------------------------------

const float = (...dimensions) => device.tensor('float32', dimensions)
const int = (...dimensions) => device.tensor('int32', dimensions)

// Parameters, their gradients and AdamW's moments are flat, and each weight is a view: one call updates them all.
const shapes = { embedding: [V, C], norm1: [C], qkv: [3 * C, C], projection: [C, C], norm2: [C], head: [V, C] }
const count = Object.values(shapes).reduce((sum, dimensions) => sum + dimensions.reduce((a, b) => a * b), 0)
const [parameters, gradients, m, v] = [float(count), float(count), float(count), float(count)]
function views(flat) {
  let offset = 0
  const view = (dimensions) => {
    const tensor = flat.view(dimensions, offset)
    offset += tensor.length
    return tensor
  }
  return Object.fromEntries(Object.entries(shapes).map(([name, dimensions]) => [name, view(dimensions)]))
}
const [w, dw] = [views(parameters), views(gradients)]

ops.randomNormal(stream, { x: parameters, std: 0.1, seed: 0, streamId: 0 })
ops.fill(stream, { x: w.norm1, value: 1 })
ops.fill(stream, { x: w.norm2, value: 1 })
for (const moments of [m, v]) ops.fill(stream, { x: moments, value: 0 })

const [ids, labels, positions, correct] = [int(T), int(T), int(T), int(T)]
const cuSeqlens = int(shape.sequences + 1) // the start of each sequence, and the end of the last one
stream.write(
  positions,
  Int32Array.from({ length: T }, (_, t) => t % length),
)
stream.write(
  cuSeqlens,
  Int32Array.from({ length: shape.sequences + 1 }, (_, s) => s * length),
)

const angle = (i) => Math.floor(i / (D / 2)) / 10000 ** ((i % (D / 2)) / (D / 2))
const [cos, sin] = [float(length, D / 2), float(length, D / 2)]
stream.write(
  cos,
  Float32Array.from({ length: cos.length }, (_, i) => Math.cos(angle(i))),
)
stream.write(
  sin,
  Float32Array.from({ length: sin.length }, (_, i) => Math.sin(angle(i))),
)

const [x, y1, projected, sum, y2] = [float(T, C), float(T, C), float(T, C), float(T, C), float(T, C)]
const [dx, dy] = [float(T, C), float(T, C)]
const [qkv, dqkv] = [float(T, 3 * H, D), float(T, 3 * H, D)]
const [out, dout] = [float(T, H, D), float(T, H, D)]
const [lse, delta, rstd1, rstd2] = [float(H, T), float(H, T), float(T), float(T)]
const [logits, losses, weights] = [float(T, V), float(T), float(T)]

const eps = 1e-6
const rope = { cos, sin, positions, numHeads: H, numKvHeads: H }
const attention = { qkv, out, lse, cuSeqlens, numHeads: H, numKvHeads: H, scale: 1 / Math.sqrt(D) }
const rows = (tensor) => tensor.view([T, tensor.length / T]) // [T, 3H, D] as the matrix [T, 3C]

// ---- a step -------------------------------------------------------------------------------------------------------

function forward() {
  ops.embeddingForward(stream, { out: x, ids, w: w.embedding })
  ops.rmsNormForward(stream, { y: y1, rstd: rstd1, x, w: w.norm1, eps })
  ops.matmul(stream, { c: rows(qkv), a: y1, b: w.qkv, transposeB: true })
  ops.ropeForward(stream, { qkv, ...rope })
  ops.attentionForward(stream, attention)
  ops.matmul(stream, { c: projected, a: rows(out), b: w.projection, transposeB: true })
  ops.addRmsNormForward(stream, { y: y2, rstd: rstd2, sum, x, delta: projected, w: w.norm2, eps })
  ops.matmul(stream, { c: logits, a: y2, b: w.head, transposeB: true })
  ops.crossEntropy(stream, { logits, losses, correct, labels, weights, writeGradient: true })
}

/** From dlogits, which cross-entropy has written over the logits, back to every parameter. */
function backward() {
  ops.fill(stream, { x: gradients, value: 0 })
  ops.fill(stream, { x: dx, value: 0 }) // the residual stream's gradient; the norms add to it
  linearBackward({ dy: logits, x: y2, w: w.head, dw: dw.head, dx: dy })
  ops.rmsNormBackward(stream, { dx, dw: dw.norm2, dy, x: sum, w: w.norm2, rstd: rstd2 })
  linearBackward({ dy: dx, x: rows(out), w: w.projection, dw: dw.projection, dx: rows(dout) })
  ops.attentionBackward(stream, { ...attention, dqkv, delta, dout })
  ops.ropeBackward(stream, { qkv: dqkv, ...rope })
  linearBackward({ dy: rows(dqkv), x: y1, w: w.qkv, dw: dw.qkv, dx: dy })
  ops.rmsNormBackward(stream, { dx, dw: dw.norm1, dy, x, w: w.norm1, rstd: rstd1 })
  ops.embeddingBackward(stream, { dw: dw.embedding, dout: dx, ids })
}

/** The backward pass of y = x · wᵀ. */
function linearBackward({ dy, x, w, dw, dx }) {
  ops.matmul(stream, { c: dw, a: dy, b: x, transposeA: true, beta: 1 })
  ops.matmul(stream, { c: dx, a: dy, b: w })
}

// Recorded once, and then launched as one: a CUDA graph on a GPU.
const pass = stream.capture(() => {
  forward()
  backward()
})

let state = 1
const random = (below) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return Math.floor((state / 2 ** 32) * below)
}

/** Only the second half of a sequence is learned: the first is unpredictable. */
function writeBatch() {
  const [input, target] = [new Int32Array(T), new Int32Array(T).fill(-1)]
  for (let start = 0; start < T; start += length) {
    const letters = Array.from({ length: shape.letters }, () => random(V - 1))
    input.set([...letters, V - 1, ...letters.slice(0, -1)], start)
    target.set(letters, start + shape.letters)
  }
  stream.write(ids, input)
  stream.write(labels, target)
  stream.write(
    weights,
    Float32Array.from(target, (label) => (label < 0 ? 0 : 2 / T)),
  )
}

for (let step = 1; step <= steps; step++) {
  writeBatch()
  stream.launch(pass)
  const rates = { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0, gradScale: 1 }
  ops.adamw(stream, { master: parameters, m, v, grad: gradients, ...rates, step })
  if (step % 50 !== 0 && step !== 1) continue
  const mean = (values) => values.reduce((total, value) => total + value, 0) / (T / 2)
  const loss = mean(await losses.toArray(stream))
  console.log(
    `step ${step}  loss ${loss.toFixed(4)}  right ${(100 * mean(await correct.toArray(stream))).toFixed(1)} %`,
  )
}
