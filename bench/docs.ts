/**
 * `npm run bench:docs` generates docs/benchmarks.md, its charts, and the README's table from the recordings in
 * docs/benchmarks/, with one directory per machine and day. To publish figures, measure with `--output
 * docs/benchmarks/MACHINE-DATE` and run this. With --check it writes nothing, and fails if a file differs from the
 * output.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { drawChart } from './chart.js'
import type { Recording } from './recording.js'
import { type Section, usedColumns } from './report.js'

const root = path.resolve(__dirname, '..', '..')
const folder = path.join(root, 'docs', 'benchmarks')
/** The order of the sections; others come last. */
const order = ['train', 'decode', 'load', 'checkpoint', 'collectives', 'ranks', 'ops']

const place = ({ name }: Recording) => (order.indexOf(name.split('-')[0]) + order.length + 1) % (order.length + 1)

function readRecordings(directory: string): Recording[] {
  return readdirSync(path.join(folder, directory))
    .filter((file) => file.endsWith('.json'))
    .map((file) => JSON.parse(readFileSync(path.join(folder, directory, file), 'utf8')) as Recording)
    .sort((a, b) => place(a) - place(b) || a.name.localeCompare(b.name, 'en', { numeric: true }))
}

function markdownTable(cells: string[][]): string[] {
  const [header, ...rows] = usedColumns(cells).map((row) => `| ${row.map((cell) => cell.trim()).join(' | ')} |`)
  return [header, `|${' --- |'.repeat(usedColumns(cells)[0].length)}`, ...rows]
}

/** Our rows are bold. */
function markdown({ presentation, name, command }: Recording, directory: string): string[] {
  const { title, header, rows, chart } = presentation
  const isOurs = (label: string) => chart.bars.some((bar) => bar.isOurs && bar.label === label)
  const others = chart.bars.some((bar) => !bar.isOurs)
  const bold = rows.map((row) => {
    if (!others || !isOurs(row[0])) return row
    return row.map((cell, i) => (i < 2 ? `**${cell}**` : cell))
  })
  return [
    `### ${title[0].toUpperCase()}${title.slice(1)}`,
    '',
    ...markdownTable([header, ...bold]),
    '',
    `![${title}](benchmarks/${directory}/${name}.svg)`,
    '',
    [`\`${command}\`.`, ...presentation.notes].join(' '),
    '',
  ]
}

/** The common properties of all recordings in a directory. */
function heading(recordings: Recording[]): string[] {
  const [{ machine, date }] = recordings
  const versions = Object.assign({}, ...recordings.map((recording) => recording.versions)) as Record<string, string>
  const list = Object.entries(versions).map(([name, version]) => `${name} ${version}`)
  return [
    `## ${machine.device}, ${date.slice(0, 10)}`,
    '',
    `${machine.cores} cores, ${machine.isa}, ${machine.system}; ${list.join(', ')}.`,
    '',
  ]
}

/** The page: preamble.md, followed by the sections, newest first. */
function page(): string {
  const folders = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  const sections = folders
    .map(({ name }) => ({ name, recordings: readRecordings(name) }))
    .sort((a, b) => b.recordings[0].date.localeCompare(a.recordings[0].date))
    .flatMap(({ name, recordings }) => [
      ...heading(recordings),
      ...recordings.flatMap((recording) => markdown(recording, name)),
    ])
  return `${[readFileSync(path.join(folder, 'preamble.md'), 'utf8'), ...sections].join('\n').trimEnd()}\n`
}

/** The figures of the README: the recordings that readme.json names. */
function readmeRecordings(): { says: string; recording: Recording }[] {
  const { folder: directory, rows } = JSON.parse(readFileSync(path.join(folder, 'readme.json'), 'utf8')) as {
    folder: string
    rows: { recording: string; says: string }[]
  }
  const recordings = readRecordings(directory)
  return rows.map(({ recording: wanted, says }) => {
    return { says, recording: recordings.find(({ name }) => name === wanted)! }
  })
}

/** Training compared with the first of the peers, in one sentence. */
function headline(): string {
  const pairs = readmeRecordings()
    .filter(({ recording }) => recording.name.startsWith('train'))
    .map(({ recording }) => (recording.figures as Section).scores)
  const span = (values: number[], digits: number) =>
    [...new Set([Math.min(...values), Math.max(...values)].map((value) => value.toFixed(digits)))].join(' to ')
  const speed = span(
    pairs.map(([ours, peer]) => ours.rate / peer.rate),
    1,
  )
  const memory = span(
    pairs.map(([ours, peer]) => (100 * ours.peakMemory) / peer.peakMemory),
    0,
  )
  const { cores } = readmeRecordings()[0].recording.machine
  return (
    `On ${cores} CPU cores it trains at [${speed} times the speed of PyTorch's autocast](#how-fast), ` +
    `in ${memory} % of its memory.`
  )
}

/** A sentence with the machine and the date, and a table: title, ours, and the peers. */
function figures(): string {
  const recordings = readmeRecordings()
  const cells = recordings.map(({ says, recording }) => {
    const { chart, rows, header } = recording.presentation
    const memory = header.indexOf('peak memory')
    const ours = chart.bars.findIndex(({ isOurs }) => isOurs)
    const peers = chart.bars.flatMap(({ isOurs }, i) => (isOurs ? [] : [i]))
    const cell = (i: number) => `${chart.bars[i].text} (${rows[i][memory]})`
    const ratio = (i: number) => `${(chart.bars[ours].value / chart.bars[i].value).toFixed(2)}×`
    const [eager, compiled] = peers
    return [says, `**${cell(ours)}**`, cell(eager), ratio(eager), cell(compiled), ratio(compiled)]
  })
  const [{ machine, versions, date }] = recordings.map(({ recording }) => recording)
  const { PyTorch, Transformers } = versions
  const where = `On ${machine.cores} cores of an ${machine.device}, next to PyTorch ${PyTorch} and Transformers ${Transformers}`
  const header = ['tokens/s (peak memory)', 'openalpaca-native', 'PyTorch, Transformers', 'ratio', 'compiled', 'ratio']
  return [
    `${where} in the same run (${date.slice(0, 10)}, \`npm run bench -- --python PATH\`):`,
    '',
    ...markdownTable([header, ...cells]),
  ].join('\n')
}

function readme(): string {
  const parts = { headline, figures }
  return Object.entries(parts).reduce(
    (text, [name, make]) => {
      const between = new RegExp(`(<!-- ${name} -->\n)[\\s\\S]*?(<!-- end of ${name} -->)`)
      return text.replace(between, (_, begin: string, end: string) => `${begin}\n${make()}\n\n${end}`)
    },
    readFileSync(path.join(root, 'README.md'), 'utf8'),
  )
}

/** The generated files, by path. */
function outputs(): Map<string, string> {
  const files = new Map([
    [path.join(root, 'docs', 'benchmarks.md'), page()],
    [path.join(root, 'README.md'), readme()],
  ])
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue
    for (const { name, presentation } of readRecordings(entry.name)) {
      files.set(path.join(folder, entry.name, `${name}.svg`), drawChart(presentation))
    }
  }
  return files
}

for (const [file, content] of outputs()) {
  if (!process.argv.includes('--check')) writeFileSync(file, content)
  else if (readFileSync(file, 'utf8') !== content) {
    console.error(`${path.relative(root, file)} is not what the recordings say: npm run bench:docs`)
    process.exitCode = 1
  }
}
