import { execFileSync, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { normalizeArgv } from '../../lib/cli/argv.js'
import { createProgram } from '../../lib/cli/program.js'
import { recipeFromFlags } from '../../lib/cli/recipe-flags.js'
import { compile, root } from '../support/typescript.js'
import { anchors, commands, inlineCommands, isPacked, links, pages, programs, read, words } from './markdown.js'

const scripts = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')).scripts as Record<string, string>

/** Programs of others, with their own flags. */
const others = ['cd', 'curl', 'docker', 'g++', 'git', 'make', 'ninja', 'npm', 'npx', 'ollama', 'pip', 'python', 'bash']

/** Parses a command line of `openalpaca` with its own parser, without running it. */
function parseCli(argv: string[]): void {
  const program = createProgram()
  for (const command of program.commands) command.action(() => {}).configureOutput({ writeOut: () => {} })
  const command = program.commands.find((candidate) => candidate.name() === argv[0])
  if (argv.length > 0 && !command && !/^(--|help)/.test(argv[0])) throw new Error(`there is no command ${argv[0]}`)
  const options = [...program.options, ...(command?.options ?? [])]
  const takesValue = (flag: string) => options.some((option) => option.long === flag && option.required)
  try {
    program.parse(normalizeArgv(argv, takesValue), { from: 'user' })
  } catch (error) {
    if ((error as { exitCode?: number }).exitCode === 0) return // help
    throw error
  }
  const flags = command?.opts() as { recipe?: string; deepspeed?: string }
  // Keys and values of the user's own recipe are checked when it runs.
  if (argv[0] === 'train' && !flags.recipe?.includes('.') && !flags.deepspeed) recipeFromFlags(flags, () => {})
}

let benchHelp: string | undefined
function parseBench(argv: string[]): void {
  const main = path.join(root, 'dist', 'bench', 'main.js')
  if (!existsSync(main)) throw new Error('the benchmarks are not compiled: type npm run setup -- --tests')
  benchHelp ??= execFileSync(process.execPath, [main, '--help'], { encoding: 'utf8' })
  for (const flag of argv.filter((word) => word.startsWith('--'))) {
    if (!benchHelp.includes(flag)) throw new Error(`npm run bench has no flag ${flag}`)
  }
}

/** @throws when a command names a script, a file, or a flag that does not exist */
function parse(line: string): void {
  const all = words(line)
  const argv = all.filter((_, i) => all.slice(0, i + 1).some((before) => !/^[A-Z_]+=/.test(before)))
  if (argv.length === 0) return // variables for the lines that follow
  const cli = argv[0] === 'npx' && argv[1] === 'openalpaca-native' ? 1 : argv.indexOf('openalpaca')
  if (cli >= 0) {
    parseCli(argv.slice(cli + 1))
    return
  }
  if (argv[0] === 'npm' && (argv[1] === 'run' || argv[1] === 'test')) {
    const name = argv[1] === 'test' ? 'test' : argv[2]
    const script = scripts[name]
    if (script === undefined) throw new Error(`package.json has no script ${name}`)
    const dashes = argv.indexOf('--')
    const rest = dashes < 0 ? [] : argv.slice(dashes + 1)
    const [, command] = /dist\/cli\/main\.js ?([\w-]*)$/.exec(script) ?? []
    if (command !== undefined) parseCli([...(command ? [command] : []), ...rest])
    else if (name === 'bench') parseBench(rest)
    return
  }
  const isOurs = argv[0] === 'node' || argv[0].includes('/') || (argv[0] === 'npx' && argv[1] === 'vitest')
  if (isOurs) {
    const files = argv.filter((word) => /^[\w./-]+\.(m?[jt]s|cjs|sh)$/.test(word))
    for (const file of files) if (!existsSync(path.join(root, file))) throw new Error(`there is no ${file}`)
    if (files.length > 0) return
  }
  if (!others.includes(argv[0]))
    throw new Error(`unknown program ${argv[0]}: add it to others in test/docs/docs.test.ts`)
}

describe.each(pages)('in %s', (page) => {
  it('every command in the documentation exists, and accepts its flags', () => {
    for (const { where, text, isPart } of [...commands(page), ...inlineCommands(page)]) {
      try {
        parse(text)
      } catch (error) {
        if (isPart && (error as { code?: string }).code === 'commander.missingMandatoryOptionValue') continue
        expect.fail(`${where}: ${text}\n${(error as Error).message}`)
      }
    }
  })

  it('every link in the documentation resolves', () => {
    for (const link of links(page)) {
      const [file, anchor] = link.split('#')
      const target = file === '' ? page : path.join(path.dirname(page), file)
      expect(existsSync(path.join(root, target)), `${page} links to ${link}`).toBe(true)
      if (anchor) expect(anchors(target), `${page} links to ${link}`).toContain(anchor)
    }
  })
})

it('no link of a page in the package refers to a file that the package lacks', () => {
  const packed = pages.filter(isPacked)
  expect(packed).toEqual(expect.arrayContaining(['README.md', 'docs/getting-started.md', 'docs/api.md']))
  const dead = packed.flatMap((page) =>
    links(page)
      .map((link) => path.join(path.dirname(page), link.split('#')[0] || path.basename(page)))
      .filter((target) => !isPacked(target))
      .map((target) => `${page}: ${target}`),
  )
  expect(dead).toEqual([])
})

it('every program in the documentation compiles', async () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'openalpaca-docs-'))
  try {
    mkdirSync(path.join(directory, 'node_modules'))
    symlinkSync(root, path.join(directory, 'node_modules', 'openalpaca-native'))
    for (const name of ['@types', 'undici-types']) {
      symlinkSync(path.join(root, 'node_modules', name), path.join(directory, 'node_modules', name))
    }
    const files = pages.flatMap(programs).map(({ where, text }) => {
      const file = `${where.replace(/[/:.]/g, '_')}.mts`
      writeFileSync(path.join(directory, file), text)
      return file
    })
    expect(files.length).toBeGreaterThan(3)
    const options = {
      module: 'node16',
      moduleResolution: 'node16',
      skipLibCheck: true,
      noUncheckedIndexedAccess: false,
    }
    expect(await compile(directory, files, options)).toBe('')
  } finally {
    rmSync(directory, { recursive: true })
  }
})

