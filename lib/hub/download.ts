import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { HubError } from '../errors.js'
import { findModelFiles, readIndex } from '../formats/model-files.js'
import { WEIGHT_FILES } from '../formats/shards.js'
import { ensureSpace, writeError } from '../io/disk.js'
import { type DownloadContext, downloadToCache, type HubFile } from './download-file.js'
import { answerError, hubFetch, networkReason } from './request.js'
import { type HubModel, type HubSettings, hubSettings, parseModelName } from './settings.js'

/** How a model is downloaded. */
export interface DownloadOptions extends Partial<HubSettings> {
  /** `tokenizer`: without the weights. */
  parts?: 'all' | 'tokenizer'
  /** Bytes that are here, and those of all files. */
  onProgress?: (received: number, total: number) => void
  /** Told what is done otherwise than asked, such as taking an old download because the network is down. */
  onNote?: (note: string) => void
  /** Milliseconds before the first further try. */
  retryDelay?: number
  /** Aborted: the download stops, and goes on from there the next time. */
  signal?: AbortSignal
}

const TOKENIZER_FILES = ['tokenizer.model', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json']
const SMALL_FILES = ['config.json', 'generation_config.json', 'chat_template.jinja', ...TOKENIZER_FILES]
/** Files that are downloaded at once. */
const concurrency = 4

/** A directory for what may be a directory or a name on the Hub (`owner/name`, `owner/name@revision`). */
export async function resolveModelPath(modelPath: string, options: DownloadOptions = {}): Promise<string> {
  const isThere = await readdir(modelPath).then(
    () => true,
    (error) => error.code !== 'ENOENT', // a file, or a directory that may not be read: it is for others to say so
  )
  const model = isThere ? undefined : parseModelName(modelPath)
  return model ? await downloadModel(model, options) : modelPath
}

/**
 * Downloads a model from the Hub into the cache that Hugging Face's tools share, or finds it there: config, tokenizer,
 * and the weights in one form, safetensors before torch `.bin`.
 * @returns its directory, `…/models--owner--name/snapshots/<commit>`
 * @throws HubError when there is no such model, it may not be read, it isn't whole, or the Hub cannot be reached
 * @throws CheckpointError when the cache cannot be written
 */
export async function downloadModel(model: HubModel, options: DownloadOptions = {}): Promise<string> {
  const settings: HubSettings = { ...hubSettings(), ...withoutUndefined(options) }
  const directory = path.join(settings.cacheDir, `models--${model.name.replace('/', '--')}`)
  const parts = options.parts ?? 'all'
  if (settings.offline) {
    const cached = await findCached(directory, model.revision, parts)
    if (cached) return cached
    throw new HubError(
      `${model.name} is not in ${settings.cacheDir}, and HF_HUB_OFFLINE forbids to download it: unset that, or name a directory`,
    )
  }
  const get = hubFetch(settings, options)
  let commit: string
  try {
    commit = await askCommit(model, settings.endpoint, get)
  } catch (error) {
    if (error instanceof HubError && error.status !== undefined && error.status < 500 && error.status !== 429)
      throw error
    if (options.signal?.aborted) throw error
    const reason = error instanceof HubError ? error.message : networkReason(error)
    const cached = await findCached(directory, model.revision, parts)
    if (!cached) {
      throw new HubError(
        `${model.name} is no directory here, and ${settings.endpoint} cannot be reached (${reason}): check the network or the path`,
        { cause: error },
      )
    }
    options.onNote?.(
      `${settings.endpoint} cannot be reached (${reason}); ${model.name} is taken from an earlier download`,
    )
    return cached
  }
  const context: DownloadContext = {
    fetch: get,
    endpoint: settings.endpoint,
    baseUrl: `${settings.endpoint}/${model.name}/resolve/${commit}/`,
    directory,
    commit,
    retryDelay: options.retryDelay ?? 1000,
    onBytes: () => {},
    signal: options.signal,
  }
  const snapshot = path.join(directory, 'snapshots', commit)
  const listed = await listFiles(model, commit, settings.endpoint, get)
  try {
    await download(listed, snapshot, parts, model, context, options)
    await writeRef(directory, model.revision, commit)
  } catch (error) {
    throw await writeError(directory, error, 0)
  }
  return snapshot
}

/** The files of a model, the small ones first: they say which of the others are needed. */
async function download(
  listed: Map<string, HubFile>,
  snapshot: string,
  parts: 'all' | 'tokenizer',
  model: HubModel,
  context: DownloadContext,
  { onProgress }: DownloadOptions,
): Promise<void> {
  const wanted = parts === 'all' ? SMALL_FILES : TOKENIZER_FILES
  for (const needed of parts === 'all' ? ['config.json', 'tokenizer.model'] : ['tokenizer.model']) {
    if (!listed.has(needed))
      throw new HubError(`${model.name} on ${context.endpoint} has no ${needed}, which is needed here`)
  }
  const some = (names: readonly string[]) => names.flatMap((name) => listed.get(name) ?? [])
  await downloadAll(some(wanted), context)
  if (parts === 'tokenizer') return
  const weights = some(await weightFiles(listed, snapshot, model, context))
  const total = weights.reduce((sum, { size }) => sum + size, 0)
  let received = 0
  const onBytes = (count: number) => {
    received += count
    onProgress?.(received, total)
  }
  await ensureRoom(weights, context)
  await downloadAll(weights, { ...context, onBytes })
}

/** Names of the weight files, in one form. */
async function weightFiles(
  listed: Map<string, HubFile>,
  snapshot: string,
  { name }: HubModel,
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
    throw new HubError(`${name} on ${context.endpoint} lacks ${missing.join(', ')}, which its ${index} names`)
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

async function downloadAll(files: readonly HubFile[], context: DownloadContext): Promise<void> {
  const waiting = [...files]
  const work = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      context.signal?.throwIfAborted()
      await downloadToCache(file, context)
    }
  }
  const workers = Array.from({ length: concurrency }, () =>
    work().catch((error) => {
      waiting.length = 0
      throw error
    }),
  )
  const failed = (await Promise.allSettled(workers)).find((result) => result.status === 'rejected')
  if (failed) throw failed.reason
}

