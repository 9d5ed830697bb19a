import { open, stat } from 'node:fs/promises'
import path from 'node:path'
import { OpenAlpacaError } from '../errors.js'
import { type GgufMetadataValue, type GgufSource, readGguf } from '../formats/gguf/gguf.js'
import { GGUF_MAGIC } from '../formats/gguf/gguf-format.js'
import { type InspectedTensor, type Inspection, totalsOf } from './inspection.js'

/** Longer lists are reported by their length. */
const LONGEST_LIST = 16
const MOST_MISFITS = 5

/** Whether a file is GGUF by its name or, as in Ollama's storage, only by its first bytes. */
export async function isGguf(file: string): Promise<boolean> {
  if (file.endsWith('.gguf')) return true
  const handle = await open(file).catch(() => undefined) // opening it again reports why not
  try {
    const start = Buffer.alloc(4)
    await handle?.read(start, 0, 4, 0)
    return start.readUInt32LE() === GGUF_MAGIC
  } finally {
    await handle?.close()
  }
}

/**
 * Inspects a GGUF file: architecture, tensors, types and tokenizer, and for a LLaMA whether it is complete. The format
 * has no checksums.
 */
export async function inspectGguf(file: string): Promise<Inspection> {
  const files = [{ name: path.basename(file), bytes: (await stat(file)).size }]
  const nothing = { path: file, kind: 'GGUF file' as const, files, checksums: null, notes: [] }
  let source: GgufSource
  try {
    source = await readGguf(file)
  } catch (error) {
    if (!(error instanceof OpenAlpacaError)) throw error
    return { ...nothing, tensors: [], ...totalsOf([]), problems: [error.message], whole: false }
  }
  await source.close()
  const { version, metadata } = source
  const tensors = [...source.tensors.values()].map(({ name, type, shape, bytes }): InspectedTensor => {
    return { name, dtype: type, shape, bytes }
  })
  const architecture = textOf(metadata.get('general.architecture'))
  const tokenizer = tokenizerOf(source, path.basename(file))
  const { config, problems } = await compareWithMetadata(source, file)
  if (architecture === undefined) problems.push('general.architecture is missing')
  const parts = Number(metadata.get('split.count') ?? 1)
  if (parts > 1) problems.push(`it is one of ${parts} parts; llama.cpp's gguf-split puts them together`)
  problems.push(...tokenizerProblems(source))
  return {
    ...nothing,
    tensors,
    ...totalsOf(tensors),
    ...(config && { config }),
    ...(tokenizer && { tokenizer }),
    gguf: { version, architecture: architecture ?? 'unknown', metadata: shortened(metadata) },
    problems: problems.map((problem) => (problem.startsWith(file) ? problem : `${file}: ${problem}`)),
    whole: problems.length === 0,
  }
}

async function compareWithMetadata(source: GgufSource, file: string): Promise<Pick<Inspection, 'config' | 'problems'>> {
  // Loaded late: modules with a model's layout load the addon.
  const { ggufConfig, ggufMisfits } = await import('./gguf-fit.js')
  try {
    const config = ggufConfig(source, file)
    const misfits = config ? ggufMisfits(config, source, file) : []
    const problems = misfits.slice(0, MOST_MISFITS)
    if (misfits.length > problems.length) problems.push(`${misfits.length - problems.length} more tensors do not fit`)
    return { config, problems }
  } catch (error) {
    if (error instanceof OpenAlpacaError) return { problems: [error.message] }
    throw error
  }
}

function tokenizerOf({ metadata }: GgufSource, file: string): Inspection['tokenizer'] {
  const [tokens, model] = [metadata.get('tokenizer.ggml.tokens'), textOf(metadata.get('tokenizer.ggml.model'))]
  if (!Array.isArray(tokens)) return undefined
  return { file, vocabSize: tokens.length, ...(model !== undefined && { model }) }
}

/** Lists parallel to the tokens must have the same length. */
function tokenizerProblems({ metadata }: GgufSource): string[] {
  const tokens = lengthOf(metadata.get('tokenizer.ggml.tokens'))
  return ['tokenizer.ggml.scores', 'tokenizer.ggml.token_type'].flatMap((key) => {
    const length = lengthOf(metadata.get(key))
    return length === undefined || length === tokens ? [] : [`${key} has ${length} elements for ${tokens} tokens`]
  })
}

function textOf(value: GgufMetadataValue | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined
}

function lengthOf(value: GgufMetadataValue | undefined): number | undefined {
  return typeof value === 'object' ? value.length : undefined
}

/** Metadata in a form that JSON can represent. */
function shortened(metadata: GgufSource['metadata']): Record<string, unknown> {
  const short = (value: GgufMetadataValue): unknown => {
    if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value)
    if (typeof value !== 'object') return value
    return value.length > LONGEST_LIST ? { length: value.length } : Array.from(value as GgufMetadataValue[], short)
  }
  return Object.fromEntries([...metadata].map(([key, value]) => [key, short(value)]))
}
