import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { fixtures } from '../support/fixtures.js'
import { logged } from '../support/train-log.js'

const root = mkdtempSync(path.join(tmpdir(), 'ranks-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let runs = 0
const newRun = () => path.join(root, `run${runs++}`)

const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js')

/** Trains 16 steps on 21 instances, with a checkpoint every 2. */
function train(savePath: string, ...more: string[]): ChildProcess {
  const flags = {
    model_path: path.join(fixtures, 'd100'),
    data_path: path.join(fixtures, 'instructions.json'),
    save_path: savePath,
    device: 'cpu',
    dtype: 'float32',
    max_length: 224,
    batch_size: 4,
    max_steps: 16,
    epochs: 4,
    learning_rate: 1e-3,
    validation_size: 2,
    validation_every: 7,
    checkpoint_every: 2,
    keep_last: 3,
    log_every: 1,
  }
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)])
  return spawn(process.execPath, [main, 'train', ...args, ...more], { stdio: ['ignore', 'pipe', 'pipe'] })
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

/** Waits until the log has so many steps, as long as the run lasts. */
async function reached(child: ChildProcess, savePath: string, step: number): Promise<void> {
  while ((logged(savePath).at(-1)?.[0] ?? 0) < step && child.exitCode === null) {
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** The processes of a launcher's ranks. */
function rankProcesses(launcher: ChildProcess): Map<number, number> {
  const children = readFileSync(`/proc/${launcher.pid}/task/${launcher.pid}/children`, 'utf8')
  const pids = (children.match(/\d+/g) ?? []).map(Number) // none before they are started
  const rankOf = (pid: number) => Number(/(?:^|\0)RANK=(\d+)/.exec(readFileSync(`/proc/${pid}/environ`, 'utf8'))![1])
  return new Map(pids.map((pid) => [rankOf(pid), pid]))
}

let whole: Promise<[number, number][]> | undefined
/** The losses of three ranks whom nothing disturbs. */
function undisturbed(): Promise<[number, number][]> {
  whole ??= (async () => {
    const save = newRun()
    expect(await ended(train(save, '--ranks', '3'))).toMatchObject({ code: 0 })
    return logged(save)
  })()
  return whole
}

function expectClose(actual: [number, number][], expected: [number, number][], tolerance: number): void {
  expect(actual.map(([step]) => step)).toEqual(expected.map(([step]) => step))
  for (const [i, [step, loss]] of actual.entries()) {
    expect(Math.abs(loss / expected[i][1] - 1), `loss of step ${step}`).toBeLessThan(tolerance)
  }
}

describe('train --ranks', { timeout: 120_000 }, () => {
  it('trains as one process does, with one log and one display, and saves one model', async () => {
    const [alone, shared] = [newRun(), newRun()]
    expect(await ended(train(alone))).toMatchObject({ code: 0 })
    const end = await ended(train(shared, '--ranks', '4'))
    expect(end).toMatchObject({ code: 0, errors: '' })
    expectClose(logged(shared), logged(alone), 1e-4)
    expect(end.output.match(/step 16\/16/g)).toHaveLength(1)
    expect(readdirSync(shared)).toEqual(readdirSync(alone))
    const checkpoint = readdirSync(path.join(shared, 'checkpoint-16')).filter((name) => name.startsWith('rank-'))
    expect(checkpoint).toEqual([0, 1, 2, 3].map((rank) => `rank-0000${rank}-of-00004.safetensors`))
  })

  it.each([0, 1, 2])('after kill -9 of rank %i ends with its number, and resumes to the same bits', async (rank) => {
    const save = newRun()
    const child = train(save, '--ranks', '3')
    const end = ended(child)
    await reached(child, save, 3 + 2 * rank)
    process.kill(rankProcesses(child).get(rank)!, 'SIGKILL')
    expect(await end).toMatchObject({
      code: 1,
      errors: expect.stringMatching(new RegExp(`^error: rank ${rank} of 3 was ended by SIGKILL`)),
    })
    expect(await ended(train(save, '--ranks', '3', '--resume', 'auto'))).toMatchObject({ code: 0, errors: '' })
    expect(logged(save)).toEqual(await undisturbed())
    expect(readdirSync(save).filter((name) => /tmp|old/.test(name))).toEqual([])
  })

  it('ends when a rank hangs, with the collective and the rank that did not arrive', async () => {
    const save = newRun()
    const child = train(save, '--ranks', '3', '--collective_timeout', '10')
    const end = ended(child)
    await reached(child, save, 3)
    process.kill(rankProcesses(child).get(2)!, 'SIGSTOP')
    expect(await end).toMatchObject({
      code: 1,
      errors: expect.stringMatching(/^error: rank [01] of 3: .*rank 2 of 3 did not (arrive|come)/),
    })
  })

  it('goes on to the same bits however often ranks are killed, at whatever moment', async () => {
    const save = newRun()
    // Moments and ranks are drawn anew on every run; what went wrong is told by the message.
    for (let kill = 0; kill < 3; kill++) {
      const [rank, delay] = [Math.floor(3 * Math.random()), Math.floor(2500 * Math.random())]
      const child = train(save, '--ranks', '3', ...(kill > 0 ? ['--resume', 'auto'] : []))
      const end = ended(child)
      await new Promise((resolve) => setTimeout(resolve, 300 + delay))
      const pid = child.exitCode === null ? rankProcesses(child).get(rank) : undefined
      if (pid) process.kill(pid, 'SIGKILL')
      const { code, errors } = await end
      const told = new RegExp(`^error: rank ${rank} of 3 was ended by SIGKILL`)
      if (code !== 0) expect(errors, `rank ${rank} after ${delay} ms`).toMatch(told)
    }
    expect(await ended(train(save, '--ranks', '3', '--resume', 'auto'))).toMatchObject({ code: 0, errors: '' })
    expect(logged(save)).toEqual(await undisturbed())
  })

  it('with --max_restarts goes on by itself after the loss of a rank', async () => {
    const save = newRun()
    const child = train(save, '--ranks', '3', '--max_restarts', '1')
    const end = ended(child)
    await reached(child, save, 5)
    process.kill(rankProcesses(child).get(1)!, 'SIGKILL')
    expect(await end).toMatchObject({
      code: 0,
      errors: expect.stringMatching(/rank 1 of 3 .*starting again \(1 of 1\)/),
    })
    expect(logged(save)).toEqual(await undisturbed())
  })

  it('stops all ranks at Ctrl-C with one checkpoint, from which other numbers of ranks go on', async () => {
    const save = newRun()
    const first = train(save, '--ranks', '3', '--checkpoint_every', '100')
    const end = ended(first)
    await reached(first, save, 3)
    first.kill('SIGINT')
    expect(await end).toMatchObject({ code: 130 })
    const stopped = logged(save).length
    expect(readdirSync(save).filter((name) => name.startsWith('checkpoint'))).toEqual([`checkpoint-${stopped}`])
    expect(readdirSync(path.join(save, `checkpoint-${stopped}`))).toContain('rank-00002-of-00003.safetensors')

    const second = train(save, '--ranks', '2', '--resume', 'auto')
    const secondEnd = ended(second)
    await reached(second, save, stopped + 4)
    second.kill('SIGINT')
    expect(await secondEnd).toMatchObject({ code: 130 })
    expect(await ended(train(save, '--resume', 'auto'))).toMatchObject({ code: 0 })
    expectClose(logged(save), await undisturbed(), 1e-4)
  })

  it('passes over a checkpoint of which one rank’s file is cut short', async () => {
    const save = newRun()
    expect(await ended(train(save, '--ranks', '2', '--max_steps', '6'))).toMatchObject({ code: 0 })
    truncateSync(path.join(save, 'checkpoint-6', 'rank-00001-of-00002.safetensors'), 5000)
    const { code, output } = await ended(train(save, '--ranks', '2', '--max_steps', '6', '--resume', 'auto'))
    expect({ code, output }).toEqual({ code: 0, output: expect.stringContaining('resumed after step 4') })
  })

  it('says which rank failed, and why', async () => {
    const { code, errors } = await ended(train(newRun(), '--ranks', '2', '--data_path', 'nothing.json'))
    expect(code).toBe(1)
    expect(errors).toMatch(/^error: rank \d of 2: .*nothing\.json/)
    expect(errors.trim().split('\n')).toHaveLength(1)
  })

  it('has --gpus refused for the CPU', async () => {
    const gpus = await ended(train(newRun(), '--gpus', '2'))
    expect(gpus).toMatchObject({ code: 2, errors: expect.stringMatching(/--gpus is not for the CPU: use --ranks/) })
  })
})
