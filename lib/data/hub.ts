import { DataError } from '../errors.js'
import { isDataFile } from './text-file.js'

/** A data set on the Hugging Face Hub. */
export interface HubName {
  /** `owner/name` */
  name: string
  /** Path of one file in it; undefined to look for the one there is. */
  path: string | undefined
}

/** Reads `owner/name`, or `hf://datasets/owner/name[/path/in/it.jsonl]`; undefined for what must be a local path. */
export function parseHubName(text: string): HubName | undefined {
  const [, scheme, name, path] = /^(hf:\/\/datasets\/)?([\w-][\w.-]*\/[\w-][\w.-]*)(?:\/(.+))?$/.exec(text) ?? []
  if (name === undefined) return undefined
  if (scheme === undefined && (path !== undefined || isDataFile(name))) return undefined
  return { name, path }
}

export interface DownloadOptions {
  hubUrl: string
  accessToken?: string
  onDownload?: (received: number, total: number) => void
  signal?: AbortSignal
}

/**
 * Downloads the data file of a data set from the Hub.
 *
 * @returns its bytes, and its name for errors (`databricks/databricks-dolly-15k/databricks-dolly-15k.jsonl`)
 * @throws DataError when the Hub, the data set or its file cannot be had
 */
export async function downloadDataset(
  { name, path }: HubName,
  { hubUrl, accessToken, onDownload, signal }: DownloadOptions,
): Promise<{ bytes: Uint8Array; name: string }> {
  // Loaded when needed: no other command has to wait for it.
  const { downloadFile, listFiles } = await import('@huggingface/hub')
  const abortable: typeof fetch = (url, init) => fetch(url, { ...init, signal })
  const request = {
    repo: { type: 'dataset', name },
    fetch: abortable,
    hubUrl,
    ...(accessToken && { accessToken }),
  } as const
  try {
    const chosen = path ?? chooseFile(name, await collect(listFiles({ ...request, recursive: true })))
    const file = await downloadFile({ ...request, path: chosen })
    if (file === null) throw new DataError(`${name} on ${hubUrl} has no file ${chosen}`)
    const chunks: Uint8Array[] = []
    let received = 0
    for await (const chunk of file.stream() as unknown as AsyncIterable<Uint8Array>) {
      chunks.push(chunk)
      received += chunk.length
      onDownload?.(received, file.size)
    }
    if (received !== file.size) throw new Error(`the download stopped at ${received} of ${file.size} bytes`)
    return { bytes: Buffer.concat(chunks), name: `${name}/${chosen}` }
  } catch (cause) {
    signal?.throwIfAborted()
    throw cause instanceof DataError ? cause : explain(cause, name, hubUrl)
  }
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

function chooseFile(name: string, files: { type: string; path: string }[]): string {
  const isData = (path: string): boolean => isDataFile(path) && !/(^|\/)dataset_infos?\.json$/.test(path)
  const data = files.filter(({ type, path }) => type === 'file' && isData(path)).map(({ path }) => path)
  const stem = name.split('/')[1]
  const namesake = data.filter((path) => path.replace(/\.\w+(\.gz)?$/, '') === stem)
  if (data.length === 1 || namesake.length === 1) return namesake[0] ?? data[0]
  if (data.length === 0)
    throw new DataError(`${name} has no file of JSON, JSON lines, or CSV: download it and convert it to one`)
  const shown = data.slice(0, 5).join(', ') + (data.length > 5 ? ', …' : '')
  throw new DataError(`${name} has several data files (${shown}): name one as hf://datasets/${name}/${data[0]}`)
}

function explain(cause: unknown, name: string, hubUrl: string): DataError {
  const status = (cause as { statusCode?: number }).statusCode
  if (status === 401 || status === 403 || status === 404) {
    return new DataError(
      `${name} is not a data set on ${hubUrl} that you may read: check the name, or set HF_TOKEN if it is private`,
      { cause },
    )
  }
  // fetch says no more than "fetch failed"; its cause has the reason. A stream of the Hub client rejects with a string.
  const reason = cause instanceof Error ? ((cause.cause as Error | undefined)?.message ?? cause.message) : String(cause)
  return new DataError(
    `${name} cannot be downloaded from ${hubUrl} (${reason}): check the network, or download the file and name its path`,
    { cause },
  )
}
