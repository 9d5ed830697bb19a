import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { canMount, withSmallDisk } from '../support/small-disk.js'
import { main, smallRun } from '../support/small-run.js'
import { logged, reached } from '../support/train-log.js'

const root = mkdtempSync(path.join(tmpdir(), 'kill-'))
afterAll(() => rmSync(root, { recursive: true }))

/** 30 steps, with a checkpoint every 2. */
const flags = { max_steps: 30, epochs: 6 }

function train(save_path: string, more: { resume?: 'auto' } = {}): ChildProcess {
  return spawn(process.execPath, smallRun({ save_path, ...flags, ...more }), { stdio: ['ignore', 'ignore', 'pipe'] })
}

async function ended(child: ChildProcess): Promise<{ code: number | null; signal: string | null; errors: string }> {
  let errors = ''
  child.stderr!.on('data', (text) => {
    errors += text
  })
  const [code, signal] = await once(child, 'close')
  return { code, signal, errors }
}

describe('a run killed with kill -9', () => {
  it('a run killed twice with kill -9 resumes with --resume auto to the same bits as an uninterrupted run', {
    timeout: 120_000,
  }, async () => {
    const [whole, killed] = [path.join(root, 'whole'), path.join(root, 'killed')]
    expect(await ended(train(whole))).toMatchObject({ code: 0 })

    for (const [step, more] of [
      [5, {}],
      [17, { resume: 'auto' }],
    ] as [number, { resume?: 'auto' }][]) {
      const child = train(killed, more)
      const end = ended(child)
      await reached(child, killed, step)
      child.kill('SIGKILL')
      expect(await end).toMatchObject({ signal: 'SIGKILL' })
    }
    const last = await ended(train(killed, { resume: 'auto' }))
    expect(last.errors).not.toMatch(/error:/)
    expect(last.code).toBe(0)

    expect(logged(killed)).toEqual(logged(whole))
    expect(logged(whole)).toHaveLength(30)
    const weights = (directory: string) => readFileSync(path.join(directory, 'model.safetensors'))
    expect(weights(killed).equals(weights(whole))).toBe(true)
    expect(readdirSync(killed).filter((name) => /tmp|old/.test(name))).toEqual([])
  })
})

describe('a run that gets SIGHUP, or whose output pipe closes', () => {
  const long = { checkpoint_every: 1000, max_steps: 1000, epochs: 500 }
  const hasCheckpoint = (save: string) => readdirSync(save).some((name) => name.startsWith('checkpoint-'))

  it.each(['SIGHUP', 'no reader'])('train with %s writes a checkpoint and exits with 129', async (what) => {
    const save = path.join(root, what)
    const args = smallRun({ save_path: save, ...long })
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    const end = ended(child)
    child.stdout.resume()
    await reached(child, save, 3)
    if (what === 'SIGHUP') child.kill('SIGHUP')
    else child.stdout.destroy()
    expect(await end).toEqual({ code: 129, signal: null, errors: '' })
    expect(hasCheckpoint(save)).toBe(true)
  })

  it('train writes a checkpoint when its terminal is closed, and does not crash', async () => {
    const [save, code] = [path.join(root, 'terminal'), path.join(root, 'code')]
    // script(1) is the terminal. The shell in it keeps running, to report how the command exited.
    const words = [process.execPath, ...smallRun({ save_path: save, ...long })].map((word) => `'${word}'`)
    const inside = `trap '' HUP; ${words.join(' ')}; echo $? > '${code}.part'; mv '${code}.part' '${code}'`
    const terminal = spawn('script', ['--quiet', '--flush', '--command', inside, '/dev/null'], { stdio: 'ignore' })
    await reached(terminal, save, 3)
    terminal.kill('SIGKILL')
    while (!existsSync(code)) await new Promise((resolve) => setTimeout(resolve, 20))
    expect(readFileSync(code, 'utf8')).toBe('129\n')
    expect(hasCheckpoint(save)).toBe(true)
  })
})

it('a failing command exits with 1 when its stderr is closed', async () => {
  const args = ['inspect', path.join(root, 'nothing')]
  const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'ignore', 'pipe'] })
  child.stderr.destroy()
  expect(await once(child, 'close')).toEqual([1, null])
})

// Without user namespaces the test cannot mount a small disk; test/checkpoint fills /dev/full then.
describe.runIf(canMount)('a run whose disk fills up', () => {
  it('train reports a full disk, keeps the model, and resumes from the previous checkpoint when there is space again', {
    timeout: 60_000,
  }, () => {
    const disk = path.join(root, 'disk')
    const save = path.join(disk, 'run')
    // A checkpoint has 8.4 MB: the second does not fit until the filler is deleted.
    const script = `head -c 8000000 /dev/zero > "$1/filler"; shift
      "$@" > /dev/null; echo "code $?"; ls "${save}"; rm "${disk}/filler"
      echo again; "$@" --resume auto > /dev/null; echo "code $?"; ls "${save}"`
    const { stdout, stderr } = withSmallDisk(
      script,
      disk,
      22,
      process.execPath,
      ...smallRun({ save_path: save, ...flags, max_steps: 4 }),
    )
    expect(stderr).toMatch(/error: Cannot save .*checkpoint-4: it needs 8\.4 MB, and .* are free; nothing was changed/)
    const [before, after] = stdout.split('again\n').map((part) => part.trim().split('\n'))
    // The model is written before the last checkpoint.
    expect(before).toEqual(expect.arrayContaining(['code 1', 'checkpoint-2', 'model.safetensors']))
    expect(before).not.toContain('checkpoint-4')
    expect(after).toEqual(expect.arrayContaining(['code 0', 'checkpoint-2', 'checkpoint-4', 'model.safetensors']))
  })
})
