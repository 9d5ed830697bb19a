// Writes lib/ops.ts, the TypeScript declarations of the ops, from core/ops.h, their contract. With --check, fails if the
// file is not up to date. `npm run setup` runs it.

import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const file = path.join(root, 'lib', 'ops.ts')
const contract = readFileSync(path.join(root, 'core', 'ops.h'), 'utf8')

// Names whose capitalization the contract does not give.
const exported = {
  rmsnorm_forward: 'rmsNormForward',
  add_rmsnorm_forward: 'addRmsNormForward',
  rmsnorm_backward: 'rmsNormBackward',
}

const camelCase = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase())

/** Joins the lines of a // comment. Lines with more indentation, such as formulas, stay separate. */
function commentText(comment) {
  const lines = comment.split('\n').map((line) => line.replace(/^\/\/ ?/, ''))
  return lines
    .map((line) => line.trimEnd())
    .reduce(
      (text, line) =>
        text && !/^ {2}/.test(line) && !/(^|\n) {2}[^\n]*$/.test(text)
          ? `${text} ${line}`
          : `${text}${text && '\n'}${line}`,
      '',
    )
}

/** The members of a struct with their C++ types and default values. */
function membersOf(body) {
  const members = new Map()
  for (const [, type, list] of body.matchAll(/^ {2}(Tensor|double|int64_t|bool) ([^;()]+);/gm)) {
    for (const item of list.split(',')) {
      const [name, value] = item.split('=').map((part) => part.trim())
      members.set(name, { type, value })
    }
  }
  return members
}