async function askCommit({ name, revision }: HubModel, endpoint: string, get: typeof fetch): Promise<string> {
  const url = `${endpoint}/api/models/${name}/revision/${encodeURIComponent(revision)}`
  const { sha } = (await (await ask(url, name, endpoint, get)).json()) as { sha?: unknown }
  if (typeof sha === 'string' && /^[0-9a-f]{40}$/.test(sha)) return sha
  throw new HubError(`${endpoint} gives no commit for ${name}: HF_ENDPOINT may name something else than a Hub`)
}

async function ask(url: string, name: string, endpoint: string, get: typeof fetch): Promise<Response> {
  const response = await get(url)
  if (response.ok) return response
  throw await answerError(response, `${name} is no directory here, and as a model`, endpoint)
}

/** The files at the top of a model's repository. */
async function listFiles(
  { name }: HubModel,
  commit: string,
  endpoint: string,
  get: typeof fetch,
): Promise<Map<string, HubFile>> {
  const files = new Map<string, HubFile>()
  let url: string | undefined = `${endpoint}/api/models/${name}/tree/${commit}`
  while (url) {
    const response = await ask(url, name, endpoint, get)
    for (const { type, path: file, size, oid, lfs } of (await response.json()) as TreeEntry[]) {
      const checksum = lfs?.oid ?? oid
      // Only plain names are asked for below, but a checksum becomes a file's name too.
      if (type === 'file' && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(checksum) && Number.isSafeInteger(size)) {
        files.set(file, { path: file, size, checksum })
      }
    }
    const [, next] = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get('link') ?? '') ?? []
    url = next && new URL(next, endpoint).href
  }
  return files
}

interface TreeEntry {
  type: string
  path: string
  size: number
  oid: string
  lfs?: { oid: string }
}

/** A download of an earlier time that is whole. */
async function findCached(
  directory: string,
  revision: string,
  parts: 'all' | 'tokenizer',
): Promise<string | undefined> {
  const known = await readFile(path.join(directory, 'refs', revision), 'utf8').catch(() => revision)
  const snapshot = path.join(directory, 'snapshots', known.trim())
  if (!/^[0-9a-f]{40}$/.test(known.trim())) return undefined
  const names: string[] = await readdir(snapshot).catch(() => [])
  if (!names.includes('tokenizer.model')) return undefined
  if (parts === 'tokenizer') return snapshot
  const isWhole =
    names.includes('config.json') &&
    (await findModelFiles(snapshot).then(
      () => true,
      () => false,
    ))
  return isWhole ? snapshot : undefined
}

/** Notes which commit a branch or tag was at. */
async function writeRef(directory: string, revision: string, commit: string): Promise<void> {
  if (revision === commit) return
  const ref = path.join(directory, 'refs', revision)
  await mkdir(path.dirname(ref), { recursive: true })
  await writeFile(`${ref}.${process.pid}.tmp`, commit)
  await rename(`${ref}.${process.pid}.tmp`, ref)
}

function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T
}
