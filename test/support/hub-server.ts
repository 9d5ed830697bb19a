/**
 * A fake Hugging Face Hub that speaks its protocol: models, data sets (as `datasets/owner/name`), Git LFS on another
 * host, uploads, commits.
 */
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

interface Repository {
  private: boolean
  gated?: boolean
  /** Commits by id, each with its files. */
  commits: Map<string, Map<string, Buffer>>
  branches: Map<string, string>
}

/** Returns the fault to apply to a request, if any; the first of `faults` that returns one applies. */
export type Fault = (request: {
  method: string
  path: string
  headers: IncomingMessage['headers']
}) =>
  | { status: number; headers?: Record<string, string>; body?: string }
  | { cutAfter: number }
  | { replaceBy: Buffer }
  | 'silence'
  | undefined

const LFS_FROM = 2000 // bytes; the Hub goes by .gitattributes and 10 MB

export class HubServer {
  readonly repositories = new Map<string, Repository>()
  readonly requests: { method: string; path: string; headers: IncomingMessage['headers']; host: string }[] = []
  readonly #lfs = new Map<string, Buffer>()
  readonly #uploading = new Map<string, Buffer[]>()
  faults: Fault[] = []
  /** The token with permission to read private models, and to write. */
  token = 'hf_good'
  /** Entries per page of a file list. */
  pageSize = 3
  /** Bytes per part of an upload; entire files when undefined. */
  partSize: number | undefined
  #server!: Server
  url = ''

