import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeEach, describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { ConfigError, DataError } from '../../lib/errors.js'
import { writeModelCard } from '../../lib/tools/model-card.js'
import type { TrainEvent } from '../../lib/train/events.js'
import { temporaryDirectory } from '../formats/helpers.js'
import { fixtures } from '../support/fixtures.js'
import { startEvent, stretch } from './run.js'

const root = temporaryDirectory()
let directory: string

beforeEach(() => {
  directory = path.join(mkdtempSync(path.join(root, 'run-')), 'alpaca-3b')
  cpSync(path.join(fixtures, 'd100'), directory, { recursive: true })
})

function writeLog(recipe: Record<string, unknown>, ...more: TrainEvent[]): void {
  const events = [startEvent(0, recipe), ...stretch(1, 100), ...more]
  mkdirSync(path.join(directory, 'logs'))
  writeFileSync(path.join(directory, 'logs/train.jsonl'), events.map((event) => `${JSON.stringify(event)}\n`).join(''))
}

const card = () => readFileSync(path.join(directory, 'README.md'), 'utf8')
const frontMatter = () => parse(/^---\n([\s\S]*?)---\n/.exec(card())![1]!)

describe('a model card', () => {
  it('describes the model to the Hub in YAML that it understands', async () => {
    writeLog({ name: 'tiny', model_path: 'openlm-research/open_llama_3b_v2@main' })
    const datasets = ['databricks/databricks-dolly-15k']
    expect(await writeModelCard(directory, { license: 'apache-2.0', datasets, languages: ['en', 'de'] })).toBe(true)
    expect(frontMatter()).toEqual({
      language: ['en', 'de'],
      license: 'apache-2.0',
      library_name: 'transformers',
      pipeline_tag: 'text-generation',
      base_model: 'openlm-research/open_llama_3b_v2',
      base_model_relation: 'finetune',
      datasets,
      tags: ['llama', 'instruction-tuning', 'openalpaca-native'],
    })
  })

  it('describes how the model was trained, on which data, how well, and how to use it', async () => {
    writeLog(
      { name: 'tiny', learning_rate: 2e-5, data_path: '/home/me/secret.json' },
      { type: 'sample', step: 100, instruction: 'Show ``` and |', output: 'done\n```' },
      { type: 'evaluation', step: 100, correct: 3, total: 4, skills: [{ skill: 'a|b', correct: 3, total: 4 }] },
    )
    await writeModelCard(directory)
    const text = card()
    expect(text).toContain('# alpaca-3b\n')
    expect(text).toMatch(/A LLaMA of 699k parameters .*, trained from scratch on 400 instances on 2026-01-02/)
    expect(text).toContain('| learning_rate | 2e-5 |')
    expect(text).toContain('| validation loss | 2.5000 |')
    expect(text).toContain('| steps | 100 |')
    expect(text).toContain('3 of 4 (75.0 %) are right')
    expect(text).toContain('| a\\|b | 3 of 4 |')
    expect(text).toContain('````text\nShow ``` and |\n→ done\n```\n````')
    expect(text).toContain('### Instruction:\n{instruction}\n\n### Response:\n```')
    expect(text).not.toContain('/home/me')
    expect(frontMatter()).not.toHaveProperty('license')
    expect(text).toContain('![Training curve](training-curve.svg)')
    expect(readFileSync(path.join(directory, 'training-curve.svg'), 'utf8')).toMatch(/^<svg /)
  })

  it('omits the training section when there is no log', async () => {
    await writeModelCard(directory, { name: 'My model', baseModel: 'a/b' })
    expect(card()).toContain('# My model\n')
    expect(frontMatter().base_model).toBe('a/b')
    expect(card()).not.toContain('## Training')
    expect(readdirSync(directory)).not.toContain('training-curve.svg')
    await expect(writeModelCard(directory, { logPath: path.join(directory, 'nowhere') })).rejects.toThrow(DataError)
  })

  it('replaces a generated card, and never a card written or edited by the user', async () => {
    expect(await writeModelCard(directory, { name: 'First' })).toBe(true)
    expect(await writeModelCard(directory, { name: 'Second' })).toBe(true)
    expect(card()).toContain('# Second\n')
    for (const change of [
      (text: string) => `${text}One more line.\n`,
      (text: string) => text.replace('language', 'languages'),
      () => '# Mine\n',
      () => '',
    ]) {
      const theirs = change(card())
      writeFileSync(path.join(directory, 'README.md'), theirs)
      expect(await writeModelCard(directory, { name: 'Third' })).toBe(false)
      expect(card()).toBe(theirs)
      rmSync(path.join(directory, 'README.md'))
      await writeModelCard(directory)
    }
  })

  it('throws when there is no model', async () => {
    const empty = mkdtempSync(path.join(root, 'empty-'))
    await expect(writeModelCard(empty)).rejects.toThrow(ConfigError)
    expect(readdirSync(empty)).toEqual([])
  })
})
