import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError, OpenAlpacaError } from '../errors.js'
import { isCastable } from '../formats/cast.js'
import { openCheckpointWeights } from '../formats/checkpoint/checkpoint-weights.js'
import { hashFile, manifestName, parseManifest } from '../formats/checkpoint/manifest.js'
import { QUANTIZATION_KEYS } from '../formats/companions.js'
import { deepSpeedNames, findDeepSpeedFiles, openDeepSpeed } from '../formats/deepspeed/deepspeed.js'
import { distributedCheckpoint } from '../formats/foreign.js'
import {
  findModelFiles,
  isPeftAdapter,
  type ModelWeights,
  openModelWeights,
  openWeightFile,
  peftAdvice,
} from '../formats/model-files.js'
import { describeRenaming } from '../formats/names.js'
import { openSafetensors } from '../formats/safetensors/safetensors.js'
import { openTorchBin } from '../formats/torch/torch-bin.js'
import { findDamagedEntries } from '../formats/torch/zip.js'
import { readError } from '../formats/weight-file.js'
import { isLfsPointer, lfsAdvice, mayBeLfsPointer } from '../io/lfs.js'
import type { WeightDType, WeightSource } from '../io/weight-source.js'
import { type LlamaConfig, readConfig } from '../model/config.js'
import { specialTokenNotes } from '../model/special-tokens.js'
import { resolveTies } from '../model/ties.js'
import { describeSurplus, type LlamaTokenizer } from '../tokenizer/tokenizer.js'
import { inspectGguf, isGguf } from './inspect-gguf.js'
import { type InspectedTensor, type Inspection, totalsOf } from './inspection.js'

/** Options of `inspect`. */
export interface InspectOptions {
  /** Read all of a file that has checksums and compare them; defaults to true. */
  checksums?: boolean
}

/** The findings of one part of the inspection. */
type Findings = Pick<Inspection, 'kind' | 'checksums' | 'training'> & {
  fileNames: string[]
  directory: string
  /** Why it is unusable, regardless of the contents of its files. */
  problem?: string
  open(): Promise<WeightSource>
  /** Compares checksums, and returns the problems. */
  verify(): Promise<string[]>
}

/**
 * Inspects a weight file, a GGUF file, a model directory, or a training checkpoint of this package or DeepSpeed: reads
 * the descriptions of the tensors and, if the format has checksums, everything. Problems are listed, not thrown.
 * @throws {CheckpointError} for a path that does not exist or is not recognized
 */
export async function inspect(where: string, { checksums = true }: InspectOptions = {}): Promise<Inspection> {
  const stats = await stat(where).catch((error) => {
    throw readError(where, error)
  })
  if (stats.isFile() && (await isGguf(where))) return inspectGguf(where)
  const findings = stats.isDirectory() ? await recognise(where) : weightFile(where)
  const { directory, fileNames } = findings
  const problems: string[] = []
  const notes: string[] = []
  if (findings.problem !== undefined) problems.push(findings.problem)
  const isDirectory = findings.kind !== 'weight file'
  const stored = isDirectory ? await attempt(problems, () => optionalConfig(where)) : undefined
  const opened = await attempt(problems, () => listTensors(findings, stored, where, notes))
  const { tensors = [], config = stored } = opened ?? {}
  const read = isDirectory ? await attempt(problems, () => optionalTokenizer(where)) : undefined
  if (config) notes.push(...specialTokenNotes(config, read))
  const tokenizer = read && { file: 'tokenizer.model', vocabSize: read.vocabSize }
  if (config && tensors.length > 0 && findings.kind !== 'DeepSpeed checkpoint') {
    problems.push(...((await attempt(problems, () => compareWithConfig(config, tensors, where))) ?? []))
  }
  if (config && read) compareWithTokenizer(config, read, problems, notes)
  if (config && findings.kind === 'model directory') notes.push(...leftOvers(config, tensors))
  if (isDirectory) problems.push(...(await findLfsPointers(where)).filter((problem) => !problems.includes(problem)))
  if (checksums && problems.length === 0) problems.push(...((await attempt(problems, findings.verify)) ?? []))

  const files: Inspection['files'] = []
  for (const name of fileNames) {
    const stats = await stat(path.join(directory, name)).catch(() => undefined)
    if (stats) files.push({ name, bytes: stats.size })
  }
  return {
    path: where,
    kind: findings.kind,
    files,
    tensors,
    ...totalsOf(tensors),
    ...(config && { config: config.json }),
    ...(tokenizer && { tokenizer }),
    ...(findings.training && { training: findings.training }),
    checksums: checksums ? findings.checksums : null,
    problems,
    notes,
    whole: problems.length === 0,
  }
}