/** The shape of a tensor for a doc comment, and how the op uses it. */
function describeTensor(specification, flag) {
  const shapes = specification.map((text) =>
    text.replace(/^[=+]/, '').replace(/^f32/, 'float32').replace(/^i32/, 'int32'),
  )
  const access = { '=': ', overwritten', '+': ', updated' }[specification[0][0]] ?? ''
  const [shape, transposed] = shapes.map((text) => (text === 'any[...]' ? 'Any dtype and shape' : text))
  return transposed
    ? `${transposed === shape ? shape : `${transposed}, or ${shape} with \`${flag}\``}${access}`
    : `${shape}${access}`
}

/** The arguments of an op in the order in which fields() visits them. */
function fieldsOf(body) {
  const members = membersOf(body)
  const pattern =
    /^ {4}\w+(\.optional)?\("(\w+)", (\w+)(?:,\s*(?:(\w+) \? )?"([^"]+)"(?: : "([^"]+)")?)?\);(?:\s*\/\/ (.*))?$/gm
  return [...body.matchAll(pattern)].map(([, optional, name, member, flag, first, second, note]) => {
    const { type, value } = members.get(member)
    return {
      name,
      optional: optional !== undefined,
      type,
      value,
      flag,
      specification: [first, second].filter(Boolean),
      note,
    }
  })
}

/** A comment of core/ops.h with field and op names in TypeScript's spelling. */
const spell = (text, names) =>
  text.replace(/\w+/g, (word) => (names.has(word) ? (exported[word] ?? camelCase(word)) : word))

const capitalize = (text) => text.charAt(0).toUpperCase() + text.slice(1)

const endWithPeriod = (text) => (/[.\]]$|^[A-Z]$/.test(text) ? text : `${text}.`)

function fieldDeclaration(field, names) {
  const { name, optional, type, value, flag, specification, note } = field
  const parts = []
  if (type === 'Tensor') parts.push(describeTensor(specification, flag && camelCase(flag)))
  else if (specification.length > 0) parts.push(specification[0])
  if (note) parts.push(parts.length > 0 ? spell(note, names) : capitalize(spell(note, names)))
  let text = parts.join(parts.length > 1 ? ': ' : '')
  if (optional && type !== 'Tensor') text = `${text ? `${text}. ` : ''}${capitalize(value)} by default`
  const doc = text ? `  /** ${endWithPeriod(text)} */\n` : ''
  const typescript = { Tensor: 'Tensor', double: 'number', int64_t: 'number', bool: 'boolean' }[type]
  return `${doc}  ${camelCase(name)}${optional ? '?' : ''}: ${typescript}`
}

const docComment = (text) => {
  const lines = text.split('\n')
  return lines.length === 1 && lines[0].length < 110
    ? `/** ${text} */`
    : `/**\n${lines.map((line) => ` * ${line}`.trimEnd()).join('\n')}\n */`
}

/** Splits text into lines of at most `width` characters. */
function wrap(text, width = 115) {
  return text
    .split('\n')
    .flatMap((line) => {
      if (/^ {2}/.test(line)) return [line]
      const lines = ['']
      for (const word of line.split(/ +/)) {
        if (lines.at(-1).length + word.length + 1 > width) lines.push('')
        lines[lines.length - 1] += (lines.at(-1) ? ' ' : '') + word
      }
      return lines
    })
    .join('\n')
}

const structs = new Map()
const structPattern = /((?:^\/\/.*\n)+)^struct (\w+)(?: : (\w+))? \{\n([\s\S]*?)^\};/gm
for (const [, comment, type, base, body] of contract.matchAll(structPattern)) {
  const [, name] = /name = "(\w+)"/.exec(body)
  structs.set(type, { type, name, base, text: commentText(comment.trim()), fields: base ? undefined : fieldsOf(body) })
}
const functions = new Map([...contract.matchAll(/^ {2}X\((\w+), (\w+)\)/gm)].map(([, type, name]) => [type, name]))
for (const type of functions.keys())
  if (!structs.has(type)) throw new Error(`core/ops.h lists ${type}, but has no struct of that name`)

const args = (type) => `${type}Args`

const declarations = [...functions].map(([type, name]) => {
  const { base, text, fields } = structs.get(type)
  const names = new Set([...(fields ?? structs.get(base).fields).map((field) => field.name), ...functions.values()])
  const camel = exported[name] ?? camelCase(name)
  const head = `/** Arguments of \`${camel}\`. */`
  const members = base
    ? `${head}\nexport type ${args(type)} = ${args(base)}`
    : `${head}\nexport interface ${args(type)} {\n${fields.map((field) => fieldDeclaration(field, names)).join('\n')}\n}`
  return `${members}\n\n${docComment(wrap(endWithPeriod(spell(text, names))))}\nexport const ${camel}: Op<${args(type)}> = op('${name}')`
})

const source = `/**
 * The ops, with named arguments. Generated from core/ops.h, their contract, by scripts/generate-ops.mjs: do not edit.
 *
 * Dtypes and shapes are checked when an op is called, which throws a \`TypeError\` for an argument of the wrong kind or
 * dtype or a disposed tensor, and a \`RangeError\` for a wrong shape. Each op enqueues its work on a stream and returns at
 * once. Wrong data, such as an id outside the vocabulary, rejects the stream's next wait.
 *
 * Shapes are row-major. T is the number of tokens, C the hidden size, H and K the query and key/value heads, D the head
 * size, F the intermediate size, V the vocabulary, B the sequences being decoded, P the positions of a table or a cache. A
 * is float32 or bfloat16, the same for every A of a call, and G likewise, chosen independently of A.
 *
 * @module ops
 */
import type { Stream } from './device.js'
import type { Tensor } from './tensor.js'

/** Enqueues an op on a stream and returns at once. */
export type Op<Args> = (stream: Stream, args: Args) => void

const op =
  <Args extends object>(name: string): Op<Args> =>
  (stream, args) => {
    if (typeof stream?.enqueue !== 'function') throw new TypeError(\`\${name}: stream must be a stream\`)
    stream.enqueue(name, args)
  }

${declarations.join('\n\n')}

/** @deprecated Use \`RopeForwardArgs\`. */
export type RopeArgs = RopeForwardArgs

/** @deprecated Use \`AttentionForwardArgs\`. */
export type AttentionArgs = AttentionForwardArgs
`

if (process.argv.includes('--check')) {
  if (readFileSync(file, 'utf8') !== source) {
    console.error('lib/ops.ts is not what core/ops.h describes; node scripts/generate-ops.mjs writes it')
    process.exit(1)
  }
} else if (readFileSync(file, 'utf8') !== source) writeFileSync(file, source)
