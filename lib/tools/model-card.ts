import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { stringify } from 'yaml'
import { formatPrompt } from '../data/prompt.js'
import { formatCount, formatPercent } from '../format.js'
import { parseModelName } from '../hub/settings.js'
import { writeFileAtomically } from '../io/atomic.js'
import { type LlamaConfig, readConfig } from '../model/config.js'
import { parameterCount } from '../model/layout.js'
import { trainingLogPath } from '../train/log.js'
import type { Recipe } from '../train/recipe-schema.js'
import { recipeFacts } from '../train/report/facts.js'
import { type RunSummary, renderCurveSvg, summarizeRun } from '../train/report/index.js'
import { packageVersion } from '../version.js'

export interface ModelCardOptions {
  /** The training log's directory. @default `logs` in the model's directory, if it has a log */
  logPath?: string
  /** A license in the Hub's notation: `apache-2.0`. */
  license?: string
  /** Data sets on the Hub: `databricks/databricks-dolly-15k`. */
  datasets?: readonly string[]
  /** ISO 639 codes. @default en */
  languages?: readonly string[]
  /** The base model's name on the Hub. @default the recipe's, if that is a name on the Hub */
  baseModel?: string
  /** @default the directory's name */
  name?: string
}

const cardFile = 'README.md'
const curveFile = 'training-curve.svg'

/**
 * Writes README.md, the model card, and the training curve into a model directory. A README.md from another source, or
 * one edited since, is kept.
 * @returns whether it was written
 * @throws {ConfigError} for a directory without a model
 */
export async function writeModelCard(directory: string, options: ModelCardOptions = {}): Promise<boolean> {
  const file = path.join(directory, cardFile)
  const existing = await readFile(file, 'utf8').catch((error) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (existing !== undefined && !isUnchangedCard(existing)) return false
  const config = await readConfig(directory)
  const logPath = trainingLogPath(options.logPath ?? path.join(directory, 'logs'))
  const run = options.logPath !== undefined || existsSync(logPath) ? summarizeRun(logPath) : undefined
  if (run) await replaceFile(path.join(directory, curveFile), renderCurveSvg(logPath))
  const name = options.name ?? path.basename(path.resolve(directory))
  await replaceFile(file, signed(frontMatter(run, options), body(name, config, run, options)))
  return true
}

function replaceFile(file: string, text: string): Promise<void> {
  return writeFileAtomically(file, (temporary) => writeFile(temporary, text))
}

// The card contains its own checksum, which distinguishes an edited card from a generated one.
const signature = /^<!-- openalpaca-native wrote this model card \(([0-9a-f]{16})\)[^\n]* -->\n/m

function checksum(card: string): string {
  return createHash('sha256').update(card).digest('hex').slice(0, 16)
}

function signed(front: string, text: string): string {
  const mark = checksum(front + text)
  return `${front}<!-- openalpaca-native wrote this model card (${mark}); once you change it, it is yours and stays as it is -->\n${text}`
}

function isUnchangedCard(card: string): boolean {
  const [line, mark] = signature.exec(card) ?? []
  return line !== undefined && checksum(card.replace(line, '')) === mark
}

/** The YAML that the Hub reads (huggingface.co/docs/hub/model-cards). */
function frontMatter(run: RunSummary | undefined, options: ModelCardOptions): string {
  const baseModel = options.baseModel ?? hubName(run?.start.recipe)
  const metadata = {
    language: options.languages ?? ['en'],
    ...(options.license !== undefined && { license: options.license }),
    library_name: 'transformers',
    pipeline_tag: 'text-generation',
    ...(baseModel !== undefined && { base_model: baseModel, base_model_relation: 'finetune' }),
    ...(options.datasets?.length && { datasets: options.datasets }),
    tags: ['llama', 'instruction-tuning', 'openalpaca-native'],
  }
  return `---\n${stringify(metadata)}---\n\n`
}

/** The recipe's model, if it is on the Hub. */
function hubName(recipe: Recipe | undefined): string | undefined {
  const { model_path: modelPath } = recipe ?? {}
  return modelPath === undefined || existsSync(modelPath) ? undefined : parseModelName(modelPath)?.name
}

function body(name: string, config: LlamaConfig, run: RunSummary | undefined, options: ModelCardOptions): string {
  const sections = [
    `# ${name}`,
    introduction(config, run, options),
    ...(run ? trainingSections(run) : []),
    usage(),
    `## Model\n\n${table(modelFacts(config))}`,
    ...(run ? [`## Recipe\n\n${table(trainingFacts(run))}`] : []),
    `Written by openalpaca-native ${packageVersion}.`,
  ]
  return `${sections.join('\n\n')}\n`
}

function introduction(config: LlamaConfig, run: RunSummary | undefined, options: ModelCardOptions): string {
  const what = `A LLaMA of ${formatCount(parameterCount(config))} parameters that follows instructions`
  if (!run) return `${what}.`
  const { recipe, time, train_instances: instances } = run.start
  const base = options.baseModel ?? hubName(recipe)
  const from =
    base === undefined ? (recipe.model_path ? 'fine-tuned' : 'trained from scratch') : `fine-tuned from \`${base}\``
  const data = options.datasets?.length ? ` of ${options.datasets.map((dataset) => `\`${dataset}\``).join(', ')}` : ''
  return `${what}, ${from} on ${instances} instances${data} on ${time.slice(0, 10)}.`
}

function trainingSections({ figures, evaluation, samples }: RunSummary): string[] {
  const sections = [`## Training\n\n![Training curve](${curveFile})\n\n${table(figures)}`]
  if (evaluation) {
    const rows = evaluation.skills.map(({ skill, correct, total }): [string, string] => [
      skill,
      `${correct} of ${total}`,
    ])
    const share = `${evaluation.correct} of ${evaluation.total} (${formatPercent(evaluation.correct / evaluation.total)})`
    sections.push(
      `Whole answers to instructions that were not trained on, compared with the expected ones: ${share} are right.\n\n${table(rows)}`,
    )
  }
  const last = samples.filter(({ step }) => step === samples.at(-1)?.step)
  if (last.length > 0) sections.push(`## Sample answers\n\n${last.map(sampleMarkup).join('\n\n')}`)
  return sections
}

