import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { type DownloadOptions, resolveModelPath } from '../hub/download.js'
import { parseModelName } from '../hub/settings.js'
import { listCheckpoints } from '../train/checkpoint.js'
import { withByteProgress } from './byte-progress.js'
import { printNotes } from './terminal.js'

/**
 * The directory of a model, given as a directory or by its name on the Hub; in the latter case it is downloaded with a
 * progress bar.
 */
export async function modelDirectory(
  modelPath: string,
  options: Pick<DownloadOptions, 'parts' | 'signal'> = {},
): Promise<string> {
  const onNote = (note: string) => void process.stderr.write(`${note}\n`)
  return await withByteProgress(`downloading ${modelPath}`, (onProgress) =>
    resolveModelPath(modelPath, { ...options, onProgress, onNote }),
  )
}

/**
 * The model to run in a directory: the directory itself or, for a run that has not saved a model yet, its last
 * checkpoint, which is then reported.
 */
export async function runnableDirectory(directory: string): Promise<string> {
  const names = await readdir(directory).catch((): string[] => [])
  const [last] = names.includes('config.json') ? [] : await listCheckpoints(directory)
  if (last === undefined) return directory
  printNotes([`${directory} has no saved model: its last checkpoint ${path.basename(last)} is used`])
  return last
}

/** The `name` of `owner/name`, since a cached model's directory is named by its commit. */
export function hubTitle(modelPath: string): string | undefined {
  return parseModelName(modelPath)?.name.split('/')[1]
}
