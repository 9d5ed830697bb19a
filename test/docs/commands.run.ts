/** Runs the commands of the documentation, page by page, in a copy of the repository: `npm run test:docs`. */
import { execFile, execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { root } from '../support/typescript.js'
import { blocks, commands, pages, programs } from './markdown.js'
import { cannotRun, smaller, standIns } from './plan.js'

const run = promisify(execFile)
const copy = mkdtempSync(path.join(os.tmpdir(), 'openalpaca-docs-'))
const fixture = (name: string) => path.join(root, 'test', 'fixtures', name)

beforeAll(() => {
  const tracked = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '-z'], { cwd: root, encoding: 'utf8' })
  for (const file of tracked.split('\0').filter(Boolean)) cpSync(path.join(root, file), path.join(copy, file))
  for (const built of ['dist', 'build']) cpSync(path.join(root, built), path.join(copy, built), { recursive: true })
  // Fetched files are part of the check whether a build is up to date.
  for (const fetched of ['node_modules', '.cuda'].filter((name) => existsSync(path.join(root, name)))) {
    symlinkSync(path.join(root, fetched), path.join(copy, fetched))
  }
  // The build counts as up to date in the copy: setup records its location.
  for (const stamp of ['.native-stamp', '.emulated-stamp'].map((name) => path.join(copy, 'build', name))) {
    if (existsSync(stamp)) writeFileSync(stamp, readFileSync(stamp, 'utf8').replaceAll(root, copy))
  }
  // A small model and small data under the names that the documentation uses.
  cpSync(fixture('d100'), path.join(copy, 'open_llama_3b_v2'), { recursive: true })
  cpSync(fixture('d100'), path.join(copy, 'my-model'), { recursive: true })
  const rows = JSON.parse(readFileSync(fixture('instructions.json'), 'utf8')) as { input: string; output: string }[]
  const dolly = rows.map(({ input, output, ...row }) => JSON.stringify({ ...row, context: input, response: output }))
  writeFileSync(path.join(copy, 'databricks-dolly-15k.jsonl'), dolly.join('\n'))
  // Enough rows for a batch of the default size.
  writeFileSync(path.join(copy, 'openalpaca.json'), JSON.stringify([...rows, ...rows, ...rows]))
  // Files that a page shows with their names, such as `# my.yaml`.
  for (const { text } of pages.flatMap(blocks)) {
    const [, name] = /^# ([\w.-]+\.yaml)$/.exec(text.split('\n')[0]) ?? []
    if (name) writeFileSync(path.join(copy, name), text)
  }
  hubCache('openlm-research/open_llama_3b_v2')
})
const left: string[] = []
afterAll(() => {
  rmSync(copy, { recursive: true, force: true })
  console.log(`Only parsed, by docs.test.ts:\n  ${left.join('\n  ')}`)
})

/** The model in the Hub's cache, as after a download. */
function hubCache(name: string): void {
  const commit = '0'.repeat(40)
  const directory = path.join(copy, 'hub', `models--${name.replace('/', '--')}`)
  mkdirSync(path.join(directory, 'refs'), { recursive: true })
  writeFileSync(path.join(directory, 'refs', 'main'), commit)
  cpSync(fixture('d100'), path.join(directory, 'snapshots', commit), { recursive: true })
}

const env = { ...process.env, HF_HUB_CACHE: path.join(copy, 'hub'), HF_HUB_OFFLINE: '1', NO_COLOR: '1' }
const shell = (line: string) => run('bash', ['-c', line], { cwd: copy, env, maxBuffer: 2 ** 26 })

/** The requirement of a command that is not available here. */
const reasonNotTo = (text: string) => cannotRun.find(([pattern]) => pattern.test(text))?.[1]

/** The line with the flags that make it small. */
function inSmall(line: string): string {
  let small = line
  for (const [text, instead] of standIns) small = small.replace(text, instead)
  const flags = smaller.find(([pattern]) => pattern.test(line))?.[1]
  if (flags === undefined) return small
  return /^npm run/.test(small) && !small.includes(' -- ') ? `${small} -- ${flags}` : `${small} ${flags}`
}

const hasWork = (page: string) => commands(page).some(({ text }) => !reasonNotTo(text)) || programs(page).length > 0

describe.each(pages.filter(hasWork))('%s', (page) => {
  for (const { where, text } of commands(page)) {
    const reason = reasonNotTo(text)
    if (reason) left.push(`${where}: ${text}: needs ${reason}`)
    else it(`${where}: ${text}`, () => shell(inSmall(text)))
  }

  for (const { where, text } of programs(page)) {
    it(`${where}: the program`, async () => {
      const file = path.join(copy, `${where.replace(/[/:.]/g, '_')}.mts`)
      writeFileSync(file, text)
      const tsc = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc')
      const options =
        '--ignoreConfig --target ES2022 --lib ES2022,ESNext.Disposable --module node16 --skipLibCheck --types node'
      await shell(`node ${tsc} ${options} ${file} && node ${file.replace('.mts', '.mjs')}`)
    })
  }
})
