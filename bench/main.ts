/** Runs every benchmark that this machine supports, with its peer in the same run. */
import { spawnSync } from 'node:child_process'
import os from 'node:os'
import { Command, InvalidArgumentError, Option } from 'commander'
import { type CheckpointOptions, checkpointBenchmark, gigabytes, presentCheckpoint } from './checkpoint.js'
import { collectivesBenchmark, presentCollectives } from './collectives.js'
import { decoding, loading, type ModelName, training } from './configs.js'
import { deviceName, deviceNames, openBenchDevice } from './device.js'
import { generateBenchmark } from './generate.js'
import { loadBenchmark } from './load.js'
import { presentRanks, ranksBenchmark } from './ranks.js'
import { writeRecording } from './recording.js'
import { formatText, type Presentation, presentSection, summarize } from './report.js'
import { opsBenchmark, presentOps } from './single-ops.js'
import { trainBenchmark } from './train.js'

const names = ['train', 'decode', 'load', 'checkpoint', 'ops', 'collectives', 'ranks'] as const

interface Flags extends CheckpointOptions {
  only: (typeof names)[number][]
  output: string
  machine?: string
}

function positive(text: string): number {
  if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError('It must be a positive whole number.')
  return Number(text)
}

const program = new Command('bench')
  .description(
    'Measures this machine: training, decoding, loading and single ops, as ratios to a peer and to the limit.',
  )
  .option('--python <path>', 'a Python that has torch and transformers, to measure as a peer')
  .addOption(new Option('--device <name>', 'the device to measure').choices(deviceNames).default(deviceName))
  .addOption(new Option('--only <names...>', 'which benchmarks').choices(names).default(names, 'all'))
  .option('--repetitions <n>', 'of each contender, alternating; medians are shown', positive, 5)
  .option('--threads <n>', 'for all contenders', positive, os.availableParallelism())
  .option('--checkpoint_blocks <n>', 'of OpenLLaMA-3B in the generated checkpoint; 26 make 13.7 GB', positive, 2)
  .option('--output <dir>', 'where a JSON file and a chart of each benchmark are written', 'runs/bench')
  .option('--machine <name>', 'how recordings call the device, where its own name says too little: "AMD EPYC (Zen 5)"')
  .action(main)

/** Shows the progress on a terminal. */
function progress(what: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${what && `${what} …`}`)
}

function checkPython(python: string): void {
  const { status, stderr, error } = spawnSync(python, ['-c', 'import torch, transformers'], { encoding: 'utf8' })
  const reason = error?.message ?? stderr.trim().split('\n').at(-1)
  if (status !== 0) throw new Error(`--python ${python}: it must have torch and transformers (${reason})`)
}

async function main(flags: Flags): Promise<void> {
  if (flags.python) checkPython(flags.python)
  else console.log('PyTorch and Transformers are left out: name a Python that has them with --python PATH.')
  const device = openBenchDevice().properties
  const threads = deviceName === 'cpu' ? `, ${flags.threads} threads` : ''
  console.log(`${device.name}, ${device.isa}${threads}, medians of ${flags.repetitions} repetitions\n`)

  const shown: Presentation[] = []
  const show = (name: string, figures: object, presentation: Presentation, settings = {}) => {
    progress('')
    console.log(`${formatText(presentation)}\n`)
    const options = { ...flags, settings }
    const file = writeRecording(flags.output, { name, device, options, figures, presentation })
    console.log(`  ${file}\n`)
    shown.push(presentation)
  }
  if (flags.only.includes('train')) {
    for (const [model, steps] of Object.entries(training.models) as [ModelName, number][]) {
      const section = await trainBenchmark(model, steps, flags, progress)
      show(`train-${model}`, section, presentSection(section))
    }
  }
  if (flags.only.includes('decode')) {
    const section = await generateBenchmark(flags, progress)
    show(`decode-${decoding.model}`, section, presentSection(section))
  }
  if (flags.only.includes('load')) {
    const section = await loadBenchmark(flags, progress)
    show(`load-${loading}`, section, presentSection(section))
  }
  if (flags.only.includes('checkpoint')) {
    const scores = await checkpointBenchmark(flags, progress)
    const { checkpoint_blocks } = flags
    show(`checkpoint-${gigabytes(scores)}GB`, scores, presentCheckpoint(scores), { checkpoint_blocks })
  }
  if (flags.only.includes('ops')) {
    const scores = await opsBenchmark(flags, progress)
    show('ops', scores, presentOps(scores))
  }
  if (flags.only.includes('collectives')) {
    const scores = await collectivesBenchmark(flags, progress)
    if (scores.length > 0) show('collectives', scores, presentCollectives(scores))
    else console.log('collectives: this machine has one GPU\n')
  }
  if (flags.only.includes('ranks')) {
    const { scores, hardware } = await ranksBenchmark(flags, progress)
    // `openalpaca plan --measured` reads `hardware`.
    if (scores.length > 0) show('ranks', { scores, hardware }, presentRanks(scores))
    else console.log('ranks: not measured on this device\n')
  }
  console.log(summarize(shown))
}

program.parseAsync().catch((error: Error) => {
  progress('')
  console.error(`error: ${error.message}`)
  process.exitCode = 1
})
