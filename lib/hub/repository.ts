/** A repository on the Hub, of a model or a data set, and its cached part. */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { HubError } from '../errors.js'
import { writeError } from '../io/disk.js'
import { type DownloadContext, downloadToCache, type HubFile } from './download-file.js'
import { answerError, answerJson, hubFetch, networkReason } from './request.js'
import { type HubSettings, hubSettings, type Repository } from './settings.js'

/** Options for accessing a repository. */
export interface RepositoryOptions extends Partial<HubSettings> {
  /** Called when a request is handled differently, such as using an old download because the network is down. */
  onNote?: (note: string) => void
  /** Milliseconds before the first retry. */
  retryDelay?: number
  /** When aborted, the download stops; the next one resumes it. */
  signal?: AbortSignal
}

/** A repository whose files the Hub has listed. */
export interface OpenRepository {
  name: string
  /** By path. */
  files: ReadonlyMap<string, HubFile>
  /** The directory of this commit's downloaded files, `…/snapshots/<commit>`. */
  snapshot: string
  context: DownloadContext
}

const words = {
  models: { what: 'model', local: 'directory' },
  datasets: { what: 'data set', local: 'file' },
} as const

/**
 * The result of `download` for a repository; if the Hub cannot be reached or the cache cannot be written, the result of
 * `cached` for an earlier snapshot.
 * @throws {HubError} for a repository that does not exist or is not accessible, or an unreachable Hub
 * @throws {CheckpointError} for a cache that cannot be written
 */
export async function fromHub<T>(
  repository: Repository,
  options: RepositoryOptions,
  take: {
    cached: (snapshot: string) => Promise<T | undefined>
    download: (open: OpenRepository) => Promise<T>
  },
): Promise<T> {
  const { kind, name, revision } = repository
  const given: HubSettings = { ...hubSettings(), ...withoutUndefined(options) }
  const settings = { ...given, endpoint: given.endpoint.trim().replace(/\/+$/, '') }
  const { endpoint } = settings
  const { what, local } = words[kind]
  const directory = path.join(settings.cacheDir, `${kind}--${name.replace('/', '--')}`)
  const findCached = async () => {
    const snapshot = await cachedSnapshot(directory, revision)
    return snapshot === undefined ? undefined : await take.cached(snapshot)
  }
  const { signal, onNote } = options
  if (settings.offline) {
    const cached = await findCached()
    if (cached !== undefined) return cached
    throw new HubError(
      `${name} is not in ${settings.cacheDir}, and HF_HUB_OFFLINE is set, so it cannot be downloaded: unset it, or pass a ${local}`,
    )
  }
  const get = hubFetch(settings, options)
  const ask = async (url: string) => {
    const response = await get(url)
    if (response.ok) return response
    throw await answerError(response, `${name} is not a local ${local}, and as a ${what}`, endpoint)
  }
  let commit: string
  let files: Map<string, HubFile>
  try {
    commit = await askCommit(repository, endpoint, ask)
    files = await listFiles(repository, commit, endpoint, ask)
  } catch (error) {
    const status = error instanceof HubError ? error.status : undefined
    if ((status !== undefined && status < 500 && status !== 429) || signal?.aborted) throw error
    const isReached = error instanceof HubError && status === undefined // and gave an unexpected answer
    const reason = isReached
      ? (error as Error).message
      : `${endpoint} cannot be reached (${error instanceof HubError ? error.message : networkReason(error)})`
    const cached = await findCached()
    if (cached !== undefined) {
      onNote?.(`${reason}; ${name} uses an earlier download`)
      return cached
    }
    const advice = isReached ? '' : ': check the network or the path'
    throw new HubError(`${name} is not a local ${local}, and ${reason}${advice}`, { cause: error })
  }
  const context: DownloadContext = {
    fetch: get,
    endpoint,
    baseUrl: `${endpoint}/${kind === 'datasets' ? 'datasets/' : ''}${name}/resolve/${commit}/`,
    directory,
    commit,
    retryDelay: options.retryDelay ?? 1000,
    onBytes: () => {},
    signal,
  }
  try {
    const result = await take.download({ name, files, snapshot: path.join(directory, 'snapshots', commit), context })
    await writeRef(directory, revision, commit)
    return result
  } catch (error) {
    const cached = isForbidden(error) ? await findCached() : undefined
    if (cached === undefined) throw await writeError(directory, error, 0)
    onNote?.(
      `${settings.cacheDir} may not be written, and what it has of ${name} is older than commit ${commit.slice(0, 7)}; ` +
        'the older download is taken',
    )
    return cached
  }
}

