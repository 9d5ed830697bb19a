/** The commands, programs, and links of the documentation. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { root } from '../support/typescript.js'

export interface Block {
  /** The file and line, such as `README.md:12`. */
  where: string
  language: string
  text: string
}

/** The user-facing pages, relative to the repository. */
export const pages = [
  ...['README.md', 'CONTRIBUTING.md', 'emulator/README.md', 'prebuilds/README.md'],
  ...readdirSync(path.join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
].filter((page) => existsSync(path.join(root, page)))

export const read = (page: string): string => readFileSync(path.join(root, page), 'utf8')

/** The fenced blocks of a page. */
export function blocks(page: string): Block[] {
  const found: Block[] = []
  let open: { fence: string; language: string; line: number; lines: string[] } | undefined
  for (const [i, line] of read(page).split('\n').entries()) {
    const [, fence, language] = /^(```+)(\w*)$/.exec(line) ?? []
    if (open && line === open.fence) {
      found.push({ where: `${page}:${open.line}`, language: open.language, text: open.lines.join('\n') })
      open = undefined
    } else if (open) open.lines.push(line)
    else if (fence) open = { fence, language, line: i + 1, lines: [] }
  }
  return found
}

export interface Command {
  where: string
  /** The command as written, without a trailing comment. */
  text: string
  /** The command is part of a sentence, which may omit required flags. */
  isPart?: boolean
}

/** The lines of bash blocks, and lines that begin with `$ ` in blocks that also show output. */
export function commands(page: string): Command[] {
  return blocks(page).flatMap(({ where, language, text }) => {
    const lines = text.replaceAll('\\\n', ' ').split('\n')
    const typed =
      language === 'bash' || language === 'sh'
        ? lines
        : language === ''
          ? lines.filter((line) => line.startsWith('$ ')).map((line) => line.slice(2))
          : []
    return typed
      .map((line) => line.replace(/(^|\s)#.*$/, '').trim())
      .filter((line) => line !== '')
      .map((line) => ({ where, text: line }))
  })
}

/** Commands within sentences, which are parsed but not run, except those with a gap (…) or a placeholder (COMMAND). */
export function inlineCommands(page: string): Command[] {
  const text = read(page).replace(/^(```+)[\s\S]*?^\1$/gm, '')
  return Array.from(
    text.matchAll(/`((?:npm run |npx openalpaca(?:-native)? |node scripts\/)[^`]*)`/g),
    ([, command]) => {
      return { where: page, text: command.replace(/\s+/g, ' '), isPart: true }
    },
  ).filter(({ text }) => !/…|\bCOMMAND\b|\bX\b/.test(text))
}

/** Splits a command line at spaces outside quotes. Variables stay as they are. */
export function words(line: string): string[] {
  return Array.from(line.matchAll(/(?:"[^"]*"|'[^']*'|[^\s"'])+/g), ([word]) => word.replace(/["']/g, ''))
}

/** Complete programs: those that import the package. `npm run test:llama-cpp` runs the one for node-llama-cpp. */
export function programs(page: string): Block[] {
  return blocks(page).filter(({ language, text }) => {
    return (
      ['js', 'ts'].includes(language) && /from 'openalpaca-native'/.test(text) && !/from 'node-llama-cpp'/.test(text)
    )
  })
}

/** Links of a page to other files of the repository. */
export function links(page: string): string[] {
  const text = read(page)
    .replace(/^(```+)[\s\S]*?^\1$/gm, '')
    .replace(/`[^`\n]*`/g, '')
  return Array.from(text.matchAll(/\]\(([^)\s]+)\)/g), ([, target]) => target).filter((target) => !/^\w+:/.test(target))
}

/** Whether the package includes a file, by `files` of its package.json; npm adds the manifest, README, and LICENSE. */
export function isPacked(file: string): boolean {
  const { files } = JSON.parse(read('package.json')) as { files: string[] }
  const holds = (entry: string) => file === entry || file.startsWith(`${entry}/`)
  if (['package.json', 'README.md', 'LICENSE'].includes(file)) return true
  return files.some((entry) => holds(entry)) && !files.some((entry) => entry.startsWith('!') && holds(entry.slice(1)))
}

/** The anchors of a page's headings, as GitHub generates them. */
export function anchors(page: string): string[] {
  const headings = read(page)
    .replace(/^(```+)[\s\S]*?^\1$/gm, '')
    .matchAll(/^#+ (.*)$/gm)
  return Array.from(headings, ([, text]) => {
    return text
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-')
  })
}