/** Runs a part of the inspection; an error about the files becomes a problem. */
async function attempt<T>(problems: string[], task: () => Promise<T>): Promise<T | undefined> {
  try {
    return await task()
  } catch (error) {
    if (!(error instanceof OpenAlpacaError)) throw error
    problems.push(error.message)
    return undefined
  }
}

async function recognise(where: string): Promise<Findings> {
  const names = await readdir(where)
  if (names.includes(manifestName)) return trainingCheckpoint(where)
  const ofDeepSpeed = deepSpeedNames(names).length > 0 || names.includes('latest') || names.includes('latest_universal')
  if (ofDeepSpeed) return deepSpeed(where)
  if (isPeftAdapter(names)) return peftAdapter(where, names)
  if (
    names.some((name) => name === 'config.json' || /^(model|pytorch_model)\b.*\.(safetensors|bin|json)$/.test(name))
  ) {
    return modelDirectory(where)
  }
  const distributed = distributedCheckpoint(where, names)
  if (distributed) throw new CheckpointError(distributed)
  const inside = names.filter((name) => /^checkpoint-\d+$|\.gguf$/.test(name)).at(-1)
  throw new CheckpointError(
    `${where} holds neither a model nor a checkpoint${inside ? `; did you mean ${path.join(where, inside)}?` : ''}`,
  )
}

function weightFile(file: string): Findings {
  const format = file.endsWith('.safetensors') ? 'safetensors' : 'bin'
  return {
    kind: 'weight file',
    directory: path.dirname(file),
    fileNames: [path.basename(file)],
    checksums: format === 'bin' ? 'CRC-32' : null,
    open: () => (format === 'bin' ? openTorchBin(file) : openSafetensors(file)),
    verify: async () => (format === 'bin' ? damagedEntries(file) : []),
  }
}

function peftAdapter(directory: string, names: string[]): Findings {
  const name = names.find((name) => /^adapter_model\.(safetensors|bin)$/.test(name))
  return {
    kind: 'PEFT adapter',
    directory,
    fileNames: name === undefined ? [] : [name],
    problem: peftAdvice(directory),
    checksums: name?.endsWith('.bin') ? 'CRC-32' : null,
    open: () => {
      if (name !== undefined) return openWeightFile(path.join(directory, name))
      throw new CheckpointError(`${directory} has an adapter_config.json and no adapter_model.safetensors`)
    },
    verify: async () => (name?.endsWith('.bin') ? damagedEntries(path.join(directory, name)) : []),
  }
}

async function modelDirectory(directory: string): Promise<Findings> {
  const found = await findModelFiles(directory).catch((error) => {
    if (error instanceof CheckpointError) return undefined // opening it reports this, as a problem
    throw error
  })
  const fileNames = [...(found?.files ?? [])]
  return {
    kind: 'model directory',
    directory,
    fileNames,
    checksums: found?.format === 'bin' ? 'CRC-32' : null,
    open: () => openModelWeights(directory),
    verify: async () => {
      const lists = fileNames.filter((name) => name.endsWith('.bin'))
      return (await Promise.all(lists.map((name) => damagedEntries(path.join(directory, name))))).flat()
    },
  }
}

/** A mismatch is a warning for torch, which can be configured to write no checksums; they are then 0 and skipped. */
async function damagedEntries(file: string): Promise<string[]> {
  return (await findDamagedEntries(file)).map((name) => `${file}: the checksum of ${name} does not match its bytes`)
}

async function trainingCheckpoint(directory: string): Promise<Findings> {
  const manifest = await parseManifest(directory).catch((error) => {
    if (error instanceof CheckpointError) return undefined
    throw error
  })
  const fileNames = Object.keys(manifest?.files ?? {}).sort()
  return {
    kind: 'training checkpoint',
    directory,
    fileNames,
    checksums: 'SHA-256',
    training: manifest && { step: manifest.step, ranks: manifest.world_size },
    open: () => openCheckpointWeights(directory),
    verify: async () => {
      const problems: string[] = []
      for (const name of fileNames) {
        const file = path.join(directory, name)
        if ((await hashFile(file)) !== manifest!.files[name]!.sha256) {
          problems.push(`${file} is damaged: its checksum is not the one in ${manifestName}`)
        }
      }
      return problems
    },
  }
}

