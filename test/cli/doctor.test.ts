import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { addonAdvice } from '../../lib/addon-advice.js'
import { describe as describeDiagnosis } from '../../lib/cli/commands/doctor.js'
import { type Diagnosis, diagnose, gpuProblems } from '../../lib/tools/doctor.js'
import { packageVersion } from '../../lib/version.js'
import { root } from '../support/typescript.js'

const directory = mkdtempSync(join(tmpdir(), 'doctor-'))
afterAll(() => rmSync(directory, { recursive: true }))

describe('doctor', () => {
  test('doctor reports machine, devices, and libraries, and finds no problem on a working setup', async () => {
    const diagnosis = await diagnose({ HF_HUB_CACHE: join(directory, 'cache') })
    expect(diagnosis).toMatchObject({ node: process.versions.node, problems: [] })
    expect(diagnosis.backends.map(({ device }) => device)).toEqual(['cpu', 'cuda'])
    expect(diagnosis.backends[0]!.libraries).toEqual({
      oneDNN: expect.stringMatching(/^\d+\.\d+\.\d+$/),
      Gloo: expect.stringMatching(/^\d+\.\d+\.\d+$/),
    })
    expect(diagnosis.cache).toEqual({ path: join(directory, 'cache'), free: expect.any(Number) })
    const text = describeDiagnosis(diagnosis)
    expect(text).toContain(`openalpaca-native ${packageVersion}, compiled here`)
    expect(text).toMatch(/^cpu +available: .*oneDNN/m)
    expect(text).toMatch(/no problems found$/)
  })

  test('doctor lists problems with their fixes', async () => {
    const file = join(directory, 'file')
    writeFileSync(file, '')
    const diagnosis = await diagnose({ HF_HUB_CACHE: join(file, 'cache') })
    expect(diagnosis.problems).toEqual([
      {
        what: `models from the Hub cannot be kept: ${file} is not a directory that may be written to`,
        mend: 'set HF_HUB_CACHE to a writable directory: export HF_HUB_CACHE=DIR',
      },
    ])
    expect(describeDiagnosis(diagnosis)).toMatch(
      /problem: models from the Hub.*\n {2}fix: set HF_HUB_CACHE to a writable directory/,
    )
  })

  test('doctor shows the relevant variables, and no secret', async () => {
    const env = { HF_TOKEN: 'hf_secret', OMP_NUM_THREADS: '2', PATH: '/bin', HF_HUB_CACHE: directory }
    const { environment } = await diagnose(env)
    expect(environment).toEqual({ HF_HUB_CACHE: directory, HF_TOKEN: '(set)', OMP_NUM_THREADS: '2' })
  })
})

describe('without an addon', () => {
  /** A copy of the package without the addon, and the output of the command there. */
  function diagnosisOf(
    name: string,
    ...parts: string[]
  ): { folder: string; diagnosis: Diagnosis; status: number | null } {
    const folder = join(directory, name)
    for (const part of ['package.json', 'dist', ...parts])
      cpSync(join(root, part), join(folder, part), { recursive: true })
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
    const { status, stdout } = spawnSync(process.execPath, [join(folder, 'dist/cli/main.js'), 'doctor', '--json'], {
      encoding: 'utf8',
      env: { ...process.env, HF_HUB_CACHE: directory },
    })
    return { folder, status, diagnosis: JSON.parse(stdout) }
  }

  test('doctor in a clone without an addon suggests setup', () => {
    const { folder, diagnosis, status } = diagnosisOf('bare-clone', 'scripts')
    expect(status).toBe(1)
    expect(diagnosis).toMatchObject({ package: { addon: 'missing' }, backends: [] })
    const what = expect.stringMatching(/^the native addon could not be loaded: No native build was found/)
    expect(diagnosis.problems).toEqual([{ what, mend: `run "npm run setup" in ${folder}` }])
    expect(describeDiagnosis(diagnosis)).toMatch(/^package .*, without an addon for this system$/m)
  })

  test('doctor in the package without an addon lists the supported systems', () => {
    const { diagnosis, status } = diagnosisOf('bare-package')
    expect(status).toBe(1)
    expect(diagnosis.problems[0].mend).toMatch(/^the package has an addon for Linux on x64 with glibc/)
  })
})

describe('GPUs', () => {
  const cpu = { device: 'cpu', available: true } as const
  const gpu = (nccl: string) => ({ device: 'cuda', available: true, libraries: { NCCL: nccl } }) as const
  const [reason, code] = ['no NVIDIA driver was found', 'NO_CUDA_DRIVER']
  const missing = { device: 'cuda', available: false, reason, code } as const
  const machine = (gpus: number) => ({ driver: '580.65.06', gpus: Array<string>(gpus).fill('H100'), onBus: true })

  test('doctor reports unusable GPUs as a problem, with the reason', () => {
    const nvidia = { driver: null, gpus: [], onBus: true }
    const problem = { what: expect.stringContaining(reason), mend: expect.stringMatching(/ubuntu-drivers install/) }
    expect(gpuProblems([cpu, missing], nvidia)).toEqual([problem])
    expect(gpuProblems([cpu, missing], { ...nvidia, onBus: false })).toEqual([])
  })

  test('doctor expects NCCL if there are several GPUs', () => {
    const problem = { what: expect.stringContaining('NCCL'), mend: expect.stringContaining('nvidia-nccl-cu13') }
    expect(gpuProblems([cpu, gpu('not found')], machine(8))).toEqual([problem])
    expect(gpuProblems([cpu, gpu('not in this build')], machine(2))[0].mend).toMatch(/npm run setup$/)
    expect(gpuProblems([cpu, gpu('not found')], machine(1))).toEqual([])
    expect(gpuProblems([cpu, gpu('2.28.3')], machine(8))).toEqual([])
  })
})

describe('an addon that cannot be loaded', () => {
  const installed = join(directory, 'installed')
  const clone = join(directory, 'clone')
  mkdirSync(installed)
  writeFileSync(join(installed, 'package.json'), '{ "name": "openalpaca-native" }')
  mkdirSync(join(clone, 'scripts'), { recursive: true })
  writeFileSync(join(clone, 'scripts', 'setup.mjs'), '')

  test('doctor in a clone suggests compiling an addon that cannot be loaded', () => {
    expect(addonAdvice(clone, 'No native build was found for platform=linux')).toBe(`run "npm run setup" in ${clone}`)
  })

  test('doctor in the package lists the supported systems for an addon that cannot be loaded', () => {
    const old = "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by libdnnl.so.2)"
    expect(addonAdvice(installed, old)).toMatch(/too old \(GLIBC_2\.34 is missing\): use one with glibc 2\.28/)
    const other = 'No native build was found for platform=linux arch=x64 runtime=node abi=115 uv=1 libc=musl node=20'
    expect(addonAdvice(installed, other)).toMatch(/^the package has an addon for Linux on x64 with glibc, .* musl: use/)
    expect(addonAdvice(installed, 'libdnnl.so.2: cannot open shared object file')).toMatch(/^install the package again/)
  })
})
