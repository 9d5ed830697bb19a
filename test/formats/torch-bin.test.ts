import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { CheckpointError } from '../../lib/errors.js'
import { openSafetensors } from '../../lib/formats/safetensors/safetensors.js'
import { openTorchBin } from '../../lib/formats/torch/torch-bin.js'
import { contentsOf, fixtures, rejection, temporaryDirectory } from './helpers.js'
import {
  call,
  dictionary,
  global,
  integer,
  none,
  op,
  pickled,
  storedTensor,
  text,
  torchFile,
  tuple,
  zipFile,
} from './torch-file.js'

const directory = temporaryDirectory()
const fixture = (name: string) => path.join(fixtures, 'torch_bin', name)

function craft(bytes: Uint8Array): string {
  const file = path.join(directory, 'crafted.bin')
  writeFileSync(file, bytes)
  return file
}

async function read(bytes: Uint8Array) {
  const source = await openTorchBin(craft(bytes))
  const contents = await contentsOf(source)
  await source.close()
  return contents
}

const six = Buffer.from(Float32Array.of(0, 1, 2, 3, 4, 5).buffer)
const hex = (...values: number[]) => Buffer.from(new Float32Array(values).buffer).toString('hex')
const one = (view: Parameters<typeof storedTensor>[0]) => pickled(dictionary(text('x'), storedTensor(view)))

