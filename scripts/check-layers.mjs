// Checks that imports between the directories of lib/ point in one direction: see "Layers" in docs/architecture.md.
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.join(fileURLToPath(new URL('..', import.meta.url)), 'lib')

/** From the lowest layer to the highest. A file may import its own layer and the ones above it in this list. */
const layers = [
  ['errors', 'format', 'nearest', 'arguments', 'json', 'version', 'symbol-dispose', 'addon-advice', 'warnings'],
  ['native'],
  ['device', 'tensor', 'ops'],
  ['io'],
  ['formats'],
  ['hub'],
  ['tokenizer'],
  ['chat'],
  ['data'],
  ['parallel'],
  ['model'],
  ['generate'],
  ['causal-lm', 'save'],
  ['train'],
  ['eval'],
  ['serve'],
  ['plan', 'tools'],
  ['index', 'cli'],
]
const rank = new Map(layers.flatMap((names, index) => names.map((name) => [name, index])))

/** The layer of a file: its directory in lib/, or its name if it is in lib/ itself. */
const layerOf = (file) =>
  path
    .relative(root, file)
    .split(path.sep)[0]
    .replace(/(\.d)?\.m?ts$/, '')

const problems = []
for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
  const file = path.join(entry.parentPath ?? entry.path, entry.name)
  if (!entry.isFile() || !/\.m?ts$/.test(file) || file.endsWith('.d.ts')) continue
  const from = layerOf(file)
  const where = path.join('lib', path.relative(root, file))
  if (!rank.has(from)) problems.push(`${where} belongs to no layer: add ${from} to scripts/check-layers.mjs`)
  for (const [, specifier] of readFileSync(file, 'utf8').matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)) {
    const to = layerOf(path.resolve(path.dirname(file), specifier.replace(/\.(m?)js$/, '.$1ts')))
    if (rank.get(to) > rank.get(from))
      problems.push(`${where} (${from}) imports ${specifier}, which is in a higher layer (${to})`)
  }
}
if (problems.length > 0) {
  console.error(problems.join('\n'))
  process.exit(1)
}
