import { describe, expect, it } from 'vitest'
import { Device } from '../../lib/device.js'
import { type DeviceHandle, type EventHandle, type GraphHandle, native, type StreamHandle } from '../../lib/native.js'
import * as ops from '../../lib/ops.js'
import type { Tensor } from '../../lib/tensor.js'
import { deviceTypes } from '../support/devices.js'

describe.each(deviceTypes)('an op on $name', ({ device }) => {
  const stream = device.stream
  const f32 = (...shape: number[]) => device.tensor('float32', shape)
  const bf16 = (...shape: number[]) => device.tensor('bfloat16', shape)
  const i32 = (...shape: number[]) => device.tensor('int32', shape)

  const norm = () => ({ y: f32(2, 8), rstd: f32(2), x: f32(2, 8), w: f32(8), eps: 1e-6 })
  const rope = () => ({
    qkv: f32(5, 4, 6),
    cos: f32(9, 3),
    sin: f32(9, 3),
    positions: i32(5),
    numHeads: 2,
    numKvHeads: 1,
  })
  const sample = () => ({
    ids: i32(2),
    positions: i32(2),
    history: i32(2, 9),
    logits: f32(2, 7),
    sequenceSeeds: i32(2),
    scratch: f32(2, 14),
    temperature: f32(2),
    topP: f32(2),
    repetitionPenalty: f32(2),
    topK: i32(2),
    seeds: i32(2, 2),
  })
  const gone = () => {
    const tensor = f32(2, 8)
    tensor.dispose()
    return tensor
  }
  // biome-ignore lint/suspicious/noExplicitAny: wrong arguments are the point.
  const wrong = (value: unknown): any => value

  const normWith = (change: object) => ops.rmsNormForward(stream, { ...norm(), ...change })
  const ropeWith = (change: object) => ops.ropeForward(stream, { ...rope(), ...change })
  const sampleWith = (change: object) => ops.sample(stream, { ...sample(), ...change })

  it.each<[string, () => void, string]>([
    ['another dtype', () => normWith({ rstd: bf16(2) }), 'rmsnorm_forward: rstd must be float32, got bfloat16'],
    ['an integer dtype', () => ropeWith({ positions: f32(5) }), 'rope_forward: positions must be int32, got float32'],
    [
      'a dtype unlike the others',
      () => normWith({ w: bf16(8) }),
      'rmsnorm_forward: w must be float32 like y, got bfloat16',
    ],
    [
      'no dtype to compute with',
      () => normWith({ y: i32(2, 8) }),
      'rmsnorm_forward: y must be float32 or bfloat16, got int32',
    ],
    [
      'float16',
      () => normWith({ y: device.tensor('float16', [2, 8]) }),
      'rmsnorm_forward: y must be float32 or bfloat16, got float16',
    ],
    ['no tensor', () => normWith({ x: undefined }), 'rmsnorm_forward: x must be a tensor'],
    ['an array', () => normWith({ x: new Float32Array(16) }), 'rmsnorm_forward: x must be a tensor'],
    ['a plain object', () => normWith({ x: {} }), 'rmsnorm_forward: x must be a tensor'],
    ['the handle of a stream', () => normWith({ x: stream.handle }), 'rmsnorm_forward: x must be a tensor'],
    ['a disposed tensor', () => normWith({ x: gone() }), 'rmsnorm_forward: x has been disposed of'],
    ['no number', () => normWith({ eps: '1e-6' }), 'rmsnorm_forward: eps must be a number'],
    [
      'no boolean',
      () => ops.matmul(stream, { c: f32(1, 1), a: f32(1, 1), b: f32(1, 1), transposeA: wrong(1) }),
      'matmul: transpose_a must be a boolean',
    ],
  ])('an op given %s throws a TypeError that names the op and the argument', (_, call, message) => {
    expect(call).toThrow(TypeError)
    expect(call).toThrow(expect.objectContaining({ message }))
  })

  it.each<[string, () => void, string]>([
    [
      'another length',
      () => normWith({ w: f32(7) }),
      'rmsnorm_forward: w must have shape [C] where C = 8 from y, got [7]',
    ],
    ['one dimension less', () => normWith({ x: f32(16) }), 'rmsnorm_forward: x must have shape [T, C], got [16]'],
    [
      'another number of tokens',
      () => normWith({ rstd: f32(3) }),
      'rmsnorm_forward: rstd must have shape [T] where T = 2 from y, got [3]',
    ],
    [
      'a wrong number of heads',
      () => ropeWith({ qkv: f32(5, 5, 6) }),
      'rope_forward: qkv must have shape [T, H+2K, 2R] where H = 2 from num_heads, K = 1 from num_kv_heads, got [5, 5, 6]',
    ],
    [
      'another head size',
      () => ropeWith({ qkv: f32(5, 4, 7) }),
      'rope_forward: qkv must have shape [T, H+2K, 2R] where R = 3 from cos, got [5, 4, 7]',
    ],
    [
      'inner dimensions that differ',
      () => ops.matmul(stream, { c: f32(2, 3), a: f32(2, 4), b: f32(5, 3) }),
      'matmul: b must have shape [k, n] where k = 4 from a, got [5, 3]',
    ],
    [
      'inner dimensions that differ once transposed',
      () => ops.matmul(stream, { c: f32(2, 3), a: f32(4, 2), b: f32(4, 3), transposeA: true, transposeB: true }),
      'matmul: b must have shape [n, k] where n = 3 from c, got [4, 3]',
    ],
    ['no heads', () => ropeWith({ numHeads: 0 }), 'rope_forward: num_heads must be positive, got 0'],
    ['half a head', () => ropeWith({ numKvHeads: 0.5 }), 'rope_forward: num_kv_heads must be an integer, got 0.500000'],
    ['a seed of one word', () => sampleWith({ seeds: i32(2, 1) }), 'sample: seeds must have shape [B, 2], got [2, 1]'],
    [
      'too little working memory',
      () => sampleWith({ scratch: f32(2, 13) }),
      'sample: scratch must have shape [B, 2V] where V = 7 from logits, got [2, 13]',
    ],
  ])(
    'an op given %s throws a RangeError that names the op, the argument, and the expected value',
    (_, call, message) => {
      expect(call).toThrow(RangeError)
      expect(call).toThrow(expect.objectContaining({ message }))
    },
  )

  it.each(['seed', 'streamId'])(
    'randomNormal throws a RangeError for %s = NaN, ±∞, or 2^70, and does not wrap it around',
    (name) => {
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 2 ** 70]) {
        const args = { x: f32(4), std: 1, seed: 0, streamId: 0, [name]: value }
        expect(() => ops.randomNormal(stream, args)).toThrow(RangeError)
      }
    },
  )

  it('attention throws a RangeError for key/value heads that do not divide its query heads', () => {
    const attention = (numHeads: number, numKvHeads: number) =>
      ops.attentionForward(device.createStream(), {
        qkv: f32(2, numHeads + 2 * numKvHeads, 8),
        out: f32(2, numHeads, 8),
        lse: f32(numHeads, 2),
        cuSeqlens: i32(2),
        numHeads,
        numKvHeads,
        scale: 1,
      })
    expect(() => attention(3, 2)).toThrow(RangeError)
    expect(() => attention(1, 2)).toThrow(/num_heads/)
  })

  it('an op enqueues nothing when it throws', async () => {
    const args = norm()
    for (const tensor of [args.x, args.w, args.y]) ops.fill(stream, { x: tensor, value: 1 })
    expect(() => ops.rmsNormForward(stream, { ...args, eps: wrong(null) })).toThrow(TypeError)
    await stream.synchronize()
    expect(await args.y.toArray()).toEqual(new Float32Array(16).fill(1))
  })

  it('an op accepts only tensors of its own device', () => {
    const other = new Device(device.type, native.deviceOpen(device.type))
    const foreign: Tensor = other.tensor('float32', [2, 8])
    expect(() => normWith({ x: foreign })).toThrow(
      new TypeError(`rmsnorm_forward: x is on another device (${device.type}) than the stream (${device.type})`),
    )
    const elsewhere = (name: string) =>
      expect.objectContaining({ message: expect.stringMatching(`^${name}: tensor is on another device`) })
    expect(() => stream.write(foreign, new Float32Array(16))).toThrow(elsewhere('write'))
    expect(() => stream.upload(foreign, new Float32Array(16))).toThrow(elsewhere('upload'))
    expect(() => stream.read(foreign, new Float32Array(16))).toThrow(elsewhere('read'))
  })

  it('an op rejects handles of another kind', () => {
    const tensor = f32(1)
    const event = device.createEvent()
    const calls: [() => unknown, string][] = [
      [() => ops.fill(wrong({ handle: tensor.handle }), { x: tensor, value: 0 }), 'fill: stream must be a stream'],
      [() => native.streamSynchronize(wrong(event) as StreamHandle), 'synchronize: stream must be a stream'],
      [() => stream.record(wrong(tensor.handle) as EventHandle), 'record: event must be an event'],
      [() => stream.wait(wrong({}) as EventHandle), 'wait: event must be an event'],
      [() => stream.launch(wrong(event) as GraphHandle), 'launch: graph must be a graph'],
      [() => native.streamCreate(wrong(stream.handle) as DeviceHandle), 'streamCreate: device must be a device'],
      [() => native.tensorDispose(wrong(stream.handle)), 'tensorDispose: tensor must be a tensor'],
    ]
    for (const [call, message] of calls) expect(call).toThrow(new TypeError(message))
  })
})