describe('reading torch files', () => {
  it.each(['zip.bin', 'legacy.bin'])(
    'reads views, transposed, tied, empty, scalar, and boolean tensors like PyTorch: %s',
    async (name) => {
      const source = await openTorchBin(fixture(name))
      const expected = await openSafetensors(fixture('expected.safetensors'))
      expect(await contentsOf(source)).toEqual(await contentsOf(expected))
      expect(source.tensors.size).toBe(11)
      await Promise.all([source.close(), expected.close()])
    },
  )

  it('reads a state dict in float16 with the metadata of its modules', async () => {
    const source = await openTorchBin(fixture('module_f16.bin'))
    const whole = await openSafetensors(path.join(fixtures, 'gqa/model.safetensors'))
    const names = [...source.tensors.keys()].filter((name) => name !== 'lm_head.weight') // tied to the embedding
    expect(names.sort()).toEqual([...whole.tensors.keys()].sort())
    const name = 'model.layers.1.self_attn.k_proj.weight'
    expect(source.tensors.get(name)).toMatchObject({ dtype: 'float16', shape: [64, 128], bytes: 64 * 128 * 2 })
    const [half, single] = [Buffer.alloc(64 * 128 * 2), Buffer.alloc(64 * 128 * 4)]
    await Promise.all([source.read(name, 0, half), whole.read(name, 0, single)])
    for (let i = 0; i < 64 * 128; i++) {
      const value = single.readFloatLE(4 * i)
      expect(Math.abs(decodeFloat16(half.readUInt16LE(2 * i)) - value)).toBeLessThanOrEqual(
        Math.abs(value) / 2048 + 2 ** -25,
      )
    }
    await Promise.all([source.close(), whole.close()])
  })

  it('reads any piece of a strided view', async () => {
    const source = await openTorchBin(fixture('zip.bin'))
    const { shape } = source.tensors.get('transposed')!
    const whole = Buffer.alloc(8 * 6 * 4)
    expect(shape).toEqual([8, 6])
    await source.read('transposed', 0, whole)
    await fc.assert(
      fc.asyncProperty(fc.nat(48), fc.nat(48), async (a, b) => {
        const [from, to] = [Math.min(a, b), Math.max(a, b)]
        const piece = Buffer.alloc((to - from) * 4)
        await source.read('transposed', from * 4, piece)
        expect(piece.equals(whole.subarray(from * 4, to * 4))).toBe(true)
      }),
      { seed: 21, numRuns: 60 },
    )
    await source.close()
  })

  it('reads the correct elements of views with any strides', async () => {
    const views = fc.tuple(
      fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 4 }),
      fc.infiniteStream(fc.nat(5)),
      fc.nat(3),
    )
    await fc.assert(
      fc.asyncProperty(views, async ([shape, stream, offset]) => {
        const strides = shape.map(() => stream.next().value as number)
        const places = shape.reduce<number[]>(
          (starts, size, i) =>
            starts.flatMap((start) => Array.from({ length: size }, (_, j) => start + j * strides[i]!)),
          [offset],
        )
        const numel = Math.max(...places) + 1
        const data = Buffer.from(Float32Array.from({ length: numel }, (_, i) => i).buffer)
        const { x } = await read(torchFile(one({ numel, shape, strides, offset }), { 0: data }))
        expect(x).toEqual({ dtype: 'float32', shape, bytes: hex(...places) })
      }),
      { seed: 22, numRuns: 100 },
    )
  })

  it('reads zip64 fields', async () => {
    const file = torchFile(one({ numel: 6, shape: [6], strides: [1] }), { 0: six }, { zip64: true })
    expect(await read(file)).toEqual({ x: { dtype: 'float32', shape: [6], bytes: hex(0, 1, 2, 3, 4, 5) } })
  })

  it('unwraps a Parameter', async () => {
    const data = storedTensor({ numel: 6, shape: [2], strides: [1], offset: 1 })
    const parameter = call(
      global('torch._utils', '_rebuild_parameter'),
      data,
      op('\x88'),
      call(global('collections', 'OrderedDict')),
    )
    const file = torchFile(pickled(dictionary(text('x'), parameter)), { 0: six })
    expect(await read(file)).toEqual({ x: { dtype: 'float32', shape: [2], bytes: hex(1, 2) } })
  })

  it("finds the only dictionary of tensors in a trainer's file", async () => {
    const state = dictionary(text('x'), storedTensor({ numel: 6, shape: [], strides: [], offset: 5 }))
    const wrapped = pickled(
      dictionary(text('epoch'), integer(3), text('args'), dictionary(text('lr'), none), text('state_dict'), state),
    )
    expect(await read(torchFile(wrapped, { 0: six }))).toEqual({ x: { dtype: 'float32', shape: [], bytes: hex(5) } })
    const twice = pickled(dictionary(text('model'), state, text('ema'), state))
    expect((await rejection(read(torchFile(twice, { 0: six })))).message).toMatch(/several dictionaries/)
  })

  it('skips objects of any class next to the state dict without executing them', async () => {
    const harm = call(global('os', 'system'), text('touch crafted.harm'))
    const state = dictionary(text('x'), storedTensor({ numel: 6, shape: [], strides: [], offset: 5 }))
    const around = [
      ...[
        text('harm'),
        harm,
        text('built'),
        Buffer.concat([call(global('a', 'B')), dictionary(text('y'), harm), op('b')]),
      ],
      ...[text('set'), op('\x8f(K\x01K\x02\x90'), text('frozen'), op('(K\x01\x91')],
      ...[text('made'), Buffer.concat([global('a', 'B'), tuple(), dictionary(text('z'), none), op('\x92')])],
      ...[text('method'), call(call(global('builtins', 'getattr'), harm, text('run')), integer(1))],
      ...[tuple(text('key'), integer(1)), none, harm, none],
    ]
    const file = torchFile(pickled(dictionary(...around, text('state_dict'), state)), { 0: six })
    expect(await read(file)).toEqual({ x: { dtype: 'float32', shape: [], bytes: hex(5) } })
    expect(existsSync('crafted.harm')).toBe(false)
  })

  it('reads dictionary keys that are names of JavaScript object properties', async () => {
    const value = storedTensor({ numel: 6, shape: [], strides: [] })
    const contents = await read(
      torchFile(pickled(dictionary(text('__proto__'), value, text('constructor'), value)), { 0: six }),
    )
    expect(Object.keys(contents).sort()).toEqual(['__proto__', 'constructor'])
    expect(({} as Record<string, unknown>).dtype).toBeUndefined()
  })
})

