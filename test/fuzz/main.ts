/**
 * The long run: `npm run fuzz -- --cases 100000`. Damages every kind of file that is read, case after case, in worker
 * processes. Target and number identify a case, and `--only TARGET --seed NUMBER --cases 1` runs it again.
 */
import { fork } from 'node:child_process'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { createTargets } from './targets.js'

/** A worker that is silent for this long hangs. */
const HANGS_AFTER = 30_000
const BATCH = 2000

interface Message {
  seed: number
  result: 'read' | 'refused'
  fault?: string
}

const { values } = parseArgs({
  options: {
    cases: { type: 'string', default: '100000' },
    seed: { type: 'string', default: '0' },
    only: { type: 'string' },
  },
})
const fixtures = path.join(__dirname, '../../test/fixtures')
const faults: string[] = []
const counts = { read: 0, refused: 0 }

/** Runs cases of one target from `first` on in a worker. @returns the first case that it did not reach */
function runBatch(target: string, first: number, count: number): Promise<number> {
  return new Promise((resolve) => {
    let next = first
    const worker = fork(path.join(__dirname, 'worker.js'), [fixtures, target, String(first), String(count)], {
      execArgv: ['--max-old-space-size=400'],
    })
    let timer = setTimeout(() => worker.kill('SIGKILL'), HANGS_AFTER)
    worker.on('message', (message) => {
      const { seed, result, fault } = message as Message
      next = seed + 1
      counts[result]++
      if (fault) faults.push(`${target} ${seed}: ${fault}`)
      clearTimeout(timer)
      timer = setTimeout(() => worker.kill('SIGKILL'), HANGS_AFTER)
    })
    worker.on('exit', (code, signal) => {
      clearTimeout(timer)
      if (code === 0) return resolve(next)
      faults.push(`${target} ${next}: the process ended with ${signal ?? code}`)
      resolve(next + 1)
    })
  })
}

async function main(): Promise<void> {
  const targets = Object.keys(createTargets(fixtures)).filter((name) => !values.only || name === values.only)
  if (targets.length === 0) throw new Error(`there is no target ${values.only}`)
  const [cases, start] = [Number(values.cases), Number(values.seed)]
  const each = Math.ceil(cases / targets.length)
  for (const target of targets) {
    const began = performance.now()
    for (let next = start; next < start + each; )
      next = await runBatch(target, next, Math.min(BATCH, start + each - next))
    console.log(`${target}: ${each} cases in ${((performance.now() - began) / 1000).toFixed(0)} s`)
  }
  console.log(`${counts.refused} refused, ${counts.read} read in spite of the damage, ${faults.length} faults`)
  for (const fault of faults.slice(0, 50)) console.log(fault)
  process.exitCode = faults.length > 0 ? 1 : 0
}

void main()
