/** What a benchmark leaves behind: its figures with where, when and how they were measured, and a chart. */
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
  /** Of the files, such as `train-113M`. */
  name: string
  /** ISO 8601. */
  date: string
  /** What to type for the same. */
  command: string
  machine: { device: string; isa: string; cores: number; system: string }
  versions: Record<string, string>
  repetitions: number
  presentation: Presentation
  /** As measured, every repetition; a recording that was written down from a table has none. */
  figures?: object
  /** Whatever else a reader has to know. */
  notes?: string[]
}

interface Measured {
  name: string
  device: DeviceProperties
  options: RunOptions
  figures: object
  presentation: Presentation
}

/** Writes `<name>.json` and `<name>.svg` into a directory. @returns the path of the JSON file */
export function writeRecording(directory: string, { name, device, options, figures, presentation }: Measured): string {
  const recording: Recording = {
    name,
    date: new Date().toISOString(),
    command: `npm run bench -- --device ${deviceName} --only ${name.split('-')[0]} --repetitions ${options.repetitions} --threads ${options.threads}${options.python ? ' --python PATH' : ''}`,
    machine: {
      device: device.name,
      isa: device.isa,
      cores: os.availableParallelism(),
      system: `${os.type()} ${os.release()}`,
    },
    versions: { 'openalpaca-native': packageVersion, 'Node.js': process.versions.node, ...peerVersions(figures) },
    repetitions: options.repetitions,
    presentation,
    figures,
  }
  mkdirSync(directory, { recursive: true })
  const file = path.join(directory, `${name}.json`)
  writeFileSync(file, `${JSON.stringify(recording, null, 2)}\n`)
  writeFileSync(path.join(directory, `${name}.svg`), drawChart(presentation))
  return file
}

/** What the contenders say of themselves, by their labels. */
function peerVersions(figures: object): Record<string, string> {
  const { scores = [] } = figures as { scores?: { label: string; version?: string; peer?: boolean }[] }
  return Object.fromEntries(scores.flatMap(({ label, version, peer }) => (peer && version ? [[label, version]] : [])))
}
