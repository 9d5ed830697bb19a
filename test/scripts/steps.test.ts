import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, it, vi } from 'vitest'
import { root } from '../support/typescript.js'

const steps = pathToFileURL(path.join(root, 'scripts/steps.mjs')).href

describe('a step', () => {
  it('a step ends with its script, whatever signal ends that', async () => {
    const directory = mkdtempSync(path.join(os.tmpdir(), 'openalpaca-steps-'))
    try {
      const [log, pidFile] = ['log', 'pid'].map((name) => path.join(directory, name))
      const script = `
        import { steps } from '${steps}'
        await steps('test').run('waiting', 'sh', ['-c', 'echo $$ > ${pidFile}; sleep 60 & wait'], '${log}')`
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'ignore' })
      const ended = new Promise((resolve) => child.once('exit', resolve))
      await vi.waitUntil(() => existsSync(pidFile) && readFileSync(pidFile, 'utf8') !== '', { timeout: 60_000 })
      child.kill('SIGTERM')
      expect(await ended).toBe(130)
      const pid = Number(readFileSync(pidFile, 'utf8'))
      await vi.waitUntil(() => !isAlive(-pid), { timeout: 60_000 }) // the entire process group
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
})

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

describe('the remaining time of a step', async () => {
  const { timeLeft } = await import(steps)

  it('the remaining time of a step is estimated from the output of make and ninja', () => {
    expect(timeLeft('[15/60]', 30)).toBe('about 2 min left')
    expect(timeLeft('[ 75%]', 60)).toBe('about 20 s left')
  })

  it('the remaining time of a step is not shown until it can be estimated', () => {
    for (const [progress, seconds] of [
      ['', 60],
      ['[1/60]', 60],
      ['[30/60]', 1],
    ])
      expect(timeLeft(progress, seconds)).toBe('')
  })
})
