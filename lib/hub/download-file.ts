import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm, stat, symlink } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { HubError } from '../errors.js'
import { findAbandoned, withStagingName } from '../io/staging.js'
import { answerError, networkReason } from './request.js'

/** A file as the Hub lists it. */
export interface HubFile {
  path: string
  size: number
  /** SHA-256 of a file in Git LFS, else the id of the Git blob (SHA-1 of `blob <size>\0` and the bytes). */
  checksum: string
}

export interface DownloadContext {
  fetch: typeof fetch
  endpoint: string
  /** `https://huggingface.co/owner/name/resolve/<commit>/` */
  baseUrl: string
  /** `…/models--owner--name` or `…/datasets--owner--name` */
  directory: string
  commit: string
  retryDelay: number
  /** Called with the number of bytes that have arrived, or were already present. */
  onBytes(count: number): void
  signal?: AbortSignal
}

/** Consecutive tries without a single byte before giving up. */
const fruitlessTries = 5

/**
 * Downloads one file into the cache in the layout of Hugging Face's tools: the bytes in `blobs/<checksum>`, and a link
 * to them in `snapshots/<commit>/`. Continues an interrupted download; the file gets its name when its checksum is
 * verified.
 */
export async function downloadToCache(file: HubFile, context: DownloadContext): Promise<void> {
  const { directory, commit } = context
  const blobs = path.join(directory, 'blobs')
  const link = path.join(directory, 'snapshots', commit, file.path)
  const blob = path.join(blobs, file.checksum)
  if ((await sizeOf(link)) === file.size) return context.onBytes(file.size) // also in a read-only cache
  await mkdir(blobs, { recursive: true })
  await mkdir(path.dirname(link), { recursive: true })
  if ((await sizeOf(blob)) === file.size) context.onBytes(file.size)
  else await downloadBlob(file, blob, context)
  await rm(link, { force: true }) // a dangling link, or a file of another size
  await symlink(path.relative(path.dirname(link), blob), link).catch((error) => {
    if (error.code !== 'EEXIST') throw error // another process made it first
  })
}

/** The size of a file, through links; undefined for a missing file. */
async function sizeOf(file: string): Promise<number | undefined> {
  return (await stat(file).catch(() => undefined))?.size
}

async function downloadBlob(file: HubFile, blob: string, context: DownloadContext): Promise<void> {
  const blobs = path.dirname(blob)
  const prefix = `${file.checksum}.incomplete`
  await withStagingName(prefix, async (name) => {
    const partial = path.join(blobs, name)
    let resumed = false
    for (const left of await findAbandoned(blobs, prefix)) {
      if (resumed) await rm(path.join(blobs, left), { force: true })
      else
        resumed = await rename(path.join(blobs, left), partial).then(
          () => true,
          () => false,
        )
    }
    let isRight = await receive(file, partial, context)
    // The rest of an earlier download may be damaged; the bytes of this one are not tried twice.
    if (!isRight && resumed) isRight = await receive(file, partial, context)
    if (!isRight) {
      throw new HubError(
        `${file.path} has a different checksum than ${context.endpoint} gives for it: download it again, or check ` +
          'what is between here and there',
      )
    }
    await rename(partial, blob)
  })
}

/**
 * Downloads the missing part of `partial`, and verifies the complete file. A broken stream is resumed.
 * @returns whether the checksum is correct; a wrong file is removed
 */
async function receive(file: HubFile, partial: string, context: DownloadContext): Promise<boolean> {
  let hash = newHash(file)
  let received = 0
  const handle = await open(partial, 'a')
  const restart = async () => {
    await handle.truncate(0)
    context.onBytes(-received)
    received = 0
    hash = newHash(file)
  }
  const add = (chunk: Uint8Array) => {
    hash.update(chunk)
    received += chunk.length
    context.onBytes(chunk.length)
  }
  try {
    const there = (await handle.stat()).size
    if (there > file.size) await restart()
    else if (there > 0) for await (const chunk of createReadStream(partial)) add(chunk)
    for (let failures = 0; received < file.size; ) {
      const before = received
      try {
        const response = await request(file, received, context)
        if (response.status !== 206) await restart()
        for await (const chunk of response.body ?? []) {
          if (received + chunk.length > file.size) throw new Error(`it has more than its ${file.size} bytes`)
          await handle.writeFile(chunk)
          add(chunk)
        }
        if (received < file.size) throw new Error(`the connection closed at ${received} of ${file.size} bytes`)
      } catch (error) {
        failures = received > before ? 0 : failures + 1
        const { code } = error as NodeJS.ErrnoException
        const isOurs =
          error instanceof HubError || context.signal?.aborted || /^(ENOSPC|EDQUOT|EROFS|EIO|EFBIG)$/.test(code ?? '')
        if (isOurs) throw error
        if (failures === fruitlessTries) {
          throw new HubError(
            `${file.path} cannot be downloaded from ${context.endpoint} (${networkReason(error)}): check the network and ` +
              'try again; the download continues where it stopped',
            { cause: error },
          )
        }
        await sleep(context.retryDelay * 2 ** failures, undefined, { signal: context.signal })
      }
    }
    await handle.sync()
  } finally {
    await handle.close()
  }
  if (hash.digest('hex') === file.checksum) return true
  context.onBytes(-received)
  await rm(partial, { force: true })
  return false
}

/** Git hashes a small file with its length in front; one in LFS is named by its plain SHA-256. */
function newHash({ checksum, size }: HubFile): Hash {
  return checksum.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`)
}

async function request(file: HubFile, from: number, context: DownloadContext): Promise<Response> {
  const url = context.baseUrl + file.path.split('/').map(encodeURIComponent).join('/')
  // Compressed bytes could be neither counted nor resumed in the middle.
  const headers: Record<string, string> = { 'accept-encoding': 'identity' }
  if (from > 0) headers.range = `bytes=${from}-`
  const response = await context.fetch(url, { headers })
  if (!response.ok) throw await answerError(response, file.path, context.endpoint)
  const [, start] = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '') ?? []
  if (response.status === 206 && Number(start) !== from) {
    await response.body?.cancel()
    throw new Error(`expected bytes from ${from}, got ${start}`)
  }
  return response
}
