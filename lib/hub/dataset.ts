/** Data sets on the Hub: downloads one file of each into the cache that also holds models. */
import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { DataError, HubError } from '../errors.js'
import { downloadAll, fromHub, type RepositoryOptions } from './repository.js'
import { type HubModel, hubSettings, nameInUrl } from './settings.js'

/** A data set on the Hub, or one file of it. */
export interface HubDataset extends HubModel {
  /** The file's path in the repository; undefined to use the only data file. */
  path: string | undefined
}

/**
 * Parses `owner/name[@revision]`, or `hf://datasets/owner/name[@revision][/path/in/it.jsonl]`; undefined for a text
 * that must be a path.
 */
export function parseDatasetName(text: string): HubDataset | undefined {
  const [, scheme, name, revision = 'main', file] =
    /^(hf:\/\/datasets\/)?([\w-][\w.-]*\/[\w-][\w.-]*?)(?:@([\w.-]+))?(?:\/(.+))?$/.exec(text) ?? []
  if (name === undefined || /\.\.|--/.test(name) || revision.includes('..')) return undefined
  if (scheme === undefined && (file !== undefined || isDataFile(name))) return undefined
  return { name, revision, path: file }
}

/** Whether a name is that of a readable data file, optionally with gzip. */
export function isDataFile(name: string): boolean {
  return /\.(json|jsonl|ndjson|csv|tsv)(\.gz)?$/i.test(name)
}

/** Options of a data set download. */
export interface DatasetOptions extends RepositoryOptions {
  /** Bytes received, and total bytes of the file. */
  onProgress?: (received: number, total: number) => void
}

/** A file of data. */
export interface DatasetFile {
  /** Its path on this machine. */
  path: string
  /** Its name in errors, such as `databricks/databricks-dolly-15k/databricks-dolly-15k.jsonl`. */
  name: string
}

/** Resolves a path or a name on the Hub to a file; see `parseDatasetName`. */
export async function resolveDatasetPath(text: string, options: DatasetOptions = {}): Promise<DatasetFile> {
  const isThere = await stat(text).then(
    () => true,
    (error) => !['ENOENT', 'ENOTDIR'].includes(error.code), // the reader reports why it cannot be read
  )
  if (isThere) return { path: text, name: text }
  const dataset = parseDatasetName(text)
  if (dataset) return await downloadDataset(dataset, options)
  const address = nameInUrl(text, options.endpoint ?? hubSettings().endpoint)
  if (address && /^\w+:\/\/|^(www\.)?(hf|huggingface)\.co\//i.test(text)) {
    throw new HubError(
      address.kind === 'datasets'
        ? `${text} is the address of a page; expected a file or a name on the Hub: use ${address.name}`
        : `${text} is a model on the Hub; expected a file or the name of a data set`,
    )
  }
  return { path: text, name: text }
}

/**
 * Downloads a file of a data set into the cache shared by Hugging Face's tools, or finds it there.
 * @throws {DataError} for a data set without a data file, or with more than one to choose from
 * @throws {HubError} as `fromHub` does
 */
export async function downloadDataset(dataset: HubDataset, options: DatasetOptions = {}): Promise<DatasetFile> {
  const { name } = dataset
  const named = (file: string, snapshot: string) => ({ path: path.join(snapshot, file), name: `${name}/${file}` })
  return await fromHub({ kind: 'datasets', ...dataset }, options, {
    cached: async (snapshot) => {
      const there: string[] = await readdir(snapshot, { recursive: true }).catch(() => [])
      const chosen = dataset.path ?? soleFile(name, there)
      return chosen !== undefined && there.includes(chosen) ? named(chosen, snapshot) : undefined
    },
    download: async ({ files, snapshot, context }) => {
      const chosen = dataset.path ?? chooseFile(name, [...files.keys()])
      const file = files.get(chosen)
      const leavesCache = chosen.startsWith('/') || chosen.split('/').some((part) => /^\.{0,2}$/.test(part))
      if (!file || leavesCache)
        throw new HubError(`${name} on ${context.endpoint} has no file ${chosen}: check the path`)
      let received = 0
      const onBytes = (count: number) => {
        received += count
        options.onProgress?.(received, file.size)
      }
      await downloadAll([file], { ...context, onBytes })
      return named(chosen, snapshot)
    },
  })
}

const isChoice = (file: string) => isDataFile(file) && !/(^|\/)dataset_infos?\.json$/.test(file)

/** The only data file, or the obvious one, among those of a data set. */
function soleFile(name: string, files: readonly string[]): string | undefined {
  const data = files.filter(isChoice)
  if (data.length === 1) return data[0]
  const namesakes = data.filter((file) => file.replace(/\.\w+(\.gz)?$/, '') === name.split('/')[1])
  return namesakes.length === 1 ? namesakes[0] : undefined
}

function chooseFile(name: string, files: readonly string[]): string {
  const sole = soleFile(name, files)
  if (sole !== undefined) return sole
  const data = files.filter(isChoice)
  if (data.length === 0)
    throw new DataError(`${name} has no file of JSON, JSON lines, or CSV: download it and convert it to one`)
  const shown = data.slice(0, 5).join(', ') + (data.length > 5 ? ', …' : '')
  throw new DataError(`${name} has several data files (${shown}): name one as hf://datasets/${name}/${data[0]}`)
}