  async start(): Promise<this> {
    this.#server = createServer((request, response) => {
      this.#handle(request, response).catch((error) => response.writeHead(500).end(String(error)))
    })
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    this.url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
    return this
  }

  stop(): void {
    this.#server.closeAllConnections()
    this.#server.close()
  }

  /** Another host name of this server, for the storage that the Hub redirects clients to. */
  get storageUrl(): string {
    return this.url.replace('127.0.0.1', 'localhost')
  }

  /** Adds a commit to a branch. @returns its id */
  add(
    name: string,
    files: Record<string, Buffer | string>,
    { branch = 'main', ...options }: { branch?: string; private?: boolean; gated?: boolean } = {},
  ): string {
    const repository = this.repositories.get(name) ?? {
      private: false,
      commits: new Map(),
      branches: new Map(),
      ...options,
    }
    this.repositories.set(name, repository)
    return this.#commit(
      repository,
      branch,
      new Map(Object.entries(files).map(([path, data]) => [path, Buffer.from(data)])),
    )
  }

  /** The files of a branch. */
  files(name: string, branch = 'main'): Map<string, Buffer> | undefined {
    const repository = this.repositories.get(name)
    return repository?.commits.get(repository.branches.get(branch) ?? '')
  }

  #commit(repository: Repository, branch: string, files: Map<string, Buffer>): string {
    const hash = createHash('sha1').update(String(repository.commits.size))
    for (const [path, data] of files) hash.update(path).update(data)
    const id = hash.digest('hex')
    repository.commits.set(id, files)
    repository.branches.set(branch, id)
    for (const data of files.values()) if (data.length >= LFS_FROM) this.#lfs.set(sha256(data), data)
    return id
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url!, this.url)
    const path = decodeURIComponent(url.pathname)
    const { method = 'GET', headers } = request
    this.requests.push({ method, path, headers, host: headers.host ?? '' })
    const body = await readAll(request)
    const fault = this.faults.map((ask) => ask({ method, path, headers })).find((answer) => answer !== undefined)
    if (fault === 'silence') return // until the client disconnects, or the server is stopped
    if (fault && 'status' in fault) {
      response.writeHead(fault.status, fault.headers).end(fault.body ?? 'no')
      return
    }
    const json = (value: unknown, extra: Record<string, string> = {}) =>
      void response.writeHead(200, { 'content-type': 'application/json', ...extra }).end(JSON.stringify(value))
    const refuse = (status: number, code = '') => void response.writeHead(status, { 'x-error-code': code }).end('{}')
    const isAllowed = headers.authorization === `Bearer ${this.token}`

    const storage = /^\/storage\/([0-9a-f]{64})(?:\/(\d+))?$/.exec(path)
    if (storage) return this.#storage(request, response, storage[1]!, storage[2], body, fault)
    if (path === '/api/repos/create') {
      if (!isAllowed) return refuse(401)
      const { organization, name, private: isPrivate } = JSON.parse(body.toString())
      const full = `${organization}/${name}`
      if (this.repositories.has(full)) return refuse(409)
      this.repositories.set(full, { private: isPrivate, commits: new Map(), branches: new Map() })
      return json({ url: `${this.url}/${full}` })
    }

    const [, name = ''] =
      /^\/(?:api\/models\/|api\/(?=datasets\/))?((?:datasets\/)?[^/]+\/[^/]+?)(?:\.git)?(?:\/|$)/.exec(path) ?? []
    const repository = this.repositories.get(name)
    // The Hub does not disclose to strangers whether such a model exists.
    if (!repository) return refuse(isAllowed ? 404 : 401, 'RepoNotFound')
    if (repository.private && !isAllowed) return refuse(401, 'RepoNotFound')
    const rest = path.slice(path.indexOf(name) + name.length)
    const part = (pattern: RegExp) => pattern.exec(rest)?.slice(1)

    const [revision] = part(/^\/revision\/(.+)$/) ?? []
    if (revision !== undefined) {
      const sha = this.#resolve(repository, revision)
      return sha ? json({ id: name, sha }) : refuse(404, 'RevisionNotFound')
    }
    const [treeOf] = part(/^\/tree\/([^/]+)$/) ?? []
    if (treeOf !== undefined) return this.#tree(repository, treeOf, url, json)
    const [commit, file] = part(/^\/resolve\/([^/]+)\/(.+)$/) ?? []
    if (commit !== undefined) {
      if (repository.gated && !isAllowed) return refuse(401, 'GatedRepo')
      const sha = this.#resolve(repository, commit) ?? ''
      const data = repository.commits.get(sha)?.get(file!)
      if (!data) return refuse(404, 'EntryNotFound')
      const isLfs = data.length >= LFS_FROM
      response.setHeader('x-repo-commit', sha).setHeader('etag', `"${isLfs ? sha256(data) : gitId(data)}"`)
      if (!isLfs) return send(request, response, data, fault)
      response.setHeader('x-linked-size', data.length).setHeader('x-linked-etag', `"${sha256(data)}"`)
      return void response.writeHead(302, { location: `${this.storageUrl}/storage/${sha256(data)}` }).end()
    }

    if (!isAllowed) return refuse(401)
    const [branch] = part(/^\/branch\/(.+)$/) ?? []
    if (branch !== undefined) {
      if (repository.branches.has(branch)) return refuse(409)
      repository.branches.set(branch, repository.branches.get('main') ?? '')
      return json({})
    }
    if (part(/^\/preupload\/(.+)$/)) {
      const { files } = JSON.parse(body.toString()) as { files: { path: string; size: number }[] }
      return json({
        files: files.map(({ path, size }) => ({ path, uploadMode: size >= LFS_FROM ? 'lfs' : 'regular' })),
      })
    }
    if (part(/^\/(info\/lfs\/objects\/batch)$/) ?? path.endsWith('.git/info/lfs/objects/batch')) {
      const { objects } = JSON.parse(body.toString()) as { objects: { oid: string; size: number }[] }
      return json({ transfer: 'basic', objects: objects.map((object) => this.#uploadAction(object)) })
    }
    const [target] = part(/^\/commit\/(.+)$/) ?? []
    if (target !== undefined) return this.#receiveCommit(repository, name, target, body, json, refuse)
    refuse(404)
  }

  #resolve(repository: Repository, revision: string): string | undefined {
    const sha = repository.branches.get(revision) ?? revision
    return repository.commits.has(sha) ? sha : undefined
  }

  #tree(
    repository: Repository,
    commit: string,
    url: URL,
    json: (value: unknown, extra?: Record<string, string>) => void,
  ): void {
    const entries = [...repository.commits.get(commit)!].map(([path, data]) => ({
      type: 'file',
      path,
      size: data.length,
      oid: gitId(data),
      ...(data.length >= LFS_FROM && { lfs: { oid: sha256(data), size: data.length, pointerSize: 130 } }),
    }))
    const isDeep = url.searchParams.get('recursive') === 'true'
    const listed = entries.filter((entry) => isDeep || !entry.path.includes('/') || entry.path.startsWith('..'))
    const from = Number(url.searchParams.get('cursor') ?? 0)
    const next = from + this.pageSize
    const query = `cursor=${next}${isDeep ? '&recursive=true' : ''}`
    const link: Record<string, string> =
      next < listed.length ? { link: `<${this.url}${url.pathname}?${query}>; rel="next"` } : {}
    json([{ type: 'directory', path: 'logs', oid: '0', size: 0 }, ...listed.slice(from, next)], link)
  }

  #uploadAction({ oid, size }: { oid: string; size: number }) {
    if (this.#lfs.has(oid)) return { oid, size }
    const href = `${this.storageUrl}/storage/${oid}`
    if (this.partSize === undefined) return { oid, size, actions: { upload: { href } } }
    const parts = Math.ceil(size / this.partSize)
    const header = Object.fromEntries(
      Array.from({ length: parts }, (_, i) => [String(i + 1).padStart(5, '0'), `${href}/${i + 1}`]),
    )
    return { oid, size, actions: { upload: { href, header: { chunk_size: String(this.partSize), ...header } } } }
  }

  #storage(
    request: IncomingMessage,
    response: ServerResponse,
    oid: string,
    part: string | undefined,
    body: Buffer,
    fault: Exclude<ReturnType<Fault>, 'silence'>,
  ): void {
    if (request.method === 'GET' || request.method === 'HEAD') {
      const data = this.#lfs.get(oid)
      if (data) send(request, response, data, fault)
      else response.writeHead(404).end()
      return
    }
    if (request.method === 'PUT' && part !== undefined) {
      const parts = this.#uploading.get(oid) ?? []
      parts[Number(part) - 1] = body
      this.#uploading.set(oid, parts)
      response.writeHead(200, { etag: `"${part}"` }).end()
      return
    }
    const data = request.method === 'POST' ? Buffer.concat(this.#uploading.get(oid) ?? []) : body
    if (sha256(data) !== oid) {
      response.writeHead(400).end('another checksum')
      return
    }
    this.#lfs.set(oid, data)
    response.writeHead(200).end('{}')
  }

  #receiveCommit(
    repository: Repository,
    name: string,
    branch: string,
    body: Buffer,
    json: (value: unknown) => void,
    refuse: (status: number) => void,
  ): void {
    const files = new Map(repository.commits.get(repository.branches.get(branch) ?? ''))
    for (const line of body.toString().split('\n')) {
      const { key, value } = JSON.parse(line)
      if (key === 'file') files.set(value.path, Buffer.from(value.content, value.encoding))
      if (key === 'lfsFile') {
        const data = this.#lfs.get(value.oid)
        if (!data) {
          refuse(400)
          return
        }
        files.set(value.path, data)
      }
    }
    const oid = this.#commit(repository, branch, files)
    json({ commitOid: oid, commitUrl: `${this.url}/${name}/commit/${oid}`, hookOutput: '' })
  }
}

function send(
  request: IncomingMessage,
  response: ServerResponse,
  whole: Buffer,
  fault: Exclude<ReturnType<Fault>, 'silence'>,
): void {
  const data = fault && 'replaceBy' in fault ? fault.replaceBy : whole
  const [, first] = /^bytes=(\d+)-/.exec(request.headers.range ?? '') ?? []
  const start = Number(first ?? 0)
  response.setHeader('accept-ranges', 'bytes').setHeader('content-length', data.length - start)
  if (first !== undefined) response.setHeader('content-range', `bytes ${start}-${data.length - 1}/${data.length}`)
  response.writeHead(first === undefined ? 200 : 206)
  if (request.method === 'HEAD') response.end()
  else if (fault && 'cutAfter' in fault) {
    // Later, since data that a client has not read yet when the connection closes would be lost.
    response.write(data.subarray(start, start + fault.cutAfter), () => setTimeout(() => response.destroy(), 150))
  } else response.end(data.subarray(start))
}

async function readAll(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  return Buffer.concat(chunks)
}

function sha256(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex')
}

/** The result of `git hash-object`. */
export function gitId(data: Buffer): string {
  return createHash('sha1').update(`blob ${data.length}\0`).update(data).digest('hex')
}
