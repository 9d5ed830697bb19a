import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { writeSafetensors } from '../../lib/formats/safetensors/safetensors-writer.js'
import { fixtures } from '../support/fixtures.js'
import { Random } from '../support/numbers.js'
import { canMount, withSmallDisk } from '../support/small-disk.js'

const root = mkdtempSync(path.join(tmpdir(), 'checkpoint-tools-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const fresh = () => mkdtempSync(path.join(root, 'case-'))
const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js')
const d100 = path.join(fixtures, 'd100')

function openalpaca(...args: string[]) {
  return spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' })
}

function copyOf(directory: string): string {
  const copy = path.join(fresh(), 'model')
  cpSync(directory, copy, { recursive: true })
  return copy
}

const hash = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

/** Every file of a directory with the hash of its bytes, without temporary files. */
function snapshot(directory: string): Record<string, string> {
  const names = readdirSync(directory).filter((name) => !/^\.|\.tmp-/.test(name))
  return Object.fromEntries(names.map((name) => [name, hash(readFileSync(path.join(directory, name)))]))
}

describe('the commands for checkpoints', () => {
  it('the checkpoint tools convert a training checkpoint to a complete model in shards', { timeout: 120_000 }, () => {
    const run = fresh()
    const flags = [
      '--device',
      'cpu',
      '--dtype',
      'float32',
      '--max_length',
      '224',
      '--batch_size',
      '4',
      '--validation_size',
      '0',
    ]
    const data = ['--model_path', d100, '--data_path', path.join(fixtures, 'instructions.json'), '--save_path', run]
    const trained = openalpaca('train', ...data, ...flags, '--max_steps', '2', '--checkpoint_every', '2')
    expect(trained.stderr).toBe('')
    const checkpoint = path.join(run, 'checkpoint-2')
    const model = path.join(run, 'fp32')
    expect(openalpaca('inspect', checkpoint)).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/step 2, 1 rank\n/),
    })

    const merged = openalpaca('zero-to-fp32', checkpoint, model)
    expect([merged.status, merged.stdout]).toEqual([
      0,
      expect.stringMatching(/model\.safetensors, .* read back and compared/),
    ])
    const weights = (directory: string) => readFileSync(path.join(directory, 'model.safetensors'))
    expect(weights(model).equals(weights(run))).toBe(true)

    const split = openalpaca('make-shards', '--model-path', model, '--max-shard-size', '600KB', '--format', 'bin')
    expect([split.status, split.stdout]).toEqual([0, expect.stringMatching(/fp32-shards: 5 shards and their index/)])
    const inspected = openalpaca('inspect', `${model}-shards`, '--json')
    expect(inspected.status).toBe(0)
    expect(JSON.parse(inspected.stdout)).toMatchObject({ whole: true, files: { length: 5 }, checksums: 'CRC-32' })

    rmSync(path.join(`${model}-shards`, 'pytorch_model-00001-of-00005.bin'))
    expect(openalpaca('inspect', `${model}-shards`)).toMatchObject({
      status: 1,
      stdout: expect.stringMatching(/damaged or incomplete\n {4}.*is missing 1 of the 5 shards/),
    })
  })

  it.each<[string[], number, RegExp]>([
    [['make-shards', '--model_path', d100, '--output', 'x', '--replace'], 2, /leave out --output, or --replace/],
    [
      ['make-shards', '--model_path', d100, '--max_shard_size', 'big'],
      2,
      /--max_shard_size: expected a size such as 5GB/,
    ],
    [['make-shards', '--model_path', path.join(root, 'no')], 1, /Cannot read .*no: there is no such file/],
    [['make-shards', '--model_path', d100, '--format', 'gguf'], 2, /Allowed choices are safetensors, bin/],
    [['zero-to-fp32', d100, path.join(root, 'x.bin')], 1, /not a DeepSpeed checkpoint/],
    [['zero-to-fp32', path.join(fixtures, 'deepspeed/stage3_bf16')], 2, /missing required argument 'output'/],
    [['inspect', path.join(root, 'no')], 1, /Cannot read .*no: there is no such file/],
  ])('the checkpoint tools print one error line for %j', (args, status, message) => {
    const { status: actual, stderr } = openalpaca(...args)
    expect(stderr).toMatch(message)
    expect(stderr.trim().split('\n')).toHaveLength(1)
    expect(actual).toBe(status)
  })
})

/** A model of 24 MB, so that there is time to interrupt the command. */
async function largeModel(): Promise<string> {
  const directory = path.join(fresh(), 'model')
  mkdirSync(directory)
  const tensors = Array.from({ length: 12 }, (_, i) => ({
    name: `w.${i}`,
    dtype: 'float32' as const,
    shape: [500_000],
    data: () => Buffer.alloc(2_000_000, i + 1),
  }))
  await writeSafetensors(path.join(directory, 'model.safetensors'), tensors)
  writeFileSync(path.join(directory, 'config.json'), '{}')
  return directory
}

describe('make-shards killed with kill -9', () => {
  it.each([[['--output', 'OUTPUT']], [['--replace']]])(
    'make-shards killed at any moment, with %j, leaves the model complete and no partial file under a final name',
    { timeout: 120_000 },
    async (how) => {
      const source = await largeModel()
      const random = new Random(7)
      for (let round = 0; round < 8; round++) {
        const parent = fresh()
        const model = path.join(parent, 'model')
        cpSync(source, model, { recursive: true })
        const output = path.join(parent, 'output')
        const flags = how.map((word) => word.replace('OUTPUT', output))
        const args = [
          main,
          'make-shards',
          '--model_path',
          model,
          '--max_shard_size',
          '5MB',
          '--format',
          'bin',
          ...flags,
        ]
        const child = spawn(process.execPath, args, { stdio: 'ignore' })
        const exit = once(child, 'exit')
        // From the start of the program to slightly after its end.
        const delay = 100 + 700 * random.uniform()
        const timer = setTimeout(() => child.kill('SIGKILL'), delay)
        await exit
        clearTimeout(timer)

        if (how[0] === '--output') {
          expect(snapshot(model)).toEqual(snapshot(source))
          if (!existsSync(output)) continue
        }
        const inspected = openalpaca('inspect', how[0] === '--output' ? output : model, '--json')
        const { problems, tensors } = JSON.parse(inspected.stdout)
        expect(problems.filter((problem: string) => !problem.includes('config.json'))).toEqual([])
        expect(tensors).toHaveLength(12)
      }
    },
  )
})