function sampleMarkup({ instruction, input, output }: RunSummary['samples'][number]): string {
  return fenced(`${input ? `${instruction}\n\n${input}` : instruction}\n→ ${output}`)
}

function usage(): string {
  const prompt = formatPrompt({ instruction: '{instruction}', input: '{input}' })
  return `## Use

${fenced("npx openalpaca-native sample --model_path . --instruction 'Say hello.'", 'bash')}

With Transformers, whose tokenizer needs two more packages:

${fenced('pip install torch transformers sentencepiece protobuf', 'bash')}

${fenced(pythonProgram, 'python')}

The prompt is

${fenced(prompt)}

and, for an instruction without an input,

${fenced(formatPrompt({ instruction: '{instruction}' }))}

For llama.cpp and Ollama, \`npx openalpaca-native convert --model_path . --output model.gguf --dtype q8_0\`.`
}

/** JSON strings are valid Python strings. */
const pythonProgram = `from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
prompt = ${JSON.stringify(formatPrompt({ instruction: 'Say hello.' }))}
inputs = tokenizer(prompt, return_tensors="pt")
answer = model.generate(inputs.input_ids, max_new_tokens=128, do_sample=False)
print(tokenizer.decode(answer[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))`

function modelFacts(config: LlamaConfig): [string, string][] {
  return [
    ['architecture', 'LlamaForCausalLM'],
    ['parameters', parameterCount(config).toLocaleString('en')],
    ['layers', String(config.numHiddenLayers)],
    ['hidden size', String(config.hiddenSize)],
    ['heads', `${config.numAttentionHeads} of ${config.headDim}, ${config.numKeyValueHeads} for keys and values`],
    ['context', `${config.maxPositionEmbeddings} tokens`],
    ['vocabulary', `${config.vocabSize} tokens`],
  ]
}

/** The settings needed to repeat the training, without this machine's paths and settings. */
function trainingFacts({ start }: RunSummary): [string, string][] {
  const { device, versions } = start
  const ofMachine =
    /_path$|^(log_every|keep_last|keep_checkpoints|checkpoint_|sample_|save_dtype|max_shard_size|device$|threads)/
  return [
    ...recipeFacts(start).filter(([key]) => !ofMachine.test(key)),
    ['trained on', `${device.name} in ${device.dtype}`],
    ['instances', `${start.train_instances} for training, ${start.validation_instances} for validation`],
    [
      'versions',
      Object.entries(versions)
        .map((entry) => entry.join(' '))
        .join(', '),
    ],
  ]
}

function table(rows: readonly [string, string][]): string {
  const cell = (text: string) => text.replaceAll('|', '\\|').replace(/\s*\n\s*/g, ' ')
  return ['| | |', '| --- | --- |', ...rows.map(([key, value]) => `| ${cell(key)} | ${cell(value)} |`)].join('\n')
}

/** A verbatim block of text, within a fence that is longer than any in it. */
function fenced(text: string, language = 'text'): string {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length))
  const fence = '`'.repeat(longest + 1)
  return `${fence}${language}\n${text}\n${fence}`
}
