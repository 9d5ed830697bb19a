import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { fixtures } from '../support/fixtures.js'
import { canMount, withSmallDisk } from '../support/small-disk.js'

const root = mkdtempSync(path.join(tmpdir(), 'kill-'))
afterAll(() => rmSync(root, { recursive: true }))

const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js')

/** A command line that trains: 30 steps on 22 instances, a checkpoint every 2; all in float32 on the CPU. */
function commandLine(savePath: string, ...more: string[]): string[] {
  const flags = {
    model_path: path.join(fixtures, 'd100'),
    data_path: path.join(fixtures, 'instructions.json'),
    save_path: savePath,
    device: 'cpu',
    dtype: 'float32',
    max_length: 224,
    batch_size: 4,
    max_steps: 30,
    epochs: 6,
    learning_rate: 1e-3,
    validation_size: 2,
    validation_every: 7,
    checkpoint_every: 2,
    log_every: 1,
  }
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)])
  return [process.execPath, main, 'train', ...args, ...more]
}

function train(savePath: string, ...more: string[]): ChildProcess {
  const [command, ...args] = commandLine(savePath, ...more)
  return spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] })
}

async function ended(child: ChildProcess): Promise<{ code: number | null; signal: string | null; errors: string }> {
  let errors = ''
  child.stderr!.on('data', (text) => {
    errors += text
  })
  const [code, signal] = await once(child, 'close')
  return { code, signal, errors }
}

/** Steps and their losses as the log has them. */
function losses(savePath: string): [number, number][] {
  const file = path.join(savePath, 'logs', 'train.jsonl')
  if (!existsSync(file)) return []
  const events = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line))
  return events.filter(({ type }) => type === 'step').map(({ step, loss }) => [step, loss])
}

/** kill -9 once the log has so many steps. */
async function killAfter(child: ChildProcess, savePath: string, step: number): Promise<void> {
  while ((losses(savePath).at(-1)?.[0] ?? 0) < step && child.exitCode === null) {
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  child.kill('SIGKILL')
}

describe('a training that is killed with kill -9', () => {
  it('twice, goes on with --resume auto to the same bits as one that is not', { timeout: 120_000 }, async () => {
    const [whole, killed] = [path.join(root, 'whole'), path.join(root, 'killed')]
    expect(await ended(train(whole))).toMatchObject({ code: 0 })

    for (const [step, ...resume] of [[5], [17, '--resume', 'auto']] as [number, ...string[]][]) {
      const child = train(killed, ...resume)
      const end = ended(child)
      await killAfter(child, killed, step)
      expect(await end).toMatchObject({ signal: 'SIGKILL' })
    }
    const last = await ended(train(killed, '--resume', 'auto'))
    expect(last.errors).not.toMatch(/error:/)
    expect(last.code).toBe(0)

    expect(losses(killed)).toEqual(losses(whole))
    expect(losses(whole)).toHaveLength(30)
    const weights = (directory: string) => readFileSync(path.join(directory, 'model.safetensors'))
    expect(weights(killed).equals(weights(whole))).toBe(true)
    expect(readdirSync(killed).filter((name) => /tmp|old/.test(name))).toEqual([])
  })
})

// Without user namespaces there is no small disk to fill; test/checkpoint fills /dev/full then.
describe.runIf(canMount)('a training whose disk fills up', () => {
  it('says so, and goes on from the checkpoint before when there is room again', { timeout: 60_000 }, () => {
    const disk = path.join(root, 'disk')
    const save = path.join(disk, 'run')
    // A checkpoint has 8.4 MB: the second does not fit until the filler is gone.
    const script = `head -c 8000000 /dev/zero > "$1/filler"; shift
      "$@" > /dev/null; echo "code $?"; ls "${save}"; rm "${disk}/filler"
      echo again; "$@" --resume auto > /dev/null; echo "code $?"; ls "${save}"`
    const { stdout, stderr } = withSmallDisk(script, disk, 22, ...commandLine(save, '--max_steps', '4'))
    expect(stderr).toMatch(/error: Cannot save .*checkpoint-4: it needs 8\.4 MB, and .* are free; nothing was changed/)
    const [before, after] = stdout.split('again\n').map((part) => part.trim().split('\n'))
    expect(before).toEqual(['code 1', 'checkpoint-2', 'logs'])
    expect(after).toEqual(expect.arrayContaining(['code 0', 'checkpoint-2', 'checkpoint-4', 'model.safetensors']))
  })
})