it('every error code is listed in docs/api.md, and no other', () => {
  const sources = ['core', 'cpu', 'cuda', 'collectives', 'binding', 'lib'].flatMap((folder) =>
    readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => /\.(h|cpp|cuh?|ts)$/.test(file))
      .map((file) => readFileSync(path.join(root, folder, file), 'utf8')),
  )
  // The first argument may choose between two; a rank's message to the others is an object with its code.
  const raised = sources.flatMap((text) => [
    ...Array.from(text.matchAll(/(?:Error|super)\(\s*([^,()]*),/g), ([, argument]) => argument),
    ...Array.from(text.matchAll(/\bcode: ('\w+')/g), ([, code]) => code),
    ...Array.from(text.matchAll(/\?\s*"[A-Z_]+"\s*:\s*"[A-Z_]+"/g), ([both]) => both),
  ])
  const codes = new Set(raised.flatMap((argument) => argument.match(/(?<=['"])[A-Z]+(_[A-Z]+)*(?=['"])/g) ?? []))
  const table = read('docs/api.md')
    .split('## Errors')[1]
    .match(/^\| .*$/gm)!
  const listed = table.flatMap((row) => row.match(/(?<=`)[A-Z]+(_[A-Z]+)*(?=`)/g) ?? [])
  expect([...new Set(listed)].sort()).toEqual([...codes].sort())
})

it('the benchmark page and the README match the recorded figures', () => {
  const script = path.join(root, 'dist', 'bench', 'docs.js')
  const { status, stderr } = spawnSync(process.execPath, [script, '--check'], { encoding: 'utf8' })
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
})

it('the README shows the first two commands of a new user', () => {
  expect(commands('README.md').length).toBeGreaterThan(2)
  expect(read('README.md')).toMatch(/^# openalpaca-native\n/)
})
