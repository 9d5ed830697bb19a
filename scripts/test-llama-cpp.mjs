#!/usr/bin/env node
// Compares a GGUF file with its source model: ids of prompts and greedy answers of node-llama-cpp with ours, and the
// program of docs/publishing.md. node-llama-cpp and its binary are installed below build/, without their scripts.

import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { root } from './toolchain.mjs'

const version = '3.22.1'
const source = process.argv[2] ?? path.join(root, 'runs/quickstart')
const directory = path.join(root, 'build/llama-cpp')
const trained = path.join(directory, 'quickstart')
const gguf = path.join(directory, 'quickstart.gguf')
const modules = path.join(directory, 'node_modules')

if (!fs.existsSync(path.join(source, 'config.json'))) {
  console.error(`there is no model in ${source}: train the quickstart with "npm run train", or name a model directory`)
  process.exit(1)
}
fs.mkdirSync(directory, { recursive: true })
if (!fs.existsSync(path.join(modules, 'node-llama-cpp'))) {
  fs.writeFileSync(path.join(directory, 'package.json'), '{ "private": true }\n')
  const packages = ['node-llama-cpp', '@node-llama-cpp/linux-x64'].map((name) => `${name}@${version}`)
  const flags = ['--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund']
  execFileSync('npm', ['install', ...flags, ...packages], { cwd: directory, stdio: 'inherit' })
}
fs.rmSync(path.join(modules, 'openalpaca-native'), { force: true })
fs.symlinkSync(root, path.join(modules, 'openalpaca-native'))

const require = createRequire(import.meta.url)
const { convertModel, formatPrompt, LlamaForCausalLM, LlamaTokenizer } = require(path.join(root, 'dist/index.js'))
const { alpacaChatTemplate } = require(path.join(root, 'dist/data/chat-template.js'))
const { Template } = await import('@huggingface/jinja')

const tokenizer = await LlamaTokenizer.fromPretrained(source)
tokenizer.chatTemplate = alpacaChatTemplate
const ours = await LlamaForCausalLM.fromPretrained(source, { device: 'cpu', dtype: 'float32' })
await ours.savePretrained(trained, { tokenizer })
await convertModel(trained, gguf, { to: 'gguf', dtype: 'float32' })

process.env.NODE_LLAMA_CPP_SKIP_DOWNLOAD = 'true'
process.env.NODE_LLAMA_CPP_GPU = 'false'
const { getLlama, LlamaChatSession } = await import(pathToFileURL(path.join(modules, 'node-llama-cpp/dist/index.js')))
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error' })
const theirs = await llama.loadModel({ modelPath: gguf })

const problems = []
const expectEqual = (what, actual, expected) => {
  const [a, b] = [actual, expected].map((value) => JSON.stringify(value))
  console.log(`${a === b ? 'same' : 'DIFFERENT'}: ${what}`)
  if (a !== b) problems.push(`${what}: got ${a}, expected ${b}`)
}

const prompts = [
  { instruction: 'Tell me the capital of Italy.' },
  { instruction: 'Add the numbers.', input: '3 and 4' },
  { instruction: 'Läuft’s? 🦙\n</s> stays text' },
]
const template = new Template(alpacaChatTemplate)
const tokens = { bos_token: theirs.tokens.bosString, eos_token: theirs.tokens.eosString, add_generation_prompt: true }
for (const fields of prompts) {
  const prompt = formatPrompt(fields)
  const name = JSON.stringify(fields.instruction)
  const ids = tokenizer.encode(prompt)
  expectEqual(`ids of the prompt for ${name}`, [theirs.tokens.bos, ...theirs.tokenize(prompt)], ids)
  const { instruction: content, input } = fields
  if (content.includes('</s>')) continue // in a rendered chat, every program parses it as the special token
  const chat = template.render({ messages: [{ role: 'user', content, input }], ...tokens })
  expectEqual(`ids of the chat for ${name}`, [...theirs.tokenize(chat, true)], ids)
}
expectEqual('the chat template of the file', theirs.fileInfo.metadata.tokenizer.chat_template, alpacaChatTemplate)
const context = await theirs.createContext({ contextSize: ours.config.maxPositionEmbeddings })
const session = new LlamaChatSession({ contextSequence: context.getSequence() })
expectEqual('the template that a chat session takes', session.chatWrapper.wrapperName, 'JinjaTemplate')
await context.dispose()

const page = fs.readFileSync(path.join(root, 'docs/publishing.md'), 'utf8')
const [, program] = /```js\n([\s\S]*?from 'node-llama-cpp'[\s\S]*?)```/.exec(page)
const [, instruction] = /session\.prompt\('(.*?)'/.exec(program)
fs.writeFileSync(path.join(directory, 'program.mjs'), program)
const answer = execFileSync(process.execPath, ['program.mjs'], { cwd: directory, encoding: 'utf8' }).trim()
const ids = tokenizer.encode(formatPrompt({ instruction }))
const expected = tokenizer.decode(await ours.generate(ids, { maxNewTokens: 64 }))
expectEqual(`the answer of the program in docs/publishing.md to "${instruction}"`, answer, expected)

for (const problem of problems) console.error(problem)
ours.dispose()
await llama.dispose()
process.exit(problems.length === 0 ? 0 : 1)
