import type { Backend } from '../../device.js'
import { formatBytes } from '../../format.js'
import { type Diagnosis, diagnose } from '../../tools/doctor.js'
import { paint, printResult } from '../terminal.js'

/** Reports this machine's capabilities and problems. Returns the exit code: 0 without problems, else 1. */
export async function doctor({ json }: { json?: boolean }): Promise<number> {
  const diagnosis = await diagnose()
  printResult(diagnosis, json, () => describe(diagnosis))
  return diagnosis.problems.length === 0 ? 0 : 1
}

/** @internal */
export function describe(diagnosis: Diagnosis): string {
  const { system, processor, memory, nvidia, cache } = diagnosis
  const gpus = nvidia.gpus.length > 0 ? `, ${nvidia.gpus.join(', ')}` : ''
  const facts: [string, string][] = [
    ['package', describePackage(diagnosis.package)],
    ['Node.js', diagnosis.node],
    ['system', `${system.name}, Linux ${system.kernel}, ${system.arch}, ${system.libc}`],
    ['processor', `${processor.name}, ${processor.threads} threads`],
    ['memory', `${formatBytes(memory.free)} of ${formatBytes(memory.total)} free`],
    [
      'NVIDIA driver',
      nvidia.driver === null ? `none${nvidia.onBus ? ', but there is a GPU' : ''}` : nvidia.driver + gpus,
    ],
    ...diagnosis.backends.map((backend): [string, string] => [backend.device, describeBackend(backend)]),
    ['Hub cache', `${cache.path}, ${cache.free === null ? 'not writable' : `${formatBytes(cache.free)} free`}`],
    ...Object.entries(diagnosis.environment),
  ]
  const width = Math.max(...facts.map(([name]) => name.length)) + 2
  const lines = facts.map(([name, fact]) => name.padEnd(width) + fact)
  const { stdout } = process
  if (diagnosis.problems.length === 0) return [...lines, '', paint(stdout, 'green', 'no problems found')].join('\n')
  const problems = diagnosis.problems.flatMap(({ what, mend }) => [
    `${paint(stdout, 'red', 'problem')}: ${what}`,
    `  fix: ${mend}`,
  ])
  return [...lines, '', ...problems].join('\n')
}

function describePackage({ version, addon, cuda, libraries }: Diagnosis['package']): string {
  if (addon === 'missing') return `openalpaca-native ${version}, without an addon for this system`
  if (addon === 'compiled') return `openalpaca-native ${version}, compiled here`
  const names = Object.entries(libraries).map(([name, release]) => `${name} ${release}`)
  return `openalpaca-native ${version}, prebuilt (CUDA: ${cuda ?? 'not included'}) with ${names.join(', ')}`
}

function describeBackend(backend: Backend): string {
  if (!backend.available) return `not available: ${backend.reason}`
  const { name, isa, units, fastBfloat16, freeMemory = 0, totalMemory = 0, libraries = {} } = backend
  const versions = Object.entries(libraries).map(([library, version]) => `${library} ${version}`)
  const processors = backend.device === 'cuda' ? `${units} multiprocessors` : `${units} threads`
  const number = fastBfloat16 ? 'bfloat16 in hardware' : 'float32 (no bfloat16 in hardware)'
  const size = `${formatBytes(freeMemory)} of ${formatBytes(totalMemory)} free`
  return [`available: ${name}`, isa, processors, number, size, ...versions].join(', ')
}
