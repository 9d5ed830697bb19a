import { type DownloadOptions, resolveModelPath } from '../hub/download.js'
import { parseModelName } from '../hub/settings.js'
import { withByteProgress } from './byte-progress.js'

/** The directory of a model that is given as one or by its name on the Hub, from where it is downloaded before the eyes of the user. */
export async function modelDirectory(
  modelPath: string,
  options: Pick<DownloadOptions, 'parts' | 'signal'> = {},
): Promise<string> {
  const onNote = (note: string) => void process.stderr.write(`${note}\n`)
  return await withByteProgress(`downloading ${modelPath}`, (onProgress) =>
    resolveModelPath(modelPath, { ...options, onProgress, onNote }),
  )
}

/** The `name` of `owner/name`: a model in the cache lies in a directory that is named by its commit. */
export function hubTitle(modelPath: string): string | undefined {
  return parseModelName(modelPath)?.name.split('/')[1]
}
