import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { formatNumber } from '#lib/format.js'
import { inputs } from './checkpoint-inputs.js'
import { Child } from './child.js'
import { type CheckpointChild, type CheckpointInput, type CheckpointTask, checkpointTasks } from './configs.js'
import { median, ours, type RunOptions } from './contest.js'
import { type Presentation, percent, sameDigits } from './report.js'

export interface CheckpointOptions extends RunOptions {
  /** Blocks of OpenLLaMA-3B in the checkpoint; 26 are all of it, 13.7 GB. */
  checkpoint_blocks: number
}

export interface CheckpointScore {
  /** Bytes of the input per second; `disk` is the rate of the plain loop. */
  rate: number
  disk: number
  /** Median of our seconds. */
  seconds: number
  /** Peak resident memory in bytes. */
  peakMemory: number
}

export interface CheckpointScores {
  bytes: number
  tasks: Record<CheckpointTask, CheckpointScore>
}

const names = Object.keys(checkpointTasks) as CheckpointTask[]

/**
 * Reads, splits, joins, and converts a checkpoint of float32 weights, each in a separate process and alternating with a
 * measurement of the disk's rate: a loop that reads the same bytes, writes the same number of bytes as the tool past
 * the page cache, flushes them, and reads them from the disk again if the tool verifies its output.
 */
export async function checkpointBenchmark(
  { checkpoint_blocks: blocks, ...options }: CheckpointOptions,
  progress: (what: string) => void,
): Promise<CheckpointScores> {
  const root = await mkdtemp(path.join(os.tmpdir(), 'openalpaca-bench-'))
  try {
    const [model, scratch] = [path.join(root, 'model'), path.join(root, 'scratch')]
    await mkdir(scratch)
    progress('generating a checkpoint')
    const bytes = await inputs.model(model, blocks)
    const scores: [CheckpointTask, CheckpointScore][] = []
    for (const name of names) {
      const kind: CheckpointInput = checkpointTasks[name].input
      const input = path.join(root, kind)
      if (kind !== 'model') {
        progress(`preparing ${name}`)
        await inputs[kind](input, blocks, model)
      }
      scores.push([name, await measure(name, { input, scratch }, bytes, options, progress)])
      if (kind !== 'model') await rm(input, { recursive: true })
    }
    return { bytes, tasks: Object.fromEntries(scores) as CheckpointScores['tasks'] }
  } finally {
    await rm(root, { recursive: true, force: true })
  }
}

async function measure(
  task: CheckpointTask,
  paths: { input: string; scratch: string },
  bytes: number,
  { repetitions, threads }: RunOptions,
  progress: (what: string) => void,
): Promise<CheckpointScore> {
  const children = [false, true].map((plain) => {
    const options: CheckpointChild = { task, ...paths, plain }
    const { label, command, args } = ours('checkpoint', options)
    return new Child(label, command, args, threads)
  })
  try {
    for (const child of children) await child.ready()
    const seconds: number[][] = [[], []]
    for (let repetition = 1; repetition <= repetitions; repetition++) {
      for (const [i, child] of children.entries()) {
        progress(`${task}, repetition ${repetition} of ${repetitions}`)
        seconds[i].push((await child.run()).seconds as number)
      }
    }
    const [peakMemory] = [await children[0].end(), await children[1].end()]
    const [own, disk] = seconds.map(median)
    return { rate: bytes / own, disk: bytes / disk, seconds: own, peakMemory }
  } finally {
    for (const child of children) child.kill()
  }
}

export const gigabytes = ({ bytes }: { bytes: number }) => formatNumber(bytes / 1e9)

export function presentCheckpoint({ bytes, tasks }: CheckpointScores): Presentation {
  const digits = sameDigits(names.flatMap((name) => [tasks[name].rate / 1e9, tasks[name].disk / 1e9]))
  const rows = names.map((name) => {
    const { rate, disk, seconds, peakMemory } = tasks[name]
    return [
      checkpointTasks[name].says,
      ...[digits(rate / 1e9), digits(disk / 1e9), percent(rate / disk)],
      ...[seconds.toFixed(1), `${(peakMemory / 2 ** 20).toFixed(0)} MiB`],
    ]
  })
  const bars = names.map((name) => {
    const share = tasks[name].rate / tasks[name].disk
    return { label: checkpointTasks[name].says, value: share, text: percent(share), isOurs: true }
  })
  return {
    title: `checkpoints, ${gigabytes({ bytes })} GB of float32`,
    header: ['', 'GB/s', 'disk', 'of the disk', 's', 'peak memory'],
    rows,
    notes: [
      'The disk: a loop that reads the same bytes, writes as many (O_DIRECT), flushes them, and reads them back as the tools do.',
      'All read from the disk: the page cache is emptied of the files before.',
    ],
    ratios: { peer: [], limit: Object.values(tasks).map(({ rate, disk }) => rate / disk) },
    chart: { unit: 'share of the disk’s rate', scale: 'linear', bars, mark: { value: 1, label: 'the disk' } },
  }
}
