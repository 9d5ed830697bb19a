import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { HubError } from '../errors.js'
import { findModelFiles, readIndex } from '../formats/model-files.js'
import { WEIGHT_FILES } from '../formats/shards.js'
import { ensureSpace } from '../io/disk.js'
import type { DownloadContext, HubFile } from './download-file.js'
import { downloadAll, fromHub, type OpenRepository, type RepositoryOptions } from './repository.js'
import { type HubModel, hubSettings, nameInUrl, parseModelName } from './settings.js'

/** Options of a model download. */
export interface DownloadOptions extends RepositoryOptions {
  /** `tokenizer`: without the weights. */
  parts?: 'all' | 'tokenizer'
  /** Bytes received, and total bytes of all files. */
  onProgress?: (received: number, total: number) => void
}

const TOKENIZER_FILES = ['tokenizer.model', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json']
const SMALL_FILES = ['config.json', 'generation_config.json', 'chat_template.jinja', ...TOKENIZER_FILES]

/** Resolves a directory or a name on the Hub (`owner/name`, `owner/name@revision`) to a directory. */
export async function resolveModelPath(modelPath: string, options: DownloadOptions = {}): Promise<string> {
  const isThere = await readdir(modelPath).then(
    () => true,
    (error) => error.code !== 'ENOENT', // a file, or an unreadable directory: the reader reports it
  )
  const model = isThere ? undefined : parseModelName(modelPath)
  if (model) return await downloadModel(model, options)
  const address = isThere ? undefined : nameInUrl(modelPath, options.endpoint ?? hubSettings().endpoint)
  if (address === undefined && !(/^https?:\/\//i.test(modelPath) && !isThere)) return modelPath
  const problem = `${modelPath} is ${address?.kind === 'datasets' ? 'the address of a data set' : 'an address'}`
  const advice = address?.kind === 'models' ? `: use ${address.name}` : ''
  throw new HubError(`${problem}; expected a directory, or a model's name on the Hub (owner/name)${advice}`)
}

/**
 * Downloads a model from the Hub into the cache shared by Hugging Face's tools, or finds it there: config, tokenizer,
 * and the weights in one format, safetensors before torch `.bin`.
 * @returns its directory, `…/models--owner--name/snapshots/<commit>`
 * @throws {HubError} for a model that does not exist, is not accessible, or is incomplete, or an unreachable Hub
 * @throws {CheckpointError} for a cache that cannot be written
 */
export async function downloadModel(model: HubModel, options: DownloadOptions = {}): Promise<string> {
  const parts = options.parts ?? 'all'
  return await fromHub({ kind: 'models', ...model }, options, {
    cached: async (snapshot) => ((await isWhole(snapshot, parts)) ? snapshot : undefined),
    download: async (repository) => {
      await download(repository, parts, options)
      return repository.snapshot
    },
  })
}

/** Downloads the files of a model, the small ones first, since they determine which of the others are needed. */
async function download(
  { name, files: listed, snapshot, context }: OpenRepository,
  parts: 'all' | 'tokenizer',
  { onProgress }: DownloadOptions,
): Promise<void> {
  const wanted = parts === 'all' ? SMALL_FILES : TOKENIZER_FILES
  for (const needed of parts === 'all' ? ['config.json', 'tokenizer.model'] : ['tokenizer.model']) {
    if (!listed.has(needed)) throw new HubError(`${name} on ${context.endpoint} has no ${needed}, which is needed here`)
  }
  const some = (names: readonly string[]) => names.flatMap((name) => listed.get(name) ?? [])
  await downloadAll(some(wanted), context)
  if (parts === 'tokenizer') return
  const weights = some(await weightFiles(listed, snapshot, name, context))
  const total = weights.reduce((sum, { size }) => sum + size, 0)
  let received = 0
  const onBytes = (count: number) => {
    received += count
    onProgress?.(received, total)
  }
  await ensureRoom(weights, context)
  await downloadAll(weights, { ...context, onBytes })
}

/** Names of the weight files, in one format. */
async function weightFiles(
  listed: ReadonlyMap<string, HubFile>,
  snapshot: string,
  name: string,
  context: DownloadContext,
): Promise<string[]> {
  for (const format of ['safetensors', 'bin'] as const) {
    const { whole, index } = WEIGHT_FILES[format]
    if (listed.has(whole)) return [whole]
    const indexFile = listed.get(index)
    if (!indexFile) continue
    await downloadAll([indexFile], context)
    const shards = [...new Set((await readIndex(path.join(snapshot, index))).values())]
    const missing = shards.filter((shard) => !listed.has(shard))
    if (missing.length === 0) return shards
    throw new HubError(`${name} on ${context.endpoint} is missing ${missing.join(', ')}, which its ${index} names`)
  }
  throw new HubError(
    `${name} on ${context.endpoint} has no weights as safetensors or torch .bin; ${[...listed.keys()].slice(0, 20).join(', ')} are there`,
  )
}

async function ensureRoom(files: readonly HubFile[], { directory }: DownloadContext): Promise<void> {
  const there = await readdir(path.join(directory, 'blobs')).catch(() => [])
  const missing = files.filter(({ checksum }) => !there.some((name) => name.startsWith(checksum)))
  await ensureSpace(
    directory,
    directory,
    missing.reduce((sum, { size }) => sum + size, 0),
  )
}

/** Whether an earlier download has all required files. */
async function isWhole(snapshot: string, parts: 'all' | 'tokenizer'): Promise<boolean> {
  const names: string[] = await readdir(snapshot).catch(() => [])
  if (!names.includes('tokenizer.model')) return false
  if (parts === 'tokenizer') return true
  if (!names.includes('config.json')) return false
  return await findModelFiles(snapshot).then(
    () => true,
    () => false,
  )
}
