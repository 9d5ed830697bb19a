import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { zeroToFp32 } from '../../lib/tools/zero-to-fp32.js'
import { isLong } from '../support/long.js'
import { main, smallRun } from '../support/small-run.js'
import { logged, reached } from '../support/train-log.js'

const root = mkdtempSync(path.join(tmpdir(), 'ranks-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let runs = 0
const newRun = () => path.join(root, `run${runs++}`)

/** How many ranks are killed at random. */
const kills = isLong ? 10 : 1

/** How often the test presses Ctrl-C while ranks start. */
const presses = isLong ? 60 : 4

/** Trains 10 steps, with a checkpoint every 2. */
function train(savePath: string, ...more: string[]): ChildProcess {
  const args = smallRun({ save_path: savePath, max_steps: 10, epochs: 3, keep_last: 3 })
  return spawn(process.execPath, [...args, ...more], { stdio: ['ignore', 'pipe', 'pipe'] })
}

interface End {
  code: number | null
  output: string
  errors: string
}

async function ended(child: ChildProcess): Promise<End> {
  let [output, errors] = ['', '']
  child.stdout!.on('data', (text) => {
    output += text
  })
  child.stderr!.on('data', (text) => {
    errors += text
  })
  const [code] = await once(child, 'close')
  return { code, output, errors }
}

/** The processes of a launcher's ranks. */
function rankProcesses(launcher: ChildProcess): Map<number, number> {
  const children = readFileSync(`/proc/${launcher.pid}/task/${launcher.pid}/children`, 'utf8')
  const pids = (children.match(/\d+/g) ?? []).map(Number) // none before they are started
  const rankOf = (pid: number) => /(?:^|\0)RANK=(\d+)/.exec(readFileSync(`/proc/${pid}/environ`, 'utf8'))?.[1]
  const ranks = pids.map((pid) => [rankOf(pid), pid] as const)
  return new Map(ranks.flatMap(([rank, pid]) => (rank === undefined ? [] : [[Number(rank), pid]]))) // forked, not started
}

/** An undisturbed run of three ranks. */
const undisturbed = newRun()

/** A run whose rank 2 hangs. Detection takes a while, and the other tests run during that time. */
let hanging: Promise<End>

beforeAll(async () => {
  expect(await ended(train(undisturbed, '--ranks', '3'))).toMatchObject({ code: 0, errors: '' })
  const save = newRun()
  const child = train(save, '--ranks', '3', '--collective_timeout', '10')
  hanging = ended(child)
  await reached(child, save, 3)
  process.kill(rankProcesses(child).get(2)!, 'SIGSTOP')
})

function expectClose(actual: [number, number][], expected: [number, number][], tolerance: number): void {
  expect(actual.map(([step]) => step)).toEqual(expected.map(([step]) => step))
  for (const [i, [step, loss]] of actual.entries()) {
    expect(Math.abs(loss / expected[i][1] - 1), `loss of step ${step}`).toBeLessThan(tolerance)
  }
}

const below = (limit: number) => Math.floor(limit * Math.random())

describe('train --ranks', () => {
  it('train --ranks matches one process, with one log and one progress display, and saves one model', async () => {
    const [alone, shared] = [newRun(), newRun()]
    expect(await ended(train(alone, '--max_steps', '5'))).toMatchObject({ code: 0 })
    const end = await ended(train(shared, '--max_steps', '5', '--ranks', '4'))
    expect(end).toMatchObject({ code: 0, errors: '' })
    expectClose(logged(shared), logged(alone), 1e-5)
    expect(end.output.match(/step 5\/5/g)).toHaveLength(1)
    expect(readdirSync(shared)).toEqual(readdirSync(alone))
    const checkpoint = readdirSync(path.join(shared, 'checkpoint-5')).filter((name) => name.startsWith('rank-'))
    expect(checkpoint).toEqual([0, 1, 2, 3].map((rank) => `rank-0000${rank}-of-00004.safetensors`))
  })

  it(`kill -9 of a rank ends the run with its number, and it resumes bit for bit (${kills} times)`, async () => {
    // Moments and ranks are chosen randomly on every run; the message identifies a failing case.
    for (let left = kills; left > 0; ) {
      const save = newRun()
      for (const more of [[], ['--resume', 'auto'], ['--resume', 'auto']]) {
        if (left-- <= 0) break
        const [rank, step, delay] = [below(3), below(9), below(100)]
        const child = train(save, '--ranks', '3', ...more)
        const end = ended(child)
        await reached(child, save, step)
        await new Promise((resolve) => setTimeout(resolve, delay))
        const pid = child.exitCode === null ? rankProcesses(child).get(rank) : undefined
        if (pid) process.kill(pid, 'SIGKILL')
        const { code, errors } = await end
        const told = new RegExp(`^error: rank ${rank} of 3 was ended by SIGKILL`)
        if (code !== 0) expect(errors, `rank ${rank}, ${delay} ms after step ${step}`).toMatch(told)
      }
      expect(await ended(train(save, '--ranks', '3', '--resume', 'auto'))).toMatchObject({ code: 0, errors: '' })
      expect(logged(save)).toEqual(logged(undisturbed))
      expect(readdirSync(save).filter((name) => /tmp|old/.test(name))).toEqual([])
    }
  }, 600_000)

  it('train --max_restarts continues automatically after the loss of a rank', async () => {
    const save = newRun()
    const child = train(save, '--ranks', '3', '--max_restarts', '1')
    const end = ended(child)
    await reached(child, save, 5)
    process.kill(rankProcesses(child).get(0)!, 'SIGKILL')
    expect(await end).toMatchObject({
      code: 0,
      errors: expect.stringMatching(/rank 0 of 3 .*starting again \(1 of 1\)/),
    })
    expect(logged(save)).toEqual(logged(undisturbed))
  })

  it('Ctrl-C at any moment of the start ends train --ranks without a restart', async () => {
    for (let press = 0; press < presses; press++) {
      const more = ['--ranks', '3', '--max_restarts', '1', '--max_steps', '10000', '--epochs', '10000']
      const isNew = press % 2 === 1 // loading a model fails in other ways than creating one
      const save = newRun()
      const run = isNew ? [main, 'train', '--device', 'cpu', '--save_path', save] : smallRun({ save_path: save })
      const child = spawn(process.execPath, [...run, ...more], { stdio: ['ignore', 'pipe', 'pipe'] })
      const end = ended(child)
      while (rankProcesses(child).size < 3 && child.exitCode === null) await new Promise(setImmediate)
      const delay = below(isNew ? 2000 : 1000)
      await new Promise((resolve) => setTimeout(resolve, delay))
      child.kill('SIGINT')
      expect(await end, `${delay} ms after the ranks were there`).toMatchObject({ code: 130, errors: '' })
    }
  }, 300_000)

  it('Ctrl-C stops all ranks with one checkpoint, from which other numbers of ranks resume', async () => {
    const save = newRun()
    const first = train(save, '--ranks', '4', '--checkpoint_every', '100')
    const end = ended(first)
    await reached(first, save, 3)
    first.kill('SIGINT')
    expect(await end).toMatchObject({ code: 130 })
    const stopped = logged(save).length
    expect(readdirSync(save).filter((name) => name.startsWith('checkpoint'))).toEqual([`checkpoint-${stopped}`])
    expect(readdirSync(path.join(save, `checkpoint-${stopped}`))).toContain('rank-00003-of-00004.safetensors')
    for (const ranks of [2, 3]) {
      const copy = newRun()
      cpSync(save, copy, { recursive: true })
      expect(await ended(train(copy, '--ranks', `${ranks}`, '--resume', 'auto'))).toMatchObject({ code: 0 })
      expectClose(logged(copy), logged(undisturbed), 1e-4)
    }
  })

  it('train --ranks skips a checkpoint in which one rank’s file is cut short', async () => {
    const save = newRun()
    cpSync(undisturbed, save, { recursive: true })
    truncateSync(path.join(save, 'checkpoint-10', 'rank-00001-of-00003.safetensors'), 5000)
    const { code, output } = await ended(train(save, '--resume', 'auto'))
    expect({ code, output }).toEqual({ code: 0, output: expect.stringContaining('resumed after step 8') })
    expectClose(logged(save), logged(undisturbed), 1e-4)
  })

  it('zero-to-fp32 converts a checkpoint of train --ranks to the saved model', async () => {
    const output = path.join(newRun(), 'model.safetensors')
    await zeroToFp32({ checkpoint: path.join(undisturbed, 'checkpoint-10'), output })
    const [made, saved] = [output, path.join(undisturbed, 'model.safetensors')].map((file) => readFileSync(file))
    expect(made.equals(saved)).toBe(true)
  })

  it('train --ranks reports which rank failed, and why', async () => {
    const { code, errors } = await ended(train(newRun(), '--ranks', '2', '--data_path', 'nothing.json'))
    expect(code).toBe(1)
    expect(errors).toMatch(/^error: rank \d of 2: .*nothing\.json/)
    expect(errors.trim().split('\n')).toHaveLength(1)
  })

  it('train --gpus rejects --device cpu', async () => {
    const gpus = await ended(train(newRun(), '--gpus', '2'))
    expect(gpus).toMatchObject({ code: 2, errors: expect.stringMatching(/--gpus is not for the CPU: use --ranks/) })
  })

  it('a hanging rank ends the run with the collective and only that rank', async () => {
    const { code, errors } = await hanging
    expect(code).toBe(1)
    expect(errors).toMatch(
      /^error: rank [01] of 3: .*\brank 2 of 3 did not (arrive|come to ".*") within 10(\.0)? s[^\n]*\n$/,
    )
  })
})
