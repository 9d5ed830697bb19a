/** The record of a benchmark: its figures with the machine, date, and command of the measurement, and a chart. */
import { mkdirSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { DeviceProperties } from 'openalpaca-native'
import { packageVersion } from '#lib/version.js'
import { drawChart } from './chart.js'
import type { RunOptions } from './contest.js'
import { deviceName } from './device.js'
import type { Presentation } from './report.js'

export interface Recording {
  /** Base name of the files, such as `train-113M`. */
  name: string
  /** ISO 8601. */
  date: string
  /** The command that repeats the measurement. */
  command: string
  machine: { device: string; isa: string; cores: number; system: string }
  versions: Record<string, string>
  repetitions: number
  presentation: Presentation
  /** The raw measurements of every repetition. */
  figures: object
}

interface Measured {
  name: string
  device: DeviceProperties
  options: RunOptions & {
    machine?: string
    /** Flags of this benchmark only. */
    settings: Record<string, string | number>
  }
  figures: object
  presentation: Presentation
}

/** Writes `<name>.json` and `<name>.svg` into a directory. @returns the path of the JSON file */
export function writeRecording(directory: string, { name, device, options, figures, presentation }: Measured): string {
  const { repetitions, threads, settings } = options
  const typed = { device: deviceName, only: name.split('-')[0], repetitions, threads, ...settings }
  const words = Object.entries(typed).map(([flag, value]) => `--${flag} ${value}`)
  const recording: Recording = {
    name,
    date: new Date().toISOString(),
    command: ['npm run bench --', ...words, ...(options.python ? ['--python PATH'] : [])].join(' '),
    machine: {
      device: options.machine ?? device.name,
      isa: device.isa,
      cores: os.availableParallelism(),
      system: `${os.type()} ${/^\d+\.\d+/.exec(os.release())?.[0]}`,
    },
    versions: { 'openalpaca-native': packageVersion, 'Node.js': process.versions.node, ...peerVersions(figures) },
    repetitions,
    presentation,
    figures,
  }
  mkdirSync(directory, { recursive: true })
  const file = path.join(directory, `${name}.json`)
  writeFileSync(file, `${JSON.stringify(recording, null, 2)}\n`)
  writeFileSync(path.join(directory, `${name}.svg`), drawChart(presentation))
  return file
}

/** The versions that the peers report, such as `PyTorch 2.13.0, Transformers 5.18.0`. */
function peerVersions(figures: object): Record<string, string> {
  const { scores = [] } = figures as { scores?: { version?: string; peer?: boolean }[] }
  const libraries = scores.flatMap(({ version, peer }) => (peer && version ? version.split(', ') : []))
  return Object.fromEntries(libraries.map((text) => text.split(' ') as [string, string]))
}
