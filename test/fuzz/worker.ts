/** Runs cases in a separate process, which may crash, hang, or grow without affecting the harness. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createTargets, runCase } from './targets.js'

/** Peak of the entire process, including Node itself. */
const MOST_MEMORY = 700 * 2 ** 20

const [fixtures, name, first, count] = process.argv.slice(2) as [string, string, string, string]
const sandbox = path.join(mkdtempSync(path.join(tmpdir(), 'openalpaca-fuzz-')), 'case')

async function main(): Promise<void> {
  const target = createTargets(fixtures)[name]!
  for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
    const { result, fault } = await runCase(target, seed, sandbox)
    const memory = process.resourceUsage().maxRSS * 1024
    const grown = memory > MOST_MEMORY ? `the process took ${Math.round(memory / 2 ** 20)} MiB` : undefined
    process.send!({ seed, result, fault: fault ?? grown })
    if (grown) break // the peak stays: the harness continues in a new process
  }
  rmSync(path.dirname(sandbox), { recursive: true, force: true })
  process.disconnect()
}

void main()
