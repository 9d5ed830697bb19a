import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { buildInstance, buildInstances, countLabels } from '../../lib/data/instances.js'
import { readInstructions } from '../../lib/data/instructions.js'
import { previewInstances } from '../../lib/data/preview.js'
import { formatPrompt } from '../../lib/data/prompt.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'

const fixtures = join(__dirname, '../fixtures')

let tokenizer: LlamaTokenizer

beforeAll(async () => {
  tokenizer = await LlamaTokenizer.fromPretrained(join(fixtures, 'd100'))
})

describe('prompts', () => {
  it('prompts match the two templates exactly', async () => {
    const source = await readFile(join(fixtures, 'make.py'), 'utf8')
    const template = (name: string): string => {
      const literal = new RegExp(`^${name} = \\(([^]*?)\\)\\n(?=[A-Z])`, 'm').exec(source)![1]
      return [...literal.matchAll(/"(.*)"/g)].map(([, part]) => part.replaceAll('\\n', '\n')).join('')
    }
    const withInput = template('PROMPT_INPUT').replace('{instruction}', 'Do it.').replace('{input}', 'This.')
    expect(formatPrompt({ instruction: 'Do it.', input: 'This.' })).toBe(withInput)
    const without = template('PROMPT_NO_INPUT').replace('{instruction}', 'Do it.')
    expect(formatPrompt({ instruction: 'Do it.' })).toBe(without)
    expect(formatPrompt({ instruction: 'Do it.', input: '' })).toBe(without)
    expect(without.endsWith('\n\n### Response:')).toBe(true)
  })

  it('prompts insert braces and dollar signs literally', () => {
    expect(formatPrompt({ instruction: '{input} $& {0}', input: '{instruction}' })).toContain(
      '### Instruction:\n{input} $& {0}\n\n### Input:\n{instruction}\n\n###',
    )
  })

  it('prompts accept an input under its other name, and reject two different ones', () => {
    const both = formatPrompt({ instruction: 'Do it.', input: 'This.' })
    expect(formatPrompt({ instruction: 'Do it.', context: 'This.' })).toBe(both)
    expect(formatPrompt({ instruction: 'Do it.', input: '', context: 'This.' })).toBe(both)
    expect(() => formatPrompt({ instruction: 'Do it.', input: 'This.', context: 'That.' })).toThrow(
      'formatPrompt: "input" and "context" have different texts',
    )
  })

  it('prompts have an input part for an input of spaces only', () => {
    expect(formatPrompt({ instruction: 'x', input: ' ' })).toContain('### Input:\n \n')
  })
})

describe('instances', () => {
  it("instances match OpenAlpaca's data set, without the one that has no label", async () => {
    const instructions = await readInstructions(join(fixtures, 'instructions.json'))
    const lines = (await readFile(join(fixtures, 'instances.jsonl'), 'utf8')).trim().split('\n')
    const expected: { input_ids: number[]; labels: number[] }[] = lines.map((line) => JSON.parse(line))
    const all = instructions.map((instruction, id) => buildInstance(instruction, id, tokenizer, 224))
    expect(all.map(({ inputIds, labels }) => ({ input_ids: [...inputIds], labels: [...labels] }))).toEqual(expected)

    const hasLabel = expected.map(({ labels }) => labels.slice(1).some((label) => label !== -100))
    expect(hasLabel.filter((has) => !has)).toHaveLength(1)
    const { instances, dropped, truncated } = await buildInstances(instructions, tokenizer, 224)
    expect(dropped).toBe(1)
    expect(truncated).toBe(expected.filter(({ input_ids }, i) => hasLabel[i] && input_ids.at(-1) !== 2).length)
    expect(instances).toEqual(all.filter((_, id) => hasLabel[id]))
  })

  it('instances count the labels after the first token', () => {
    const labels = (...values: number[]) => ({ inputIds: Int32Array.from(values), labels: Int32Array.from(values) })
    expect(countLabels(labels(1, -100, 0, 5))).toBe(2)
    expect(countLabels(labels(1))).toBe(0)
  })

  it('instances learn at least the end token of an empty answer', () => {
    const { inputIds, labels } = buildInstance({ instruction: 'a', input: '', output: '' }, 0, tokenizer, 500)
    expect(labels.at(-1)).toBe(2)
    expect(countLabels({ inputIds, labels })).toBe(1)
  })

  it('instance creation reports progress, and rejects an empty result', async () => {
    const rows = Array.from({ length: 300 }, (_, i) => ({ instruction: `Say ${i}.`, input: '', output: `${i}` }))
    const seen: number[] = []
    await buildInstances(rows, tokenizer, 500, {
      onProgress: (done, total) => {
        expect(total).toBe(300)
        seen.push(done)
      },
    })
    expect(seen).toEqual([...new Set(seen)].sort((a, b) => a - b))
    expect(seen.at(-1)).toBe(300)
    await expect(buildInstances(rows, tokenizer, 20)).rejects.toThrow(/none of the 300 instructions .* in 20 tokens/)
    await expect(buildInstances(rows, tokenizer, 1)).rejects.toThrow(RangeError)
  })
})

describe('the preview', () => {
  const row = { instruction: 'Greet the llama.', input: '', output: 'Hello 🦙' }
  const masked = `‹masked›<s> ${formatPrompt(row)}`
  const learned = '‹learned› Hello 🦙</s>'

  it('the preview distinguishes learned and masked text', () => {
    const instance = buildInstance(row, 3, tokenizer, 500)
    const head = `instance 3: ${instance.inputIds.length} tokens, ${countLabels(instance)} of them learned\n`
    expect(previewInstances([instance], tokenizer, 1)).toBe(`${head}${masked}${learned}\n`)
    const colored = `${head}\x1b[2m${masked}\x1b[0m\x1b[1;32m${learned}\x1b[0m\n`
    expect(previewInstances([instance], tokenizer, 1, { color: true })).toBe(colored)
  })

  it('the preview marks an instance whose answer is truncated, without an end token', () => {
    const { length } = buildInstance(row, 3, tokenizer, 500).inputIds
    const cut = buildInstance(row, 3, tokenizer, length - 1)
    expect(previewInstances([cut], tokenizer, 1)).toMatch(
      new RegExp(`^instance 3: ${length - 1} tokens, .* learned, cut at max_length: no end token\n`),
    )
    expect(previewInstances([buildInstance(row, 3, tokenizer, length)], tokenizer, 1)).not.toContain('cut')
  })

  it('the preview shows the requested number of instances', () => {
    const instances = [0, 1, 2].map((id) => buildInstance(row, id, tokenizer, 500))
    expect(previewInstances(instances, tokenizer, 2).match(/^instance \d/gm)).toEqual(['instance 0', 'instance 1'])
    expect(previewInstances(instances, tokenizer, 9).match(/^instance \d/gm)).toHaveLength(3)
  })

  it('the preview makes control characters visible, so that data cannot control the terminal', () => {
    const instance = buildInstance({ ...row, output: 'a\x1b[31mb\x07\n' }, 0, tokenizer, 500)
    expect(previewInstances([instance], tokenizer, 1)).toContain('‹learned› a␛[31mb␇\n</s>')
  })
})
