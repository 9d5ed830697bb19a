import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { castBytes } from '../../lib/formats/cast.js'
import { openModelWeights, openWeightFile } from '../../lib/formats/model-files.js'
import { openSafetensors } from '../../lib/formats/safetensors/safetensors.js'
import { writeSafetensors } from '../../lib/formats/safetensors/safetensors-writer.js'
import { zeroToFp32 } from '../../lib/tools/zero-to-fp32.js'
import { contentsOf, fixtures, float32, rejection, temporaryDirectory } from '../formats/helpers.js'
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
} from '../formats/torch-file.js'

const root = temporaryDirectory()
const fresh = () => mkdtempSync(path.join(root, 'case-'))
const deepspeed = path.join(fixtures, 'deepspeed')
/** Written by DeepSpeed on three ranks. */
const three = path.join(deepspeed, 'stage3_bf16')
const tag = 'global_step2'
const d100 = path.join(fixtures, 'd100')

async function contents(open: Promise<Parameters<typeof contentsOf>[0] & { close(): Promise<void> }>) {
  const source = await open
  const tensors = await contentsOf(source)
  await source.close()
  return tensors
}
const expected = (name: string) => contents(openSafetensors(path.join(deepspeed, `${name}.expected.safetensors`)))
describe('zero-to-fp32 of DeepSpeed’s checkpoints', () => {
  it.each(['model.safetensors', 'pytorch_model.bin'])(
    'zero-to-fp32 matches DeepSpeed’s own script bit for bit: %s',
    async (name) => {
      const output = path.join(fresh(), name)
      await zeroToFp32({ checkpoint: three, output })
      expect(await contents(openWeightFile(output))).toEqual(await expected('stage3_bf16'))
      expect(readdirSync(path.dirname(output))).toEqual([name])
    },
  )

  it('zero-to-fp32 accepts the directory of the states as well as the one with "latest"', async () => {
    const output = path.join(fresh(), 'a.safetensors')
    await zeroToFp32({ checkpoint: path.join(three, tag), output })
    expect(await contents(openSafetensors(output))).toEqual(await expected('stage3_bf16'))
  })

  const cases = readdirSync(deepspeed).filter((name) =>
    existsSync(path.join(deepspeed, `${name}.expected.safetensors`)),
  )

  it.each(cases)('zero-to-fp32 restores every bit of a checkpoint that DeepSpeed wrote: %s', async (name) => {
    const output = path.join(fresh(), 'a.safetensors')
    await zeroToFp32({ checkpoint: path.join(deepspeed, name), output })
    const read = await contents(openSafetensors(output))
    const wanted = await expected(name)
    expect(read).toMatchObject(wanted)
    // DeepSpeed's script loses the frozen parameters of stage 1, which the module contains.
    expect(Object.keys(read)).toHaveLength(15 - (name === 'stage3_without_frozen' ? 4 : 0))
  })

  it('reads checkpoints of every stage, in every type, from 1 to 8 ranks', () => {
    expect(cases).toHaveLength(17)
  })

  it('takes frozen parameters from the module if DeepSpeed lists none', async () => {
    const output = path.join(fresh(), 'a.safetensors')
    await zeroToFp32({ checkpoint: path.join(deepspeed, 'stage1_bf16'), output })
    const file = path.join(deepspeed, 'stage1_bf16', tag, 'mp_rank_00_model_states.pt')
    const { 'layers.0.up_proj.weight': frozen } = await contents(openWeightFile(file))
    const wide = castBytes(new Uint8Array(Buffer.from(frozen!.bytes, 'hex')), 'bfloat16', 'float32')
    expect((await contents(openSafetensors(output)))['layers.0.up_proj.weight']).toEqual({
      ...{ dtype: 'float32', shape: [9, 7], bytes: Buffer.from(wide).toString('hex') },
    })
  })

  it.each(['stage1_bf16', 'stage2_fp16', 'stage2_fp16_universal', 'stage3_bf16', 'stage0_fp16'])(
    'keeps tied parameters tied: %s',
    async (name) => {
      const output = path.join(fresh(), 'tied.bin')
      await zeroToFp32({ checkpoint: path.join(deepspeed, name), output })
      const source = await openWeightFile(output)
      const tied = [...source.tensors.values()].flatMap(({ name, sameAs }) => (sameAs ? [[name, sameAs].sort()] : []))
      expect(tied).toEqual([['embed_tokens.weight', 'lm_head.weight']])
      await source.close()
    },
  )

  it('reads the weights that DeepSpeed gathers in 16 bits', async () => {
    const gathered = await contents(openWeightFile(path.join(deepspeed, 'stage3_offload/pytorch_model.bin')))
    const masters = await expected('stage3_offload')
    for (const [name, { dtype, bytes }] of Object.entries(gathered)) {
      if (dtype !== 'bfloat16') continue
      const rounded = castBytes(new Uint8Array(Buffer.from(masters[name]!.bytes, 'hex')), 'float32', 'bfloat16')
      expect(bytes).toBe(Buffer.from(rounded).toString('hex'))
    }
    expect(Object.keys(gathered).sort()).toEqual(Object.keys(masters).sort())
  })

  it('reads the directory that latest_universal names, or the only one if none is named', async () => {
    const checkpoint = path.join(fresh(), 'checkpoint')
    cpSync(three, checkpoint, { recursive: true })
    rmSync(path.join(checkpoint, 'latest'))
    const output = path.join(fresh(), 'a.safetensors')
    await zeroToFp32({ checkpoint, output })
    expect(await contents(openSafetensors(output))).toEqual(await expected('stage3_bf16'))
    cpSync(path.join(checkpoint, tag), path.join(checkpoint, 'another'), { recursive: true })
    const { message } = await rejection(zeroToFp32({ checkpoint, output }))
    expect(message).toMatch(/several checkpoints of DeepSpeed \(another, global_step2\): give one of them/)
  })

  it.each([1, 3, 7])('writes a Hugging Face directory from %s ranks, with Hugging Face’s names', async (world) => {
    const checkpoint = await partitioned(world)
    const output = path.join(fresh(), 'model')
    const { renamed } = await zeroToFp32({ checkpoint, output, modelPath: d100, maxShardSize: '900KB' })
    expect(renamed).toBe(2 * 9 + 3)
    expect(await contents(openModelWeights(output))).toEqual(await contents(openModelWeights(d100)))
    const others = ['config.json', 'generation_config.json', 'special_tokens_map.json', 'tokenizer.model']
    expect(readdirSync(output)).toEqual(expect.arrayContaining([...others, 'model.safetensors.index.json']))
  })

  it('converts to the requested type, and records it in the config', async () => {
    const output = path.join(fresh(), 'model')
    const flags = { dtype: 'bfloat16', format: 'bin' } as const
    await zeroToFp32({ checkpoint: await partitioned(2), output, modelPath: d100, ...flags })
    const [rounded, original] = [await contents(openModelWeights(output)), await contents(openModelWeights(d100))]
    for (const [name, { dtype, bytes }] of Object.entries(rounded)) {
      const wide = new Uint8Array(Buffer.from(original[name]!.bytes, 'hex'))
      const expected = Buffer.from(castBytes(wide, 'float32', 'bfloat16')).toString('hex')
      expect([dtype, bytes]).toEqual(['bfloat16', expected])
    }
    expect(JSON.parse(readFileSync(path.join(output, 'config.json'), 'utf8')).torch_dtype).toBe('bfloat16')
    expect(readdirSync(output)).toContain('pytorch_model.bin')
  })

  it('asks for the config of an output directory, and rejects one of another model', async () => {
    const output = path.join(fresh(), 'model')
    expect((await rejection(zeroToFp32({ checkpoint: three, output }))).message).toMatch(/model_path/)
    const misfit = await rejection(zeroToFp32({ checkpoint: three, output, modelPath: path.join(fixtures, 'd100') }))
    expect(misfit.message).toMatch(/does not fit .*d100.config\.json: expected tensors such as model\.layers/)
  })

  it.each<[string, (directory: string) => void, RegExp]>([
    [
      'a rank is missing',
      (at) => rmSync(path.join(at, `${tag}/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt`)),
      /is missing the optimizer states of rank 1 of 3/,
    ],
    [
      'the last rank is missing',
      (at) => {
        rmSync(path.join(at, `${tag}/bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt`))
        rmSync(path.join(at, `${tag}/zero_pp_rank_2_mp_rank_00_model_states.pt`))
      },
      /is one of 3 ranks, and 2 are here/,
    ],
    [
      'latest names another place',
      (at) => writeFileSync(path.join(at, 'latest'), '../0'),
      /not a directory next to it/,
    ],
    ['latest names nothing', (at) => writeFileSync(path.join(at, 'latest'), '7'), /no states of DeepSpeed/],
    [
      'a file is cut short',
      (at) => {
        const file = path.join(at, `${tag}/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt`)
        writeFileSync(file, readFileSync(file).subarray(0, -300))
      },
      /rank_1_mp_rank_00_optim_states\.pt cannot be read/,
    ],
    [
      'it is split over GPUs as well',
      (at) =>
        cpSync(
          path.join(at, `${tag}/zero_pp_rank_0_mp_rank_00_model_states.pt`),
          path.join(at, `${tag}/zero_pp_rank_0_mp_rank_01_model_states.pt`),
        ),
      /split over GPUs/,
    ],
    ...(
      [
        ['layer_0_expert_1_mp_rank_00_model_states.pt', /mixture of experts \(layer_0_expert_1/],
        ['expp_rank_0_mp_rank_00_optim_states.pt', /mixture of experts/],
        ['layer_03-model_00-model_states.pt', /pipeline of layers \(layer_03/],
        ['offloaded_tensors', /optimizer on NVMe/],
      ] as [string, RegExp][]
    ).map(([name, message]): [string, (directory: string) => void, RegExp] => [
      `there is ${name}`,
      (at) => mkdirSync(path.join(at, tag, name)),
      message,
    ]),
    [
      'all optimizer states are missing',
      (at) => {
        rmSync(at, { recursive: true })
        cpSync(path.join(deepspeed, 'stage2_fp16'), at, { recursive: true })
        const files = readdirSync(path.join(at, tag)).filter((name) => name.includes('optim_states'))
        for (const name of files) rmSync(path.join(at, tag, name))
      },
      /is of ZeRO, and the optimizer states of all ranks .* are missing/,
    ],
    [
      'a part of stage 2 is missing',
      (at) => {
        rmSync(at, { recursive: true })
        cpSync(path.join(deepspeed, 'stage2_fp16'), at, { recursive: true })
        rmSync(path.join(at, tag, 'zero_pp_rank_2_mp_rank_00_optim_states.pt'))
      },
      /is one of 3 ranks, and 2 are here/,
    ],
    [
      'a parameter of a universal checkpoint is missing',
      (at) => {
        rmSync(at, { recursive: true })
        cpSync(path.join(deepspeed, 'stage3_bf16_universal'), at, { recursive: true })
        rmSync(path.join(at, `${tag}_universal/zero/gain`), { recursive: true })
      },
      /zero\/gain is missing/,
    ],
  ])('rejects a checkpoint when %s, and writes nothing', async (_, damage, message) => {
    const checkpoint = path.join(fresh(), 'checkpoint')
    cpSync(three, checkpoint, { recursive: true })
    damage(checkpoint)
    const output = path.join(fresh(), 'a.bin')
    expect((await rejection(zeroToFp32({ checkpoint, output }))).message).toMatch(message)
    expect(readdirSync(path.dirname(output))).toEqual([])
  })

  it('names the class of an object in place of the weights', async () => {
    const harm = call(global('posix', 'system'), text('true'))
    const checkpoint = crafted({ optimizer: dictionary(text('optimizer_state_dict'), harm) })
    const error = await rejection(zeroToFp32({ checkpoint, output: path.join(fresh(), 'a.bin') }))
    expect(error.message).toMatch(/optim_states\.pt has no optimizer_state_dict, but posix\.system, which is not built/)
  })

  it.each<[string, number[], number, RegExp]>([
    ['more than the ranks hold', [7], 6, /need more than the 24 bytes/],
    ['less than the ranks hold', [5], 6, /need 20 bytes of each rank, and 24 are there/],
  ])('rejects parameters that take %s', async (_, shape, held, message) => {
    const checkpoint = crafted({ shape, held })
    expect((await rejection(zeroToFp32({ checkpoint, output: path.join(fresh(), 'a.bin') }))).message).toMatch(message)
  })

  it('rejects an unknown ZeRO stage by name', async () => {
    const checkpoint = crafted({ stage: 4 })
    const { message } = await rejection(zeroToFp32({ checkpoint, output: path.join(fresh(), 'a.bin') }))
    expect(message).toMatch(/is of ZeRO stage 4, and 0 to 3 are known/)
  })

  it('keeps an existing file if the checkpoint is incomplete, and replaces it if it is complete', async () => {
    const output = path.join(fresh(), 'a.safetensors')
    writeFileSync(output, 'before')
    await rejection(zeroToFp32({ checkpoint: crafted({ stage: 4 }), output }))
    expect(readFileSync(output, 'utf8')).toBe('before')
    await zeroToFp32({ checkpoint: crafted({}), output })
    expect(Object.keys(await contents(openSafetensors(output)))).toEqual(['w'])
  })
})

/** d100 as DeepSpeed would save it on this number of ranks, with OpenAlpaca's names. */
async function partitioned(world: number): Promise<string> {
  const directory = fresh()
  const source = await openModelWeights(d100)
  const flat: Buffer[][] = Array.from({ length: world }, () => [])
  const shapes: Buffer[] = []
  for (const { name, shape, bytes } of source.tensors.values()) {
    const part = Math.ceil(bytes / 4 / world) * 4
    const padded = Buffer.alloc(part * world)
    await source.read(name, 0, padded.subarray(0, bytes))
    flat.forEach((parts, rank) => {
      parts.push(padded.subarray(rank * part, (rank + 1) * part))
    })
    shapes.push(text(`model.${name}`), call(global('torch', 'Size'), tuple(...shape.map(integer))))
  }
  await source.close()
  flat.forEach((parts, rank) => {
    writeRank(directory, { rank, world, shapes, flat: Buffer.concat(parts) })
  })
  return directory
}

interface Rank {
  rank: number
  world: number
  /** Alternating names and sizes. */
  shapes: Buffer[]
  flat: Buffer
  /** Elements of the flat group, if they differ from those of `flat`. */
  held?: number
  stage?: number
  optimizer?: Buffer
}

function writeRank(directory: string, { rank, world, shapes, flat, held, stage = 3, optimizer }: Rank): void {
  const numel = flat.length / 4
  const group = storedTensor({ numel, shape: [held ?? numel], strides: [1] })
  const model = dictionary(
    ...[text('param_shapes'), Buffer.concat([op(']'), dictionary(...shapes), op('a')])],
    ...[text('frozen_param_shapes'), none, text('shared_params'), op('}'), text('buffer_names'), op(']')],
  )
  const inner = dictionary(
    ...[text('zero_stage'), integer(stage), text('partition_count'), integer(world)],
    ...[text('fp32_flat_groups'), Buffer.concat([op(']'), group, op('a')])],
  )
  const states = optimizer ?? dictionary(text('optimizer_state_dict'), inner)
  const file = (kind: string) => path.join(directory, `zero_pp_rank_${rank}_mp_rank_00_${kind}_states.pt`)
  writeFileSync(file('model'), torchFile(pickled(model)))
  writeFileSync(file('optim'), torchFile(pickled(states), { 0: flat }))
}

/** A checkpoint of one rank with one parameter `w`. */
function crafted({ shape = [6], ...wrong }: Partial<Rank> & { shape?: number[] }): string {
  const directory = fresh()
  const shapes = [text('w'), call(global('torch', 'Size'), tuple(...shape.map(integer)))]
  const flat = Buffer.from(Float32Array.of(0, 1, 2, 3, 4, 5).buffer)
  writeRank(directory, { rank: 0, world: 1, shapes, flat, ...wrong })
  return directory
}

/** A training checkpoint of this package, split for this number of ranks: two units, the second with a gap in it. */
async function ownCheckpoint(world: number): Promise<{ directory: string; values: Record<string, number[]> }> {
  const directory = fresh()
  const units = [
    { name: 'a', length: 6, parameters: [{ name: 'x', shape: [2, 3], offset: 0 }] },
    {
      name: 'b',
      length: 12,
      parameters: [
        { name: 'y', shape: [3], offset: 0 },
        { name: 'z', shape: [4], offset: 8 },
      ],
    },
  ]
  const all = units.map(({ length }, i) => Array.from({ length }, (_, j) => 100 * i + j))
  const files: Record<string, { bytes: number; sha256: string }> = {}
  for (let rank = 0; rank < world; rank++) {
    const digits = (value: number) => String(value).padStart(5, '0')
    const name = `rank-${digits(rank)}-of-${digits(world)}.safetensors`
    const tensors = units.map(({ name, length }, i) => {
      const part = Math.ceil(length / world)
      const values = Array.from({ length: part }, (_, j) => all[i]![rank * part + j] ?? -1)
      return float32(`master.${name}`, [part], values)
    })
    const { bytes, sha256 } = await writeSafetensors(path.join(directory, name), tensors, { checksum: true })
    files[name] = { bytes, sha256: sha256! }
  }
  const manifest = {
    ...{ format: 'openalpaca-checkpoint', version: 1, package_version: '0', world_size: world, dtype: 'bfloat16' },
    ...{ step: 4, data: { fingerprint: 'x', instances_seen: 1 }, units, recipe: {}, files },
  }
  writeFileSync(path.join(directory, 'manifest.json'), JSON.stringify(manifest))
  return { directory, values: { x: all[0]!, y: all[1]!.slice(0, 3), z: all[1]!.slice(8) } }
}

describe('zero-to-fp32 of our own checkpoints', () => {
  it.each([1, 2, 4, 5])('joins the units of %s ranks, without padding and gaps', async (world) => {
    const { directory, values } = await ownCheckpoint(world)
    const output = path.join(fresh(), 'a.safetensors')
    await zeroToFp32({ checkpoint: directory, output })
    const hex = (list: number[]) => Buffer.from(Float32Array.from(list).buffer).toString('hex')
    const tensors = await contents(openSafetensors(output))
    expect(Object.fromEntries(Object.entries(tensors).map(([name, { bytes }]) => [name, bytes]))).toEqual(
      Object.fromEntries(Object.entries(values).map(([name, list]) => [name, hex(list)])),
    )
    expect(tensors.x).toMatchObject({ shape: [2, 3], dtype: 'float32' })
  })

  it('reports a missing rank or a wrong manifest', async () => {
    const { directory } = await ownCheckpoint(2)
    const output = path.join(fresh(), 'a.bin')
    const file = path.join(directory, 'manifest.json')
    const manifest = readFileSync(file, 'utf8')
    const refused = async (text: string) => {
      writeFileSync(file, text)
      return (await rejection(zeroToFp32({ checkpoint: directory, output }))).message
    }
    expect(await refused(manifest.replace('"world_size":2', '"world_size":3'))).toMatch(/2 of its 3 ranks/)
    expect(await refused(manifest.replaceAll('rank-00000', '../rank-00000'))).toMatch(/manifest\.json is damaged/)
    expect(await refused(manifest.replace('"offset":8', '"offset":9'))).toMatch(/z reaches past the end of its unit/)
    writeFileSync(file, manifest)
    rmSync(path.join(directory, 'rank-00001-of-00002.safetensors'))
    expect((await rejection(zeroToFp32({ checkpoint: directory, output }))).message).toMatch(/is missing/)
  })
})
