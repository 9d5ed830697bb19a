import { uploadModel } from '../../hub/upload.js'
import { ByteProgress } from '../byte-progress.js'
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

/** Uploads a model to the Hub; Ctrl-C ends it before there is a commit. Returns the exit code. */
export async function push({ model_path: directory, repo, message, json, ...flags }: PushFlags): Promise<number> {
  const progress = new ByteProgress('uploading')
  const upload = async (signal: AbortSignal) => {
    try {
      const options = { ...flags, message, onProgress: progress.update, signal }
      const uploaded = await uploadModel(directory, repo, options)
      progress.close()
      printResult(uploaded, json, () => `${uploaded.files.length} files uploaded: ${uploaded.url}`)
    } finally {
      progress.close()
    }
  }
  return await stoppable(upload, 'stopped; nothing was committed')
}
