/** Reports a machine's capabilities and problems: for `openalpaca doctor` and for bug reports. */
import { accessSync, constants, existsSync, readdirSync, readFileSync, statfsSync, statSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { addonAdvice } from '../addon-advice.js'
import type { Backend } from '../device.js'
import { hubSettings } from '../hub/settings.js'
import { oldestNode, packageRoot, packageVersion } from '../version.js'

export interface Problem {
  /** The problem. */
  what: string
  /** The command or step that fixes it. */
  mend: string
}

export interface Diagnosis {
  package: {
    version: string
    /**
     * Whether the addon came with the package or was compiled in a clone; `missing` if there is none for this system.
     */
    addon: 'prebuilt' | 'compiled' | 'missing'
    /** The chips of the prebuilt addon's CUDA kernels; null if it has none or is not prebuilt. */
    cuda: string | null
    /** The libraries that came with a prebuilt addon, with their versions. */
    libraries: Record<string, string>
  }
  node: string
  system: { name: string; kernel: string; arch: string; libc: string }
  processor: { name: string; threads: number }
  /** Bytes. */
  memory: { total: number; free: number }
  backends: Backend[]
  nvidia: {
    /** The kernel driver's version; null if there is none. */
    driver: string | null
    /** GPUs that the driver reports. */
    gpus: string[]
    /** Whether the machine has an NVIDIA GPU at all, even without a driver. */
    onBus: boolean
  }
  cache: { path: string; free: number | null }
  /** Environment variables that affect the package. */
  environment: Record<string, string>
  problems: Problem[]
}

/** Only in a clone; the package does not include it. */
const scripts = path.join(packageRoot, 'scripts')
const setUp = path.join(scripts, 'setup.mjs')

/** Checks everything that this package depends on. Never throws: failures become problems of the result. */
export async function diagnose(env: NodeJS.ProcessEnv = process.env): Promise<Diagnosis> {
  const problems: Problem[] = []
  const environment = relevantVariables(env) // before the addon is loaded, which sets one itself
  // Numbers within the texts are compared as numbers.
  if (process.versions.node.localeCompare(oldestNode, 'en', { numeric: true }) < 0) {
    problems.push({
      what: `Node.js ${process.versions.node} is too old`,
      mend: `install Node.js ${oldestNode} or newer from https://nodejs.org`,
    })
  }
  const backends = await findBackends(problems)
  const nvidia = findNvidia()
  problems.push(...gpuProblems(backends, nvidia))
  return {
    package: describePackage(),
    node: process.versions.node,
    system: {
      name: /^PRETTY_NAME="?(.*?)"?$/m.exec(readText('/etc/os-release'))?.[1] ?? os.type(),
      kernel: os.release(),
      arch: process.arch,
      libc: libcVersion(),
    },
    processor: { name: os.cpus()[0]?.model ?? 'unknown', threads: os.availableParallelism() },
    memory: { total: os.totalmem(), free: os.freemem() },
    backends,
    nvidia,
    cache: findCache(env, problems),
    environment,
    problems,
  }
}

/** The devices, and whether the CPU computes correctly. */
async function findBackends(problems: Problem[]): Promise<Backend[]> {
  let found: Backend[] = []
  try {
    const { backends } = await import('../device.js')
    found = backends()
    await checkArithmetic()
  } catch (error) {
    problems.push(...(await addonProblems(error as Error)))
  }
  return found
}

/** Why the addon does not load, or does not compute. */
async function addonProblems({ code, message, cause }: Error & { code?: string }): Promise<Problem[]> {
  if (code === 'ADDON_NOT_FOUND') {
    const reason = (cause as Error).message
    const what = `the native addon could not be loaded: ${reason.split('\n')[0]}`
    return [...(await missingTools()), { what, mend: addonAdvice(packageRoot, reason) }]
  }
  if (code === 'UNSUPPORTED_ISA') return [{ what: message, mend: 'unset OPENALPACA_CPU_ISA' }]
  const report = 'report this, with the output of "openalpaca doctor"'
  const mend = existsSync(setUp) ? `run "npm run setup" in ${packageRoot}; if it was up to date, ${report}` : report
  return [{ what: message, mend }]
}

/** System tools that setting up a clone needs but cannot find; a package needs no setup. */
async function missingTools(): Promise<Problem[]> {
  if (!existsSync(setUp)) return []
  const { missing, nameAll, howToInstall } = await import(pathToFileURL(path.join(scripts, 'toolchain.mjs')).href)
  const lacking: object[] = missing()
  if (lacking.length === 0) return []
  return [{ what: `compiling the addon needs ${nameAll(lacking)}`, mend: howToInstall(lacking) }]
}

/** The fixes, by the code of the reason that a GPU is unusable; the error's message has the details. */
const gpuRemedies: Record<string, string> = {
  NO_CUDA_DRIVER:
    'sudo ubuntu-drivers install (Ubuntu), sudo apt-get install nvidia-driver (Debian), or docker run --gpus all',
  CUDA_DRIVER_TOO_OLD: 'sudo ubuntu-drivers install (Ubuntu), or a driver from https://www.nvidia.com/drivers',
  NO_CUDA_DEVICE: 'nvidia-smi, which must list the GPU; unset CUDA_VISIBLE_DEVICES, if it is set',
  LIBRARY_NOT_FOUND: 'pip install --upgrade nvidia-cublas, and set OPENALPACA_CUDA_LIBRARIES to its site-packages',
  DEVICE_UNAVAILABLE: 'node scripts/fetch-cuda.mjs && OPENALPACA_CUDA=ON npm run setup, in a clone',
}

/** Why GPUs that are present cannot be used, alone or together. */
export function gpuProblems(backends: Backend[], nvidia: Diagnosis['nvidia']): Problem[] {
  const cuda = backends.find(({ device }) => device === 'cuda')
  if (!cuda) return []
  if (!cuda.available) {
    if (!nvidia.onBus && nvidia.driver === null) return []
    const what = `there is an NVIDIA GPU that cannot be used: ${cuda.reason}`
    return [{ what, mend: gpuRemedies[cuda.code ?? ''] ?? 'use another GPU, or the CPU: --device cpu' }]
  }
  if (nvidia.gpus.length < 2) return []
  switch (cuda.libraries?.NCCL) {
    case 'not found': {
      const what = 'NCCL, with which several GPUs train together, was not found, or only one that is too old'
      const mend = 'pip install --upgrade nvidia-nccl-cu13, and set OPENALPACA_CUDA_LIBRARIES to its site-packages'
      return [{ what, mend }]
    }
    case 'not in this build':
      return [
        {
          what: 'the addon was compiled without NCCL, which training on several GPUs needs',
          mend: 'node scripts/fetch-cuda.mjs && npm run setup',
        },
      ]
    default:
      return []
  }
}

/** Checks a matrix product with a known result, on the CPU. */
async function checkArithmetic(): Promise<void> {
  const { openDevice } = await import('../device.js')
  const { matmul } = await import('../ops.js')
  const device = openDevice('cpu')
  const stream = device.createStream()
  const [a, b, c] = [
    device.tensor('float32', [2, 2]),
    device.tensor('float32', [2, 2]),
    device.tensor('float32', [2, 2]),
  ]
  try {
    stream.write(a, Float32Array.of(1, 2, 3, 4))
    stream.write(b, Float32Array.of(5, 6, 7, 8))
    matmul(stream, { c, a, b })
    const result = new Float32Array(4)
    await stream.read(c, result)
    if (result.join() !== '19,22,43,50') throw new Error(`the CPU computes [1 2; 3 4] · [5 6; 7 8] as [${result}]`)
  } finally {
    for (const tensor of [a, b, c]) tensor.dispose()
  }
}

function describePackage(): Diagnosis['package'] {
  const version = packageVersion
  const isCompiled = existsSync(path.join(packageRoot, 'build', 'Release'))
  const manifest = path.join(packageRoot, 'prebuilds', `${process.platform}-${process.arch}`, 'build.json')
  if (isCompiled || !existsSync(manifest)) {
    return { version, addon: isCompiled ? 'compiled' : 'missing', cuda: null, libraries: {} }
  }
  const build = JSON.parse(readText(manifest)) as PrebuildManifest
  const libraries = Object.fromEntries(build.libraries.map((library) => [library.name, library.version]))
  return { version, addon: 'prebuilt', cuda: build.cuda, libraries }
}

/** Written by scripts/prebuild.mjs. */
interface PrebuildManifest {
  cuda: string | null
  libraries: { name: string; version: string }[]
}

function libcVersion(): string {
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }
  return header.glibcVersionRuntime ? `glibc ${header.glibcVersionRuntime}` : 'not glibc'
}