async function deepSpeed(directory: string): Promise<Findings> {
  const where = (await findDeepSpeedFiles(directory).catch(() => undefined)) ?? directory
  const names = await readdir(where)
  // A universal checkpoint has a directory for each parameter.
  const parameters = names.includes('zero') ? await readdir(path.join(where, 'zero')) : []
  const fileNames = [...deepSpeedNames(names), ...parameters.sort().map((name) => path.join('zero', name, 'fp32.pt'))]
  const findings: Findings = {
    kind: 'DeepSpeed checkpoint',
    directory: where,
    fileNames,
    checksums: 'CRC-32',
    open: async () => {
      const source = await openDeepSpeed(directory)
      findings.training = { ranks: source.ranks, form: source.form }
      return source
    },
    verify: async () => {
      const problems: string[] = []
      for (const name of fileNames) {
        const file = path.join(where, name)
        if (await stat(file).catch(() => undefined)) problems.push(...(await damagedEntries(file)))
      }
      return problems
    },
  }
  return findings
}

/** The tensors, and the config compared with them. */
async function listTensors(
  { open, kind }: Findings,
  stored: LlamaConfig | undefined,
  where: string,
  notes: string[],
): Promise<{ tensors: InspectedTensor[]; config?: LlamaConfig }> {
  const source: WeightSource & Partial<ModelWeights> = await open()
  try {
    const renaming = source.renaming && describeRenaming(source.renaming)
    if (renaming !== undefined) notes.push(renaming)
    const { config, weights } =
      stored && kind === 'model directory'
        ? await resolveTies(stored, source, where, (warning) => void notes.push(warning))
        : { config: stored, weights: source }
    const tensors = [...weights.tensors.values()].map(({ name, dtype, shape, bytes, sameAs }) => {
      return { name, dtype, shape, bytes, ...(sameAs !== undefined && { sameAs }) }
    })
    return { tensors, config }
  } finally {
    await source.close()
  }
}

async function optionalConfig(directory: string): Promise<LlamaConfig | undefined> {
  const there = await stat(path.join(directory, 'config.json')).catch(() => undefined)
  return there ? await readConfig(directory) : undefined
}

async function optionalTokenizer(directory: string): Promise<LlamaTokenizer | undefined> {
  const file = path.join(directory, 'tokenizer.model')
  if (!(await stat(file).catch(() => undefined))) return undefined
  const { LlamaTokenizer } = await import('../tokenizer/tokenizer.js')
  return await LlamaTokenizer.fromPretrained(directory)
}

function compareWithTokenizer(
  { vocabSize }: LlamaConfig,
  tokenizer: LlamaTokenizer,
  problems: string[],
  notes: string[],
): void {
  const surplus = describeSurplus(tokenizer, vocabSize)
  if (surplus !== undefined) problems.push(`${surplus}: use the tokenizer of this model`)
  else if (tokenizer.vocabSize > vocabSize) {
    notes.push(
      `the tokenizer has ${tokenizer.vocabSize} ids, and the embedding ${vocabSize} rows: the ids beyond, such as that of ` +
        'a padding token, occur neither in texts nor as BOS or EOS',
    )
  }
}

/** Keys of a config.json that no longer apply. */
function leftOvers({ json }: LlamaConfig, tensors: readonly InspectedTensor[]): string[] {
  const key = QUANTIZATION_KEYS.find((key) => key in json)
  if (key === undefined || !tensors.every(({ dtype }) => isCastable(dtype as WeightDType))) return []
  return [
    `config.json has a ${key}, and the weights are not quantized: what is written from this model goes without it`,
  ]
}

/** Files in a directory that "git lfs pull" has yet to fetch: one sentence each. */
async function findLfsPointers(directory: string): Promise<string[]> {
  const problems: string[] = []
  for (const name of (await readdir(directory)).sort()) {
    const file = path.join(directory, name)
    const stats = await stat(file).catch(() => undefined)
    if (!stats?.isFile() || !mayBeLfsPointer(stats.size)) continue
    if (isLfsPointer(await readFile(file))) problems.push(lfsAdvice(file))
  }
  return problems
}

async function compareWithConfig(config: LlamaConfig, tensors: InspectedTensor[], where: string): Promise<string[]> {
  const file = path.join(where, 'config.json')
  // Loaded late: modules with a model's layout load the addon.
  const { misfits, unusableTypes } = await import('../model/fit.js')
  const problems = [...misfits(config, tensors), ...unusableTypes(config, tensors, where)]
  const shown = problems.slice(0, 5)
  const more = problems.length - shown.length
  return [...shown, ...(more > 0 ? [`${more} more tensors do not fit`] : [])].map((problem) => `${file}: ${problem}`)
}
