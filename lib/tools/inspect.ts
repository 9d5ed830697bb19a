import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError, OpenAlpacaError } from '../errors.js'
import { deepSpeedNames, findDeepSpeedFiles, openDeepSpeed } from '../formats/deepspeed/deepspeed.js'
import { findModelFiles, openModelWeights } from '../formats/model-files.js'
import { openSafetensors } from '../formats/safetensors/safetensors.js'
import { openTorchBin } from '../formats/torch/torch-bin.js'
import { findDamagedEntries } from '../formats/torch/zip.js'
import { readError } from '../formats/weight-file.js'
import type { WeightSource } from '../io/weight-source.js'
import { type ConfigJson, readConfig } from '../model/config.js'
import { openCheckpointWeights } from '../train/checkpoint-weights.js'
import { hashFile, manifestName, parseManifest } from '../train/manifest.js'
import { inspectGguf, isGguf } from './inspect-gguf.js'
import { type InspectedTensor, type Inspection, totalsOf } from './inspection.js'

/** What `inspect` looks at. */
export interface InspectOptions {
  /** Read all of a file that has checksums and compare them; true when left out. */
  checksums?: boolean
}

/** What the parts of an inspection find. */
type Findings = Pick<Inspection, 'kind' | 'checksums' | 'training'> & {
  fileNames: string[]
  directory: string
  open(): Promise<WeightSource>
  /** Compares checksums, and gives what is wrong. */
  verify(): Promise<string[]>
}

/**
 * Looks at a weight file, a GGUF file, a model directory, or a training checkpoint, ours or DeepSpeed's: reads what
 * describes the tensors and, where the form has checksums, everything. What is wrong with it is listed, not thrown.
 * @throws CheckpointError when there is nothing there, or nothing that is known
 */
export async function inspect(where: string, { checksums = true }: InspectOptions = {}): Promise<Inspection> {
  const stats = await stat(where).catch((error) => {
    throw readError(where, error)
  })
  if (stats.isFile() && (await isGguf(where))) return inspectGguf(where)
  const findings = stats.isDirectory() ? await recognise(where) : weightFile(where)
  const { directory, fileNames } = findings
  const problems: string[] = []
  const tensors = (await attempt(problems, () => listTensors(findings))) ?? []
  const isDirectory = findings.kind !== 'weight file'
  const config = isDirectory ? await attempt(problems, () => optionalConfig(where)) : undefined
  const tokenizer = isDirectory ? await attempt(problems, () => optionalTokenizer(where)) : undefined
  if (config && tensors.length > 0 && findings.kind !== 'DeepSpeed checkpoint') {
    problems.push(...((await attempt(problems, () => compareWithConfig(config, tensors, where))) ?? []))
  }
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
    ...(config && { config }),
    ...(tokenizer && { tokenizer }),
    ...(findings.training && { training: findings.training }),
    checksums: checksums ? findings.checksums : null,
    problems,
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
  if (
    names.some((name) => name === 'config.json' || /^(model|pytorch_model)\b.*\.(safetensors|bin|json)$/.test(name))
  ) {
    return modelDirectory(where)
  }
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

async function modelDirectory(directory: string): Promise<Findings> {
  const found = await findModelFiles(directory).catch((error) => {
    if (error instanceof CheckpointError) return undefined // opening tells it, as a problem
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

/** A mismatch is a warning for torch, which can be told to write no checksums; then they are 0 and not looked at. */
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

async function listTensors({ open }: Findings): Promise<InspectedTensor[]> {
  const source = await open()
  const tensors = [...source.tensors.values()].map(({ name, dtype, shape, bytes, sameAs }) => {
    return { name, dtype, shape, bytes, ...(sameAs !== undefined && { sameAs }) }
  })
  await source.close()
  return tensors
}

async function optionalConfig(directory: string): Promise<ConfigJson | undefined> {
  const there = await stat(path.join(directory, 'config.json')).catch(() => undefined)
  return there ? (await readConfig(directory)).json : undefined
}

async function optionalTokenizer(directory: string): Promise<Inspection['tokenizer']> {
  const file = path.join(directory, 'tokenizer.model')
  if (!(await stat(file).catch(() => undefined))) return undefined
  const { LlamaTokenizer } = await import('../tokenizer/tokenizer.js')
  return { file: 'tokenizer.model', vocabSize: (await LlamaTokenizer.fromPretrained(directory)).vocabSize }
}

async function compareWithConfig(config: ConfigJson, tensors: InspectedTensor[], where: string): Promise<string[]> {
  const file = path.join(where, 'config.json')
  const { misfits } = await import('./fit.js')
  const problems = misfits(config, tensors, file)
  const shown = problems.slice(0, 5)
  const more = problems.length - shown.length
  return [...shown, ...(more > 0 ? [`${more} more tensors do not fit`] : [])].map((problem) => `${file}: ${problem}`)
}
