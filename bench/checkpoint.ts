import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { writeSafetensors } from '#lib/checkpoint/safetensors-writer.js'
import { formatNumber } from '#lib/format.js'
import { Child } from './child.js'
import { type CheckpointChild, type CheckpointTask, checkpoint } from './configs.js'
import { median, ours, type RunOptions } from './contest.js'
import { type Presentation, percent } from './report.js'

export interface CheckpointScores {
  bytes: number
  /** Bytes a second, and of the plain loop beside it. */
  tasks: Record<CheckpointTask, { rate: number; disk: number }>
  /** Bytes of resident memory at its largest. */
  peakMemory: number
}

const names: CheckpointTask[] = ['read', 'shard', 'convert']

/**
 * Reading, splitting and converting a checkpoint of float32 weights, in turns with the disk's own rate for the same
 * bytes: for reading a plain read, for the others a copy that is flushed and read again, as they verify what they wrote.
 */
export async function checkpointBenchmark(
  { repetitions, threads }: RunOptions,
  progress: (what: string) => void,
): Promise<CheckpointScores> {
  const root = await mkdtemp(path.join(os.tmpdir(), 'openalpaca-bench-'))
  const children: Child[] = []
  try {
    const [model, scratch] = [path.join(root, 'model'), path.join(root, 'scratch')]
    progress('generating a checkpoint')
    const bytes = await generate(model)
    await mkdir(scratch)
    for (const plain of [false, true]) {
      const options: CheckpointChild = { model, scratch, plain }
      const { label, command, args } = ours('checkpoint', options)
      children.push(new Child(label, command, args, threads))
    }
    for (const child of children) await child.ready()
    const rates = names.map((): [number[], number[]] => [[], []])
    for (let repetition = 1; repetition <= repetitions; repetition++) {
      for (const [i, name] of names.entries()) {
        for (const [j, child] of children.entries()) {
          progress(`${name}, repetition ${repetition} of ${repetitions}`)
          rates[i]![j as 0 | 1].push((await child.run(name)).rate as number)
        }
      }
    }
    const [peakMemory] = [await children[0]!.end(), await children[1]!.end()]
    const tasks = Object.fromEntries(
      names.map((name, i) => [name, { rate: median(rates[i]![0]), disk: median(rates[i]![1]) }]),
    ) as CheckpointScores['tasks']
    return { bytes, tasks, peakMemory }
  } finally {
    for (const child of children) child.kill()
    await rm(root, { recursive: true, force: true })
  }
}

/** Files of matrices of the 3B model's size, whose values are of every magnitude. @returns bytes */
async function generate(directory: string): Promise<number> {
  const { tensors, shape } = checkpoint
  await mkdir(directory)
  const values = new Float32Array(shape[0] * shape[1])
  for (let i = 0; i < values.length; i++) values[i] = Math.sin(i) * 2 ** -(i % 12)
  const data = () => new Uint8Array(values.buffer)
  const list = Array.from({ length: tensors }, (_, i) => ({ name: `w.${i}`, dtype: 'float32' as const, shape, data }))
  await writeSafetensors(path.join(directory, 'model.safetensors'), list)
  await writeFile(path.join(directory, 'config.json'), '{}')
  return tensors * values.byteLength
}

export function presentCheckpoint({ bytes, tasks, peakMemory }: CheckpointScores): Presentation {
  const says: Record<CheckpointTask, string> = {
    read: 'reading safetensors',
    shard: 'make-shards --format bin',
    convert: 'make-shards --dtype bfloat16',
  }
  const rows = names.map((name) => {
    const { rate, disk } = tasks[name]
    return [says[name], formatNumber(rate / 1e9), formatNumber(disk / 1e9), percent(rate / disk)]
  })
  const bars = names.map((name) => {
    const share = tasks[name].rate / tasks[name].disk
    return { label: says[name], value: share, text: percent(share), isOurs: true }
  })
  return {
    title: `checkpoints, ${formatNumber(bytes / 1e9)} GB of float32 in one safetensors file`,
    header: ['', 'GB/s', 'disk', 'of the disk'],
    rows,
    notes: [
      'The disk: a loop that reads the same bytes, or for make-shards copies, flushes and reads them again.',
      `Peak memory of the tools: ${(peakMemory / 2 ** 20).toFixed(0)} MiB.`,
    ],
    chart: { unit: 'share of the disk’s rate', scale: 'linear', bars, mark: { value: 1, label: 'the disk' } },
  }
}
