// One rank of the golden trajectory (test/train/trajectory.test.ts), trained in a ZeRO stage. Prints each step's loss
// and gradient norm, then its memory use, the communication of the first step, and the hash of the final weights. Run
// by test/parallel/sharded.test.ts.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { LlamaForCausalLM } from '#lib/causal-lm.js'
import { countLabels } from '#lib/data/instances.js'
import { openDevice } from '#lib/device.js'
import { fill, matmul } from '#lib/ops.js'
import { Communicator } from '#lib/parallel/communicator.js'
import { RankGroup } from '#lib/parallel/group.js'
import { Rendezvous } from '#lib/parallel/rendezvous.js'
import { AdamW } from '#lib/train/optimizer.js'
import { learningRateAt } from '#lib/train/schedule.js'
import { paddedTokens, trainStep } from '#lib/train/step.js'

const {
  rank,
  size,
  port,
  stage,
  fixtures,
  model: name = 'd100',
  dtype = 'float32',
  maxTokens = 512,
  steps = 20,
  sequences,
  device: type = 'cpu',
  fault,
  offload = false,
  prefetchBlocks,
  generate = false,
  copy,
} = JSON.parse(process.argv[2])
const golden = JSON.parse(readFileSync(path.join(fixtures, 'trajectory.json'), 'utf8'))
const instances = readFileSync(path.join(fixtures, 'instances.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .map((line, id) => {
    const { input_ids, labels } = JSON.parse(line)
    return { id, inputIds: Int32Array.from(input_ids), labels: Int32Array.from(labels) }
  })
  .filter((instance) => countLabels(instance) > 0)

const device = openDevice(type)
device.setThreads(1)
const stream = device.createStream()
const rendezvous = await Rendezvous.join({ rank, size, port, address: '127.0.0.1', timeout: 60 })
const communicator = await Communicator.connect(rendezvous, device, { timeout: 60, backend: 'gloo' })

if (fault === 'slow' || fault === 'computation does not wait') {
  // The communication is slow: each collective comes after a few milliseconds of work.
  const x = device.tensor('float32', [256, 256])
  fill(stream, { x, value: 0 })
  for (const name of ['allGather', 'reduceScatter', 'allReduce']) {
    const collective = communicator[name].bind(communicator)
    communicator[name] = (on, ...args) => {
      for (let i = 0; i < 8; i++) matmul(on, { c: x, a: x, b: x })
      collective(on, ...args)
    }
  }
}
// Without events, a stream runs ahead of its inputs from the other stream.
if (fault === 'computation does not wait') device.stream.wait = () => {}
if (fault === 'communication does not wait') stream.wait = () => {}

/**
 * The first step's collectives and their bytes, and the bytes that the process wrote anywhere, including its sockets.
 */
const traffic = {}
const count = (name, bytes) => {
  if (losses.length > 0) return
  const { calls, bytes: so } = traffic[name] ?? { calls: 0, bytes: 0 }
  traffic[name] = { calls: calls + 1, bytes: so + bytes }
}
for (const [name, method, bytes] of [
  ['all_gather', 'allGather', ({ out }) => out.byteLength],
  ['reduce_scatter', 'reduceScatter', ({ input }) => input.byteLength],
  ['all_reduce', 'allReduce', (x) => x.byteLength],
]) {
  const collective = communicator[method].bind(communicator)
  communicator[method] = (on, args) => {
    count(name, bytes(args))
    collective(on, args)
  }
}
const written = () => Number(/wchar: (\d+)/.exec(readFileSync('/proc/self/io', 'utf8'))[1])
/** Bytes of tensors that were created and not disposed of. */
let allocated = 0
const allocate = device.tensor.bind(device)
device.tensor = (...args) => {
  const tensor = allocate(...args)
  allocated += tensor.byteLength
  const dispose = tensor.dispose.bind(tensor)
  tensor.dispose = () => {
    allocated -= tensor.byteLength
    dispose()
  }
  return tensor
}

const losses = []
const group = RankGroup.of(device, communicator, stream, stage, rendezvous, { prefetchBlocks })
const model = await LlamaForCausalLM.fromPretrained(path.join(fixtures, name), {
  device,
  dtype,
  group,
  masterWeights: true,
})
const { parameters } = model
if (offload) await parameters.moveMastersToHost()
const [beta1, beta2] = golden.betas
const optimizer = new AdamW(parameters, { beta1, beta2, epsilon: golden.eps, weightDecay: golden.weight_decay })
const trainPass = model.trainPass(paddedTokens(maxTokens))
// The data's ids belong to one model; another has fewer.
const { vocabSize } = model.config
const fold = (ids) => ids.map((id) => (id < 0 ? id : id % vocabSize))
const data = instances.map(({ id, inputIds, labels }) => ({ id, inputIds: fold(inputIds), labels: fold(labels) }))
let sent
for (const { step } of golden.steps.slice(0, steps)) {
  const lr = learningRateAt(step, {
    scheduler: 'warmup_decay',
    warmupType: 'log',
    peak: golden.peak_lr,
    minimum: 0,
    warmupSteps: golden.warmup_steps,
    totalSteps: golden.total_steps,
  })
  const batch = Array.from(
    { length: sequences ?? golden.sequences_per_step },
    (_, k) => data[(step * golden.sequences_per_step + k) % data.length],
  )
  const options = { lossReduction: 'instance', maxTokens, maxGradNorm: golden.max_grad_norm, lr, step }
  const before = written()
  try {
    const { loss, gradNorm } = await trainStep(trainPass, optimizer, batch, options)
    losses.push([loss, gradNorm])
    sent ??= written() - before
  } catch (error) {
    if (error.code !== 'NON_FINITE') throw error
    losses.push([null, null])
    break
  }
}
const bytes = (tensors) => tensors.reduce((sum, { byteLength }) => sum + byteLength, 0)
const memory = {
  weights: parameters.weights.bytes.kept,
  masters: bytes(parameters.masters),
  moments: bytes([...optimizer.m, ...optimizer.v]),
  gradients: trainPass.gradientBytes.kept,
  gathered_weights: parameters.weights.bytes.gathered,
  gathered_gradients: trainPass.gradientBytes.gathered,
  ...trainPass.workingBytes,
}
const prompts = [
  [1, 5, 9],
  [1, 7, 7, 300 % vocabSize, 2],
]
const options = { maxNewTokens: 12, eosTokenId: null, repetitionPenalty: 1.2 }
const answers = generate ? await model.asOne((whole) => whole.generate(prompts, options), { copy }) : undefined
const hash = createHash('sha256')
if (!fault) for (const [, values] of await parameters.toMap(parameters.masters)) hash.update(values)
console.log(JSON.stringify({ losses, memory, answers, allocated, traffic, sent, hash: hash.digest('hex') }))
await communicator.barrier(stream)
await stream.synchronize()
rendezvous.close()
