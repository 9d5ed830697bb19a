import type { ChildProcess } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'

/** Steps and their losses in the log of a run so far, without a last line that is still being written. */
export function logged(savePath: string): [number, number][] {
  const file = path.join(savePath, 'logs', 'train.jsonl')
  if (!existsSync(file)) return []
  const events = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line))
  return events.filter(({ type }) => type === 'step').map(({ step, loss }) => [step, loss])
}

/** Waits until the log has this many steps, while the run lasts. */
export async function reached(child: ChildProcess, savePath: string, step: number): Promise<void> {
  while ((logged(savePath).at(-1)?.[0] ?? 0) < step && child.exitCode === null) {
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
