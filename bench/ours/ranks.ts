/**
 * One rank of a training run. A line selects the measurement: normal steps, steps without their communication, their
 * communication only, or the rates that a plan uses.
 */
import { LlamaForCausalLM } from 'openalpaca-native'
import type { Instance } from '#lib/data/instances.js'
import { attentionBackward, attentionForward, cast, fill, matmul } from '#lib/ops.js'
import type { Stage } from '#lib/parallel/group.js'
import type { Tensor } from '#lib/tensor.js'
import { AdamW } from '#lib/train/optimizer.js'
import { paddedTokens, trainStep } from '#lib/train/step.js'
import type { RankChild } from '../configs.js'
import { threadsOf } from '../team.js'
import { join } from './join.js'
import { childOptions, serve } from './serve.js'

/**
 * Smaller collectives exchange information about a step between ranks; they remain when the communication is left out.
 */
const smallest = 2 ** 14

/** How long a rate is measured, in milliseconds: several time slices of ranks that share a core. */
const span = 400

const options = childOptions<RankChild>()
const { size, stage, config, batch, length, steps, maxTokens } = options

async function main(): Promise<void> {
  const { device, stream, communicator, group } = await join(options, stage as Stage)
  device.setThreads(threadsOf(size))
  const { silence, recorded } = listenTo(communicator)
  const model = LlamaForCausalLM.fromConfig(config, { seed: 0, device, dtype: 'bfloat16', group, masterWeights: true })
  const trainPass = model.trainPass(paddedTokens(maxTokens))
  const optimizer = new AdamW(model.parameters, { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.001 })
  const instances = Array.from({ length: batch }, (_, id): Instance => {
    const ids = Int32Array.from({ length }, (_, t) => (id * 7919 + t * 104_729) % model.config.vocabSize)
    return { id, inputIds: ids, labels: ids }
  })

  const train = async (count: number) => {
    communicator.barrier(stream)
    await stream.synchronize()
    recorded.length = 0
    const start = performance.now()
    for (let i = 0; i < count; i++) {
      const settings = { lossReduction: 'token', maxTokens, lr: 1e-6, maxGradNorm: 1, step: i + 1 } as const
      await trainStep(trainPass, optimizer, instances, settings)
    }
    await device.stream.synchronize()
    return (performance.now() - start) / count / 1000
  }
  /** The collectives of `steps` steps, in sequence. */
  const communicate = async () => {
    const again = recorded.slice()
    communicator.barrier(stream)
    await stream.synchronize()
    const start = performance.now()
    for (const call of again) call()
    await stream.synchronize()
    recorded.splice(0, recorded.length, ...again)
    return (performance.now() - start) / steps / 1000
  }

  await train(2)
  await serve(async (line) => {
    if (line === 'rates') return await rates()
    if (line === 'communication') return { seconds: size === 1 ? 0 : await communicate() }
    silence(line === 'computation')
    const seconds = await train(steps)
    silence(false)
    return { seconds }
  })
  process.exit()

  /** Seconds of an op while all ranks run it, as in training; the mean, since they may share a core. */
  async function during(enqueue: () => void, together = 1): Promise<number> {
    enqueue()
    communicator.barrier(stream)
    await Promise.all([stream.synchronize(), device.stream.synchronize()])
    const start = performance.now()
    let count = 0
    while (performance.now() - start < span) {
      for (let i = 0; i < together; i++) enqueue()
      await device.stream.synchronize()
      count += together
    }
    return (performance.now() - start) / count / 1000
  }

  async function matmulRate(dtype: 'bfloat16' | 'float32', tokens: number): Promise<number> {
    const { hiddenSize, intermediateSize } = model.config
    using a = device.tensor(dtype, [tokens, hiddenSize])
    using b = device.tensor(dtype, [2 * intermediateSize, hiddenSize])
    using c = device.tensor(dtype, [tokens, 2 * intermediateSize])
    for (const tensor of [a, b]) fill(device.stream, { x: tensor.view([tensor.length]), value: 0.1 })
    const seconds = await during(() => matmul(device.stream, { c, a, b, transposeB: true }), 4)
    return (4 * tokens * hiddenSize * intermediateSize) / seconds
  }

  async function rates() {
    const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = model.config
    const tokens = Math.floor(maxTokens / length) * length
    const x = device.tensor('float32', [2 ** 24])
    const copy = device.tensor('float32', [2 ** 24])
    const few = device.tensor('float32', [1])
    const qkv = device.tensor('bfloat16', [tokens, heads + 2 * kvHeads, headDim])
    const out = device.tensor('bfloat16', [tokens, heads, headDim])
    const [lse, delta] = [device.tensor('float32', [heads, tokens]), device.tensor('float32', [heads, tokens])]
    const dqkv = device.tensor('bfloat16', qkv.shape)
    const cuSeqlens = device.tensor('int32', [tokens / length + 1])
    device.stream.write(
      cuSeqlens,
      Int32Array.from({ length: cuSeqlens.length }, (_, s) => s * length),
    )
    for (const tensor of [x, qkv, out]) fill(device.stream, { x: tensor.view([tensor.length]), value: 0.1 })
    const attention = { qkv, out, lse, cuSeqlens, numHeads: heads, numKvHeads: kvHeads, scale: headDim ** -0.5 }
    const both = await during(() => {
      attentionForward(device.stream, attention)
      attentionBackward(device.stream, { ...attention, dqkv, delta, dout: out })
    })
    const copying = await during(() => cast(device.stream, { dst: copy, src: x }))
    const small = await during(() => fill(device.stream, { x: few, value: 0 }), 1000)
    const measured = {
      matmul_flops: await matmulRate('bfloat16', tokens),
      float32_flops: await matmulRate('float32', tokens),
      attention_flops: (7 * heads * headDim * tokens * length) / both,
      memory_bandwidth: (2 * x.byteLength) / copying,
      op_seconds: small,
    }
    for (const tensor of [x, copy, few, qkv, out, lse, delta, dqkv, cuSeqlens]) tensor.dispose()
    if (size === 1) return measured
    // One collective as large as a block's gradients, and one that is almost empty.
    const gather = async (bytes: number, count: number) => {
      const part = Math.ceil(bytes / 4 / size)
      using whole = device.tensor('float32', [part * size])
      using own = device.tensor('float32', [part])
      communicator.barrier(stream)
      await stream.synchronize()
      const start = performance.now()
      for (let i = 0; i < count; i++) communicator.allGather(stream, { out: whole, input: own })
      for (let i = 0; i < count; i++) communicator.reduceScatter(stream, { out: own, input: whole })
      await stream.synchronize()
      return (performance.now() - start) / count / 2000
    }
    const bytes = 4 * model.parameters.layout.blocks[0].length
    const [large, least] = [await gather(bytes, 8), await gather(64, 50)]
    return {
      ...measured,
      link_bandwidth: (bytes * (size - 1)) / size / Math.max(large - least, 1e-9),
      collective_seconds: least,
    }
  }
}

/** Records the collectives of the steps, and can skip those that move weights and gradients. */
function listenTo(communicator: Awaited<ReturnType<typeof join>>['communicator']) {
  const recorded: (() => void)[] = []
  let silent = false
  const { allGather, reduceScatter, allReduce } = communicator
  const wrap = <Args extends unknown[]>(run: (...args: Args) => void, bytesOf: (...args: Args) => number) => {
    return (...args: Args) => {
      if (bytesOf(...args) < smallest) return run.apply(communicator, args)
      recorded.push(() => run.apply(communicator, args))
      if (!silent) run.apply(communicator, args)
    }
  }
  communicator.allGather = wrap(allGather, (_, { out }: { out: Tensor }) => out.byteLength)
  communicator.reduceScatter = wrap(reduceScatter, (_, { input }: { input: Tensor }) => input.byteLength)
  communicator.allReduce = wrap(allReduce, (_, x: Tensor) => x.byteLength)
  return {
    recorded,
    silence: (yes: boolean) => {
      silent = yes
    },
  }
}

void main()