describe('an unwritable target', () => {
  it('a read-only target is named in the error, and nothing is changed', () => {
    const model = copyOf(d100)
    const before = snapshot(model)
    const { stderr, status } = openalpaca('make-shards', '--model_path', model, '--output', '/proc/shards')
    expect([status, stderr]).toEqual([1, expect.stringMatching(/^error: Cannot save \/proc\/shards: /)])
    const file = openalpaca('zero-to-fp32', path.join(fixtures, 'deepspeed/stage3_bf16'), '/proc/state.bin')
    expect([file.status, file.stderr]).toEqual([1, expect.stringMatching(/^error: Cannot save \/proc\/state\.bin: /)])
    expect(snapshot(model)).toEqual(before)
  })

  // Without user namespaces the test cannot mount a small disk; test/checkpoint fills /dev/full then.
  it.runIf(canMount)('a target on a full disk stays unchanged', async () => {
    const disk = path.join(fresh(), 'disk')
    const model = await largeModel()
    const script = `shift; cp -r "${model}" "${disk}/model"
      "$@" ; echo "code $?"; ls -A "${disk}" "${disk}/model"; cmp "${model}/model.safetensors" "${disk}/model/model.safetensors" && echo same`
    const command = [process.execPath, main, 'make-shards', '--model_path', `${disk}/model`]
    for (const how of [['--output', `${disk}/out`], ['--replace']]) {
      const { stdout, stderr } = withSmallDisk(script, disk, 30, ...command, ...how)
      expect(stderr).toMatch(/error: Cannot save .*: it needs 24\.0 MB, and .* are free; nothing was changed/)
      expect(stdout).toMatch(/code 1\n/)
      expect(stdout).toMatch(/same\n$/)
      expect(stdout).not.toMatch(/tmp-|out\n|pytorch/)
    }
  })
})

/** A training checkpoint of one rank with a parameter of 24 MB. */
async function largeCheckpoint(): Promise<string> {
  const directory = path.join(fresh(), 'checkpoint-1')
  mkdirSync(directory)
  const length = 6_000_000
  const file = 'rank-00000-of-00001.safetensors'
  const data = () => Buffer.alloc(4 * length, 7)
  const master = { name: 'master.a', dtype: 'float32' as const, shape: [length], data }
  const { bytes, sha256 } = await writeSafetensors(path.join(directory, file), [master], { checksum: true })
  const units = [{ name: 'a', length, parameters: [{ name: 'w', shape: [length], offset: 0 }] }]
  const manifest = {
    ...{ format: 'openalpaca-checkpoint', version: 1, package_version: '0', world_size: 1, dtype: 'float32', step: 1 },
    ...{ data: { fingerprint: '', instances_seen: 0 }, units, recipe: {}, files: { [file]: { bytes, sha256 } } },
  }
  writeFileSync(path.join(directory, 'manifest.json'), JSON.stringify(manifest))
  return directory
}

/** Each tool that writes weights: its input, its command line, and a file size limit in KB that its output exceeds. */
const tools: [string, () => string | Promise<string>, (input: string, output: string) => string[], number][] = [
  ['make-shards', largeModel, (input, output) => ['make-shards', '--model_path', input, '--output', output], 20_000],
  ['zero-to-fp32', largeCheckpoint, (input, output) => ['zero-to-fp32', input, `${output}.safetensors`], 20_000],
  ['convert', () => d100, (input, output) => ['convert', '--model_path', input, '--output', `${output}.gguf`], 1000],
]

describe.each(tools)('%s, interrupted', (_, makeInput, commandLine, kilobytes) => {
  it('on SIGINT, a tool leaves no output or complete output', async () => {
    const [input, parent] = [await makeInput(), fresh()]
    const before = snapshot(input)
    const child = spawn(process.execPath, [main, ...commandLine(input, path.join(parent, 'out'))], { stdio: 'ignore' })
    const exit = once(child, 'exit')
    while (readdirSync(parent).length === 0 && child.exitCode === null) {
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    child.kill('SIGINT')
    const [code] = await exit
    expect([0, 130]).toContain(code)
    expect(readdirSync(parent)).toEqual(code === 0 ? [expect.stringMatching(/^out/)] : [])
    expect(snapshot(input)).toEqual(before)
  })

  it('at a file size limit, a tool leaves no output and reports the error', async () => {
    const [input, parent] = [await makeInput(), fresh()]
    const before = snapshot(input)
    const limited = ['-c', `ulimit -f ${2 * kilobytes} && exec "$0" "$@"`, process.execPath, main]
    const { status, stderr } = spawnSync('sh', [...limited, ...commandLine(input, path.join(parent, 'out'))], {
      encoding: 'utf8',
    })
    expect([status, stderr]).toEqual([
      1,
      expect.stringMatching(/^error: Cannot save \S+: a file would be larger than .* allows; nothing was changed.*\n$/),
    ])
    expect(readdirSync(parent)).toEqual([])
    expect(snapshot(input)).toEqual(before)
  })
})
