import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { alpacaChatTemplate } from '../../lib/data/chat-template.js'
import { buildInstance } from '../../lib/data/instances.js'
import { encodePrompt, formatPrompt } from '../../lib/data/prompt.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import { fixtures } from '../support/fixtures.js'

interface Message {
  role: string
  content: string
  input?: string
}
interface Case {
  model: 'v1' | 'v2'
  messages: Message[]
  text: string
  ids: number[]
}

const read = (name: string): string => readFileSync(path.join(fixtures, 'chat_template', name), 'utf8')
const { cases } = JSON.parse(read('rendered.json')) as { cases: Case[] }
const tokens = { bos_token: '<s>', eos_token: '</s>' }

let scratch: string
let template: { render(values: Record<string, unknown>): string }
const tokenizers = new Map<string, LlamaTokenizer>()

beforeAll(async () => {
  const { Template } = await import('@huggingface/jinja')
  template = new Template(alpacaChatTemplate)
  scratch = mkdtempSync(path.join(tmpdir(), 'chat-template-'))
  for (const name of ['v1', 'v2']) {
    copyFileSync(path.join(fixtures, 'tokenizer', `${name}.model`), path.join(scratch, 'tokenizer.model'))
    tokenizers.set(name, await LlamaTokenizer.fromPretrained(scratch))
  }
})
afterAll(() => rmSync(scratch, { recursive: true }))

describe('the chat template of trained models', () => {
  it('the chat template is the one that Transformers rendered', () => {
    expect(read('template.jinja')).toBe(alpacaChatTemplate)
  })

  it.each(cases)('the chat template renders $messages like Transformers ($model)', ({ messages, text }) => {
    const add_generation_prompt = messages.at(-1)!.role === 'user'
    expect(template.render({ messages, add_generation_prompt, ...tokens })).toBe(text)
  })

  it.each(cases.filter(({ messages }) => messages.length <= 2))(
    'the chat template gives $messages the ids of training ($model)',
    ({ model, messages, ids }) => {
      const tokenizer = tokenizers.get(model)!
      const [first, second] = messages
      const asked = (first!.role === 'user' ? first : second)!
      const fields = { instruction: asked.content, input: asked.input ?? '' }
      if (second?.role === 'assistant') {
        const trained = buildInstance({ ...fields, output: second.content }, 0, tokenizer, 1000)
        expect(ids).toEqual([...trained.inputIds])
      } else if (first!.role === 'system' && first!.content !== '') {
        const prompt = `${first!.content}\n\n${formatPrompt(fields)}`
        expect(ids).toEqual(tokenizer.encode(prompt))
      } else expect(ids).toEqual(encodePrompt(tokenizer, fields))
    },
  )

  it('the chat template adds nothing around texts that a program inserts later, as node-llama-cpp does', () => {
    const messages = [
      { role: 'system', content: 'A' },
      { role: 'user', content: 'B' },
      { role: 'assistant', content: 'C' },
    ]
    expect(template.render({ messages, ...tokens })).toBe(`<s>A${formatPrompt({ instruction: 'B' })}C</s>`)
  })

  it('the chat template rejects other roles', () => {
    const messages = [{ role: 'tool', content: 'x' }]
    expect(() => template.render({ messages, ...tokens })).toThrow('expected the roles system, user, and assistant')
  })
})