/** Downloads files into the cache, several at a time. */
export async function downloadAll(files: readonly HubFile[], context: DownloadContext): Promise<void> {
  const concurrency = 4
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

type Ask = (url: string) => Promise<Response>

async function askCommit({ kind, name, revision }: Repository, endpoint: string, ask: Ask): Promise<string> {
  const response = await ask(`${endpoint}/api/${kind}/${name}/revision/${encodeURIComponent(revision)}`)
  const sha = ((await answerJson(response, endpoint)) as { sha?: unknown } | null)?.sha
  if (typeof sha === 'string' && /^[0-9a-f]{40}$/.test(sha)) return sha
  throw new HubError(`${endpoint} gives no commit for ${name}: check that HF_ENDPOINT is a Hub`)
}

interface TreeEntry {
  type: string
  path: string
  size: number
  oid: string
  lfs?: { oid: string }
}

/** The files at the top of a model's repository, or all of a data set's. */
async function listFiles(
  { kind, name }: Repository,
  commit: string,
  endpoint: string,
  ask: Ask,
): Promise<Map<string, HubFile>> {
  const files = new Map<string, HubFile>()
  let url: string | undefined =
    `${endpoint}/api/${kind}/${name}/tree/${commit}${kind === 'datasets' ? '?recursive=true' : ''}`
  while (url) {
    const response = await ask(url)
    const entries = await answerJson(response, endpoint)
    if (!Array.isArray(entries)) {
      throw new HubError(`${endpoint} gives no list of files for ${name}: check that HF_ENDPOINT is a Hub`)
    }
    for (const { type, path: file, size, oid, lfs } of entries as TreeEntry[]) {
      const checksum = lfs?.oid ?? oid
      // Only plain names are requested, but a checksum becomes a file name too.
      if (type === 'file' && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(checksum) && Number.isSafeInteger(size)) {
        files.set(file, { path: file, size, checksum })
      }
    }
    const [, next] = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get('link') ?? '') ?? []
    url = next && new URL(next, endpoint).href
  }
  return files
}

/** The directory of a revision that was downloaded before. */
async function cachedSnapshot(directory: string, revision: string): Promise<string | undefined> {
  const known = (await readFile(path.join(directory, 'refs', revision), 'utf8').catch(() => revision)).trim()
  return /^[0-9a-f]{40}$/.test(known) ? path.join(directory, 'snapshots', known) : undefined
}

/** Records the commit of a branch or tag. A read-only cache works without the record. */
async function writeRef(directory: string, revision: string, commit: string): Promise<void> {
  if (revision === commit) return
  const ref = path.join(directory, 'refs', revision)
  if ((await readFile(ref, 'utf8').catch(() => '')).trim() === commit) return
  try {
    await mkdir(path.dirname(ref), { recursive: true })
    await writeFile(`${ref}.${process.pid}.tmp`, commit)
    await rename(`${ref}.${process.pid}.tmp`, ref)
  } catch (error) {
    if (!isForbidden(error)) throw error
  }
}

function isForbidden(error: unknown): boolean {
  return ['EACCES', 'EPERM', 'EROFS'].includes((error as NodeJS.ErrnoException).code ?? '')
}

function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T
}