describe('rejecting torch files with more than plain tensors', () => {
  it.each([
    ['posix.system', call(global('posix', 'system'), text('touch crafted.harm'))],
    ['os.system', call(global('os', 'system'), text('touch crafted.harm'))],
    ['builtins.eval', call(global('builtins', 'eval'), text('1'))],
    ['collections.Counter', call(global('collections', 'Counter'))],
    ['torch._utils._rebuild_sparse_tensor', call(global('torch._utils', '_rebuild_sparse_tensor'))],
    ['numpy.core.multiarray._reconstruct', call(global('numpy.core.multiarray', '_reconstruct'))],
    ['__main__.constructor', call(global('__main__', 'constructor'))],
    ['os.system', Buffer.concat([text('os'), text('system'), op('\x93'), tuple(text('true')), op('R')])],
  ])('names %s, which a pickle requests', async (name, opcodes) => {
    const error = await rejection(read(torchFile(pickled(opcodes))))
    expect(error.message).toContain(`asks for ${name}, which is neither a tensor nor a plain container`)
    expect(existsSync('crafted.harm')).toBe(false)
  })

  it.each<[string, Buffer, RegExp]>([
    ['a call of a type', call(global('torch', 'FloatStorage')), /calls torch\.FloatStorage/],
    ['a call of a number', Buffer.concat([integer(1), tuple(), op('R')]), /not a function/],
    ['an opcode that tensors do not need', op('cos\n'), /cut short|asks for/],
    ['an object of a class', op('(i__main__\nModel\n'), /opcode 0x69/],
    ['an extension registry', op('\x82\x01'), /opcode 0x82/],
    ['attributes of a list', op(']}b'), /attributes of a value that has none/],
    ['an append to a dictionary', op('}Na'), /not a list/],
    ['an item of a list', op(']NNs'), /not a dictionary/],
    ['a pop of nothing', op('\x85'), /empty stack/],
    ['a group without a beginning', op('t'), /not begun/],
    ['a memo that was never made', op('h\x07'), /not defined/],
    ['a text longer than the file', op('X\xff\xff\xff\xff'), /cut short/],
    ['endless steps', Buffer.alloc(2_000_001, 'N'), /more than 2000000 steps/],
    ['a list of tensors', tuple(storedTensor({ numel: 6, shape: [6], strides: [1] })), /no dictionary of tensors/],
    [
      'a tensor whose name is a number',
      dictionary(integer(3), storedTensor({ numel: 6, shape: [6], strides: [1] })),
      /a tensor 3/,
    ],
    ['an OrderedDict of Python 2', call(global('collections', 'OrderedDict'), op(']')), /Python 2/],
  ])('rejects %s', async (_, opcodes, message) => {
    expect((await rejection(read(torchFile(pickled(opcodes), { 0: six })))).message).toMatch(message)
  })

  it.each<[string, Parameters<typeof storedTensor>[0], RegExp]>([
    ['more elements than its storage has', { numel: 6, shape: [7], strides: [1] }, /past the 24 bytes/],
    ['an offset past its storage', { numel: 6, shape: [1], strides: [1], offset: 6 }, /past the 24 bytes/],
    ['strides past its storage', { numel: 6, shape: [2, 2], strides: [5, 1] }, /past the 24 bytes/],
    ['a negative stride', { numel: 6, shape: [2], strides: [-1], offset: 1 }, /impossible shape/],
    ['a negative size', { numel: 6, shape: [-2], strides: [1] }, /impossible shape/],
    ['strides for another shape', { numel: 6, shape: [2, 3], strides: [1] }, /impossible shape/],
    [
      'a size beyond all numbers',
      { numel: 6, shape: Array(9).fill(2 ** 30), strides: Array(9).fill(0) },
      /impossible shape/,
    ],
    ['a storage larger than its entry', { numel: 7, shape: [1], strides: [1] }, /24 of its 28 bytes/],
    ['a missing storage', { key: '9', numel: 1, shape: [1], strides: [1] }, /storage 9 is missing/],
    ['a key with a path in it', { key: '../data.pkl', numel: 1, shape: [1], strides: [1] }, /is missing/],
    [
      'a storage of complex numbers',
      { storage: 'ComplexFloatStorage', numel: 3, shape: [1], strides: [1] },
      /x is a tensor of type ComplexFloat, which is not read/,
    ],
    ['a tensor without values', { location: 'meta', numel: 1, shape: [1], strides: [1] }, /meta device/],
  ])('rejects %s', async (_, view, message) => {
    expect((await rejection(read(torchFile(one(view), { 0: six })))).message).toMatch(message)
  })

  it.each<[string, () => Buffer, RegExp]>([
    [
      'compressed entries',
      () => torchFile(one({ numel: 6, shape: [6], strides: [1] }), { 0: six }, { compression: 8 }),
      /compressed/,
    ],
    [
      'encrypted entries',
      () => torchFile(one({ numel: 6, shape: [6], strides: [1] }), {}, { flags: 1 }),
      /size mismatch|encrypted/,
    ],
    [
      'two entries of one name',
      () =>
        zipFile([
          ['a/data.pkl', six],
          ['a/data.pkl', six],
        ]),
      /two entries/,
    ],
    ['an entry outside', () => zipFile([['../data.pkl', six]]), /invalid relative path/],
    ['a zip file of something else', () => zipFile([['word/document.xml', six]]), /0 data\.pkl/],
    [
      'a big-endian file',
      () =>
        zipFile([
          ['a/data.pkl', six],
          ['a/byteorder', Buffer.from('big')],
        ]),
      /big-endian/,
    ],
    ['the tar form', () => Buffer.from(`${'\0'.repeat(257)}ustar${'\0'.repeat(600)}`), /tar form/],
    ['a web page', () => Buffer.from('<!DOCTYPE html><html></html>'), /not written by torch\.save/],
    ['an empty file', () => Buffer.alloc(0), /not written by torch\.save/],
    ['a Git LFS pointer', () => Buffer.from('version https://git-lfs.github.com/spec/v1\n'), /git lfs pull/],
    ['a zip file cut short', () => readFileSync(fixture('zip.bin')).subarray(0, 2000), /download or copy it again/],
    ['a legacy file cut short in its values', () => readFileSync(fixture('legacy.bin')).subarray(0, -100), /cut short/],
    ['a legacy file cut short in its pickles', () => readFileSync(fixture('legacy.bin')).subarray(0, 700), /cut short/],
  ])('rejects %s', async (_, make, message) => {
    const error = await rejection(read(make()))
    expect(error.message).toContain(craft(make()))
    expect(error.message).toMatch(message)
  })

  it.each(['zip.bin', 'legacy.bin'])(
    'any damage to a torch file gives an error that names the file, or other values: %s',
    async (name) => {
      const original = readFileSync(fixture(name))
      // Half of the damage hits the structure: the pickle at the front, the zip directory at the end.
      const position = fc.oneof(
        fc.nat(900),
        fc.integer({ min: original.length - 1400, max: original.length - 1 }),
        fc.nat(original.length - 1),
      )
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.tuple(position, fc.nat(255)), { minLength: 1, maxLength: 4 }),
          fc.option(fc.nat(original.length), { freq: 8 }),
          async (damages, cut) => {
            const bytes = Buffer.from(original)
            for (const [at, value] of damages) bytes[at] = value
            try {
              await readBounded(bytes.subarray(0, cut ?? bytes.length))
            } catch (error) {
              expect(error).toBeInstanceOf(CheckpointError)
              expect((error as Error).message).toContain('crafted.bin')
            }
          },
        ),
        { seed: 23, numRuns: 400 },
      )
    },
  )
})

/** Reads a little of every tensor: a damaged stride of 0 makes a large tensor out of few bytes, as in torch. */
async function readBounded(bytes: Uint8Array): Promise<void> {
  const source = await openTorchBin(craft(bytes))
  try {
    for (const { name, bytes: length } of source.tensors.values())
      await source.read(name, 0, Buffer.alloc(Math.min(length, 64)))
  } finally {
    await source.close()
  }
}

function decodeFloat16(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15, (bits >> 10) & 31, bits & 1023]
  const magnitude = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15)
  return sign ? -magnitude : magnitude
}
