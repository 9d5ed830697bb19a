import { uploadModel } from '../../tools/upload.js'
import { withByteProgress } from '../byte-progress.js'
import { stoppable } from '../signals.js'
import { printResult } from '../terminal.js'

/** The flags of `push`, spelled as on the command line. */
export interface PushFlags {
  model_path: string
  repo: string
  private?: boolean
  revision: string
  message?: string
  json?: boolean
}

/** Uploads a model to the Hub; Ctrl-C stops it before the commit. Returns the exit code. */
export async function push({ model_path: directory, repo, message, json, ...flags }: PushFlags): Promise<number> {
  const upload = async (signal: AbortSignal) => {
    const uploaded = await withByteProgress('uploading', (onProgress) =>
      uploadModel(directory, repo, { ...flags, message, onProgress, signal }),
    )
    printResult(uploaded, json, () => `${uploaded.files.length} files uploaded: ${uploaded.url}`)
  }
  return await stoppable(upload, 'stopped; nothing was committed')
}