function findNvidia(): Diagnosis['nvidia'] {
  const driver = /Kernel Module.*?\s(\d+\.[\d.]+)/.exec(readText('/proc/driver/nvidia/version'))?.[1] ?? null
  const gpus = list('/proc/driver/nvidia/gpus').map((folder) => {
    return /^Model:\s*(.*)$/m.exec(readText(`/proc/driver/nvidia/gpus/${folder}/information`))?.[1] ?? folder
  })
  const onBus = list('/sys/bus/pci/devices').some((device) => {
    const [vendor, kind] = ['vendor', 'class'].map((name) => readText(`/sys/bus/pci/devices/${device}/${name}`).trim())
    return vendor === '0x10de' && kind!.startsWith('0x03') // NVIDIA, a display controller
  })
  return { driver, gpus, onBus }
}

/** The cache of models from the Hub, and whether it is writable. */
function findCache(env: NodeJS.ProcessEnv, problems: Problem[]): Diagnosis['cache'] {
  const { cacheDir } = hubSettings(env)
  let existing = cacheDir
  while (!existsSync(existing) && existing !== path.dirname(existing)) existing = path.dirname(existing)
  try {
    accessSync(existing, constants.W_OK)
    if (!statSync(existing).isDirectory()) throw new Error(`${existing} is a file`)
    const { bavail, bsize } = statfsSync(existing)
    return { path: cacheDir, free: bavail * bsize }
  } catch {
    const what = `models from the Hub cannot be kept: ${existing} is not a directory that may be written to`
    problems.push({ what, mend: 'set HF_HUB_CACHE to a writable directory: export HF_HUB_CACHE=DIR' })
    return { path: cacheDir, free: null }
  }
}

/** Never includes a token: of secrets, only their presence is reported. */
function relevantVariables(env: NodeJS.ProcessEnv): Record<string, string> {
  const relevant =
    /^(OPENALPACA_|OMP_|GOMP_|CUDA_|NCCL_|NVIDIA_VISIBLE|HF_|HUGGING|LD_LIBRARY_PATH$|LD_PRELOAD$|NODE_OPTIONS$)/
  const entries = Object.entries(env).filter(([name, value]) => relevant.test(name) && value)
  const shown = entries.map(([name, value]) => [name, /TOKEN|SECRET|KEY/.test(name) ? '(set)' : value!])
  return Object.fromEntries(shown.sort(([a], [b]) => (a! < b! ? -1 : 1)))
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}
