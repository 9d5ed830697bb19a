import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { HubError } from '../errors.js'
import { findModelFiles } from '../formats/model-files.js'
import { answerError, hubFetch, networkReason } from '../hub/request.js'
import { type HubSettings, hubSettings } from '../hub/settings.js'
import { readConfig } from '../model/config.js'

/** Options of an upload. */
export interface UploadOptions extends Partial<Omit<HubSettings, 'cacheDir'>> {
  /** Makes a new repository private; an existing one is unchanged. */
  private?: boolean
  /** The branch to commit to, created if missing. @default main */
  revision?: string
  /** The title of the commit. */
  message?: string
  /** Bytes sent, and total bytes of all files; skips files that are already on the Hub. */
  onProgress?: (sent: number, total: number) => void
  /** Milliseconds before the first retry. */
  retryDelay?: number
  /** When aborted, nothing appears on the Hub unless the commit was already made. */
  signal?: AbortSignal
}

/** The result of an upload. */
export interface UploadResult {
  /** The commit's page. */
  url: string
  /** Names of the uploaded files. */
  files: string[]
}

/**
 * Uploads a model directory as one commit: its files, without hidden ones and subdirectories such as checkpoints and
 * logs. Creates the repository if it doesn't exist. Files that are already on the Hub are not sent again, so a second
 * try resumes an interrupted one; nothing appears until the commit at the end.
 * @param repo `owner/name`
 * @throws {ConfigError} for a directory without a valid config
 * @throws {CheckpointError} for an incomplete model
 * @throws {HubError} for an upload that the Hub rejects, or an unreachable Hub
 */
export async function uploadModel(directory: string, repo: string, options: UploadOptions = {}): Promise<UploadResult> {
  const settings = { ...hubSettings(), ...options }
  const endpoint = (options.endpoint ?? settings.endpoint).replace(/\/+$/, '')
  const token = (options.token ?? settings.token) || undefined
  const { revision = 'main', message = 'Upload model with openalpaca-native', onProgress, signal } = options
  if (!/^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(repo))
    throw new HubError(`"${repo}" is not the name of a repository: owner/name`)
  if (settings.offline) throw new HubError('HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it')
  if (token === undefined) {
    throw new HubError(
      `uploading needs a token with the right to write: make one at ${endpoint}/settings/tokens and set HF_TOKEN`,
    )
  }
  await readConfig(directory)
  await findModelFiles(directory)
  const names = await filesToUpload(directory)
  const send = hubFetch({ endpoint, token }, options)
  try {
    await createRepository(repo, options.private ?? false, endpoint, send)
    if (revision !== 'main') await createBranch(repo, revision, endpoint, send)
    const url = await commitFiles({ directory, names, repo, revision, message, endpoint, send, onProgress, signal })
    return { url, files: names }
  } catch (error) {
    if (error instanceof HubError || signal?.aborted) throw error
    const { statusCode, message: said } = error as { statusCode?: number; message: string }
    if (statusCode === undefined) {
      throw new HubError(
        `${repo} cannot be uploaded to ${endpoint} (${networkReason(error)}): check the network and try again`,
        {
          cause: error,
        },
      )
    }
    throw new HubError(
      `${repo}: ${endpoint} refused the upload with ${statusCode}: ${said}`,
      { cause: error },
      statusCode,
    )
  }
}

async function filesToUpload(directory: string): Promise<string[]> {
  const entries = await readdir(directory)
  const isFile = async (name: string) => (await stat(path.join(directory, name))).isFile()
  const plain = entries.filter((name) => !name.startsWith('.')).sort()
  const kept = await Promise.all(plain.map(isFile))
  return plain.filter((_, i) => kept[i])
}

function post(url: string, body: object, send: typeof fetch): Promise<Response> {
  return send(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
}

/** Creates a repository, unless it exists. */
async function createRepository(repo: string, isPrivate: boolean, endpoint: string, send: typeof fetch): Promise<void> {
  const [organization, name] = repo.split('/')
  const body = { type: 'model', name, organization, private: isPrivate }
  const response = await post(`${endpoint}/api/repos/create`, body, send)
  if (response.ok || response.status === 409) return
  if (response.status === 401) {
    throw new HubError(
      `${endpoint} does not know your token: make a new one at ${endpoint}/settings/tokens`,
      undefined,
      401,
    )
  }
  // A token may be allowed to write to a repository, but not to create one.
  const existing = response.status === 403 && (await send(`${endpoint}/api/models/${repo}`)).ok
  if (!existing) throw await answerError(response, repo, endpoint)
}

async function createBranch(repo: string, branch: string, endpoint: string, send: typeof fetch): Promise<void> {
  const response = await post(`${endpoint}/api/models/${repo}/branch/${encodeURIComponent(branch)}`, {}, send)
  if (!response.ok && response.status !== 409) throw await answerError(response, `${repo}, branch ${branch}`, endpoint)
}

interface Commit {
  directory: string
  names: readonly string[]
  repo: string
  revision: string
  message: string
  endpoint: string
  send: typeof fetch
  onProgress: UploadOptions['onProgress']
  signal: AbortSignal | undefined
}

/** @returns the commit's page */
async function commitFiles(files: Commit): Promise<string> {
  const { directory, names, repo, revision, message, endpoint, send, onProgress, signal } = files
  const sizes = await Promise.all(names.map(async (name) => (await stat(path.join(directory, name))).size))
  const total = sizes.reduce((sum, size) => sum + size, 0)
  let sent = 0
  const counting: typeof fetch = async (input, init) => {
    const response = await send(input, init)
    if (init?.method === 'PUT' && response.ok && init.body instanceof Blob) {
      sent += init.body.size
      onProgress?.(sent, total)
    }
    return response
  }
  // Loaded on demand, so that other commands start faster.
  const { commit } = await import('@huggingface/hub')
  const result = await commit({
    repo,
    operations: names.map((name) => {
      return { operation: 'addOrUpdate', path: name, content: pathToFileURL(path.join(directory, name)) }
    }),
    branch: revision,
    title: message,
    hubUrl: endpoint,
    useXet: false, // Git LFS, which every Hub supports
    abortSignal: signal,
    fetch: counting, // adds the token: the library only accepts tokens of the public Hub
  })
  onProgress?.(total, total)
  return result!.commit.url
}
